//! A new process takes over.

use super::ControllerHarness;
use super::faulty::Fault;
use super::play::{After, Play, at_each_call, scenarios};
use super::world::World;
use crate::{CaseResult, ensure_eq};

/// The process dies right after a write.
pub(super) async fn after_each_write(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::HangsAfter, After::NewProcess, |c| c.write).await
}

/// A new process finds everything in order and writes nothing.
pub(super) async fn at_rest(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        Play::start(harness, &world).await?.settle().await?;
        let writes = world.api.writes();
        Play::start(harness, &world).await?.settle().await?;
        ensure_eq!(world.api.writes(), writes, "{}: writes, after a restart at rest", scenario.name);
    }
    Ok(())
}
