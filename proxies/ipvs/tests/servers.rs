//! What is IPVS' own: weights, schedulers, virtual servers of others, what is left behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

mod lab;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lab::{Lab, POD_PORT, ask_tcp, ask_udp};
use wharf_core::clock::ManualClock;
use wharf_core::proxy::{Endpoint, NetworkProxy, NodeInfo, Observed, ProxyState, ServicePort, TrafficPolicy};
use wharf_core::runtime::Protocol;
use wharf_proxy_ipvs::{IpvsProxy, Scheduler};

const CLUSTER: &str = "10.96.0.10:80";
const NODE: &str = "192.0.2.1:30080";

async fn lab(test: &str) -> Option<Lab> {
    if lab::can(test).is_err() { None } else { Some(Lab::new().await) }
}

fn web(pods: &[u8]) -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "web".into(),
        port_name: "http".into(),
        cluster_ips: vec![[10, 96, 0, 10].into()],
        port: 80,
        node_port: Some(30080),
        endpoints: pods.iter().map(|p| Endpoint { local: true, ..Endpoint::ready([10, 77, *p, 2], POD_PORT) }).collect(),
        ..ServicePort::default()
    }
}

fn state(generation: u64, services: Vec<ServicePort>) -> ProxyState {
    let node = NodeInfo { name: "n".into(), addresses: vec![] };
    ProxyState { generation, services, node, pod_cidrs: vec!["10.77.0.0/16".parse().unwrap()] }
}

impl Lab {
    fn servers(&self) -> String {
        self.run("ipvsadm -Sn").unwrap()
    }
    async fn pod(&self, from: &str, to: &str) -> usize {
        let to: SocketAddr = to.parse().unwrap();
        self.within(from, move || ask_tcp(to).unwrap().1.0).await
    }
}

#[tokio::test]
async fn open_connections_keep_an_endpoint_that_leaves_until_its_time_is_over() {
    let Some(lab) = lab("proxy.ipvs.drain").await else { return };
    let clock = Arc::new(ManualClock::default());
    let proxy = lab.builder().clock(clock.clone()).drain(Duration::from_secs(60)).build().unwrap();
    proxy.apply(&state(1, vec![web(&[0])])).await.unwrap();
    let to: SocketAddr = CLUSTER.parse().unwrap();
    let (mut open, (pod, _)) = lab.within("c", move || ask_tcp(to).unwrap()).await;
    assert_eq!(pod, 0);

    proxy.apply(&state(2, vec![web(&[1])])).await.unwrap();
    assert!(lab.servers().contains("-a -t 10.96.0.10:80 -r 10.77.0.2:8080 -m -w 0"), "{}", lab.servers());
    assert!(!lab.servers().contains("-t 192.0.2.1:30080 -r 10.77.0.2"), "without a connection it goes at once: {}", lab.servers());
    assert_eq!(lab.pod("c", CLUSTER).await, 1);
    let mut echo = [0u8; 4];
    open.write_all(b"echo").unwrap();
    open.read_exact(&mut echo).unwrap();
    let observed = proxy.observe().await.unwrap();
    assert_eq!(observed.services[0].endpoints, ["10.77.1.2:8080".parse::<SocketAddr>().unwrap()]);

    // Even with no endpoint left.
    proxy.apply(&state(3, vec![web(&[])])).await.unwrap();
    open.write_all(b"echo").unwrap();
    open.read_exact(&mut echo).unwrap();
    let refused = lab.within("c", move || ask_tcp(to)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // It stays as long as it has time, and no longer.
    clock.advance(Duration::from_secs(59));
    proxy.apply(&state(3, vec![web(&[])])).await.unwrap();
    assert!(lab.servers().contains("10.77.0.2:8080 -m -w 0"), "{}", lab.servers());
    clock.advance(Duration::from_secs(1));
    proxy.apply(&state(3, vec![web(&[])])).await.unwrap();
    assert!(!lab.servers().contains("10.77.0.2"), "{}", lab.servers());
}

#[tokio::test]
async fn an_endpoint_that_comes_back_gets_traffic_again() {
    let Some(lab) = lab("proxy.ipvs.back").await else { return };
    let proxy = lab.builder().build().unwrap();
    proxy.apply(&state(1, vec![web(&[0])])).await.unwrap();
    let to: SocketAddr = CLUSTER.parse().unwrap();
    let _open = lab.within("c", move || ask_tcp(to).unwrap()).await;
    proxy.apply(&state(2, vec![web(&[1])])).await.unwrap();
    proxy.apply(&state(3, vec![web(&[0])])).await.unwrap();
    assert_eq!(lab.pod("c", CLUSTER).await, 0);
}

#[tokio::test]
async fn virtual_servers_of_others_stay() {
    let Some(lab) = lab("proxy.ipvs.foreign").await else { return };
    for line in ["-A -t 203.0.113.9:80 -s lc", "-a -t 203.0.113.9:80 -r 10.77.0.2:8080 -m", "-A -f 7 -s rr", "-A -u 192.0.2.1:53 -s rr"] {
        lab.run(&format!("ipvsadm {line}")).unwrap();
    }
    lab.run("ipset create STRANGER hash:ip").unwrap();
    let before = lab.installed().await;
    let proxy = lab.builder().build().unwrap();
    proxy.teardown().await.unwrap();
    assert_eq!(lab.installed().await, before);
    for (generation, pods) in [(1, &[0u8][..]), (2, &[]), (3, &[1, 2])] {
        proxy.apply(&state(generation, vec![web(pods)])).await.unwrap();
        for line in ["-A -t 203.0.113.9:80 -s lc", "-a -t 203.0.113.9:80 -r 10.77.0.2:8080", "-A -f 7 -s rr", "-A -u 192.0.2.1:53 -s rr"] {
            assert!(lab.servers().contains(line), "{line} in {}", lab.servers());
        }
    }
    lab.builder().build().unwrap().teardown().await.unwrap();
    assert_eq!(lab.installed().await, before, "a later process leaves no trace");
    assert_eq!(proxy.observe().await.unwrap(), Observed::default());
}

#[tokio::test]
async fn what_somebody_changed_is_repaired() {
    let Some(lab) = lab("proxy.ipvs.repair").await else { return };
    let proxy = lab.builder().build().unwrap();
    let wanted = state(1, vec![ServicePort { session_affinity: Some(600), ..web(&[0, 1]) }]);
    proxy.apply(&wanted).await.unwrap();
    let installed = lab.installed().await;
    assert!(!proxy.apply(&wanted).await.unwrap().changed(), "what was written reads back as the same");
    for line in [
        "ipvsadm -E -t 10.96.0.10:80 -s lc",
        "ipvsadm -e -t 10.96.0.10:80 -r 10.77.0.2:8080 -m -w 7",
        "ipvsadm -d -t 10.96.0.10:80 -r 10.77.1.2:8080",
        "ipvsadm -a -t 10.96.0.10:80 -r 10.77.9.9:8080 -m",
        "ipvsadm -D -t 192.0.2.1:30080",
        "ip addr del 10.96.0.10/32 dev wharf-ipvs0",
        "ip addr add 10.96.0.99/32 dev wharf-ipvs0",
        "ipset flush WHARF-CLUSTER",
        "iptables -t nat -F WHARF-SERVICES",
        "sysctl -qw net.ipv4.vs.conntrack=0",
    ] {
        lab.run(line).unwrap();
    }
    assert!(proxy.apply(&wanted).await.unwrap().changed());
    assert_eq!(lab.installed().await, installed);
    // The interface itself, too.
    lab.run("ip link del wharf-ipvs0").unwrap();
    proxy.apply(&wanted).await.unwrap();
    assert_eq!(lab.pod("p2", CLUSTER).await, lab.pod("p2", CLUSTER).await);
}

#[tokio::test]
async fn every_scheduler_serves() {
    let Some(lab) = lab("proxy.ipvs.schedulers").await else { return };
    let all = [Scheduler::RoundRobin, Scheduler::WeightedRoundRobin, Scheduler::LeastConnections, Scheduler::SourceHash];
    for (generation, scheduler) in (1..).zip(all) {
        let proxy = lab.builder().scheduler(scheduler).build().unwrap();
        proxy.apply(&state(generation, vec![web(&[0, 1, 2])])).await.unwrap();
        assert!(lab.servers().contains(&format!("-A -t 10.96.0.10:80 -s {}", scheduler.name())), "{}", lab.servers());
        let mut seen = std::collections::BTreeSet::new();
        let mut open = Vec::new();
        for _ in 0..6 {
            let to: SocketAddr = CLUSTER.parse().unwrap();
            let (stream, (pod, _)) = lab.within("c", move || ask_tcp(to).unwrap()).await;
            open.push(stream);
            seen.insert(pod);
        }
        let wanted = if scheduler == Scheduler::SourceHash { 1 } else { 3 };
        assert_eq!(seen.len(), wanted, "{scheduler:?}: {seen:?}");
    }
}

#[tokio::test]
async fn no_connection_is_lost_while_endpoints_change() {
    let Some(lab) = lab("proxy.ipvs.no_loss").await else { return };
    let proxy = lab.builder().build().unwrap();
    proxy.apply(&state(1, vec![web(&[0])])).await.unwrap();
    let changes = async {
        for round in 0..8u64 {
            let pods: &[u8] = [&[1u8][..], &[1, 2], &[0, 2], &[0]][round as usize % 4];
            proxy.apply(&state(2 + round, vec![web(pods)])).await.unwrap();
        }
    };
    let mut changes = std::pin::pin!(changes);
    let mut answered = 0;
    loop {
        tokio::select! {
            () = &mut changes => break,
            _ = lab.pod("c", CLUSTER) => answered += 1,
        }
    }
    assert!(answered > 0);
}

#[tokio::test]
async fn udp_flows_move_when_their_endpoint_goes() {
    let Some(lab) = lab("proxy.ipvs.udp").await else { return };
    let dns = |pods: &[u8]| ServicePort { protocol: Protocol::Udp, port_name: "dns".into(), port: 53, node_port: None, ..web(pods) };
    let proxy = lab.builder().build().unwrap();
    proxy.apply(&state(1, vec![dns(&[0])])).await.unwrap();
    let to: SocketAddr = "10.96.0.10:53".parse().unwrap();
    assert_eq!(lab.within("c", move || ask_udp(to).unwrap().0).await, 0);
    proxy.apply(&state(2, vec![dns(&[1])])).await.unwrap();
    assert_eq!(lab.within("c", move || ask_udp(to).unwrap().0).await, 1);
}

#[tokio::test]
async fn the_local_policy_leaves_other_nodes_and_keeps_the_source() {
    let Some(lab) = lab("proxy.ipvs.local").await else { return };
    let mut web = web(&[0, 1]);
    web.external_traffic_policy = TrafficPolicy::Local;
    web.endpoints[1].local = false;
    lab.builder().build().unwrap().apply(&state(1, vec![web])).await.unwrap();
    let to: SocketAddr = NODE.parse().unwrap();
    for _ in 0..4 {
        let (pod, source) = lab.within("c", move || ask_tcp(to).unwrap().1).await;
        assert_eq!((pod, source.to_string().as_str()), (0, "192.0.2.2"));
    }
}

#[tokio::test]
async fn a_program_of_the_node_is_not_reached_by_a_services_address() {
    let Some(lab) = lab("proxy.ipvs.exposure").await else { return };
    let _listener = lab.within("n", || std::net::TcpListener::bind("0.0.0.0:9999").unwrap()).await;
    lab.builder().build().unwrap().apply(&state(1, vec![web(&[0])])).await.unwrap();
    let error = lab.within("c", || ask_tcp("10.96.0.10:9999".parse().unwrap())).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn both_families_read_back_what_they_write() {
    let Some(lab) = lab("proxy.ipvs.ipv6").await else { return };
    let before = lab.installed().await;
    let proxy = lab.builder().ipv6(true).strict_arp(true).build().unwrap();
    let mut web = ServicePort { session_affinity: Some(60), ..web(&[0]) };
    web.cluster_ips.push("fd00:96::1".parse().unwrap());
    web.endpoints.push(Endpoint::ready("fd00:77::1".parse::<std::net::IpAddr>().unwrap(), POD_PORT));
    let none = ServicePort { name: "none".into(), cluster_ips: vec!["fd00:96::2".parse().unwrap()], ..self::web(&[]) };
    let full = state(1, vec![none, web]);
    assert!(proxy.apply(&full).await.unwrap().changed());
    let again = proxy.apply(&full).await.unwrap();
    assert!(!again.changed(), "{again:?}");
    let observed = proxy.observe().await.unwrap();
    assert_eq!(observed.services.iter().map(|s| s.endpoints.len()).collect::<Vec<_>>(), [0, 2]);
    assert!(lab.servers().contains("-a -t [fd00:96::1]:80 -r [fd00:77::1]:8080 -m -w 1"), "{}", lab.servers());
    proxy.teardown().await.unwrap();
    assert_eq!(lab.installed().await, before);
}

/// Runs everywhere: what a machine without IPVS is told.
#[test]
fn a_kernel_without_ipvs_is_told_what_would_help() {
    if let Err(error) = IpvsProxy::detect() {
        let text = error.to_string();
        assert!(matches!(error, wharf_core::proxy::ProxyError::Missing { .. }) && text.contains("iptables"), "{text}");
    }
}
