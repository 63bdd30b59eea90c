//! What keeps a schema from being structural.

use serde_json::{Map, Value, json};

use crate::schema::compile_pattern;
use crate::{FieldError, MAX_DEPTH, MAX_ERRORS};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

type Node = Map<String, Value>;

fn text<'a>(node: &'a Node, name: &str) -> &'a str {
    node.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(node: &Node, name: &str) -> bool {
    node.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn map<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.get(name).and_then(Value::as_object)
}

fn list<'a>(node: &'a Node, name: &str) -> &'a [Value] {
    node.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Why a schema is not structural; `path` is that of the schema.
pub fn non_structural(path: &str, schema: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Value::Object(node) = schema {
        invariants(node, Level::Root, path, 0, &mut errors);
        complete(node, path, 0, &mut errors);
    }
    errors.sort_by_cached_key(ToString::to_string);
    errors.truncate(MAX_ERRORS);
    errors
}

fn is_int_or_string(any_of: &[Value]) -> bool {
    any_of == [json!({"type": "integer"}), json!({"type": "string"})]
}

fn invariants(node: &Node, level: Level, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_DEPTH || errors.len() > MAX_ERRORS {
        return;
    }
    let kind = text(node, "type");
    let items = map(node, "items");
    if kind == "array" && items.is_none() {
        errors.push(FieldError::required(&format!("{path}.items"), "must be specified"));
    }
    if let Some(items) = items {
        invariants(items, Level::Item, &format!("{path}.items"), depth + 1, errors);
    }
    let properties = map(node, "properties");
    for (name, property) in properties.into_iter().flatten() {
        if let Value::Object(property) = property {
            invariants(property, Level::Field, &format!("{path}.properties[{name}]"), depth + 1, errors);
        }
    }
    let additional = node.get("additionalProperties").filter(|a| !a.is_null());
    if let Some(additional) = additional {
        let path = format!("{path}.additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&path, "must not be used at the root"));
        }
        if let Value::Object(additional) = additional {
            invariants(additional, Level::Field, &path, depth + 1, errors);
        }
    }
    let (int_or_string, preserve, embedded) = (
        flag(node, "x-kubernetes-int-or-string"),
        flag(node, "x-kubernetes-preserve-unknown-fields"),
        flag(node, "x-kubernetes-embedded-resource"),
    );
    if int_or_string {
        for (name, set) in [("x-kubernetes-preserve-unknown-fields", preserve), ("x-kubernetes-embedded-resource", embedded)] {
            if set {
                let why = "must be false if x-kubernetes-int-or-string is true";
                errors.push(FieldError::invalid(&format!("{path}.{name}"), &true.into(), why));
            }
        }
    }
    values(node, path, depth, errors);
    if embedded && kind != "object" {
        let (path, why) = (format!("{path}.type"), "must be object if x-kubernetes-embedded-resource is true");
        errors.push(if kind.is_empty() { FieldError::required(&path, why) } else { FieldError::invalid(&path, &kind.into(), why) });
    } else if kind.is_empty() && !int_or_string && !preserve {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&format!("{path}.type"), why));
    }
    if embedded && additional.is_some() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(&format!("{path}.additionalProperties"), why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(&format!("{path}.type"), &kind.into(), "must be object at the root"));
    }
    let whole = level == Level::Root || embedded;
    for (name, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let Some(Value::Object(property)) = properties.and_then(|p| p.get(name)) else { continue };
        let path = format!("{path}.properties[{name}]");
        let found = text(property, "type");
        if whole && found != wanted {
            errors.push(FieldError::invalid(&format!("{path}.type"), &found.into(), &format!("must be {wanted}")));
        }
        if name == "metadata" && level == Level::Root {
            let known = |p: &Node| p.keys().all(|k| matches!(k.as_str(), "name" | "generateName"));
            let only_names = property.iter().all(|(key, value)| match key.as_str() {
                "type" => true,
                "properties" => value.as_object().is_some_and(known),
                _ => false,
            });
            if !only_names {
                let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                errors.push(FieldError::forbidden(&path, why));
            }
        }
    }
    if embedded && !preserve && properties.is_none_or(Map::is_empty) {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&format!("{path}.properties"), why));
    }
}

/// The value validation of a node: what stands under allOf, anyOf, oneOf and not.
fn values(node: &Node, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    for name in ["anyOf", "allOf", "oneOf"] {
        if name == "anyOf" && is_int_or_string(list(node, name)) {
            continue;
        }
        for (i, nested_node) in list(node, name).iter().enumerate() {
            if let Value::Object(below) = nested_node {
                let skip = name == "allOf" && i == 0 && is_int_or_string(list(below, "anyOf"));
                nested(below, skip, &format!("{path}.{name}[{i}]"), depth + 1, errors);
            }
        }
    }
    if let Some(not) = map(node, "not") {
        nested(not, false, &format!("{path}.not"), depth + 1, errors);
    }
    let pattern = text(node, "pattern");
    if let Err(error) = compile_pattern(pattern) {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&format!("{path}.pattern"), &pattern.into(), &why));
    }
}

/// What may not stand inside of allOf, anyOf, oneOf and not, and how that is told.
const NOT_NESTED: &[(&str, &str)] = &[
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

fn nested(node: &Node, skip_any_of: bool, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_DEPTH || errors.len() > MAX_ERRORS {
        return;
    }
    if skip_any_of {
        let mut rest = node.clone();
        rest.remove("anyOf");
        values(&rest, path, depth, errors);
    } else {
        values(node, path, depth, errors);
    }
    if let Some(items) = map(node, "items") {
        nested(items, false, &format!("{path}.items"), depth + 1, errors);
    }
    let properties = map(node, "properties");
    for (name, property) in properties.into_iter().flatten() {
        if let Value::Object(property) = property {
            nested(property, false, &format!("{path}.properties[{name}]"), depth + 1, errors);
        }
    }
    for (name, why) in NOT_NESTED {
        let undefined = why.starts_with("must be undefined");
        if node.get(*name).is_some_and(|v| is_set(v) || (undefined && !v.is_null())) {
            errors.push(FieldError::forbidden(&format!("{path}.{name}"), why));
        }
    }
    if properties.is_some_and(|p| p.contains_key("metadata")) {
        errors.push(FieldError::forbidden(&format!("{path}.properties[metadata]"), "must not be specified in a nested context"));
    }
}

/// Whatever value validation names is named outside of it too.
fn complete(node: &Node, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_DEPTH || errors.len() > MAX_ERRORS {
        return;
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (i, below) in list(node, name).iter().enumerate() {
            if let Value::Object(below) = below {
                named(node, below, &format!("{path}.{name}[{i}]"), path, depth + 1, errors);
            }
        }
    }
    if let Some(not) = map(node, "not") {
        named(node, not, &format!("{path}.not"), path, depth + 1, errors);
    }
    for (name, property) in map(node, "properties").into_iter().flatten() {
        if let Value::Object(property) = property {
            complete(property, &format!("{path}.properties[{name}]"), depth + 1, errors);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = map(node, name) {
            complete(below, &format!("{path}.{name}"), depth + 1, errors);
        }
    }
}

fn named(node: &Node, validation: &Node, path: &str, base: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_DEPTH || errors.len() > MAX_ERRORS {
        return;
    }
    if let Some(items) = map(validation, "items") {
        match map(node, "items") {
            Some(below) => named(below, items, &format!("{path}.items"), &format!("{base}.items"), depth + 1, errors),
            None => {
                errors.push(FieldError::required(&format!("{base}.items"), &format!("because it is defined in {path}.items")));
            }
        }
    }
    for (name, property) in map(validation, "properties").into_iter().flatten() {
        let Value::Object(property) = property else { continue };
        let (path, base) = (format!("{path}.properties[{name}]"), format!("{base}.properties[{name}]"));
        match map(node, "properties").and_then(|p| p.get(name)).and_then(Value::as_object) {
            Some(below) => named(below, property, &path, &base, depth + 1, errors),
            None => errors.push(FieldError::required(&base, &format!("because it is defined in {path}"))),
        }
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (i, below) in list(validation, name).iter().enumerate() {
            if let Value::Object(below) = below {
                named(node, below, &format!("{path}.{name}[{i}]"), base, depth + 1, errors);
            }
        }
    }
    if let Some(not) = map(validation, "not") {
        named(node, not, &format!("{path}.not"), base, depth + 1, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(schema: Value) -> Vec<String> {
        non_structural("s", &schema).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reasons() {
        let schema = json!({"type": "object", "properties": {
            "untyped": {"properties": {"a": {"type": "string"}}},
            "list": {"type": "array"},
            "alternative": {"type": "object", "anyOf": [{"properties": {"b": {"type": "string"}}}]},
            "metadata": {"type": "object", "properties": {"labels": {"type": "object"}}},
        }});
        assert_eq!(
            told(schema),
            [
                "s.properties[alternative].anyOf[0].properties[b].type: Forbidden: must be empty to be structural",
                "s.properties[alternative].properties[b]: Required value: because it is defined in s.properties[alternative].anyOf[0].properties[b]",
                "s.properties[list].items: Required value: must be specified",
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
                "s.properties[untyped].type: Required value: must not be empty for specified object fields",
            ]
        );
    }

    #[test]
    fn structural_ones() {
        let schema = json!({"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "size": {"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "^a"}]},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"properties": {"a": {"pattern": "x"}}}]},
        }});
        assert_eq!(told(schema), Vec::<String>::new());
        assert_eq!(told(json!({"type": "string"})), ["s.type: Invalid value: \"string\": must be object at the root"]);
    }
}
