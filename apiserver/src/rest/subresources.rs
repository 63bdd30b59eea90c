//! scale, binding and eviction.

use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use wharf_core::api::{ApiError, Verb};
use wharf_core::object::Object;
use wharf_core::selector::Selector;
use wharf_core::store::{ResourceId, Revision};

use super::params::parse_delete_options;
use super::read::ReadAt;
use super::{Registry, Tracking, WriteContext, Written, parts, status, timestamp};
use crate::patch::{self, Changed, Patch};
use crate::resources::Resource;
use crate::resources::custom::ScalePaths;
use crate::resources::value::{as_map, at, items, number, object, text};

/// How a Scale is written.
#[derive(Debug)]
pub(super) enum ScaleChange {
    /// As a whole.
    Replace(Value),
    /// By a patch.
    Patch(Patch),
}

/// The Scale of an object.
pub(super) fn scale_of(row: &Resource, value: &Value) -> Value {
    if let Some(paths) = row.custom.as_ref().and_then(|c| c.scale()) {
        return custom_scale(paths, value);
    }
    let selector = match at(value, &["spec", "selector"]) {
        // A replication controller's selector is a plain map.
        Some(Value::Object(map)) if row.kind == "ReplicationController" => {
            map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        }
        Some(selector) => serde_json::from_value(selector.clone())
            .ok()
            .and_then(|s| Selector::from_object(&s).ok())
            .map(|s| s.to_string())
            .unwrap_or_default(),
        None => String::new(),
    };
    let mut meta = serde_json::Map::new();
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(found) = at(value, &["metadata", name]) {
            meta.insert(name.into(), found.clone());
        }
    }
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta,
        "spec": {"replicas": number(value, &["spec", "replicas"]).unwrap_or(0)},
        "status": {"replicas": number(value, &["status", "replicas"]).unwrap_or(0), "selector": selector},
    })
}

/// The Scale of a custom resource, which says where its parts stand.
fn custom_scale(paths: &ScalePaths, value: &Value) -> Value {
    let find = |path: &[String]| path.iter().try_fold(value, |v, name| v.get(name));
    let replicas = |path: &[String]| find(path).and_then(Value::as_i64).unwrap_or(0);
    let mut meta = serde_json::Map::new();
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(found) = at(value, &["metadata", name]) {
            meta.insert(name.into(), found.clone());
        }
    }
    let mut status = json!({"replicas": replicas(&paths.status_replicas)});
    if let Some(selector) = paths.selector.as_deref().and_then(find).and_then(Value::as_str).filter(|s| !s.is_empty()) {
        as_map(&mut status).insert("selector".into(), selector.into());
    }
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": {"replicas": replicas(&paths.spec_replicas)}, "status": status})
}

/// A body that is to be a Scale of this name.
fn check_scale(body: &Value, name: &str) -> Result<(), ApiError> {
    let (version, kind, found) = (text(body, &["apiVersion"]), text(body, &["kind"]), text(body, &["metadata", "name"]));
    if !matches!(kind, "" | "Scale") {
        return Err(status::bad_request(format!("{kind} in version {version:?} cannot be handled as a Scale: it is another kind")));
    }
    if !matches!(version, "" | "autoscaling/v1") {
        let why = format!("the API version in the data ({version}) does not match the expected API version (autoscaling/v1)");
        return Err(status::bad_request(why));
    }
    if !found.is_empty() && found != name {
        return Err(status::bad_request(format!("the name of the object ({found}) does not match the name on the URL ({name})")));
    }
    Ok(())
}

/// A Scale as an object to serve.
pub(super) fn scale_object(row: &Resource, object: &Object) -> Result<Object, ApiError> {
    let value = super::parse_stored(object.bytes())?;
    Ok(Object::from_served(object.key().clone(), object.revision(), scale_of(row, &value).to_string().into()))
}

impl Registry {
    pub(crate) async fn get_scale(&self, row: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
        let object = self.get(row, namespace, name, ReadAt::Newest).await.map_err(|error| match &*row.plural {
            // Some kinds name the part that was not found, and one of them another group.
            "deployments" | "replicasets" | "replicationcontrollers" if error.is_not_found() => {
                let group = if row.group.is_empty() { "autoscaling" } else { &*row.group };
                status::not_found(group, &format!("{}/scale", row.plural), name)
            }
            _ => error,
        })?;
        Ok(Arc::new(scale_object(row, &object)?))
    }

    pub(super) async fn write_scale(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        namespace: &str,
        name: &str,
        change: ScaleChange,
    ) -> Result<Written, ApiError> {
        let now = self.now();
        let apply = |old: &Value, _: &str| -> Result<Changed, ApiError> {
            let scale = scale_of(row, old);
            let new = match &change {
                ScaleChange::Replace(body) => {
                    check_scale(body, name)?;
                    body.clone()
                }
                ScaleChange::Patch(patch) => patch.apply(row, &scale, "", &ctx.field_manager, "scale", &now)?.object,
            };
            let (asked, uid) = (text(&new, &["metadata", "uid"]), text(old, &["metadata", "uid"]));
            if !asked.is_empty() && asked != uid {
                let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}");
                return Err(status::conflict(&row.group, &format!("{}/scale", row.plural), name, &why));
            }
            let replicas = number(&new, &["spec", "replicas"]).unwrap_or(0);
            if replicas < 0 {
                let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
                return Err(status::invalid(
                    "autoscaling",
                    "Scale",
                    name,
                    vec![status::cause("FieldValueInvalid", message, "spec.replicas")],
                ));
            }
            let mut object_value = old.clone();
            let paths = row.custom.as_ref().and_then(|c| c.scale());
            let path: Vec<&str> = paths.map_or_else(|| vec!["spec", "replicas"], |p| p.spec_replicas.iter().map(String::as_str).collect());
            if let Some((last, parents)) = path.split_last() {
                object(&mut object_value, parents).insert((*last).to_owned(), replicas.into());
            }
            let revision = text(&new, &["metadata", "resourceVersion"]);
            if !revision.is_empty() {
                object(&mut object_value, &["metadata"]).insert("resourceVersion".into(), revision.into());
            }
            Ok(object_value.into())
        };
        let ctx = &WriteContext { tracking: Tracking::Scale, ..ctx.clone() };
        let written = self.change(ctx, row, "", namespace, name, &apply).await?;
        Ok(Written { object: Arc::new(scale_object(row, &written.object)?), ..written })
    }

    /// Binds a pod to a node.
    ///
    /// # Errors
    /// 409 for a pod that has a node, or is going.
    pub(super) async fn bind(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        namespace: &str,
        name: &str,
        body: &Value,
    ) -> Result<Written, ApiError> {
        let target = text(body, &["target", "name"]);
        if target.is_empty() {
            return Err(status::invalid("", "Binding", name, vec![status::cause("FieldValueRequired", "Required value", "target.name")]));
        }
        let now = timestamp(self.clock.now());
        let bind = |old: &Value, _: &str| -> Result<Changed, ApiError> {
            let refuse = |why: String| Err(status::conflict("", "pods/binding", name, &why));
            let (asked, uid) = (text(body, &["metadata", "uid"]), text(old, &["metadata", "uid"]));
            if !asked.is_empty() && asked != uid {
                return refuse(format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}"));
            }
            if at(old, &["metadata", "deletionTimestamp"]).is_some() {
                return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let node = text(old, &["spec", "nodeName"]);
            if !node.is_empty() {
                return refuse(format!("pod {name} is already assigned to node \"{node}\""));
            }
            if !items(old, &["spec", "schedulingGates"]).is_empty() {
                return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            let mut pod = old.clone();
            object(&mut pod, &["spec"]).insert("nodeName".into(), target.into());
            if let Some(Value::Object(annotations)) = at(body, &["metadata", "annotations"]) {
                object(&mut pod, &["metadata", "annotations"]).extend(annotations.clone());
            }
            let mut conditions = items(&pod, &["status", "conditions"]).to_vec();
            conditions.retain(|c| text(c, &["type"]) != "PodScheduled");
            conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
            object(&mut pod, &["status"]).insert("conditions".into(), conditions.into());
            Ok(pod.into())
        };
        let ctx = &WriteContext { tracking: Tracking::Off, ..ctx.clone() };
        let mut written = self.change(ctx, row, "binding", namespace, name, &bind).await?;
        written.created = true;
        Ok(written)
    }

    /// Deletes a pod if its disruption budget allows.
    ///
    /// # Errors
    /// 429 when the budget is used up.
    pub(super) async fn evict(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        namespace: &str,
        name: &str,
        body: &Value,
    ) -> Result<Written, ApiError> {
        let (options, dry_run) = at(body, &["deleteOptions"]).map(parse_delete_options).transpose()?.unwrap_or_default();
        let ctx = &WriteContext { dry_run: ctx.dry_run || dry_run, ..ctx.clone() };
        let pod = self.get(row, namespace, name, ReadAt::Newest).await?;
        if let Some(budgets) = self.row("policy", "v1", "poddisruptionbudgets") {
            let cache = self.caches.of(&ResourceId::new("policy", "poddisruptionbudgets")).await.map_err(status::of_cache)?;
            cache.consistent().await.map_err(status::of_cache)?;
            let selects = |object: &Object| {
                let budget = object.decode::<PodDisruptionBudget>().ok()?;
                let selector = Selector::from_optional(budget.spec.as_ref()?.selector.as_ref()).ok()?;
                Some(selector.matches_opt(pod.meta().labels.as_ref()))
            };
            let matching: Vec<Arc<Object>> = cache.list(Some(namespace)).items.into_iter().filter(|o| selects(o) == Some(true)).collect();
            let settled = pod.meta().deletion_timestamp.is_some() || {
                let value = super::parse_stored(pod.bytes())?;
                matches!(text(&value, &["status", "phase"]), "Pending" | "Succeeded" | "Failed")
            };
            match matching.as_slice() {
                [] => {}
                _ if settled => {}
                [budget] => {
                    let now = timestamp(self.clock.now());
                    let take = |old: &Value, _: &str| disrupt(old, name, &now).map(Changed::from);
                    let ctx = &WriteContext { tracking: Tracking::Off, ..ctx.clone() };
                    self.change(ctx, &budgets, "status", namespace, &budget.key().name, &take).await?;
                }
                _ => {
                    return Err(status::internal(
                        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                    ));
                }
            }
        }
        self.delete(ctx, row, namespace, name, &options).await
    }
}

/// Takes one disruption from a budget.
fn disrupt(old: &Value, pod: &str, now: &str) -> Result<Value, ApiError> {
    let allowed = number(old, &["status", "disruptionsAllowed"]).unwrap_or(0);
    let observed = number(old, &["status", "observedGeneration"]).unwrap_or(0);
    if allowed <= 0 || observed < number(old, &["metadata", "generation"]).unwrap_or(0) {
        return Err(ApiError::status(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."));
    }
    let mut new = old.clone();
    let status = object(&mut new, &["status"]);
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    as_map(disrupted).insert(pod.into(), now.into());
    Ok(new)
}

impl Registry {
    /// Carries out a write on an object or a subresource of it. `parsed` is the body of a create or an update.
    #[allow(clippy::too_many_arguments, reason = "the pieces of one write")]
    pub(crate) async fn carry_out(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        sub: &str,
        namespace: &str,
        name: &str,
        verb: Verb,
        parsed: Option<Value>,
    ) -> Result<Arc<Object>, ApiError> {
        let body = parsed.unwrap_or_default();
        let written = match (verb, sub) {
            (Verb::Create(_), "") if !row.is_review() => self.create(ctx, row, namespace, body).await?,
            (Verb::Create(_), "binding") => self.bind(ctx, row, namespace, name, &body).await?,
            (Verb::Create(_), "eviction") => self.evict(ctx, row, namespace, name, &body).await?,
            (Verb::Create(_), "" | "token") => {
                let value = self.review(&ctx.user, row, sub, namespace, name, body).await?;
                let key = Self::key(row, namespace, name);
                return Ok(Arc::new(Object::from_served(key, Revision(0), value.to_string().into())));
            }
            (Verb::Update(_), "scale") => self.write_scale(ctx, row, namespace, name, ScaleChange::Replace(body)).await?,
            (Verb::Update(_), sub) if sub == "finalize" || parts::is_view(sub) => self.update(ctx, row, sub, namespace, name, body).await?,
            (Verb::Patch { kind, body }, sub) if sub == "scale" || parts::is_view(sub) => {
                patch::check(row, kind)?;
                let patch = Patch::parse(kind, &body)?;
                match sub {
                    "scale" => self.write_scale(ctx, row, namespace, name, ScaleChange::Patch(patch)).await?,
                    _ => self.patch(ctx, row, sub, namespace, name, &patch).await?,
                }
            }
            (Verb::Delete(options), "") => self.delete(ctx, row, namespace, name, &options).await?,
            _ => return Err(status::method_not_supported()),
        };
        Ok(written.object)
    }
}
