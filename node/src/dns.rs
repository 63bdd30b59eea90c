//! The resolver configuration and host names of a pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use wharf_core::runtime::DnsConfig;

use crate::pod;

/// The cluster's DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its servers' addresses.
    pub servers: Vec<IpAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
}

/// Most bytes read of the host's resolv.conf.
const MAX_RESOLV_CONF: usize = 64 * 1024;

/// The pod's resolver configuration; `None` for the host's.
pub(crate) fn config(pod: &Pod, cluster: Option<&ClusterDns>, host: impl Fn() -> DnsConfig) -> Option<DnsConfig> {
    let spec = pod.spec.as_ref()?;
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let own_network = spec.host_network != Some(true);
    let clustered = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && own_network);
    let mut made = match (policy, cluster) {
        ("None", _) => DnsConfig::default(),
        (_, Some(cluster)) if clustered => {
            let mut searches =
                vec![format!("{}.svc.{}", pod::namespace(pod), cluster.domain), format!("svc.{}", cluster.domain), cluster.domain.clone()];
            searches.extend(host().searches);
            DnsConfig { servers: cluster.servers.iter().map(ToString::to_string).collect(), searches, options: vec!["ndots:5".into()] }
        }
        _ if spec.dns_config.is_none() => return None,
        _ => host(),
    };
    if let Some(extra) = &spec.dns_config {
        let merge = |into: &mut Vec<String>, from: &Option<Vec<String>>| {
            for item in from.iter().flatten() {
                if !into.contains(item) {
                    into.push(item.clone());
                }
            }
        };
        merge(&mut made.servers, &extra.nameservers);
        merge(&mut made.searches, &extra.searches);
        for option in extra.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            made.options.retain(|o| o.split(':').next() != Some(name));
            made.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.into(),
            });
        }
    }
    Some(made)
}

/// Reads the host's resolv.conf.
pub(crate) fn of_host() -> DnsConfig {
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    parse(&String::from_utf8_lossy(&text[..text.len().min(MAX_RESOLV_CONF)]))
}

fn parse(text: &str) -> DnsConfig {
    let mut made = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => made.servers.extend(words.next().map(Into::into)),
            Some("search") => made.searches = words.map(Into::into).collect(),
            Some("options") => made.options = words.map(Into::into).collect(),
            _ => {}
        }
    }
    made
}

/// Longest host name that Linux takes.
const MAX_HOSTNAME: usize = 63;

/// The pod's host name.
pub(crate) fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let asked = spec.and_then(|s| s.hostname_override.clone().or_else(|| s.hostname.clone())).filter(|h| !h.is_empty());
    let mut name = asked.unwrap_or_else(|| pod::name(pod).into());
    name.truncate(MAX_HOSTNAME);
    name.trim_end_matches(['-', '.']).into()
}

/// `hostname.subdomain.namespace.svc.domain`, for a pod with a subdomain.
pub(crate) fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{domain}", hostname(pod), pod::namespace(pod)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn follows_the_policy() {
        let pod =
            |spec: serde_json::Value| serde_json::from_value::<Pod>(json!({"metadata":{"name":"p","namespace":"n"},"spec":spec})).unwrap();
        let host = || parse("nameserver 1.1.1.1\nsearch home lan\noptions edns0\n");
        let cluster = ClusterDns { servers: vec!["10.96.0.10".parse().unwrap()], domain: "cluster.local".into() };
        let made = config(&pod(json!({"containers":[]})), Some(&cluster), host).unwrap();
        assert_eq!(made.servers, ["10.96.0.10"]);
        assert_eq!(made.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "home", "lan"]);
        assert_eq!(config(&pod(json!({"containers":[]})), None, host), None);
        assert_eq!(config(&pod(json!({"containers":[],"hostNetwork":true})), Some(&cluster), host), None);
        assert_eq!(config(&pod(json!({"containers":[],"dnsPolicy":"Default"})), Some(&cluster), host), None);
        let none = pod(
            json!({"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["9.9.9.9"],"options":[{"name":"ndots","value":"2"}]}}),
        );
        let made = config(&none, Some(&cluster), host).unwrap();
        assert_eq!((made.servers, made.options), (vec!["9.9.9.9".into()], vec!["ndots:2".into()]));
    }
}
