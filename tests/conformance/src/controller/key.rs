//! Keys of which there is no object.

use wharf_core::object::ObjectRef;

use super::ControllerHarness;
use super::play::{Play, scenarios};
use super::world::World;
use crate::{CaseResult, ensure_eq, fail};

/// A key that never existed is no error, and nothing is written for it.
pub(super) async fn unknown(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let play = Play::start(harness, &world).await?;
        for key in [ObjectRef::new("nowhere", "nothing"), ObjectRef::new("", "nothing")] {
            let controller = harness.controller();
            if let Err(error) = controller.reconcile(&play.context, &key).await {
                return fail(format!("{key} does not exist, which is no error: {error}"));
            }
        }
        ensure_eq!(world.api.writes(), 0, "writes for keys that do not exist");
    }
    Ok(())
}

/// An object that is deleted while its key waits is no error, and nothing is created for it.
pub(super) async fn gone_while_away(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let mut play = Play::start(harness, &world).await?;
        world.remove(&scenario.primary.0, &scenario.primary.1).await?;
        if world.get(&scenario.primary.0, &scenario.primary.1).await?.is_some() {
            // Something holds it; the case about deletion looks at that.
            continue;
        }
        let before = world.objects().await?;
        play.settle().await?;
        let more = world.api.created().len();
        ensure_eq!(more, 0, "{}: creations for an object that was gone (before: {:?})", scenario.name, before.counts());
    }
    Ok(())
}
