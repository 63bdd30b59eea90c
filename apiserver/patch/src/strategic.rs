//! Strategic merge patch with its directives.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::shape::{ListPatch, Shape};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Why a patch does not fit, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StrategicError {
    /// The patch is no object.
    #[error("invalid JSON document")]
    BadDocument,
    /// A `$patch` that nobody knows.
    #[error("unknown patch type: {word} in map: {map}")]
    BadDirective {
        /// What it says.
        word: String,
        /// Where it stands.
        map: String,
    },
    /// An item of a list that is merged by key lacks it.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item.
        map: String,
        /// The key.
        key: String,
    },
    /// `$deleteFromPrimitiveList` without a list.
    #[error("invalid patch format of primitive list")]
    BadPrimitiveList,
    /// `$retainKeys` that is no list, or lacks what the patch sets.
    #[error("invalid patch format of retainKeys")]
    BadRetainKeys,
    /// `$setElementOrder` that does not fit the patch.
    #[error("invalid patch format of setElementOrder list")]
    BadOrder,
    /// A list of lists.
    #[error("lists of lists are not supported")]
    ListOfLists,
}

/// Merges a patch into an object.
///
/// # Errors
/// For a patch that does not fit; the object is then of no use.
pub fn merge<'a, S: Shape<'a>>(shape: S, base: &mut Value, patch: &Value) -> Result<(), StrategicError> {
    merge_map(shape, base, patch.as_object().ok_or(StrategicError::BadDocument)?)
}

/// A value as Go prints it.
fn go(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(list) => {
            out.push('[');
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                go(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => out.push_str(&go_map(map)),
        other => drop(write!(out, "{other}")),
    }
}

fn go_map(map: &Map<String, Value>) -> String {
    let mut members: Vec<_> = map.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    let mut out = String::from("map[");
    for (at, (name, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(name);
        out.push(':');
        go(value, &mut out);
    }
    out.push(']');
    out
}

fn directive(map: &Map<String, Value>) -> Result<Option<&str>, StrategicError> {
    match map.get(PATCH) {
        None => Ok(None),
        Some(Value::String(word)) if matches!(word.as_str(), "replace" | "delete" | "merge") => Ok(Some(word)),
        Some(other) => {
            let mut word = String::new();
            go(other, &mut word);
            Err(StrategicError::BadDirective { word, map: go_map(map) })
        }
    }
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Made an object above.
        _ => unreachable!("an object"),
    }
}

/// A value of a patch for a place where nothing is yet: without nulls and directives.
fn fresh<'a, S: Shape<'a>>(shape: S, patch: &Value) -> Result<Value, StrategicError> {
    let mut out = Value::Null;
    match patch {
        Value::Object(map) => merge_map(shape, &mut out, map)?,
        Value::Array(list) => merge_list(shape, &mut out, list)?,
        scalar => out = scalar.clone(),
    }
    Ok(out)
}

fn retain(map: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), StrategicError> {
    let Some(names) = patch.get(RETAIN) else { return Ok(()) };
    let names = names.as_array().ok_or(StrategicError::BadRetainKeys)?;
    let is_named = |name: &str| names.iter().any(|n| n.as_str() == Some(name));
    if patch.iter().any(|(name, value)| !name.starts_with('$') && !value.is_null() && !is_named(name)) {
        return Err(StrategicError::BadRetainKeys);
    }
    map.retain(|name, _| is_named(name));
    Ok(())
}

fn merge_map<'a, S: Shape<'a>>(shape: S, base: &mut Value, patch: &Map<String, Value>) -> Result<(), StrategicError> {
    match directive(patch)? {
        Some("replace") => {
            *base = Value::Object(patch.iter().filter(|(name, _)| *name != PATCH).map(|(k, v)| (k.clone(), v.clone())).collect());
            return Ok(());
        }
        Some("delete") => {
            *base = Value::Object(Map::new());
            return Ok(());
        }
        _ => {}
    }
    let map = as_map(base);
    retain(map, patch)?;
    for (name, value) in patch {
        if name == PATCH || name == RETAIN {
            continue;
        }
        if name.starts_with(ORDER) {
            if !value.is_array() {
                return Err(StrategicError::BadOrder);
            }
            continue;
        }
        if let Some(field) = name.strip_prefix(DELETE_PRIMITIVE) {
            let gone = value.as_array().ok_or(StrategicError::BadPrimitiveList)?;
            let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
            if let Some(Value::Array(have)) = map.get_mut(field) {
                have.retain(|item| !gone.contains(&item.to_string()));
            }
            continue;
        }
        let member = shape.member(name).shape;
        match value {
            Value::Null => drop(map.remove(name)),
            Value::Object(inner) => {
                if directive(inner)? == Some("delete") {
                    map.remove(name);
                } else if member.patch().replace {
                    map.insert(name.clone(), fresh(member, value)?);
                } else {
                    merge_map(member, map.entry(name.clone()).or_insert(Value::Null), inner)?;
                }
            }
            Value::Array(list) => merge_list(member, map.entry(name.clone()).or_insert(Value::Null), list)?,
            scalar => drop(map.insert(name.clone(), scalar.clone())),
        }
    }
    // Orders come last: they speak of the merged lists.
    for (name, order) in patch {
        if let (Some(field), Value::Array(order)) = (name.strip_prefix(ORDER), order)
            && let Some(Value::Array(list)) = map.get_mut(field)
        {
            let rule = shape.member(field).shape.patch().list;
            let patched = patch.get(field).and_then(Value::as_array);
            reorder(rule, list, order, patched.map(Vec::as_slice).unwrap_or_default())?;
        }
    }
    Ok(())
}

fn merge_list<'a, S: Shape<'a>>(shape: S, base: &mut Value, patch: &[Value]) -> Result<(), StrategicError> {
    let is_bare = |item: &Value| item.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(PATCH));
    let replace = patch.iter().any(|item| is_bare(item) && item.get(PATCH).is_some_and(|d| d == "replace"));
    let rule = shape.patch().list;
    let mut have = match std::mem::take(base) {
        Value::Array(list) if !replace => list,
        _ => Vec::new(),
    };
    let patch = || patch.iter().filter(|item| !is_bare(item));
    match rule {
        ListPatch::Replace => have = patch().cloned().collect(),
        _ if replace => have = patch().cloned().collect(),
        ListPatch::Set => {
            let mut known: HashSet<String> = have.iter().map(Value::to_string).collect();
            have.extend(patch().filter(|item| known.insert(item.to_string())).cloned());
        }
        ListPatch::Keyed(key) => have = merge_items(shape.items(), key, have, patch())?,
    }
    *base = Value::Array(have);
    Ok(())
}

fn merge_items<'a, 'p, S: Shape<'a>>(
    of: S,
    key: &str,
    have: Vec<Value>,
    patch: impl Iterator<Item = &'p Value>,
) -> Result<Vec<Value>, StrategicError> {
    // Looked up, not searched: both lists may be as long as a body allows.
    let mut index: HashMap<String, usize> = HashMap::new();
    for (at, item) in have.iter().enumerate() {
        if let Some(id) = item.get(key) {
            index.entry(id.to_string()).or_insert(at);
        }
    }
    let mut kept: Vec<Option<Value>> = have.into_iter().map(Some).collect();
    for item in patch {
        let map = match item {
            Value::Object(map) => map,
            Value::Array(_) => return Err(StrategicError::ListOfLists),
            other => {
                let mut map = String::new();
                go(other, &mut map);
                return Err(StrategicError::NoMergeKey { map, key: key.into() });
            }
        };
        let Some(id) = map.get(key) else { return Err(StrategicError::NoMergeKey { map: go_map(map), key: key.into() }) };
        let found = index.get(&id.to_string()).copied();
        match (directive(map)?, found) {
            (Some("delete"), Some(at)) => kept[at] = None,
            (Some("delete"), None) => {}
            (_, Some(at)) => merge_map(of, kept[at].get_or_insert(Value::Null), map)?,
            (_, None) => {
                index.insert(id.to_string(), kept.len());
                kept.push(Some(fresh(of, item)?));
            }
        }
    }
    Ok(kept.into_iter().flatten().collect())
}

/// Items that `order` names come in its order; the others stay between the neighbours that they had.
fn reorder(rule: ListPatch<'_>, list: &mut Vec<Value>, order: &[Value], patched: &[Value]) -> Result<(), StrategicError> {
    let id = |item: &Value| match rule {
        ListPatch::Keyed(key) => item.get(key).map(Value::to_string),
        _ => Some(item.to_string()),
    };
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, wanted) in order.iter().enumerate() {
        ranks.entry(id(wanted).ok_or(StrategicError::BadOrder)?).or_insert(rank);
    }
    // What a patch adds must have its place in the order.
    let is_placed = |item: &Value| item.get(PATCH).is_some() || id(item).is_none_or(|id| ranks.contains_key(&id));
    if !patched.iter().all(is_placed) {
        return Err(StrategicError::BadOrder);
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builtin;
    use serde_json::json;

    fn shape(kind: &str) -> Builtin {
        Builtin::kind(if kind == "Deployment" { "apps" } else { "" }, "v1", kind)
    }

    fn merged(kind: &str, mut base: Value, patch: Value) -> Value {
        merge(shape(kind), &mut base, &patch).unwrap();
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
        let base = json!({"spec":{"template":{"spec":{"containers":[{"name":"a"},{"name":"b"}]}},"strategy":{"type":"RollingUpdate","rollingUpdate":{}}},"metadata":{"finalizers":["x","y"]}});
        let patch = json!({
            "metadata":{"$deleteFromPrimitiveList/finalizers":["x"],"finalizers":["z"]},
            "spec":{
                "template":{"spec":{
                    "$setElementOrder/containers":[{"name":"c"},{"name":"b"}],
                    "containers":[{"name":"a","$patch":"delete"},{"name":"c"}]}},
                "strategy":{"$retainKeys":["type"],"type":"Recreate"}}});
        assert_eq!(
            merged("Deployment", base, patch),
            json!({"spec":{"template":{"spec":{"containers":[{"name":"c"},{"name":"b"}]}},"strategy":{"type":"Recreate"}},"metadata":{"finalizers":["y","z"]}})
        );
    }

    #[test]
    fn replaces_a_whole_list_or_map_when_told_to() {
        let base = json!({"spec":{"containers":[{"name":"a"}],"nodeSelector":{"x":"1"}}});
        let patch = json!({"spec":{"containers":[{"$patch":"replace"},{"name":"z"}],"nodeSelector":{"$patch":"replace","y":"2"}}});
        assert_eq!(merged("Pod", base, patch), json!({"spec":{"containers":[{"name":"z"}],"nodeSelector":{"y":"2"}}}));
    }

    #[test]
    fn refusals_are_in_kubernetes_words() {
        let refused = |patch: Value| merge(shape("Pod"), &mut json!({}), &patch).unwrap_err().to_string();
        assert_eq!(refused(json!({"spec":{"containers":[{"image":"x"}]}})), "map: map[image:x] does not contain declared merge key: name");
        assert_eq!(refused(json!({"spec":{"$patch":"explode"}})), "unknown patch type: explode in map: map[$patch:explode]");
        assert_eq!(refused(json!({"spec":{"$retainKeys":["a"],"b":1}})), "invalid patch format of retainKeys");
    }
}
