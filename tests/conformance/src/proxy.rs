//! The proxy kit: what [`NetworkProxy`](wharf_core::proxy::NetworkProxy)'s contract says, case by case.
//!
//! Cases look at what packets do, not at rules. A [`ProxyWorld`] is a node with a proxy, some pods that answer, and a machine
//! outside: real ones in network namespaces, or imagined ones for a proxy that is imagined too.

mod affinity;
mod connection;
mod endpoint;
mod foreign;
mod generation;
mod kit;
mod node_port;
mod policy;
mod service;
mod teardown;

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use ipnet::IpNet;
use wharf_core::proxy::{NodeInfo, SharedProxy};
use wharf_core::runtime::Protocol;

use crate::{CaseResult, Harness};

/// How many pods a world must have.
pub const PODS: usize = 3;

/// Makes worlds for the kit.
#[async_trait]
pub trait ProxyHarness: Harness {
    /// A fresh world in which nothing is installed. [`skip`](crate::skip) where the machine cannot.
    async fn world(&self) -> CaseResult<Box<dyn ProxyWorld>>;
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A machine outside of the cluster.
    Outside,
    /// The proxy's own node.
    Node,
    /// One of [`ProxyWorld::pods`].
    Pod(usize),
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This pod answered, and saw this source.
    Pod(usize, IpAddr),
    /// Refused at once.
    Refused,
    /// Nothing came back in the time that the world allows, or no way leads there.
    Silence,
}

/// A connection that stays open.
#[async_trait]
pub trait Open: Send {
    /// The pod at its other end.
    fn pod(&self) -> usize;
    /// Sends something through and back; false if it does not come.
    async fn echo(&mut self) -> bool;
}

/// A node with a proxy, and who talks through it. Everything is removed when it is dropped.
#[async_trait]
pub trait ProxyWorld: Send + Sync {
    /// The proxy.
    fn proxy(&self) -> SharedProxy;
    /// A proxy as a later process would make it over the same node. `None` if nothing outlives a process.
    fn restarted(&self) -> Option<SharedProxy>;
    /// The node, for the state.
    fn node(&self) -> NodeInfo;
    /// The node's address, as the machine outside knows it.
    fn node_address(&self) -> IpAddr;
    /// The pods' ranges, for the state.
    fn pod_cidrs(&self) -> Vec<IpNet>;
    /// At least [`PODS`] addresses where a pod answers, over TCP and UDP. Which of them count as local is the case's to say.
    fn pods(&self) -> Vec<SocketAddr>;
    /// A new connection, or a UDP question from a fresh port.
    async fn ask(&self, from: Sender, to: SocketAddr, protocol: Protocol) -> Answer;
    /// A TCP connection that stays open; `None` if it cannot be made.
    async fn open(&self, from: Sender, to: SocketAddr) -> Option<Box<dyn Open>>;
    /// Adds rules that are none of the proxy's. False if the world has no such thing.
    async fn add_foreign(&self) -> bool;
    /// Everything installed on the node, whoever made it, as text that is the same for the same rules.
    async fn installed(&self) -> String;
    /// Whether what [`ProxyWorld::add_foreign`] added is there, complete and in order.
    async fn foreign_is_whole(&self) -> bool;
    /// Damages what the proxy installed, as a stranger would. False if that cannot be done.
    async fn damage(&self) -> bool;
}

crate::suite!($ proxy_suite, proxy, dyn ProxyHarness, {
    generation {
        nothing_at_first, is_read_back, older_is_refused, same_changes_nothing, same_repairs, survives_the_process,
        newest_of_many_wins,
    }
    service {
        is_read_back, from_everywhere, two_do_not_mix, removed_is_silent, udp, changes_touch_little, empty_state,
    }
    endpoint {
        all_are_reached, unready_gets_nothing, terminating_is_the_last_resort, removed_gets_nothing, reaches_itself,
        none_is_refused, none_then_some,
    }
    node_port {
        reaches_all, none_is_refused, removed_is_closed,
    }
    policy {
        external_local_only, external_local_keeps_the_source, external_without_local_is_dropped, internal_local_only,
        source_ranges_hold,
    }
    affinity {
        keeps_the_endpoint, moves_when_it_goes,
    }
    connection {
        open_ones_go_on, none_is_lost_meanwhile,
    }
    foreign {
        untouched_by_apply, untouched_by_teardown,
    }
    teardown {
        nothing_to_do, stops_traffic, forgets_the_generation, leaves_no_trace, after_a_restart,
    }
});
