//! Objects as they are shared inside one process.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use serde::de::DeserializeOwned;

mod managed;

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
/// It shares the bytes of the store's record, into which its resourceVersion is put where they are written out; metadata and the
/// typed form are decoded once, on first use.
pub struct Object {
    key: Key,
    revision: Revision,
    json: Bytes,
    /// Where the resourceVersion belongs in `json`; `None` if it is there already.
    place: Option<NonZeroU32>,
    /// How long it is when served, once somebody has asked.
    served_len: AtomicU32,
    served: OnceLock<Box<Bytes>>,
    controller: OnceLock<Option<Box<str>>>,
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
        Self {
            key,
            revision,
            json: bytes,
            place: None,
            served_len: AtomicU32::new(0),
            served: OnceLock::new(),
            controller: OnceLock::new(),
            meta: OnceLock::new(),
            typed: OnceLock::new(),
        }
    }

    /// An object from a stored record, whose bytes it shares.
    pub fn from_record(record: &Record) -> Self {
        let place = place_of(&record.value).and_then(|at| u32::try_from(at).ok()).and_then(NonZeroU32::new);
        Self { place, ..Self::from_served(record.key.clone(), record.modified, record.value.clone()) }
    }

    /// The same content at another revision; `None` if that takes writing it anew.
    pub fn at_revision(&self, revision: Revision) -> Option<Self> {
        self.place?;
        Some(Self { place: self.place, ..Self::from_served(self.key.clone(), revision, self.json.clone()) })
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
    /// The bytes as served: JSON. They are kept from the first call on; [`to_bytes`](Self::to_bytes) and
    /// [`write_to`](Self::write_to) keep nothing.
    pub fn bytes(&self) -> &Bytes {
        if self.place.is_none() { &self.json } else { self.served.get_or_init(|| Box::new(self.assemble())) }
    }
    /// The bytes as served, for one reader.
    pub fn to_bytes(&self) -> Bytes {
        match self.served.get() {
            _ if self.place.is_none() => self.json.clone(),
            Some(served) => (**served).clone(),
            None => self.assemble(),
        }
    }
    /// Whether the bytes as served begin so; `head` must end before the metadata, and nothing is put together to find out.
    pub fn begins_with(&self, head: &[u8]) -> bool {
        self.json.starts_with(head)
    }
    /// Appends the bytes as served.
    pub fn write_to(&self, out: &mut BytesMut) {
        match self.place {
            None => out.extend_from_slice(&self.json),
            Some(place) => splice(out, &self.json, place.get() as usize, self.revision, true),
        }
    }
    /// How many bytes [`write_to`](Self::write_to) appends, or a few more.
    pub fn len_hint(&self) -> usize {
        let Some(place) = self.place else { return self.json.len() };
        match self.served_len.load(Ordering::Relaxed) {
            0 => {
                let found = served_len(&self.json, place.get() as usize);
                self.served_len.store(u32::try_from(found).unwrap_or(0), Ordering::Relaxed);
                found
            }
            known => known as usize,
        }
    }

    fn assemble(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len_hint());
        self.write_to(&mut out);
        out.freeze()
    }

    /// Its metadata, without managedFields. Empty if the bytes do not decode.
    pub fn meta(&self) -> &ObjectMeta {
        #[derive(serde::Deserialize)]
        struct OnlyMeta {
            #[serde(default)]
            metadata: ObjectMeta,
        }
        self.meta.get_or_init(|| {
            let json = split_managed(&self.json).map_or(Cow::Borrowed(&*self.json), |(json, _)| Cow::Owned(json));
            let mut meta = serde_json::from_slice::<OnlyMeta>(&json).map(|m| m.metadata).unwrap_or_default();
            meta.managed_fields = None;
            if self.place.is_some() {
                meta.resource_version = Some(self.revision.to_string());
            }
            Box::new(meta)
        })
    }

    /// The uid of the controlling owner. Unlike [`controller_of`](Self::controller_of) it keeps nothing else of the metadata: who
    /// indexes thousands of objects by it holds some KiB less of each.
    pub fn controller_uid(&self) -> Option<&str> {
        #[derive(serde::Deserialize)]
        struct Owned {
            #[serde(default)]
            metadata: Owners,
        }
        #[derive(Default, serde::Deserialize)]
        struct Owners {
            #[serde(default, rename = "ownerReferences")]
            owners: Option<Vec<Owner>>,
        }
        #[derive(serde::Deserialize)]
        struct Owner {
            uid: Box<str>,
            controller: Option<bool>,
        }
        let read = || {
            if self.meta.get().is_some() {
                return self.controller_of().map(|owner| owner.uid.as_str().into());
            }
            let owners = serde_json::from_slice::<Owned>(&self.json).ok()?.metadata.owners?;
            owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid)
        };
        self.controller.get_or_init(read).as_deref()
    }

    /// The controlling owner.
    pub fn controller_of(&self) -> Option<&OwnerReference> {
        self.meta().owner_references.as_deref()?.iter().find(|o| o.controller == Some(true))
    }

    /// The typed form, without managedFields where the bytes are a store's: nobody but clients needs them, and typed they take more than
    /// all the rest. Decoded once for the first type asked for; another type is decoded at each call.
    ///
    /// # Errors
    /// When the bytes do not decode as `K`.
    pub fn decode<K: DeserializeOwned + Any + Send + Sync>(&self) -> Result<Arc<K>, DecodeError> {
        if let Some(known) = self.typed.get()
            && let Ok(typed) = known.clone().downcast::<K>()
        {
            return Ok(typed);
        }
        let json = match self.place {
            None => self.json.clone(),
            Some(place) => {
                let mut out = BytesMut::with_capacity(self.json.len() + MAX_SPLICE);
                splice(&mut out, &self.json, place.get() as usize, self.revision, false);
                out.freeze()
            }
        };
        let typed: Arc<K> = Arc::new(serde_json::from_slice(&json).map_err(|e| DecodeError {
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
const MANAGED: &[u8] = br#""managedFields":"#;
/// What a resourceVersion adds at most, in bytes: its name, twenty digits and punctuation.
const MAX_SPLICE: usize = 42;
/// Most room that a thread keeps for what it encodes next, in bytes.
const MAX_ROOM: usize = 64 << 10;

/// Encodes an object for a store: `apiVersion`, `kind` and `metadata` first, without a resourceVersion, so that
/// [`splice_revision`] finds its place without parsing.
///
/// # Errors
/// When `value` is not a JSON object.
pub fn encode_stored(value: &serde_json::Value) -> Result<Bytes, serde_json::Error> {
    encode_managed(value, "")
}

/// The same with its managedFields, the text of a list or nothing, where [`split_managed`] finds them without parsing.
///
/// # Errors
/// When `value` is not a JSON object.
pub fn encode_managed(value: &serde_json::Value, managed: &str) -> Result<Bytes, serde_json::Error> {
    use serde::ser::Error;
    fn put(out: &mut Vec<u8>, name: &str, value: &serde_json::Value) -> Result<(), serde_json::Error> {
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        serde_json::to_writer(out, value)
    }
    let map = value.as_object().ok_or_else(|| serde_json::Error::custom("an object is expected"))?;
    thread_local! {
        static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // What is stored is kept for as long as the object lives, in no more room than it needs.
    let mut out = ROOM.take();
    out.clear();
    out.push(b'{');
    for name in ["apiVersion", "kind"] {
        if let Some(value) = map.get(name) {
            put(&mut out, name, value)?;
        }
    }
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(METADATA);
    if !managed.is_empty() {
        out.extend_from_slice(MANAGED);
        if !managed::shorten(managed, &mut out) {
            out.extend_from_slice(managed.as_bytes());
        }
    }
    for (name, value) in map.get("metadata").and_then(serde_json::Value::as_object).into_iter().flatten() {
        if name != "resourceVersion" && (managed.is_empty() || name != "managedFields") {
            put(&mut out, name, value)?;
        }
    }
    out.push(b'}');
    for (name, value) in map {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            put(&mut out, name, value)?;
        }
    }
    out.push(b'}');
    let stored = Bytes::copy_from_slice(&out);
    if out.capacity() <= MAX_ROOM {
        ROOM.set(out);
    }
    Ok(stored)
}

/// What [`encode_managed`] made, taken apart: the object without its managedFields, and their text. `None` where it has none in that place.
pub fn split_managed(stored: &[u8]) -> Option<(Vec<u8>, Cow<'_, str>)> {
    let (head, from) = stored.split_at_checked(place_of(stored)?)?;
    let (managed, rest) = cut(from)?;
    let mut out = Vec::with_capacity(head.len() + rest.len());
    out.extend_from_slice(head);
    out.extend_from_slice(rest);
    let managed = match managed {
        Kept::Long(list) => Cow::Borrowed(std::str::from_utf8(list).ok()?),
        Kept::Short(short) => {
            let mut list = Vec::with_capacity(managed::length(short));
            managed::expand(short, |piece| list.extend_from_slice(piece));
            Cow::Owned(String::from_utf8(list).ok()?)
        }
    };
    Some((out, managed))
}

/// managedFields as they lie in what is stored.
enum Kept<'a> {
    /// The list itself.
    Long(&'a [u8]),
    /// What stands for it, without its quotes.
    Short(&'a [u8]),
}

/// Cuts managedFields off the head of an object's metadata.
fn cut(from: &[u8]) -> Option<(Kept<'_>, &[u8])> {
    let text = from.strip_prefix(MANAGED)?;
    let (kept, rest) = match text.split_first()? {
        (b'"', short) => {
            let (short, rest) = short.split_at_checked(short.iter().position(|b| *b == b'"')?)?;
            (Kept::Short(short), rest.get(1..)?)
        }
        _ => {
            let (list, rest) = text.split_at_checked(list_end(text)?)?;
            (Kept::Long(list), rest)
        }
    };
    Some((kept, rest.strip_prefix(b",").unwrap_or(rest)))
}

/// How long an object is when it is served, or a few bytes more; `at` is where its metadata begins.
fn served_len(stored: &[u8], at: usize) -> usize {
    let more = match stored.get(at..).and_then(cut) {
        Some((Kept::Short(short), _)) => managed::length(short).saturating_sub(short.len()),
        _ => 0,
    };
    stored.len() + more + MAX_SPLICE
}

/// Where the JSON list that a text begins with ends.
fn list_end(text: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match text.get(at)? {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b'"' => loop {
                at += 1;
                match text.get(at)? {
                    b'\\' => at += 1,
                    b'"' => break,
                    _ => {}
                }
            },
            _ if depth == 0 => return None,
            _ => {}
        }
        at += 1;
    }
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
    let Some(at) = place_of(stored) else { return stored.clone() };
    let mut out = BytesMut::with_capacity(served_len(stored, at));
    splice(&mut out, stored, at, revision, true);
    out.freeze()
}

/// What is stored as it is served, but without a resourceVersion: for what is not stored in the end.
pub fn without_revision(stored: &Bytes) -> Bytes {
    let Some(at) = place_of(stored) else { return stored.clone() };
    let (before, after) = stored.split_at(at);
    let Some((Kept::Short(short), rest)) = cut(after) else { return stored.clone() };
    let mut out = BytesMut::with_capacity(served_len(stored, at));
    out.extend_from_slice(before);
    out.extend_from_slice(MANAGED);
    managed::expand(short, |piece| out.extend_from_slice(piece));
    if rest.first() != Some(&b'}') {
        out.extend_from_slice(b",");
    }
    out.extend_from_slice(rest);
    out.freeze()
}

fn place_of(stored: &[u8]) -> Option<usize> {
    // apiVersion and kind come before metadata and hold no quotes or braces, so the first match is the right one.
    stored.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len())
}

/// Appends what is stored as it is served, or without managedFields if they are not `wanted`.
fn splice(out: &mut BytesMut, stored: &[u8], at: usize, revision: Revision, wanted: bool) {
    let (before, after) = stored.split_at(at);
    out.reserve(stored.len() + MAX_SPLICE);
    out.extend_from_slice(before);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    // Digits from the last to the first: formatting costs more than the copy around it.
    let (mut digits, mut first, mut rest) = ([0; 20], 20, revision.0);
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\"");
    let rest = match cut(after) {
        Some((_, rest)) if !wanted => rest,
        Some((Kept::Short(short), rest)) => {
            out.extend_from_slice(b",");
            out.extend_from_slice(MANAGED);
            managed::expand(short, |piece| out.extend_from_slice(piece));
            rest
        }
        _ => after,
    };
    if rest.first() != Some(&b'}') {
        out.extend_from_slice(b",");
    }
    out.extend_from_slice(rest);
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
    fn a_record_shares_its_bytes_and_is_served_with_its_revision() {
        let value = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"}});
        let record = Record { key: key(), value: encode_stored(&value).unwrap(), created: Revision(1), modified: Revision(1_234_567_890) };
        let object = Object::from_record(&record);
        assert_eq!(object.json.as_ptr(), record.value.as_ptr());
        let want = splice_revision(&record.value, record.modified);
        let mut written = BytesMut::new();
        object.write_to(&mut written);
        assert_eq!((&written[..], object.to_bytes(), object.bytes()), (&want[..], want.clone(), &want));
        assert!(want.len() <= object.len_hint());
        assert!(object.begins_with(br#"{"apiVersion":"v1","#) && !object.begins_with(br#"{"apiVersion":"v2","#));
        assert_eq!(object.meta().resource_version.as_deref(), Some("1234567890"));
        assert_eq!(object.decode::<ConfigMap>().unwrap().metadata.resource_version.as_deref(), Some("1234567890"));
        let later = object.at_revision(Revision(u64::MAX)).unwrap();
        assert_eq!(later.to_bytes(), splice_revision(&record.value, Revision(u64::MAX)));
        assert!(Object::from_served(key(), Revision(1), want).at_revision(Revision(2)).is_none());
    }

    #[test]
    fn the_controller_is_the_same_with_and_without_the_metadata() {
        let owner = |uid: &str, controller: bool| json!({"apiVersion":"v1","kind":"X","name":"x","uid":uid,"controller":controller});
        for (owners, want) in
            [(json!([owner("1", false), owner("2", true)]), Some("2")), (json!([owner("1", false)]), None), (json!(null), None)]
        {
            let value = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","ownerReferences":owners}});
            let object = || Object::from_served(key(), Revision(1), encode_stored(&value).unwrap());
            assert_eq!(object().controller_uid(), want);
            let decoded = object();
            assert_eq!(decoded.meta().name.as_deref(), Some("a"));
            assert_eq!(decoded.controller_uid(), want);
        }
    }

    #[test]
    fn an_empty_metadata_stays_json() {
        let stored = encode_stored(&json!({"apiVersion":"v1","kind":"X"})).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&splice_revision(&stored, Revision(1))).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "1");
    }

    #[test]
    fn managed_fields_are_kept_short_and_served_in_full() {
        let value = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"},"data":{"x":"]"}});
        let without = encode_stored(&value).unwrap();
        for managed in [
            "[]",
            r#"[{"manager":"\"]}\\","fieldsV1":{"k:{\"a\":\"[\"}":{}}},{"a":[]}]"#,
            r#"[{"manager":"\"é]}\\","operation":"Update"},{}]"#,
        ] {
            let stored = encode_managed(&value, managed).unwrap();
            let list: serde_json::Value = serde_json::from_str(managed).unwrap();
            serde_json::from_slice::<serde_json::Value>(&stored).expect("what is stored is JSON");
            assert_eq!(split_managed(&stored), Some((without.to_vec(), managed.into())));
            let object = Object::from_record(&Record { key: key(), value: stored.clone(), created: Revision(1), modified: Revision(7) });
            let served: serde_json::Value = serde_json::from_slice(&object.to_bytes()).unwrap();
            assert_eq!((&served["metadata"]["managedFields"], &served["metadata"]["resourceVersion"]), (&list, &json!("7")));
            assert_eq!(splice_revision(&stored, Revision(7)), object.to_bytes());
            assert!(object.to_bytes().len() <= object.len_hint());
            let tried: serde_json::Value = serde_json::from_slice(&without_revision(&stored)).unwrap();
            assert_eq!((&tried["metadata"]["managedFields"], tried["metadata"].get("resourceVersion")), (&list, None));
            let typed = object.decode::<ConfigMap>().unwrap();
            assert_eq!((&typed.metadata.managed_fields, &object.meta().managed_fields), (&None, &None));
            assert_eq!((typed.metadata.resource_version.as_deref(), object.meta().name.as_deref()), (Some("7"), Some("a")));
            // As they were kept before they were kept short.
            let long = String::from_utf8(without.to_vec())
                .unwrap()
                .replace("\"metadata\":{", &format!("\"metadata\":{{\"managedFields\":{managed},"));
            assert_eq!(split_managed(long.as_bytes()), Some((without.to_vec(), managed.into())));
            assert_eq!(splice_revision(&long.into(), Revision(7)), object.to_bytes());
        }
        let nothing_else = encode_managed(&json!({"metadata":{}}), "[]").unwrap();
        assert_eq!(split_managed(&nothing_else), Some((encode_stored(&json!({})).unwrap().to_vec(), "[]".into())));
        assert_eq!(&splice_revision(&nothing_else, Revision(1))[..], br#"{"metadata":{"resourceVersion":"1","managedFields":[]}}"#);
        for other in [
            &without[..],
            br#"{"metadata":{"managedFields":[{"a":"b]"#,
            br#"{"metadata":{"managedFields":null}}"#,
            br#"{"metadata":{"managedFields":""#,
        ] {
            assert_eq!(split_managed(other), None);
        }
    }

    #[test]
    fn decodes_once_per_object() {
        let stored = encode_stored(&json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}})).unwrap();
        let object = Object::from_served(key(), Revision(1), stored);
        assert!(Arc::ptr_eq(&object.decode::<ConfigMap>().unwrap(), &object.decode::<ConfigMap>().unwrap()));
    }
}
