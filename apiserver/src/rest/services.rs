//! Cluster IPs and node ports of Services: none is given twice.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
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

/// What a Service can hold alone.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
pub(super) enum Given {
    Ip(Ipv4Addr),
    Port(u16),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// Whether something is held by a Service.
pub(super) type Taken<'a> = &'a (dyn Fn(Given) -> bool + Sync);

/// Chooses addresses. What is held is told to it: see `service_claims.rs`.
#[derive(Debug, Clone)]
pub(crate) struct ServiceAllocator {
    ranges: ServiceRanges,
}

pub(super) fn is_service(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "services"
}

/// Everything that a stored Service holds.
pub(super) fn held(service: &Value) -> HashSet<Given> {
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
        Self { ranges }
    }

    pub(super) fn ranges(&self) -> &ServiceRanges {
        &self.ranges
    }

    fn free_ip(&self, taken: Taken<'_>) -> Option<Ipv4Addr> {
        let net = self.ranges.cluster_ips;
        let size = 1u64 << (32 - net.prefix_len());
        // Neither the network itself, nor its first address, nor the broadcast address.
        let choices = size.checked_sub(3).filter(|n| *n > 0)?;
        let base = u32::from(net.network()) as u64 + 2;
        let start = rand::random_range(0..choices);
        (0..choices).map(|i| Ipv4Addr::from((base + (start + i) % choices) as u32)).find(|ip| !taken(Given::Ip(*ip)))
    }

    /// A port that nobody holds, this Service included.
    fn free_port(&self, here: &HashSet<u16>, taken: Taken<'_>) -> Option<u16> {
        let range = &self.ranges.node_ports;
        let count = u32::from(range.end().checked_sub(*range.start())?) + 1;
        let start = rand::random_range(0..count);
        let mut ports = (0..count).map(|i| range.start() + ((start + i) % count) as u16);
        ports.find(|port| !here.contains(port) && !taken(Given::Port(*port)))
    }

    /// Fills in the addresses of a Service that is about to be written.
    pub(super) fn allocate(&self, service: &mut Value, old: Option<&Value>, taken: Taken<'_>) -> Result<(), ApiError> {
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
            self.allocate_ip(service, &had, taken)?;
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            self.allocate_ports(service, &had, taken)?;
        }
        Ok(())
    }

    fn allocate_ip(&self, service: &mut Value, had: &HashSet<Given>, taken: Taken<'_>) -> Result<(), ApiError> {
        let mut asked = text(service, &["spec", "clusterIP"]).to_owned();
        if asked.is_empty() {
            items(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or_default().clone_into(&mut asked);
        }
        if asked.is_empty() {
            let ip = self.free_ip(taken).ok_or_else(|| status::internal("failed to allocate a serviceIP: range is full"))?;
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
            let range = self.ranges.cluster_ips;
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
                if taken(Given::Ip(ip)) {
                    return Err(refuse(service, "spec.clusterIPs", format!("{shown} provided IP is already allocated")));
                }
            }
        }
        let spec = object(service, &["spec"]);
        spec.insert("clusterIPs".into(), json!([asked]));
        spec.insert("clusterIP".into(), asked.into());
        Ok(())
    }

    fn allocate_ports(&self, service: &mut Value, had: &HashSet<Given>, taken: Taken<'_>) -> Result<(), ApiError> {
        let name = text(service, &["metadata", "name"]).to_owned();
        let named = json!({"metadata": {"name": name}});
        let Some(Value::Array(ports)) = object(service, &["spec"]).get_mut("ports") else { return Ok(()) };
        // Those that are asked for, by whichever of its ports. The same number may serve TCP and UDP of one Service.
        let mut here: HashSet<u16> = ports.iter().filter_map(|p| number(p, &["nodePort"])).filter_map(|p| u16::try_from(p).ok()).collect();
        for (i, port) in ports.iter_mut().enumerate() {
            let asked = number(port, &["nodePort"]).unwrap_or(0);
            let given = if asked == 0 {
                self.free_port(&here, taken).ok_or_else(|| status::internal("failed to allocate a nodePort: range is full"))?
            } else {
                let range = &self.ranges.node_ports;
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
                if !had.contains(&Given::Port(number)) && taken(Given::Port(number)) {
                    return Err(refuse(&named, &field, format!("Invalid value: {asked}: provided port is already allocated")));
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

    fn service(kind: &str, ip: &str) -> Value {
        json!({"metadata":{"name":"a"},"spec":{"type":kind,"clusterIP":ip,"ports":[{"port":80,"protocol":"TCP"}]}})
    }

    #[test]
    fn what_is_taken_is_not_given_and_is_refused() {
        let allocator = ServiceAllocator::new(ServiceRanges { cluster_ips: "10.0.0.0/30".parse().unwrap(), node_ports: 30_000..=30_000 });
        let mut first = service("NodePort", "");
        allocator.allocate(&mut first, None, &|_| false).unwrap();
        assert_eq!(first["spec"]["clusterIP"], "10.0.0.2");
        assert_eq!(first["spec"]["ports"][0]["nodePort"], 30_000);
        let taken = held(&first);
        let taken: Taken<'_> = &|given| taken.contains(&given);
        assert!(allocator.allocate(&mut service("ClusterIP", ""), None, taken).unwrap_err().to_string().contains("range is full"));
        let error = allocator.allocate(&mut service("ClusterIP", "10.0.0.2"), None, taken).unwrap_err();
        assert!(error.to_string().contains("already allocated"), "{error}");
        let mut asks = service("NodePort", "None");
        asks["spec"]["ports"][0]["nodePort"] = json!(30_000);
        assert!(allocator.allocate(&mut asks, None, taken).unwrap_err().to_string().contains("already allocated"));
    }

    #[test]
    fn a_port_that_is_asked_for_is_not_given_to_another_port_of_the_same_service() {
        let allocator = ServiceAllocator::new(ServiceRanges { node_ports: 30_000..=30_001, ..ServiceRanges::default() });
        let mut two = json!({"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[
            {"port":80,"protocol":"TCP"}, {"port":81,"protocol":"TCP","nodePort":30_000}]}});
        allocator.allocate(&mut two, None, &|_| false).unwrap();
        assert_eq!(two["spec"]["ports"][0]["nodePort"], 30_001);
    }

    #[test]
    fn an_update_keeps_its_addresses() {
        let allocator = ServiceAllocator::new(ServiceRanges::default());
        let mut old = service("NodePort", "");
        allocator.allocate(&mut old, None, &|_| false).unwrap();
        let mut new = service("NodePort", "");
        let mine = held(&old);
        allocator.allocate(&mut new, Some(&old), &|given| mine.contains(&given)).unwrap();
        assert_eq!(new["spec"], old["spec"]);
        let mut headless = service("ClusterIP", "None");
        allocator.allocate(&mut headless, None, &|_| false).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }
}
