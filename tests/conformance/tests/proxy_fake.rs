//! The proxy kit over a proxy that exists only in memory, and over broken variants of it, each of which a named case must catch.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use wharf_conformance::proxy::{Answer, Open, ProxyHarness, ProxyWorld, Sender, cases};
use wharf_conformance::{CaseResult, Harness, Outcome, proxy_suite, run_case};
use wharf_core::proxy::{
    Applied, Endpoint, NetworkProxy, NodeInfo, Observed, ObservedService, ProxyCapabilities, ProxyError, ProxyResult, ProxyState,
    ServicePort, ServicePortId, SharedProxy, TrafficPolicy,
};
use wharf_core::runtime::Protocol;

/// What is wrong with a fake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    AcceptsOlder,
    RefusesOlderButWrites,
    RepairsNothing,
    RewritesEverything,
    ForgetsOnRestart,
    KeepsRemovedServices,
    KeepsRemovedEndpoints,
    AlwaysTheFirst,
    ServesUnready,
    ForgetsTerminating,
    SilentWithoutEndpoints,
    NoHairpin,
    MixesProtocols,
    NoNodePorts,
    KeepsNodePorts,
    ExternalLocalGoesAnywhere,
    ExternalLocalMasquerades,
    ExternalLocalRefuses,
    InternalLocalGoesAnywhere,
    AnySource,
    NoAffinity,
    AffinityToTheGone,
    CutsConnections,
    ApplyFlushesOthers,
    TeardownFlushesOthers,
    TeardownKeepsGeneration,
    TeardownKeepsServices,
}

/// The case that must catch each fault.
const CAUGHT_BY: &[(Fault, &str)] = &[
    (Fault::AcceptsOlder, "proxy.generation.older_is_refused"),
    (Fault::RefusesOlderButWrites, "proxy.generation.older_is_refused"),
    (Fault::RepairsNothing, "proxy.generation.same_repairs"),
    (Fault::RewritesEverything, "proxy.generation.same_changes_nothing"),
    (Fault::RewritesEverything, "proxy.service.changes_touch_little"),
    (Fault::ForgetsOnRestart, "proxy.generation.survives_the_process"),
    (Fault::ForgetsOnRestart, "proxy.teardown.after_a_restart"),
    (Fault::KeepsRemovedServices, "proxy.service.removed_is_silent"),
    (Fault::KeepsRemovedServices, "proxy.service.empty_state"),
    (Fault::KeepsRemovedEndpoints, "proxy.endpoint.removed_gets_nothing"),
    (Fault::AlwaysTheFirst, "proxy.endpoint.all_are_reached"),
    (Fault::ServesUnready, "proxy.endpoint.unready_gets_nothing"),
    (Fault::ForgetsTerminating, "proxy.endpoint.terminating_is_the_last_resort"),
    (Fault::SilentWithoutEndpoints, "proxy.endpoint.none_is_refused"),
    (Fault::SilentWithoutEndpoints, "proxy.node_port.none_is_refused"),
    (Fault::NoHairpin, "proxy.endpoint.reaches_itself"),
    (Fault::MixesProtocols, "proxy.service.udp"),
    (Fault::NoNodePorts, "proxy.node_port.reaches_all"),
    (Fault::KeepsNodePorts, "proxy.node_port.removed_is_closed"),
    (Fault::ExternalLocalGoesAnywhere, "proxy.policy.external_local_only"),
    (Fault::ExternalLocalMasquerades, "proxy.policy.external_local_keeps_the_source"),
    (Fault::ExternalLocalRefuses, "proxy.policy.external_without_local_is_dropped"),
    (Fault::InternalLocalGoesAnywhere, "proxy.policy.internal_local_only"),
    (Fault::AnySource, "proxy.policy.source_ranges_hold"),
    (Fault::NoAffinity, "proxy.affinity.keeps_the_endpoint"),
    (Fault::AffinityToTheGone, "proxy.affinity.moves_when_it_goes"),
    (Fault::CutsConnections, "proxy.connection.open_ones_go_on"),
    (Fault::ApplyFlushesOthers, "proxy.foreign.untouched_by_apply"),
    (Fault::TeardownFlushesOthers, "proxy.foreign.untouched_by_teardown"),
    (Fault::TeardownKeepsGeneration, "proxy.teardown.forgets_the_generation"),
    (Fault::TeardownKeepsServices, "proxy.teardown.stops_traffic"),
    (Fault::TeardownKeepsServices, "proxy.teardown.leaves_no_trace"),
];

/// What the fake's node remembers.
#[derive(Debug, Default)]
struct Kernel {
    generation: Option<u64>,
    services: BTreeMap<ServicePortId, ServicePort>,
    foreign: Vec<&'static str>,
    /// Which endpoint a client of a service got.
    recent: BTreeMap<(ServicePortId, IpAddr), SocketAddr>,
    turn: usize,
    applies: usize,
}

const FOREIGN: [&str; 2] = ["a rule of others", "another one"];

#[derive(Debug, Clone)]
struct Fake {
    fault: Fault,
    kernel: Arc<Mutex<Kernel>>,
}

#[async_trait]
impl NetworkProxy for Fake {
    fn capabilities(&self) -> ProxyCapabilities {
        ProxyCapabilities::all()
    }

    async fn apply(&self, state: &ProxyState) -> ProxyResult<Applied> {
        let mut kernel = self.kernel.lock();
        let stale = kernel.generation.filter(|g| *g > state.generation);
        if let Some(installed) = stale.filter(|_| !matches!(self.fault, Fault::AcceptsOlder | Fault::RefusesOlderButWrites)) {
            return Err(ProxyError::Stale { given: state.generation, installed });
        }
        let mut applied = Applied { generation: state.generation, ..Applied::default() };
        if self.fault == Fault::RepairsNothing && kernel.generation == Some(state.generation) {
            return Ok(applied);
        }
        let mut wanted: BTreeMap<_, _> = state.services.iter().map(|s| (s.id(), s.clone())).collect();
        for (id, old) in &kernel.services {
            match wanted.get_mut(id) {
                None if self.fault == Fault::KeepsRemovedServices => drop(wanted.insert(id.clone(), old.clone())),
                None => applied.removed += 1,
                Some(new) => {
                    if self.fault == Fault::KeepsRemovedEndpoints {
                        let gone = old.endpoints.iter().filter(|e| !new.endpoints.contains(e)).cloned().collect::<Vec<_>>();
                        new.endpoints.extend(gone);
                    }
                    if self.fault == Fault::KeepsNodePorts {
                        new.node_port = new.node_port.or(old.node_port);
                    }
                }
            }
        }
        let same = |id: &ServicePortId, new: &ServicePort| kernel.services.get(id) == Some(new);
        applied.written += wanted.iter().filter(|(id, new)| self.fault == Fault::RewritesEverything || !same(id, new)).count();
        applied.written += usize::from(kernel.generation != Some(state.generation));
        kernel.services = wanted;
        kernel.applies += 1;
        if self.fault == Fault::ApplyFlushesOthers {
            kernel.foreign.clear();
        }
        if let Some(installed) = stale.filter(|_| self.fault == Fault::RefusesOlderButWrites) {
            return Err(ProxyError::Stale { given: state.generation, installed });
        }
        kernel.generation = Some(state.generation);
        Ok(applied)
    }

    async fn observe(&self) -> ProxyResult<Observed> {
        let kernel = self.kernel.lock();
        let services = kernel.services.iter().map(|(id, port)| ObservedService {
            id: id.clone(),
            endpoints: port.endpoints_for(port.internal_traffic_policy).into_iter().map(Endpoint::address).collect(),
        });
        Ok(Observed { generation: kernel.generation, services: services.collect() })
    }

    async fn teardown(&self) -> ProxyResult<()> {
        let mut kernel = self.kernel.lock();
        if self.fault != Fault::TeardownKeepsServices {
            kernel.services.clear();
        }
        if self.fault != Fault::TeardownKeepsGeneration {
            kernel.generation = None;
        }
        if self.fault == Fault::TeardownFlushesOthers {
            kernel.foreign.clear();
        }
        Ok(())
    }
}

struct FakeWorld {
    fake: Fake,
}

fn pods() -> Vec<SocketAddr> {
    (1..=3u8).map(|n| SocketAddr::from(([10, 77, n, 2], 8080))).collect()
}
fn outside() -> IpAddr {
    IpAddr::from([192, 0, 2, 2])
}
fn node() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

impl FakeWorld {
    fn source(from: Sender) -> IpAddr {
        match from {
            Sender::Outside => outside(),
            Sender::Node => node(),
            Sender::Pod(pod) => pods()[pod].ip(),
        }
    }

    /// What a packet meets.
    fn route(&self, from: Sender, to: SocketAddr, protocol: Protocol) -> Answer {
        let fault = self.fake.fault;
        let mut kernel = self.fake.kernel.lock();
        let is_node_port = |s: &ServicePort| to.ip() == node() && s.node_port == Some(to.port()) && fault != Fault::NoNodePorts;
        let is_balancer = |s: &ServicePort| s.load_balancer_ips.contains(&to.ip()) && s.port == to.port();
        let hit = |s: &&ServicePort| {
            (s.protocol == protocol || fault == Fault::MixesProtocols)
                && (s.cluster_ips.contains(&to.ip()) && s.port == to.port() || is_node_port(s) || is_balancer(s))
        };
        let Some(port) = kernel.services.values().find(hit).cloned() else { return Answer::Silence };
        let external = !port.cluster_ips.contains(&to.ip());
        let source = Self::source(from);
        let ranges = &port.load_balancer_source_ranges;
        if is_balancer(&port) && !ranges.is_empty() && !ranges.iter().any(|r| r.contains(&source)) && fault != Fault::AnySource {
            return Answer::Silence;
        }
        let policy = match (external, from) {
            (true, Sender::Outside) if fault == Fault::ExternalLocalGoesAnywhere => TrafficPolicy::Cluster,
            (true, Sender::Outside) => port.external_traffic_policy,
            (true, _) => TrafficPolicy::Cluster,
            (false, _) if fault == Fault::InternalLocalGoesAnywhere => TrafficPolicy::Cluster,
            (false, _) => port.internal_traffic_policy,
        };
        let mut chosen = port.endpoints_for(policy);
        match fault {
            Fault::ServesUnready => chosen = port.endpoints.iter().collect(),
            Fault::ForgetsTerminating => chosen.retain(|e| e.ready),
            Fault::AlwaysTheFirst => chosen.truncate(1),
            _ => {}
        }
        if chosen.is_empty() {
            let elsewhere = policy == TrafficPolicy::Local && !port.cluster_endpoints().is_empty();
            let silent = if elsewhere { fault != Fault::ExternalLocalRefuses } else { fault == Fault::SilentWithoutEndpoints };
            return if silent { Answer::Silence } else { Answer::Refused };
        }
        kernel.turn += 1;
        let mut to = chosen[kernel.turn % chosen.len()].address();
        if port.session_affinity.is_some() && fault != Fault::NoAffinity {
            let known = kernel.recent.get(&(port.id(), source)).copied();
            let lives = |a: &SocketAddr| fault == Fault::AffinityToTheGone || chosen.iter().any(|e| e.address() == *a);
            to = known.filter(lives).unwrap_or(to);
            kernel.recent.insert((port.id(), source), to);
        }
        let Some(pod) = pods().iter().position(|p| *p == to) else { return Answer::Silence };
        if from == Sender::Pod(pod) && fault == Fault::NoHairpin {
            return Answer::Silence;
        }
        let keeps = !external || policy == TrafficPolicy::Local && fault != Fault::ExternalLocalMasquerades;
        Answer::Pod(pod, if keeps { source } else { node() })
    }
}

struct FakeOpen {
    pod: usize,
    fake: Fake,
    since: usize,
}

#[async_trait]
impl Open for FakeOpen {
    fn pod(&self) -> usize {
        self.pod
    }
    async fn echo(&mut self) -> bool {
        self.fake.fault != Fault::CutsConnections || self.fake.kernel.lock().applies == self.since
    }
}

#[async_trait]
impl ProxyWorld for FakeWorld {
    fn proxy(&self) -> SharedProxy {
        Arc::new(self.fake.clone())
    }
    fn restarted(&self) -> Option<SharedProxy> {
        let forgets = self.fake.fault == Fault::ForgetsOnRestart;
        let kernel = if forgets { Arc::default() } else { self.fake.kernel.clone() };
        Some(Arc::new(Fake { fault: self.fake.fault, kernel }))
    }
    fn node(&self) -> NodeInfo {
        NodeInfo { name: "node".into(), addresses: vec![] }
    }
    fn node_address(&self) -> IpAddr {
        node()
    }
    fn pod_cidrs(&self) -> Vec<IpNet> {
        vec![ipnet::Ipv4Net::new_assert([10, 77, 0, 0].into(), 16).into()]
    }
    fn pods(&self) -> Vec<SocketAddr> {
        pods()
    }
    async fn ask(&self, from: Sender, to: SocketAddr, protocol: Protocol) -> Answer {
        // So that other work goes on between two questions, as it does with real packets.
        tokio::task::yield_now().await;
        self.route(from, to, protocol)
    }
    async fn open(&self, from: Sender, to: SocketAddr) -> Option<Box<dyn Open>> {
        let Answer::Pod(pod, _) = self.route(from, to, Protocol::Tcp) else { return None };
        let since = self.fake.kernel.lock().applies;
        Some(Box::new(FakeOpen { pod, fake: self.fake.clone(), since }))
    }
    async fn add_foreign(&self) -> bool {
        self.fake.kernel.lock().foreign = FOREIGN.to_vec();
        true
    }
    async fn installed(&self) -> String {
        let kernel = self.fake.kernel.lock();
        format!("{:?} {:?} {:?}", kernel.generation, kernel.services, kernel.foreign)
    }
    async fn foreign_is_whole(&self) -> bool {
        self.fake.kernel.lock().foreign == FOREIGN
    }
    async fn damage(&self) -> bool {
        self.fake.kernel.lock().services.pop_first().is_some()
    }
}

struct Fakes(Fault);

impl Harness for Fakes {}

#[async_trait]
impl ProxyHarness for Fakes {
    async fn world(&self) -> CaseResult<Box<dyn ProxyWorld>> {
        Ok(Box::new(FakeWorld { fake: Fake { fault: self.0, kernel: Arc::default() } }))
    }
}

proxy_suite!(Fakes(Fault::None));

#[tokio::test]
async fn every_fault_is_caught_by_its_case() {
    let cases = cases();
    for (fault, id) in CAUGHT_BY {
        let case = cases.iter().find(|c| c.id == *id).unwrap_or_else(|| panic!("no case {id}"));
        let outcome = run_case(case, &Fakes(*fault) as &dyn ProxyHarness).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{id} must catch {fault:?}, but: {outcome}");
    }
}

#[test]
fn every_case_has_its_own_id() {
    let mut ids: Vec<_> = cases().iter().map(|c| c.id).collect();
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
