//! Sets, and lists that are like maps, hold each item once.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::{FieldError, ListType, MAX_DEPTH, MAX_ERRORS, Schema};

impl Schema {
    /// Finds items that are there twice in lists that are sets or maps.
    pub fn check_keyed_lists(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.has_keyed_lists {
            walk(self, value, "", 0, &mut errors);
        }
        errors
    }
}

fn walk(schema: &Schema, value: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_DEPTH || errors.len() >= MAX_ERRORS || !schema.has_keyed_lists {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                if let Some(below) = schema.properties.get(name.as_str()) {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(below, child, &path, depth + 1, errors);
                } else if let Some(below) = schema.values() {
                    walk(below, child, &format!("{path}[{name}]"), depth + 1, errors);
                }
            }
        }
        Value::Array(items) => {
            let mut seen = HashSet::new();
            for (i, item) in items.iter().enumerate() {
                let here = format!("{path}[{i}]");
                match schema.list_type {
                    ListType::Atomic => {}
                    ListType::Set => {
                        if !seen.insert(item.to_string()) {
                            errors.push(FieldError::duplicate(&here, item));
                        }
                    }
                    ListType::Map => {
                        let keys: Map<String, Value> =
                            schema.list_map_keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone()))).collect();
                        let keys = Value::Object(keys);
                        if !seen.insert(keys.to_string()) {
                            errors.push(FieldError::duplicate(&here, &keys));
                        }
                    }
                }
                if let Some(below) = &schema.items {
                    walk(below, item, &here, depth + 1, errors);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_told() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                "items": {"type": "object", "properties": {"port": {"type": "integer"}}}}}}))
        .unwrap();
        let errors = schema.check_keyed_lists(&json!({"set": ["a", "b", "a"], "ports": [{"port": 1}, {"port": 1, "x": 2}]}));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["ports[1]: Duplicate value: {\"port\":1}", "set[2]: Duplicate value: \"a\""]);
    }
}
