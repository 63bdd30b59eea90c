//! Virtual and real servers over generic netlink, family `IPVS` (linux/ip_vs.h). Blocking, in the calling thread's namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::{Socket, SocketAddr as Kernel, protocols::NETLINK_GENERIC};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;
use wharf_core::runtime::Protocol;

use crate::plan::{Destination, Key, Scheduler, Server};

/// How long an answer of the kernel may take, in seconds.
const TIMEOUT_SECONDS: i64 = 30;
/// Most messages that one dump may have.
const MAX_MESSAGES: usize = 1 << 20;

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const GET_DEST: u8 = 8;

const SERVICE: u16 = 1;
const DEST: u16 = 2;
const NESTED: u16 = 1 << 15;

const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_FWMARK: u16 = 5;
const SVC_SCHED_NAME: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;

const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FWD_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_U_THRESH: u16 = 5;
const DEST_L_THRESH: u16 = 6;
const DEST_ACTIVE_CONNS: u16 = 7;
const DEST_INACT_CONNS: u16 = 8;
const DEST_ADDR_FAMILY: u16 = 11;

/// IP_VS_SVC_F_PERSISTENT.
const PERSISTENT: u32 = 1;
/// IP_VS_CONN_F_MASQ, and the bits that tell forwarding methods apart.
const MASQUERADING: u32 = 0;
const METHOD_MASK: u32 = 7;

#[derive(Debug)]
struct Message {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "IPVS"
    }
    fn command(&self) -> u8 {
        self.command
    }
    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(payload: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(payload).map(|a| a.map(|a| DefaultNla::new(a.kind(), a.value().to_vec())));
        Ok(Self { command: header.cmd, attributes: attributes.collect::<Result<_, _>>()? })
    }
}

/// A set of attributes as it came.
type Attributes = BTreeMap<u16, Vec<u8>>;

fn attributes(payload: &[u8]) -> io::Result<Attributes> {
    NlasIterator::new(payload).map(|a| a.map(|a| (a.kind(), a.value().to_vec())).map_err(io::Error::other)).collect()
}

impl Message {
    /// The attributes nested in one of its own.
    fn nested(&self, wanted: u16) -> io::Result<Attributes> {
        use netlink_packet_core::Nla;
        let Some(found) = self.attributes.iter().find(|a| a.kind() == wanted) else { return Ok(Attributes::new()) };
        let mut value = vec![0; found.value_len()];
        found.emit_value(&mut value);
        attributes(&value)
    }
}

fn nest(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; inner.buffer_len()];
    inner.emit(&mut value);
    DefaultNla::new(kind | NESTED, value)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer has no valid {what}"))
}

fn number16(from: &Attributes, kind: u16, what: &str) -> io::Result<u16> {
    Ok(u16::from_ne_bytes(from.get(&kind).and_then(|v| v.get(..2)?.try_into().ok()).ok_or_else(|| malformed(what))?))
}

fn number32(from: &Attributes, kind: u16, what: &str) -> io::Result<u32> {
    Ok(u32::from_ne_bytes(from.get(&kind).and_then(|v| v.get(..4)?.try_into().ok()).ok_or_else(|| malformed(what))?))
}

/// A port, which is in network order unlike the other numbers.
fn port(from: &Attributes, kind: u16) -> io::Result<u16> {
    Ok(u16::from_be(number16(from, kind, "port")?))
}

fn family_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { nix::libc::AF_INET as u16 } else { nix::libc::AF_INET6 as u16 }
}

/// `union nf_inet_addr`: always 16 bytes.
fn address_bytes(ip: IpAddr) -> Vec<u8> {
    let mut bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.resize(16, 0);
    bytes
}

fn address(from: &Attributes, kind: u16, family: u16) -> io::Result<IpAddr> {
    let bytes = from.get(&kind).map(Vec::as_slice).unwrap_or_default();
    if i32::from(family) == nix::libc::AF_INET {
        let octets: [u8; 4] = bytes.get(..4).and_then(|b| b.try_into().ok()).ok_or_else(|| malformed("IPv4 address"))?;
        Ok(octets.into())
    } else {
        let octets: [u8; 16] = bytes.get(..16).and_then(|b| b.try_into().ok()).ok_or_else(|| malformed("IPv6 address"))?;
        Ok(octets.into())
    }
}

fn protocol_number(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => nix::libc::IPPROTO_TCP as u16,
        Protocol::Udp => nix::libc::IPPROTO_UDP as u16,
        Protocol::Sctp => nix::libc::IPPROTO_SCTP as u16,
    }
}

fn identity(key: &Key) -> Vec<DefaultNla> {
    vec![
        DefaultNla::new(SVC_AF, family_of(key.address.ip()).to_ne_bytes().into()),
        DefaultNla::new(SVC_PROTOCOL, protocol_number(key.protocol).to_ne_bytes().into()),
        DefaultNla::new(SVC_ADDR, address_bytes(key.address.ip())),
        DefaultNla::new(SVC_PORT, key.address.port().to_be_bytes().into()),
    ]
}

fn whole(key: &Key, server: &Server) -> Vec<DefaultNla> {
    let mut out = identity(key);
    let mut scheduler = server.scheduler.as_bytes().to_vec();
    scheduler.push(0);
    out.push(DefaultNla::new(SVC_SCHED_NAME, scheduler));
    let flags = if server.affinity.is_some() { PERSISTENT } else { 0 };
    // struct ip_vs_flags: the flags, and which of them are meant.
    out.push(DefaultNla::new(SVC_FLAGS, [flags.to_ne_bytes(), PERSISTENT.to_ne_bytes()].concat()));
    out.push(DefaultNla::new(SVC_TIMEOUT, server.affinity.unwrap_or(0).to_ne_bytes().into()));
    // A mask in network order for IPv4, a prefix length for IPv6: each client counts for itself.
    let mask = if key.address.is_ipv4() { u32::MAX } else { 128 };
    out.push(DefaultNla::new(SVC_NETMASK, mask.to_ne_bytes().into()));
    out
}

fn real(address: SocketAddr, weight: Option<u32>) -> Vec<DefaultNla> {
    let mut out = vec![
        DefaultNla::new(DEST_ADDR_FAMILY, family_of(address.ip()).to_ne_bytes().into()),
        DefaultNla::new(DEST_ADDR, address_bytes(address.ip())),
        DefaultNla::new(DEST_PORT, address.port().to_be_bytes().into()),
    ];
    if let Some(weight) = weight {
        for (kind, value) in [(DEST_FWD_METHOD, MASQUERADING), (DEST_WEIGHT, weight), (DEST_U_THRESH, 0), (DEST_L_THRESH, 0)] {
            out.push(DefaultNla::new(kind, value.to_ne_bytes().into()));
        }
    }
    out
}

/// A socket to IPVS.
pub(crate) struct Ipvs {
    socket: Socket,
    family: u16,
}

impl Ipvs {
    /// `None` if the kernel has no such family, now.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&Kernel::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
        let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(Message::family_name().into())] };
        let answers = match exchange(&socket, GenlMessage::from_payload(question), NLM_F_ACK) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let family =
            answers.iter().flat_map(|a| &a.1.nlas).find_map(|a| if let GenlCtrlAttrs::FamilyId(id) = a { Some(*id) } else { None });
        Ok(Some(Self { socket, family: family.ok_or_else(|| malformed("family id"))? }))
    }

    fn ask(&self, command: u8, attributes: Vec<DefaultNla>, flags: u16) -> io::Result<Vec<Message>> {
        let mut message = GenlMessage::from_payload(Message { command, attributes });
        message.set_resolved_family_id(self.family);
        Ok(exchange(&self.socket, message, flags)?.into_iter().map(|(_, m)| m).collect())
    }

    /// Every virtual server that is told apart by address, whoever made it.
    pub(crate) fn servers(&self) -> io::Result<Vec<(Key, Server)>> {
        let mut out = Vec::new();
        for message in self.ask(GET_SERVICE, vec![], NLM_F_DUMP)? {
            let it = message.nested(SERVICE)?;
            // Those by firewall mark are never ours.
            if it.contains_key(&SVC_FWMARK) || !it.contains_key(&SVC_PROTOCOL) {
                continue;
            }
            let protocol = match i32::from(number16(&it, SVC_PROTOCOL, "protocol")?) {
                nix::libc::IPPROTO_TCP => Protocol::Tcp,
                nix::libc::IPPROTO_UDP => Protocol::Udp,
                nix::libc::IPPROTO_SCTP => Protocol::Sctp,
                _ => continue,
            };
            let family = number16(&it, SVC_AF, "address family")?;
            let key = Key { protocol, address: SocketAddr::new(address(&it, SVC_ADDR, family)?, port(&it, SVC_PORT)?) };
            let name = it.get(&SVC_SCHED_NAME).map(Vec::as_slice).unwrap_or_default();
            let scheduler = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
            let persistent = number32(&it, SVC_FLAGS, "flags")? & PERSISTENT != 0;
            let affinity = if persistent { Some(number32(&it, SVC_TIMEOUT, "timeout")?) } else { None };
            out.push((key, Server { scheduler, affinity }));
        }
        Ok(out)
    }

    /// The real servers of a virtual server.
    pub(crate) fn destinations(&self, key: &Key) -> io::Result<BTreeMap<SocketAddr, Destination>> {
        let mut out = BTreeMap::new();
        for message in self.ask(GET_DEST, vec![nest(SERVICE, &identity(key))], NLM_F_DUMP)? {
            let it = message.nested(DEST)?;
            let family = if it.contains_key(&DEST_ADDR_FAMILY) {
                number16(&it, DEST_ADDR_FAMILY, "address family")?
            } else {
                family_of(key.address.ip())
            };
            let address = SocketAddr::new(address(&it, DEST_ADDR, family)?, port(&it, DEST_PORT)?);
            let connections = u64::from(number32(&it, DEST_ACTIVE_CONNS, "count")?) + u64::from(number32(&it, DEST_INACT_CONNS, "count")?);
            let weight = number32(&it, DEST_WEIGHT, "weight")?;
            let masquerading = number32(&it, DEST_FWD_METHOD, "forwarding method")? & METHOD_MASK == MASQUERADING;
            out.insert(address, Destination { weight, connections, masquerading });
        }
        Ok(out)
    }

    fn tell(&self, command: u8, attributes: Vec<DefaultNla>) -> io::Result<()> {
        self.ask(command, attributes, NLM_F_ACK).map(drop)
    }
    /// Makes a virtual server, or gives one that is there these properties.
    pub(crate) fn put_server(&self, key: &Key, server: &Server) -> io::Result<()> {
        let attributes = || vec![nest(SERVICE, &whole(key, server))];
        match self.tell(NEW_SERVICE, attributes()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.tell(SET_SERVICE, attributes()),
            other => other,
        }
    }
    /// Removes a virtual server and all behind it.
    pub(crate) fn remove_server(&self, key: &Key) -> io::Result<()> {
        gone(self.tell(DEL_SERVICE, vec![nest(SERVICE, &identity(key))]))
    }
    /// Makes a real server, or gives one that is there this weight.
    pub(crate) fn put_destination(&self, key: &Key, to: SocketAddr, weight: u32) -> io::Result<()> {
        let attributes = || vec![nest(SERVICE, &identity(key)), nest(DEST, &real(to, Some(weight)))];
        match self.tell(NEW_DEST, attributes()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.tell(SET_DEST, attributes()),
            other => other,
        }
    }
    /// Removes a real server; its connections end with the next packet.
    pub(crate) fn remove_destination(&self, key: &Key, to: SocketAddr) -> io::Result<()> {
        gone(self.tell(DEL_DEST, vec![nest(SERVICE, &identity(key)), nest(DEST, &real(to, None))]))
    }
}

/// ESRCH: no such service; ENOENT: no such destination.
fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if matches!(e.raw_os_error(), Some(nix::libc::ESRCH | nix::libc::ENOENT)) { Ok(()) } else { Err(e) })
}

/// The scheduler's name as the kernel knows it.
impl Scheduler {
    /// `rr`, `wrr`, `lc` or `sh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnections => "lc",
            Self::SourceHash => "sh",
        }
    }
}

/// Sends one request and collects what comes back until the kernel says that this was all.
fn exchange<F>(socket: &Socket, message: GenlMessage<F>, flags: u16) -> io::Result<Vec<(GenlHeader, F)>>
where
    F: std::fmt::Debug,
    GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<GenlMessage<F>>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, message.into());
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

    let mut out = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length() as usize;
            match NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(io::Error::other)?.payload {
                NetlinkPayload::InnerMessage(message) if out.len() < MAX_MESSAGES => out.push(message.into_parts()),
                NetlinkPayload::InnerMessage(_) => return Err(io::Error::other("the kernel's answer does not end")),
                NetlinkPayload::Done(_) => return Ok(out),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(out),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> Key {
        Key { protocol: Protocol::Tcp, address: address.parse().unwrap() }
    }

    #[test]
    fn what_is_written_reads_back() {
        for at in ["10.96.0.1:80", "[fd00:96::1]:443"] {
            let server = Server { scheduler: "rr".into(), affinity: Some(60) };
            let sent = Message { command: NEW_SERVICE, attributes: vec![nest(SERVICE, &whole(&key(at), &server))] };
            let mut bytes = vec![0; sent.buffer_len()];
            sent.emit(&mut bytes);
            let back = Message::parse_with_param(&bytes, GenlHeader { cmd: NEW_SERVICE, version: 1 }).unwrap();
            let it = back.nested(SERVICE).unwrap();
            let family = number16(&it, SVC_AF, "").unwrap();
            let ip = address(&it, SVC_ADDR, family).unwrap();
            assert_eq!(SocketAddr::new(ip, port(&it, SVC_PORT).unwrap()), at.parse().unwrap());
            assert_eq!(it[&SVC_SCHED_NAME], b"rr\0");
            assert_eq!((number32(&it, SVC_FLAGS, "").unwrap(), number32(&it, SVC_TIMEOUT, "").unwrap()), (PERSISTENT, 60));
        }
    }

    #[test]
    fn short_answers_are_errors() {
        let it = Attributes::from([(SVC_ADDR, vec![10, 0]), (SVC_PORT, vec![1])]);
        assert!(address(&it, SVC_ADDR, nix::libc::AF_INET as u16).is_err());
        assert!(port(&it, SVC_PORT).is_err());
        assert!(number32(&it, SVC_FLAGS, "flags").is_err());
        assert!(attributes(&[9, 0, 1]).is_err());
    }
}
