//! The events of a watch as JSON.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use wharf_core::runtime::BoxError;

use super::answer::partial;
use super::form::Shape;
use super::frames::{self, Frames};
use super::read::{Watch, WatchEvent};
use super::status;
use crate::resources::value::as_map;
use crate::resources::{Resource, StatusRule};
use crate::table::{self, Include};

/// Most events of a watch that are sent in one piece.
pub(super) const EVENTS_CHUNK: usize = 64;

/// Each event on a line.
pub(super) fn encode(
    row: Arc<Resource>,
    watch: Watch,
    shape: Shape,
    include: Include,
    frames: Arc<Frames>,
    now: impl Fn() -> jiff::Timestamp + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let mut first = true;
    watch.ready_chunks(EVENTS_CHUNK).map(move |events| {
        if let (Shape::Whole, [Ok(event)]) = (shape, events.as_slice())
            && let Some((kind, object)) = event.change()
        {
            return Ok(frames.of(kind, object));
        }
        let mut out = BytesMut::new();
        for event in events {
            let (kind, object) = match &event {
                Ok(WatchEvent::Bookmark { revision, initial }) => {
                    let object = bookmark(&row, shape, &revision.to_string(), *initial);
                    put(&mut out, "BOOKMARK", object.to_string().as_bytes());
                    continue;
                }
                Ok(change) => match change.change() {
                    Some(change) => change,
                    None => continue,
                },
                Err(_) => {
                    if let Err(error) = event {
                        put(&mut out, "ERROR", &status::render(&status::status_of(error)));
                    }
                    continue;
                }
            };
            match shape {
                Shape::Whole => frames::put(&mut out, kind, object),
                Shape::Metadata(version) => put(&mut out, kind, partial(object, version).to_string().as_bytes()),
                Shape::Table(version) => {
                    let meta = json!({"resourceVersion": object.revision().to_string()});
                    let mut table = table::render(&row, std::slice::from_ref(object), include, meta, now());
                    as_map(&mut table).insert("apiVersion".into(), version.into());
                    if !std::mem::take(&mut first) {
                        // Columns are told once.
                        as_map(&mut table).insert("columnDefinitions".into(), Value::Null);
                    }
                    put(&mut out, kind, table.to_string().as_bytes());
                }
            }
        }
        Ok(out.freeze())
    })
}

fn put(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

/// The object of a bookmark.
pub(super) fn bookmark(row: &Resource, shape: Shape, revision: &str, initial: bool) -> Value {
    let mut meta = json!({"resourceVersion": revision, "creationTimestamp": null});
    if initial {
        as_map(&mut meta).insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
    }
    match shape {
        Shape::Table(version) => json!({"kind": "Table", "apiVersion": version, "metadata": meta, "columnDefinitions": null, "rows": []}),
        Shape::Metadata(version) => json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta}),
        Shape::Whole => {
            let mut object = json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": meta});
            // Typed clients want the parts that their types require.
            if row.status == StatusRule::Split {
                as_map(&mut object).insert("spec".into(), json!({}));
            }
            object
        }
    }
}
