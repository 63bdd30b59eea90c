//! The filter table: what found no endpoint is refused or dropped, and Service traffic is let through.

use std::net::IpAddr;

use ipnet::IpNet;
use wharf_core::proxy::{Endpoint, ProxyState, ServicePort, TrafficPolicy};
use wharf_core::runtime::Protocol;

use crate::nat::label;
use crate::rule::{Family, Match, Rule, Target};
use crate::{Chains, Jump, PlanOptions, of_family};

/// From the built-in chains into the proxy's.
pub fn jumps(options: &PlanOptions) -> Vec<Jump> {
    let names = &options.names;
    // Only first packets: an open connection is never cut.
    let refusals = |from| {
        let matches = [Match::State("NEW"), Match::Comment("service refusals".into())];
        Jump { from, rule: Rule::new(matches, Target::Chain(names.filter())) }
    };
    let forward = Rule::new([Match::Comment("service forwarding".into())], Target::Chain(names.forward()));
    vec![refusals("INPUT"), refusals("FORWARD"), Jump { from: "FORWARD", rule: forward }, refusals("OUTPUT")]
}

/// With which destination a packet for a Service that has endpoints comes to the filter table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// With that of an endpoint: the nat table was there before.
    Redirected,
    /// With the Service's own.
    AsAddressed,
}

/// The chains of the filter table.
pub fn chains(state: &ProxyState, family: Family, options: &PlanOptions, arrival: Arrival) -> Chains {
    let mut refusals = Vec::new();
    for port in &state.services {
        service_port(port, family, arrival, &mut refusals);
    }
    // An answer that conntrack does not know would leave with the pod's own address, and the client would reset.
    let mut forward: Vec<_> = state
        .pod_cidrs
        .iter()
        .filter(|c| family.is_of(c.network()))
        .map(|c| Rule::new([Match::Source(*c), Match::State("INVALID")], Target::Drop))
        .collect();
    forward.push(Rule::new([Match::Mark(options.mark)], Target::Accept));
    forward.push(Rule::new([Match::State("RELATED,ESTABLISHED")], Target::Accept));
    Chains::from([(options.names.filter(), refusals), (options.names.forward(), forward)])
}

/// What a policy does with traffic that it has no endpoint for: refused if there is none anywhere, dropped if only other nodes have one.
fn verdict(port: &ServicePort, policy: TrafficPolicy, family: Family) -> Option<(Target, &'static str)> {
    let any = |endpoints: Vec<_>| endpoints.into_iter().any(|e: &Endpoint| family.is_of(e.ip));
    if !any(port.cluster_endpoints()) {
        Some((if port.protocol == Protocol::Tcp { Target::Reset } else { Target::Reject(family) }, "has no endpoints"))
    } else if policy == TrafficPolicy::Local && !any(port.local_endpoints()) {
        Some((Target::Drop, "has no local endpoints"))
    } else {
        None
    }
}

fn service_port(port: &ServicePort, family: Family, arrival: Arrival, rules: &mut Vec<Rule>) {
    let label = label(&port.id());
    let to = |address: IpAddr, target: &Target, why: &str| {
        let comment = Match::Comment(format!("{label} {why}"));
        Rule::new([Match::Destination(IpNet::from(address)), Match::Port(port.protocol, port.port), comment], target.clone())
    };
    if let Some((target, why)) = verdict(port, port.internal_traffic_policy, family) {
        rules.extend(of_family(&port.cluster_ips, family).map(|ip| to(ip, &target, why)));
    }
    // Before the refusals: who is not allowed learns nothing about endpoints.
    if !port.load_balancer_source_ranges.is_empty() {
        rules.extend(of_family(&port.load_balancer_ips, family).flat_map(|ip| {
            let passed = (arrival == Arrival::AsAddressed).then_some((Target::Return, "source allowed"));
            let refused = verdict(port, port.external_traffic_policy, family).or(passed);
            let allowed = port.load_balancer_source_ranges.iter().filter(move |r| family.is_of(r.network()));
            let mut out: Vec<_> = refused
                .into_iter()
                .flat_map(|(target, why)| {
                    let to = &to;
                    allowed.clone().map(move |range| {
                        let mut rule = to(ip, &target, why);
                        rule.matches.insert(0, Match::Source(*range));
                        rule
                    })
                })
                .collect();
            out.push(to(ip, &Target::Drop, "source not allowed"));
            out
        }));
    }
    let Some((target, why)) = verdict(port, port.external_traffic_policy, family) else { return };
    rules.extend(of_family(&port.external_ips, family).map(|ip| to(ip, &target, why)));
    if port.load_balancer_source_ranges.is_empty() {
        rules.extend(of_family(&port.load_balancer_ips, family).map(|ip| to(ip, &target, why)));
    }
    if let Some(number) = port.node_port {
        let comment = Match::Comment(format!("{label} {why}"));
        let matches = [Match::NotDestination(family.loopback()), Match::Port(port.protocol, number), Match::DestinationLocal, comment];
        rules.push(Rule::new(matches, target));
    }
}
