//! What a controller watches.

use std::collections::BTreeSet;

use serde_json::json;
use wharf_core::object::{ObjectRef, resource_id};

use super::play::{Order, Play, scenarios, through};
use super::world::World;
use super::{Change, ControllerHarness};
use crate::{CaseResult, ensure, ensure_eq, skip};

/// Whatever it reads from a cache it also watches; otherwise a change of it would trigger nothing.
pub(super) async fn declares_what_it_reads(harness: &dyn ControllerHarness) -> CaseResult {
    let name = |r: &kube::core::ApiResource| format!("{}/{}", r.api_version, r.plural);
    let declared: BTreeSet<_> = harness.controller().watches().iter().map(|w| name(&w.resource)).collect();
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        through(harness, &world, Order::AsTheyCome, "undisturbed").await?;
        // Informers begin to watch in tasks of their own.
        Play::breathe().await;
        let read = world.api.watched();
        let secret: Vec<_> = read.difference(&declared).collect();
        ensure!(secret.is_empty(), "{}: read from a cache, but not in watches(): {secret:?}", scenario.name);
    }
    Ok(())
}

async fn heals(harness: &dyn ControllerHarness, remove: bool) -> CaseResult {
    let mut seen = 0;
    for scenario in scenarios(harness)?.into_iter().filter(|s| !s.owned.is_empty()) {
        let world = World::new(harness, &scenario).await?;
        let mut play = Play::start(harness, &world).await?;
        play.settle().await?;
        for change in &scenario.changes {
            world.change(change).await?;
            play.settle().await?;
        }
        let before = world.expect_settled("undisturbed").await?;
        for (resource, key, uid) in world.api.created() {
            let at = ObjectRef::new(key.namespace.clone(), key.name.clone());
            let owned = scenario.owned.iter().any(|o| resource_id(o) == resource_id(&resource));
            let is_it = world.get(&resource, &at).await?.is_some_and(|o| o["metadata"]["uid"] == json!(uid));
            if !owned || !is_it {
                continue;
            }
            if remove {
                world.remove(&resource, &at).await?;
            } else {
                world.change(&Change::Merge(resource, at.clone(), json!({"metadata": {"ownerReferences": null}}))).await?;
            }
            play.settle().await?;
            let when = format!("after somebody {} {at}", if remove { "removed" } else { "released" });
            let ended = world.expect_settled(&when).await?;
            ensure_eq!(ended.counts(), before.counts(), "{}, {when}: objects", scenario.name);
            seen += 1;
        }
    }
    if seen == 0 { skip("no scenario declares owned resources") } else { Ok(()) }
}

/// Somebody removes what it made: it is made again, from the trigger alone.
pub(super) async fn child_removed(harness: &dyn ControllerHarness) -> CaseResult {
    heals(harness, true).await
}

/// Somebody removes the owner reference of what it made: it is taken back, or made again in its place.
pub(super) async fn child_released(harness: &dyn ControllerHarness) -> CaseResult {
    heals(harness, false).await
}
