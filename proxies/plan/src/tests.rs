use std::net::Ipv4Addr;

use wharf_core::proxy::{Endpoint, NodeInfo, ProxyState, ServicePort, TrafficPolicy};

use super::*;

fn port(name: &str, octet: u8, endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort {
        namespace: "a".into(),
        name: name.into(),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, octet).into()],
        port: 80,
        endpoints,
        ..ServicePort::default()
    }
}
fn endpoint(octet: u8, local: bool) -> Endpoint {
    Endpoint { local, ..Endpoint::ready([10, 0, 0, octet], 8080) }
}
fn state(generation: u64, services: Vec<ServicePort>) -> ProxyState {
    let node = NodeInfo { name: "n".into(), addresses: vec![] };
    ProxyState { generation, services, node, pod_cidrs: vec!["10.0.0.0/16".parse().unwrap()] }
}
fn plan(state: &ProxyState) -> Plan {
    Plan::new(state, Family::V4, &PlanOptions::default())
}
/// A chain's rules as text.
fn chain(plan: &Plan, table: Table, name: &str) -> Vec<String> {
    plan.tables[&table][name].iter().map(|rule| rule.to_string()).collect()
}
fn names() -> Names {
    Names::default()
}

#[test]
fn an_empty_state_still_has_the_frame() {
    let expected = r#"*nat
-A PREROUTING -m comment --comment "service portals" -j WHARF-SERVICES
-A OUTPUT -m comment --comment "service portals" -j WHARF-SERVICES
-A POSTROUTING -m comment --comment "service masquerading" -j WHARF-POSTROUTING
-A WHARF-GENERATION -m comment --comment "generation 7" -j RETURN
-A WHARF-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A WHARF-OFF-CLUSTER -s 10.0.0.0/16 -j RETURN
-A WHARF-OFF-CLUSTER -j WHARF-MARK-MASQ
-A WHARF-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A WHARF-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A WHARF-POSTROUTING -j MASQUERADE --random-fully
-A WHARF-SERVICES ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -m comment --comment "service node ports - last rule" -j WHARF-NODEPORTS
*filter
-A INPUT -m conntrack --ctstate NEW -m comment --comment "service refusals" -j WHARF-FILTER
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "service refusals" -j WHARF-FILTER
-A FORWARD -m comment --comment "service forwarding" -j WHARF-FORWARD
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "service refusals" -j WHARF-FILTER
-A WHARF-FORWARD -s 10.0.0.0/16 -m conntrack --ctstate INVALID -j DROP
-A WHARF-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A WHARF-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"#;
    assert_eq!(plan(&state(7, vec![])).to_string(), expected);
}

#[test]
fn a_service_spreads_evenly_over_its_endpoints() {
    let web = port("web", 1, vec![endpoint(1, false), endpoint(2, false), endpoint(3, false)]);
    let id = web.id();
    let plan = plan(&state(1, vec![web]));
    let rules = chain(&plan, Table::Nat, &names().service(&id));
    let sep = |octet: u8| names().endpoint(&id, endpoint(octet, false).address());
    assert_eq!(
        rules,
        [
            "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment \"a/web tcp cluster IP\" -j WHARF-OFF-CLUSTER".to_owned(),
            format!(
                "-m statistic --mode random --probability 0.33333333349 -m comment --comment \"a/web tcp -> 10.0.0.1:8080\" -j {}",
                sep(1)
            ),
            format!(
                "-m statistic --mode random --probability 0.50000000000 -m comment --comment \"a/web tcp -> 10.0.0.2:8080\" -j {}",
                sep(2)
            ),
            format!("-m comment --comment \"a/web tcp -> 10.0.0.3:8080\" -j {}", sep(3)),
        ]
    );
    assert_eq!(
        chain(&plan, Table::Nat, &sep(1)),
        [
            "-s 10.0.0.1/32 -m comment --comment \"a/web tcp\" -j WHARF-MARK-MASQ",
            "-p tcp -m comment --comment \"a/web tcp\" -j DNAT --to-destination 10.0.0.1:8080",
        ]
    );
    assert!(chain(&plan, Table::Filter, &names().filter()).is_empty());
}

#[test]
fn affinity_asks_and_notes_the_same_list() {
    let web = ServicePort { session_affinity: Some(60), ..port("web", 1, vec![endpoint(1, false), endpoint(2, false)]) };
    let id = web.id();
    let plan = plan(&state(1, vec![web]));
    let sep = names().endpoint(&id, endpoint(1, false).address());
    let asked = format!("-m recent --rcheck --seconds 60 --reap --name {sep} --mask 255.255.255.255 --rsource -j {sep}");
    let rules = chain(&plan, Table::Nat, &names().service(&id));
    let at = rules.iter().position(|r| *r == asked).unwrap();
    assert!(rules[at..].iter().any(|r| r.contains("statistic")), "affinity is asked before chance");
    assert!(chain(&plan, Table::Nat, &sep)[1].contains(&format!("--set --name {sep} ")));
}

#[test]
fn no_endpoints_are_refused_everywhere() {
    let web = ServicePort { node_port: Some(30080), external_ips: vec![Ipv4Addr::new(192, 0, 2, 1).into()], ..port("web", 1, vec![]) };
    let plan = plan(&state(1, vec![web]));
    let rules = chain(&plan, Table::Filter, &names().filter());
    assert_eq!(
        rules,
        [
            "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment \"a/web tcp has no endpoints\" -j REJECT --reject-with tcp-reset",
            "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -m comment --comment \"a/web tcp has no endpoints\" -j REJECT --reject-with tcp-reset",
            "! -d 127.0.0.0/8 -p tcp -m tcp --dport 30080 -m addrtype --dst-type LOCAL -m comment --comment \"a/web tcp has no endpoints\" -j REJECT --reject-with tcp-reset",
        ]
    );
    assert_eq!(plan.tables[&Table::Nat][&names().services()].len(), 1, "nothing is redirected");
    assert!(plan.tables[&Table::Nat][&names().node_ports()].is_empty());
}

#[test]
fn other_protocols_than_tcp_are_refused_by_icmp() {
    let dns = ServicePort { protocol: wharf_core::runtime::Protocol::Udp, ..port("dns", 1, vec![]) };
    let rules = chain(&plan(&state(1, vec![dns])), Table::Filter, &names().filter());
    assert!(rules[0].ends_with("-j REJECT --reject-with icmp-port-unreachable"));
}

#[test]
fn node_ports_masquerade_under_cluster_policy_only() {
    let web = ServicePort { node_port: Some(30080), ..port("web", 1, vec![endpoint(1, true), endpoint(2, false)]) };
    let id = web.id();
    let cluster = plan(&state(1, vec![web.clone()]));
    assert_eq!(
        chain(&cluster, Table::Nat, &names().node_ports()),
        [format!("-p tcp -m tcp --dport 30080 -m comment --comment \"a/web tcp node port\" -j {}", names().external(&id))]
    );
    assert_eq!(
        chain(&cluster, Table::Nat, &names().external(&id))[0],
        "-m comment --comment \"a/web tcp from outside\" -j WHARF-MARK-MASQ"
    );
    let local = plan(&state(1, vec![ServicePort { external_traffic_policy: TrafficPolicy::Local, ..web }]));
    let rules = chain(&local, Table::Nat, &names().external(&id));
    assert!(rules[..2].iter().all(|r| r.contains("--src-type LOCAL")));
    assert_eq!(rules[2], format!("-j {}", names().service_local(&id)));
    assert_eq!(chain(&local, Table::Nat, &names().service_local(&id)).iter().filter(|r| r.contains("->")).count(), 1);
}

#[test]
fn local_policy_without_local_endpoints_drops() {
    let web = ServicePort {
        node_port: Some(30080),
        external_traffic_policy: TrafficPolicy::Local,
        internal_traffic_policy: TrafficPolicy::Local,
        ..port("web", 1, vec![endpoint(2, false)])
    };
    let plan = plan(&state(1, vec![web]));
    let rules = chain(&plan, Table::Filter, &names().filter());
    assert_eq!(rules.len(), 2);
    assert!(rules.iter().all(|r| r.ends_with("-j DROP") && r.contains("no local endpoints")));
}

#[test]
fn source_ranges_narrow_the_load_balancer_address() {
    let web = ServicePort {
        load_balancer_ips: vec![Ipv4Addr::new(192, 0, 2, 9).into()],
        load_balancer_source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
        ..port("web", 1, vec![endpoint(1, false)])
    };
    let id = web.id();
    let plan = plan(&state(1, vec![web]));
    assert_eq!(chain(&plan, Table::Nat, &names().firewall(&id))[0], format!("-s 198.51.100.0/24 -j {}", names().external(&id)));
    assert_eq!(
        chain(&plan, Table::Filter, &names().filter()),
        ["-d 192.0.2.9/32 -p tcp -m tcp --dport 80 -m comment --comment \"a/web tcp source not allowed\" -j DROP"]
    );
}

#[test]
fn node_addresses_limit_node_ports() {
    let mut state = state(1, vec![]);
    state.node.addresses = vec![Ipv4Addr::new(192, 0, 2, 5).into(), Ipv4Addr::LOCALHOST.into()];
    let rules = chain(&plan(&state), Table::Nat, &names().services());
    assert_eq!(rules.len(), 1);
    assert!(rules[0].starts_with("-d 192.0.2.5/32 "));
}

#[test]
fn families_do_not_mix() {
    let mut web = port("web", 1, vec![endpoint(1, false), Endpoint::ready("fd00::1".parse::<IpAddr>().unwrap(), 8080)]);
    web.cluster_ips.push("fd00:96::1".parse().unwrap());
    let four = plan(&state(1, vec![web.clone()])).to_string();
    assert!(!four.contains("fd00"));
    let six = Plan::new(&state(1, vec![web]), Family::V6, &PlanOptions::default()).to_string();
    assert!(six.contains("--to-destination [fd00::1]:8080") && !six.contains("10.96.0.1"));
}

#[test]
fn a_delta_names_only_what_changed() {
    let (web, api) = (port("web", 1, vec![endpoint(1, false), endpoint(2, false)]), port("api", 2, vec![endpoint(3, false)]));
    let before = plan(&state(1, vec![api.clone(), web.clone()]));
    let installed = Installed::from(&before);
    assert!(before.delta(&installed).is_empty());

    let after = plan(&state(2, vec![api, port("web", 1, vec![endpoint(1, false)])]));
    let delta = after.delta(&installed);
    let nat = &delta.tables[&Table::Nat];
    let written: Vec<_> = nat.write.iter().map(|(chain, _)| chain.clone()).collect();
    assert_eq!(written, [names().generation(), names().service(&web.id())]);
    assert_eq!(nat.delete_chains, [names().endpoint(&web.id(), endpoint(2, false).address())]);
    assert!(!delta.tables.contains_key(&Table::Filter));
}

#[test]
fn drift_and_missing_jumps_are_repaired() {
    let plan = plan(&state(1, vec![port("web", 1, vec![endpoint(1, false)])]));
    let mut installed = Installed::from(&plan);
    installed.chains.get_mut(&(Table::Nat, names().services())).unwrap().remove(0);
    installed.jumps.get_mut(&Table::Nat).unwrap().retain(|(from, _)| from != "OUTPUT");
    installed.jumps.get_mut(&Table::Filter).unwrap().push(("INPUT".into(), "-j WHARF-FILTER".into()));
    let delta = plan.delta(&installed);
    assert_eq!(delta.tables[&Table::Nat].write.len(), 1);
    assert_eq!(delta.tables[&Table::Nat].insert_jumps[0].0, "OUTPUT");
    assert_eq!(delta.tables[&Table::Filter].delete_rules, [("INPUT".to_owned(), "-j WHARF-FILTER".to_owned())]);
}

#[test]
fn reads_its_own_output_and_nothing_else() {
    let web = port("web", 1, vec![endpoint(1, false)]);
    let plan = plan(&state(3, vec![web.clone(), port("none", 2, vec![])]));
    let foreign = "*nat\n:DOCKER - [0:0]\n:WHARF-NET-ABC - [0:0]\n-A PREROUTING -j DOCKER\n-A DOCKER -j RETURN\nCOMMIT\n*mangle\n:WHARF-SERVICES - [0:0]\n";
    let mut installed = Installed::default();
    installed.read(&format!("{foreign}{plan}"), &names());
    assert!(
        plan.delta(&installed).tables[&Table::Nat].write.iter().all(|(_, rules)| rules.is_empty()),
        "only undeclared empty chains differ"
    );
    let observed = observe(&installed, &names());
    assert_eq!(observed.generation, Some(3));
    assert_eq!(observed.services.len(), 2);
    assert_eq!(observed.services[0].id.name, "none");
    assert!(observed.services[0].endpoints.is_empty());
    assert_eq!(observed.services[1].id, web.id());
    assert_eq!(observed.services[1].endpoints, [endpoint(1, false).address()]);
    assert!(!installed.removal().tables[&Table::Nat].delete_chains.iter().any(|c| c.contains("DOCKER") || c.contains("NET")));
}

#[test]
fn hostile_names_stay_inside_their_comment() {
    let mut web = port("web", 1, vec![endpoint(1, false)]);
    web.name = "x\" -j ACCEPT\nCOMMIT\n*nat\n-F ".into();
    let text = plan(&state(1, vec![web])).to_string();
    assert!(!text.contains("-F\n") && !text.lines().any(|l| l.starts_with("COMMIT") || l.starts_with("-F")));
    assert!(!text.contains("\" -j ACCEPT\n"));
}

#[test]
fn names_fit_and_are_recognised() {
    let id = port("web", 1, vec![]).id();
    let longest = Names::with_prefix("ABCDEFG").unwrap();
    assert!(longest.service(&id).len() <= 28);
    assert!(longest.owns(&longest.endpoint(&id, endpoint(1, false).address())));
    assert!(!names().owns(&longest.services()) && !names().owns("WHARF-SVC-short") && !names().owns("WHARF-NET-AAAAAAAAAAAAAAAA"));
    assert_eq!(Names::with_prefix("TOOLONGX"), None);
    assert_eq!(Names::with_prefix("A B"), None);
    assert_eq!(names().service(&id), names().service(&id));
    assert_ne!(names().service(&id), names().service(&port("web2", 1, vec![]).id()));
}
