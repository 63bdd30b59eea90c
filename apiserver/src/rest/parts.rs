//! What a write to an object, or to a part of it, may change: everything else is put back.

use serde_json::{Value, json};

use crate::request::User;
use crate::resources::value::{as_map, at, copy_member, items, object, text};
use crate::resources::{DeleteRule, Resource, StatusRule};
use crate::validation::{self, PartRule};

/// The conditions of a signing request that only its approval may add, change or take away.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

fn is(row: &Resource, group: &str, plural: &str) -> bool {
    row.group == group && row.plural == plural
}

/// Whether a write of the status leaves labels, annotations and the like as they are; Kubernetes' strategies differ in it.
fn keeps_metadata(row: &Resource) -> bool {
    row.custom.is_some()
        || matches!(
            &*row.group,
            "admissionregistration.k8s.io"
                | "apiregistration.k8s.io"
                | "certificates.k8s.io"
                | "flowcontrol.apiserver.k8s.io"
                | "resource.k8s.io"
        )
        || is(row, "storage.k8s.io", "volumeattachments")
}

/// What a part is held to, where that is another rule than the whole object's.
pub(super) fn rule(row: &Resource, sub: &str) -> Option<PartRule> {
    match sub {
        // What a binding writes is the server's own.
        "binding" if is(row, "", "pods") => Some(|_, _, _| {}),
        "ephemeralcontainers" => Some(validation::ephemeral_containers),
        "finalize" if is(row, "", "namespaces") => Some(validation::namespace_finalizers),
        "resize" if is(row, "", "pods") => Some(validation::resize),
        "status" if row.custom.is_none() => Some(row.validate_status),
        _ => None,
    }
}

/// What the server alone says of a new object.
pub(super) fn prepare(row: &Resource, user: &User, new: &mut Value) {
    if row.delete == DeleteRule::Definition {
        crate::crd::note_stored_version(new);
    }
    if !is(row, "certificates.k8s.io", "certificatesigningrequests") {
        return;
    }
    let spec = object(new, &["spec"]);
    for name in ["username", "uid", "groups", "extra"] {
        spec.remove(name);
    }
    spec.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
}

/// Puts back what a write to the main resource, or to a subresource, must not touch.
pub(super) fn keep(row: &Resource, sub: &str, new: &mut Value, old: &Value, now: &str) {
    match sub {
        "" => main(row, new, old),
        "status" | "approval" if is(row, "certificates.k8s.io", "certificatesigningrequests") => signing_request(sub, new, old, now),
        "status" => status_only(row, new, old),
        "finalize" => only(new, old, &["spec"], "finalizers"),
        "ephemeralcontainers" => only(new, old, &["spec"], "ephemeralContainers"),
        "resize" => resources_only(new, old),
        _ => {}
    }
}

fn main(row: &Resource, new: &mut Value, old: &Value) {
    if row.status == StatusRule::Split {
        copy_member(new, old, "status");
    }
    if row.delete == DeleteRule::Namespace {
        let spec = as_map(new).entry("spec").or_insert_with(|| json!({}));
        copy_member(spec, old.get("spec").unwrap_or(&Value::Null), "finalizers");
    }
    if row.delete == DeleteRule::Definition {
        crate::crd::note_stored_version(new);
    }
    if is(row, "certificates.k8s.io", "certificatesigningrequests") {
        copy_member(new, old, "spec");
    }
}

/// One member below `parents` is taken over, and nothing else.
fn only(new: &mut Value, old: &Value, parents: &[&str], name: &str) {
    let found = at(new, parents).and_then(|parent| parent.get(name)).cloned();
    new.clone_from(old);
    let parent = object(new, parents);
    match found {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
}

fn status_only(row: &Resource, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let mut kept = old.clone();
    if !keeps_metadata(row)
        && let (Some(from), Some(to)) = (new.get("metadata"), kept.get_mut("metadata"))
    {
        copy_member(to, from, "annotations");
        copy_member(to, from, "finalizers");
        if !is(row, "apps", "deployments") {
            copy_member(to, from, "labels");
        }
        // Node agents of old broke the owners of pods.
        if !is(row, "", "pods") {
            copy_member(to, from, "ownerReferences");
        }
    }
    *new = kept;
    let map = as_map(new);
    match status {
        Some(status) => map.insert("status".into(), status),
        None => map.remove("status"),
    };
}

/// The resources of containers, and what is to happen when they change. Containers that are added, taken away or renamed are left for
/// validation to refuse.
fn resources_only(new: &mut Value, old: &Value) {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let names = |pod: &Value, list: &str| -> Vec<String> {
        items(pod, &["spec", list]).iter().map(|container| text(container, &["name"]).to_owned()).collect()
    };
    if LISTS.iter().any(|list| names(new, list) != names(old, list)) {
        return;
    }
    let mut kept = old.clone();
    for list in LISTS {
        let Some(Value::Array(containers)) = object(&mut kept, &["spec"]).get_mut(list) else { continue };
        for (container, asked) in containers.iter_mut().zip(items(new, &["spec", list])) {
            copy_member(container, asked, "resources");
            copy_member(container, asked, "resizePolicy");
        }
    }
    *new = kept;
}

fn with_type<'a>(conditions: &'a [Value], name: &'a str) -> impl Iterator<Item = (usize, &'a Value)> {
    conditions.iter().enumerate().filter(move |(_, condition)| text(condition, &["type"]) == name)
}

/// The status of a signing request is for its signer, all but the decision; the approval is the conditions alone.
fn signing_request(sub: &str, new: &mut Value, old: &Value, now: &str) {
    let before = items(old, &["status", "conditions"]);
    let mut conditions = items(new, &["status", "conditions"]).to_vec();
    if sub == "status" {
        for decision in DECISIONS {
            let (was, is): (Vec<_>, Vec<_>) =
                (with_type(before, decision).map(|(_, c)| c.clone()).collect(), with_type(&conditions, decision).map(|(i, _)| i).collect());
            // Where their number differs, validation refuses.
            if was.len() == is.len() {
                for (index, condition) in is.into_iter().zip(was) {
                    conditions[index] = condition;
                }
            }
        }
    }
    for condition in &mut conditions {
        let same = |other: &&Value| ["type", "status"].iter().all(|name| text(other, &[name]) == text(condition, &[name]));
        let since = before.iter().find(same).map(|c| text(c, &["lastTransitionTime"])).filter(|t| !t.is_empty()).unwrap_or(now).to_owned();
        let map = as_map(condition);
        for (name, time) in [("lastUpdateTime", now), ("lastTransitionTime", since.as_str())] {
            if map.get(name).is_none_or(Value::is_null) {
                map.insert(name.into(), time.into());
            }
        }
    }
    let certificate = at(if sub == "status" { &*new } else { old }, &["status", "certificate"]).cloned();
    new.clone_from(old);
    let status = object(new, &["status"]);
    match certificate {
        Some(certificate) => status.insert("certificate".into(), certificate),
        None => status.remove("certificate"),
    };
    if conditions.is_empty() {
        status.remove("conditions");
    } else {
        status.insert("conditions".into(), conditions.into());
    }
}

/// Whether a part is the object itself, seen from one side: got, updated and patched as such.
pub(super) fn is_view(sub: &str) -> bool {
    matches!(sub, "" | "status" | "approval" | "ephemeralcontainers" | "resize")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ResourceTable;

    fn row(group: &str, version: &str, plural: &str) -> std::sync::Arc<Resource> {
        ResourceTable::builtin().get(group, version, plural).unwrap().clone()
    }

    #[test]
    fn an_approval_is_its_conditions_and_a_status_all_but_the_decision() {
        let csrs = row("certificates.k8s.io", "v1", "certificatesigningrequests");
        let approved = json!({"type": "Approved", "status": "True", "reason": "x", "lastUpdateTime": "a", "lastTransitionTime": "b"});
        let old = json!({"metadata": {"name": "n"}, "spec": {"request": "r"}, "status": {"conditions": [approved]}});
        let mut new = json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"request": "s"},
            "status": {"certificate": "c", "conditions": [{"type": "Approved", "status": "True", "reason": "y"}, {"type": "Failed", "status": "True"}]}});
        let mut approval = new.clone();
        keep(&csrs, "status", &mut new, &old, "now");
        assert_eq!(new["status"]["conditions"][0], approved);
        let failed = json!({"type": "Failed", "status": "True", "lastUpdateTime": "now", "lastTransitionTime": "now"});
        assert_eq!((&new["status"]["conditions"][1], &new["status"]["certificate"]), (&failed, &json!("c")));
        assert_eq!((&new["spec"]["request"], new["metadata"].get("labels")), (&json!("r"), None));
        keep(&csrs, "approval", &mut approval, &old, "now");
        assert_eq!(approval["status"]["conditions"][0]["reason"], "y");
        assert_eq!(approval["status"]["conditions"][0]["lastTransitionTime"], "b");
        assert_eq!(approval["status"].get("certificate"), None);
        let mut main = json!({"metadata": {"name": "n"}, "spec": {"request": "s"}});
        keep(&csrs, "", &mut main, &old, "now");
        assert_eq!(main["spec"]["request"], "r");
    }

    #[test]
    fn a_signing_request_says_who_made_it() {
        let csrs = row("certificates.k8s.io", "v1", "certificatesigningrequests");
        let mut new = json!({"spec": {"username": "system:admin", "groups": ["system:masters"], "uid": "1", "extra": {"a": ["b"]}}});
        prepare(&csrs, &User::new("jane", ["staff"]), &mut new);
        assert_eq!(new["spec"], json!({"username": "jane", "groups": ["staff"]}));
    }

    #[test]
    fn a_status_takes_metadata_where_kubernetes_does() {
        let old = json!({"metadata": {"labels": {"a": "1"}, "ownerReferences": [1]}, "spec": 1, "status": 1});
        let new = json!({"metadata": {"labels": {"a": "2"}, "annotations": {"x": "y"}, "ownerReferences": [2]}, "spec": 2, "status": 2});
        let after = |row: &Resource| {
            let mut value = new.clone();
            keep(row, "status", &mut value, &old, "now");
            (
                value["metadata"]["labels"]["a"].clone(),
                value["metadata"]["ownerReferences"][0].clone(),
                value["spec"].clone(),
                value["status"].clone(),
            )
        };
        assert_eq!(after(&row("", "v1", "pods")), (json!("2"), json!(1), json!(1), json!(2)));
        assert_eq!(after(&row("", "v1", "nodes")), (json!("2"), json!(2), json!(1), json!(2)));
        assert_eq!(after(&row("apps", "v1", "deployments")), (json!("1"), json!(2), json!(1), json!(2)));
        assert_eq!(after(&row("flowcontrol.apiserver.k8s.io", "v1", "flowschemas")), (json!("1"), json!(1), json!(1), json!(2)));
    }
}
