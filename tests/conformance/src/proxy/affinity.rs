//! `sessionAffinity: ClientIP`.

use wharf_core::proxy::ServicePort;

use super::kit::{World, answers, apply, cluster, needs, service, world};
use super::{PODS, ProxyHarness, Sender};
use crate::{CaseResult, ensure, ensure_eq};

/// Longer than any case takes, in seconds.
const LONG: u32 = 3600;

fn sticky(world: &World, pods: &[usize]) -> ServicePort {
    ServicePort { session_affinity: Some(LONG), ..service(world, 1, pods) }
}

pub(super) async fn keeps_the_endpoint(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, session_affinity);
    apply(&world, 1, vec![sticky(&world, &[0, 1, 2])]).await?;
    let first = answers(&world, Sender::Outside, cluster(1)).await?;
    ensure_eq!(first.len(), 1, "endpoints of one client");
    // A change elsewhere does not move it.
    apply(&world, 2, vec![sticky(&world, &[0, 1, 2]), service(&world, 2, &[0])]).await?;
    ensure_eq!(answers(&world, Sender::Outside, cluster(1)).await?, first, "endpoint after a change of another service");
    Ok(())
}

pub(super) async fn moves_when_it_goes(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, session_affinity);
    apply(&world, 1, vec![sticky(&world, &[0, 1, 2])]).await?;
    let first = answers(&world, Sender::Outside, cluster(1)).await?;
    let rest: Vec<usize> = (0..PODS).filter(|p| !first.contains(p)).collect();
    apply(&world, 2, vec![sticky(&world, &rest)]).await?;
    let second = answers(&world, Sender::Outside, cluster(1)).await?;
    ensure!(second.is_disjoint(&first), "a client stayed with an endpoint that is gone: {second:?}");
    ensure_eq!(second.len(), 1, "endpoints of one client after its first was removed");
    Ok(())
}
