//! One request and its answer: deadline, bounds, Retry-After, errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::client::Body;
use wharf_core::api::ApiError;
use wharf_core::clock::Clock;
use wharf_core::runtime::BoxError;

/// Longest wait for the answer to one request; a watch has begun by then. The server's own limit is 60 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
/// Most bytes of one answer: a page of a list, at most.
pub const MAX_ANSWER: usize = 1 << 30;
/// How often a request is sent that the server refuses with 429 and Retry-After.
pub const MAX_ATTEMPTS: u32 = 5;
/// Longest Retry-After that is waited for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer is not what Kubernetes would say: {0}")]
    Malformed(String),
}

pub(crate) fn malformed(what: impl Into<String>) -> ApiError {
    ApiError::Transport(Box::new(Broken::Malformed(what.into())))
}

pub(crate) fn transport(error: impl Into<BoxError>) -> ApiError {
    ApiError::Transport(error.into())
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
    /// Whether a 429 is told at once: an eviction's is an answer, not a wish to be asked again.
    pub(crate) refusal_is_final: bool,
}

impl Call {
    pub(crate) fn get(uri: String) -> Self {
        Self { method: Method::GET, uri, content_type: "", body: Bytes::new(), refusal_is_final: false }
    }
}

async fn within<T>(clock: &Arc<dyn Clock>, work: impl Future<Output = Result<T, ApiError>> + Send) -> Result<T, ApiError> {
    match select(Box::pin(work), clock.sleep(REQUEST_TIMEOUT)).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(ApiError::Transport(Box::new(Broken::Timeout(REQUEST_TIMEOUT)))),
    }
}

/// The server's Status, or one made of what a proxy in between said.
fn refusal(code: StatusCode, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Status>(body) {
        Ok(mut status) if status.code.is_some() || status.reason.is_some() => {
            // The envelope of the HTTP answer, not a part of what was said.
            status.metadata = Default::default();
            status.code.get_or_insert(i32::from(code.as_u16()));
            ApiError::Status(Box::new(status))
        }
        _ => {
            // As Kubernetes' NewGenericServerResponse names them.
            let reason = match code.as_u16() {
                400 => "BadRequest",
                401 => "Unauthorized",
                403 => "Forbidden",
                404 => "NotFound",
                405 => "MethodNotAllowed",
                406 => "NotAcceptable",
                409 => "Conflict",
                410 => "Gone",
                413 => "RequestEntityTooLarge",
                415 => "UnsupportedMediaType",
                422 => "Invalid",
                429 => "TooManyRequests",
                500 => "InternalError",
                503 => "ServiceUnavailable",
                504 => "Timeout",
                _ => "Unknown",
            };
            let said: String = String::from_utf8_lossy(body).chars().take(1024).collect();
            ApiError::status(i32::from(code.as_u16()), reason, said)
        }
    }
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

async fn read_all(body: Body) -> Result<Bytes, ApiError> {
    Ok(Limited::new(body, MAX_ANSWER).collect().await.map_err(transport)?.to_bytes())
}

/// Sends until there is an answer that is no request to come again.
pub(crate) async fn open(client: &kube::Client, clock: &Arc<dyn Clock>, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut attempt = 1;
    loop {
        let mut request = Request::builder().method(call.method.clone()).uri(&call.uri).header(header::ACCEPT, "application/json");
        if !call.content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, call.content_type);
        }
        let request = request.body(Body::from(call.body.to_vec())).map_err(|e| ApiError::Encode(Box::new(e)))?;
        let response = within(clock, async { client.send(request).await.map_err(transport) }).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        // A 429 tells that nothing was done, so that a write may be sent again too.
        let wait = retry_after(&response).filter(|_| code == StatusCode::TOO_MANY_REQUESTS && !call.refusal_is_final);
        let body = within(clock, read_all(response.into_body())).await?;
        match wait {
            Some(wait) if attempt < MAX_ATTEMPTS => clock.sleep(wait + wait.mul_f64(rand::random::<f64>() * 0.2)).await,
            _ => return Err(refusal(code, &body)),
        }
        attempt += 1;
    }
}

pub(crate) async fn answer(client: &kube::Client, clock: &Arc<dyn Clock>, call: &Call) -> Result<Bytes, ApiError> {
    let response = open(client, clock, call).await?;
    within(clock, read_all(response.into_body())).await
}
