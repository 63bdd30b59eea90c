//! Where a request is passed on to: read from the object it names, and held to what may be reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use wharf_core::api::{ApiError, Kind, SharedApi, Target};
use wharf_core::object::ObjectRef;

use super::Dialer;
use crate::endpoints;
use crate::request::RequestInfo;
use crate::rest::status;
use crate::server::body::status_of;

type Refusal = Box<Status>;

/// Which of a node's addresses is taken.
const NODE_ADDRESSES: [&str; 5] = ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"];

/// An address to pass a request on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

fn split(id: &str) -> Option<Asked<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Asked { tls: scheme == "https", name, port })
}

fn refuse(error: ApiError) -> Refusal {
    Box::new(status_of(error))
}

/// Whether an address may be reached through the API: none of this machine alone, of its link, or of many.
pub(super) fn is_allowed(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => return is_allowed(IpAddr::V4(v4)),
            None => v6.is_unicast_link_local(),
        },
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

fn allowed(address: &str) -> Result<IpAddr, Refusal> {
    address.parse().ok().filter(|ip| is_allowed(*ip)).ok_or_else(|| refuse(status::bad_request("address not allowed")))
}

fn port(text: &str) -> Result<u16, Refusal> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| unreachable_service(&format!("dial tcp: lookup tcp/{text}: unknown port")))
}

/// 503, as every failure to reach a backend is told.
pub(super) fn unreachable_service(why: &str) -> Refusal {
    refuse(status::unavailable(format!("error trying to reach service: {why}")))
}

async fn get<K: Kind>(api: &SharedApi, namespace: &str, name: &str) -> Result<Arc<K>, Refusal> {
    let found = api.get(&Target::of::<K>(ObjectRef::new(namespace, name))).await.map_err(refuse)?;
    found.decode::<K>().map_err(|e| refuse(e.into()))
}

/// Finds out where a request goes.
pub(super) async fn find(api: &SharedApi, dialer: &dyn Dialer, info: &RequestInfo) -> Result<Backend, Refusal> {
    let what = info.resource.trim_end_matches('s');
    let asked = split(&info.name).ok_or_else(|| refuse(status::bad_request(format!("invalid {what} request {:?}", info.name))))?;
    match what {
        "pod" => of_pod(&*get::<Pod>(api, &info.namespace, asked.name).await?, &asked),
        "service" => of_service(api, &info.namespace, &info.name, &asked).await,
        _ => of_node(&*get::<Node>(api, "", asked.name).await?, &asked, dialer).await,
    }
}

fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let listed = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default().iter().map(|ip| ip.ip.as_str());
    listed.chain(status.and_then(|s| s.pod_ip.as_deref()))
}

fn of_pod(pod: &Pod, asked: &Asked<'_>) -> Result<Backend, Refusal> {
    let ip = allowed(addresses(pod).next().unwrap_or_default())?;
    let first = || {
        let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
        let named = containers.iter().find_map(|c| c.ports.as_ref()?.first()).and_then(|p| u16::try_from(p.container_port).ok());
        named.unwrap_or(if asked.tls { 443 } else { 80 })
    };
    let port = if asked.port.is_empty() { first() } else { port(asked.port)? };
    Ok(Backend { address: (ip, port).into(), tls: asked.tls })
}

async fn of_service(api: &SharedApi, namespace: &str, id: &str, asked: &Asked<'_>) -> Result<Backend, Refusal> {
    let nothing = |what: &str| refuse(status::unavailable(format!("no endpoints available for service {what:?}")));
    let mut port_name = asked.port.to_owned();
    if let Ok(number) = asked.port.parse::<i64>() {
        let service = get::<Service>(api, namespace, asked.name).await?;
        let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
        let Some(found) = ports.iter().find(|port| i64::from(port.port) == number) else {
            return Err(refuse(status::unavailable(format!("no service port {number} found for service {:?}", asked.name))));
        };
        port_name = found.name.clone().unwrap_or_default();
    } else if get::<Service>(api, namespace, asked.name).await.is_err() {
        return Err(refuse(status::not_found("", "endpoints", asked.name)));
    }
    let found = endpoints::ready(api, namespace, asked.name, &port_name).await.map_err(refuse)?;
    // Whoever can write a slice may name any address: only that of the pod which it names counts.
    let candidates: Vec<_> = found.candidates.iter().filter_map(|e| Some((e.pod.as_deref()?, e.address.as_str(), e.port))).collect();
    if candidates.is_empty() {
        return Err(nothing(if found.none { asked.name } else { id }));
    }
    let start = rand::random_range(0..candidates.len());
    for (name, address, port) in candidates.iter().cycle().skip(start).take(candidates.len()) {
        let Ok(pod) = get::<Pod>(api, namespace, name).await else { continue };
        if addresses(&pod).any(|ip| ip == *address)
            && let Ok(ip) = allowed(address)
        {
            return Ok(Backend { address: (ip, *port).into(), tls: asked.tls });
        }
    }
    Err(nothing(id))
}

async fn of_node(node: &Node, asked: &Asked<'_>, dialer: &dyn Dialer) -> Result<Backend, Refusal> {
    let status = node.status.as_ref();
    let known = status.and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let preferred = NODE_ADDRESSES.iter().find_map(|kind| known.iter().find(|address| address.type_ == *kind));
    let Some(host) = preferred.map(|address| address.address.as_str()) else {
        return Err(refuse(status::internal("no preferred addresses found; known addresses: []")));
    };
    let agent = status
        .and_then(|s| s.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref())
        .and_then(|endpoint| u16::try_from(endpoint.port).ok())
        .filter(|port| *port > 0);
    // A node agent in this process has no port: what listens on the usual one is somebody else.
    let port = match (asked.port, agent) {
        ("", Some(port)) => port,
        ("", None) => return Err(unreachable_service(&format!("node {:?} has no kubelet endpoint", asked.name))),
        (text, _) => port(text)?,
    };
    let tls = asked.tls || agent == Some(port);
    // The address that was looked at is the one that is dialed: a name could change meanwhile.
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => dialer.resolve(host).await.map_err(|e| refuse(status::bad_request(format!("lookup {host}: {e}"))))?,
    };
    match ips.first() {
        Some(ip) if ips.iter().all(|ip| is_allowed(*ip)) => Ok(Backend { address: (*ip, port).into(), tls }),
        Some(_) => Err(refuse(status::bad_request("address not allowed"))),
        None => Err(refuse(status::bad_request(format!("lookup {host}: no such host")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_a_scheme_and_a_port() {
        let asked = |tls, name, port| Some(Asked { tls, name, port });
        assert_eq!(split("a"), asked(false, "a", ""));
        assert_eq!(split("a:80"), asked(false, "a", "80"));
        assert_eq!(split("https:a:web"), asked(true, "a", "web"));
        assert_eq!(split("http:a:"), asked(false, "a", ""));
        for bad in ["", ":80", "ftp:a:1", "a:b:c:d", "https::1"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_of_the_machine_itself_are_not_reached() {
        for (address, want) in [
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::ffff:127.0.0.1", false),
        ] {
            assert_eq!(is_allowed(address.parse().unwrap()), want, "{address}");
        }
    }
}
