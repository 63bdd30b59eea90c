//! Requests without credentials, for the few paths that need none.

use async_trait::async_trait;
use http::request::Parts;

use super::{AuthError, Authenticator, PeerCertificates, UNAUTHENTICATED};
use crate::request::User;

/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Paths, and everything below them, that are served without credentials.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Takes requests without any credentials as `system:anonymous`, on health and version paths only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(&self, request: &Parts) -> Result<Option<User>, AuthError> {
        let credentials =
            request.headers.contains_key(http::header::AUTHORIZATION) || request.extensions.get::<PeerCertificates>().is_some();
        let path = request.uri.path();
        let open = OPEN.iter().any(|open| path.strip_prefix(open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        Ok((open && !credentials).then(|| User::new(ANONYMOUS, [UNAUTHENTICATED])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(uri: &str) -> Option<User> {
        let (parts, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
        Anonymous.authenticate(&parts).await.unwrap()
    }

    #[tokio::test]
    async fn only_health_and_version_are_open() {
        for open in ["/healthz", "/readyz?verbose", "/livez/ping", "/version"] {
            assert_eq!(ask(open).await.unwrap().name, ANONYMOUS, "{open}");
        }
        for closed in ["/", "/api", "/healthzz", "/metrics", "/api/v1/pods", "/versions"] {
            assert_eq!(ask(closed).await, None, "{closed}");
        }
    }
}
