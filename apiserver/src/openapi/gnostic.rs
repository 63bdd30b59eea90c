//! Version 2 in protobuf: the messages of gnostic's `openapi.v2`, written from the document's JSON.
//!
//! kubectl before 1.27, and helm, read this form. What the documents here never have is not written.

use serde_json::{Map, Value};

/// A document. It is emptied on the way: the text of a large one is in memory once.
pub(super) fn encode(document: &mut Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, 1, &document["swagger"]);
    let mut info = Vec::new();
    put_text(&mut info, 1, &document["info"]["title"]);
    put_text(&mut info, 2, &document["info"]["version"]);
    put_bytes(&mut out, 2, &info);
    let (paths, definitions) = (document["paths"].take(), document["definitions"].take());
    put_bytes(&mut out, 8, &named(paths, 2, path_item));
    put_bytes(&mut out, 9, &named(definitions, 1, schema));
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, number: u64, value: &Value) {
    if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
        put_bytes(out, number, text.as_bytes());
    }
}

fn put_texts(out: &mut Vec<u8>, number: u64, value: &Value) {
    value.as_array().into_iter().flatten().for_each(|text| put_text(out, number, text));
}

fn put_true(out: &mut Vec<u8>, number: u64, value: &Value) {
    if value.as_bool() == Some(true) {
        put_varint(out, number << 3);
        out.push(1);
    }
}

/// A map as pairs of name and value, each a message at `number`.
fn named(map: Value, number: u64, encode: fn(&Map<String, Value>) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let Value::Object(map) = map else { return out };
    for (name, value) in map {
        let Value::Object(value) = value else { continue };
        put_pair(&mut out, number, &name, &encode(&value));
    }
    out
}

fn put_pair(out: &mut Vec<u8>, number: u64, name: &str, value: &[u8]) {
    let mut pair = Vec::with_capacity(name.len() + value.len() + 8);
    put_bytes(&mut pair, 1, name.as_bytes());
    put_bytes(&mut pair, 2, value);
    put_bytes(out, number, &pair);
}

/// Any value, as YAML; JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, value.to_string().as_bytes());
    out
}

fn put_extensions(out: &mut Vec<u8>, number: u64, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        put_pair(out, number, name, &any(value));
    }
}

fn schema(map: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    let get = |name: &str| map.get(name).unwrap_or(&Value::Null);
    put_text(&mut out, 1, get("$ref"));
    put_text(&mut out, 2, get("format"));
    put_text(&mut out, 3, get("title"));
    put_text(&mut out, 4, get("description"));
    if let Some(default) = map.get("default") {
        put_bytes(&mut out, 5, &any(default));
    }
    put_text(&mut out, 13, get("pattern"));
    put_texts(&mut out, 19, get("required"));
    for value in get("enum").as_array().into_iter().flatten() {
        put_bytes(&mut out, 20, &any(value));
    }
    match get("additionalProperties") {
        Value::Object(inner) => {
            let mut item = Vec::new();
            put_bytes(&mut item, 1, &schema(inner));
            put_bytes(&mut out, 21, &item);
        }
        Value::Bool(value) => put_bytes(&mut out, 21, &[2 << 3, u8::from(*value)]),
        _ => {}
    }
    if get("type").is_string() {
        let mut kind = Vec::new();
        put_text(&mut kind, 1, get("type"));
        put_bytes(&mut out, 22, &kind);
    }
    if let Value::Object(inner) = get("items") {
        let mut items = Vec::new();
        put_bytes(&mut items, 1, &schema(inner));
        put_bytes(&mut out, 23, &items);
    }
    if let Value::Object(properties) = get("properties") {
        let mut all = Vec::new();
        for (name, value) in properties {
            if let Value::Object(value) = value {
                put_pair(&mut all, 1, name, &schema(value));
            }
        }
        put_bytes(&mut out, 25, &all);
    }
    put_extensions(&mut out, 31, map);
    out
}

fn path_item(map: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(Value::Object(operation)) = map.get(method) {
            put_bytes(&mut out, number, &self::operation(operation));
        }
    }
    put_parameters(&mut out, 9, map);
    out
}

fn operation(map: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    let get = |name: &str| map.get(name).unwrap_or(&Value::Null);
    put_text(&mut out, 5, get("operationId"));
    put_texts(&mut out, 6, get("produces"));
    put_texts(&mut out, 7, get("consumes"));
    put_parameters(&mut out, 8, map);
    let mut responses = Vec::new();
    for (code, response) in get("responses").as_object().into_iter().flatten() {
        let mut inner = Vec::new();
        put_text(&mut inner, 1, &response["description"]);
        if let Value::Object(of) = &response["schema"] {
            let mut item = Vec::new();
            put_bytes(&mut item, 1, &schema(of));
            put_bytes(&mut inner, 2, &item);
        }
        let mut value = Vec::new();
        put_bytes(&mut value, 1, &inner);
        put_pair(&mut responses, 1, code, &value);
    }
    put_bytes(&mut out, 9, &responses);
    put_extensions(&mut out, 13, map);
    out
}

fn put_parameters(out: &mut Vec<u8>, number: u64, map: &Map<String, Value>) {
    for parameter in map.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let mut inner = Vec::new();
        let mut which = Vec::new();
        match (parameter["in"].as_str(), &parameter["schema"]) {
            (Some("body"), Value::Object(of)) => {
                put_text(&mut inner, 2, &parameter["name"]);
                put_text(&mut inner, 3, &parameter["in"]);
                put_true(&mut inner, 4, &parameter["required"]);
                put_bytes(&mut inner, 5, &schema(of));
                put_bytes(&mut which, 1, &inner);
            }
            (place, _) => {
                put_true(&mut inner, 1, &parameter["required"]);
                put_text(&mut inner, 2, &parameter["in"]);
                put_text(&mut inner, 4, &parameter["name"]);
                // Parameters of a query may be empty, which takes a number.
                let (kind, unique, of) = if place == Some("query") { (6, 20, 3) } else { (5, 19, 4) };
                put_text(&mut inner, kind, &parameter["type"]);
                put_true(&mut inner, unique, &parameter["uniqueItems"]);
                let mut other = Vec::new();
                put_bytes(&mut other, of, &inner);
                put_bytes(&mut which, 2, &other);
            }
        }
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &which);
        put_bytes(out, number, &item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_gnostics_messages() {
        let mut document = json!({"swagger": "2.0", "info": {"title": "T", "version": "v"}, "paths": {},
            "definitions": {"A": {"type": "object", "x-a": [1]}}});
        let expected = [
            &b"\x0a\x032.0\x12\x06\x0a\x01T\x12\x01v\x42\x00\x4a"[..],
            // Definitions: one pair; its schema has a type (22) and an extension (31).
            b"\x24\x0a\x22\x0a\x01A\x12\x1d\xb2\x01\x08\x0a\x06object\xfa\x01\x0e\x0a\x03x-a\x12\x07\x12\x03[1]",
        ]
        .concat();
        let written = encode(&mut document);
        assert_eq!(written.len(), expected.len(), "{written:x?}");
        assert_eq!(&written[..15], &expected[..15]);
        assert!(written.ends_with(b"[1]"));
    }
}
