//! From installed rules back to Services: what is really there, not what was meant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use wharf_core::proxy::{ObservedService, ServicePortId};
use wharf_core::runtime::Protocol;

use crate::canonical::tokens;
use crate::delta::target;
use crate::nat::{CLUSTER_IP, GENERATION};
use crate::{Installed, Names, Table};

/// What the rules of one family say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedPlan {
    /// The generation they keep.
    pub generation: Option<u64>,
    /// The Service ports and the endpoints that their cluster addresses lead to, in order.
    pub services: Vec<ObservedService>,
}

/// Reads a plan back.
pub fn observe(installed: &Installed, names: &Names) -> ObservedPlan {
    let nat = |chain: &str| installed.chains.get(&(Table::Nat, chain.to_owned())).map(Vec::as_slice).unwrap_or_default();
    let generation = nat(&names.generation()).iter().find_map(|r| comment(r)?.strip_prefix(GENERATION)?.parse().ok());

    let mut found: BTreeMap<ServicePortId, BTreeSet<SocketAddr>> = BTreeMap::new();
    for ((_, _), rules) in installed.chains.iter().filter(|((table, chain), _)| *table == Table::Nat && names.is_service(chain)) {
        if let Some((id, _)) = rules.iter().find_map(|r| parse_label(&comment(r)?)) {
            found.entry(id).or_default();
        }
    }
    for rule in nat(&names.services()) {
        let Some((id, rest)) = comment(rule).as_deref().and_then(parse_label) else { continue };
        if rest != CLUSTER_IP {
            continue;
        }
        let Some(chain) = target(rule) else { continue };
        let endpoints = nat(&chain).iter().filter_map(|r| target(r)).filter(|t| names.is_endpoint(t));
        let addresses = endpoints.flat_map(|chain| nat(&chain).iter().filter_map(|r| destination(r)).collect::<Vec<_>>());
        found.entry(id).or_default().extend(addresses);
    }
    let services = found.into_iter().map(|(id, endpoints)| ObservedService { id, endpoints: endpoints.into_iter().collect() }).collect();
    ObservedPlan { generation, services }
}

fn option(rule: &str, name: &str) -> Option<String> {
    tokens(rule).into_iter().skip_while(|w| w != name).nth(1)
}

fn comment(rule: &str) -> Option<String> {
    option(rule, "--comment")
}

fn destination(rule: &str) -> Option<SocketAddr> {
    option(rule, "--to-destination")?.parse().ok()
}

/// `namespace/name:port protocol rest`.
fn parse_label(comment: &str) -> Option<(ServicePortId, String)> {
    let (id, rest) = comment.split_once(' ')?;
    let (protocol, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (namespace, name) = id.split_once('/')?;
    let (name, port_name) = name.split_once(':').unwrap_or((name, ""));
    let protocol: Protocol = protocol.to_ascii_uppercase().parse().ok()?;
    Some((ServicePortId { namespace: namespace.into(), name: name.into(), port_name: port_name.into(), protocol }, rest.into()))
}
