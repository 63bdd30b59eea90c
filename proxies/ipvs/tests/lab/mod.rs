//! A node with IPVS, a machine outside and pods, each a network namespace joined by veth pairs.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests, of which each file uses some")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wharf_conformance::proxy::PODS;
use wharf_netfilter::in_netns;
use wharf_proxy_ipvs::IpvsProxy;

/// Silence after this long is silence. Long, for machines that are emulated.
pub const PATIENCE: Duration = Duration::from_secs(8);
pub const POD_PORT: u16 = 8080;
/// Set to `1` where IPVS must be there. `WHARF_REQUIRE_SYSTEM` cannot ask for it: many kernels have none.
const REQUIRE_IPVS: &str = "WHARF_REQUIRE_IPVS";
/// What a test and its rules need of a kernel with modules.
const MODULES: &str = "ip_vs ip_vs_rr ip_vs_wrr ip_vs_lc ip_vs_sh dummy veth nf_conntrack iptable_nat iptable_filter ip_tables nf_tables \
     nft_compat xt_set ip_set_hash_ip ip_set_hash_ipport ip_set_hash_ipportip xt_MASQUERADE xt_mark xt_comment xt_addrtype xt_conntrack \
     ipt_REJECT";

/// Whether the machine can; said aloud if not.
pub fn can(test: &str) -> Result<(), String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let Some(why) = MISSING.get_or_init(missing) else { return Ok(()) };
    assert!(std::env::var(REQUIRE_IPVS).as_deref() != Ok("1"), "{test} must run here, but {why}");
    println!("omitted: {test}: {why}");
    Err(why.clone())
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root for network namespaces".to_owned());
    }
    // They may be built in, or not there: what matters is asked for next.
    let _ = Command::new("modprobe").arg("-aq").args(MODULES.split_whitespace()).output();
    if let Err(error) = IpvsProxy::detect() {
        return Some(error.to_string());
    }
    let programs = [("ip", "-V"), ("ipvsadm", "--version"), ("ipset", "--version")];
    let runs = |(program, argument)| Command::new(program).arg(argument).output().is_ok_and(|o| o.status.success());
    programs.into_iter().find(|p| !runs(*p)).map(|(program, _)| format!("the program `{program}` is missing"))
}

/// Several commands of `ip` at once, in a namespace.
fn batch(netns: &str, lines: &[String]) -> bool {
    let child = Command::new("ip").args(["-n", netns, "-batch", "-"]).stdin(Stdio::piped()).spawn();
    child.is_ok_and(|mut child| {
        let written = child.stdin.take().is_some_and(|mut stdin| stdin.write_all(lines.join("\n").as_bytes()).is_ok());
        child.wait().is_ok_and(|status| status.success()) && written
    })
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split_whitespace()).output().is_ok_and(|o| o.status.success())
}

/// A node, a machine outside and pods, each a network namespace; gone when dropped.
pub struct Lab {
    tag: String,
}

impl Lab {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let lab = Self { tag: format!("wpv{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)) };
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
        lab
    }
    pub fn name(&self, part: &str) -> String {
        format!("{}{part}", self.tag)
    }
    fn join(&self, part: &str, inside: &str, gateway: &str) {
        let (node, other) = (self.name("n"), self.name(part));
        assert!(ip(&format!("netns add {other}")));
        let here = [
            format!("link add v{part} type veth peer name eth0 netns {other}"),
            format!("addr add {gateway}/24 dev v{part}"),
            format!("link set v{part} up"),
        ];
        let there = [
            format!("addr add {inside}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            "link set lo up".to_owned(),
            format!("route add default via {gateway}"),
        ];
        assert!(batch(&node, &here) && batch(&other, &there), "{part}");
    }
    pub fn path(&self, part: &str) -> PathBuf {
        Path::new("/var/run/netns").join(self.name(part))
    }
    pub async fn within<T: Send + 'static>(&self, part: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        in_netns(Some(self.path(part)), work).await.unwrap()
    }
    pub fn run(&self, line: &str) -> Option<String> {
        let output = Command::new("ip").args(["netns", "exec", &self.name("n")]).args(line.split_whitespace()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
    pub fn builder(&self) -> wharf_proxy_ipvs::Builder {
        IpvsProxy::builder().netns(self.path("n"))
    }
    /// Everything on the node that a proxy could have left, as text that is the same for the same things.
    pub async fn installed(&self) -> String {
        let saved = ["nat", "filter"].map(|table| self.run(&format!("iptables-save -t {table}")).unwrap()).concat();
        // Without times and counters, and without tables in which there is nothing.
        let lines = saved.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(" [").next().unwrap());
        let mut out: String = lines.filter(|l| l.starts_with("-A") || l.ends_with(" -")).map(|l| format!("{l}\n")).collect();
        for line in ["ipvsadm -Sn", "ipset save", "ip -o -4 addr"] {
            let mut lines: Vec<String> = self.run(line).unwrap().lines().map(str::to_owned).collect();
            lines.sort();
            out.extend(lines.into_iter().map(|l| l + "\n"));
        }
        for key in ["conntrack", "expire_nodest_conn", "expire_quiescent_template"] {
            let value = self.within("n", move || std::fs::read_to_string(format!("/proc/sys/net/ipv4/vs/{key}")).unwrap()).await;
            out += &format!("{key} {value}");
        }
        out
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

pub fn ask_tcp(to: SocketAddr) -> std::io::Result<(TcpStream, (usize, IpAddr))> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut line, mut byte) = (Vec::new(), [0u8; 1]);
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let seen = greeting(&String::from_utf8_lossy(&line))?;
    Ok((stream, seen))
}

pub fn ask_udp(to: SocketAddr) -> std::io::Result<(usize, IpAddr)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let mut buffer = [0u8; 64];
    let read = socket.recv(&mut buffer)?;
    greeting(&String::from_utf8_lossy(&buffer[..read]))
}
