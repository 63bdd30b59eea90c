//! Deletes conntrack entries over netlink (ctnetlink): what `conntrack -D` does, without the program.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc::{AF_INET, AF_INET6, IPPROTO_UDP};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket};
use nix::sys::time::TimeVal;

const CTNETLINK: u16 = 1 << 8;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
const NEW: u16 = CTNETLINK;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Length of a netlink header, and of netfilter's after it.
const HEADER: usize = 16;
const NF_HEADER: usize = 4;
/// The kernel fills at most this much at once.
const BUFFER: usize = 64 << 10;
/// Most entries that one call looks at; conntrack's own limit is lower on most machines.
const MAX_ENTRIES: usize = 4 << 20;
/// How long an answer may take, in seconds.
const TIMEOUT_SECONDS: i64 = 5;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// The bits of an attribute's type that are flags.
const TYPE_MASK: u16 = 0x3fff;

/// Deletes the entries of UDP flows that were redirected to `gone`, and of those to `fresh` that were not redirected at all.
/// Returns how many. Works in the network namespace of the calling thread; blocks.
pub(crate) fn forget_udp(gone: &BTreeSet<SocketAddr>, fresh: &BTreeSet<SocketAddr>) -> io::Result<usize> {
    let socket = open()?;
    let mut forgotten = 0;
    for family in [AF_INET, AF_INET6] {
        let wanted = |a: &SocketAddr| a.is_ipv4() == (family == AF_INET);
        if !gone.iter().chain(fresh).any(wanted) {
            continue;
        }
        for flow in dump(&socket, family)? {
            let redirected = flow.reply_source != flow.destination;
            let stale = if redirected { gone.contains(&flow.reply_source) } else { fresh.contains(&flow.destination) };
            if stale && delete(&socket, family, &flow.original)? {
                forgotten += 1;
            }
        }
    }
    Ok(forgotten)
}

#[derive(Debug)]
struct Flow {
    /// The attribute TUPLE_ORIG as it came, to name the flow by.
    original: Vec<u8>,
    destination: SocketAddr,
    reply_source: SocketAddr,
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
    Ok(socket)
}

fn request(socket: &OwnedFd, kind: u16, flags: u16, family: i32, attributes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(HEADER + NF_HEADER + attributes.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST).to_ne_bytes());
    // Sequence and port: one request at a time, and the kernel knows us.
    message.extend([0u8; 8]);
    message.extend([u8::try_from(family).map_err(io::Error::other)?, 0, 0, 0]);
    message.extend(attributes);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Calls `each` with the type and body of every message, until it says that it was the last.
fn receive(socket: &OwnedFd, mut each: impl FnMut(u16, &[u8]) -> io::Result<bool>) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..read];
        while let Some((kind, body, tail)) = split_message(rest) {
            if each(kind, body)? {
                return Ok(());
            }
            rest = tail;
        }
    }
}

fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(align(length)..).unwrap_or_default()))
}

fn align(length: usize) -> usize {
    (length + 3) & !3
}

fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn dump(socket: &OwnedFd, family: i32) -> io::Result<Vec<Flow>> {
    request(socket, GET, DUMP, family, &[])?;
    let mut flows = Vec::new();
    let mut seen = 0;
    receive(socket, |kind, body| {
        seen += 1;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => error_of(body).map(|()| true)?,
            NEW => {
                flows.extend(body.get(NF_HEADER..).and_then(parse_flow));
                false
            }
            _ => false,
        };
        if seen > MAX_ENTRIES { Err(io::Error::other("conntrack's table does not end")) } else { Ok(kind == NLMSG_ERROR) }
    })?;
    Ok(flows)
}

/// Whether the flow was still there.
fn delete(socket: &OwnedFd, family: i32, original: &[u8]) -> io::Result<bool> {
    request(socket, DELETE, ACK, family, original)?;
    let mut outcome = Ok(());
    receive(socket, |kind, body| {
        if kind == NLMSG_ERROR {
            outcome = error_of(body);
        }
        Ok(kind == NLMSG_ERROR)
    })?;
    match outcome {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Every attribute: its type, its value, and it whole with header and padding.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        let whole = &bytes[..align(length).min(bytes.len())];
        bytes = &bytes[whole.len()..];
        Some((kind, value, whole))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _, _)| *kind == wanted).map(|(_, value, _)| value)
}

/// A UDP flow; `None` for other protocols and for what does not parse.
fn parse_flow(bytes: &[u8]) -> Option<Flow> {
    let (_, original, whole) = attributes(bytes).find(|(kind, _, _)| *kind == TUPLE_ORIG)?;
    let reply = find(bytes, TUPLE_REPLY)?;
    let destination = parse_end(original, 2, 4, 3)?;
    let reply_source = parse_end(reply, 1, 3, 2)?;
    Some(Flow { original: whole.to_vec(), destination, reply_source })
}

/// One end of a tuple, by the attribute numbers of its IPv4 address, IPv6 address and port.
fn parse_end(tuple: &[u8], v4: u16, v6: u16, port: u16) -> Option<SocketAddr> {
    let (ip, protocol) = (find(tuple, TUPLE_IP)?, find(tuple, TUPLE_PROTO)?);
    if find(protocol, 1)?.first().copied() != u8::try_from(IPPROTO_UDP).ok() {
        return None;
    }
    let address: IpAddr = match (find(ip, v4), find(ip, v6)) {
        (Some(bytes), _) => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        (_, Some(bytes)) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(find(protocol, port)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(align(out.len()), 0);
        out
    }
    fn tuple(kind: u16, source: ([u8; 4], u16), destination: ([u8; 4], u16), protocol: u8) -> Vec<u8> {
        let ip = [attribute(1, &source.0), attribute(2, &destination.0)].concat();
        let ports = [attribute(1, &[protocol]), attribute(2, &source.1.to_be_bytes()), attribute(3, &destination.1.to_be_bytes())].concat();
        // The kernel sets the flag "nested" on containers.
        attribute(kind | 0x8000, &[attribute(TUPLE_IP | 0x8000, &ip), attribute(TUPLE_PROTO | 0x8000, &ports)].concat())
    }

    #[test]
    fn reads_both_ends_of_a_redirected_flow() {
        let bytes = [
            tuple(TUPLE_ORIG, ([10, 0, 0, 9], 5000), ([10, 96, 0, 1], 53), 17),
            tuple(TUPLE_REPLY, ([10, 0, 0, 2], 5353), ([10, 0, 0, 9], 5000), 17),
        ]
        .concat();
        let flow = parse_flow(&bytes).unwrap();
        assert_eq!(flow.destination, "10.96.0.1:53".parse().unwrap());
        assert_eq!(flow.reply_source, "10.0.0.2:5353".parse().unwrap());
        assert_eq!(flow.original, tuple(TUPLE_ORIG, ([10, 0, 0, 9], 5000), ([10, 96, 0, 1], 53), 17));
    }

    #[test]
    fn other_protocols_and_torn_messages_are_passed_over() {
        let tcp = [tuple(1, ([1; 4], 1), ([2; 4], 2), 6), tuple(2, ([2; 4], 2), ([1; 4], 1), 6)].concat();
        assert!(parse_flow(&tcp).is_none());
        let udp = [tuple(1, ([1; 4], 1), ([2; 4], 2), 17), tuple(2, ([2; 4], 2), ([1; 4], 1), 17)].concat();
        for cut in 0..udp.len() {
            let _ = parse_flow(&udp[..cut]);
        }
        assert!(split_message(&[255; 20]).is_none());
        assert!(split_message(&[0; 3]).is_none());
        assert!(split_message(&[0; 20]).is_none(), "a length below the header must not loop");
    }
}
