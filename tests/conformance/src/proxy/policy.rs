//! Traffic policies and source ranges: restrictions that must hold.

use std::net::{IpAddr, SocketAddr};

use wharf_core::proxy::{ServicePort, TrafficPolicy};
use wharf_core::runtime::Protocol;

use super::kit::{NODE_PORT, PORT, World, apply, cluster, expect, expect_pods, needs, node_port, service, world};
use super::{Answer, ProxyHarness, Sender};
use crate::{CaseResult, ensure, fail};

/// A node port under the Local policy, where only some of the pods are on the node.
fn external(world: &World, pods: &[usize], local: &[usize]) -> ServicePort {
    let mut web = service(world, 1, pods);
    for endpoint in &mut web.endpoints {
        endpoint.local = local.iter().any(|l| world.pods()[*l] == endpoint.address());
    }
    ServicePort { node_port: Some(NODE_PORT), external_traffic_policy: TrafficPolicy::Local, ..web }
}

pub(super) async fn external_local_only(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, local_traffic);
    apply(&world, 1, vec![external(&world, &[0, 1, 2], &[1])]).await?;
    expect_pods(&world, Sender::Outside, node_port(&world), &[1]).await?;
    // The cluster's own traffic is not restricted by it.
    expect_pods(&world, Sender::Pod(0), cluster(1), &[0, 1, 2]).await
}

pub(super) async fn external_local_keeps_the_source(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, local_traffic);
    apply(&world, 1, vec![external(&world, &[1], &[1])]).await?;
    match world.ask(Sender::Outside, node_port(&world), Protocol::Tcp).await {
        Answer::Pod(1, source) if source != world.node_address() && !world.pod_cidrs().iter().any(|c| c.contains(&source)) => Ok(()),
        other => fail(format!("expected pod 1 to see the client's own address, got {other:?}")),
    }
}

pub(super) async fn external_without_local_is_dropped(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, local_traffic);
    apply(&world, 1, vec![external(&world, &[0, 1], &[])]).await?;
    expect(&world, Sender::Outside, node_port(&world), Answer::Silence).await
}

pub(super) async fn internal_local_only(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, local_traffic);
    let web = ServicePort { internal_traffic_policy: TrafficPolicy::Local, ..external(&world, &[0, 1, 2], &[2]) };
    apply(&world, 1, vec![web]).await?;
    expect_pods(&world, Sender::Pod(0), cluster(1), &[2]).await
}

pub(super) async fn source_ranges_hold(harness: &dyn ProxyHarness) -> CaseResult {
    let world = world(harness).await?;
    needs!(world, external_addresses);
    let address = IpAddr::from([198, 51, 100, 7]);
    let to = SocketAddr::new(address, PORT);
    let open = ServicePort { load_balancer_ips: vec![address], ..service(&world, 1, &[0]) };
    apply(&world, 1, vec![open.clone()]).await?;
    expect_pods(&world, Sender::Outside, to, &[0]).await?;
    let others = ServicePort { load_balancer_source_ranges: vec![ipnet::Ipv4Net::new_assert([203, 0, 113, 0].into(), 24).into()], ..open };
    apply(&world, 2, vec![others]).await?;
    let answer = world.ask(Sender::Outside, to, Protocol::Tcp).await;
    ensure!(answer == Answer::Silence, "a source that is not allowed: {answer:?}");
    Ok(())
}
