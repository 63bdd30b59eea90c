//! What belongs to a controller, and what does not.

use serde_json::{Value, json};
use wharf_core::object::{ObjectRef, resource_id};

use super::play::{Order, Play, scenarios, through};
use super::world::World;
use super::{Change, ControllerHarness};
use crate::{CaseResult, ensure, ensure_eq, fail, skip};

/// What it makes carries one controlling owner reference, to the uid of the object that it is for.
pub(super) async fn references(harness: &dyn ControllerHarness) -> CaseResult {
    let mut seen = 0;
    for scenario in scenarios(harness)?.into_iter().filter(|s| !s.owned.is_empty()) {
        let world = World::new(harness, &scenario).await?;
        through(harness, &world, Order::AsTheyCome, "undisturbed").await?;
        let owner = world.get(&scenario.primary.0, &scenario.primary.1).await?;
        let uid = owner.as_ref().map_or(Value::Null, |o| o["metadata"]["uid"].clone());
        for (resource, key, _) in world.api.created() {
            if !scenario.owned.iter().any(|o| resource_id(o) == resource_id(&resource)) {
                continue;
            }
            let Some(child) = world.get(&resource, &ObjectRef::new(key.namespace.clone(), key.name.clone())).await? else { continue };
            let owners = child["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            let controllers: Vec<_> = owners.iter().filter(|o| o["controller"] == json!(true)).collect();
            let [controller] = controllers.as_slice() else {
                return fail(format!("{key} has {} controlling owners: {owners:?}", controllers.len()));
            };
            ensure!(controller["uid"] == uid && uid.is_string(), "{key} is owned by uid {}, not {uid}", controller["uid"]);
            ensure_eq!(controller["kind"], json!(scenario.primary.0.kind), "kind in the owner reference of {key}");
            ensure_eq!(controller["name"], json!(&*scenario.primary.1.name), "name in the owner reference of {key}");
            seen += 1;
        }
    }
    if seen == 0 { skip("no scenario declares owned resources") } else { Ok(()) }
}

/// Nothing is made for an object that is being deleted.
pub(super) async fn deletion_is_respected(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let (resource, object) = scenario.primary.clone();
        if world.get(&resource, &object).await?.is_none() {
            continue;
        }
        let hold = json!({"metadata": {"finalizers": ["conformance.example.com/hold"]}});
        world.change(&Change::Merge(resource.clone(), object.clone(), hold)).await?;
        world.change(&Change::Delete(resource.clone(), object.clone())).await?;
        let going = world.get(&resource, &object).await?.is_some_and(|o| o["metadata"]["deletionTimestamp"].is_string());
        ensure!(going, "the harness's API does not hold back a delete for a finalizer");
        Play::start(harness, &world).await?.settle().await?;
        // What is made elsewhere is for other objects. Of a namespace, what is in it is meant.
        let near = |namespace: &str| namespace == &*object.namespace || namespace == &*object.name;
        let made = world.api.created().into_iter().map(|(_, key, _)| key).filter(|key| near(&key.namespace));
        let made: Vec<_> = made.map(|key| key.to_string()).collect();
        ensure!(made.is_empty(), "{}: made for an object that is being deleted: {made:?}", scenario.name);
        let held = world.get(&resource, &object).await?;
        let kept = held
            .is_some_and(|o| o["metadata"]["finalizers"].as_array().is_some_and(|f| f.contains(&json!("conformance.example.com/hold"))));
        ensure!(kept, "{}: a finalizer of somebody else was removed", scenario.name);
    }
    Ok(())
}

/// Objects of another owner stay as they are, whatever their labels.
pub(super) async fn foreign_untouched(harness: &dyn ControllerHarness) -> CaseResult {
    let mut seen = 0;
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let mut before = Vec::new();
        for object in &scenario.foreign {
            world.create(object.clone()).await?;
            let kind = object["kind"].as_str().unwrap_or_default();
            let Some(resource) = scenario.resources.iter().find(|r| r.kind == kind) else { return fail(format!("unknown kind {kind}")) };
            let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
            let at = ObjectRef::new(field("namespace"), field("name"));
            before.push((resource.clone(), at.clone(), world.get(resource, &at).await?));
        }
        let mut play = Play::start(harness, &world).await?;
        play.settle().await?;
        for change in &scenario.changes {
            world.change(change).await?;
            play.settle().await?;
        }
        for (resource, at, was) in before {
            ensure!(world.get(&resource, &at).await? == was, "{}: {at} belongs to somebody else and was changed", scenario.name);
            seen += 1;
        }
    }
    if seen == 0 { skip("no scenario has foreign objects") } else { Ok(()) }
}
