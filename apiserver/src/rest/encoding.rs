//! How answers travel: indented for people, compressed where they are large.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use serde_json::Value;
use wharf_core::runtime::BoxError;

use super::params::Params;
use crate::request::RequestInfo;
use crate::server::body::{Body, full};

/// Answers that are smaller are not compressed, in bytes; Kubernetes' own.
pub const GZIP_THRESHOLD: usize = 128 << 10;
/// Little work for most of the gain; Kubernetes' own.
const LEVEL: u32 = 1;
/// Programs of people: what they ask for is indented unless they say otherwise.
const PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// Whether an answer is to be indented.
fn is_pretty(params: &Params, headers: &HeaderMap) -> bool {
    if params.has("pretty") {
        return matches!(params.get("pretty"), "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    PEOPLE.iter().any(|name| agent.starts_with(name))
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|token| token.trim() == "gzip")
}

/// What is to be done with an answer, decided from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pretty: bool,
    gzip: bool,
}

impl Encoding {
    pub(super) fn of(request: &Request<Bytes>, info: &RequestInfo) -> Self {
        let streams = info.verb == "watch";
        Self {
            pretty: !streams && is_pretty(&Params::of(request.uri()), request.headers()),
            gzip: matches!(info.verb.as_str(), "get" | "list") && takes_gzip(request.headers()),
        }
    }

    pub(super) async fn apply(self, response: Response<Body>) -> Response<Body> {
        let response = if self.pretty { indent(response).await } else { response };
        if self.gzip && response.status() == StatusCode::OK { compress(response).await } else { response }
    }
}

async fn indent(response: Response<Body>) -> Response<Body> {
    if response.headers().get(header::CONTENT_TYPE).is_none_or(|t| !t.as_bytes().starts_with(b"application/json")) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else { return Response::from_parts(parts, full(Bytes::new())) };
    let bytes = collected.to_bytes();
    let indented = serde_json::from_slice::<Value>(&bytes).ok().and_then(|value| serde_json::to_vec_pretty(&value).ok());
    Response::from_parts(parts, full(indented.map_or(bytes, Bytes::from)))
}

async fn compress(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if response.body().size_hint().upper().is_some_and(|most| most < GZIP_THRESHOLD as u64) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let mut pieces = BodyStream::new(body).filter_map(|frame| async { frame.map(|f| f.into_data().ok()).transpose() }).boxed();
    let (mut first, mut size) = (Vec::new(), 0);
    // Only so much is held back as tells whether it is worth it.
    while size < GZIP_THRESHOLD {
        match pieces.next().await {
            Some(Ok(piece)) => {
                size += piece.len();
                first.push(Ok(piece));
            }
            Some(Err(error)) => {
                first.push(Err(error));
                break;
            }
            None => break,
        }
    }
    let whole = stream::iter(first).chain(pieces);
    if size < GZIP_THRESHOLD {
        return Response::from_parts(parts, StreamBody::new(whole.map(|piece| piece.map(Frame::data))).boxed_unsync());
    }
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, StreamBody::new(gzip(whole).map(|piece| piece.map(Frame::data))).boxed_unsync())
}

fn gzip(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    stream::unfold((pieces.boxed(), Some(encoder)), |(mut pieces, encoder)| async move {
        let mut encoder = encoder?;
        loop {
            match pieces.next().await {
                Some(Ok(piece)) => {
                    if let Err(error) = encoder.write_all(&piece) {
                        return Some((Err(error.into()), (pieces, None)));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    if !out.is_empty() {
                        return Some((Ok(Bytes::from(out)), (pieces, Some(encoder))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), (pieces, None))),
                None => return Some((encoder.finish().map(Bytes::from).map_err(Into::into), (pieces, None))),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn large_answers_are_compressed_in_pieces() {
        let text: String = (0..60_000).map(|n| format!("{n},")).collect();
        let pieces: Vec<Result<Bytes, BoxError>> = text.as_bytes().chunks(10_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let body = StreamBody::new(stream::iter(pieces).map(|p| p.map(Frame::data))).boxed_unsync();
        let response = compress(Response::new(body)).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() < text.len() / 2);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut back).unwrap();
        assert!(back == text);
        let small = compress(Response::new(full("small"))).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "small");
    }
}
