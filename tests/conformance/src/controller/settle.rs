//! A controller comes to rest, in the right place.

use super::ControllerHarness;
use super::play::{Order, Play, scenarios, through};
use super::world::World;
use crate::{CaseResult, ensure, ensure_eq};

/// The scenario ends as it should.
pub(super) async fn converges(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        through(harness, &World::new(harness, &scenario).await?, Order::AsTheyCome, "undisturbed").await?;
    }
    Ok(())
}

/// At rest, another look at any key writes nothing.
pub(super) async fn rests(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let mut play = Play::start(harness, &world).await?;
        play.settle().await?;
        for change in &scenario.changes {
            world.change(change).await?;
            play.settle().await?;
        }
        let writes = world.api.writes();
        for _ in 0..2 {
            let keys = play.known.clone();
            play.add(keys);
            play.settle().await?;
        }
        ensure_eq!(world.api.writes(), writes, "{}: writes, after looking again at what was at rest", scenario.name);
    }
    Ok(())
}

/// The scenario takes no more writes than it says.
pub(super) async fn bounded_writes(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        through(harness, &world, Order::AsTheyCome, "undisturbed").await?;
        let writes = world.api.writes();
        ensure!(writes <= scenario.max_writes, "{}: {writes} writes, at most {} were expected", scenario.name, scenario.max_writes);
    }
    Ok(())
}

/// A controller that first looks when everything has happened already ends in the same place: states between count for nothing.
pub(super) async fn converges_from_the_end(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        for change in &scenario.changes {
            world.change(change).await?;
        }
        Play::start(harness, &world).await?.settle().await?;
        world.expect_settled("started after all changes").await?;
    }
    Ok(())
}
