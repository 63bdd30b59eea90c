//! Server-side apply: fields have managers, a manager's fields that it no longer names go away.
//!
//! Only appliers own fields here; plain updates change values without taking them over.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::{Map, Value, json};
use wharf_core::api::ApiError;

use super::keys::{ListRule, key_default, rule};
use crate::resources::Resource;
use crate::resources::value::{as_map, object, text};
use crate::rest::status;

/// Metadata that nobody can own.
const UNOWNED: &[&str] =
    &["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields", "selfLink"];

/// Applies what a manager wants to an object.
pub(super) fn apply(
    row: &Resource,
    live: &mut Value,
    config: &Value,
    manager: &str,
    force: bool,
    sub: &str,
    now: &str,
) -> Result<(), ApiError> {
    if config.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| m.as_array().is_some_and(|l| !l.is_empty())) {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    let wanted = top_set(&row.kind, config);
    let mut entries: Vec<Value> =
        live.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array).cloned().unwrap_or_default();
    let is_mine = |e: &Value| text(e, &["manager"]) == manager && text(e, &["operation"]) == "Apply" && text(e, &["subresource"]) == sub;
    let mine = entries.iter().find(|e| is_mine(e)).cloned();
    entries.retain(|e| !is_mine(e));

    let mut causes = Vec::new();
    for entry in &mut entries {
        let other = text(entry, &["manager"]).to_owned();
        let Some(set) = entry.get_mut("fieldsV1") else { continue };
        conflicts(&row.kind, &mut Vec::new(), set, &wanted, Some(live), Some(config), force, &other, &mut causes);
    }
    if !causes.is_empty() && !force {
        return Err(status::apply_conflict(causes));
    }
    entries.retain(|e| e.get("fieldsV1").and_then(Value::as_object).is_some_and(|m| !m.is_empty()));

    if let Some(before) = mine.as_ref().and_then(|e| e.get("fieldsV1")) {
        let others: Vec<&Value> = entries.iter().filter_map(|e| e.get("fieldsV1")).collect();
        remove_dropped(&row.kind, &mut Vec::new(), live, before, Some(&wanted), &others);
    }
    let mut config = config.clone();
    as_map(&mut config).entry("metadata").and_modify(|meta| {
        let meta = as_map(meta);
        // What the server writes is not the applier's to set; a resourceVersion is a precondition.
        for name in UNOWNED.iter().filter(|n| !matches!(**n, "name" | "namespace" | "uid" | "resourceVersion")) {
            meta.remove(*name);
        }
    });
    merge(&row.kind, &mut Vec::new(), live, &config);
    let mut entry = json!({
        "manager": manager, "operation": "Apply", "apiVersion": row.api_version(), "time": now, "fieldsType": "FieldsV1", "fieldsV1": wanted,
    });
    if !sub.is_empty() {
        as_map(&mut entry).insert("subresource".into(), sub.into());
    }
    entries.insert(0, entry);
    object(live, &["metadata"]).insert("managedFields".into(), entries.into());
    Ok(())
}

fn top_set(kind: &str, config: &Value) -> Value {
    let mut config = config.clone();
    let map = as_map(&mut config);
    map.remove("apiVersion");
    map.remove("kind");
    if let Some(Value::Object(meta)) = map.get_mut("metadata") {
        meta.retain(|name, _| !UNOWNED.contains(&name.as_str()));
        if meta.is_empty() {
            map.remove("metadata");
        }
    }
    set_of(kind, &mut Vec::new(), &config)
}

/// `k:{"name":"a"}` of a list item; `None` if it lacks a key.
fn item_key(keys: &[&str], item: &Value) -> Option<String> {
    let mut out = Map::new();
    for key in keys {
        let value = item.get(*key).cloned().or_else(|| key_default(key).map(Value::from))?;
        out.insert((*key).to_owned(), value);
    }
    Some(format!("k:{}", Value::Object(out)))
}

fn set_of<'a>(kind: &str, path: &mut Vec<&'a str>, value: &'a Value) -> Value {
    let mut out = Map::new();
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter().filter(|(_, v)| !v.is_null()) {
                path.push(name);
                out.insert(format!("f:{name}"), set_of(kind, path, value));
                path.pop();
            }
        }
        Value::Array(list) => match rule(kind, path) {
            ListRule::Atomic => {}
            ListRule::Set => out.extend(list.iter().map(|v| (format!("v:{v}"), json!({})))),
            ListRule::Map(keys) => {
                for item in list {
                    if let Some(key) = item_key(keys, item) {
                        let mut inner = set_of(kind, path, item);
                        as_map(&mut inner).insert(".".into(), json!({}));
                        out.insert(key, inner);
                    }
                }
            }
        },
        _ => {}
    }
    Value::Object(out)
}

/// The name of a list item in a set.
fn item_name(rule: ListRule, item: &Value) -> Option<String> {
    match rule {
        ListRule::Map(keys) => item_key(keys, item),
        ListRule::Set => Some(format!("v:{item}")),
        ListRule::Atomic => None,
    }
}

/// The parts of a value by the names that a set gives them. Lists are indexed once: they may be long.
enum Parts<'a> {
    None,
    Members(&'a Map<String, Value>),
    Items(HashMap<String, &'a Value>),
}

impl<'a> Parts<'a> {
    fn of(kind: &str, path: &[&str], value: Option<&'a Value>) -> Self {
        match value {
            Some(Value::Object(map)) => Self::Members(map),
            Some(Value::Array(list)) => {
                let rule = rule(kind, path);
                Self::Items(list.iter().filter_map(|item| Some((item_name(rule, item)?, item))).collect())
            }
            _ => Self::None,
        }
    }
    fn get(&self, field: &str) -> Option<&'a Value> {
        match self {
            Self::None => None,
            Self::Members(map) => map.get(field.strip_prefix("f:")?),
            Self::Items(items) => items.get(field).copied(),
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "walks four trees at once")]
fn conflicts<'a>(
    kind: &str,
    path: &mut Vec<&'a str>,
    theirs: &mut Value,
    wanted: &'a Value,
    live: Option<&Value>,
    config: Option<&Value>,
    force: bool,
    manager: &str,
    causes: &mut Vec<StatusCause>,
) {
    let (Some(their_fields), Some(wanted)) = (theirs.as_object_mut(), wanted.as_object()) else { return };
    let (live, config) = (Parts::of(kind, path, live), Parts::of(kind, path, config));
    for (field, wanted_inner) in wanted {
        let Some(their_inner) = their_fields.get_mut(field) else { continue };
        if field == "." {
            continue;
        }
        let (live_child, config_child) = (live.get(field), config.get(field));
        path.push(field.strip_prefix("f:").unwrap_or(field));
        let is_leaf = |v: &Value| v.as_object().is_none_or(Map::is_empty);
        if is_leaf(wanted_inner) && is_leaf(their_inner) {
            if !field.starts_with("v:") && live_child != config_child {
                causes.push(status::cause("FieldManagerConflict", format!("conflict with \"{manager}\""), &dotted(path)));
                if force {
                    their_fields.remove(field);
                }
            }
        } else {
            conflicts(kind, path, their_inner, wanted_inner, live_child, config_child, force, manager, causes);
        }
        path.pop();
    }
}

fn dotted(path: &[&str]) -> String {
    path.iter().map(|p| p.strip_prefix("k:").map_or_else(|| format!(".{p}"), |key| format!("[{key}]"))).collect()
}

/// Takes away what a manager set before and does not name now, unless somebody else owns it too.
fn remove_dropped<'a>(kind: &str, path: &mut Vec<&'a str>, live: &mut Value, before: &'a Value, now: Option<&Value>, others: &[&Value]) {
    let Some(before) = before.as_object() else { return };
    if let Value::Array(list) = live {
        let rule = rule(kind, path);
        let index: HashMap<String, usize> = list.iter().enumerate().filter_map(|(i, item)| Some((item_name(rule, item)?, i))).collect();
        let mut gone = HashSet::new();
        for (field, inner) in before {
            let Some(at) = index.get(field).copied() else { continue };
            let still = now.and_then(|n| n.get(field));
            let theirs: Vec<&Value> = others.iter().filter_map(|o| o.get(field)).collect();
            if still.is_none() && theirs.is_empty() {
                gone.insert(at);
            } else {
                remove_dropped(kind, path, &mut list[at], inner, still, &theirs);
            }
        }
        let mut at = 0;
        list.retain(|_| {
            at += 1;
            !gone.contains(&(at - 1))
        });
        return;
    }
    let Some(map) = live.as_object_mut() else { return };
    for (field, inner) in before {
        let Some(name) = field.strip_prefix("f:") else { continue };
        let still = now.and_then(|n| n.get(field));
        let theirs: Vec<&Value> = others.iter().filter_map(|o| o.get(field)).collect();
        let Some(child) = map.get_mut(name) else { continue };
        path.push(name);
        if still.is_some() || !theirs.is_empty() {
            remove_dropped(kind, path, child, inner, still, &theirs);
        } else if inner.as_object().is_some_and(|m| !m.is_empty()) {
            // Others may have put parts beside the manager's, so only its own go.
            remove_dropped(kind, path, child, inner, None, &[]);
            if child.as_object().is_some_and(Map::is_empty) || child.as_array().is_some_and(Vec::is_empty) {
                map.remove(name);
            }
        } else {
            map.remove(name);
        }
        path.pop();
    }
}

fn merge<'a>(kind: &str, path: &mut Vec<&'a str>, live: &mut Value, config: &'a Value) {
    match config {
        Value::Object(map) => {
            let live = as_map(live);
            for (name, value) in map {
                if value.is_null() {
                    live.remove(name);
                    continue;
                }
                path.push(name);
                merge(kind, path, live.entry(name.clone()).or_insert(Value::Null), value);
                path.pop();
            }
        }
        Value::Array(items) => {
            let have = match live {
                Value::Array(have) => have,
                other => {
                    *other = Value::Array(Vec::new());
                    match other {
                        Value::Array(have) => have,
                        _ => return,
                    }
                }
            };
            match rule(kind, path) {
                ListRule::Atomic => *have = items.clone(),
                rule => {
                    let mut index: HashMap<String, usize> =
                        have.iter().enumerate().filter_map(|(i, item)| Some((item_name(rule, item)?, i))).collect();
                    for item in items {
                        let name = item_name(rule, item);
                        match name.as_ref().and_then(|n| index.get(n)).copied() {
                            Some(at) => merge(kind, path, &mut have[at], item),
                            None => {
                                let mut fresh = Value::Null;
                                merge(kind, path, &mut fresh, item);
                                if let Some(name) = name {
                                    index.insert(name, have.len());
                                }
                                have.push(fresh);
                            }
                        }
                    }
                }
            }
        }
        scalar => *live = scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;

    fn row() -> Resource {
        Resource::of::<Deployment>(true)
    }

    fn run(live: &mut Value, config: Value, manager: &str, force: bool) -> Result<(), ApiError> {
        apply(&row(), live, &config, manager, force, "", "now")
    }

    fn container(name: &str, image: &str) -> Value {
        json!({"name": name, "image": image})
    }

    #[test]
    fn what_is_no_longer_named_goes_and_the_rest_stays() {
        let mut live = json!({"metadata":{"labels":{"theirs":"1"}}});
        run(&mut live, json!({"metadata":{"labels":{"a":"1","b":"2"}},"spec":{"replicas":2,"template":{"spec":{"containers":[container("x","1"),container("y","1")]}}}}), "m", false).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"theirs":"1","a":"1","b":"2"}));
        run(
            &mut live,
            json!({"metadata":{"labels":{"a":"1"}},"spec":{"template":{"spec":{"containers":[container("y","2")]}}}}),
            "m",
            false,
        )
        .unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"theirs":"1","a":"1"}));
        assert_eq!(live["spec"]["template"]["spec"]["containers"], json!([container("y", "2")]));
        assert!(live["spec"].get("replicas").is_none());
    }

    #[test]
    fn another_managers_field_is_a_conflict_unless_forced() {
        let mut live = json!({"metadata":{}});
        run(&mut live, json!({"spec":{"replicas":2}}), "a", false).unwrap();
        let error = run(&mut live.clone(), json!({"spec":{"replicas":3}}), "b", false).unwrap_err();
        assert!(error.is_conflict() && error.to_string().contains(".spec.replicas"), "{error}");
        run(&mut live.clone(), json!({"spec":{"replicas":2}}), "b", false).unwrap();
        run(&mut live, json!({"spec":{"replicas":3}}), "b", true).unwrap();
        assert_eq!(live["spec"]["replicas"], 3);
        // The first manager owns nothing any more, so that dropping the field takes nothing away.
        run(&mut live, json!({"metadata":{"labels":{"x":"y"}}}), "a", false).unwrap();
        assert_eq!(live["spec"]["replicas"], 3);
    }
}
