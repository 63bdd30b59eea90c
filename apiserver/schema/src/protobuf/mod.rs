//! Kubernetes' protobuf, both ways, by the table: no generated messages.
//!
//! An object is `k8s\0` and a `runtime.Unknown` that holds its apiVersion, its kind and its message. An event of a watch is a
//! `metav1.WatchEvent` behind its length in four bytes.

mod read;
mod wire;
mod write;

use serde_json::Value;

use crate::{Type, builtin};
use wire::{Fields, Wire, put_bytes, put_length, put_message};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every object begins with.
pub const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages; serde_json bounds JSON at 128.
const MAX_DEPTH: usize = 128;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The envelope is missing.
    #[error("it does not begin as Kubernetes' protobuf does")]
    Magic,
    /// The bytes end too early, or a length or number is out of range.
    #[error("it ends in the middle of a value")]
    Truncated,
    /// A field is of another type than the kind's.
    #[error("a field has the wrong type")]
    Type,
    /// Nested deeper than any kind is.
    #[error("it is nested too deeply")]
    Deep,
    /// A string that is none.
    #[error("a string is not UTF-8")]
    Utf8,
}

/// JSON that does not fit its type.
#[derive(Debug, thiserror::Error)]
#[error("the object does not fit its type: {0}")]
pub struct Unfit(#[from] serde_json::Error);

/// An object as JSON; `None` when its kind is not built in.
///
/// # Errors
/// When it is malformed.
pub fn to_json(body: &[u8]) -> Result<Option<Value>, Malformed> {
    let body = body.strip_prefix(MAGIC).ok_or(Malformed::Magic)?;
    let [types, raw, _, content_type] = Fields::new(body).first()?;
    let [version, kind] = Fields::new(types.ok_or(Malformed::Truncated)?.bytes()?).first()?;
    let text = |wire: Option<Wire<'_>>| Ok::<_, Malformed>(wire.map(Wire::text).transpose()?.unwrap_or_default().to_owned());
    let (api_version, kind) = (text(version)?, text(kind)?);
    let raw = raw.map(Wire::bytes).transpose()?.unwrap_or_default();
    if text(content_type)? == "application/json" {
        return serde_json::from_slice(raw).map(Some).map_err(|_| Malformed::Type);
    }
    let Some(ty) = type_of(&api_version, &kind) else { return Ok(None) };
    let mut out = read::object(ty, raw)?;
    out.insert("apiVersion".into(), api_version.into());
    out.insert("kind".into(), kind.into());
    Ok(Some(Value::Object(out)))
}

/// The type of an apiVersion and kind.
pub fn type_of(api_version: &str, kind: &str) -> Option<Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    builtin().kind(group, version, kind)
}

/// Appends the message of a JSON object of a type, without envelope. Fields that the type or the wire lacks are left out.
///
/// # Errors
/// JSON that is malformed or of another type; what was appended is to be thrown away then.
pub fn put_object(out: &mut Vec<u8>, ty: Type, json: &[u8]) -> Result<(), Unfit> {
    Ok(write::object(out, ty, json)?)
}

/// Appends a JSON object of a type as a field of a message: the items of a list are its field 2.
///
/// # Errors
/// As [`put_object`].
pub fn put_field(out: &mut Vec<u8>, number: u8, ty: Type, json: &[u8]) -> Result<(), Unfit> {
    let mut result = Ok(());
    put_message(out, number, |out| result = write::object(out, ty, json));
    Ok(result?)
}

/// What stands before and behind a message of `length` bytes to make it an object on the wire.
pub fn envelope(api_version: &str, kind: &str, length: usize) -> (Vec<u8>, Vec<u8>) {
    let mut head = Vec::with_capacity(api_version.len() + kind.len() + 24);
    head.extend_from_slice(MAGIC);
    put_message(&mut head, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
    put_length(&mut head, 2, length);
    let mut tail = Vec::with_capacity(4);
    // Empty, but written, as Kubernetes does.
    put_bytes(&mut tail, 3, b"");
    put_bytes(&mut tail, 4, b"");
    (head, tail)
}

/// An object on the wire: the envelope around a message.
pub fn seal(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let (mut out, tail) = envelope(api_version, kind, message.len());
    out.reserve_exact(message.len() + tail.len());
    out.extend_from_slice(message);
    out.extend_from_slice(&tail);
    out
}

/// A JSON object as it goes over the wire.
///
/// # Errors
/// As [`put_object`].
pub fn from_json(api_version: &str, kind: &str, ty: Type, json: &[u8]) -> Result<Vec<u8>, Unfit> {
    let mut message = Vec::with_capacity(json.len());
    put_object(&mut message, ty, json)?;
    Ok(seal(api_version, kind, &message))
}

/// An event of a watch, with the length that it stands behind: its type (`ADDED`, ...), and the object on the wire.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.reserve(object.len() + kind.len() + 16);
    put_bytes(&mut out, 1, kind.as_bytes());
    put_message(&mut out, 2, |out| put_bytes(out, 1, object));
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
