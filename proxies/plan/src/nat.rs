//! The nat table: who goes where.

use std::net::IpAddr;

use ipnet::IpNet;
use wharf_core::proxy::{Endpoint, ProxyState, ServicePort, ServicePortId, TrafficPolicy};

use crate::rule::{Family, Match, Rule, Target, lower};
use crate::{Chains, Jump, Names, PlanOptions, of_family};

/// How a comment names a Service port; [`crate::observe`] reads it back.
pub(crate) fn label(id: &ServicePortId) -> String {
    format!("{id} {}", lower(id.protocol))
}

/// The comment that keeps the generation, without the number.
pub(crate) const GENERATION: &str = "generation ";
/// What follows the label in the comment of a cluster address' rule.
pub(crate) const CLUSTER_IP: &str = "cluster IP";

/// From the built-in chains into the proxy's.
pub fn jumps(options: &PlanOptions) -> Vec<Jump> {
    let names = &options.names;
    let jump = |from, text: &str, to| Jump { from, rule: Rule::new([Match::Comment(text.into())], Target::Chain(to)) };
    vec![
        jump("PREROUTING", "service portals", names.services()),
        jump("OUTPUT", "service portals", names.services()),
        jump("POSTROUTING", "service masquerading", names.postrouting()),
    ]
}

pub(crate) fn chains(state: &ProxyState, family: Family, options: &PlanOptions) -> Chains {
    let names = &options.names;
    let mut chains = Chains::new();
    chains.insert(names.mark_masq(), vec![Rule::new([], Target::SetMark(options.mark))]);
    chains.insert(names.postrouting(), postrouting(options));
    chains.insert(names.generation(), vec![generation(state.generation)]);
    chains.insert(names.off_cluster(), off_cluster(state, family, options));

    let (mut services, mut node_ports) = (Vec::new(), Vec::new());
    for port in &state.services {
        service_port(port, family, options, &mut chains, &mut services, &mut node_ports);
    }
    services.extend(to_node_ports(state, family, names));
    chains.insert(names.services(), services);
    chains.insert(names.node_ports(), node_ports);
    chains
}

/// Masquerades what is marked.
pub fn postrouting(options: &PlanOptions) -> Vec<Rule> {
    vec![
        Rule::new([Match::NotMark(options.mark)], Target::Return),
        // A packet may pass here again after it was encapsulated: then it needs no second masquerading.
        Rule::new([], Target::FlipMark(options.mark)),
        Rule::new([], Target::Masquerade),
    ]
}

/// Keeps the generation.
pub fn generation(generation: u64) -> Rule {
    Rule::new([Match::Comment(format!("{GENERATION}{generation}"))], Target::Return)
}

/// Traffic to a cluster address that no pod sent: the answer finds back only if this node is its source.
pub fn off_cluster(state: &ProxyState, family: Family, options: &PlanOptions) -> Vec<Rule> {
    let masquerade = Rule::new([], Target::Chain(options.names.mark_masq()));
    if options.masquerade_all {
        return vec![masquerade];
    }
    let pods = state.pod_cidrs.iter().filter(|c| family.is_of(c.network()));
    let mut rules: Vec<_> = pods.map(|c| Rule::new([Match::Source(*c)], Target::Return)).collect();
    if !rules.is_empty() {
        rules.push(masquerade);
    }
    rules
}

/// Node ports come last, so that a Service address of this machine is matched as such. Not on loopback: the answer to a
/// masqueraded loopback source would need route_localnet, which opens loopback services to neighbours.
fn to_node_ports(state: &ProxyState, family: Family, names: &Names) -> Vec<Rule> {
    let comment = Match::Comment("service node ports - last rule".into());
    let target = Target::Chain(names.node_ports());
    if state.node.addresses.is_empty() {
        let matches = [Match::NotDestination(family.loopback()), Match::DestinationLocal, comment];
        return vec![Rule::new(matches, target)];
    }
    let own = of_family(&state.node.addresses, family).filter(|a| !a.is_loopback());
    own.map(|a| Rule::new([Match::Destination(IpNet::from(a)), comment.clone()], target.clone())).collect()
}

fn service_port(
    port: &ServicePort,
    family: Family,
    options: &PlanOptions,
    chains: &mut Chains,
    services: &mut Vec<Rule>,
    node_ports: &mut Vec<Rule>,
) {
    let names = &options.names;
    let id = port.id();
    let label = label(&id);
    let all = in_family(port.cluster_endpoints(), family);
    let local = in_family(port.local_endpoints(), family);
    let chosen = |policy| if policy == TrafficPolicy::Local { (names.service_local(&id), &local) } else { (names.service(&id), &all) };
    let to = |address: IpAddr, what: &str, chain: String| {
        let comment = Match::Comment(format!("{label} {what}"));
        Rule::new([Match::Destination(IpNet::from(address)), Match::Port(port.protocol, port.port), comment], Target::Chain(chain))
    };

    // It exists even when nothing jumps to it: it is how an observer learns of the Service port.
    chains.insert(names.service(&id), balance(port, &id, &all, family, options));
    let has_external = port.is_external() && !all.is_empty();
    let internal_local = port.internal_traffic_policy == TrafficPolicy::Local;
    let external_local = has_external && port.external_traffic_policy == TrafficPolicy::Local;
    if !local.is_empty() && (internal_local || external_local) {
        chains.insert(names.service_local(&id), balance(port, &id, &local, family, options));
    }
    for endpoint in all.iter().chain(&local) {
        chains.entry(names.endpoint(&id, endpoint.address())).or_insert_with(|| endpoint_chain(port, &id, endpoint, &label, names));
    }

    let (internal_chain, internal_endpoints) = chosen(port.internal_traffic_policy);
    if !internal_endpoints.is_empty() {
        services.extend(of_family(&port.cluster_ips, family).map(|ip| to(ip, CLUSTER_IP, internal_chain.clone())));
    }
    if !has_external {
        return;
    }
    let external = names.external(&id);
    chains.insert(external.clone(), external_chain(&id, &label, external_local, !local.is_empty(), options));
    services.extend(of_family(&port.external_ips, family).map(|ip| to(ip, "external IP", external.clone())));
    let mut balancer_chain = external.clone();
    if !port.load_balancer_source_ranges.is_empty() && of_family(&port.load_balancer_ips, family).next().is_some() {
        balancer_chain = names.firewall(&id);
        let ranges = port.load_balancer_source_ranges.iter().filter(|r| family.is_of(r.network()));
        // Whoever is not listed falls through, to be dropped in the filter table.
        let mut rules: Vec<_> = ranges.map(|r| Rule::new([Match::Source(*r)], Target::Chain(external.clone()))).collect();
        rules.push(Rule::new([Match::Comment(format!("{label} others are dropped by the filter table"))], Target::Return));
        chains.insert(balancer_chain.clone(), rules);
    }
    services.extend(of_family(&port.load_balancer_ips, family).map(|ip| to(ip, "load balancer IP", balancer_chain.clone())));
    if let Some(number) = port.node_port {
        let matches = [Match::Port(port.protocol, number), Match::Comment(format!("{label} node port"))];
        node_ports.push(Rule::new(matches, Target::Chain(external)));
    }
}

fn in_family(endpoints: Vec<&Endpoint>, family: Family) -> Vec<&Endpoint> {
    endpoints.into_iter().filter(|e| family.is_of(e.ip)).collect()
}

/// Traffic from outside. Under the Cluster policy it may leave by another node, so that it must come back through this one.
/// Under Local the client's address is kept, except for pods and this machine itself, who count as inside.
fn external_chain(id: &ServicePortId, label: &str, only_local: bool, has_local: bool, options: &PlanOptions) -> Vec<Rule> {
    let names = &options.names;
    let comment = |text: &str| Match::Comment(format!("{label} {text}"));
    let cluster = Target::Chain(names.service(id));
    let masquerade = Target::Chain(names.mark_masq());
    if !only_local {
        return vec![Rule::new([comment("from outside")], masquerade), Rule::new([], cluster)];
    }
    let mut rules = vec![
        Rule::new([Match::SourceLocal, comment("from this machine")], masquerade),
        Rule::new([Match::SourceLocal, comment("from this machine")], cluster),
    ];
    if has_local {
        rules.push(Rule::new([], Target::Chain(names.service_local(id))));
    }
    rules
}

/// Spreads new connections evenly: the first of n gets one in n, the next one in n-1 of the rest, the last all that is left.
fn balance(port: &ServicePort, id: &ServicePortId, endpoints: &[&Endpoint], family: Family, options: &PlanOptions) -> Vec<Rule> {
    let names = &options.names;
    let label = label(id);
    if endpoints.is_empty() {
        return vec![Rule::new([Match::Comment(format!("{label} has no endpoints"))], Target::Return)];
    }
    let mut rules: Vec<_> = of_family(&port.cluster_ips, family)
        .map(|ip| {
            let comment = Match::Comment(format!("{label} {CLUSTER_IP}"));
            let matches = [Match::Destination(IpNet::from(ip)), Match::Port(port.protocol, port.port), comment];
            Rule::new(matches, Target::Chain(names.off_cluster()))
        })
        .collect();
    if let Some(seconds) = port.session_affinity.filter(|_| family == Family::V4) {
        rules.extend(endpoints.iter().map(|endpoint| {
            let chain = names.endpoint(id, endpoint.address());
            Rule::new([Match::Recent(chain.clone(), seconds)], Target::Chain(chain))
        }));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let left = u32::try_from(endpoints.len() - at).unwrap_or(u32::MAX);
        let mut matches = Vec::new();
        if left > 1 {
            matches.push(Match::OneIn(left));
        }
        matches.push(Match::Comment(format!("{label} -> {}", endpoint.address())));
        rules.push(Rule::new(matches, Target::Chain(names.endpoint(id, endpoint.address()))));
    }
    rules
}

fn endpoint_chain(port: &ServicePort, id: &ServicePortId, endpoint: &Endpoint, label: &str, names: &Names) -> Vec<Rule> {
    let comment = Match::Comment(label.to_owned());
    let mut dnat = vec![Match::Protocol(port.protocol), comment.clone()];
    if port.session_affinity.is_some() && endpoint.ip.is_ipv4() {
        dnat.push(Match::Note(names.endpoint(id, endpoint.address())));
    }
    vec![
        // A pod that reaches itself through its Service would answer itself directly and not be understood.
        Rule::new([Match::Source(IpNet::from(endpoint.ip)), comment], Target::Chain(names.mark_masq())),
        Rule::new(dnat, Target::Dnat(endpoint.address())),
    ]
}
