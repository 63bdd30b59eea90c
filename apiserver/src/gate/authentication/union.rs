//! Several authenticators, asked in turn.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;

use super::{AuthError, Authenticator};
use crate::request::User;

/// Asks each authenticator in turn. The first that knows the credentials decides, in good and in bad: bad
/// credentials never fall through to a later one, and credentials that nobody knows are bad.
#[derive(Debug, Clone)]
pub struct Union(Vec<Arc<dyn Authenticator>>);

impl Union {
    /// In this order.
    pub fn new(members: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(members)
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, request: &Parts) -> Result<Option<User>, AuthError> {
        for member in &self.0 {
            if let Some(user) = member.authenticate(request).await? {
                return Ok(Some(user));
            }
        }
        if request.headers.contains_key(http::header::AUTHORIZATION) {
            return Err(AuthError::Token("nobody knows it"));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::authentication::{Anonymous, StaticTokens};

    async fn ask(uri: &str, token: Option<&str>) -> Result<Option<User>, AuthError> {
        let tokens = StaticTokens::new([("good", User::new("jane", ["dev"]))]);
        let union = Union::new(vec![Arc::new(tokens), Arc::new(Anonymous)]);
        let mut request = http::Request::get(uri);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        union.authenticate(&request.body(()).unwrap().into_parts().0).await
    }

    #[tokio::test]
    async fn bad_credentials_never_become_anonymous() {
        assert_eq!(ask("/api", Some("Bearer good")).await.unwrap().unwrap().name, "jane");
        assert!(ask("/healthz", Some("Bearer bad")).await.is_err());
        assert!(ask("/healthz", Some("Basic good")).await.is_err());
        assert_eq!(ask("/healthz", None).await.unwrap().unwrap().name, "system:anonymous");
        assert_eq!(ask("/api", None).await.unwrap(), None);
    }
}
