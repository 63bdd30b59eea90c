//! Tells whether what an error is about is as it was before an update.

use serde_json::Value;

use crate::{FieldError, ListType, Reason, Schema};

impl Schema {
    /// Whether an error of `new` is about a part that `old` has just so: an update is not held against what it does not touch.
    pub fn is_ratcheted(&self, error: &FieldError, new: &Value, old: &Value) -> bool {
        // A missing field is a fault of what lacks it.
        let field = if error.reason == Reason::Required {
            error.field.rsplit_once('.').map_or("", |(parent, _)| parent)
        } else {
            error.field.as_str()
        };
        error.field != "<nil>" && walk(self, new, old, field)
    }
}

fn walk(schema: &Schema, new: &Value, old: &Value, path: &str) -> bool {
    if new == old {
        return true;
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        return false;
    }
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => new.iter().any(|(name, child)| {
            let rest = path.strip_prefix(name.as_str()).filter(|r| r.is_empty() || r.starts_with(['.', '[']));
            match (rest, old.get(name), schema.field(name)) {
                (Some(rest), Some(before), Some(below)) => walk(below, child, before, rest),
                _ => false,
            }
        }),
        (Value::Array(new), Value::Array(old)) => {
            let Some((index, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) else { return false };
            let Some(item) = index.parse::<usize>().ok().and_then(|i| new.get(i)) else { return false };
            if schema.list_type != ListType::Map {
                return false;
            }
            let same_keys = |o: &&Value| schema.list_map_keys.iter().all(|key| o.get(&**key) == item.get(&**key));
            match (old.iter().find(same_keys), &schema.items) {
                (Some(before), Some(below)) => walk(below, item, before, rest),
                _ => false,
            }
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_untouched_is_left_alone() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "integer", "maximum": 5}, "b": {"type": "string"},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["v"], "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}}}}}}))
        .unwrap();
        let old = json!({"spec": {"a": 9, "b": "x", "list": [{"k": "1"}]}});
        let new = json!({"spec": {"a": 9, "b": "y", "list": [{"k": "0"}, {"k": "1"}]}});
        let errors = schema.validate(&new);
        let kept: Vec<_> = errors.iter().filter(|e| !schema.is_ratcheted(e, &new, &old)).map(|e| e.field.as_str()).collect();
        assert_eq!((errors.len(), kept), (3, vec!["spec.list[0].v"]));
    }
}
