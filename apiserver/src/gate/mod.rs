//! What a request passes before it is carried out: authentication, authorization, admission. Each is a
//! trait of its own; none knows the others.

pub mod authentication;
pub mod authorization;
pub mod impersonation;

pub use authentication::{AuthError, Authenticator, PeerCertificates};
pub use authorization::{Authorizer, Decision, forbidden};
