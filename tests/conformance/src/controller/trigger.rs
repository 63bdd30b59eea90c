//! Triggers say that something may have changed, and nothing else.

use super::ControllerHarness;
use super::play::{Order, Play, scenarios, through};
use super::world::World;
use crate::{CaseResult, ensure_eq};

async fn ordered(harness: &dyn ControllerHarness, order: Order) -> CaseResult {
    for scenario in scenarios(harness)? {
        let undisturbed = {
            let world = World::new(harness, &scenario).await?;
            through(harness, &world, Order::AsTheyCome, "undisturbed").await?
        };
        let world = World::new(harness, &scenario).await?;
        let ended = through(harness, &world, order, &format!("triggers {order:?}")).await?;
        ensure_eq!(ended.counts(), undisturbed.counts(), "{}, triggers {order:?}: objects at the end", scenario.name);
    }
    Ok(())
}

/// Each trigger comes three times.
pub(super) async fn duplicated(harness: &dyn ControllerHarness) -> CaseResult {
    ordered(harness, Order::Tripled).await
}

/// The newest trigger comes first.
pub(super) async fn reordered(harness: &dyn ControllerHarness) -> CaseResult {
    ordered(harness, Order::Reversed).await
}

/// A trigger without any change, before anything else is known, does no harm.
pub(super) async fn unrelated(harness: &dyn ControllerHarness) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let mut play = Play::start(harness, &world).await?;
        play.step(&scenario.primary.1).await?;
        play.settle().await?;
        for change in &scenario.changes {
            world.change(change).await?;
            play.step(&scenario.primary.1).await?;
            play.settle().await?;
        }
        world.expect_settled("triggers without a change").await?;
    }
    Ok(())
}
