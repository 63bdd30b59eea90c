//! Answers in Kubernetes' protobuf, of built-in kinds: stock controllers ask for it first.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{Response, StatusCode};
use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_core::object::Object;
use wharf_core::runtime::BoxError;
use wharf_schema::Type;
use wharf_schema::protobuf::{self, MEDIA_TYPE};

use super::http::{EVENTS_CHUNK, Form, bookmark};
use super::read::{Watch, WatchEvent};
use super::status;
use crate::resources::Resource;
use crate::server::body::{Body, typed};

/// The media type of a watch.
pub(super) const STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// The type of a row's objects; custom ones have no protobuf.
pub(super) fn type_of(row: &Resource) -> Option<Type> {
    let builtin = wharf_schema::builtin().kind(&row.group, &row.version, &row.kind);
    builtin.filter(|_| row.custom.is_none())
}

fn known(row: &Resource) -> Result<Type, ApiError> {
    type_of(row).ok_or_else(status::not_acceptable)
}

/// One object.
///
/// # Errors
/// An object that does not fit its type: it was stored by a server that knows more.
pub(super) fn one(row: &Resource, code: StatusCode, json: &[u8]) -> Result<Response<Body>, ApiError> {
    let sealed = protobuf::from_json(&row.api_version(), &row.kind, known(row)?, json).map_err(status::internal)?;
    Ok(typed(code, MEDIA_TYPE, sealed))
}

/// A list with its metadata.
///
/// # Errors
/// As [`one`].
pub(super) fn list(row: &Resource, meta: &Value, items: &[Arc<Object>]) -> Result<Response<Body>, ApiError> {
    let ty = known(row)?;
    let list_meta = wharf_schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").ok_or_else(status::not_acceptable)?;
    let mut message = Vec::with_capacity(items.len() * 512);
    protobuf::put_field(&mut message, 1, list_meta, meta.to_string().as_bytes()).map_err(status::internal)?;
    for item in items {
        protobuf::put_field(&mut message, 2, ty, &item.to_bytes()).map_err(status::internal)?;
    }
    Ok(typed(StatusCode::OK, MEDIA_TYPE, protobuf::seal(&row.api_version(), &format!("{}List", row.kind), &message)))
}

/// The events of a watch, each behind its length.
pub(super) fn watch(row: Arc<Resource>, watch: Watch) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    watch.ready_chunks(EVENTS_CHUNK).map(move |events| {
        let mut out = BytesMut::new();
        for event in events {
            let frame = match event {
                Ok(WatchEvent::Bookmark { revision, initial }) => {
                    let object = bookmark(&row, Form::Protobuf, &revision.to_string(), initial).to_string();
                    object_event(&row, "BOOKMARK", object.as_bytes())
                }
                Ok(change) => match change.change() {
                    Some((kind, object)) => object_event(&row, kind, &object.to_bytes()),
                    None => continue,
                },
                Err(error) => Err(error),
            };
            out.put_slice(&frame.or_else(error_event)?);
        }
        Ok(out.freeze())
    })
}

fn object_event(row: &Resource, kind: &str, json: &[u8]) -> Result<Vec<u8>, ApiError> {
    let object = protobuf::from_json(&row.api_version(), &row.kind, known(row)?, json).map_err(status::internal)?;
    Ok(protobuf::event(kind, &object))
}

fn error_event(error: ApiError) -> Result<Vec<u8>, BoxError> {
    let json = status::render(&status::status_of(error));
    let ty = protobuf::type_of("v1", "Status").ok_or("Status is not in the table")?;
    Ok(protobuf::event("ERROR", &protobuf::from_json("v1", "Status", ty, &json)?))
}
