//! The service proxy seam: what makes a Service's addresses reach its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

use crate::runtime::{BoxError, Protocol, Retry};

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a Service that hands it to another proxy.
pub const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a Service or EndpointSlice that no proxy should implement.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// How long client affinity lasts when the Service does not say, in seconds (Kubernetes' default: 3 hours).
pub const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// The longest client affinity, in seconds (Kubernetes' limit: a day).
pub const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// Everything a proxy has to install on one node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProxyState {
    /// Which version of the wish this is. It grows with every change.
    pub generation: u64,
    /// Every port of every Service, in order of [`ServicePort::id`], each id once.
    pub services: Vec<ServicePort>,
    /// The node it is for.
    pub node: NodeInfo,
    /// The cluster's pod ranges; traffic to a cluster IP from elsewhere is masqueraded. Empty: all traffic counts as a pod's.
    pub pod_cidrs: Vec<IpNet>,
}

/// The node that a proxy works on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name, as in an endpoint's `nodeName`.
    pub name: String,
    /// The addresses that accept node ports; empty for every address of the machine.
    pub addresses: Vec<IpAddr>,
}

/// What tells one [`ServicePort`] from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePortId {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty if it has none.
    pub port_name: String,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortId {
    /// `namespace/name:port`, without the colon if the port has no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port_name.is_empty() { Ok(()) } else { write!(f, ":{}", self.port_name) }
    }
}

/// Which endpoints a Service's traffic may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Only those of this node.
    Local,
}

/// One port of one Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServicePort {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty if it has none.
    pub port_name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Addresses inside the cluster.
    pub cluster_ips: Vec<IpAddr>,
    /// The port on cluster, external and load balancer addresses.
    pub port: u16,
    /// The port on every node.
    pub node_port: Option<u16>,
    /// Policy for traffic from outside: node port, external and load balancer addresses.
    pub external_traffic_policy: TrafficPolicy,
    /// Policy for traffic to the cluster addresses.
    pub internal_traffic_policy: TrafficPolicy,
    /// Seconds that a client keeps its endpoint (`sessionAffinity: ClientIP`); `None` for no affinity.
    pub session_affinity: Option<u32>,
    /// Addresses that something outside routes to the nodes.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer whose traffic arrives with them as destination.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer addresses; empty for everyone.
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// Where a load balancer asks whether this node has local endpoints.
    pub health_check_node_port: Option<u16>,
    /// The endpoints, also those that get no traffic; ordered by address, each address once.
    pub endpoints: Vec<Endpoint>,
}

/// One address behind a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it is on the proxy's node.
    pub local: bool,
    /// Whether it should get traffic.
    pub ready: bool,
    /// Whether it could serve traffic, even while it terminates.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
}

impl Endpoint {
    /// A ready endpoint on another node.
    pub fn ready(ip: impl Into<IpAddr>, port: u16) -> Self {
        Self { ip: ip.into(), port, local: false, ready: true, serving: true, terminating: false }
    }
    /// Its address and port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
    /// How much it is preferred over another mention of the same address.
    fn rank(&self) -> (bool, bool, bool) {
        (self.ready, self.serving, self.local)
    }
}

impl ServicePort {
    /// What tells it from others.
    pub fn id(&self) -> ServicePortId {
        ServicePortId {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port_name: self.port_name.clone(),
            protocol: self.protocol,
        }
    }

    /// The endpoints for [`TrafficPolicy::Cluster`]: the ready ones or, if there are none, those that still serve while they terminate.
    pub fn cluster_endpoints(&self) -> Vec<&Endpoint> {
        usable(self.endpoints.iter())
    }

    /// The endpoints for [`TrafficPolicy::Local`]: the same choice among this node's own.
    pub fn local_endpoints(&self) -> Vec<&Endpoint> {
        usable(self.endpoints.iter().filter(|e| e.local))
    }

    /// The endpoints that traffic under a policy goes to.
    pub fn endpoints_for(&self, policy: TrafficPolicy) -> Vec<&Endpoint> {
        match policy {
            TrafficPolicy::Cluster => self.cluster_endpoints(),
            TrafficPolicy::Local => self.local_endpoints(),
        }
    }

    /// Whether anything is reached from outside of the cluster.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }
}

fn usable<'a>(all: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<&'a Endpoint> {
    let ready: Vec<_> = all.clone().filter(|e| e.ready).collect();
    if ready.is_empty() { all.filter(|e| e.serving && e.terminating).collect() } else { ready }
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The generation that is installed now.
    pub generation: u64,
    /// How many units (chains, sets, table entries: the implementation's own) were written.
    pub written: usize,
    /// How many units were removed.
    pub removed: usize,
}

impl Applied {
    /// Whether anything was touched.
    pub fn changed(&self) -> bool {
        self.written + self.removed > 0
    }
}

/// What is installed, as read from the machine and not from memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The generation of the last apply; `None` if nothing is installed.
    pub generation: Option<u64>,
    /// The Service ports that are installed, in order of id.
    pub services: Vec<ObservedService>,
}

/// One installed Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedService {
    /// Which.
    pub id: ServicePortId,
    /// The endpoints that its traffic goes to, in order; empty if the proxy refuses or drops its traffic.
    pub endpoints: Vec<SocketAddr>,
}

/// What a proxy offers beyond cluster addresses over TCP and UDP. The conformance kit holds it to what it declares.
///
/// A state that asks for something that is not offered is installed without it, except that a restriction
/// ([`ServicePort::load_balancer_source_ranges`], [`TrafficPolicy::Local`]) is never widened: that apply is
/// [`ProxyError::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProxyCapabilities {
    /// Node ports.
    pub node_ports: bool,
    /// External and load balancer addresses, with source ranges.
    pub external_addresses: bool,
    /// `sessionAffinity: ClientIP`.
    pub session_affinity: bool,
    /// [`TrafficPolicy::Local`].
    pub local_traffic: bool,
    /// IPv6 addresses; without, they are left out.
    pub ipv6: bool,
    /// SCTP.
    pub sctp: bool,
    /// An apply becomes visible to packets at once, not rule by rule.
    pub atomic: bool,
    /// Open connections go on through an apply as long as their endpoint lives.
    pub keeps_connections: bool,
    /// What is installed is in the kernel, works on while no process runs, and is found again by the next one.
    pub outlives_process: bool,
}

impl ProxyCapabilities {
    /// Nothing beyond the required.
    pub const fn none() -> Self {
        Self {
            node_ports: false,
            external_addresses: false,
            session_affinity: false,
            local_traffic: false,
            ipv6: false,
            sctp: false,
            atomic: false,
            keeps_connections: false,
            outlives_process: false,
        }
    }
    /// Everything.
    pub const fn all() -> Self {
        Self {
            node_ports: true,
            external_addresses: true,
            session_affinity: true,
            local_traffic: true,
            ipv6: true,
            sctp: true,
            atomic: true,
            keeps_connections: true,
            outlives_process: true,
        }
    }
}

/// What a proxy call can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// A newer generation is installed; nothing was changed.
    #[error("generation {given} is older than the installed generation {installed}")]
    Stale {
        /// What was to be applied.
        given: u64,
        /// What is installed.
        installed: u64,
    },
    /// The state cannot be installed without changing its meaning; nothing was changed.
    #[error("invalid proxy state: {message}")]
    Invalid {
        /// What is wrong and what would be right.
        message: String,
    },
    /// The machine lacks what this proxy works with.
    #[error("{missing} is missing: {advice}")]
    Missing {
        /// The program, kernel feature or privilege.
        missing: String,
        /// What to do about it.
        advice: String,
    },
    /// The proxy does not offer this; see [`NetworkProxy::capabilities`].
    #[error("this proxy does not support {capability}")]
    Unsupported {
        /// The capability that is missing.
        capability: &'static str,
    },
    /// Anything else.
    #[error("{op} failed: {source}")]
    Backend {
        /// The call that failed.
        op: &'static str,
        /// Whether trying again can help.
        retry: Retry,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl ProxyError {
    /// A backend failure that may pass.
    pub fn transient(op: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Backend { op, retry: Retry::Transient, source: source.into() }
    }
    /// A backend failure that will not pass.
    pub fn permanent(op: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Backend { op, retry: Retry::Permanent, source: source.into() }
    }
}

/// A proxy call's result.
pub type ProxyResult<T> = Result<T, ProxyError>;

/// Makes Service addresses reach endpoints on one node.
///
/// # Contract
/// - **Whole state.** `apply` takes everything that is wanted. What it does not name is removed. The implementation
///   computes the difference to what is really installed, and touches only that.
/// - **Generations** never go back: an `apply` below the installed generation is [`ProxyError::Stale`] and changes
///   nothing. The same generation again is accepted, changes nothing if nothing has drifted, and repairs what others changed
///   of its own. With `outlives_process` the installed generation survives the process: a caller that starts goes
///   on from [`NetworkProxy::observe`].
/// - **Choice of endpoints** is [`ServicePort::endpoints_for`]; with several, new connections are spread over all.
/// - **No endpoints**: connections are refused at once and not left to time out. Under [`TrafficPolicy::Local`], when only
///   other nodes have endpoints, traffic is dropped.
/// - **Removal**: once `apply` has returned, no new connection goes to an endpoint that the state does not choose. Open
///   TCP connections to it are left alone; UDP flows are redirected as far as the kernel allows.
/// - **Atomic**: with the capability, no packet ever sees a half-installed state; a failed `apply` changes nothing.
/// - **Own only.** Foreign rules and their order stay as they are, in `apply` as in `teardown`.
///
/// # Cancellation
/// A dropped `apply` may have taken place or not; the next one converges. Calls on one proxy are carried out one after another.
///
/// # Errors
/// [`ProxyError`]. `Backend` carries whether a retry can help.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Run `wharf_conformance::proxy_suite!` over your harness. Plan purely (as `wharf-proxy-plan` does), then execute. Do not
/// block the executor: calls run on the embedder's runtime.
#[async_trait]
pub trait NetworkProxy: Send + Sync + fmt::Debug + 'static {
    /// What this proxy offers.
    fn capabilities(&self) -> ProxyCapabilities;
    /// Installs a state.
    async fn apply(&self, state: &ProxyState) -> ProxyResult<Applied>;
    /// Reads back what is installed.
    async fn observe(&self) -> ProxyResult<Observed>;
    /// Removes everything that this proxy installed, also by an earlier process. Succeeds when nothing is there. A later
    /// `apply` starts anew, at any generation.
    async fn teardown(&self) -> ProxyResult<()>;
}

/// A shared proxy.
pub type SharedProxy = Arc<dyn NetworkProxy>;

/// What Services and EndpointSlices ask of a node's proxy, as Kubernetes means it.
///
/// Headless and `ExternalName` Services are left out, as are those labelled for another proxy. A port's endpoints are those
/// of the slices that carry the Service's name, under the same port name and protocol. An address in several slices
/// counts once, as its readiest mention. Addresses and ports that do not parse are left out. The result depends only on the
/// content, not on the order, of the arguments.
pub fn proxy_state(
    generation: u64,
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &NodeInfo,
    pod_cidrs: &[IpNet],
) -> ProxyState {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let Some(labels) = &slice.metadata.labels else { continue };
        let Some(service) = labels.get(SERVICE_NAME_LABEL) else { continue };
        // FQDN slices hold no addresses that packets can be sent to.
        if matches!(slice.address_type.as_str(), "IPv4" | "IPv6") && !labels.contains_key(HEADLESS_LABEL) {
            by_service.entry((slice.metadata.namespace.as_deref().unwrap_or_default(), service)).or_default().push(slice);
        }
    }
    let mut out = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let cluster_ips = cluster_ips(spec);
        if cluster_ips.is_empty() || is_left_out(service, spec) {
            continue;
        }
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let slices = by_service.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            let Some(number) = port_number(Some(port.port)) else { continue };
            let port_name = port.name.as_deref().unwrap_or_default();
            let Some(protocol) = parse_protocol(port.protocol.as_deref()) else { continue };
            let entry = ServicePort {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port_name: port_name.to_owned(),
                protocol,
                cluster_ips: cluster_ips.clone(),
                port: number,
                node_port: node_port(spec, port),
                external_traffic_policy: policy(spec.external_traffic_policy.as_deref()),
                internal_traffic_policy: policy(spec.internal_traffic_policy.as_deref()),
                session_affinity: session_affinity(spec),
                external_ips: addresses(spec.external_ips.iter().flatten().map(String::as_str)),
                load_balancer_ips: load_balancer_ips(service, spec),
                load_balancer_source_ranges: source_ranges(spec),
                health_check_node_port: port_number(spec.health_check_node_port),
                endpoints: endpoints(slices, port_name, protocol, &node.name),
            };
            out.insert(entry.id(), entry);
        }
    }
    let pod_cidrs: BTreeSet<IpNet> = pod_cidrs.iter().map(IpNet::trunc).collect();
    ProxyState { generation, services: out.into_values().collect(), node: node.clone(), pod_cidrs: pod_cidrs.into_iter().collect() }
}

fn is_left_out(service: &Service, spec: &ServiceSpec) -> bool {
    let labels = service.metadata.labels.as_ref();
    spec.type_.as_deref() == Some("ExternalName")
        || labels.is_some_and(|l| l.contains_key(SERVICE_PROXY_NAME_LABEL) || l.contains_key(HEADLESS_LABEL))
}

/// The cluster addresses; none for a headless Service.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    match &spec.cluster_ips {
        Some(all) if !all.is_empty() => addresses(all.iter().map(String::as_str)),
        _ => addresses(spec.cluster_ip.iter().map(String::as_str)),
    }
}

fn node_port(spec: &ServiceSpec, port: &ApiPort) -> Option<u16> {
    // A Service that became a ClusterIP may still carry the number.
    if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) { port_number(port.node_port) } else { None }
}

fn load_balancer_ips(service: &Service, spec: &ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return Vec::new();
    }
    let ingress = service.status.iter().filter_map(|s| s.load_balancer.as_ref()).filter_map(|l| l.ingress.as_ref()).flatten();
    // With mode Proxy the load balancer rewrites the destination: the address itself never arrives here.
    addresses(ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_deref()))
}

/// The allowed sources. Ranges that do not parse are kept as one that matches nothing, so that a typing error does not open the door.
fn source_ranges(spec: &ServiceSpec) -> Vec<IpNet> {
    let given: Vec<&str> = spec.load_balancer_source_ranges.iter().flatten().map(|s| s.trim()).collect();
    let mut parsed: BTreeSet<IpNet> = given.iter().filter_map(|s| s.parse::<IpNet>().ok()).map(|n| n.trunc()).collect();
    if parsed.is_empty() && !given.is_empty() {
        // 255.255.255.255 is nobody's source address.
        parsed.insert(IpNet::from(IpAddr::from([255u8; 4])));
    }
    parsed.into_iter().collect()
}

fn session_affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
    let seconds = seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    Some(seconds.min(MAX_AFFINITY_SECONDS))
}

fn endpoints(slices: &[&EndpointSlice], port_name: &str, protocol: Protocol, node: &str) -> Vec<Endpoint> {
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices {
        let wanted = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| p.name.as_deref().unwrap_or_default() == port_name && parse_protocol(p.protocol.as_deref()) == Some(protocol));
        for number in wanted.filter_map(|p| port_number(p.port)) {
            for endpoint in slice.endpoints.iter().flatten() {
                // Only the first address has a meaning.
                let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let ready = conditions.ready.unwrap_or(true);
                let candidate = Endpoint {
                    ip,
                    port: number,
                    local: !node.is_empty() && endpoint.node_name.as_deref() == Some(node),
                    ready,
                    serving: conditions.serving.unwrap_or(true),
                    terminating: conditions.terminating.unwrap_or(false),
                };
                let known = found.entry(candidate.address()).or_insert_with(|| candidate.clone());
                if candidate.rank() > known.rank() {
                    *known = candidate;
                }
            }
        }
    }
    found.into_values().collect()
}

fn addresses<'a>(given: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    given.filter_map(|s| s.parse().ok()).collect::<BTreeSet<IpAddr>>().into_iter().collect()
}

fn port_number(given: Option<i32>) -> Option<u16> {
    given.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
}

fn parse_protocol(given: Option<&str>) -> Option<Protocol> {
    given.map_or(Some(Protocol::Tcp), |p| p.parse().ok())
}

fn policy(given: Option<&str>) -> TrafficPolicy {
    if given == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(value: Value) -> Arc<Service> {
        Arc::new(serde_json::from_value(value).unwrap())
    }
    fn web(extra: Value) -> Arc<Service> {
        let mut spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        service(json!({"metadata": {"namespace": "a", "name": "web"}, "spec": spec}))
    }
    fn slice(name: &str, port_name: &str, endpoints: Value) -> Arc<EndpointSlice> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "a", "name": name, "labels": {SERVICE_NAME_LABEL: "web"}},
                "addressType": "IPv4", "ports": [{"name": port_name, "port": 8080, "protocol": "TCP"}], "endpoints": endpoints
            }))
            .unwrap(),
        )
    }
    fn state(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> ProxyState {
        proxy_state(1, services, slices, &NodeInfo { name: "n1".into(), addresses: vec![] }, &[])
    }
    fn chosen(state: &ProxyState) -> Vec<String> {
        state.services[0].cluster_endpoints().iter().map(|e| e.address().to_string()).collect()
    }

    #[test]
    fn is_object_safe_and_shareable() {
        fn check<T: Send + Sync + ?Sized>() {}
        check::<dyn NetworkProxy>();
    }

    #[test]
    fn joins_slices_by_port_name_and_protocol() {
        let one = slice("s1", "http", json!([{"addresses": ["10.0.0.2"]}]));
        let two = slice("s2", "http", json!([{"addresses": ["10.0.0.1"], "nodeName": "n1"}]));
        let other = slice("s3", "metrics", json!([{"addresses": ["10.0.0.3"]}]));
        let state = state(&[web(json!({}))], &[one, two, other]);
        assert_eq!(chosen(&state), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!(state.services[0].local_endpoints().len(), 1);
        assert_eq!(state.services[0].id().to_string(), "a/web:http");
    }

    #[test]
    fn the_order_of_arguments_does_not_matter() {
        let slices = [slice("s1", "http", json!([{"addresses": ["10.0.0.2"]}])), slice("s2", "http", json!([{"addresses": ["10.0.0.1"]}]))];
        let services = [
            web(json!({})),
            service(json!({"metadata":{"namespace":"a","name":"x"},"spec":{"clusterIP":"10.96.0.2","ports":[{"port":1}]}})),
        ];
        let there = state(&services, &slices);
        let back = state(&[services[1].clone(), services[0].clone()], &[slices[1].clone(), slices[0].clone()]);
        assert_eq!(there, back);
        assert_eq!(there.services.len(), 2);
    }

    #[test]
    fn an_address_in_two_slices_counts_once_and_ready_wins() {
        let unready = slice("s1", "http", json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": false}}]));
        let ready = slice("s2", "http", json!([{"addresses": ["10.0.0.1"]}]));
        for slices in [[unready.clone(), ready.clone()], [ready, unready]] {
            let state = state(&[web(json!({}))], &slices);
            assert_eq!(state.services[0].endpoints.len(), 1);
            assert!(state.services[0].endpoints[0].ready);
        }
    }

    #[test]
    fn terminating_endpoints_serve_only_when_no_other_is_ready() {
        let dying = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let dead = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": false, "terminating": true}});
        let live = json!({"addresses": ["10.0.0.3"], "conditions": {"ready": true, "serving": true, "terminating": false}});
        let unready = json!({"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": true, "terminating": false}});
        let all = state(&[web(json!({}))], &[slice("s", "http", json!([dying, dead, live, unready]))]);
        assert_eq!(chosen(&all), ["10.0.0.3:8080"]);
        let last = state(&[web(json!({}))], &[slice("s", "http", json!([dying, dead, unready]))]);
        assert_eq!(chosen(&last), ["10.0.0.1:8080"]);
    }

    #[test]
    fn headless_external_and_foreign_services_are_left_out() {
        let labelled = service(json!({"metadata": {"namespace": "a", "name": "o", "labels": {SERVICE_PROXY_NAME_LABEL: "other"}},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}));
        let services = [
            web(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
            web(json!({"type": "ExternalName", "externalName": "example.org"})),
            web(json!({"clusterIP": ""})),
            labelled,
        ];
        assert_eq!(state(&services, &[]).services, []);
    }

    #[test]
    fn a_node_port_counts_only_for_types_that_have_one() {
        let ports = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
        let of = |kind: &str| state(&[web(json!({"type": kind, "ports": ports}))], &[]).services[0].node_port;
        assert_eq!(of("ClusterIP"), None);
        assert_eq!(of("NodePort"), Some(30080));
        assert_eq!(of("LoadBalancer"), Some(30080));
    }

    #[test]
    fn affinity_defaults_to_three_hours_and_is_capped_at_a_day() {
        let of = |extra: Value| state(&[web(extra)], &[]).services[0].session_affinity;
        assert_eq!(of(json!({"sessionAffinity": "None"})), None);
        assert_eq!(of(json!({"sessionAffinity": "ClientIP"})), Some(10_800));
        assert_eq!(
            of(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1_000_000}}})),
            Some(86_400)
        );
    }

    #[test]
    fn unreadable_source_ranges_do_not_open_the_door() {
        let of = |extra: Value| state(&[web(extra)], &[]).services[0].load_balancer_source_ranges.clone();
        assert_eq!(of(json!({"loadBalancerSourceRanges": []})), []);
        assert_eq!(of(json!({"loadBalancerSourceRanges": [" 10.1.2.3/8 "]})), ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
        assert_eq!(of(json!({"loadBalancerSourceRanges": ["anyone"]})).len(), 1);
    }

    #[test]
    fn malformed_values_are_left_out() {
        let bad = slice("s", "http", json!([{"addresses": []}, {"addresses": ["nonsense"]}, {"addresses": ["10.0.0.1"]}]));
        let state = state(
            &[web(json!({"ports": [{"name": "http", "port": 80}, {"name": "zero", "port": 0}, {"name": "big", "port": 70_000}]}))],
            &[bad],
        );
        assert_eq!(state.services.len(), 1);
        assert_eq!(chosen(&state), ["10.0.0.1:8080"]);
    }
}
