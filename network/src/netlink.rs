//! The few rtnetlink requests that a bridge network makes, as blocking calls for a thread inside a network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use futures::{Stream, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;

/// A netlink socket of the calling thread's network namespace.
pub(crate) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

/// What an interface is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Index of the bridge that it is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) up: bool,
    pub(crate) is_bridge: bool,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            controller: None,
            up: message.header.flags.contains(LinkFlags::Up),
            is_bridge: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) if *index != 0 => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.is_bridge |= infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Bridge)));
                }
                _ => {}
            }
        }
        link
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn tolerate(result: io::Result<()>, kind: io::ErrorKind) -> io::Result<()> {
    result.or_else(|e| if e.kind() == kind { Ok(()) } else { Err(e) })
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn run<T>(&self, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
        self.runtime.block_on(request).map_err(io_error)
    }

    /// An interface by name.
    pub(crate) fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let found = self.collect(self.handle.link().get().match_name(name).execute());
        match found {
            Ok(links) => Ok(links.into_iter().next()),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Every interface.
    pub(crate) fn links(&self) -> io::Result<Vec<Link>> {
        self.collect(self.handle.link().get().execute())
    }

    fn collect(&self, stream: impl Stream<Item = Result<LinkMessage, rtnetlink::Error>>) -> io::Result<Vec<Link>> {
        self.run(stream.map_ok(|message| Link::from_message(&message)).try_collect())
    }

    /// Makes a bridge, up. Its hardware address is fixed: a bridge without one changes it with its ports.
    pub(crate) fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: u32, filter: bool) -> io::Result<()> {
        let mut message = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).up();
        if filter {
            message = message.append_info_data(rtnetlink::packet_route::link::InfoBridge::NfCallIpTables(true));
        }
        tolerate(self.run(self.handle.link().add(message.build()).execute()), io::ErrorKind::AlreadyExists)
    }

    /// Makes a veth pair: one end here as a port of the bridge, the other as `peer` in another namespace, which
    /// cannot be set up before the pair is whole.
    pub(crate) fn add_veth(&self, name: &str, bridge: u32, mtu: u32, peer: &str, peer_mac: [u8; 6], netns: RawFd) -> io::Result<()> {
        let other = LinkMessageBuilder::<LinkUnspec>::new().name(peer.to_owned()).address(peer_mac.to_vec()).mtu(mtu).setns_by_fd(netns);
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name.to_owned())
            .mtu(mtu)
            .controller(bridge)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other.build())))
            .up();
        self.run(self.handle.link().add(message.build()).execute())
    }

    /// Lets a bridge send packets back out of the port that they came from, for a pod that reaches itself.
    pub(crate) fn set_hairpin(&self, port: u32) -> io::Result<()> {
        self.run(self.handle.link().set_port(LinkBridgePort::new(port).hairpin(true).build()).execute())
    }

    pub(crate) fn set_up(&self, index: u32) -> io::Result<()> {
        self.run(self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute())
    }

    pub(crate) fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let request = self.handle.address().add(index, IpAddr::V4(address), prefix);
        tolerate(self.run(request.execute()), io::ErrorKind::AlreadyExists)
    }

    pub(crate) fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        tolerate(self.run(self.handle.route().add(route).execute()), io::ErrorKind::AlreadyExists)
    }

    /// Deletes an interface; succeeds when it is gone.
    pub(crate) fn delete(&self, index: u32) -> io::Result<()> {
        let result = self.run(self.handle.link().del(index).execute());
        result.or_else(|e| if e.raw_os_error() == Some(nix::libc::ENODEV) { Ok(()) } else { Err(e) })
    }
}

/// A hardware address made from an IPv4 address, so that neighbours who remember the last owner of an address are still right.
pub(crate) fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    // Locally administered, unicast.
    [0x0a, 0x58, a, b, c, d]
}

/// Configures the sandbox's own side; for a thread inside its namespace.
pub(crate) fn configure_inside(interface: &str, address: Ipv4Addr, range: Ipv4Net, gateway: Ipv4Addr) -> io::Result<()> {
    let netlink = Netlink::open()?;
    // The loopback interface is the first of every namespace.
    netlink.set_up(1)?;
    let link = netlink.link(interface)?.ok_or_else(|| io::Error::other(format!("{interface} is missing in the sandbox")))?;
    netlink.set_up(link.index)?;
    netlink.add_address(link.index, address, range.prefix_len())?;
    netlink.add_default_route(gateway)
}
