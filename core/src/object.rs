//! Objects as they are shared inside one process.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use serde::de::DeserializeOwned;

use crate::store::{Key, Record, ResourceId, Revision};

/// Namespace and name of an object. Controllers work on these keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// A reference; `namespace` is empty for cluster-scoped objects.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// The resource id of an API resource.
pub fn resource_id(resource: &ApiResource) -> ResourceId {
    ResourceId::new(resource.group.as_str(), resource.plural.as_str())
}

/// The [`ApiResource`] of a type.
pub fn resource_of<K: kube::Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// One version of one object. Everything in a process that reads this version shares this value.
///
/// It holds the bytes as served; metadata and the typed form are decoded once, on first use.
pub struct Object {
    key: Key,
    revision: Revision,
    bytes: Bytes,
    meta: OnceLock<Box<ObjectMeta>>,
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Bytes that are not an object.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{key} does not decode as {kind}: {message}")]
pub struct DecodeError {
    /// Which object.
    pub key: String,
    /// What it was decoded as.
    pub kind: &'static str,
    /// Where it went wrong.
    pub message: String,
}

impl Object {
    /// An object from bytes as served: JSON with `metadata.resourceVersion`.
    pub fn from_served(key: Key, revision: Revision, bytes: Bytes) -> Self {
        Self { key, revision, bytes, meta: OnceLock::new(), typed: OnceLock::new() }
    }

    /// An object from a stored record: its resourceVersion is spliced in, nothing is serialised again.
    pub fn from_record(record: &Record) -> Self {
        Self::from_served(record.key.clone(), record.modified, splice_revision(&record.value, record.modified))
    }

    /// An object that is known decoded already.
    pub fn with_typed<K: Any + Send + Sync>(self, typed: Arc<K>) -> Self {
        let _ = self.typed.set(typed);
        self
    }

    /// Its key in the store.
    pub fn key(&self) -> &Key {
        &self.key
    }
    /// Namespace and name.
    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef { namespace: self.key.namespace.clone(), name: self.key.name.clone() }
    }
    /// Its resourceVersion.
    pub fn revision(&self) -> Revision {
        self.revision
    }
    /// The bytes as served: JSON.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its metadata, without managedFields. Empty if the bytes do not decode.
    pub fn meta(&self) -> &ObjectMeta {
        #[derive(serde::Deserialize)]
        struct OnlyMeta {
            #[serde(default)]
            metadata: ObjectMeta,
        }
        self.meta.get_or_init(|| {
            let mut meta = serde_json::from_slice::<OnlyMeta>(&self.bytes).map(|m| m.metadata).unwrap_or_default();
            meta.managed_fields = None;
            Box::new(meta)
        })
    }

    /// The controlling owner.
    pub fn controller_of(&self) -> Option<&OwnerReference> {
        self.meta().owner_references.as_deref()?.iter().find(|o| o.controller == Some(true))
    }

    /// The typed form. Decoded once for the first type asked for; another type is decoded at each call.
    ///
    /// # Errors
    /// When the bytes do not decode as `K`.
    pub fn decode<K: DeserializeOwned + Any + Send + Sync>(&self) -> Result<Arc<K>, DecodeError> {
        if let Some(known) = self.typed.get()
            && let Ok(typed) = known.clone().downcast::<K>()
        {
            return Ok(typed);
        }
        let typed: Arc<K> = Arc::new(serde_json::from_slice(&self.bytes).map_err(|e| DecodeError {
            key: self.key.to_string(),
            kind: std::any::type_name::<K>(),
            message: e.to_string(),
        })?);
        let _ = self.typed.set(typed.clone());
        Ok(typed)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

const METADATA: &[u8] = br#""metadata":{"#;

/// Encodes an object for a store: `apiVersion`, `kind` and `metadata` first, without a resourceVersion, so that
/// [`splice_revision`] finds its place without parsing.
///
/// # Errors
/// When `value` is not a JSON object.
pub fn encode_stored(value: &serde_json::Value) -> Result<Bytes, serde_json::Error> {
    use serde::ser::{Error, SerializeMap, Serializer};
    let map = value.as_object().ok_or_else(|| serde_json::Error::custom("an object is expected"))?;
    let mut out = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::new(&mut out);
    let mut state = serializer.serialize_map(None)?;
    for name in ["apiVersion", "kind"] {
        if let Some(value) = map.get(name) {
            state.serialize_entry(name, value)?;
        }
    }
    let mut metadata = map.get("metadata").and_then(|m| m.as_object()).cloned().unwrap_or_default();
    metadata.remove("resourceVersion");
    state.serialize_entry("metadata", &metadata)?;
    for (name, value) in map {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            state.serialize_entry(name, value)?;
        }
    }
    SerializeMap::end(state)?;
    Ok(out.into())
}

/// The same of a typed object of `k8s-openapi`, whose own order is the one wanted. Its resourceVersion must not be set.
///
/// # Errors
/// When it does not encode.
pub fn encode_typed<K: kube::Resource + serde::Serialize>(object: &K) -> Result<Bytes, serde_json::Error> {
    debug_assert!(object.meta().resource_version.is_none(), "the server alone gives a revision");
    serde_json::to_vec(object).map(Bytes::from)
}

/// Puts `resourceVersion` into bytes made by [`encode_stored`] or [`encode_typed`]. Bytes of another form are returned as they are.
pub fn splice_revision(stored: &Bytes, revision: Revision) -> Bytes {
    // apiVersion and kind come before metadata and hold no quotes or braces, so the first match is the right one.
    let Some(at) = stored.windows(METADATA.len()).position(|w| w == METADATA) else { return stored.clone() };
    let at = at + METADATA.len();
    let mut out = BytesMut::with_capacity(stored.len() + 42);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(if stored.get(at) == Some(&b'}') { b"\"" } else { b"\"," });
    out.extend_from_slice(&stored[at..]);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn key() -> Key {
        Key::new(ResourceId::new("", "configmaps"), "default", "a")
    }

    #[test]
    fn splices_the_revision_even_beside_lookalikes() {
        let value = json!({"apiVersion":"v1","kind":"ConfigMap","data":{"x":"\"metadata\":{\"evil\":1}"},"metadata":{"name":"a","resourceVersion":"9"}});
        let stored = encode_stored(&value).unwrap();
        let served = splice_revision(&stored, Revision(42));
        let object = Object::from_served(key(), Revision(42), served);
        let map = object.decode::<ConfigMap>().unwrap();
        assert_eq!(map.metadata.resource_version.as_deref(), Some("42"));
        assert_eq!(map.data.as_ref().unwrap()["x"], "\"metadata\":{\"evil\":1}");
        assert_eq!(object.meta().name.as_deref(), Some("a"));
    }

    #[test]
    fn an_empty_metadata_stays_json() {
        let stored = encode_stored(&json!({"apiVersion":"v1","kind":"X"})).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&splice_revision(&stored, Revision(1))).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "1");
    }

    #[test]
    fn decodes_once_per_object() {
        let stored = encode_stored(&json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}})).unwrap();
        let object = Object::from_served(key(), Revision(1), stored);
        assert!(Arc::ptr_eq(&object.decode::<ConfigMap>().unwrap(), &object.decode::<ConfigMap>().unwrap()));
    }
}
