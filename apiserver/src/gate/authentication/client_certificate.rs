//! Client certificates: the common name is the user, organizations are the groups.

use async_trait::async_trait;
use http::request::Parts;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AuthError, Authenticator, PeerCertificates, authenticated};
use crate::request::User;

/// Reads the user from the leaf certificate. That it is signed by the cluster's CA, in date and for client
/// authentication has been checked in the TLS handshake.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientCertificates;

/// The user that a certificate names.
///
/// # Errors
/// When it does not parse, or has no common name.
pub fn user_of(der: &[u8]) -> Result<User, AuthError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| AuthError::Certificate("it does not parse"))?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).filter(|name| !name.is_empty());
    let name = name.ok_or(AuthError::Certificate("it has no common name"))?;
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
    Ok(authenticated(User::new(name, groups)))
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, request: &Parts) -> Result<Option<User>, AuthError> {
        let Some(peer) = request.extensions.get::<PeerCertificates>() else { return Ok(None) };
        if let Some(known) = peer.user.get() {
            return Ok(Some(known.clone()));
        }
        let Some(leaf) = peer.chain.first() else { return Ok(None) };
        let user = user_of(leaf)?;
        Ok(Some(peer.user.get_or_init(|| user).clone()))
    }
}
