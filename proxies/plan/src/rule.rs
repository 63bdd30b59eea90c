//! Rules, in netfilter's words. Their `Display` is the notation that iptables-save prints and iptables-restore reads.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use wharf_core::runtime::Protocol;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Whether an address is of this family.
    pub fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
    /// The machine talking to itself.
    pub fn loopback(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
            Self::V6 => IpNet::from(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)),
        }
    }
}

/// A table of netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Rewrites addresses.
    Nat,
    /// Lets through or not.
    Filter,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nat, Self::Filter];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        })
    }
}

/// What a packet must be for a rule to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Match {
    /// It comes from here.
    Source(IpNet),
    /// It goes there.
    Destination(IpNet),
    /// It goes anywhere but there.
    NotDestination(IpNet),
    /// Its protocol.
    Protocol(Protocol),
    /// Its protocol and destination port.
    Port(Protocol, u16),
    /// Its destination is an address of this machine.
    DestinationLocal,
    /// Its source is an address of this machine.
    SourceLocal,
    /// It has one of these connection states (`NEW`, `RELATED,ESTABLISHED`, `INVALID`).
    State(&'static str),
    /// It has this mark.
    Mark(u32),
    /// It does not have this mark.
    NotMark(u32),
    /// By chance: one packet in so many.
    OneIn(u32),
    /// Its source was noted under this name within so many seconds.
    Recent(String, u32),
    /// Notes its source under this name; always true.
    Note(String),
    /// An address, port or both of it are in this ipset. The second part says which, as in `dst,dst`.
    Set(String, &'static str),
    /// Always true; says what the rule is for.
    Comment(String),
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// Goes on in another chain.
    Chain(String),
    /// Goes back to the calling chain.
    Return,
    /// Passes.
    Accept,
    /// Is dropped.
    Drop,
    /// Is answered with "port unreachable", which clients see as refused.
    Reject(Family),
    /// Is answered with a TCP reset. Unlike ICMP, which the kernel sends to one peer about once a second.
    Reset,
    /// Gets a mark.
    SetMark(u32),
    /// Has a mark toggled.
    FlipMark(u32),
    /// Gets another destination.
    Dnat(SocketAddr),
    /// Gets this machine as source.
    Masquerade,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must match.
    pub matches: Vec<Match>,
    /// Then this is done.
    pub target: Target,
}

/// Longest comment that the kernel keeps, in bytes.
const MAX_COMMENT: usize = 255;
/// xt_statistic keeps probabilities as fractions of this.
const STATISTIC_ONE: u64 = 1 << 31;

/// Keeps what cannot end the comment, the line or the rule: names may come from an embedder who does not validate them.
pub(crate) fn comment(text: &str) -> String {
    text.chars().take(MAX_COMMENT).map(|c| if c.is_ascii_alphanumeric() || " ._:/>[]-".contains(c) { c } else { '_' }).collect()
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(net) => write!(f, "-s {net}"),
            Self::Destination(net) => write!(f, "-d {net}"),
            Self::NotDestination(net) => write!(f, "! -d {net}"),
            Self::Protocol(protocol) => write!(f, "-p {}", lower(*protocol)),
            Self::Port(protocol, port) => write!(f, "-p {0} -m {0} --dport {port}", lower(*protocol)),
            Self::DestinationLocal => f.write_str("-m addrtype --dst-type LOCAL"),
            Self::SourceLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Self::State(states) => write!(f, "-m conntrack --ctstate {states}"),
            Self::Mark(mark) => write!(f, "-m mark --mark {mark:#x}/{mark:#x}"),
            Self::NotMark(mark) => write!(f, "-m mark ! --mark {mark:#x}/{mark:#x}"),
            Self::OneIn(n) => {
                // Rounded as the kernel does, so that what is read back equals what was written.
                let n = u64::from(*n).max(1);
                let fixed = (STATISTIC_ONE + n / 2) / n;
                write!(f, "-m statistic --mode random --probability {:.11}", fixed as f64 / STATISTIC_ONE as f64)
            }
            Self::Recent(name, seconds) => {
                write!(f, "-m recent --rcheck --seconds {seconds} --reap --name {name} --mask 255.255.255.255 --rsource")
            }
            Self::Note(name) => write!(f, "-m recent --set --name {name} --mask 255.255.255.255 --rsource"),
            Self::Set(set, which) => write!(f, "-m set --match-set {set} {which}"),
            Self::Comment(text) => write!(f, "-m comment --comment \"{}\"", comment(text)),
        }
    }
}

pub(crate) fn lower(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(name) => write!(f, "-j {name}"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Reject(Family::V4) => f.write_str("-j REJECT --reject-with icmp-port-unreachable"),
            Self::Reject(Family::V6) => f.write_str("-j REJECT --reject-with icmp6-port-unreachable"),
            Self::Reset => f.write_str("-j REJECT --reject-with tcp-reset"),
            Self::SetMark(mark) => write!(f, "-j MARK --set-xmark {mark:#x}/{mark:#x}"),
            Self::FlipMark(mark) => write!(f, "-j MARK --set-xmark {mark:#x}/0x0"),
            Self::Dnat(to) => write!(f, "-j DNAT --to-destination {to}"),
            Self::Masquerade => f.write_str("-j MASQUERADE --random-fully"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.matches {
            write!(f, "{one} ")?;
        }
        self.target.fmt(f)
    }
}

impl Rule {
    /// A rule.
    pub fn new(matches: impl Into<Vec<Match>>, target: Target) -> Self {
        Self { matches: matches.into(), target }
    }
}
