//! Bodies of requests: JSON and YAML, bounded, with what appears twice.

use std::fmt;

use bytes::Bytes;
use http::{Request, header};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use wharf_core::api::{ApiError, PatchKind};

use super::{MAX_BODY, status};
use crate::patch::Patch;

/// Most values in a YAML document with its aliases expanded; a document without aliases has fewer than bytes.
pub const MAX_ALIASED_VALUES: usize = 400_000;
/// Most brackets within one another in YAML; go-yaml's own.
pub const MAX_FLOW_LEVEL: usize = 10_000;
/// Most fields that appear twice that are told of.
const MAX_DUPLICATES: usize = 64;
/// Most fields that appear twice in YAML whose lines are told: each is looked for by itself.
const MAX_LINES: usize = 8;
/// How much of a body is quoted to its sender, in bytes.
const QUOTED: usize = 30;

/// A body as it was read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    /// Of fields that appear twice the last one counts.
    pub(super) value: Value,
    /// `duplicate field "spec.replicas"`.
    pub(super) duplicates: Vec<String>,
}

/// The type of a request's body, without parameters.
pub(super) fn content_type(request: &Request<Bytes>) -> String {
    let found = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The object in a request; `kind` is what it is to be.
///
/// # Errors
/// 400 for what is none, 413 and 415.
pub(super) fn read_object(request: &Request<Bytes>, kind: &str) -> Result<Read, ApiError> {
    let body = request.body();
    if body.len() > MAX_BODY {
        return Err(status::too_large(MAX_BODY));
    }
    let read = match content_type(request).as_str() {
        "" | "application/json" | "*/*" | "text/json" => {
            read_json(body).map_err(|e| unrecognized(kind, &format!("couldn't get version/kind; json parse error: {e}"), body))?
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            read_yaml(body).map_err(|e| unrecognized(kind, &format!("yaml: {e}"), body))?
        }
        _ => return Err(status::unsupported_media_type("application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    };
    if read.value.is_object() {
        return Ok(read);
    }
    let found = match &read.value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        _ => "null",
    };
    let why = format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type runtime.TypeMeta");
    Err(unrecognized(kind, &why, body))
}

/// JSON from code in this process; refused as it would be over HTTP.
///
/// # Errors
/// 400 and 413.
pub(crate) fn read_local(body: &[u8], kind: &str) -> Result<Value, ApiError> {
    if body.len() > MAX_BODY {
        return Err(status::too_large(MAX_BODY));
    }
    serde_json::from_slice(body).or_else(|_| {
        let read = read_json(body).map_err(|e| unrecognized(kind, &format!("couldn't get version/kind; json parse error: {e}"), body))?;
        Ok(read.value)
    })
}

fn unrecognized(kind: &str, why: &str, body: &[u8]) -> ApiError {
    status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body)))
}

/// A little of a body: as it is where it looks like JSON, in hexadecimal digits otherwise.
fn summary(body: &[u8]) -> String {
    let more = if body.len() > QUOTED { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(&body[..body.len().min(QUOTED)])),
        Some(_) => body.iter().take(QUOTED).map(|b| format!("{b:02x}")).collect::<String>() + more,
    }
}

/// Reads JSON. Bytes that are no UTF-8 become U+FFFD, as in Go.
pub(super) fn read_json(body: &[u8]) -> Result<Read, String> {
    let text = String::from_utf8_lossy(body);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let mut state = State::new(usize::MAX, usize::MAX);
    let value = Any(&mut state).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value)).map_err(|e| {
        let text = e.to_string();
        match e.classify() {
            serde_json::error::Category::Eof => "unexpected end of JSON input".to_owned(),
            _ if text.starts_with("recursion limit exceeded") => "exceeded max depth".to_owned(),
            _ => text,
        }
    })?;
    Ok(Read { value, duplicates: state.duplicates })
}

/// How deeply brackets are nested at most, taken for brackets wherever they stand.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    for byte in body {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                most = most.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// Reads YAML of one document.
pub(super) fn read_yaml(body: &[u8]) -> Result<Read, String> {
    // The time that the library takes grows with the square of this.
    if nesting(body) > MAX_FLOW_LEVEL {
        return Err(format!("exceeded max depth of {MAX_FLOW_LEVEL}"));
    }
    let read = |stop_at: usize| {
        let mut state = State::new(MAX_ALIASED_VALUES.max(body.len()), MAX_BODY);
        state.stop_at = stop_at;
        let value = Any(&mut state).deserialize(serde_yaml_ng::Deserializer::from_slice(body));
        (value, state.repeated)
    };
    let (value, repeated) = read(usize::MAX);
    let value = value.map_err(|e| e.to_string())?;
    // What was read does not tell where it stood; an error does.
    let lines = (1..=repeated.min(MAX_LINES)).filter_map(|nth| {
        let error = read(nth).0.err()?;
        let line = error.location()?.line();
        let key = error.to_string().split_once(REPEATED)?.1.split_once('\0')?.0.to_owned();
        Some(format!("\n  line {line}: key {key:?} already set in map"))
    });
    let lines: String = lines.collect();
    let duplicates = if lines.is_empty() { Vec::new() } else { vec![format!("yaml: unmarshal errors:{lines}")] };
    Ok(Read { value, duplicates })
}

/// What marks the error that a reader stops with at a field which appears again; its name follows, up to a zero.
const REPEATED: &str = "repeated\0";

struct State {
    path: String,
    duplicates: Vec<String>,
    values: usize,
    bytes: usize,
    /// How many fields have appeared again.
    repeated: usize,
    /// Fail at this one of them.
    stop_at: usize,
}

impl State {
    fn new(values: usize, bytes: usize) -> Self {
        Self { path: String::new(), duplicates: Vec::new(), values, bytes, repeated: 0, stop_at: usize::MAX }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), &'static str> {
        let left = self.values.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        (self.values, self.bytes) = left.ok_or("document contains excessive aliasing")?;
        Ok(())
    }
}

/// Any value, by way of a visitor of its own: `Value`'s takes the last of two fields without a word.
struct Any<'a>(&'a mut State);

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.spend(0).map_err(E::custom)?;
        Ok(Value::Bool(value))
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.spend(0).map_err(E::custom)?;
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.spend(0).map_err(E::custom)?;
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.spend(0).map_err(E::custom)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.spend(value.len()).map_err(E::custom)?;
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.0.spend(value.len()).map_err(E::custom)?;
        Ok(Value::String(value))
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.0.spend(0).map_err(E::custom)?;
        Ok(Value::Null)
    }
    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.spend(0).map_err(A::Error::custom)?;
        let mut list = Vec::new();
        let length = self.0.path.len();
        loop {
            push_index(&mut self.0.path, list.len());
            let item = items.next_element_seed(Any(self.0))?;
            self.0.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.0.spend(0).map_err(A::Error::custom)?;
        let mut map = Map::new();
        let length = self.0.path.len();
        while let Some(name) = fields.next_key_seed(Key { known: &map, state: &mut *self.0 })? {
            self.0.spend(name.len()).map_err(A::Error::custom)?;
            if length > 0 {
                self.0.path.push('.');
            }
            self.0.path.push_str(&name);
            let value = fields.next_value_seed(Any(self.0))?;
            if map.insert(name, value).is_some() && self.0.duplicates.len() < MAX_DUPLICATES {
                let told = format!("duplicate field \"{}\"", self.0.path);
                if !self.0.duplicates.contains(&told) {
                    self.0.duplicates.push(told);
                }
            }
            self.0.path.truncate(length);
        }
        Ok(Value::Object(map))
    }
}

fn push_index(path: &mut String, index: usize) {
    use fmt::Write;
    // Writing to a string cannot fail.
    let _ = write!(path, "[{index}]");
}

/// A field's name, where others are known: YAML's may be numbers and booleans.
struct Key<'a> {
    known: &'a Map<String, Value>,
    state: &'a mut State,
}

impl Key<'_> {
    fn named<E: serde::de::Error>(self, name: String) -> Result<String, E> {
        if self.known.contains_key(&name) {
            self.state.repeated += 1;
            if self.state.repeated == self.state.stop_at {
                return Err(E::custom(format_args!("{REPEATED}{name}\0")));
            }
        }
        Ok(name)
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<String, E> {
        self.named(value.to_owned())
    }
    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<String, E> {
        self.named(value)
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<String, E> {
        self.named(value.to_string())
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<String, E> {
        self.named(value.to_string())
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<String, E> {
        self.named(value.to_string())
    }
}

/// A patch, and what it says twice.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations.
pub(super) fn read_patch(kind: PatchKind, body: &[u8]) -> Result<(Patch, Vec<String>), ApiError> {
    let read = match (read_json(body), kind) {
        (Ok(read), _) => read,
        // Only an apply may be YAML.
        (Err(_), PatchKind::Apply { .. }) => read_yaml(body).map_err(|e| status::bad_request(format!("error decoding YAML: {e}")))?,
        (Err(error), _) => return Err(status::bad_request(format!("error decoding patch: {error}"))),
    };
    // What an operation says twice, nobody is told.
    let duplicates = if kind == PatchKind::Json { Vec::new() } else { read.duplicates };
    Ok((Patch::of(kind, read.value)?, duplicates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_appears_twice_is_told_and_the_last_counts() {
        let read = read_json(br#"{"a":1,"spec":{"b":[{"c":1},{"c":1,"c":2}]},"a":2,"a":3}"#).unwrap();
        assert_eq!(read.duplicates, ["duplicate field \"spec.b[1].c\"", "duplicate field \"a\""]);
        assert_eq!(read.value.to_string(), r#"{"a":3,"spec":{"b":[{"c":1},{"c":2}]}}"#);
        let read = read_yaml(b"a: 1\nb:\n  c: x\n  c: y\n1: z\ntrue: w\n\na: 2\n").unwrap();
        let told = "yaml: unmarshal errors:\n  line 4: key \"c\" already set in map\n  line 8: key \"a\" already set in map";
        assert_eq!((read.duplicates, read.value), (vec![told.to_owned()], json!({"a":2,"b":{"c":"y"},"1":"z","true":"w"})));
    }

    #[test]
    fn depth_and_aliases_are_bounded() {
        let deep = "[".repeat(100_000);
        assert_eq!(read_json(deep.as_bytes()).unwrap_err(), "exceeded max depth");
        assert!(read_yaml(deep.as_bytes()).is_err());
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let before = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(","));
        }
        let refused = read_yaml(bomb.as_bytes()).unwrap_err();
        assert!(refused.contains("excessive aliasing") || refused.contains("repetition limit exceeded"), "{refused}");
        assert_eq!(read_yaml(b"a: &x {b: c}\nd: *x\n").unwrap().value, json!({"a":{"b":"c"},"d":{"b":"c"}}));
    }

    #[test]
    fn what_is_no_json_is_told_in_gos_words() {
        assert_eq!(read_json(b"{\"a\":").unwrap_err(), "unexpected end of JSON input");
        assert!(read_json(b"{} {}").is_err());
        assert_eq!(read_json(b"\"\xff\"").unwrap().value, json!("\u{fffd}"));
        assert_eq!((summary(b""), summary(b"ab")), ("<empty>".into(), "6162".into()));
    }
}
