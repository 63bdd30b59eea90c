//! Answers in Kubernetes' protobuf, of built-in kinds: stock controllers ask for it first.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_core::object::Object;
use wharf_core::runtime::BoxError;
use wharf_schema::Type;
use wharf_schema::protobuf::{self, MEDIA_TYPE};

use super::answer::{LIST_CHUNK, partial, stream_body};
use super::events::{EVENTS_CHUNK, bookmark};
use super::form::Shape;
use super::read::{Watch, WatchEvent};
use super::status;
use crate::resources::Resource;
use crate::server::body::{Body, typed};

/// The media type of a watch.
pub(super) const STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
const PARTIAL: &str = "PartialObjectMetadata";
const META: &str = "meta.k8s.io/v1";

/// The type of a row's objects; custom ones have no protobuf.
pub(super) fn type_of(row: &Resource) -> Option<Type> {
    let builtin = wharf_schema::builtin().kind(&row.group, &row.version, &row.kind);
    builtin.filter(|_| row.custom.is_none())
}

fn known(row: &Resource) -> Result<Type, ApiError> {
    type_of(row).ok_or_else(status::not_acceptable)
}

fn named(api_version: &str, kind: &str) -> Result<Type, ApiError> {
    protobuf::type_of(api_version, kind).ok_or_else(status::not_acceptable)
}

/// One object.
///
/// # Errors
/// An object that does not fit its type: it was stored by a server that knows more.
pub(super) fn one(row: &Resource, code: StatusCode, json: &[u8]) -> Result<Response<Body>, ApiError> {
    let sealed = protobuf::from_json(&row.api_version(), &row.kind, known(row)?, json).map_err(status::internal)?;
    Ok(typed(code, MEDIA_TYPE, sealed))
}

/// A value by the kind that it tells; `None` for a kind that has no protobuf.
///
/// # Errors
/// As [`one`].
pub(super) fn value(api_version: &str, kind: &str, value: &Value) -> Result<Option<Vec<u8>>, ApiError> {
    // The older version of metadata has the same message.
    let known = if kind == PARTIAL { META } else { api_version };
    let Some(ty) = protobuf::type_of(known, kind) else { return Ok(None) };
    protobuf::from_json(api_version, kind, ty, value.to_string().as_bytes()).map(Some).map_err(status::internal)
}

/// A list with its metadata.
///
/// # Errors
/// As [`one`].
pub(super) fn list(row: &Resource, meta: &Value, items: &[Arc<Object>]) -> Result<Response<Body>, ApiError> {
    let ty = known(row)?;
    pieces(&row.api_version(), &format!("{}List", row.kind), meta, [1, 2], items, |out, number, item| {
        protobuf::put_field(out, number, ty, &item.to_bytes()).map_err(status::internal)
    })
}

/// The metadata of objects as a list.
///
/// # Errors
/// As [`one`].
pub(super) fn partial_list(version: &str, meta: &Value, items: &[Arc<Object>]) -> Result<Response<Body>, ApiError> {
    let ty = named(META, PARTIAL)?;
    // The older version numbers its fields the other way round.
    let numbers = if version == META { [1, 2] } else { [2, 1] };
    pieces(version, "PartialObjectMetadataList", meta, numbers, items, |out, number, item| {
        protobuf::put_field(out, number, ty, partial(item, version).to_string().as_bytes()).map_err(status::internal)
    })
}

/// A list in pieces: its length stands before it, so that all must be encoded, but never in one place.
fn pieces(
    api_version: &str,
    kind: &str,
    meta: &Value,
    [meta_number, items_number]: [u8; 2],
    items: &[Arc<Object>],
    put: impl Fn(&mut Vec<u8>, u8, &Object) -> Result<(), ApiError>,
) -> Result<Response<Body>, ApiError> {
    let list_meta = wharf_schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").ok_or_else(status::not_acceptable)?;
    let (mut piece, mut done, mut length) = (Vec::new(), Vec::new(), 0);
    protobuf::put_field(&mut piece, meta_number, list_meta, meta.to_string().as_bytes()).map_err(status::internal)?;
    for item in items {
        if piece.len() >= LIST_CHUNK {
            length += piece.len();
            done.push(Ok(Bytes::from(std::mem::take(&mut piece))));
        }
        put(&mut piece, items_number, item)?;
    }
    length += piece.len();
    let (head, tail) = protobuf::envelope(api_version, kind, length);
    let all = std::iter::once(Ok(head.into())).chain(done).chain([Ok(piece.into()), Ok(tail.into())]);
    let mut response = Response::new(stream_body(stream::iter(all.collect::<Vec<Result<Bytes, BoxError>>>())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Ok(response)
}

/// The events of a watch, each behind its length.
pub(super) fn watch(row: Arc<Resource>, watch: Watch, shape: Shape) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    watch.ready_chunks(EVENTS_CHUNK).map(move |events| {
        let mut out = BytesMut::new();
        for event in events {
            let frame = match event {
                Ok(WatchEvent::Bookmark { revision, initial }) => {
                    let object = bookmark(&row, shape, &revision.to_string(), initial);
                    object_event(&row, shape, "BOOKMARK", &object)
                }
                Ok(change) => match (change.change(), shape) {
                    (Some((kind, object)), Shape::Metadata(version)) => object_event(&row, shape, kind, &partial(object, version)),
                    (Some((kind, object)), _) => whole(&row, kind, &object.to_bytes()),
                    (None, _) => continue,
                },
                Err(error) => Err(error),
            };
            out.put_slice(&frame.or_else(error_event)?);
        }
        Ok(out.freeze())
    })
}

fn object_event(row: &Resource, shape: Shape, kind: &str, object: &Value) -> Result<Vec<u8>, ApiError> {
    match shape {
        Shape::Metadata(version) => {
            let sealed = value(version, PARTIAL, object)?.ok_or_else(status::not_acceptable)?;
            Ok(protobuf::event(kind, &sealed))
        }
        _ => whole(row, kind, object.to_string().as_bytes()),
    }
}

fn whole(row: &Resource, kind: &str, json: &[u8]) -> Result<Vec<u8>, ApiError> {
    let object = protobuf::from_json(&row.api_version(), &row.kind, known(row)?, json).map_err(status::internal)?;
    Ok(protobuf::event(kind, &object))
}

fn error_event(error: ApiError) -> Result<Vec<u8>, BoxError> {
    let json = status::render(&status::status_of(error));
    let ty = protobuf::type_of("v1", "Status").ok_or("Status is not in the table")?;
    Ok(protobuf::event("ERROR", &protobuf::from_json("v1", "Status", ty, &json)?))
}
