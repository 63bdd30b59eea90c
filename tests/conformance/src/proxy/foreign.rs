//! Rules of others.

use super::ProxyHarness;
use super::kit::{World, apply, ok, service, world};
use crate::{CaseResult, ensure, skip};

async fn with_foreign(harness: &dyn ProxyHarness) -> CaseResult<World> {
    let world = world(harness).await?;
    if !world.add_foreign().await {
        return skip("the harness has no foreign rules");
    }
    ensure!(world.foreign_is_whole().await, "the harness does not find its own rules");
    Ok(world)
}

pub(super) async fn untouched_by_apply(harness: &dyn ProxyHarness) -> CaseResult {
    let world = with_foreign(harness).await?;
    for (generation, pods) in [(1, &[0, 1][..]), (2, &[]), (3, &[2])] {
        apply(&world, generation, vec![service(&world, 1, pods)]).await?;
        ensure!(world.foreign_is_whole().await, "apply of generation {generation} touched rules of others");
    }
    Ok(())
}

pub(super) async fn untouched_by_teardown(harness: &dyn ProxyHarness) -> CaseResult {
    let world = with_foreign(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    ok(world.proxy().teardown().await, "teardown")?;
    ensure!(world.foreign_is_whole().await, "teardown touched rules of others");
    Ok(())
}
