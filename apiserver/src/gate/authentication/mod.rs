//! Who asks: the [`Authenticator`] trait and its implementations.

pub mod anonymous;
pub mod client_certificate;
pub mod service_account;
pub mod static_token;
pub mod union;

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use http::request::Parts;
use rustls_pki_types::CertificateDer;

use crate::request::User;

pub use anonymous::Anonymous;
pub use client_certificate::ClientCertificates;
pub use service_account::{ServiceAccountTokens, TokenKey};
pub use static_token::StaticTokens;
pub use union::Union;

/// Group of everyone with credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone without.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Longest bearer token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// The certificates of the TLS client, leaf first, already verified against the cluster's CA. An extension
/// of the request, set by the TLS listener alone.
#[derive(Debug, Clone)]
pub struct PeerCertificates {
    chain: Arc<[CertificateDer<'static>]>,
    /// Whom the leaf names: read once a connection, not once a request.
    user: Arc<OnceLock<User>>,
}

impl PeerCertificates {
    /// A chain, leaf first.
    pub fn new(chain: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        Self { chain: chain.into_iter().collect(), user: Arc::default() }
    }
    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

/// Credentials that were given and are not good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The client certificate names nobody.
    #[error("invalid client certificate: {0}")]
    Certificate(&'static str),
    /// The token is malformed, forged, expired or meant for somebody else.
    #[error("invalid bearer token: {0}")]
    Token(&'static str),
    /// What the token is bound to could not be read.
    #[error("the token could not be checked: {0}")]
    Unavailable(#[source] wharf_core::api::ApiError),
}

/// Tells who sent a request.
///
/// # Contract
/// `Ok(Some)`: these credentials are good. `Ok(None)`: there are none of this kind; ask the next. `Err`: there are
/// some and they are bad, or cannot be checked: the request is refused, never taken as anonymous.
///
/// # Cancellation
/// Has no effect.
///
/// # Errors
/// [`AuthError`]; the client sees 401 and no detail.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Compare secrets in constant time, keep them hashed, never log them.
#[async_trait]
pub trait Authenticator: Send + Sync + fmt::Debug + 'static {
    /// Who sent this request.
    async fn authenticate(&self, request: &Parts) -> Result<Option<User>, AuthError>;
}

/// The bearer token of a request. A header that is there but is no bearer token is `None`.
pub fn bearer_token(request: &Parts) -> Option<&str> {
    let value = request.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN).then_some(token)
}

/// Adds the group of everyone with credentials.
pub(crate) fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|g| g == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}
