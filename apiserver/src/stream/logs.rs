//! `pods/log`.

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use wharf_core::node::LogOptions;
use wharf_core::runtime::BoxError;

use super::{Asked, PodStreams, Query, container};
use crate::server::Body;
use crate::server::body::{failure, status_of, text};

fn invalid(pod: &str, field: &str, value: &str, why: &str) -> Box<Status> {
    let detail = format!("Invalid value: {value}: {why}");
    let mut status = failure(422, "Invalid", format!("PodLogOptions.v1 {pod:?} is invalid: {field}: {detail}"));
    let cause = StatusCause { field: Some(field.into()), reason: Some("FieldValueInvalid".into()), message: Some(detail) };
    status.details = Some(StatusDetails {
        name: Some(pod.into()),
        kind: Some("PodLogOptions".into()),
        causes: Some(vec![cause]),
        ..StatusDetails::default()
    });
    Box::new(status)
}

fn options(pod: &str, query: &Query) -> Result<LogOptions, Box<Status>> {
    let at_least = |name: &'static str, least: i64| -> Result<Option<i64>, Box<Status>> {
        match query.number(name)? {
            Some(n) if n < least => Err(invalid(pod, name, &n.to_string(), &format!("must be greater than or equal to {least}"))),
            number => Ok(number),
        }
    };
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(at) => Some(at.parse().map_err(|_| super::bad_request(format!("sinceTime must be a time as in RFC 3339, not {at:?}")))?),
    };
    let options = LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        since_seconds: at_least("sinceSeconds", 1)?,
        since_time,
        timestamps: query.flag("timestamps"),
        tail_lines: at_least("tailLines", 0)?.and_then(|n| u64::try_from(n).ok()),
        limit_bytes: at_least("limitBytes", 1)?.and_then(|n| u64::try_from(n).ok()),
        stream: query.get("stream").filter(|s| *s != "All").map(str::to_owned),
    };
    if options.since_seconds.is_some() && options.since_time.is_some() {
        return Err(invalid(pod, "sinceSeconds", "", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if let Some(stream) = options.stream.as_deref().filter(|s| !matches!(*s, "Stdout" | "Stderr")) {
        return Err(invalid(pod, "stream", &format!("{stream:?}"), "supported values: \"All\", \"Stdout\", \"Stderr\""));
    }
    Ok(options)
}

/// Cuts a stream after so many bytes, whatever the node sends.
fn limited(limit: Option<u64>) -> impl FnMut(Bytes) -> Option<Bytes> {
    let mut left = limit.unwrap_or(u64::MAX);
    move |mut chunk| {
        if left == 0 {
            return None;
        }
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= chunk.len() as u64;
        Some(chunk)
    }
}

pub(super) async fn serve(streams: &PodStreams, asked: &Asked) -> Result<Response<Body>, Box<Status>> {
    let options = options(&asked.object.name, &asked.query)?;
    let container = container::choose(&asked.pod, asked.query.get("container"))?;
    if asked.node.is_empty() {
        // Nothing has run yet, so that nothing was logged.
        return Ok(text(StatusCode::OK, ""));
    }
    let lines = streams.nodes.logs(&asked.node, &asked.object, &asked.uid, &container, &options).await;
    let lines = lines.map_err(|e| Box::new(status_of(e)))?;
    let mut cut = limited(options.limit_bytes);
    let stop = streams.stop.clone();
    let frames = lines
        .map(move |chunk| match chunk {
            Ok(chunk) => cut(chunk).map(|chunk| Ok(Frame::data(chunk))),
            Err(error) => Some(Err(BoxError::from(error))),
        })
        .take_while(|frame| std::future::ready(frame.is_some()))
        .filter_map(std::future::ready)
        .take_until(stop.cancelled_owned());
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let query = |text: &str| Query(crate::rest::path::query_pairs(&format!("/?{text}").parse().unwrap()));
        let good = options("p", &query("follow=true&tailLines=0&sinceSeconds=5&timestamps=1&previous=false")).unwrap();
        assert_eq!(
            (good.follow, good.tail_lines, good.since_seconds, good.timestamps, good.previous),
            (true, Some(0), Some(5), true, false)
        );
        for bad in ["tailLines=-1", "sinceSeconds=0", "limitBytes=0", "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "stream=Other"] {
            assert_eq!(options("p", &query(bad)).unwrap_err().code, Some(422), "{bad}");
        }
        assert_eq!(options("p", &query("tailLines=x")).unwrap_err().code, Some(400));
    }

    #[test]
    fn the_limit_cuts_inside_a_chunk() {
        let mut cut = limited(Some(5));
        assert_eq!(cut("abc".into()).unwrap(), "abc");
        assert_eq!(cut("def".into()).unwrap(), "de");
        assert_eq!(cut("g".into()), None);
    }
}
