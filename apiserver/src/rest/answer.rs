//! Answers as they are sent: objects, lists, statuses and errors, in the form that was asked for.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::Object;
use wharf_core::runtime::BoxError;

use super::form::{Form, Media, Offer, Shape, negotiate};
use super::params::Params;
use super::read::ListAnswer;
use super::{parse_stored, protobuf, status};
use crate::resources::Resource;
use crate::resources::value::{as_map, text};
use crate::server::body::{Body, typed};
use crate::table::{self, Include};

/// About how many bytes of a list are handed over at once.
pub(super) const LIST_CHUNK: usize = 64 << 10;
pub(super) const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// A body that comes in pieces.
pub(super) fn stream_body(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// Says things to people, in headers.
pub(super) fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// A value that tells its kind: a review, a Scale, a Status. One that has no protobuf is told in JSON.
pub(super) fn value(media: Media, code: StatusCode, value: &Value) -> Result<Response<Body>, ApiError> {
    match media {
        Media::Yaml => Ok(typed(code, YAML, serde_yaml_ng::to_string(value).map_err(status::internal)?)),
        Media::Protobuf => match protobuf::value(text(value, &["apiVersion"]), text(value, &["kind"]), value)? {
            Some(sealed) => Ok(typed(code, wharf_schema::protobuf::MEDIA_TYPE, sealed)),
            None => Ok(typed(code, JSON, value.to_string())),
        },
        Media::Json => Ok(typed(code, JSON, value.to_string())),
    }
}

/// The answer that tells of an error.
pub(crate) fn refusal(found: &Status, accept: &str) -> Response<Body> {
    let code = found.code.and_then(|c| u16::try_from(c).ok()).and_then(|c| StatusCode::from_u16(c).ok());
    let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media = negotiate(accept, Offer { binary: true, stream: false }).map_or(Media::Json, |form| form.media);
    let mut response = match media {
        Media::Json => typed(code, JSON, status::render(found)),
        media => value(media, code, &status::to_value(found)).unwrap_or_else(|_| typed(code, JSON, status::render(found))),
    };
    if let Some(seconds) = found.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What a delete answers that leaves nothing to show.
pub(super) fn success(row: &Resource, object: &Object) -> Value {
    let mut details = json!({"name": &*object.key().name, "kind": row.plural});
    if !row.group.is_empty() {
        as_map(&mut details).insert("group".into(), row.group.as_ref().into());
    }
    if let Some(uid) = &object.meta().uid {
        as_map(&mut details).insert("uid".into(), uid.as_str().into());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn in_version(mut value: Value, version: &str) -> Value {
    as_map(&mut value).insert("apiVersion".into(), version.into());
    value
}

/// An object's metadata alone.
pub(super) fn partial(object: &Object, version: &str) -> Value {
    in_version(table::partial(object), version)
}

/// One object.
pub(super) fn one(
    row: &Resource,
    form: Form,
    params: &Params,
    code: StatusCode,
    object: &Arc<Object>,
    now: Timestamp,
) -> Result<Response<Body>, ApiError> {
    Ok(match (form.shape, form.media) {
        (Shape::Whole, Media::Json) => typed(code, JSON, object.to_bytes()),
        (Shape::Whole, Media::Protobuf) => protobuf::one(row, code, &object.to_bytes())?,
        (Shape::Whole, Media::Yaml) => value(form.media, code, &parse_stored(&object.to_bytes())?)?,
        (Shape::Metadata(version), media) => value(media, code, &partial(object, version))?,
        (Shape::Table(version), media) => {
            let include = Include::parse(params.get("includeObject"))?;
            let meta = json!({"resourceVersion": object.revision().to_string()});
            value(media, code, &in_version(table::render(row, std::slice::from_ref(object), include, meta, now), version))?
        }
    })
}

/// A list.
pub(super) fn many(row: &Resource, form: Form, params: &Params, answer: ListAnswer, now: Timestamp) -> Result<Response<Body>, ApiError> {
    let mut meta = json!({"resourceVersion": answer.revision.to_string()});
    if !answer.continue_token.is_empty() {
        as_map(&mut meta).insert("continue".into(), answer.continue_token.into());
    }
    if let Some(remaining) = answer.remaining {
        as_map(&mut meta).insert("remainingItemCount".into(), remaining.into());
    }
    let kind = || format!("{}List", row.kind);
    match (form.shape, form.media) {
        (Shape::Whole, Media::Json) => {
            let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[", kind(), row.api_version());
            let mut response = Response::new(stream_body(concatenate(head, answer.items)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            Ok(response)
        }
        (Shape::Whole, Media::Protobuf) => protobuf::list(row, &meta, &answer.items),
        (Shape::Whole, Media::Yaml) => {
            let items = answer.items.iter().map(|o| parse_stored(&o.to_bytes())).collect::<Result<Vec<_>, _>>()?;
            value(form.media, StatusCode::OK, &json!({"kind": kind(), "apiVersion": row.api_version(), "metadata": meta, "items": items}))
        }
        (Shape::Metadata(version), Media::Protobuf) => protobuf::partial_list(version, &meta, &answer.items),
        (Shape::Metadata(version), media) => {
            let items: Vec<Value> = answer.items.iter().map(|o| partial(o, version)).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": meta, "items": items});
            value(media, StatusCode::OK, &list)
        }
        (Shape::Table(version), media) => {
            let include = Include::parse(params.get("includeObject"))?;
            value(media, StatusCode::OK, &in_version(table::render(row, &answer.items, include, meta, now), version))
        }
    }
}

/// The items of a list in pieces of about [`LIST_CHUNK`], commas between them.
fn concatenate(head: String, items: Vec<Arc<Object>>) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let mut next = 0;
    let mut head = Some(head);
    futures::stream::iter(std::iter::from_fn(move || {
        if next > items.len() {
            return None;
        }
        // Just the room that the piece takes.
        let (mut room, mut upto) = (head.as_ref().map_or(0, String::len) + 3, next);
        while let Some(item) = items.get(upto).filter(|_| room < LIST_CHUNK) {
            room += item.len_hint() + 1;
            upto += 1;
        }
        let mut piece = BytesMut::with_capacity(room);
        if let Some(head) = head.take() {
            piece.put_slice(head.as_bytes());
        }
        for item in &items[next..upto] {
            if next > 0 {
                piece.put_u8(b',');
            }
            item.write_to(&mut piece);
            next += 1;
        }
        if next < items.len() {
            return Some(Ok(piece.freeze()));
        }
        piece.put_slice(b"]}\n");
        next = items.len() + 1;
        Some(Ok(piece.freeze()))
    }))
}
