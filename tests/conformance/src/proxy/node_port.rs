//! Ports of the node.

use wharf_core::proxy::ServicePort;
use wharf_core::runtime::Protocol;

use super::kit::{NODE_PORT, World, apply, expect, expect_pods, needs, node_port, service, world};
use super::{Answer, ProxyHarness, Sender};
use crate::{CaseResult, ensure};

fn open(world: &World, pods: &[usize]) -> ServicePort {
    ServicePort { node_port: Some(NODE_PORT), ..service(world, 1, pods) }
}

pub(super) async fn reaches_all(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, node_ports);
    apply(&world, 1, vec![open(&world, &[0, 1, 2])]).await?;
    expect_pods(&world, Sender::Outside, node_port(&world), &[0, 1, 2]).await?;
    expect_pods(&world, Sender::Pod(0), node_port(&world), &[0, 1, 2]).await
}

pub(super) async fn none_is_refused(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, node_ports);
    apply(&world, 1, vec![open(&world, &[])]).await?;
    expect(&world, Sender::Outside, node_port(&world), Answer::Refused).await
}

pub(super) async fn removed_is_closed(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, node_ports);
    apply(&world, 1, vec![open(&world, &[0])]).await?;
    expect_pods(&world, Sender::Outside, node_port(&world), &[0]).await?;
    apply(&world, 2, vec![service(&world, 1, &[0])]).await?;
    let answer = world.ask(Sender::Outside, node_port(&world), Protocol::Tcp).await;
    ensure!(!matches!(answer, Answer::Pod(..)), "a removed node port was answered: {answer:?}");
    Ok(())
}
