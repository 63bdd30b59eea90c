//! Fills in what was left out.

use serde_json::Value;

use crate::{MAX_DEPTH, Schema};

impl Schema {
    /// Fills in defaults. A null that is no value of its field is taken as left out, as Kubernetes does.
    pub fn fill(&self, value: &mut Value) {
        if self.has_defaults {
            fill(self, value, 0);
        }
        drop_nulls(self, value, 0);
    }
}

fn is_left_out(value: Option<&Value>, schema: &Schema) -> bool {
    match value {
        None => true,
        Some(value) => value.is_null() && !schema.nullable,
    }
}

fn fill(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH || !schema.has_defaults {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                if let Some(default) = &property.default
                    && is_left_out(map.get(&**name), property)
                {
                    map.insert(name.to_string(), default.clone());
                }
            }
            for (name, child) in map.iter_mut() {
                let Some(below) = schema.field(name) else { continue };
                if let (true, Some(default)) = (is_left_out(Some(child), below), &below.default) {
                    child.clone_from(default);
                }
                fill(below, child, depth + 1);
            }
        }
        Value::Array(items) => {
            let Some(below) = &schema.items else { return };
            for item in items {
                if let (true, Some(default)) = (is_left_out(Some(item), below), &below.default) {
                    item.clone_from(default);
                }
                fill(below, item, depth + 1);
            }
        }
        _ => {}
    }
}

/// Drops nulls of fields that neither take null nor have a default.
fn drop_nulls(schema: &Schema, value: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            map.retain(|name, child| !(child.is_null() && schema.field(name).is_some_and(|s| !s.nullable && s.kind.is_some())));
            for (name, child) in map.iter_mut() {
                if let Some(below) = schema.field(name) {
                    drop_nulls(below, child, depth + 1);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(below, item, depth + 1));
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
    fn defaults_and_nulls() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
            "foo": {"type": "string", "default": "default"},
            "bar": {"type": "string", "nullable": true},
            "baz": {"type": "string"},
            "qux": {"type": "string", "nullable": true, "default": "q"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}},
        }}}}))
        .unwrap();
        let mut value = json!({"spec": {"foo": null, "bar": null, "baz": null, "qux": null, "list": [{}, {"a": 2}], "map": {"x": {}}}});
        schema.fill(&mut value);
        assert_eq!(
            value,
            json!({"spec": {"foo": "default", "bar": null, "qux": null, "list": [{"a": 1}, {"a": 2}], "map": {"x": {"a": 1}}}})
        );
        let mut value = json!({});
        schema.fill(&mut value);
        assert_eq!(value, json!({"spec": {"foo": "default", "qux": "q"}}));
    }
}
