//! Joins types and messages into the two texts.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::openapi::{Type, Types};
use crate::wire::{Field, Message, Messages, field_key, key};
use crate::{Error, facts, unexpected};

/// Deepest nesting of messages whose fields JSON has in place.
const MAX_INLINE: usize = 3;

/// The table, and the documentation with one line for each of the table's.
pub(crate) fn render(types: &Types, messages: &Messages) -> Result<(String, String), Error> {
    let mut all: Types = BTreeMap::new();
    for (name, ty) in types.iter().filter(|(name, _)| is_stable(name) && !facts::LEFT_OUT.contains(&name.as_str())) {
        all.insert(name.clone(), Type { schema: ty.schema.clone(), kind: ty.kind.clone(), list: ty.list.clone() });
    }
    facts::add_types(&mut all);
    let (mut table, mut docs, mut missing) = (String::new(), String::new(), String::new());
    for (name, ty) in &all {
        // Of what k8s-pb knows as beta only, the numbers are the same.
        let message = messages.get(&key(name)).or_else(|| messages.get(&key(name).replace(".v1.", ".v1beta1.")));
        let kind = ty.kind.as_ref().map_or("-".into(), |(group, version, kind)| {
            if group.is_empty() { format!("{version}/{kind}") } else { format!("{group}/{version}/{kind}") }
        });
        let scalar = facts::SCALARS.iter().any(|(n, _)| n == name);
        let atomic = message.is_some_and(|m| m.docs.marker("structType") == Some("atomic"));
        let flags = if scalar {
            " scalar"
        } else if atomic {
            " atomic"
        } else {
            ""
        };
        push(&mut table, &format!("{name} {kind}{flags}"));
        push_docs(&mut docs, short(name), description(&ty.schema, message.map(|m| m.docs.text.as_str())));
        if scalar {
            continue;
        }
        let Some(Value::Object(properties)) = ty.schema.get("properties") else { continue };
        // BTreeMap: fields are looked up by halving.
        let properties: BTreeMap<_, _> = properties.iter().collect();
        for (field, schema) in properties {
            let wire = message.and_then(|m| find(m, messages, field, &properties_keys(&ty.schema), MAX_INLINE));
            let line = line(name, ty, field, schema, &wire).map_err(|what| unexpected(format!("{name}.{field}"), what))?;
            let place = format!("{}.{field}", short(name));
            if message.is_some() && wire.is_none() && !is_type_meta(field) && !facts::NOT_ON_THE_WIRE.contains(&place.as_str()) {
                push(&mut missing, &place);
            }
            push(&mut table, &format!("\t{line}"));
            push_docs(&mut docs, &format!("\t{field}"), description(schema, wire.map(|(_, f)| f.docs.text.as_str())));
        }
    }
    if missing.is_empty() { Ok((table, docs)) } else { Err(Error::Numbers(missing)) }
}

/// Of a version without alpha or beta.
fn is_stable(name: &str) -> bool {
    let version = name.rsplit('.').nth(1).unwrap_or_default();
    !version.contains("alpha") && !version.contains("beta")
}

/// Fields that the envelope of a message has, not the message.
fn is_type_meta(field: &str) -> bool {
    matches!(field, "apiVersion" | "kind")
}

/// What a type is referred to by: `core.v1.Pod`.
fn short(name: &str) -> &str {
    name.rmatch_indices('.').nth(2).and_then(|(at, _)| name.get(at + 1..)).unwrap_or(name)
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn push_docs(out: &mut String, name: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name} {}", text.replace('\\', "\\\\").replace('\n', "\\n"));
}

fn description<'a>(schema: &'a Value, comment: Option<&'a str>) -> &'a str {
    schema["description"].as_str().or(comment).unwrap_or_default()
}

fn properties_keys(schema: &Value) -> Vec<String> {
    schema["properties"].as_object().into_iter().flatten().map(|(name, _)| field_key(name)).collect()
}

/// The numbers that lead to a field, and it: several numbers where JSON has the fields of an inner message in place.
fn find<'a>(message: &'a Message, all: &'a Messages, name: &str, taken: &[String], depth: usize) -> Option<(String, &'a Field)> {
    let wanted = field_key(name);
    if let Some(field) = message.fields.iter().find(|f| f.key == wanted) {
        return Some((field.number.to_string(), field));
    }
    if depth == 0 {
        return None;
    }
    // JSON does not know the inner message's own name.
    message.fields.iter().filter(|f| f.kind == "message" && !f.repeated && !taken.contains(&f.key)).find_map(|outer| {
        let inner = all.get(outer.message.as_deref()?)?;
        let (numbers, field) = find(inner, all, name, taken, depth - 1)?;
        Some((format!("{}.{numbers}", outer.number), field))
    })
}

/// `name number type flags...`.
fn line(of: &str, ty: &Type, name: &str, schema: &Value, wire: &Option<(String, &Field)>) -> Result<String, String> {
    let expression = expression(schema)?;
    let number = match wire {
        Some((number, field)) => {
            fits(&expression, field)?;
            number
        }
        None => "-",
    };
    let mut line = format!("{name} {number} {expression}");
    let is_required = schema_requires(ty, name);
    if is_required {
        line.push_str(" required");
    }
    let is_plain = matches!(expression.as_str(), "boolean" | "int32" | "int64" | "double" | "string" | "IntOrString");
    let qualified = format!("{}.{name}", of.rsplit('.').next().unwrap_or_default());
    if is_plain && !is_required && facts::POINTERS.iter().any(|p| *p == name || *p == qualified) {
        line.push_str(" pointer");
    }
    let Some((_, field)) = wire else { return Ok(line) };
    let docs = &field.docs;
    if let Some(list) = docs.marker("listType") {
        line.push_str(&format!(" list={list}"));
        let keys = docs.all("listMapKey");
        if !keys.is_empty() {
            line.push_str(&format!(":{}", keys.join(",")));
        }
    }
    if let Some(map) = docs.marker("mapType").or_else(|| docs.marker("structType")) {
        line.push_str(&format!(" map={map}"));
    }
    if let Some(patch) = docs.marker("patchStrategy") {
        line.push_str(&format!(" patch={}", patch.replace(',', "+")));
        if let Some(merge_key) = docs.marker("patchMergeKey") {
            line.push_str(&format!(":{merge_key}"));
        }
    }
    if let Some(default) = docs.marker("default").filter(|d| !d.starts_with("ref(")) {
        line.push_str(&format!(" default={default}"));
    }
    Ok(line)
}

fn schema_requires(ty: &Type, name: &str) -> bool {
    // k8s-openapi says so of every resource's metadata, where Kubernetes does not.
    let own = !(name == "metadata" && ty.kind.is_some());
    own && ty.schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name))
}

/// A type as Go writes it: `[]map[string]core.v1.Pod`.
fn expression(schema: &Value) -> Result<String, String> {
    if let Some(name) = schema["$ref"].as_str() {
        let scalar = facts::SCALARS.iter().find(|(n, _)| *n == name);
        return Ok(scalar.map_or_else(|| short(name).to_owned(), |(_, word)| (*word).to_owned()));
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    Ok(match (kind, schema["format"].as_str().unwrap_or_default()) {
        ("string", "") => "string".into(),
        ("string", "byte") => "byte".into(),
        ("integer", format @ ("int32" | "int64")) => format.into(),
        ("number", "double") => "double".into(),
        ("boolean", _) => "boolean".into(),
        ("array", _) => format!("[]{}", expression(&schema["items"])?),
        ("object", _) if schema["additionalProperties"].is_object() => {
            format!("map[string]{}", expression(&schema["additionalProperties"])?)
        }
        _ => return Err(format!("of no known type: {schema}")),
    })
}

/// Whether both crates mean the same.
fn fits(expression: &str, field: &Field) -> Result<(), String> {
    let (base, repeated) = match expression.strip_prefix("[]") {
        // Lists that are fields of their own messages are met only as values of maps, and here.
        Some(inner) if field.repeated => (inner, true),
        _ => (expression, false),
    };
    let expected = match base {
        "string" | "int32" | "int64" | "double" => base,
        "boolean" => "bool",
        "byte" => "bytes",
        map if map.starts_with("map[") => "map",
        _ => "message",
    };
    if field.kind == expected && field.repeated == repeated {
        return Ok(());
    }
    Err(format!("{expression} here, {} (repeated: {}) on the wire", field.kind, field.repeated))
}
