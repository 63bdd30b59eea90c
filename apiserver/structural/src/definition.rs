//! What apiextensions refuses in the schema of a definition, structural or not.

use serde_json::{Map, Value};

use crate::{FieldError, MAX_DEPTH, MAX_ERRORS, Schema};

/// Keywords of JSON schema that a definition must not use.
const FORBIDDEN: &[(&str, &str)] = &[
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("id", "id is not supported"),
    ("$ref", "$ref is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("additionalItems", "additionalItems is not supported"),
];
const SCHEMA: &str = "$schema";
const TYPES: &[&str] = &["object", "array", "string", "integer", "number", "boolean"];

/// Finds what is wrong with a schema as such: keywords, types, list types, defaults. `path` is that of the schema.
pub fn check_definition(path: &str, schema: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, path, true, 0, &mut errors);
    errors.truncate(MAX_ERRORS);
    errors
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn node(schema: &Value, path: &str, root: bool, depth: usize, errors: &mut Vec<FieldError>) {
    if errors.len() > MAX_ERRORS {
        return;
    }
    if depth > MAX_DEPTH {
        errors.push(FieldError::forbidden(path, &format!("must not be nested deeper than {MAX_DEPTH}")));
        return;
    }
    let Value::Object(map) = schema else {
        errors.push(FieldError::invalid(path, schema, "must be an object"));
        return;
    };
    for (name, why) in FORBIDDEN {
        let found = map.get(*name).filter(|v| !v.is_null());
        if found.is_some() {
            errors.push(FieldError::forbidden(&format!("{path}.{name}"), why));
        }
    }
    if map.get(SCHEMA).is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty())) {
        errors.push(FieldError::forbidden(&format!("{path}.{SCHEMA}"), "$schema is not supported"));
    }
    if map.get("uniqueItems") == Some(&Value::Bool(true)) {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&format!("{path}.uniqueItems"), why));
    }
    let kind = text(map, "type");
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&format!("{path}.type"), why));
    } else if !kind.is_empty() && !TYPES.contains(&kind) {
        let supported: Vec<String> = TYPES.iter().map(ToString::to_string).collect();
        errors.push(FieldError::not_supported(&format!("{path}.type"), &kind.into(), &supported));
    }
    if matches!(map.get("items"), Some(Value::Array(_))) {
        errors.push(FieldError::forbidden(&format!("{path}.items"), "items must be a schema object and not an array"));
    }
    let properties = map.get("properties").and_then(Value::as_object);
    match map.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(additional) => {
            let path = format!("{path}.additionalProperties");
            if properties.is_some_and(|p| !p.is_empty()) && additional != &Value::Bool(true) {
                errors.push(FieldError::forbidden(&path, "additionalProperties and properties are mutual exclusive"));
            }
            if additional == &Value::Bool(false) {
                errors.push(FieldError::forbidden(&path, "additionalProperties cannot be set to false"));
            } else if additional.is_object() {
                node(additional, &path, false, depth + 1, errors);
            }
        }
    }
    lists(map, kind, path, errors);
    if let Some(default) = map.get("default").filter(|d| !d.is_null()) {
        check_default(schema, default, &format!("{path}.default"), root, errors);
    }
    for (name, property) in properties.into_iter().flatten() {
        node(property, &format!("{path}.properties[{name}]"), false, depth + 1, errors);
    }
    if let Some(items @ Value::Object(_)) = map.get("items") {
        node(items, &format!("{path}.items"), false, depth + 1, errors);
    }
    if let Some(not @ Value::Object(_)) = map.get("not") {
        node(not, &format!("{path}.not"), false, depth + 1, errors);
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (i, below) in map.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
            node(below, &format!("{path}.{name}[{i}]"), false, depth + 1, errors);
        }
    }
}

fn lists(map: &Map<String, Value>, kind: &str, path: &str, errors: &mut Vec<FieldError>) {
    let list_type = text(map, "x-kubernetes-list-type");
    let list_path = format!("{path}.x-kubernetes-list-type");
    let keys: Vec<&str> =
        map.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let keys_path = format!("{path}.x-kubernetes-list-map-keys");
    if !list_type.is_empty() && kind != "array" {
        let path = format!("{path}.type");
        let why = "must be array if x-kubernetes-list-type is specified";
        errors.push(if kind.is_empty() { FieldError::required(&path, why) } else { FieldError::invalid(&path, &kind.into(), why) });
    }
    if !list_type.is_empty() && !matches!(list_type, "atomic" | "set" | "map") {
        let supported = ["atomic", "set", "map"].map(str::to_owned);
        errors.push(FieldError::not_supported(&list_path, &list_type.into(), &supported));
    }
    if list_type == "map" {
        if keys.is_empty() {
            errors.push(FieldError::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
        }
    } else if !keys.is_empty() {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(if list_type.is_empty() {
            FieldError::required(&list_path, why)
        } else {
            FieldError::invalid(&list_path, &list_type.into(), why)
        });
    }
    let items = map.get("items").and_then(Value::as_object);
    if list_type == "map"
        && let Some(items) = items
    {
        let found = text(items, "type");
        if found != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&format!("{path}.items.type"), &found.into(), why));
        }
        let required: Vec<&str> = items.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (i, key) in keys.iter().enumerate() {
            let here = format!("{keys_path}[{i}]");
            if keys.iter().take(i).any(|k| k == key) {
                errors.push(FieldError::duplicate(&here, &(*key).into()));
            }
            let Some(Value::Object(property)) = items.get("properties").and_then(|p| p.get(*key)) else {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&here, &(*key).into(), why));
                continue;
            };
            if matches!(text(property, "type"), "array" | "object") {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let path = format!("{path}.items.properties[{key}].type");
                errors.push(FieldError::invalid(&path, &text(property, "type").into(), why));
            }
            if property.get("default").is_none_or(Value::is_null) && !required.contains(key) {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                errors.push(FieldError::required(&format!("{path}.items.properties[{key}].default"), why));
            }
        }
    }
    if list_type == "set"
        && let Some(items) = items
    {
        if items.get("nullable") == Some(&Value::Bool(true)) {
            let why = "cannot be nullable when x-kubernetes-list-type is set";
            errors.push(FieldError::forbidden(&format!("{path}.items.nullable"), why));
        }
        let (found, atomic) = (text(items, "type"), text(items, "x-kubernetes-map-type") == "atomic");
        if found == "object" && !atomic {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let path = format!("{path}.items.x-kubernetes-map-type");
            errors.push(FieldError::required(&path, why));
        }
    }
    let map_type = text(map, "x-kubernetes-map-type");
    if !map_type.is_empty() {
        if kind != "object" {
            let why = "must be object if x-kubernetes-map-type is specified";
            let path = format!("{path}.type");
            errors.push(if kind.is_empty() { FieldError::required(&path, why) } else { FieldError::invalid(&path, &kind.into(), why) });
        }
        if !matches!(map_type, "granular" | "atomic") {
            let supported = ["atomic", "granular"].map(str::to_owned);
            errors.push(FieldError::not_supported(&format!("{path}.x-kubernetes-map-type"), &map_type.into(), &supported));
        }
    }
}

/// A default is a value of its own schema, and has no field that would be pruned.
fn check_default(schema: &Value, default: &Value, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    if root {
        errors.push(FieldError::forbidden(path, "must not be set at the root"));
        return;
    }
    let Ok(compiled) = Schema::compile(schema) else { return };
    let mut pruned = default.clone();
    let mut unknown = Vec::new();
    compiled.prune(&mut pruned, false, &mut |path| unknown.push(path));
    if !unknown.is_empty() {
        errors.push(FieldError::invalid(path, default, "must not have unknown fields"));
        return;
    }
    let mut filled = default.clone();
    compiled.fill(&mut filled);
    for error in compiled.validate(&filled) {
        let at = if error.field == "<nil>" { path.to_owned() } else { format!("{path}.{}", error.field) };
        errors.push(FieldError { field: at, ..error });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals() {
        let schema = json!({"type": "object", "$ref": "#/x", "properties": {
            "a": {"type": "text"},
            "b": {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": {"type": "string"}},
            "c": {"type": "array", "uniqueItems": true, "items": {"type": "string"}},
            "d": {"type": "integer", "default": "x"},
            "e": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
                "x-kubernetes-list-map-keys": ["k", "l"]},
        }});
        let told: Vec<String> = check_definition("s", &schema).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "s.$ref: Forbidden: $ref is not supported",
                "s.properties[a].type: Unsupported value: \"text\": supported values: \"object\", \"array\", \"string\", \"integer\", \"number\", \"boolean\"",
                "s.properties[b].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
                "s.properties[c].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
                "s.properties[d].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
                "s.properties[e].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                "s.properties[e].x-kubernetes-list-map-keys[1]: Invalid value: \"l\": entries must all be names of item properties",
            ]
        );
    }
}
