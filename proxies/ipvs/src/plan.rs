//! From what is there to what is wanted: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use wharf_core::runtime::Protocol;

use crate::sets::Sets;

/// How a virtual server spreads connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Scheduler {
    /// `rr`: one after the other.
    #[default]
    RoundRobin,
    /// `wrr`: the same by weight; endpoints have equal ones.
    WeightedRoundRobin,
    /// `lc`: to whom has the fewest connections.
    LeastConnections,
    /// `sh`: by the client's address.
    SourceHash,
}

/// What tells one virtual server from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address)
    }
}

/// The properties of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) scheduler: String,
    /// Seconds of client affinity.
    pub(crate) affinity: Option<u32>,
}

/// A real server that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) weight: u32,
    /// Those that transfer data and those that only just ended.
    pub(crate) connections: u64,
    pub(crate) masquerading: bool,
}

/// The weight of every endpoint that gets traffic.
pub(crate) const WEIGHT: u32 = 1;

/// What there should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    pub(crate) servers: BTreeMap<Key, (Server, BTreeSet<SocketAddr>)>,
    /// On the dummy interface.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) sets: Sets,
}

/// What there is of ours, or in the way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) servers: BTreeMap<Key, (Server, BTreeMap<SocketAddr, Destination>)>,
    /// Virtual servers that the sets say are ours.
    pub(crate) own: BTreeSet<Key>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) sets: Sets,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    PutServer(Key, Server),
    RemoveServer(Key),
    /// Makes a real server or gives it its weight back.
    PutDestination(Key, SocketAddr),
    /// Weight 0, and away with it if it has no connection.
    RetireDestination(Key, SocketAddr),
    RemoveDestination(Key, SocketAddr),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutServer(key, s) => match s.affinity {
                Some(seconds) => write!(f, "put {key} {} for {seconds} s", s.scheduler),
                None => write!(f, "put {key} {}", s.scheduler),
            },
            Self::RemoveServer(key) => write!(f, "remove {key}"),
            Self::PutDestination(key, to) => write!(f, "put {key} -> {to}"),
            Self::RetireDestination(key, to) => write!(f, "retire {key} -> {to}"),
            Self::RemoveDestination(key, to) => write!(f, "remove {key} -> {to}"),
        }
    }
}

/// The steps, in two halves: first what lets more traffic through, later, after the packet filter, what lets less through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Steps {
    pub(crate) first: Vec<Step>,
    pub(crate) bind: BTreeSet<IpAddr>,
    pub(crate) last: Vec<Step>,
    pub(crate) unbind: BTreeSet<IpAddr>,
}

/// Real servers that are on their way out.
pub(crate) type Draining = BTreeSet<(Key, SocketAddr)>;

/// The steps from what is seen to what is wanted. `overdue` names the real servers that had their time to end connections.
///
/// A virtual server of somebody else is touched only if a Service wants its very address.
pub(crate) fn steps(wanted: &Wanted, seen: &Seen, overdue: &Draining) -> Steps {
    let mut steps = Steps::default();
    for (key, (server, endpoints)) in &wanted.servers {
        let there = seen.servers.get(key);
        if there.is_none_or(|(s, _)| s != server) {
            steps.first.push(Step::PutServer(*key, server.clone()));
        }
        let empty = BTreeMap::new();
        let destinations = there.map_or(&empty, |(_, d)| d);
        for to in endpoints {
            if destinations.get(to).is_none_or(|d| d.weight != WEIGHT || !d.masquerading) {
                steps.first.push(Step::PutDestination(*key, *to));
            }
        }
        retire(key, destinations.iter().filter(|(to, _)| !endpoints.contains(to)), overdue, &mut steps.last);
    }
    for key in seen.own.iter().filter(|k| !wanted.servers.contains_key(k)) {
        let Some((_, destinations)) = seen.servers.get(key) else { continue };
        // A Service that lost its endpoints lets connections end; one that is gone does not.
        if wanted.sets.has(key) {
            let before = steps.last.len();
            retire(key, destinations.iter(), overdue, &mut steps.last);
            let removed = steps.last[before..].iter().filter(|s| matches!(s, Step::RemoveDestination(..))).count();
            if removed < destinations.len() {
                continue;
            }
            steps.last.truncate(before);
        }
        steps.last.push(Step::RemoveServer(*key));
    }
    steps.bind = wanted.addresses.difference(&seen.addresses).copied().collect();
    steps.unbind = seen.addresses.difference(&wanted.addresses).copied().collect();
    steps
}

fn retire<'a>(key: &Key, gone: impl Iterator<Item = (&'a SocketAddr, &'a Destination)>, overdue: &Draining, out: &mut Vec<Step>) {
    for (to, destination) in gone {
        // UDP has no connections that end: a client that goes on sending would stay for ever.
        let at_once = key.protocol == Protocol::Udp || overdue.contains(&(*key, *to));
        if at_once || (destination.weight == 0 && destination.connections == 0) {
            out.push(Step::RemoveDestination(*key, *to));
        } else if destination.weight > 0 {
            out.push(Step::RetireDestination(*key, *to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::Kind;

    const A: &str = "10.0.0.1:8080";
    const B: &str = "10.0.0.2:8080";

    fn key(protocol: Protocol) -> Key {
        Key { protocol, address: "10.96.0.1:80".parse().unwrap() }
    }
    fn server() -> Server {
        Server { scheduler: "rr".into(), affinity: None }
    }
    fn wanted(protocol: Protocol, endpoints: &[&str]) -> Wanted {
        let mut wanted = Wanted { addresses: BTreeSet::from(["10.96.0.1".parse().unwrap()]), ..Wanted::default() };
        wanted.sets.put(Kind::Cluster, &key(protocol), "a/web");
        if !endpoints.is_empty() {
            wanted.servers.insert(key(protocol), (server(), endpoints.iter().map(|e| e.parse().unwrap()).collect()));
        }
        wanted
    }
    fn seen(protocol: Protocol, destinations: &[(&str, u32, u64)]) -> Seen {
        let there = destinations.iter().map(|(at, weight, connections)| {
            (at.parse().unwrap(), Destination { weight: *weight, connections: *connections, masquerading: true })
        });
        let wanted = wanted(protocol, &[]);
        Seen {
            servers: BTreeMap::from([(key(protocol), (server(), there.collect()))]),
            own: BTreeSet::from([key(protocol)]),
            addresses: wanted.addresses,
            sets: wanted.sets,
        }
    }
    fn text(steps: &Steps) -> Vec<String> {
        let bind = steps.bind.iter().map(|a| format!("bind {a}"));
        let unbind = steps.unbind.iter().map(|a| format!("unbind {a}"));
        let first = steps.first.iter().map(Step::to_string);
        first.chain(bind).chain(steps.last.iter().map(Step::to_string)).chain(unbind).collect()
    }

    #[test]
    fn from_nothing() {
        let steps = steps(&wanted(Protocol::Tcp, &[A, B]), &Seen::default(), &Draining::new());
        assert_eq!(
            text(&steps),
            ["put TCP 10.96.0.1:80 rr", "put TCP 10.96.0.1:80 -> 10.0.0.1:8080", "put TCP 10.96.0.1:80 -> 10.0.0.2:8080", "bind 10.96.0.1"]
        );
    }

    #[test]
    fn nothing_to_do() {
        let steps = steps(&wanted(Protocol::Tcp, &[A]), &seen(Protocol::Tcp, &[(A, 1, 3)]), &Draining::new());
        assert_eq!(steps, Steps::default());
    }

    #[test]
    fn an_endpoint_leaves_after_its_connections() {
        let wanted = wanted(Protocol::Tcp, &[B]);
        let of = |seen: &[(&str, u32, u64)], overdue: &Draining| text(&steps(&wanted, &self::seen(Protocol::Tcp, seen), overdue));
        let none = Draining::new();
        assert_eq!(of(&[(A, 1, 1), (B, 1, 0)], &none), ["retire TCP 10.96.0.1:80 -> 10.0.0.1:8080"]);
        assert_eq!(of(&[(A, 0, 1), (B, 1, 0)], &none), Vec::<String>::new());
        assert_eq!(of(&[(A, 0, 0), (B, 1, 0)], &none), ["remove TCP 10.96.0.1:80 -> 10.0.0.1:8080"]);
        let overdue = Draining::from([(key(Protocol::Tcp), A.parse().unwrap())]);
        assert_eq!(of(&[(A, 0, 1), (B, 1, 0)], &overdue), ["remove TCP 10.96.0.1:80 -> 10.0.0.1:8080"]);
    }

    #[test]
    fn an_endpoint_that_comes_back_gets_its_weight_back() {
        let steps = steps(&wanted(Protocol::Tcp, &[A]), &seen(Protocol::Tcp, &[(A, 0, 1)]), &Draining::new());
        assert_eq!(text(&steps), ["put TCP 10.96.0.1:80 -> 10.0.0.1:8080"]);
    }

    #[test]
    fn udp_endpoints_leave_at_once() {
        let steps = steps(&wanted(Protocol::Udp, &[B]), &seen(Protocol::Udp, &[(A, 1, 7), (B, 1, 0)]), &Draining::new());
        assert_eq!(text(&steps), ["remove UDP 10.96.0.1:80 -> 10.0.0.1:8080"]);
    }

    #[test]
    fn the_last_endpoint_takes_the_server_with_it() {
        let none = wanted(Protocol::Tcp, &[]);
        let of = |seen: &[(&str, u32, u64)]| text(&steps(&none, &self::seen(Protocol::Tcp, seen), &Draining::new()));
        assert_eq!(of(&[(A, 1, 1)]), ["retire TCP 10.96.0.1:80 -> 10.0.0.1:8080"]);
        assert_eq!(of(&[(A, 0, 1)]), Vec::<String>::new());
        assert_eq!(of(&[(A, 0, 0)]), ["remove TCP 10.96.0.1:80"]);
    }

    #[test]
    fn a_removed_service_is_removed_at_once() {
        let steps = steps(&Wanted::default(), &seen(Protocol::Tcp, &[(A, 1, 5)]), &Draining::new());
        assert_eq!(text(&steps), ["remove TCP 10.96.0.1:80", "unbind 10.96.0.1"]);
    }

    #[test]
    fn strangers_are_left_alone() {
        let mut seen = seen(Protocol::Tcp, &[(A, 1, 0)]);
        seen.own.clear();
        seen.addresses.clear();
        assert_eq!(steps(&Wanted::default(), &seen, &Draining::new()), Steps::default());
    }

    #[test]
    fn what_somebody_changed_is_repaired() {
        let mut seen = seen(Protocol::Tcp, &[(A, 5, 0)]);
        if let Some((server, _)) = seen.servers.get_mut(&key(Protocol::Tcp)) {
            server.scheduler = "lc".into();
        }
        let steps = steps(&wanted(Protocol::Tcp, &[A]), &seen, &Draining::new());
        assert_eq!(text(&steps), ["put TCP 10.96.0.1:80 rr", "put TCP 10.96.0.1:80 -> 10.0.0.1:8080"]);
    }
}
