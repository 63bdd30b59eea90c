//! The proxy kit over IPVS, with real packets between network namespaces.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use lab::{Lab, POD_PORT, ask_tcp, ask_udp};
use wharf_conformance::proxy::{Answer, Open, PODS, ProxyHarness, ProxyWorld, Sender};
use wharf_conformance::{CaseResult, Harness, proxy_suite, skip};
use wharf_core::proxy::{NodeInfo, SharedProxy};
use wharf_core::runtime::Protocol;

struct Namespaces;

impl Harness for Namespaces {
    /// A case starts hundreds of programs, and the machine may be an emulated one.
    fn patience(&self) -> Duration {
        Duration::from_secs(600)
    }
}

#[async_trait]
impl ProxyHarness for Namespaces {
    async fn world(&self) -> CaseResult<Box<dyn ProxyWorld>> {
        if let Err(why) = lab::can("proxy.ipvs") {
            return skip(why);
        }
        let lab = Lab::new().await;
        Ok(Box::new(World { proxy: connect(&lab), lab }))
    }
}

struct World {
    lab: Lab,
    proxy: SharedProxy,
}

fn connect(lab: &Lab) -> SharedProxy {
    Arc::new(lab.builder().build().unwrap())
}

fn part(from: Sender) -> String {
    match from {
        Sender::Outside => "c".into(),
        Sender::Node => "n".into(),
        Sender::Pod(pod) => format!("p{pod}"),
    }
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
impl ProxyWorld for World {
    fn proxy(&self) -> SharedProxy {
        self.proxy.clone()
    }
    fn restarted(&self) -> Option<SharedProxy> {
        Some(connect(&self.lab))
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
        let asked = self.lab.within(&part(from), move || if protocol == Protocol::Udp { ask_udp(to) } else { Ok(ask_tcp(to)?.1) }).await;
        match asked {
            Ok((pod, source)) => Answer::Pod(pod, source),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Answer::Refused,
            Err(_) => Answer::Silence,
        }
    }
    async fn open(&self, from: Sender, to: SocketAddr) -> Option<Box<dyn Open>> {
        let (stream, (pod, _)) = self.lab.within(&part(from), move || ask_tcp(to)).await.ok()?;
        Some(Box::new(Stream(stream, pod)))
    }
    async fn add_foreign(&self) -> bool {
        let virtual_server = ["ipvsadm -A -t 203.0.113.9:80 -s lc", "ipvsadm -a -t 203.0.113.9:80 -r 10.77.0.2:8080 -m"];
        FOREIGN.iter().all(|line| self.lab.run(&format!("iptables {line}")).is_some())
            && virtual_server.iter().all(|line| self.lab.run(line).is_some())
    }
    async fn installed(&self) -> String {
        self.lab.installed().await
    }
    async fn foreign_is_whole(&self) -> bool {
        let installed = self.installed().await;
        let mut rest = installed.as_str();
        let rules = ["-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"];
        let drops = ["-A FORWARD -s 203.0.113.7/32 -j DROP", "-A FORWARD -s 203.0.113.8/32 -j DROP"];
        installed.contains(":DOCKER -")
            && installed.contains("-A -t 203.0.113.9:80 -s lc")
            && installed.contains("-a -t 203.0.113.9:80 -r 10.77.0.2:8080 -m -w 1")
            && rules.into_iter().chain(drops).all(|rule| {
                let found = rest.split_once(rule);
                rest = found.map_or("", |(_, after)| after);
                found.is_some()
            })
    }
    async fn damage(&self) -> bool {
        self.lab.run("iptables -t nat -F WHARF-SERVICES").is_some()
            && self.lab.run("iptables -t nat -D OUTPUT 1").is_some()
            && self.lab.run("ipvsadm -C").is_some()
            && self.lab.run("ip addr flush dev wharf-ipvs0").is_some()
    }
}

proxy_suite!(Namespaces);
