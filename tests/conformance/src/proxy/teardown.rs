//! The end.

use wharf_core::runtime::Protocol;

use super::kit::{apply, cluster, expect_pods, needs, ok, service, world};
use super::{Answer, ProxyHarness, Sender};
use crate::{CaseResult, ensure, ensure_eq, fail};

pub(super) async fn nothing_to_do(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let before = world.installed().await;
    ok(world.proxy().teardown().await, "teardown of nothing")?;
    ok(world.proxy().teardown().await, "teardown of nothing, again")?;
    ensure_eq!(world.installed().await, before, "what is installed after a teardown of nothing");
    Ok(())
}

pub(super) async fn stops_traffic(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await?;
    ok(world.proxy().teardown().await, "teardown")?;
    let answer = world.ask(Sender::Outside, cluster(1), Protocol::Tcp).await;
    ensure!(!matches!(answer, Answer::Pod(..)), "a service was answered after teardown: {answer:?}");
    Ok(())
}

pub(super) async fn forgets_the_generation(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 9, vec![service(&world, 1, &[0])]).await?;
    ok(world.proxy().teardown().await, "teardown")?;
    let observed = ok(world.proxy().observe().await, "observe")?;
    ensure_eq!((observed.generation, observed.services.len()), (None, 0), "what is left after teardown");
    apply(&world, 1, vec![service(&world, 1, &[1])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[1]).await
}

pub(super) async fn leaves_no_trace(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    // With rules of others, if there is such a thing: a list of nothing may look different from no list.
    let _ = world.add_foreign().await;
    let before = world.installed().await;
    apply(&world, 1, vec![service(&world, 1, &[0, 1]), service(&world, 2, &[])]).await?;
    apply(&world, 2, vec![service(&world, 1, &[2])]).await?;
    ensure!(world.installed().await != before, "the harness does not see what is installed");
    ok(world.proxy().teardown().await, "teardown")?;
    ensure_eq!(world.installed().await, before, "what is installed after teardown");
    Ok(())
}

pub(super) async fn after_a_restart(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, outlives_process);
    let _ = world.add_foreign().await;
    let before = world.installed().await;
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    let Some(later) = world.restarted() else { return fail("the proxy declares outlives_process, but the harness cannot restart it") };
    ok(later.teardown().await, "teardown by a later process")?;
    ensure_eq!(world.installed().await, before, "what is installed after teardown by a later process");
    Ok(())
}
