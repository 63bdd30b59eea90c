//! What a request passes before it is carried out: authentication, authorization, admission. Each is a
//! trait of its own; none knows the others.

pub mod admission;
pub mod authentication;
pub mod authorization;
pub mod impersonation;
pub mod late;
pub mod reviews;
pub mod token_request;

pub use authentication::{AuthError, Authenticator, PeerCertificates};
pub use authorization::{Authorizer, Decision, forbidden};
pub use reviews::GateReviews;
