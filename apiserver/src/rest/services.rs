//! Cluster IPs and node ports of Services: none is given twice.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_core::api::ApiError;

use super::status;
use crate::resources::Resource;
use crate::resources::value::{as_map, items, number, object, text};

/// Where Services get their addresses from.
#[derive(Debug, Clone)]
pub struct ServiceRanges {
    /// Cluster IPs.
    pub cluster_ips: Ipv4Net,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for ServiceRanges {
    fn default() -> Self {
        Self { cluster_ips: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12), node_ports: 30_000..=32_767 }
    }
}

impl ServiceRanges {
    /// The address of the service `kubernetes`: the first of the range.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cluster_ips.network()).saturating_add(1))
    }
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Clone, Copy)]
enum Given {
    #[default]
    Nothing,
    Ip(Ipv4Addr),
    Port(u16),
}

#[derive(Debug)]
struct Inner {
    ranges: ServiceRanges,
    used: Mutex<HashSet<Given>>,
}

/// Gives out addresses and remembers them.
#[derive(Debug, Clone)]
pub(crate) struct ServiceAllocator {
    inner: Arc<Inner>,
}

/// What was given for one write; given back unless the write is kept.
#[derive(Debug)]
pub(super) struct Lease {
    inner: Arc<Inner>,
    given: Vec<Given>,
}

impl Lease {
    pub(super) fn keep(mut self) {
        self.given.clear();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.given.is_empty() {
            let mut used = self.inner.used.lock();
            for given in &self.given {
                used.remove(given);
            }
        }
    }
}

fn is_service(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "services"
}

/// Everything that a stored Service holds.
fn held(service: &Value) -> HashSet<Given> {
    let ips = items(service, &["spec", "clusterIPs"]).iter().filter_map(Value::as_str).chain([text(service, &["spec", "clusterIP"])]);
    let ports = items(service, &["spec", "ports"]).iter().filter_map(|p| number(p, &["nodePort"]));
    let extra = number(service, &["spec", "healthCheckNodePort"]);
    ips.filter_map(|ip| ip.parse().ok().map(Given::Ip))
        .chain(ports.chain(extra).filter_map(|p| u16::try_from(p).ok().filter(|p| *p > 0).map(Given::Port)))
        .collect()
}

fn refuse(service: &Value, field: &str, message: String) -> ApiError {
    status::invalid("", "Service", text(service, &["metadata", "name"]), vec![status::cause("FieldValueInvalid", message, field)])
}

impl ServiceAllocator {
    pub(super) fn new(ranges: ServiceRanges) -> Self {
        Self { inner: Arc::new(Inner { ranges, used: Mutex::default() }) }
    }

    pub(super) fn ranges(&self) -> &ServiceRanges {
        &self.inner.ranges
    }

    /// Learns what a stored Service holds.
    pub(super) fn learn(&self, service: &Value) {
        self.inner.used.lock().extend(held(service));
    }

    pub(super) fn nothing(&self) -> Lease {
        Lease { inner: self.inner.clone(), given: Vec::new() }
    }

    /// Gives back what a deleted Service held.
    pub(super) fn release(&self, row: &Resource, service: &Value) {
        if is_service(row) {
            let mut used = self.inner.used.lock();
            for given in held(service) {
                used.remove(&given);
            }
        }
    }

    /// Gives back what a changed Service holds no more.
    pub(super) fn release_difference(&self, row: &Resource, old: &Value, new: &Value) {
        if is_service(row) {
            let now = held(new);
            let mut used = self.inner.used.lock();
            for given in held(old).into_iter().filter(|g| !now.contains(g)) {
                used.remove(&given);
            }
        }
    }

    fn free_ip(&self) -> Option<Ipv4Addr> {
        let net = self.inner.ranges.cluster_ips;
        let size = 1u64 << (32 - net.prefix_len());
        // Neither the network itself, nor its first address, nor the broadcast address.
        let choices = size.checked_sub(3).filter(|n| *n > 0)?;
        let base = u32::from(net.network()) as u64 + 2;
        let start = rand::random_range(0..choices);
        let mut used = self.inner.used.lock();
        (0..choices).map(|i| Ipv4Addr::from((base + (start + i) % choices) as u32)).find(|ip| used.insert(Given::Ip(*ip)))
    }

    fn free_port(&self) -> Option<u16> {
        let range = &self.inner.ranges.node_ports;
        let count = u32::from(range.end().checked_sub(*range.start())?) + 1;
        let start = rand::random_range(0..count);
        let mut used = self.inner.used.lock();
        (0..count).map(|i| range.start() + ((start + i) % count) as u16).find(|port| used.insert(Given::Port(*port)))
    }

    /// Fills in the addresses of a Service that is about to be written.
    pub(super) fn allocate(&self, row: &Resource, service: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Lease, ApiError> {
        let mut lease = self.nothing();
        if !is_service(row) {
            return Ok(lease);
        }
        let kind = text(service, &["spec", "type"]).to_owned();
        let had = old.map(held).unwrap_or_default();
        if let Some(old) = old {
            carry_over(service, old);
        }
        if kind == "ExternalName" {
            let spec = object(service, &["spec"]);
            for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(name);
            }
        } else {
            self.allocate_ip(service, &had, &mut lease)?;
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            self.allocate_ports(service, &had, &mut lease)?;
        }
        if dry_run {
            // Shown, but not taken.
            drop(std::mem::replace(&mut lease, self.nothing()));
        }
        Ok(lease)
    }

    fn allocate_ip(&self, service: &mut Value, had: &HashSet<Given>, lease: &mut Lease) -> Result<(), ApiError> {
        let mut asked = text(service, &["spec", "clusterIP"]).to_owned();
        if asked.is_empty() {
            items(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or_default().clone_into(&mut asked);
        }
        if asked.is_empty() {
            let ip = self.free_ip().ok_or_else(|| status::internal("failed to allocate a serviceIP: range is full"))?;
            lease.given.push(Given::Ip(ip));
            asked = ip.to_string();
        } else if asked != "None" {
            let ip: IpAddr = asked.parse().map_err(|_| {
                refuse(
                    service,
                    "spec.clusterIPs[0]",
                    format!("Invalid value: \"{asked}\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
                )
            })?;
            let shown = format!("Invalid value: [\"{asked}\"]: failed to allocate IP {asked}:");
            let range = self.inner.ranges.cluster_ips;
            let IpAddr::V4(ip) = ip else {
                return Err(refuse(service, "spec.clusterIPs", format!("{shown} this cluster has no IPv6 service range")));
            };
            if !had.contains(&Given::Ip(ip)) {
                if !range.contains(&ip) {
                    return Err(refuse(
                        service,
                        "spec.clusterIPs",
                        format!("{shown} the provided IP is not in the valid range. The range of valid IPs is {range}"),
                    ));
                }
                if !self.inner.used.lock().insert(Given::Ip(ip)) {
                    return Err(refuse(service, "spec.clusterIPs", format!("{shown} provided IP is already allocated")));
                }
                lease.given.push(Given::Ip(ip));
            }
        }
        let spec = object(service, &["spec"]);
        spec.insert("clusterIPs".into(), json!([asked]));
        spec.insert("clusterIP".into(), asked.into());
        Ok(())
    }

    fn allocate_ports(&self, service: &mut Value, had: &HashSet<Given>, lease: &mut Lease) -> Result<(), ApiError> {
        let name = text(service, &["metadata", "name"]).to_owned();
        let named = json!({"metadata": {"name": name}});
        let Some(Value::Array(ports)) = object(service, &["spec"]).get_mut("ports") else { return Ok(()) };
        // The same number may serve TCP and UDP of one Service.
        let mut here: HashSet<u16> = HashSet::new();
        for (i, port) in ports.iter_mut().enumerate() {
            let asked = number(port, &["nodePort"]).unwrap_or(0);
            let given = if asked == 0 {
                let port = self.free_port().ok_or_else(|| status::internal("failed to allocate a nodePort: range is full"))?;
                lease.given.push(Given::Port(port));
                port
            } else {
                let range = &self.inner.ranges.node_ports;
                let field = format!("spec.ports[{i}].nodePort");
                let valid = u16::try_from(asked).ok();
                let number = valid.filter(|p| range.contains(p) || had.contains(&Given::Port(*p))).ok_or_else(|| {
                    let (first, last) = (range.start(), range.end());
                    refuse(
                        &named,
                        &field,
                        format!(
                            "Invalid value: {asked}: provided port is not in the valid range. The range of valid ports is {first}-{last}"
                        ),
                    )
                })?;
                if !had.contains(&Given::Port(number)) && !here.contains(&number) {
                    if !self.inner.used.lock().insert(Given::Port(number)) {
                        return Err(refuse(&named, &field, format!("Invalid value: {asked}: provided port is already allocated")));
                    }
                    lease.given.push(Given::Port(number));
                }
                number
            };
            here.insert(given);
            as_map(port).insert("nodePort".into(), given.into());
        }
        Ok(())
    }
}

/// Addresses that an update leaves out are kept.
fn carry_over(service: &mut Value, old: &Value) {
    let kind = text(service, &["spec", "type"]).to_owned();
    let old_kind = text(old, &["spec", "type"]);
    if kind != "ExternalName" && old_kind != "ExternalName" && text(service, &["spec", "clusterIP"]).is_empty() {
        let ip = text(old, &["spec", "clusterIP"]);
        if !ip.is_empty() {
            let spec = object(service, &["spec"]);
            spec.insert("clusterIP".into(), ip.into());
            spec.insert("clusterIPs".into(), json!([ip]));
        }
    }
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if let Some(Value::Array(ports)) = object(service, &["spec"]).get_mut("ports") {
        let old_ports = items(old, &["spec", "ports"]);
        for port in ports {
            if !has_ports(&kind) {
                // Ports that came from a NodePort Service go with it.
                let same = |o: &&Value| number(o, &["nodePort"]) == number(port, &["nodePort"]);
                if has_ports(old_kind) && old_ports.iter().any(|o| same(&o)) {
                    as_map(port).remove("nodePort");
                }
                continue;
            }
            if number(port, &["nodePort"]).unwrap_or(0) == 0
                && has_ports(old_kind)
                && let Some(before) =
                    old_ports.iter().find(|o| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol"))
                && let Some(number) = before.get("nodePort")
            {
                as_map(port).insert("nodePort".into(), number.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    fn service(kind: &str, ip: &str) -> Value {
        json!({"metadata":{"name":"a"},"spec":{"type":kind,"clusterIP":ip,"ports":[{"port":80,"protocol":"TCP"}]}})
    }

    #[test]
    fn nothing_is_given_twice_and_what_is_not_kept_returns() {
        let row = Resource::of::<Service>(true);
        let allocator = ServiceAllocator::new(ServiceRanges { cluster_ips: "10.0.0.0/30".parse().unwrap(), node_ports: 30_000..=30_000 });
        let mut first = service("NodePort", "");
        let lease = allocator.allocate(&row, &mut first, None, false).unwrap();
        assert_eq!(first["spec"]["clusterIP"], "10.0.0.2");
        assert_eq!(first["spec"]["ports"][0]["nodePort"], 30_000);
        assert!(allocator.allocate(&row, &mut service("ClusterIP", ""), None, false).is_err());
        drop(lease);
        allocator.allocate(&row, &mut service("NodePort", ""), None, false).unwrap().keep();
        allocator.release(&row, &first);
        allocator.allocate(&row, &mut service("ClusterIP", "10.0.0.2"), None, false).unwrap().keep();
        let error = allocator.allocate(&row, &mut service("ClusterIP", "10.0.0.2"), None, false).unwrap_err();
        assert!(error.to_string().contains("already allocated"), "{error}");
    }

    #[test]
    fn an_update_keeps_its_addresses() {
        let row = Resource::of::<Service>(true);
        let allocator = ServiceAllocator::new(ServiceRanges::default());
        let mut old = service("NodePort", "");
        allocator.allocate(&row, &mut old, None, false).unwrap().keep();
        let mut new = service("NodePort", "");
        allocator.allocate(&row, &mut new, Some(&old), false).unwrap().keep();
        assert_eq!(new["spec"], old["spec"]);
        let mut headless = service("ClusterIP", "None");
        allocator.allocate(&row, &mut headless, None, false).unwrap().keep();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }
}
