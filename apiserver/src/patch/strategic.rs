//! Kubernetes' strategic merge patch with its directives.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use wharf_core::api::ApiError;

use super::keys::{ListRule, rule};
use crate::resources::value::as_map;
use crate::rest::status;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges a patch into an object.
pub(super) fn merge(kind: &str, base: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let patch = patch.as_object().ok_or_else(|| status::bad_request("error decoding patch: a JSON object is expected"))?;
    merge_map(kind, &mut Vec::new(), base, patch)
}

fn directive(map: &Map<String, Value>) -> Result<Option<&str>, ApiError> {
    match map.get(PATCH) {
        None => Ok(None),
        Some(Value::String(word)) if matches!(word.as_str(), "replace" | "delete" | "merge") => Ok(Some(word)),
        Some(other) => Err(status::bad_request(format!("Unknown patch type: {other}"))),
    }
}

/// A value of a patch for a place where nothing is yet: without nulls and directives.
fn fresh<'a>(kind: &str, path: &mut Vec<&'a str>, patch: &'a Value) -> Result<Value, ApiError> {
    match patch {
        Value::Object(map) => {
            let mut out = Value::Object(Map::new());
            merge_map(kind, path, &mut out, map)?;
            Ok(out)
        }
        Value::Array(list) => {
            let mut out = Value::Array(Vec::new());
            merge_list(kind, path, &mut out, list)?;
            Ok(out)
        }
        scalar => Ok(scalar.clone()),
    }
}

fn merge_map<'a>(kind: &str, path: &mut Vec<&'a str>, base: &mut Value, patch: &'a Map<String, Value>) -> Result<(), ApiError> {
    match directive(patch)? {
        Some("replace") => {
            let rest: Map<String, Value> = patch.iter().filter(|(k, _)| *k != PATCH).map(|(k, v)| (k.clone(), v.clone())).collect();
            *base = Value::Object(rest);
            return Ok(());
        }
        Some("delete") => {
            *base = Value::Object(Map::new());
            return Ok(());
        }
        _ => {}
    }
    let map = as_map(base);
    if let Some(Value::Array(retain)) = patch.get(RETAIN) {
        map.retain(|key, _| retain.iter().any(|r| r == key));
    }
    for (name, value) in patch {
        if name == PATCH || name == RETAIN || name.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = name.strip_prefix(DELETE_PRIMITIVE) {
            if let (Some(Value::Array(have)), Value::Array(gone)) = (map.get_mut(field), value) {
                have.retain(|item| !gone.contains(item));
            }
            continue;
        }
        path.push(name);
        match value {
            Value::Null => {
                map.remove(name);
            }
            Value::Object(inner) => {
                if directive(inner)? == Some("delete") {
                    map.remove(name);
                } else {
                    merge_map(kind, path, map.entry(name.clone()).or_insert(Value::Null), inner)?;
                }
            }
            Value::Array(list) => merge_list(kind, path, map.entry(name.clone()).or_insert(Value::Null), list)?,
            scalar => {
                map.insert(name.clone(), scalar.clone());
            }
        }
        path.pop();
    }
    // Orders come last: they speak of the merged lists.
    for (name, order) in patch {
        if let (Some(field), Value::Array(order)) = (name.strip_prefix(ORDER), order)
            && let Some(Value::Array(list)) = map.get_mut(field)
        {
            path.push(field);
            reorder(rule(kind, path), list, order);
            path.pop();
        }
    }
    Ok(())
}

fn merge_list<'a>(kind: &str, path: &mut Vec<&'a str>, base: &mut Value, patch: &'a [Value]) -> Result<(), ApiError> {
    let replace = patch.iter().any(|item| item.get(PATCH).is_some_and(|d| d == "replace"));
    let mut have = if replace { Vec::new() } else { std::mem::take(base).as_array().cloned().unwrap_or_default() };
    let is_bare = |item: &Value| item.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(PATCH));
    match rule(kind, path) {
        ListRule::Atomic => {
            have = patch.iter().filter(|item| !is_bare(item)).cloned().collect();
        }
        ListRule::Set => {
            let mut known: HashSet<String> = have.iter().map(Value::to_string).collect();
            for item in patch.iter().filter(|i| !is_bare(i)) {
                if known.insert(item.to_string()) {
                    have.push(item.clone());
                }
            }
        }
        ListRule::Map(keys) => {
            let key = keys[0];
            // Looked up, not searched: both lists may be as long as a body allows.
            let mut index: HashMap<String, usize> = HashMap::new();
            for (i, item) in have.iter().enumerate() {
                if let Some(id) = item.get(key) {
                    index.entry(id.to_string()).or_insert(i);
                }
            }
            let mut kept: Vec<Option<Value>> = have.into_iter().map(Some).collect();
            for item in patch.iter().filter(|i| !is_bare(i)) {
                let Some(map) = item.as_object() else {
                    return Err(status::bad_request(format!("error merging {}: items of this list are objects", path.join("."))));
                };
                let Some(id) = map.get(key) else {
                    let list = path.join(".");
                    return Err(status::bad_request(format!(
                        "error merging {list}: map: {item} does not contain declared merge key: {key}"
                    )));
                };
                let found = index.get(&id.to_string()).copied();
                match (directive(map)?, found) {
                    (Some("delete"), Some(at)) => kept[at] = None,
                    (Some("delete"), None) => {}
                    (_, Some(at)) => merge_map(kind, path, kept[at].get_or_insert(Value::Null), map)?,
                    (_, None) => {
                        index.insert(id.to_string(), kept.len());
                        kept.push(Some(fresh(kind, path, item)?));
                    }
                }
            }
            have = kept.into_iter().flatten().collect();
        }
    }
    *base = Value::Array(have);
    Ok(())
}

/// Items that `order` names come in its order; the others stay between the neighbours that they had.
fn reorder(rule: ListRule, list: &mut Vec<Value>, order: &[Value]) {
    let id = |item: &Value| match rule {
        ListRule::Map(keys) => item.get(keys[0]).map(Value::to_string),
        _ => Some(item.to_string()),
    };
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, wanted) in order.iter().enumerate() {
        if let Some(id) = id(wanted) {
            ranks.entry(id).or_insert(rank);
        }
    }
    let rank = |item: &Value| id(item).and_then(|id| ranks.get(&id).copied());
    let indexed: Vec<(usize, Value)> = std::mem::take(list).into_iter().enumerate().collect();
    let (mut named, others): (Vec<_>, Vec<_>) = indexed.into_iter().partition(|(_, item)| rank(item).is_some());
    named.sort_by_cached_key(|(_, item)| rank(item));
    let mut others = others.into_iter().peekable();
    for (at, item) in named {
        while let Some((_, other)) = others.next_if(|(i, _)| *i < at) {
            list.push(other);
        }
        list.push(item);
    }
    list.extend(others.map(|(_, item)| item));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(kind: &str, mut base: Value, patch: Value) -> Value {
        merge(kind, &mut base, &patch).unwrap();
        base
    }

    #[test]
    fn merges_containers_by_name() {
        let base = json!({"spec":{"containers":[{"name":"a","image":"x","args":["1"]},{"name":"b","image":"y"}]}});
        let patch = json!({"spec":{"containers":[{"name":"b","image":"z"},{"name":"c","image":"w","tty":null}]}});
        assert_eq!(
            merged("Pod", base, patch),
            json!({"spec":{"containers":[{"name":"a","image":"x","args":["1"]},{"name":"b","image":"z"},{"name":"c","image":"w"}]}})
        );
    }

    #[test]
    fn directives() {
        let base = json!({"spec":{"containers":[{"name":"a"},{"name":"b"}],"strategy":{"type":"RollingUpdate","rollingUpdate":{}}},"metadata":{"finalizers":["x","y"]}});
        let patch = json!({
            "metadata":{"$deleteFromPrimitiveList/finalizers":["x"],"finalizers":["z"]},
            "spec":{
                "$setElementOrder/containers":[{"name":"c"},{"name":"b"}],
                "containers":[{"name":"a","$patch":"delete"},{"name":"c"}],
                "strategy":{"$retainKeys":["type"],"type":"Recreate"}}});
        assert_eq!(
            merged("Deployment", base, patch),
            json!({"spec":{"containers":[{"name":"c"},{"name":"b"}],"strategy":{"type":"Recreate"}},"metadata":{"finalizers":["y","z"]}})
        );
    }

    #[test]
    fn replaces_a_whole_list_or_map_when_told_to() {
        let base = json!({"spec":{"containers":[{"name":"a"}],"selector":{"x":"1"}}});
        let patch = json!({"spec":{"containers":[{"$patch":"replace"},{"name":"z"}],"selector":{"$patch":"replace","y":"2"}}});
        assert_eq!(merged("Pod", base, patch), json!({"spec":{"containers":[{"name":"z"}],"selector":{"y":"2"}}}));
    }

    #[test]
    fn refuses_items_without_their_key() {
        let patch = json!({"spec":{"containers":[{"image":"x"}]}});
        assert!(merge("Pod", &mut json!({}), &patch).is_err());
        assert!(merge("Pod", &mut json!({}), &json!({"spec":{"$patch":"explode"}})).is_err());
    }
}
