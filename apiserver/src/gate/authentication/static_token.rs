//! Bearer tokens known from the start.

use async_trait::async_trait;
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{AuthError, Authenticator, authenticated, bearer_token};
use crate::request::User;

/// Tokens given when the server was built. Only their SHA-256 is kept.
#[derive(Clone, Default)]
pub struct StaticTokens(Vec<([u8; 32], User)>);

impl std::fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, user)| &user.name)).finish()
    }
}

impl StaticTokens {
    /// Tokens and whose they are.
    pub fn new(tokens: impl IntoIterator<Item = (impl AsRef<str>, User)>) -> Self {
        Self(tokens.into_iter().map(|(token, user)| (Sha256::digest(token.as_ref()).into(), authenticated(user))).collect())
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<User>, AuthError> {
        let Some(token) = bearer_token(request) else { return Ok(None) };
        let hash: [u8; 32] = Sha256::digest(token).into();
        // Every entry is compared, so that the time tells nothing.
        let mut found = None;
        for (known, user) in &self.0 {
            if bool::from(known.ct_eq(&hash)) {
                found = Some(user);
            }
        }
        Ok(found.cloned())
    }
}
