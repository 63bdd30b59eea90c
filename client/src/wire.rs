//! From Kubernetes' JSON to core's objects and events.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::core::ApiResource;
use serde_json::{Value, json};
use wharf_core::api::{ApiError, ApiEvent};
use wharf_core::object::{Object, resource_id};
use wharf_core::store::{Key, Revision};

use crate::http_call::{Broken, MAX_OBJECT, malformed};

pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))
}

fn meta<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// The revision of an object or list; 0 where there is none, as in a review.
pub(crate) fn revision(value: &Value) -> Result<Revision, ApiError> {
    match meta(value, "resourceVersion") {
        "" => Ok(Revision(0)),
        text => text.parse().map(Revision).map_err(|_| malformed(format!("resourceVersion {text:?} is no number"))),
    }
}

/// An object as served on its own: `bytes` are kept.
pub(crate) fn object(resource: &ApiResource, namespace: &str, name: &str, value: &Value, bytes: Bytes) -> Result<Arc<Object>, ApiError> {
    let or = |given: &str, fallback: &str| if given.is_empty() { fallback.to_owned() } else { given.to_owned() };
    let key = Key::new(resource_id(resource), or(meta(value, "namespace"), namespace), or(meta(value, "name"), name));
    Ok(Arc::new(Object::from_served(key, revision(value)?, bytes)))
}

/// An item of a list, which Kubernetes serves without its kind.
pub(crate) fn item(resource: &ApiResource, mut value: Value) -> Result<Arc<Object>, ApiError> {
    let map = value.as_object_mut().ok_or_else(|| malformed("an item is no object"))?;
    map.entry("apiVersion").or_insert_with(|| resource.api_version.clone().into());
    map.entry("kind").or_insert_with(|| resource.kind.clone().into());
    let bytes = Bytes::from(value.to_string());
    object(resource, "", "", &value, bytes)
}

/// What stands for an object of which the server answered only that the change was done.
pub(crate) fn stand_in(resource: &ApiResource, namespace: &str, name: &str, answer: &Value) -> Result<Arc<Object>, ApiError> {
    let mut value = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}});
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        if !namespace.is_empty() {
            metadata.insert("namespace".into(), namespace.into());
        }
        if let Some(uid) = answer.get("details").and_then(|d| d.get("uid")) {
            metadata.insert("uid".into(), uid.clone());
        }
    }
    let bytes = Bytes::from(value.to_string());
    object(resource, namespace, name, &value, bytes)
}

pub(crate) fn is_status(value: &Value) -> bool {
    value.get("kind").and_then(Value::as_str) == Some("Status") && value.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

/// One line of a watch.
pub(crate) fn event(resource: &ApiResource, line: &[u8]) -> Result<ApiEvent, ApiError> {
    let mut value = parse(line)?;
    let found = value.get_mut("object").map(Value::take).unwrap_or_default();
    match value.get("type").and_then(Value::as_str).unwrap_or_default() {
        "ADDED" => Ok(ApiEvent::Added(item(resource, found)?)),
        "MODIFIED" => Ok(ApiEvent::Modified(item(resource, found)?)),
        "DELETED" => Ok(ApiEvent::Deleted(item(resource, found)?)),
        "BOOKMARK" => Ok(ApiEvent::Bookmark(revision(&found)?)),
        "ERROR" => {
            let mut status: Status = serde_json::from_value(found).map_err(|e| malformed(e.to_string()))?;
            status.metadata = Default::default();
            Err(ApiError::Status(Box::new(status)))
        }
        other => Err(malformed(format!("an event of type {other:?}"))),
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of a line.
    searched: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line that is not empty.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
            let line = self.buffer.split_to(self.searched + at).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        self.searched = self.buffer.len();
        if self.searched > MAX_OBJECT { Err(Broken::TooLarge(MAX_OBJECT).into()) } else { Ok(None) }
    }

    /// Whether bytes are left that are no whole line.
    pub(crate) fn is_cut(&self) -> bool {
        !self.buffer.trim_ascii().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use wharf_core::object::resource_of;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        lines.push(b"{\"a\":1}\n\n{\"b\"");
        assert_eq!(lines.next().unwrap().unwrap(), "{\"a\":1}");
        assert!(lines.next().unwrap().is_none());
        assert!(lines.is_cut());
        lines.push(b":2}\n");
        assert_eq!(lines.next().unwrap().unwrap(), "{\"b\":2}");
        assert!(lines.next().unwrap().is_none() && !lines.is_cut());
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_OBJECT + 1]);
        assert!(lines.next().is_err());
    }

    #[test]
    fn an_item_gets_its_kind_and_an_error_event_is_its_status() {
        let resource = resource_of::<ConfigMap>();
        let line = br#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}}"#;
        let Ok(ApiEvent::Added(added)) = event(&resource, line) else { panic!("an ADDED event") };
        assert_eq!(added.revision(), Revision(7));
        added.decode::<ConfigMap>().unwrap();
        assert!(String::from_utf8_lossy(added.bytes()).contains("\"kind\":\"ConfigMap\""));
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired","message":"old"}}"#;
        assert!(event(&resource, gone).unwrap_err().is_expired());
    }
}
