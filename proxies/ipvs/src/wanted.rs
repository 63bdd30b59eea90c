//! From the state to virtual servers, sets and rules: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use wharf_core::proxy::{ProxyState, ServicePort, TrafficPolicy};
use wharf_core::runtime::Protocol;
use wharf_proxy_plan::parts::{Arrival, filter_chains, filter_jumps, nat_jumps, off_cluster, postrouting};
use wharf_proxy_plan::{Chains, Family, Match, Plan, PlanOptions, Rule, Table, Target};

use crate::plan::{Key, Scheduler, Server, Wanted};
use crate::sets::{Kind, Sets};

/// What the machine's own addresses are, apart from those on the dummy interface.
pub(crate) type Machine = BTreeSet<IpAddr>;

/// What there should be for a state.
pub(crate) fn wanted(state: &ProxyState, family: Family, machine: &Machine, scheduler: Scheduler) -> Wanted {
    let mut wanted = Wanted { sets: Sets::all(), ..Wanted::default() };
    let node: Vec<IpAddr> = if state.node.addresses.is_empty() { machine.iter().copied().collect() } else { state.node.addresses.clone() };
    let node: Vec<IpAddr> = node.into_iter().filter(|a| !a.is_loopback()).collect();
    for port in &state.services {
        let id = port.id().to_string();
        let mut serve = |kind: Kind, ips: &[IpAddr], number: u16, policy: TrafficPolicy, bind: bool| {
            for ip in ips.iter().filter(|ip| family.is_of(**ip)) {
                let key = Key { protocol: port.protocol, address: SocketAddr::new(*ip, number) };
                if !wanted.sets.put(kind, &key, &id) {
                    continue;
                }
                if bind && !machine.contains(ip) {
                    wanted.addresses.insert(*ip);
                }
                let endpoints: BTreeSet<SocketAddr> =
                    port.endpoints_for(policy).into_iter().filter(|e| family.is_of(e.ip)).map(|e| e.address()).collect();
                // Without, the packet filter answers.
                if !endpoints.is_empty() {
                    let server = Server { scheduler: scheduler.name().into(), affinity: port.session_affinity };
                    wanted.servers.insert(key, (server, endpoints));
                }
            }
        };
        serve(Kind::Cluster, &port.cluster_ips, port.port, port.internal_traffic_policy, true);
        let outside = if port.external_traffic_policy == TrafficPolicy::Local { Kind::Local } else { Kind::External };
        serve(outside, &port.external_ips, port.port, port.external_traffic_policy, true);
        serve(outside, &port.load_balancer_ips, port.port, port.external_traffic_policy, true);
        if let Some(number) = port.node_port {
            serve(outside, &node, number, port.external_traffic_policy, false);
        }
        hairpins(port, family, &mut wanted.sets);
    }
    for ip in &wanted.addresses {
        wanted.sets.put_address(*ip);
    }
    wanted
}

/// Of all endpoints: which of them are on this node is the state's to say, and not always true.
fn hairpins(port: &ServicePort, family: Family, sets: &mut Sets) {
    for endpoint in port.endpoints.iter().filter(|e| family.is_of(e.ip)) {
        sets.put_hairpin(&Key { protocol: port.protocol, address: endpoint.address() });
    }
}

/// The rules. Their number does not depend on that of Services, but for those that have no endpoints or source ranges.
/// The chain of the generation is left out: it is written last, by itself.
pub(crate) fn rules(state: &ProxyState, family: Family, options: &PlanOptions) -> Plan {
    let names = &options.names;
    let of = |kind: Kind, which| Match::Set(kind.name(names.prefix(), family), which);
    let masquerade = || Target::Chain(names.mark_masq());
    let mut nat = Chains::new();
    nat.insert(names.mark_masq(), vec![Rule::new([], Target::SetMark(options.mark))]);
    nat.insert(names.off_cluster(), off_cluster(state, family, options));
    nat.insert(
        names.services(),
        vec![
            // This machine's own connections would come from the Service's address, which is one of its own.
            Rule::new([Match::SourceLocal, of(Kind::Cluster, "dst,dst")], masquerade()),
            Rule::new([Match::SourceLocal, of(Kind::Local, "dst,dst")], masquerade()),
            Rule::new([of(Kind::Cluster, "dst,dst")], Target::Chain(names.off_cluster())),
            Rule::new([of(Kind::External, "dst,dst")], masquerade()),
        ],
    );
    // A pod that reaches itself through its Service would answer itself directly and not be understood.
    let mut post = vec![Rule::new([of(Kind::Hairpin, "dst,dst,src")], Target::Masquerade)];
    post.extend(postrouting(options));
    nat.insert(names.postrouting(), post);

    let mut filter = filter_chains(state, family, options, Arrival::AsAddressed);
    // A Service's address is an address of this machine: nothing else that listens here is to be reached by it.
    if let Some(refusals) = filter.get_mut(&names.filter()) {
        for kind in [Kind::Cluster, Kind::External, Kind::Local] {
            refusals.push(Rule::new([of(kind, "dst,dst")], Target::Return));
        }
        refusals.push(Rule::new([Match::Protocol(Protocol::Tcp), of(Kind::Addresses, "dst")], Target::Reset));
        refusals.push(Rule::new([of(Kind::Addresses, "dst")], Target::Reject(family)));
    }
    Plan::from_parts(
        family,
        state.generation,
        BTreeMap::from([(Table::Nat, nat), (Table::Filter, filter)]),
        BTreeMap::from([(Table::Nat, nat_jumps(options)), (Table::Filter, filter_jumps(options))]),
        names.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::proxy::{Endpoint, NodeInfo};

    fn web(endpoints: &[u8]) -> ServicePort {
        ServicePort {
            namespace: "a".into(),
            name: "web".into(),
            port_name: "http".into(),
            cluster_ips: vec![[10, 96, 0, 1].into(), "fd00::1".parse().unwrap()],
            port: 80,
            node_port: Some(30080),
            endpoints: endpoints.iter().map(|n| Endpoint { local: *n == 1, ..Endpoint::ready([10, 0, 0, *n], 8080) }).collect(),
            ..ServicePort::default()
        }
    }
    fn state(services: Vec<ServicePort>) -> ProxyState {
        let node = NodeInfo { name: "n".into(), addresses: vec![] };
        ProxyState { generation: 3, services, node, pod_cidrs: vec!["10.0.0.0/16".parse().unwrap()] }
    }
    fn of(services: Vec<ServicePort>) -> Vec<String> {
        let machine = Machine::from(["127.0.0.1", "192.0.2.1"].map(|a| a.parse().unwrap()));
        let wanted = wanted(&state(services), Family::V4, &machine, Scheduler::default());
        wanted.servers.iter().flat_map(|(key, (_, to))| to.iter().map(move |e| format!("{key} -> {e}"))).collect()
    }

    #[test]
    fn cluster_addresses_and_node_ports() {
        assert_eq!(
            of(vec![web(&[1, 2])]),
            [
                "TCP 10.96.0.1:80 -> 10.0.0.1:8080",
                "TCP 10.96.0.1:80 -> 10.0.0.2:8080",
                "TCP 192.0.2.1:30080 -> 10.0.0.1:8080",
                "TCP 192.0.2.1:30080 -> 10.0.0.2:8080"
            ]
        );
        assert_eq!(of(vec![web(&[])]), Vec::<String>::new());
    }

    #[test]
    fn policies_choose_endpoints() {
        let local = ServicePort { external_traffic_policy: TrafficPolicy::Local, ..web(&[1, 2]) };
        assert_eq!(of(vec![local]).len(), 3);
        let elsewhere = ServicePort { external_traffic_policy: TrafficPolicy::Local, ..web(&[2]) };
        assert_eq!(of(vec![elsewhere]), ["TCP 10.96.0.1:80 -> 10.0.0.2:8080"]);
    }

    #[test]
    fn addresses_of_the_machine_stay_where_they_are() {
        let machine = Machine::from(["192.0.2.1".parse().unwrap()]);
        let web = ServicePort { external_ips: vec![[192, 0, 2, 1].into(), [198, 51, 100, 1].into()], ..web(&[1]) };
        let wanted = wanted(&state(vec![web]), Family::V4, &machine, Scheduler::SourceHash);
        assert_eq!(wanted.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.1", "198.51.100.1"]);
        assert!(wanted.servers.values().all(|(s, _)| s.scheduler == "sh"));
    }

    #[test]
    fn rules_do_not_grow_with_services() {
        let count = |services: Vec<ServicePort>| rules(&state(services), Family::V4, &PlanOptions::default()).to_string().lines().count();
        let many = (0..100u8).map(|n| ServicePort { cluster_ips: vec![[10, 96, 1, n].into()], name: format!("s{n}"), ..web(&[1]) });
        assert_eq!(count(many.collect()), count(vec![]));
    }

    #[test]
    fn the_rules() {
        let allowed = ServicePort {
            load_balancer_ips: vec![[198, 51, 100, 7].into()],
            load_balancer_source_ranges: vec!["203.0.113.0/24".parse().unwrap()],
            ..web(&[1])
        };
        let text = rules(&state(vec![allowed]), Family::V4, &PlanOptions::default()).to_string();
        let wanted = [
            "-A WHARF-POSTROUTING -m set --match-set WHARF-HAIRPIN dst,dst,src -j MASQUERADE --random-fully",
            "-A WHARF-SERVICES -m set --match-set WHARF-EXTERNAL dst,dst -j WHARF-MARK-MASQ",
            "-A WHARF-FILTER -m set --match-set WHARF-ADDRESSES dst -j REJECT --reject-with icmp-port-unreachable",
        ];
        for line in wanted {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        let (pass, drop) = (text.find("source allowed\" -j RETURN").unwrap(), text.find("source not allowed\" -j DROP").unwrap());
        assert!(pass < drop, "{text}");
    }
}
