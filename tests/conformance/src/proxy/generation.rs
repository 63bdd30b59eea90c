//! Generations go up, and are kept with what is installed.

use wharf_core::proxy::ProxyError;

use super::ProxyHarness;
use super::kit::{World, apply, cluster, expect_pods, needs, ok, proxy, service, state, world};
use crate::proxy::Sender;
use crate::{CaseResult, ensure, ensure_eq, fail, skip};

async fn generation(world: &World) -> CaseResult<Option<u64>> {
    Ok(ok(world.proxy().observe().await, "observe")?.generation)
}

pub(super) async fn nothing_at_first(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let observed = ok(world.proxy().observe().await, "observe")?;
    ensure_eq!((observed.generation, observed.services.len()), (None, 0), "what a fresh node has");
    Ok(())
}

pub(super) async fn is_read_back(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    for wanted in [1, 2, 7] {
        let applied = apply(&world, wanted, vec![]).await?;
        ensure_eq!(applied.generation, wanted, "generation that apply returned");
        ensure_eq!(generation(&world).await?, Some(wanted), "generation that observe returned");
    }
    Ok(())
}

pub(super) async fn older_is_refused(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 5, vec![service(&world, 1, &[0])]).await?;
    let before = world.installed().await;
    match world.proxy().apply(&state(&world, 4, vec![])).await {
        Err(ProxyError::Stale { given: 4, installed: 5 }) => {}
        other => return fail(format!("expected Stale {{ given: 4, installed: 5 }}, got {other:?}")),
    }
    ensure_eq!(world.installed().await, before, "what is installed after a refusal");
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await
}

pub(super) async fn same_changes_nothing(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let services = || vec![service(&world, 1, &[0, 1]), service(&world, 2, &[])];
    ensure!(apply(&world, 1, services()).await?.changed(), "the first apply says that it changed nothing");
    let before = world.installed().await;
    let again = apply(&world, 1, services()).await?;
    ensure!(!again.changed(), "the same state again changed something: {again:?}");
    ensure_eq!(world.installed().await, before, "what is installed after the same state again");
    Ok(())
}

pub(super) async fn same_repairs(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    let before = world.installed().await;
    if !world.damage().await {
        return skip("the harness cannot damage what is installed");
    }
    ensure!(world.installed().await != before, "the harness damaged nothing");
    let repaired = apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    ensure!(repaired.changed(), "the repair says that it changed nothing");
    ensure_eq!(world.installed().await, before, "what is installed after a repair");
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await
}

pub(super) async fn survives_the_process(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, outlives_process);
    apply(&world, 3, vec![service(&world, 1, &[0])]).await?;
    let before = ok(world.proxy().observe().await, "observe")?;
    let Some(later) = world.restarted() else { return fail("the proxy declares outlives_process, but the harness cannot restart it") };
    ensure_eq!(ok(later.observe().await, "observe")?, before, "what the later process finds");
    ensure!(
        matches!(later.apply(&state(&world, 2, vec![])).await, Err(ProxyError::Stale { .. })),
        "the later process accepted an older generation"
    );
    let again = ok(later.apply(&state(&world, 3, vec![service(&world, 1, &[0])])).await, "apply")?;
    ensure!(!again.changed(), "the later process changed something: {again:?}");
    Ok(())
}

pub(super) async fn newest_of_many_wins(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let calls = (1..=8u64).map(|generation| {
        let (proxy, wanted) = (proxy(&world), state(&world, generation, vec![service(&world, 1, &[usize::from(generation == 8)])]));
        async move { proxy.apply(&wanted).await }
    });
    for result in futures::future::join_all(calls).await {
        if !matches!(result, Ok(_) | Err(ProxyError::Stale { .. })) {
            return fail(format!("one of several applies at once: {result:?}"));
        }
    }
    ensure_eq!(generation(&world).await?, Some(8), "generation after several applies at once");
    expect_pods(&world, Sender::Outside, cluster(1), &[1]).await
}
