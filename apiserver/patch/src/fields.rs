//! Sets of fields, in the form in which managedFields have them (`FieldsV1`).
//!
//! A set is a trie: `f:` names a member of an object, `k:` an item of a list by its keys, `v:` an item by its value, `i:` one by its
//! place. A node that is empty or has the member `.` belongs to the set itself; one that has neither only leads to others. Sets are kept
//! in this form throughout, so that nothing is converted when they are read and written.

use serde_json::{Map, Value};

/// A set of fields.
pub type Fields = Map<String, Value>;

const SELF: &str = ".";

pub(crate) fn leaf() -> Value {
    Value::Object(Fields::new())
}

/// A node, if there is anything in it.
pub(crate) fn node(member: bool, mut children: Fields) -> Option<Value> {
    if !children.is_empty() && member {
        children.insert(SELF.into(), leaf());
    }
    (member || !children.is_empty()).then_some(Value::Object(children))
}

/// Whether a node belongs to the set itself.
fn is_member(node: &Fields) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

pub(crate) fn has_itself(node: &Value) -> bool {
    node.as_object().is_some_and(is_member)
}

/// Whether a value is a set of fields.
pub fn is_valid(value: &Value) -> bool {
    let Value::Object(map) = value else { return false };
    map.iter().all(|(name, inner)| match name.split_once(':') {
        None => name == SELF && inner.as_object().is_some_and(Map::is_empty),
        Some(("f", _)) => is_valid(inner),
        Some(("v", rest)) => serde_json::from_str::<Value>(rest).is_ok() && is_valid(inner),
        Some(("k", rest)) => serde_json::from_str::<Value>(rest).is_ok_and(|v| v.is_object()) && is_valid(inner),
        Some(("i", rest)) => rest.parse::<i64>().is_ok() && is_valid(inner),
        Some(_) => false,
    })
}

fn children(set: Fields) -> impl Iterator<Item = (String, Fields)> {
    set.into_iter().filter(|(name, _)| name != SELF).filter_map(|(name, inner)| match inner {
        Value::Object(inner) => Some((name, inner)),
        _ => None,
    })
}

fn child<'a>(set: &'a Fields, name: &str) -> Option<&'a Fields> {
    set.get(name).and_then(Value::as_object)
}

/// What is in one of them.
pub fn union(mut a: Fields, b: &Fields) -> Fields {
    for (name, theirs) in b {
        if name == SELF {
            continue;
        }
        match a.get_mut(name) {
            Some(Value::Object(ours)) => {
                let Value::Object(theirs) = theirs else { continue };
                let member = is_member(ours) || is_member(theirs);
                let mut merged = union(std::mem::take(ours), theirs);
                merged.remove(SELF);
                if let Some(Value::Object(merged)) = node(member, merged) {
                    *ours = merged;
                }
            }
            _ => {
                a.insert(name.clone(), theirs.clone());
            }
        }
    }
    a
}

/// What is in the first and not in the second.
pub fn difference(mut a: Fields, b: &Fields) -> Fields {
    for (name, theirs) in b {
        let Value::Object(theirs) = theirs else { continue };
        if name == SELF {
            continue;
        }
        let Some(Value::Object(ours)) = a.get_mut(name) else { continue };
        let member = is_member(ours) && !is_member(theirs);
        let mut left = difference(std::mem::take(ours), theirs);
        left.remove(SELF);
        match node(member, left) {
            Some(Value::Object(left)) => *ours = left,
            _ => {
                a.remove(name);
            }
        }
    }
    a
}

/// What is in both.
pub fn intersection(a: &Fields, b: &Fields) -> Fields {
    let mut out = Fields::new();
    for (name, theirs) in b.iter().filter(|(name, _)| *name != SELF) {
        let (Some(ours), Value::Object(theirs)) = (child(a, name), theirs) else { continue };
        if let Some(both) = node(is_member(ours) && is_member(theirs), intersection(ours, theirs)) {
            out.insert(name.clone(), both);
        }
    }
    out
}

/// The paths in a set, as Kubernetes writes them: `.spec.containers[name="a"].image`.
pub fn paths(set: &Fields) -> Vec<String> {
    fn walk(set: &Fields, at: &str, out: &mut Vec<String>) {
        for (name, inner) in children(set.clone()) {
            let here = format!("{at}{}", element(&name));
            if is_member(&inner) {
                out.push(here.clone());
            }
            walk(&inner, &here, out);
        }
    }
    let mut out = Vec::new();
    walk(set, "", &mut out);
    out
}

/// One step of a path.
fn element(name: &str) -> String {
    match name.split_once(':') {
        Some(("f", member)) => format!(".{member}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => match serde_json::from_str::<Value>(keys) {
            Ok(Value::Object(keys)) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            _ => format!("[{keys}]"),
        },
        Some((_, index)) => format!("[{index}]"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Fields {
        assert!(is_valid(&value), "{value}");
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn members_and_what_is_below_them_are_apart() {
        let all = set(json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(difference(all.clone(), &set(json!({"f:a": {}}))), set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(difference(all.clone(), &set(json!({"f:a": {"f:b": {}}}))), set(json!({"f:a": {}})));
        assert_eq!(union(set(json!({"f:a": {"f:b": {}}})), &set(json!({"f:a": {}}))), all);
        assert_eq!(intersection(&all, &set(json!({"f:a": {"f:b": {}, "f:c": {}}}))), set(json!({"f:a": {"f:b": {}}})));
    }

    #[test]
    fn paths_are_written_as_kubernetes_writes_them() {
        let ports =
            json!({"f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:set": {"v:\"x\"": {}}});
        assert_eq!(
            paths(&set(ports)),
            [".ports[containerPort=80,protocol=\"TCP\"]", ".ports[containerPort=80,protocol=\"TCP\"].name", ".set[=\"x\"]"]
        );
    }

    #[test]
    fn other_things_are_no_sets() {
        for bad in
            [json!({"x": {}}), json!({"f:a": 1}), json!({"k:[]": {}}), json!({"i:x": {}}), json!([]), json!({"v:": {}}), json!({"q:a": {}})]
        {
            assert!(!is_valid(&bad), "{bad}");
        }
    }
}
