//! Drops the fields that a schema lacks.

use serde_json::Value;

use crate::{Additional, MAX_DEPTH, Schema};

impl Schema {
    /// Drops unknown fields and tells their paths. `root` says that the value is a whole object, whose apiVersion, kind and metadata are
    /// always known.
    pub fn prune(&self, value: &mut Value, root: bool, dropped: &mut dyn FnMut(String)) {
        let mut path = String::new();
        prune(Some(self), value, root, &mut path, 0, dropped);
    }
}

fn within(path: &mut String, part: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    if !path.is_empty() && !part.starts_with('[') {
        path.push('.');
    }
    path.push_str(part);
    then(path);
    path.truncate(length);
}

/// Prunes below a node; without a schema everything is unknown. Where unknown fields are preserved, embedded resources and specified
/// fields below still prune by their own schemas.
fn prune(schema: Option<&Schema>, value: &mut Value, root: bool, path: &mut String, depth: usize, dropped: &mut dyn FnMut(String)) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            let Some(schema) = schema else { return };
            let whole = root || schema.embedded;
            let known = |name: &str| {
                schema.preserve_unknown
                    || schema.properties.contains_key(name)
                    || matches!(schema.additional, Some(Additional::Any(true) | Additional::Of(_)))
                    || (whole && matches!(name, "apiVersion" | "kind" | "metadata"))
            };
            let unknown: Vec<String> = map.keys().filter(|name| !known(name)).cloned().collect();
            for name in unknown {
                map.remove(&name);
                within(path, &name, |path| dropped(path.clone()));
            }
            for (name, child) in map.iter_mut() {
                // Metadata of whole objects has a type of its own.
                if whole && name == "metadata" {
                    continue;
                }
                if let Some(below) = schema.field(name) {
                    within(path, name, |path| prune(Some(below), child, false, path, depth + 1, dropped));
                }
            }
        }
        Value::Array(items) => {
            let below = schema.and_then(|s| s.items.as_deref());
            for (i, item) in items.iter_mut().enumerate() {
                within(path, &format!("[{i}]"), |path| prune(below, item, false, path, depth + 1, dropped));
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
    fn what_is_preserved_and_what_is_not() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"shut": {"type": "object"}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
        }}))
        .unwrap();
        let mut value = json!({"apiVersion": "x", "kind": "y", "metadata": {"anything": 1}, "extra": 1,
            "open": {"free": {"deep": 1}, "shut": {"gone": 1}},
            "map": {"k": {"a": "1", "b": 2}}, "list": [{"a": "1"}, {"b": 2}],
            "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"x": 1}, "other": 1}});
        let mut dropped = Vec::new();
        schema.prune(&mut value, true, &mut |p| dropped.push(p));
        dropped.sort();
        assert_eq!(dropped, ["embedded.other", "embedded.spec.x", "extra", "list[1].b", "map.k.b", "open.shut.gone"]);
        assert_eq!(value["open"], json!({"free": {"deep": 1}, "shut": {}}));
        assert_eq!(value["metadata"], json!({"anything": 1}));
    }
}
