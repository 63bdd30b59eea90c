//! Bodies of responses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Serialize;
use wharf_core::api::ApiError;
use wharf_core::runtime::BoxError;

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of nothing.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A response of a type and these bytes.
pub fn typed(code: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text, as health endpoints answer.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", text)
}

/// A value as JSON.
pub fn json(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => typed(code, "application/json", bytes),
        Err(error) => status(&failure(500, "InternalError", format!("Internal error occurred: {error}"))),
    }
}

/// A failure in Kubernetes' words.
pub fn failure(code: i32, reason: &str, message: impl Into<String>) -> Status {
    Status {
        status: Some("Failure".into()),
        code: Some(code),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Status::default()
    }
}

/// A Status as the response that it describes.
pub fn status(status: &Status) -> Response<Body> {
    let code = status.code.and_then(|c| u16::try_from(c).ok()).and_then(|c| StatusCode::from_u16(c).ok());
    json(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status)
}

/// The Status that an error of the API is answered with.
pub fn status_of(error: ApiError) -> Status {
    match error {
        ApiError::Status(status) => *status,
        other => failure(500, "InternalError", format!("Internal error occurred: {other}")),
    }
}
