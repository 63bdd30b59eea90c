//! Which endpoints get traffic.

use wharf_core::proxy::{Endpoint, ServicePort};

use super::kit::{apply, cluster, endpoint, expect, expect_pods, service, world};
use super::{Answer, ProxyHarness, Sender};
use crate::CaseResult;

pub(super) async fn all_are_reached(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0, 1, 2])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[0, 1, 2]).await
}

pub(super) async fn unready_gets_nothing(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let unready = Endpoint { ready: false, serving: false, ..endpoint(&world, 1) };
    let mut web = service(&world, 1, &[0]);
    web.endpoints.push(unready.clone());
    apply(&world, 1, vec![web, ServicePort { endpoints: vec![unready], ..service(&world, 2, &[]) }]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await?;
    expect(&world, Sender::Outside, cluster(2), Answer::Refused).await
}

pub(super) async fn terminating_is_the_last_resort(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    let dying = Endpoint { ready: false, serving: true, terminating: true, ..endpoint(&world, 1) };
    let mut both = service(&world, 1, &[0]);
    both.endpoints.push(dying.clone());
    apply(&world, 1, vec![both, ServicePort { endpoints: vec![dying], ..service(&world, 2, &[]) }]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[0]).await?;
    expect_pods(&world, Sender::Outside, cluster(2), &[1]).await
}

pub(super) async fn removed_gets_nothing(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0, 1, 2])]).await?;
    apply(&world, 2, vec![service(&world, 1, &[0, 2])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[0, 2]).await?;
    apply(&world, 3, vec![service(&world, 1, &[1])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[1]).await
}

pub(super) async fn reaches_itself(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[1])]).await?;
    expect_pods(&world, Sender::Pod(1), cluster(1), &[1]).await
}

pub(super) async fn none_is_refused(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[])]).await?;
    for from in [Sender::Outside, Sender::Node, Sender::Pod(0)] {
        expect(&world, from, cluster(1), Answer::Refused).await?;
    }
    Ok(())
}

pub(super) async fn none_then_some(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    apply(&world, 1, vec![service(&world, 1, &[0])]).await?;
    apply(&world, 2, vec![service(&world, 1, &[])]).await?;
    expect(&world, Sender::Outside, cluster(1), Answer::Refused).await?;
    apply(&world, 3, vec![service(&world, 1, &[2])]).await?;
    expect_pods(&world, Sender::Outside, cluster(1), &[2]).await
}
