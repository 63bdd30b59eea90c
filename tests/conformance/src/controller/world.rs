//! The state that a scenario is played in.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::core::ApiResource;
use serde_json::Value;
use wharf_core::api::{ApiError, DeleteParams, PatchKind, Query, Target, Verb, Write};
use wharf_core::clock::ManualClock;
use wharf_core::object::ObjectRef;

use super::faulty::Shared;
use super::{Change, ControllerHarness, Scenario};
use crate::{CaseResult, Stop, fail};

/// All objects of a scenario's resources.
#[derive(Debug, Clone, Default)]
pub struct Objects(BTreeMap<String, Vec<Value>>);

impl Objects {
    /// The objects of a kind (`ReplicaSet`), in the API's order.
    pub fn of(&self, kind: &str) -> &[Value] {
        self.0.get(kind).map(Vec::as_slice).unwrap_or_default()
    }
    /// One object of a kind.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.of(kind).iter().find(|o| o["metadata"]["name"] == name)
    }
    pub(super) fn counts(&self) -> BTreeMap<&str, usize> {
        self.0.iter().map(|(kind, all)| (kind.as_str(), all.len())).collect()
    }
}

pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) api: Arc<Shared>,
    pub(super) clock: ManualClock,
}

fn target(resource: &ApiResource, object: &ObjectRef) -> Target {
    Target { resource: resource.clone(), object: object.clone(), subresource: "" }
}

fn kit(error: ApiError) -> Stop {
    Stop::Fail(format!("the kit's own call failed: {error}"))
}

impl World {
    /// A fresh world with the scenario's first objects in it.
    pub(super) async fn new(harness: &dyn ControllerHarness, scenario: &Scenario) -> CaseResult<Self> {
        let clock = ManualClock::default();
        let api = Shared::new(harness.api(Arc::new(clock.clone())).await);
        let world = Self { scenario: scenario.clone(), api, clock };
        for object in &scenario.initial {
            world.create(object.clone()).await?;
        }
        Ok(world)
    }

    /// An object as it is now.
    pub(super) async fn get(&self, resource: &ApiResource, object: &ObjectRef) -> CaseResult<Option<Value>> {
        match self.api.inner().get(&target(resource, object)).await {
            Ok(found) => serde_json::from_slice(found.bytes()).map(Some).map_err(|e| Stop::Fail(format!("not JSON: {e}"))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(kit(error)),
        }
    }

    fn resource(&self, kind: &str) -> CaseResult<ApiResource> {
        let found = self.scenario.resources.iter().find(|r| r.kind == kind).cloned();
        found.ok_or_else(|| Stop::Fail(format!("the scenario does not list the resource of {kind}")))
    }

    async fn fill_in(&self, value: &mut Value, namespace: &str) -> CaseResult {
        // The documents are small: a stack of what is still to be looked at.
        let mut left = vec![value];
        while let Some(value) = left.pop() {
            match value {
                Value::String(text) => {
                    let Some((kind, name)) = text.strip_prefix("uid-of:").and_then(|t| t.split_once('/')) else { continue };
                    let resource = self.resource(kind)?;
                    let mut found = self.get(&resource, &ObjectRef::new(namespace, name)).await?;
                    if found.is_none() {
                        found = self.get(&resource, &ObjectRef::new("", name)).await?;
                    }
                    let Some(found) = found else { return fail(format!("{text}: there is no such object")) };
                    *text = found["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                }
                Value::Array(all) => left.extend(all),
                Value::Object(all) => left.extend(all.values_mut()),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn create(&self, mut object: Value) -> CaseResult {
        let resource = self.resource(object["kind"].as_str().unwrap_or_default())?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.fill_in(&mut object, &namespace).await?;
        let status = object.get("status").cloned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let at = ObjectRef::new(namespace, name);
        self.write(target(&resource, &at), Verb::Create(object.to_string().into())).await?;
        if let Some(status) = status {
            let patch = serde_json::json!({"status": status}).to_string();
            self.write(target(&resource, &at).sub("status"), Verb::Patch { kind: PatchKind::Merge, body: patch.into() }).await?;
        }
        Ok(())
    }

    async fn write(&self, target: Target, verb: Verb) -> CaseResult {
        let write = Write { target, verb, field_manager: "conformance".into() };
        match self.api.inner().write(write).await {
            Err(error) if !error.is_not_found() => Err(kit(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn change(&self, change: &Change) -> CaseResult {
        let merge = |patch: &Value| Verb::Patch { kind: PatchKind::Merge, body: patch.to_string().into() };
        match change {
            Change::Create(object) => self.create(object.clone()).await,
            Change::Merge(resource, object, patch) => self.write(target(resource, object), merge(patch)).await,
            Change::MergeStatus(resource, object, patch) => self.write(target(resource, object).sub("status"), merge(patch)).await,
            Change::Delete(resource, object) => self.write(target(resource, object), Verb::Delete(DeleteParams::default())).await,
        }
    }

    /// Removes an object at once.
    pub(super) async fn remove(&self, resource: &ApiResource, object: &ObjectRef) -> CaseResult {
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.write(target(resource, object), Verb::Delete(params)).await
    }

    pub(super) async fn objects(&self) -> CaseResult<Objects> {
        let mut objects = Objects::default();
        for resource in &self.scenario.resources {
            let list = self.api.inner().list(resource, &Query::default()).await.map_err(kit)?;
            let parsed = list.items.iter().filter_map(|o| serde_json::from_slice(o.bytes()).ok()).collect();
            objects.0.insert(resource.kind.clone(), parsed);
        }
        Ok(objects)
    }

    /// The scenario's own word on how it ended.
    pub(super) async fn expect_settled(&self, when: &str) -> CaseResult<Objects> {
        let objects = self.objects().await?;
        match (self.scenario.settled)(&objects) {
            Ok(()) => Ok(objects),
            Err(missing) => {
                fail(format!("{}, {when}: it did not end well: {missing}; objects: {:?}", self.scenario.name, objects.counts()))
            }
        }
    }
}
