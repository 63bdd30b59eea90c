//! Bodies in Kubernetes' protobuf, as typed clients send them, into JSON.
//!
//! Clients in Go write protobuf without asking first, and take JSON back. `schema.txt` has one message of the API a line:
//! its name, and its fields as `NUMBER MARK NAME : TYPE`. Marks are `=` for one, `*` for many, `%` for a map from strings,
//! `^` for one whose fields JSON has in place. Types are `s`tring, `b`ool, `i`nteger, `d`ouble, b`y`tes, `q`uantity,
//! int-or-string (`x`), `r`aw JSON, `t`ime, time with micro-seconds (`u`), duratio`n`, `l`ist of strings, or a message.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages.
const MAX_DEPTH: usize = 32;

/// Fields that are pointers in Kubernetes' types, or always written: their zero is a value. Other zeros are left out, as
/// Kubernetes leaves them out of JSON.
const ZERO_COUNTS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "allowed",
    "attachRequired",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "manualSelector",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "podInfoOnMount",
    "priority",
    "privileged",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "restartCount",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "storageCapacity",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "value",
];

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it does not begin as Kubernetes' protobuf does")]
    Magic,
    #[error("it ends in the middle of a value")]
    Truncated,
    #[error("a field has the wrong type")]
    Type,
    #[error("it is nested too deeply")]
    Deep,
    #[error("a string is not UTF-8")]
    Utf8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    One,
    Many,
    Map,
    Inline,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    mark: Mark,
    kind: &'static str,
}

type Schema = HashMap<&'static str, HashMap<u64, Field>>;

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| include_str!("schema.txt").lines().filter_map(message).collect())
}

fn message(line: &'static str) -> Option<(&'static str, HashMap<u64, Field>)> {
    let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
    let field = |text: &'static str| {
        let at = text.find(['=', '*', '%', '^'])?;
        let mark = match text.as_bytes()[at] {
            b'*' => Mark::Many,
            b'%' => Mark::Map,
            b'^' => Mark::Inline,
            _ => Mark::One,
        };
        let (name, kind) = text.get(at + 1..)?.split_once(':')?;
        Some((text[..at].parse().ok()?, Field { name, mark, kind }))
    };
    Some((name, fields.split_whitespace().filter_map(field).collect()))
}

/// A value on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or_default();
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed::Truncated)
    }
    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(self.take(8)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(self.take(4)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))),
            _ => return Err(Malformed::Type),
        };
        Ok(Some((tag >> 3, wire)))
    }
    /// The last value of each of the first fields, numbered from 1: what small well-known messages are made of.
    fn first<const N: usize>(mut self) -> Result<[Option<Wire<'a>>; N], Malformed> {
        let mut found = [None; N];
        while let Some((number, wire)) = self.next()? {
            let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
            if let Some(slot) = at.and_then(|at| found.get_mut(at)) {
                *slot = Some(wire);
            }
        }
        Ok(found)
    }
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed::Type) }
    }
    fn number(self) -> Result<u64, Malformed> {
        if let Self::Number(number) = self { Ok(number) } else { Err(Malformed::Type) }
    }
    fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }
}

fn text_of(wire: Option<Wire<'_>>) -> Result<String, Malformed> {
    Ok(wire.map(Wire::text).transpose()?.unwrap_or_default().to_owned())
}

fn number_of(wire: Option<Wire<'_>>) -> Result<i64, Malformed> {
    Ok(wire.map(Wire::number).transpose()?.unwrap_or_default().cast_signed())
}

/// A value as JSON; `None` for one that JSON leaves out.
fn value(kind: &'static str, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, Malformed> {
    let time = |format: &str| -> Result<Option<Value>, Malformed> {
        let [seconds, nanos] = Fields(wire.bytes()?).first()?;
        let (seconds, nanos) = (number_of(seconds)?, number_of(nanos)?);
        if (seconds, nanos) == (0, 0) {
            return Ok(None);
        }
        let at = i32::try_from(nanos).ok().and_then(|nanos| Timestamp::new(seconds, nanos).ok()).ok_or(Malformed::Type)?;
        Ok(Some(at.strftime(format).to_string().into()))
    };
    Ok(Some(match kind {
        "s" => wire.text()?.into(),
        "b" => (wire.number()? != 0).into(),
        "i" => wire.number()?.cast_signed().into(),
        "d" => Number::from_f64(f64::from_bits(wire.number()?)).map_or(Value::Null, Value::Number),
        "y" => BASE64.encode(wire.bytes()?).into(),
        "q" => {
            let [text] = Fields(wire.bytes()?).first()?;
            text_of(text)?.into()
        }
        "x" => {
            let [kind, number, text] = Fields(wire.bytes()?).first()?;
            if number_of(kind)? == 0 { number_of(number)?.into() } else { text_of(text)?.into() }
        }
        "r" => {
            let [raw] = Fields(wire.bytes()?).first()?;
            let raw = raw.map(Wire::bytes).transpose()?.unwrap_or_default();
            if raw.is_empty() {
                return Ok(None);
            }
            serde_json::from_slice(raw).map_err(|_| Malformed::Type)?
        }
        "t" => return time("%Y-%m-%dT%H:%M:%SZ"),
        "u" => return time("%Y-%m-%dT%H:%M:%S%.6fZ"),
        "n" => {
            let [nanos] = Fields(wire.bytes()?).first()?;
            format!("{}ns", number_of(nanos)?).into()
        }
        "l" => {
            let (mut fields, mut list) = (Fields(wire.bytes()?), Vec::new());
            while let Some((number, wire)) = fields.next()? {
                if number == 1 {
                    list.push(wire.text()?.into());
                }
            }
            Value::Array(list)
        }
        message => Value::Object(object(message, wire.bytes()?, depth + 1)?),
    }))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn object(kind: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed::Deep);
    }
    let (mut out, mut fields) = (Map::new(), Fields(bytes));
    let known = schema().get(kind);
    while let Some((number, wire)) = fields.next()? {
        // A field that is newer than the schema is dropped, as an older Kubernetes drops it.
        let Some(field) = known.and_then(|known| known.get(&number)) else { continue };
        match field.mark {
            Mark::One => {
                if let Some(value) = value(field.kind, wire, depth)?
                    && (!is_zero(&value) || ZERO_COUNTS.contains(&field.name))
                {
                    out.insert(field.name.to_owned(), value);
                }
            }
            Mark::Inline => out.extend(object(field.kind, wire.bytes()?, depth + 1)?),
            Mark::Many => {
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let (Value::Array(list), Some(value)) = (list, value(field.kind, wire, depth)?) {
                    list.push(value);
                }
            }
            Mark::Map => {
                let [key, entry] = Fields(wire.bytes()?).first()?;
                let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                // An entry without a value has the empty one.
                let entry = entry.unwrap_or(Wire::Bytes(&[]));
                if let (Value::Object(map), Some(value)) = (map, value(field.kind, entry, depth)?) {
                    map.insert(text_of(key)?, value);
                }
            }
        }
    }
    Ok(out)
}

/// A body as JSON; `None` when its kind is not in the schema.
///
/// # Errors
/// When it is malformed.
pub(super) fn to_json(body: &[u8]) -> Result<Option<Value>, Malformed> {
    let body = body.strip_prefix(MAGIC).ok_or(Malformed::Magic)?;
    let [types, raw] = Fields(body).first()?;
    let [version, kind] = Fields(types.ok_or(Malformed::Truncated)?.bytes()?).first()?;
    let (api_version, kind) = (text_of(version)?, text_of(kind)?);
    let (group, version) = api_version.split_once('/').unwrap_or(("core", &api_version));
    // Options go by the group of what they are for.
    let message = match kind.as_str() {
        "DeleteOptions" => "meta/v1.DeleteOptions".to_owned(),
        _ => format!("{}/{version}.{kind}", group.split('.').next().unwrap_or_default()),
    };
    if !schema().contains_key(message.as_str()) {
        return Ok(None);
    }
    let mut out = object(&message, raw.map(Wire::bytes).transpose()?.unwrap_or_default(), 0)?;
    out.insert("apiVersion".into(), api_version.into());
    out.insert("kind".into(), kind.into());
    Ok(Some(Value::Object(out)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }
    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &types), field(2, raw)].concat()
    }

    #[test]
    fn maps_bytes_and_times() {
        let meta = [field(1, b"s"), field(2, b""), field(8, &[])].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let raw = [field(1, &meta), field(2, &entry), field(3, b"Opaque"), vec![5 << 3, 0]].concat();
        let secret = to_json(&body("v1", "Secret", &raw)).unwrap().unwrap();
        assert_eq!(
            secret,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="}, "type": "Opaque", "immutable": false})
        );
    }

    #[test]
    fn what_json_has_in_place_is_put_there() {
        let claim = field(1, b"c");
        // spec.volumes[0]: a name, and the source that JSON has beside it.
        let volume = [field(1, b"v"), field(2, &field(10, &claim))].concat();
        let pod = to_json(&body("v1", "Pod", &field(2, &field(1, &volume)))).unwrap().unwrap();
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]));
    }

    #[test]
    fn zeros_that_count_are_kept() {
        let spec = [vec![1 << 3, 0], vec![5 << 3, 0]].concat();
        let deployment = to_json(&body("apps/v1", "Deployment", &field(2, &spec))).unwrap().unwrap();
        assert_eq!(deployment["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn the_malformed_is_refused_and_the_unknown_told() {
        assert_eq!(to_json(b"{}"), Err(Malformed::Magic));
        assert_eq!(to_json(&body("v1", "Nothing", &[])), Ok(None));
        let whole = body("v1", "Secret", &field(1, &field(1, b"name")));
        for end in MAGIC.len()..whole.len() {
            assert!(to_json(&whole[..end]).is_err() || end == MAGIC.len() + 14, "cut at {end}");
        }
        assert_eq!(to_json(&body("v1", "Secret", &[8, 1])), Err(Malformed::Type));
        // Never ends: every byte says that more follow.
        assert_eq!(to_json(&body("v1", "Secret", &[0xff; 20])), Err(Malformed::Truncated));
    }

    #[test]
    fn the_schema_is_whole() {
        for (message, fields) in schema() {
            for field in fields.values() {
                assert!(field.kind.len() == 1 || schema().contains_key(field.kind), "{message}.{} has type {}", field.name, field.kind);
            }
        }
        assert!(schema().len() > 300);
    }
}
