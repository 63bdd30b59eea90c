//! Which EndpointSlices a Service shall have: a function of the Service, its pods and the slices that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wharf_core::proxy::{HEADLESS_LABEL, SERVICE_NAME_LABEL};

use crate::owner::controller_reference;
use crate::pods;

/// Most endpoints in one slice.
pub const MAX_ENDPOINTS: usize = 100;
/// Label: who keeps a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`] on the slices kept here.
pub const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Labels of a Service that its slices do not get from it.
const NOT_MIRRORED: &[&str] = &[SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL];

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Create a slice.
    Create(Box<EndpointSlice>),
    /// Replace a slice, at the version that was looked at.
    Update(Box<EndpointSlice>),
    /// Delete a slice.
    Delete(Box<EndpointSlice>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    name: String,
    port: i32,
    protocol: String,
    app_protocol: Option<String>,
}

type Group = (&'static str, Vec<PortKey>);

/// Whether slices are kept for this Service at all.
pub fn is_selected(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|s| !s.is_empty())
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn families(service: &Service) -> BTreeSet<&'static str> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if !named.is_empty() {
        return named.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    }
    let ips = spec.and_then(|s| s.cluster_ips.clone().or_else(|| s.cluster_ip.clone().map(|ip| vec![ip]))).unwrap_or_default();
    let found: BTreeSet<_> = ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(family).collect();
    if found.is_empty() { ["IPv4"].into() } else { found }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// The container port that a Service port leads to in one pod; `None` when the pod has no port of that name.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let restartable = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(restartable).flat_map(|c| c.ports.iter().flatten()).find_map(|p| {
                let same = p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol;
                same.then_some(p.container_port)
            })
        }
    }
}

fn ports(service: &Service, pod: Option<&Pod>) -> Vec<PortKey> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let mut keys: Vec<PortKey> = ports
        .iter()
        .filter_map(|port| {
            Some(PortKey {
                name: port.name.clone().unwrap_or_default(),
                port: target_port(pod?, port)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    keys.sort();
    keys
}

fn slice_ports(slice: &EndpointSlice) -> Vec<PortKey> {
    let mut keys: Vec<PortKey> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| PortKey {
            name: p.name.clone().unwrap_or_default(),
            port: p.port.unwrap_or(0),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    keys.sort();
    keys
}

fn address(pod: &Pod, wanted: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let many = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
    // The list holds the single address first, where there is a list.
    many.chain(status.pod_ip.as_deref()).find(|ip| ip.parse().is_ok_and(|ip| family(ip) == wanted)).map(str::to_string)
}

fn endpoint(service: &Service, pod: &Pod, address: String) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let spec = pod.spec.as_ref();
    let meta = &service.metadata;
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).is_some_and(|s| Some(s) == meta.name.as_deref());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.and_then(|s| s.hostname.clone()).filter(|h| subdomain && !h.is_empty()),
        node_name: spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|name, _| !NOT_MIRRORED.contains(&name.as_str()));
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    labels
}

/// What tells an endpoint from the others of its group.
fn identity(endpoint: &Endpoint) -> (Option<&str>, Option<&str>) {
    (endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()), endpoint.addresses.first().map(String::as_str))
}

/// Decides. `pods` are those that the Service selects, `slices` those that are kept here for it. Slices change as
/// little as possible: an endpoint stays in the slice where it is.
pub fn decide(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Step> {
    let families = families(service);
    let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|p| !pods::is_finished(p)) {
        for family in &families {
            if let Some(ip) = address(pod, family) {
                wanted.entry((family, ports(service, Some(pod)))).or_default().push(endpoint(service, pod, ip));
            }
        }
    }
    for family in &families {
        if !wanted.keys().any(|(f, _)| f == family) {
            // An empty slice tells that there are no endpoints, rather than that nobody has looked yet.
            wanted.insert((family, Vec::new()), Vec::new());
        }
    }
    let mut existing: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut steps = Vec::new();
    for slice in slices.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let group = families.get(slice.address_type.as_str()).map(|family| (*family, slice_ports(slice)));
        match group.filter(|g| wanted.contains_key(g)) {
            Some(group) => existing.entry(group).or_default().push(slice),
            None => steps.push(Step::Delete(Box::new((**slice).clone()))),
        }
    }
    let mut writes = Vec::new();
    for (group, endpoints) in wanted {
        let slices = existing.remove(&group).unwrap_or_default();
        settle(service, group, endpoints, &slices, &mut writes);
    }
    // What is wanted comes first, so that an endpoint that moves between slices is never missing.
    writes.append(&mut steps);
    writes
}

fn settle(service: &Service, group: Group, endpoints: Vec<Endpoint>, slices: &[&Arc<EndpointSlice>], steps: &mut Vec<Step>) {
    let mut fresh = endpoints;
    let mut filled: Vec<EndpointSlice> = Vec::new();
    for slice in slices {
        let mut kept = Vec::new();
        for old in slice.endpoints.iter().flatten() {
            if let Some(at) = fresh.iter().position(|e| identity(e) == identity(old)) {
                let mut new = fresh.swap_remove(at);
                // The zone and hints are others' to set.
                new.zone = new.zone.or_else(|| old.zone.clone());
                new.hints = old.hints.clone();
                kept.push(new);
            }
        }
        let mut changed = (***slice).clone();
        changed.endpoints = Some(kept);
        filled.push(changed);
    }
    fresh.sort_by(|a, b| identity(a).cmp(&identity(b)));
    let mut fresh = fresh.into_iter();
    // The fullest first, so that few slices change and none is left half empty.
    let mut order: Vec<usize> = (0..filled.len()).collect();
    let len = |slice: &EndpointSlice| slice.endpoints.as_ref().map_or(0, Vec::len);
    order.sort_by_key(|i| std::cmp::Reverse(len(&filled[*i])));
    for i in order {
        let room = MAX_ENDPOINTS.saturating_sub(len(&filled[i]));
        filled[i].endpoints.get_or_insert_default().extend(fresh.by_ref().take(room));
    }
    let mut populated = filled.iter().filter(|s| len(s) > 0).count();
    for (slice, old) in filled.into_iter().zip(slices) {
        if len(&slice) == 0 && (populated > 0 || fresh.len() > 0) {
            steps.push(Step::Delete(Box::new(slice)));
            continue;
        }
        if len(&slice) == 0 {
            // One empty slice is enough.
            populated += 1;
        }
        let mut slice = slice;
        slice.metadata.labels = Some(labels(service));
        let same = slice.endpoints.as_deref().unwrap_or_default() == old.endpoints.as_deref().unwrap_or_default()
            && slice.metadata.labels == old.metadata.labels;
        if !same {
            steps.push(Step::Update(Box::new(slice)));
        }
    }
    let mut rest: Vec<Endpoint> = fresh.collect();
    while !rest.is_empty() || populated == 0 {
        populated += 1;
        let tail = rest.split_off(rest.len().min(MAX_ENDPOINTS));
        steps.push(Step::Create(Box::new(new_slice(service, &group, std::mem::replace(&mut rest, tail)))));
    }
}

fn new_slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: group.0.into(),
        endpoints: Some(endpoints),
        ports: Some(
            group
                .1
                .iter()
                .map(|p| EndpointPort {
                    name: Some(p.name.clone()),
                    port: Some(p.port),
                    protocol: Some(p.protocol.clone()),
                    app_protocol: p.app_protocol.clone(),
                })
                .collect(),
        ),
    }
}
