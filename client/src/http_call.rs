//! One request and its answer: deadline, bounds, Retry-After, errors.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::client::Body;
use wharf_core::api::ApiError;
use wharf_core::clock::Clock;
use wharf_core::runtime::BoxError;

/// Longest wait for the answer to one request; a watch has begun by then. The server's own limit is 60 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
/// Most bytes of one page of a list, or of a list that the server does not give in pages: 32,000 objects of 4 KiB, the size of a usual pod.
pub const MAX_ANSWER: usize = 128 << 20;
/// Most bytes of one object, alone or in an event of a watch. Kubernetes takes 3 MiB and etcd 1.5 MiB of one; as JSON, where a byte may
/// become six (`\u0000`), it is more.
pub const MAX_OBJECT: usize = 16 << 20;
/// How often a request is sent that the server refuses with 429 and Retry-After.
pub const MAX_ATTEMPTS: u32 = 5;
/// Longest Retry-After that is waited for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
    #[error("the answer is not what Kubernetes would say: {0}")]
    Malformed(String),
    #[error("the watch said nothing for {0:?}, not even a bookmark")]
    Silent(Duration),
}

impl From<Broken> for ApiError {
    fn from(broken: Broken) -> Self {
        Self::Transport(Box::new(broken))
    }
}

pub(crate) fn malformed(what: impl Into<String>) -> ApiError {
    Broken::Malformed(what.into()).into()
}

pub(crate) fn is_too_large(error: &ApiError) -> bool {
    matches!(error, ApiError::Transport(source) if matches!(source.downcast_ref(), Some(Broken::TooLarge(_))))
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
    /// Most bytes of the answer.
    pub(crate) most: usize,
    /// Whether a 429 is told at once: an eviction's is an answer, not a wish to be asked again.
    pub(crate) refusal_is_final: bool,
}

impl Call {
    pub(crate) fn get(uri: String, most: usize) -> Self {
        Self { method: Method::GET, uri, content_type: "", body: Bytes::new(), most, refusal_is_final: false }
    }
}

/// Ends `work` after a while, for the reason given.
pub(crate) async fn within<T>(
    clock: &Arc<dyn Clock>,
    bound: Duration,
    otherwise: fn(Duration) -> Broken,
    work: impl Future<Output = Result<T, ApiError>> + Send,
) -> Result<T, ApiError> {
    match select(Box::pin(work), clock.sleep(bound)).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(otherwise(bound).into()),
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

async fn read_all(clock: &Arc<dyn Clock>, body: Body, most: usize) -> Result<Bytes, ApiError> {
    within(clock, REQUEST_TIMEOUT, Broken::Timeout, async {
        match Limited::new(body, most).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Broken::TooLarge(most).into()),
            Err(error) => Err(transport(error)),
        }
    })
    .await
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
        let response = within(clock, REQUEST_TIMEOUT, Broken::Timeout, async { client.send(request).await.map_err(transport) }).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        // A 429 tells that nothing was done, so that a write may be sent again too.
        let wait = retry_after(&response).filter(|_| code == StatusCode::TOO_MANY_REQUESTS && !call.refusal_is_final);
        let body = read_all(clock, response.into_body(), MAX_OBJECT).await?;
        match wait {
            Some(wait) if attempt < MAX_ATTEMPTS => clock.sleep(wait + wait.mul_f64(rand::random::<f64>() * 0.2)).await,
            _ => return Err(refusal(code, &body)),
        }
        attempt += 1;
    }
}

pub(crate) async fn answer(client: &kube::Client, clock: &Arc<dyn Clock>, call: &Call) -> Result<Bytes, ApiError> {
    let response = open(client, clock, call).await?;
    read_all(clock, response.into_body(), call.most).await
}
