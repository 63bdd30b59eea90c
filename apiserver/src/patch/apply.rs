//! Server-side apply: fields have managers, a manager's fields that it no longer names go away.
//!
//! Only appliers own fields here; plain updates change values without taking them over.

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

/// Whether a value is what `v:` names, in JSON.
fn is_scalar(value: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|named| named == *value)
}

/// The part of a value that a field of a set is about.
fn child<'a>(kind: &str, path: &[&str], value: &'a Value, field: &str) -> Option<&'a Value> {
    if let Some(name) = field.strip_prefix("f:") {
        return value.get(name);
    }
    let list = value.as_array()?;
    if let Some(text) = field.strip_prefix("v:") {
        return list.iter().find(|v| is_scalar(v, text));
    }
    let ListRule::Map(keys) = rule(kind, path) else { return None };
    list.iter().find(|item| item_key(keys, item).as_deref() == Some(field))
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
    for (field, wanted_inner) in wanted {
        let Some(their_inner) = their_fields.get_mut(field) else { continue };
        if field == "." {
            continue;
        }
        let live_child = live.and_then(|v| child(kind, path, v, field));
        let config_child = config.and_then(|v| child(kind, path, v, field));
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
    for (field, inner) in before {
        if field == "." {
            continue;
        }
        let still = now.and_then(|n| n.get(field));
        let theirs: Vec<&Value> = others.iter().filter_map(|o| o.get(field)).collect();
        if let Some(name) = field.strip_prefix("f:") {
            path.push(name);
            if still.is_none() && theirs.is_empty() {
                let has_more = live.get(name).is_some_and(Value::is_object) && inner.as_object().is_some_and(|m| !m.is_empty());
                if let Some(child) = live.get_mut(name).filter(|_| has_more) {
                    // Others may have put members beside the manager's, so only its own go.
                    remove_dropped(kind, path, child, inner, None, &[]);
                    if child.as_object().is_some_and(Map::is_empty) {
                        as_map(live).remove(name);
                    }
                } else if let Some(map) = live.as_object_mut() {
                    let keyed = inner.as_object().is_some_and(|m| !m.is_empty());
                    match map.get_mut(name) {
                        Some(list) if keyed && list.is_array() => {
                            remove_dropped(kind, path, list, inner, None, &[]);
                            if list.as_array().is_some_and(Vec::is_empty) {
                                map.remove(name);
                            }
                        }
                        _ => {
                            map.remove(name);
                        }
                    }
                }
            } else if let Some(child) = live.get_mut(name) {
                remove_dropped(kind, path, child, inner, still, &theirs);
            }
            path.pop();
        } else if let Some(list) = live.as_array_mut() {
            let rule = rule(kind, path);
            let position = list.iter().position(|item| match (field.strip_prefix("v:"), rule) {
                (Some(text), _) => is_scalar(item, text),
                (None, ListRule::Map(keys)) => item_key(keys, item).as_deref() == Some(field),
                _ => false,
            });
            match position {
                Some(at) if still.is_none() && theirs.is_empty() => {
                    list.remove(at);
                }
                Some(at) => remove_dropped(kind, path, &mut list[at], inner, still, &theirs),
                None => {}
            }
        }
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
                ListRule::Set => {
                    for item in items {
                        if !have.contains(item) {
                            have.push(item.clone());
                        }
                    }
                }
                ListRule::Map(keys) => {
                    for item in items {
                        let key = item_key(keys, item);
                        match have.iter().position(|h| key.is_some() && item_key(keys, h) == key) {
                            Some(at) => merge(kind, path, &mut have[at], item),
                            None => {
                                let mut fresh = Value::Null;
                                merge(kind, path, &mut fresh, item);
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
