//! What the cases share.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use wharf_core::proxy::{Applied, Endpoint, NetworkProxy, ProxyResult, ProxyState, ServicePort};
use wharf_core::runtime::Protocol;

use super::{Answer, PODS, ProxyHarness, ProxyWorld, Sender};
use crate::{CaseResult, Stop, ensure, ensure_eq, fail};

pub(super) const PORT: u16 = 80;
pub(super) const NODE_PORT: u16 = 30_080;
/// Three endpoints chosen by chance miss one of them in so many tries less than once in 10^15 runs.
const TRIES: usize = 90;

pub(super) type World = Box<dyn ProxyWorld>;

pub(super) async fn world(harness: &dyn ProxyHarness) -> CaseResult<World> {
    let world = harness.world().await?;
    ensure!(world.pods().len() >= PODS, "the harness has {} pods, but the kit needs {PODS}", world.pods().len());
    Ok(world)
}

pub(super) fn ok<T>(result: ProxyResult<T>, call: &str) -> CaseResult<T> {
    result.map_err(|e| Stop::Fail(format!("{call} failed: {e}")))
}

pub(super) fn cluster_ip(octet: u8) -> IpAddr {
    Ipv4Addr::new(10, 96, 0, octet).into()
}

pub(super) fn cluster(octet: u8) -> SocketAddr {
    SocketAddr::new(cluster_ip(octet), PORT)
}

pub(super) fn node_port(world: &World) -> SocketAddr {
    SocketAddr::new(world.node_address(), NODE_PORT)
}

/// An endpoint at a pod: ready, and local.
pub(super) fn endpoint(world: &World, pod: usize) -> Endpoint {
    let at = world.pods()[pod];
    Endpoint { local: true, ..Endpoint::ready(at.ip(), at.port()) }
}

/// A TCP service at `10.96.0.<octet>:80` with these pods behind it.
pub(super) fn service(world: &World, octet: u8, pods: &[usize]) -> ServicePort {
    let mut endpoints: Vec<_> = pods.iter().map(|p| endpoint(world, *p)).collect();
    endpoints.sort_by_key(Endpoint::address);
    ServicePort {
        namespace: "default".into(),
        name: format!("web-{octet}"),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        cluster_ips: vec![cluster_ip(octet)],
        port: PORT,
        endpoints,
        ..ServicePort::default()
    }
}

pub(super) fn state(world: &World, generation: u64, mut services: Vec<ServicePort>) -> ProxyState {
    services.sort_by_key(ServicePort::id);
    ProxyState { generation, services, node: world.node(), pod_cidrs: world.pod_cidrs() }
}

pub(super) async fn apply(world: &World, generation: u64, services: Vec<ServicePort>) -> CaseResult<Applied> {
    ok(world.proxy().apply(&state(world, generation, services)).await, "apply")
}

/// Which pods answer many connections. Anything but an answer is a failure.
pub(super) async fn answers(world: &World, from: Sender, to: SocketAddr) -> CaseResult<BTreeSet<usize>> {
    let mut seen = BTreeSet::new();
    for _ in 0..TRIES {
        match world.ask(from, to, Protocol::Tcp).await {
            Answer::Pod(pod, _) => seen.insert(pod),
            other => return fail(format!("{from:?} asked {to} and got {other:?}")),
        };
    }
    Ok(seen)
}

pub(super) async fn expect_pods(world: &World, from: Sender, to: SocketAddr, pods: &[usize]) -> CaseResult {
    ensure_eq!(answers(world, from, to).await?, pods.iter().copied().collect::<BTreeSet<_>>(), "pods that answered {from:?} at {to}");
    Ok(())
}

pub(super) async fn expect(world: &World, from: Sender, to: SocketAddr, wanted: Answer) -> CaseResult {
    ensure_eq!(world.ask(from, to, Protocol::Tcp).await, wanted, "{from:?} asked {to}");
    Ok(())
}

/// Skips the case unless the proxy declares a capability.
macro_rules! needs {
    ($world:expr, $capability:ident) => {
        if !$world.proxy().capabilities().$capability {
            return $crate::skip(concat!("the proxy does not declare ", stringify!($capability)));
        }
    };
}
pub(super) use needs;

/// A case's own copy of the proxy, so that it can be used while another call runs.
pub(super) fn proxy(world: &World) -> std::sync::Arc<dyn NetworkProxy> {
    world.proxy()
}
