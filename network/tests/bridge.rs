//! The bridge network with real interfaces, in network namespaces of the test's own.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wharf_core::proxy::{Endpoint, NetworkProxy, ProxyState, ServicePort};
use wharf_core::runtime::{PodNetwork, PodNetworkConfig, PortMapping, Protocol};
use wharf_core::testing::omit;
use wharf_netfilter::in_netns;
use wharf_network::BridgeNetwork;
use wharf_proxy_iptables::IptablesProxy;

const PATIENCE: Duration = Duration::from_secs(2);
const BRIDGE: &str = "wharftest7";

struct Lab {
    tag: String,
    state: tempfile::TempDir,
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split_whitespace()).output().is_ok_and(|o| o.status.success())
}

impl Lab {
    /// A machine `n` with an uplink to `c`, and two sandboxes without interfaces.
    fn new(test: &str, tag: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            omit(test, "it needs root for network namespaces");
            return None;
        }
        if let Err(error) = IptablesProxy::detect() {
            omit(test, &error.to_string());
            return None;
        }
        if !ip("-V") {
            omit(test, "the program `ip` is missing");
            return None;
        }
        let lab = Self { tag: format!("wnt{}{tag}", std::process::id()), state: tempfile::tempdir().unwrap() };
        for part in ["n", "c", "a", "b"] {
            assert!(ip(&format!("netns add {}", lab.name(part))));
        }
        let (n, c) = (lab.name("n"), lab.name("c"));
        for line in [
            format!("-n {n} link set lo up"),
            format!("-n {n} link add up0 type veth peer name eth0 netns {c}"),
            format!("-n {n} addr add 192.0.2.1/24 dev up0"),
            format!("-n {n} link set up0 up"),
            format!("-n {c} addr add 192.0.2.2/24 dev eth0"),
            format!("-n {c} link set eth0 up"),
            format!("-n {c} link set lo up"),
            format!("-n {n} route add default via 192.0.2.2"),
        ] {
            assert!(ip(&line), "{line}");
        }
        Some(lab)
    }
    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.tag)
    }
    fn path(&self, part: &str) -> PathBuf {
        Path::new("/var/run/netns").join(self.name(part))
    }
    fn network(&self) -> BridgeNetwork {
        BridgeNetwork::builder(Ipv4Addr::new(10, 99, 0, 0), 24, self.state.path()).bridge(BRIDGE).netns(self.path("n")).build().unwrap()
    }
    fn config(&self, part: &str) -> PodNetworkConfig {
        PodNetworkConfig::new(part, "default", part, self.path(part))
    }
    fn inside(&self, part: &str, line: &str) -> String {
        let output = Command::new("ip").args(["netns", "exec", &self.name(part)]).args(line.split_whitespace()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
    fn rules(&self) -> String {
        let saved = self.inside("n", "iptables-save -t nat") + &self.inside("n", "iptables-save -t filter");
        saved.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{}\n", l.split(" [").next().unwrap())).collect()
    }
    /// Serves TCP: answers with the address that the client is seen under.
    async fn serve(&self, part: &str, port: u16) {
        let listener = in_netns(Some(self.path(part)), move || TcpListener::bind(("0.0.0.0", port)).unwrap()).await.unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = write!(stream, "{}", from.ip());
            }
        });
    }
    async fn ask(&self, part: &str, to: SocketAddr) -> std::io::Result<IpAddr> {
        let ask = move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut seen = String::new();
            stream.read_to_string(&mut seen)?;
            seen.parse().map_err(std::io::Error::other)
        };
        in_netns(Some(self.path(part)), ask).await.unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for part in ["n", "c", "a", "b"] {
            ip(&format!("netns del {}", self.name(part)));
        }
    }
}

#[tokio::test]
async fn pods_reach_each_other_their_machine_and_the_world() {
    let Some(lab) = Lab::new("network.bridge.reach", "r") else { return };
    let network = lab.network();
    network.ready().await.unwrap();
    let a = network.setup(&lab.config("a")).await.unwrap().ips[0];
    let b = network.setup(&lab.config("b")).await.unwrap().ips[0];
    assert_eq!((a, b), (IpAddr::from([10, 99, 0, 2]), IpAddr::from([10, 99, 0, 3])));
    assert_eq!(network.setup(&lab.config("a")).await.unwrap().ips, [a], "the same again");
    for part in ["a", "b", "c", "n"] {
        lab.serve(part, 80).await;
    }
    assert_eq!(lab.ask("a", SocketAddr::new(b, 80)).await.unwrap(), a);
    assert_eq!(lab.ask("a", "127.0.0.1:80".parse().unwrap()).await.unwrap(), IpAddr::from([127, 0, 0, 1]));
    assert_eq!(lab.ask("n", SocketAddr::new(a, 80)).await.unwrap(), IpAddr::V4(network.gateway()));
    assert_eq!(lab.ask("a", SocketAddr::new(network.gateway().into(), 80)).await.unwrap(), a);
    // The world knows only the machine.
    assert_eq!(lab.ask("a", "192.0.2.2:80".parse().unwrap()).await.unwrap(), IpAddr::from([192, 0, 2, 1]));
}

#[tokio::test]
async fn services_work_between_pods_of_one_bridge() {
    let Some(lab) = Lab::new("network.bridge.services", "s") else { return };
    let network = lab.network();
    let a = network.setup(&lab.config("a")).await.unwrap().ips[0];
    let b = network.setup(&lab.config("b")).await.unwrap().ips[0];
    lab.serve("a", 8080).await;
    lab.serve("b", 8080).await;
    let proxy = IptablesProxy::builder().netns(lab.path("n")).build().unwrap();
    let service = |endpoint: IpAddr| ServicePort {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec![[10, 96, 0, 1].into()],
        port: 80,
        endpoints: vec![Endpoint::ready(endpoint, 8080)],
        ..ServicePort::default()
    };
    let to: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let pod_cidrs = vec!["10.99.0.0/24".parse().unwrap()];
    let state = ProxyState { generation: 1, services: vec![service(b)], pod_cidrs, ..ProxyState::default() };
    proxy.apply(&state).await.unwrap();
    // To the neighbour on the bridge, and to itself.
    lab.ask("a", to).await.unwrap();
    lab.ask("b", to).await.unwrap();
    assert_ne!(a, b);
    // Refusals come before the network lets everything of pods through.
    let none = ServicePort { endpoints: vec![], ..service(b) };
    proxy.apply(&ProxyState { generation: 2, services: vec![none], ..state }).await.unwrap();
    assert_eq!(lab.ask("a", to).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn host_ports_lead_inside() {
    let Some(lab) = Lab::new("network.bridge.host_ports", "p") else { return };
    let network = lab.network();
    let mut config = lab.config("a");
    config.port_mappings.push(PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8088, host_ip: None });
    network.setup(&config).await.unwrap();
    lab.serve("a", 80).await;
    let to: SocketAddr = "192.0.2.1:8088".parse().unwrap();
    assert_eq!(lab.ask("c", to).await.unwrap(), IpAddr::from([192, 0, 2, 2]));
    lab.ask("a", to).await.unwrap();
    lab.ask("n", to).await.unwrap();
    network.teardown("a").await.unwrap();
    assert_eq!(lab.ask("c", to).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn allocations_outlive_the_process_and_teardown_forgives() {
    let Some(lab) = Lab::new("network.bridge.restart", "o") else { return };
    let first = lab.network().setup(&lab.config("a")).await.unwrap();
    let network = lab.network();
    assert_eq!(network.setup(&lab.config("a")).await.unwrap(), first);
    let second = network.setup(&lab.config("b")).await.unwrap();
    assert_ne!(first, second);
    network.teardown("unknown").await.unwrap();
    // The sandbox's namespace goes first, as it may when a container dies.
    assert!(ip(&format!("netns del {}", lab.name("b"))));
    network.teardown("b").await.unwrap();
    network.teardown("b").await.unwrap();
    network.teardown("a").await.unwrap();
    assert!(!lab.inside("a", "ip -o link").contains("eth0"));
    assert!(!lab.inside("n", "ip -o link").contains("wv"));
}

#[tokio::test]
async fn shutdown_leaves_no_trace() {
    let Some(lab) = Lab::new("network.bridge.shutdown", "d") else { return };
    assert!(lab.inside("n", "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE").is_empty());
    assert!(lab.inside("n", "iptables -t filter -A FORWARD -s 203.0.113.7/32 -j DROP").is_empty());
    let trace = || {
        let links: Vec<String> = lab.inside("n", "ip -o link").lines().map(|l| l.split(':').nth(1).unwrap().to_owned()).collect();
        (lab.rules(), links, lab.inside("n", "cat /proc/sys/net/ipv4/ip_forward"), lab.inside("n", "ip route"))
    };
    let before = trace();
    let network = lab.network();
    network.setup(&lab.config("a")).await.unwrap();
    assert_ne!(trace(), before);
    // A later process cleans up after an earlier one.
    lab.network().shutdown().await.unwrap();
    assert_eq!(trace(), before);
    assert_eq!(std::fs::read_dir(lab.state.path()).unwrap().count(), 0);
    lab.network().shutdown().await.unwrap();
    // And it begins anew.
    let network = lab.network();
    assert_eq!(network.setup(&lab.config("a")).await.unwrap().ips, [IpAddr::from([10, 99, 0, 2])]);
}

#[tokio::test]
async fn a_stranger_with_the_bridge_name_is_left_alone() {
    let Some(lab) = Lab::new("network.bridge.stranger", "x") else { return };
    assert!(ip(&format!("-n {} link add {BRIDGE} type veth peer name other0", lab.name("n"))));
    let network = lab.network();
    assert!(network.ready().await.unwrap_err().to_string().contains("no bridge"));
    network.shutdown().await.unwrap();
    assert!(lab.inside("n", "ip -o link").contains(BRIDGE));
}
