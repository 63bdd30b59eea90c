//! The proxy kit over `wharf-proxy-iptables`, with real packets between network namespaces.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use wharf_conformance::proxy::{Answer, Open, PODS, ProxyHarness, ProxyWorld, Sender};
use wharf_conformance::{CaseResult, Harness, proxy_suite, skip};
use wharf_core::proxy::{NodeInfo, SharedProxy};
use wharf_core::runtime::Protocol;
use wharf_core::testing::omit;
use wharf_proxy_iptables::{IptablesProxy, in_netns};

/// Silence after this long is silence. TCP asks again after one second and after three.
const PATIENCE: Duration = Duration::from_millis(2500);
const POD_PORT: u16 = 8080;

struct Namespaces;

impl Harness for Namespaces {}

#[async_trait]
impl ProxyHarness for Namespaces {
    async fn world(&self) -> CaseResult<Box<dyn ProxyWorld>> {
        let missing = if !nix::unistd::geteuid().is_root() {
            Some("it needs root for network namespaces".to_owned())
        } else if let Err(error) = IptablesProxy::detect() {
            Some(error.to_string())
        } else if !ip("-V") {
            Some("the program `ip` is missing".to_owned())
        } else {
            None
        };
        if let Some(why) = missing {
            omit("proxy.iptables", &why);
            return skip(why);
        }
        Ok(Box::new(Lab::new().await))
    }
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split_whitespace()).output().is_ok_and(|o| o.status.success())
}

/// A node, a machine outside and pods, each a network namespace; gone when dropped.
struct Lab {
    tag: String,
    proxy: Option<SharedProxy>,
}

impl Lab {
    async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut lab = Self { tag: format!("wpk{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)), proxy: None };
        let node = lab.name("n");
        assert!(ip(&format!("netns add {node}")));
        assert!(ip(&format!("-n {node} link set lo up")));
        lab.join("c", "192.0.2.2", "192.0.2.1");
        assert!(ip(&format!("-n {node} route add default via 192.0.2.2")));
        lab.within("n", || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap()).await;
        for pod in 0..PODS {
            let part = format!("p{pod}");
            lab.join(&part, &format!("10.77.{pod}.2"), &format!("10.77.{pod}.1"));
            let tcp = lab.within(&part, || TcpListener::bind(("0.0.0.0", POD_PORT)).unwrap()).await;
            let udp = lab.within(&part, || UdpSocket::bind(("0.0.0.0", POD_PORT)).unwrap()).await;
            std::thread::spawn(move || serve_tcp(&tcp, pod));
            std::thread::spawn(move || serve_udp(&udp, pod));
        }
        lab.proxy = Some(lab.connect());
        lab
    }
    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.tag)
    }
    fn join(&self, part: &str, inside: &str, gateway: &str) {
        let (node, other) = (self.name("n"), self.name(part));
        for line in [
            format!("netns add {other}"),
            format!("-n {node} link add v{part} type veth peer name eth0 netns {other}"),
            format!("-n {node} addr add {gateway}/24 dev v{part}"),
            format!("-n {node} link set v{part} up"),
            format!("-n {other} addr add {inside}/24 dev eth0"),
            format!("-n {other} link set eth0 up"),
            format!("-n {other} link set lo up"),
            format!("-n {other} route add default via {gateway}"),
        ] {
            assert!(ip(&line), "ip {line}");
        }
    }
    fn path(&self, part: &str) -> PathBuf {
        Path::new("/var/run/netns").join(self.name(part))
    }
    async fn within<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        in_netns(Some(self.path(part)), work).await.unwrap()
    }
    fn run(&self, line: &str) -> Option<String> {
        let output = Command::new("ip").args(["netns", "exec", &self.name("n")]).args(line.split_whitespace()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
    fn part(from: Sender) -> String {
        match from {
            Sender::Outside => "c".into(),
            Sender::Node => "n".into(),
            Sender::Pod(pod) => format!("p{pod}"),
        }
    }
    fn connect(&self) -> SharedProxy {
        Arc::new(IptablesProxy::builder().netns(self.path("n")).build().unwrap())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for part in ["n".to_owned(), "c".to_owned()].into_iter().chain((0..PODS).map(|p| format!("p{p}"))) {
            ip(&format!("netns del {}", self.name(&part)));
        }
    }
}

/// Greets with the pod's number and the client's address, then echoes.
fn serve_tcp(listener: &TcpListener, pod: usize) {
    while let Ok((mut stream, from)) = listener.accept() {
        std::thread::spawn(move || {
            let _ = writeln!(stream, "{pod} {}", from.ip());
            let mut buffer = [0u8; 64];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                let _ = stream.write_all(&buffer[..n]);
            }
        });
    }
}

fn serve_udp(socket: &UdpSocket, pod: usize) {
    let mut buffer = [0u8; 64];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(format!("{pod} {}", from.ip()).as_bytes(), from);
    }
}

fn greeting(text: &str) -> std::io::Result<(usize, IpAddr)> {
    let (pod, from) = text.trim().split_once(' ').ok_or_else(|| std::io::Error::other("no greeting"))?;
    Ok((pod.parse().map_err(std::io::Error::other)?, from.parse().map_err(std::io::Error::other)?))
}

fn ask_tcp(to: SocketAddr) -> std::io::Result<(TcpStream, (usize, IpAddr))> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut line, mut byte) = (Vec::new(), [0u8; 1]);
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let seen = greeting(&String::from_utf8_lossy(&line))?;
    Ok((stream, seen))
}

fn ask_udp(to: SocketAddr) -> std::io::Result<(usize, IpAddr)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let mut buffer = [0u8; 64];
    let read = socket.recv(&mut buffer)?;
    greeting(&String::from_utf8_lossy(&buffer[..read]))
}

struct Stream(TcpStream, usize);

#[async_trait]
impl Open for Stream {
    fn pod(&self) -> usize {
        self.1
    }
    async fn echo(&mut self) -> bool {
        let mut back = [0u8; 4];
        self.0.write_all(b"echo").is_ok() && self.0.read_exact(&mut back).is_ok() && &back == b"echo"
    }
}

/// Rules as other programs make them: chain first, then rules by table.
const FOREIGN: [&str; 5] = [
    "-t nat -N DOCKER",
    "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
    "-t filter -A FORWARD -s 203.0.113.7/32 -j DROP",
    "-t filter -A FORWARD -s 203.0.113.8/32 -j DROP",
];

#[async_trait]
impl ProxyWorld for Lab {
    fn proxy(&self) -> SharedProxy {
        self.proxy.clone().unwrap()
    }
    fn restarted(&self) -> Option<SharedProxy> {
        Some(self.connect())
    }
    fn node(&self) -> NodeInfo {
        NodeInfo { name: "node".into(), addresses: vec![] }
    }
    fn node_address(&self) -> IpAddr {
        [192, 0, 2, 1].into()
    }
    fn pod_cidrs(&self) -> Vec<IpNet> {
        vec!["10.77.0.0/16".parse().unwrap()]
    }
    fn pods(&self) -> Vec<SocketAddr> {
        (0..PODS).map(|pod| SocketAddr::from(([10, 77, pod as u8, 2], POD_PORT))).collect()
    }
    async fn ask(&self, from: Sender, to: SocketAddr, protocol: Protocol) -> Answer {
        let asked = self.within(&Self::part(from), move || if protocol == Protocol::Udp { ask_udp(to) } else { Ok(ask_tcp(to)?.1) }).await;
        match asked {
            Ok((pod, source)) => Answer::Pod(pod, source),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Answer::Refused,
            Err(_) => Answer::Silence,
        }
    }
    async fn open(&self, from: Sender, to: SocketAddr) -> Option<Box<dyn Open>> {
        let (stream, (pod, _)) = self.within(&Self::part(from), move || ask_tcp(to)).await.ok()?;
        Some(Box::new(Stream(stream, pod)))
    }
    async fn add_foreign(&self) -> bool {
        FOREIGN.iter().all(|line| self.run(&format!("iptables {line}")).is_some())
    }
    async fn installed(&self) -> String {
        let saved = ["nat", "filter"].map(|table| self.run(&format!("iptables-save -t {table}")).unwrap()).concat();
        // Without times and counters, and without tables in which there is nothing.
        let lines: Vec<&str> = saved.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(" [").next().unwrap()).collect();
        lines.into_iter().filter(|l| l.starts_with("-A") || l.ends_with(" -")).map(|l| format!("{l}\n")).collect()
    }
    async fn foreign_is_whole(&self) -> bool {
        let installed = self.installed().await;
        let mut rest = installed.as_str();
        let rules = ["-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"];
        let drops = ["-A FORWARD -s 203.0.113.7/32 -j DROP", "-A FORWARD -s 203.0.113.8/32 -j DROP"];
        installed.contains(":DOCKER -")
            && rules.into_iter().chain(drops).all(|rule| {
                let found = rest.split_once(rule);
                rest = found.map_or("", |(_, after)| after);
                found.is_some()
            })
    }
    async fn damage(&self) -> bool {
        self.run("iptables -t nat -F WHARF-SERVICES").is_some() && self.run("iptables -t nat -D OUTPUT 1").is_some()
    }
}

proxy_suite!(Namespaces);
