//! Real packets through real rules: a node, a client and pods, each a network namespace, joined by veth pairs.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wharf_core::proxy::{Endpoint, NetworkProxy, NodeInfo, Observed, ProxyError, ProxyState, ServicePort};
use wharf_core::runtime::Protocol;
use wharf_core::testing::omit;
use wharf_proxy_iptables::{IptablesProxy, Variant, in_netns};

/// How many pods a lab has.
const PODS: u8 = 3;
/// Longer than any connection takes, shorter than TCP's first retry twice over.
const PATIENCE: Duration = Duration::from_secs(2);

/// The namespaces of one test; gone when dropped.
struct Lab {
    tag: String,
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split_whitespace()).output().is_ok_and(|o| o.status.success())
}

impl Lab {
    /// `None`, said aloud, where the machine cannot.
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
        let lab = Self { tag: format!("wpx{}{tag}", std::process::id()) };
        let node = lab.name("n");
        assert!(ip(&format!("netns add {node}")));
        assert!(ip(&format!("-n {node} link set lo up")));
        // The client is in a network of its own; pods are behind routes of their own: no bridge in between.
        lab.join("c", "192.0.2.2", "192.0.2.1");
        for pod in 1..=PODS {
            lab.join(&format!("p{pod}"), &format!("10.77.{pod}.2"), &format!("10.77.{pod}.1"));
        }
        assert!(ip(&format!("-n {node} route add default via 192.0.2.2")));
        let forward =
            Command::new("ip").args(["netns", "exec", &node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).status().unwrap();
        assert!(forward.success());
        Some(lab)
    }
    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.tag)
    }
    fn join(&self, part: &str, inside: &str, gateway: &str) {
        let (node, other) = (self.name("n"), self.name(part));
        assert!(ip(&format!("netns add {other}")));
        assert!(ip(&format!("-n {node} link add v{part} type veth peer name eth0 netns {other}")));
        assert!(ip(&format!("-n {node} addr add {gateway}/24 dev v{part}")));
        assert!(ip(&format!("-n {node} link set v{part} up")));
        assert!(ip(&format!("-n {other} addr add {inside}/24 dev eth0")));
        assert!(ip(&format!("-n {other} link set eth0 up")));
        assert!(ip(&format!("-n {other} link set lo up")));
        assert!(ip(&format!("-n {other} route add default via {gateway}")));
    }
    fn path(&self, part: &str) -> PathBuf {
        Path::new("/var/run/netns").join(self.name(part))
    }
    async fn within<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        in_netns(Some(self.path(part)), work).await.unwrap()
    }
    fn proxy(&self) -> IptablesProxy {
        IptablesProxy::builder().netns(self.path("n")).build().unwrap()
    }
    fn saved(&self) -> String {
        let mut out = String::new();
        for table in ["nat", "filter"] {
            let output = Command::new("ip").args(["netns", "exec", &self.name("n"), "iptables-save", "-t", table]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            out.extend(text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{}\n", l.split(" [").next().unwrap())));
        }
        out
    }
    fn iptables(&self, line: &str) {
        let status =
            Command::new("ip").args(["netns", "exec", &self.name("n"), "iptables"]).args(line.split_whitespace()).status().unwrap();
        assert!(status.success(), "iptables {line}");
    }
    /// Serves TCP in a pod: greets with the pod's number and the client's address, then echoes.
    async fn serve_tcp(&self, pod: u8) {
        let listener = self.within(&format!("p{pod}"), || TcpListener::bind("0.0.0.0:8080").unwrap()).await;
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                std::thread::spawn(move || {
                    let _ = writeln!(stream, "{pod} {}", from.ip());
                    let mut buffer = [0u8; 64];
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..n]);
                    }
                });
            }
        });
    }
    async fn serve_udp(&self, pod: u8) {
        let socket = self.within(&format!("p{pod}"), || UdpSocket::bind("0.0.0.0:8080").unwrap()).await;
        std::thread::spawn(move || {
            let mut buffer = [0u8; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&[pod], from);
            }
        });
    }
    /// Who answers a connection, and which source it saw.
    async fn ask(&self, part: &str, to: &str) -> std::io::Result<(u8, IpAddr)> {
        let to: SocketAddr = to.parse().unwrap();
        self.within(part, move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            greeting(&mut stream)
        })
        .await
    }
    async fn ask_often(&self, part: &str, to: &str, times: usize) -> BTreeSet<u8> {
        let to: SocketAddr = to.parse().unwrap();
        self.within(part, move || {
            (0..times).map(|_| greeting(&mut TcpStream::connect_timeout(&to, PATIENCE).unwrap()).unwrap().0).collect()
        })
        .await
    }
}

fn greeting(stream: &mut TcpStream) -> std::io::Result<(u8, IpAddr)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let text = String::from_utf8(line).map_err(std::io::Error::other)?;
    let (pod, from) = text.split_once(' ').ok_or_else(|| std::io::Error::other("no greeting"))?;
    Ok((pod.parse().map_err(std::io::Error::other)?, from.parse().map_err(std::io::Error::other)?))
}

impl Drop for Lab {
    fn drop(&mut self) {
        for part in ["n", "c"].into_iter().map(str::to_owned).chain((1..=PODS).map(|p| format!("p{p}"))) {
            let name = self.name(&part);
            ip(&format!("netns del {name}"));
        }
    }
}

fn endpoint(pod: u8) -> Endpoint {
    Endpoint { local: true, ..Endpoint::ready([10, 77, pod, 2], 8080) }
}
fn web(pods: &[u8]) -> ServicePort {
    ServicePort {
        namespace: "default".into(),
        name: "web".into(),
        port_name: "http".into(),
        cluster_ips: vec![[10, 96, 0, 10].into()],
        port: 80,
        node_port: Some(30080),
        endpoints: pods.iter().copied().map(endpoint).collect(),
        ..ServicePort::default()
    }
}
fn state(generation: u64, services: Vec<ServicePort>) -> ProxyState {
    let node = NodeInfo { name: "n".into(), addresses: vec![] };
    ProxyState { generation, services, node, pod_cidrs: vec!["10.77.0.0/16".parse().unwrap()] }
}
const CLUSTER: &str = "10.96.0.10:80";
const NODE: &str = "192.0.2.1:30080";
/// Misses an endpoint of three by chance less than once in 10^15 runs.
const MANY: usize = 90;

#[tokio::test]
async fn traffic_reaches_every_endpoint_and_only_those() {
    let Some(lab) = Lab::new("proxy.iptables.traffic", "a") else { return };
    for pod in 1..=PODS {
        lab.serve_tcp(pod).await;
    }
    let proxy = lab.proxy();
    proxy.apply(&state(1, vec![web(&[1, 2, 3])])).await.unwrap();
    // From outside, from a pod (also to itself), and from the node.
    assert_eq!(lab.ask_often("c", CLUSTER, MANY).await, BTreeSet::from([1, 2, 3]));
    assert_eq!(lab.ask_often("c", NODE, MANY).await, BTreeSet::from([1, 2, 3]));
    assert_eq!(lab.ask_often("p1", CLUSTER, MANY).await, BTreeSet::from([1, 2, 3]));
    assert_eq!(lab.ask_often("n", CLUSTER, MANY).await, BTreeSet::from([1, 2, 3]));

    proxy.apply(&state(2, vec![web(&[2])])).await.unwrap();
    assert_eq!(lab.ask_often("c", CLUSTER, MANY).await, BTreeSet::from([2]));
    // A pod keeps its own address; who comes from elsewhere is seen as the node, and so is the pod that calls itself.
    assert_eq!(lab.ask("p1", CLUSTER).await.unwrap().1, IpAddr::from([10, 77, 1, 2]));
    assert_eq!(lab.ask("c", CLUSTER).await.unwrap().1, IpAddr::from([10, 77, 2, 1]));
    assert_eq!(lab.ask("c", NODE).await.unwrap().1, IpAddr::from([10, 77, 2, 1]));
    assert_eq!(lab.ask("p2", CLUSTER).await.unwrap().1, IpAddr::from([10, 77, 2, 1]));
}

#[tokio::test]
async fn local_policy_keeps_the_client_address() {
    let Some(lab) = Lab::new("proxy.iptables.local", "b") else { return };
    lab.serve_tcp(1).await;
    let mut web = web(&[1]);
    web.external_traffic_policy = wharf_core::proxy::TrafficPolicy::Local;
    lab.proxy().apply(&state(1, vec![web])).await.unwrap();
    assert_eq!(lab.ask("c", NODE).await.unwrap(), (1, IpAddr::from([192, 0, 2, 2])));
}

#[tokio::test]
async fn affinity_keeps_a_client_with_its_endpoint() {
    let Some(lab) = Lab::new("proxy.iptables.affinity", "f") else { return };
    for pod in 1..=PODS {
        lab.serve_tcp(pod).await;
    }
    let sticky = |pods: &[u8]| ServicePort { session_affinity: Some(600), ..web(pods) };
    let proxy = lab.proxy();
    proxy.apply(&state(1, vec![sticky(&[1, 2, 3])])).await.unwrap();
    let first = lab.ask_often("c", CLUSTER, MANY).await;
    assert_eq!(first.len(), 1, "{first:?}");
    // The endpoint goes: its clients choose anew.
    let rest: Vec<u8> = (1..=PODS).filter(|p| !first.contains(p)).collect();
    proxy.apply(&state(2, vec![sticky(&rest)])).await.unwrap();
    let second = lab.ask_often("c", CLUSTER, MANY).await;
    assert!(second.len() == 1 && second.is_disjoint(&first), "{second:?}");
    let again = proxy.apply(&state(2, vec![sticky(&rest)])).await.unwrap();
    assert!(!again.changed(), "what was written reads back as the same: {again:?}");
}

#[tokio::test]
async fn no_endpoints_refuse_at_once() {
    let Some(lab) = Lab::new("proxy.iptables.refuse", "d") else { return };
    lab.proxy().apply(&state(1, vec![web(&[])])).await.unwrap();
    // Often enough to show that no rate limit is in the way.
    for (part, to) in [("c", CLUSTER), ("p1", CLUSTER), ("n", CLUSTER), ("c", NODE)].repeat(10) {
        let error = lab.ask(part, to).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{part} to {to}: {error}");
    }
}

#[tokio::test]
async fn open_connections_outlive_the_choice_of_their_endpoint() {
    let Some(lab) = Lab::new("proxy.iptables.rolling", "e") else { return };
    lab.serve_tcp(1).await;
    lab.serve_tcp(2).await;
    let proxy = lab.proxy();
    proxy.apply(&state(1, vec![web(&[1])])).await.unwrap();
    let to: SocketAddr = CLUSTER.parse().unwrap();
    let mut open = lab.within("c", move || TcpStream::connect_timeout(&to, PATIENCE).unwrap()).await;
    assert_eq!(greeting(&mut open).unwrap().0, 1);
    proxy.apply(&state(2, vec![web(&[2])])).await.unwrap();
    assert_eq!(lab.ask_often("c", CLUSTER, 20).await, BTreeSet::from([2]));
    open.write_all(b"still here\n").unwrap();
    let mut echo = [0u8; 11];
    open.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still here\n");
}

#[tokio::test]
async fn no_connection_is_lost_while_rules_change() {
    let Some(lab) = Lab::new("proxy.iptables.no_loss", "g") else { return };
    for pod in 1..=PODS {
        lab.serve_tcp(pod).await;
    }
    let proxy = lab.proxy();
    proxy.apply(&state(1, vec![web(&[1])])).await.unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, to) = (stop.clone(), CLUSTER.parse::<SocketAddr>().unwrap());
    let path = lab.path("c");
    let client = tokio::spawn(in_netns(Some(path), move || {
        let mut answered = 0usize;
        while !seen.load(std::sync::atomic::Ordering::Relaxed) {
            greeting(&mut TcpStream::connect_timeout(&to, PATIENCE).unwrap()).unwrap();
            answered += 1;
        }
        answered
    }));
    for round in 0..12u64 {
        let pods: &[u8] = [&[2u8][..], &[2, 3], &[1, 3], &[1]][round as usize % 4];
        proxy.apply(&state(2 + round, vec![web(pods)])).await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(client.await.unwrap().unwrap() > 0);
}

#[tokio::test]
async fn udp_flows_move_when_their_endpoint_goes() {
    let Some(lab) = Lab::new("proxy.iptables.udp", "u") else { return };
    lab.serve_udp(1).await;
    lab.serve_udp(2).await;
    let dns = |pods: &[u8]| ServicePort { protocol: Protocol::Udp, port_name: "dns".into(), port: 53, node_port: None, ..web(pods) };
    let proxy = lab.proxy();
    proxy.apply(&state(1, vec![dns(&[1])])).await.unwrap();
    let socket = lab
        .within("c", || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.96.0.10:53").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
        .await;
    let ask = || {
        socket.send(b"?").unwrap();
        let mut answer = [0u8; 1];
        socket.recv(&mut answer).unwrap();
        answer[0]
    };
    assert_eq!(ask(), 1);
    proxy.apply(&state(2, vec![dns(&[2])])).await.unwrap();
    assert_eq!(ask(), 2, "the same socket must reach the endpoint that is left");
}

#[tokio::test]
async fn rules_are_the_memory() {
    let Some(lab) = Lab::new("proxy.iptables.memory", "m") else { return };
    let full = state(5, vec![web(&[1, 2]), ServicePort { name: "none".into(), cluster_ips: vec![[10, 96, 0, 11].into()], ..web(&[]) }]);
    let first = lab.proxy().apply(&full).await.unwrap();
    assert!(first.written > 0 && first.generation == 5);

    // A new process.
    let proxy = lab.proxy();
    let observed = proxy.observe().await.unwrap();
    assert_eq!(observed.generation, Some(5));
    let found: Vec<_> = observed.services.iter().map(|s| (s.id.name.as_str(), s.endpoints.len())).collect();
    assert_eq!(found, [("none", 0), ("web", 2)]);
    let again = proxy.apply(&full).await.unwrap();
    assert!(!again.changed(), "what was written reads back as the same: {again:?}");
    assert!(matches!(proxy.apply(&state(4, vec![])).await, Err(ProxyError::Stale { given: 4, installed: 5 })));
    assert_eq!(proxy.observe().await.unwrap(), observed);
}

#[tokio::test]
async fn drift_is_repaired_and_strangers_are_left_alone() {
    let Some(lab) = Lab::new("proxy.iptables.foreign", "x") else { return };
    lab.iptables("-t nat -N DOCKER");
    lab.iptables("-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER");
    lab.iptables("-t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE");
    lab.iptables("-t filter -A FORWARD -s 203.0.113.7/32 -j DROP");
    let before = lab.saved();
    let proxy = lab.proxy();
    proxy.teardown().await.unwrap();
    assert_eq!(lab.saved(), before, "nothing to tear down");

    let wanted = state(1, vec![web(&[1, 2])]);
    proxy.apply(&wanted).await.unwrap();
    let installed = lab.saved();
    lab.iptables("-t nat -F WHARF-SERVICES");
    lab.iptables("-t nat -D OUTPUT 1");
    lab.iptables("-t filter -I INPUT -j WHARF-FILTER");
    let repaired = proxy.apply(&wanted).await.unwrap();
    assert_eq!((repaired.written, repaired.removed), (2, 1));
    assert_eq!(lab.saved(), installed);

    proxy.teardown().await.unwrap();
    assert_eq!(lab.saved(), before);
    assert_eq!(proxy.observe().await.unwrap().generation, None);
    proxy.apply(&state(1, vec![])).await.unwrap();
    proxy.teardown().await.unwrap();
    assert_eq!(lab.saved(), before);
}

#[tokio::test]
async fn both_variants_and_families_read_back_what_they_write() {
    for (variant, tag) in [(Variant::Nft, "v"), (Variant::Legacy, "l")] {
        let Some(lab) = Lab::new("proxy.iptables.variants", tag) else { return };
        let proxy = match IptablesProxy::builder().netns(lab.path("n")).variant(variant).ipv6(true).build() {
            Ok(proxy) => proxy,
            Err(error) => return omit("proxy.iptables.variants", &error.to_string()),
        };
        lab.serve_tcp(1).await;
        let mut web = ServicePort { session_affinity: Some(60), ..web(&[1, 2, 3]) };
        web.cluster_ips.push("fd00:96::1".parse().unwrap());
        web.external_ips.push("fd00:97::1".parse().unwrap());
        let endpoints = ["fd00:77::1", "fd00:77::2"].map(|ip| Endpoint::ready(ip.parse::<IpAddr>().unwrap(), 8080));
        web.endpoints.extend(endpoints);
        let none = ServicePort { name: "none".into(), cluster_ips: vec!["fd00:96::2".parse().unwrap()], ..self::web(&[]) };
        let full = state(1, vec![none, web]);
        if let (Variant::Legacy, Err(ProxyError::Backend { source, .. })) = (variant, proxy.observe().await) {
            return omit("proxy.iptables.variants", &format!("the kernel has no legacy tables: {source}"));
        }
        assert!(proxy.apply(&full).await.unwrap().changed());
        let again = proxy.apply(&full).await.unwrap();
        assert!(!again.changed(), "{variant:?}: {again:?}");
        assert_eq!(proxy.observe().await.unwrap().services[1].endpoints.len(), 5, "{variant:?}");
        proxy.apply(&state(2, vec![self::web(&[1])])).await.unwrap();
        assert_eq!(lab.ask("c", CLUSTER).await.unwrap().0, 1, "{variant:?}");
        proxy.teardown().await.unwrap();
        assert_eq!(proxy.observe().await.unwrap(), Observed::default(), "{variant:?}");
    }
}

#[tokio::test]
async fn a_missing_namespace_is_an_error() {
    let Some(_lab) = Lab::new("proxy.iptables.netns", "z") else { return };
    let proxy = IptablesProxy::builder().netns("/nonexistent/netns").build().unwrap();
    assert!(matches!(proxy.observe().await, Err(ProxyError::Backend { .. })));
}
