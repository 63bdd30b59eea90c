//! Reads that are behind.

use super::ControllerHarness;
use super::play::{Order, Play, scenarios, through};
use super::world::World;
use crate::{CaseResult, ensure, ensure_eq};

/// Looks that a controller takes at one state of its cache.
const LOOKS: usize = 3;
/// Events that come late, one by one, before the rest comes at once.
const TICKS: usize = 12;

async fn behind(harness: &dyn ControllerHarness, ticks: usize, when: &str) -> CaseResult {
    for scenario in scenarios(harness)? {
        let (undisturbed, made) = {
            let world = World::new(harness, &scenario).await?;
            (through(harness, &world, Order::AsTheyCome, "undisturbed").await?, world.api.created().len())
        };
        let world = World::new(harness, &scenario).await?;
        let mut play = Play::start(harness, &world).await?;
        world.api.hold();
        for tick in 0..=ticks {
            for key in play.known.clone() {
                for _ in 0..LOOKS {
                    play.step(&key).await?;
                    // A write from an old state may be refused as often as there are looks at it.
                    play.forgive();
                }
            }
            // The changes come while the cache is still behind.
            if let Some(change) = scenario.changes.get(tick) {
                world.change(change).await?;
            }
            world.api.tick();
            Play::breathe().await;
            play.drain()?;
        }
        for change in scenario.changes.iter().skip(ticks + 1) {
            world.change(change).await?;
        }
        world.api.release();
        play.settle().await?;
        let ended = world.expect_settled(when).await?;
        // What is made twice and removed again was made twice.
        let more = world.api.created().len();
        ensure!(more <= made, "{}, {when}: {more} objects were made; undisturbed it takes {made}", scenario.name);
        ensure_eq!(ended.counts(), undisturbed.counts(), "{}, {when}: objects at the end", scenario.name);
    }
    Ok(())
}

/// Events come one by one, and the controller looks several times at each state between.
pub(super) async fn lags(harness: &dyn ControllerHarness) -> CaseResult {
    behind(harness, TICKS, "with a cache that lags").await
}

/// The controller looks again and again before it sees the first of its own writes.
pub(super) async fn stands_still(harness: &dyn ControllerHarness) -> CaseResult {
    behind(harness, 0, "with a cache that stood still").await
}
