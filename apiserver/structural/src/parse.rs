//! From an `openAPIV3Schema` to the compiled tree.

use serde_json::{Map, Value};
use wharf_cel::Rule;

use crate::schema::Pattern;
use crate::{Additional, Checks, ListType, MAX_DEPTH, MapType, Schema, Type};

/// Why a schema cannot be compiled at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// It is no JSON object somewhere.
    #[error("{path}: a schema must be an object")]
    NotAnObject {
        /// Where.
        path: String,
    },
    /// It is nested too deeply.
    #[error("{path}: a schema must not be nested deeper than {MAX_DEPTH}")]
    TooDeep {
        /// Where.
        path: String,
    },
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn count(map: &Map<String, Value>, name: &str) -> Option<u64> {
    map.get(name).and_then(Value::as_u64)
}

fn texts(map: &Map<String, Value>, name: &str) -> Vec<Box<str>> {
    map.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

impl Schema {
    /// Compiles the schema of a version. What is malformed in an otherwise readable schema is left out: [`crate::check_definition`] has
    /// refused it.
    ///
    /// # Errors
    /// A schema that is no object somewhere, or is nested deeper than [`MAX_DEPTH`].
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        node(schema, "openAPIV3Schema", 0)
    }
}

fn list(map: &Map<String, Value>, name: &str, path: &str, depth: usize) -> Result<Vec<Schema>, SchemaError> {
    let items = map.get(name).and_then(Value::as_array).into_iter().flatten().enumerate();
    items.map(|(i, item)| node(item, &format!("{path}.{name}[{i}]"), depth + 1)).collect()
}

fn node(value: &Value, path: &str, depth: usize) -> Result<Schema, SchemaError> {
    if depth > MAX_DEPTH {
        return Err(SchemaError::TooDeep { path: path.to_owned() });
    }
    let Value::Object(map) = value else { return Err(SchemaError::NotAnObject { path: path.to_owned() }) };
    let mut schema = Schema {
        kind: map.get("type").and_then(Value::as_str).and_then(Type::parse),
        nullable: flag(map, "nullable"),
        int_or_string: flag(map, "x-kubernetes-int-or-string"),
        preserve_unknown: flag(map, "x-kubernetes-preserve-unknown-fields"),
        embedded: flag(map, "x-kubernetes-embedded-resource"),
        default: map.get("default").filter(|d| !d.is_null()).cloned(),
        list_type: match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map,
            _ => ListType::Atomic,
        },
        list_map_keys: texts(map, "x-kubernetes-list-map-keys"),
        map_type: if map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic") {
            MapType::Atomic
        } else {
            MapType::Granular
        },
        rules: map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten().map(Rule::read).collect(),
        ..Schema::default()
    };
    if let Some(Value::Object(properties)) = map.get("properties") {
        for (name, property) in properties {
            schema.properties.insert(name.as_str().into(), node(property, &format!("{path}.properties[{name}]"), depth + 1)?);
        }
    }
    schema.additional = match map.get("additionalProperties") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(allowed)) => Some(Additional::Any(*allowed)),
        Some(of) => Some(Additional::Of(Box::new(node(of, &format!("{path}.additionalProperties"), depth + 1)?))),
    };
    schema.items = match map.get("items") {
        Some(items @ Value::Object(_)) => Some(Box::new(node(items, &format!("{path}.items"), depth + 1)?)),
        _ => None,
    };
    let number = |name: &str| map.get(name).and_then(Value::as_f64);
    let checks = Checks {
        format: map.get("format").and_then(Value::as_str).filter(|f| !f.is_empty()).map(Into::into),
        enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        pattern: map.get("pattern").and_then(Value::as_str).filter(|p| !p.is_empty()).map(Pattern::new),
        maximum: number("maximum"),
        minimum: number("minimum"),
        exclusive_maximum: flag(map, "exclusiveMaximum"),
        exclusive_minimum: flag(map, "exclusiveMinimum"),
        multiple_of: number("multipleOf"),
        max_length: count(map, "maxLength"),
        min_length: count(map, "minLength"),
        max_items: count(map, "maxItems"),
        min_items: count(map, "minItems"),
        max_properties: count(map, "maxProperties"),
        min_properties: count(map, "minProperties"),
        unique_items: flag(map, "uniqueItems"),
        required: texts(map, "required"),
        all_of: list(map, "allOf", path, depth)?,
        any_of: list(map, "anyOf", path, depth)?,
        one_of: list(map, "oneOf", path, depth)?,
        not: match map.get("not") {
            Some(not @ Value::Object(_)) => Some(Box::new(node(not, &format!("{path}.not"), depth + 1)?)),
            _ => None,
        },
    };
    if checks.says_something() {
        schema.checks = Some(Box::new(checks));
    }
    let below = || schema.properties.values().chain(schema.values()).chain(schema.items.as_deref());
    let (defaults, rules, keyed) =
        (below().any(|s| s.default.is_some() || s.has_defaults), below().any(|s| s.has_rules), below().any(|s| s.has_keyed_lists));
    schema.has_defaults = defaults;
    schema.has_rules = rules || !schema.rules.is_empty();
    schema.has_keyed_lists = keyed || schema.list_type != ListType::Atomic;
    Ok(schema)
}

impl Checks {
    fn says_something(&self) -> bool {
        self.format.is_some()
            || !self.enumeration.is_empty()
            || self.pattern.is_some()
            || self.maximum.is_some()
            || self.minimum.is_some()
            || self.multiple_of.is_some()
            || self.max_length.is_some()
            || self.min_length.is_some()
            || self.max_items.is_some()
            || self.min_items.is_some()
            || self.max_properties.is_some()
            || self.min_properties.is_some()
            || self.unique_items
            || !self.required.is_empty()
            || !self.all_of.is_empty()
            || !self.any_of.is_empty()
            || !self.one_of.is_empty()
            || self.not.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_is_bounded() {
        let mut schema = json!({"type": "object"});
        for _ in 0..200 {
            schema = json!({"type": "object", "properties": {"a": schema}});
        }
        assert!(matches!(Schema::compile(&schema).unwrap_err(), SchemaError::TooDeep { .. }));
        assert!(matches!(Schema::compile(&json!([])).unwrap_err(), SchemaError::NotAnObject { .. }));
    }
}
