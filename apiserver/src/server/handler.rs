//! What serves resource requests once they have passed the gate.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};

use super::Body;
use crate::request::{RequestInfo, User};

/// Serves the resources of the API, discovery and whatever else the server does not serve itself.
///
/// # Contract
/// `handle` gets requests that are authenticated and authorized and whose body, at most
/// [`MAX_BODY`](super::MAX_BODY) bytes, has been read. Errors are answered as a Status.
///
/// # Cancellation
/// A dropped read has no effect; a dropped write may or may not have taken place.
///
/// # Errors
/// None: a failure is a response.
///
/// # Panics
/// Never on input. A panic is answered with 500 and does not end the connection.
///
/// # Implementing
/// Return early with a streaming body for a watch: it is not bounded by the request timeout, but its head is.
#[async_trait]
pub trait Handler: Send + Sync + fmt::Debug + 'static {
    /// Carries a request out.
    async fn handle(&self, user: &Arc<User>, info: &RequestInfo, request: Request<Bytes>) -> Response<Body>;
}
