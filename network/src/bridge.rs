//! The bridge network.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use wharf_core::proxy::ProxyError;
use wharf_core::runtime::{BoxError, PodNetwork, PodNetworkConfig, PodNetworkError, PodNetworkStatus};
use wharf_netfilter::{Iptables, in_netns};
use wharf_proxy_plan::{Family, Table};

use crate::addresses::{Addresses, HostPort};
use crate::netlink::{Link, Netlink, configure_inside, mac_of};
use crate::rules::Rules;

/// The bridge's name unless said otherwise.
pub const DEFAULT_BRIDGE: &str = "wharf0";
/// Largest packet, in bytes, unless said otherwise.
const DEFAULT_MTU: u32 = 1500;
/// The smallest that IPv4 demands of an interface that forwards, and the largest that veth takes.
const MTUS: std::ops::RangeInclusive<u32> = 576..=65_535;
/// Longest name of an interface.
const MAX_INTERFACE: usize = 15;
/// The longest prefix that leaves an address for a pod.
const MAX_PREFIX: u8 = 30;
/// The sandbox's interface, as pods expect it.
const INSIDE: &str = "eth0";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// There when bridged packets can be made to pass through iptables.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What an embedder may choose.
#[derive(Debug, Clone)]
pub struct Builder {
    address: Ipv4Addr,
    prefix: u8,
    state_dir: PathBuf,
    bridge: String,
    mtu: u32,
    cluster: Vec<Ipv4Net>,
    masquerade: bool,
    netns: Option<PathBuf>,
}

impl Builder {
    /// The bridge's name, 1 to 15 letters, digits, `-`, `_` or `.`; [`DEFAULT_BRIDGE`] unless said. Two networks on one machine
    /// need different ones.
    #[must_use]
    pub fn bridge(mut self, name: impl Into<String>) -> Self {
        self.bridge = name.into();
        self
    }
    /// Largest packet, in bytes; 1500 unless said.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }
    /// Ranges of the cluster beyond the node's own, which pods reach under their own address.
    #[must_use]
    pub fn cluster_ranges(mut self, ranges: impl IntoIterator<Item = Ipv4Net>) -> Self {
        self.cluster = ranges.into_iter().collect();
        self
    }
    /// Whether traffic that leaves the cluster takes this machine's address; yes unless said.
    #[must_use]
    pub fn masquerade(mut self, yes: bool) -> Self {
        self.masquerade = yes;
        self
    }
    /// Builds the bridge in the network namespace at this path instead of the process's own.
    #[must_use]
    pub fn netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.netns = Some(path.into());
        self
    }

    /// The network. Reads the allocations that are kept; touches nothing else yet.
    ///
    /// # Errors
    /// When a choice cannot work, or the kept allocations cannot be read.
    pub fn build(self) -> Result<BridgeNetwork, PodNetworkError> {
        let refuse = |message: String| PodNetworkError::Backend { op: "configuring the pod network", source: message.into() };
        let range = Ipv4Net::new(self.address, self.prefix).map_err(|e| refuse(e.to_string()))?.trunc();
        if range.prefix_len() > MAX_PREFIX {
            return Err(refuse(format!("{range} has no address for a pod; use a prefix of at most {MAX_PREFIX}")));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.bridge.is_empty()
            || self.bridge.len() > MAX_INTERFACE
            || !self.bridge.chars().all(fits)
            || self.bridge.starts_with(['.', '-'])
        {
            return Err(refuse(format!("bridge name {:?} should be 1 to {MAX_INTERFACE} letters, digits, '-', '_' or '.'", self.bridge)));
        }
        if !MTUS.contains(&self.mtu) {
            return Err(refuse(format!("mtu {} should be within {} and {}", self.mtu, MTUS.start(), MTUS.end())));
        }
        let file = self.state_dir.join(format!("{}.json", self.bridge));
        let addresses = Addresses::open(range, file).map_err(|e| backend("reading address allocations", e))?;
        // Found once: whether it works is seen when it is used.
        let iptables = match Iptables::find(Family::V4, None) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!(%error, "pods reach each other, but neither other machines nor host ports will work");
                None
            }
        };
        let shape = Shape {
            range,
            bridge: self.bridge,
            mtu: self.mtu,
            cluster: self.cluster,
            masquerade: self.masquerade,
            iptables,
            netns: self.netns,
        };
        Ok(BridgeNetwork { shape: Arc::new(shape), state: Arc::new(Mutex::new(State { addresses, rules: None })) })
    }
}

/// A bridge with a veth pair for each sandbox.
///
/// # What it makes
/// The bridge with the first address of its range; one `wv...` interface for each sandbox; chains named
/// `WHARF-NET-<bridge>-*` with a jump each; one file in the state folder. It turns IPv4 forwarding on if it is off.
/// [`PodNetwork::shutdown`] takes all of it back.
///
/// # Without iptables
/// Pods reach each other and their own machine, but nothing beyond, unless something else translates their addresses. A
/// warning says so, and [`BridgeNetwork::has_packet_filter`] tells. A sandbox that asks for host ports is refused.
///
/// # Services between pods of one bridge
/// Answers must pass through this machine's connection tracking. If `br_netfilter` is loaded, the bridge is told to let
/// its packets through iptables; otherwise redirected traffic between its pods is masqueraded.
///
/// # Limits
/// IPv4 only.
#[derive(Debug, Clone)]
pub struct BridgeNetwork {
    shape: Arc<Shape>,
    /// Held by the work itself, so that a call waits also for one whose future was dropped.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct Shape {
    range: Ipv4Net,
    bridge: String,
    mtu: u32,
    cluster: Vec<Ipv4Net>,
    masquerade: bool,
    iptables: Option<Iptables>,
    netns: Option<PathBuf>,
}

#[derive(Debug)]
struct State {
    addresses: Addresses,
    /// The rules as written last by this process; `None` before the first time.
    rules: Option<String>,
}

fn backend(op: &'static str, source: impl Into<BoxError>) -> PodNetworkError {
    PodNetworkError::Backend { op, source: source.into() }
}

impl BridgeNetwork {
    /// Begins a network whose range is `address/prefix`, with allocations kept in `state_dir`.
    pub fn builder(address: Ipv4Addr, prefix: u8, state_dir: impl Into<PathBuf>) -> Builder {
        Builder {
            address,
            prefix,
            state_dir: state_dir.into(),
            bridge: DEFAULT_BRIDGE.into(),
            mtu: DEFAULT_MTU,
            cluster: Vec::new(),
            masquerade: true,
            netns: None,
        }
    }

    /// The range that pods get addresses from.
    pub fn range(&self) -> Ipv4Net {
        self.shape.range
    }

    /// The bridge's address, which pods know this machine by.
    pub fn gateway(&self) -> Ipv4Addr {
        Addresses::gateway(self.shape.range)
    }

    /// Whether iptables was found: only then pods reach beyond this machine, and host ports work.
    pub fn has_packet_filter(&self) -> bool {
        self.shape.iptables.is_some()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shape, &mut State) -> Result<T, PodNetworkError> + Send + 'static,
    ) -> Result<T, PodNetworkError> {
        let mut state = self.state.clone().lock_owned().await;
        let shape = self.shape.clone();
        let done = in_netns(self.shape.netns.clone(), move || work(&shape, &mut state));
        done.await.map_err(|e| backend("entering the network namespace", e))?
    }
}

/// The host's end of a sandbox's veth pair: the same for the same sandbox, also for a later process.
fn outside(bridge: &str, sandbox: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(bridge.as_bytes());
    hash.update([0]);
    hash.update(sandbox.as_bytes());
    let digits: String = hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("wv{digits}")
}

impl Shape {
    fn ensure_bridge(&self, netlink: &Netlink, state: &mut State) -> Result<Link, PodNetworkError> {
        let find = || netlink.link(&self.bridge).map_err(|e| backend("looking for the bridge", e));
        let gateway = Addresses::gateway(self.range);
        let bridge = match find()? {
            Some(link) if !link.is_bridge => {
                return Err(backend(
                    "making the bridge",
                    format!("the interface {} exists and is no bridge; choose another name", self.bridge),
                ));
            }
            Some(link) => link,
            None => {
                netlink
                    .add_bridge(&self.bridge, mac_of(gateway), self.mtu, bridged_are_filtered())
                    .map_err(|e| backend("making the bridge", e))?;
                find()?.ok_or_else(|| backend("making the bridge", "it is gone again"))?
            }
        };
        netlink.add_address(bridge.index, gateway, self.range.prefix_len()).map_err(|e| backend("giving the bridge its address", e))?;
        if !bridge.up {
            netlink.set_up(bridge.index).map_err(|e| backend("setting the bridge up", e))?;
        }
        ensure_forwarding(state)?;
        Ok(bridge)
    }

    /// Writes the rules if they are not as this process wrote them last.
    fn ensure_rules(&self, state: &mut State) -> Result<(), PodNetworkError> {
        let Some(iptables) = &self.iptables else { return Ok(()) };
        let rules = self.rules();
        // With nothing installed: the whole text, to compare by.
        let wanted = rules.install(state.addresses.kept(), "");
        if state.rules.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let op = "writing packet filter rules";
        let filter = |e: ProxyError| backend(op, e);
        let saved = iptables.save(&Table::ALL).map_err(filter)?;
        iptables.restore(&rules.install(state.addresses.kept(), &saved)).map_err(filter)?;
        state.rules = Some(wanted);
        Ok(())
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            bridge: &self.bridge,
            range: self.range,
            cluster: &self.cluster,
            masquerade: self.masquerade,
            bridged_are_filtered: bridged_are_filtered(),
        }
    }

    fn setup(&self, state: &mut State, config: &PodNetworkConfig) -> Result<PodNetworkStatus, PodNetworkError> {
        let ports: Vec<_> = config.port_mappings.iter().filter_map(HostPort::new).collect();
        if !ports.is_empty() && self.iptables.is_none() {
            return Err(backend("forwarding host ports", "iptables is missing; install the package `iptables` or ask for no host ports"));
        }
        let netns = File::open(&config.netns).map_err(|e| backend("opening the sandbox's network namespace", e))?;
        let netlink = Netlink::open().map_err(|e| backend("opening netlink", e))?;
        let bridge = self.ensure_bridge(&netlink, state)?;
        let ip = state.addresses.allocate(&config.sandbox_id, ports)?;
        self.ensure_rules(state)?;

        let name = outside(&self.bridge, &config.sandbox_id);
        let find = || netlink.link(&name).map_err(|e| backend("looking for the sandbox's interface", e));
        if let Some(known) = find()? {
            if known.controller == Some(bridge.index) && self.inside(&config.netns, ip).is_ok() {
                return Ok(PodNetworkStatus { ips: vec![IpAddr::V4(ip)] });
            }
            // Half made, or its other end is in a namespace that was replaced.
            netlink.delete(known.index).map_err(|e| backend("deleting the sandbox's old interface", e))?;
        }
        netlink
            .add_veth(&name, bridge.index, self.mtu, INSIDE, mac_of(ip), netns.as_raw_fd())
            .map_err(|e| backend("making the sandbox's interface", e))?;
        let made = find()?.ok_or_else(|| backend("making the sandbox's interface", "it is gone again"))?;
        netlink.set_hairpin(made.index).map_err(|e| backend("setting hairpin mode", e))?;
        self.inside(&config.netns, ip).map_err(|e| backend("configuring the sandbox's interface", e))?;
        Ok(PodNetworkStatus { ips: vec![IpAddr::V4(ip)] })
    }

    fn inside(&self, netns: &Path, ip: Ipv4Addr) -> io::Result<()> {
        let (range, netns) = (self.range, netns.to_owned());
        let enter = move || {
            nix::sched::setns(File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
            configure_inside(INSIDE, ip, range, Addresses::gateway(range))
        };
        // A thread that ends here, so that nothing else ever runs in the sandbox's namespace.
        let thread = std::thread::Builder::new().name("wharf-sandbox".into()).spawn(enter)?;
        thread.join().map_err(|_| io::Error::other("the thread in the sandbox's namespace panicked"))?
    }

    fn teardown(&self, state: &mut State, sandbox: &str) -> Result<(), PodNetworkError> {
        let netlink = Netlink::open().map_err(|e| backend("opening netlink", e))?;
        // Gone already if its other end's namespace is.
        if let Some(link) = netlink.link(&outside(&self.bridge, sandbox)).map_err(|e| backend("looking for the sandbox's interface", e))? {
            netlink.delete(link.index).map_err(|e| backend("deleting the sandbox's interface", e))?;
        }
        let held = state.addresses.release(sandbox)?;
        if held.is_some_and(|h| !h.ports.is_empty()) { self.ensure_rules(state) } else { Ok(()) }
    }

    fn shutdown(&self, state: &mut State) -> Result<(), PodNetworkError> {
        let netlink = Netlink::open().map_err(|e| backend("opening netlink", e))?;
        let links = netlink.links().map_err(|e| backend("listing interfaces", e))?;
        let bridge = links.iter().find(|l| l.name == self.bridge && l.is_bridge).map(|l| l.index);
        let kept: std::collections::BTreeSet<_> = state.addresses.kept().sandboxes.keys().map(|s| outside(&self.bridge, s)).collect();
        let is_ours = |l: &&Link| kept.contains(&l.name) || (bridge.is_some() && l.controller == bridge && l.name.starts_with("wv"));
        for link in links.iter().filter(is_ours) {
            netlink.delete(link.index).map_err(|e| backend("deleting a sandbox's interface", e))?;
        }
        if let Some(index) = bridge {
            netlink.delete(index).map_err(|e| backend("deleting the bridge", e))?;
        }
        if let Some(iptables) = &self.iptables {
            let filter = |e: ProxyError| backend("removing packet filter rules", e);
            let saved = iptables.save(&Table::ALL).map_err(filter)?;
            if let Some(script) = self.rules().remove(&saved) {
                iptables.restore(&script).map_err(filter)?;
            }
        }
        state.rules = None;
        if state.addresses.kept().forwarding_was_off {
            std::fs::write(FORWARDING, "0").map_err(|e| backend("turning IPv4 forwarding off again", e))?;
        }
        state.addresses.clear().map_err(|e| backend("removing address allocations", e))
    }
}

/// Whether iptables can see bridged packets, in the calling thread's namespace.
fn bridged_are_filtered() -> bool {
    Path::new(BRIDGE_FILTER).exists()
}

fn ensure_forwarding(state: &mut State) -> Result<(), PodNetworkError> {
    let op = "turning IPv4 forwarding on";
    let now = std::fs::read_to_string(FORWARDING).map_err(|e| backend(op, e))?;
    if now.trim() != "0" {
        return Ok(());
    }
    state.addresses.note_forwarding()?;
    std::fs::write(FORWARDING, "1").map_err(|e| backend(op, e))
}

#[async_trait]
impl PodNetwork for BridgeNetwork {
    async fn setup(&self, config: &PodNetworkConfig) -> Result<PodNetworkStatus, PodNetworkError> {
        let config = config.clone();
        self.run(move |shape, state| shape.setup(state, &config)).await
    }

    async fn teardown(&self, sandbox_id: &str) -> Result<(), PodNetworkError> {
        let sandbox = sandbox_id.to_owned();
        self.run(move |shape, state| shape.teardown(state, &sandbox)).await
    }

    async fn ready(&self) -> Result<(), PodNetworkError> {
        self.run(|shape, state| {
            let netlink = Netlink::open().map_err(|e| backend("opening netlink", e))?;
            shape.ensure_bridge(&netlink, state)?;
            shape.ensure_rules(state)
        })
        .await
    }

    async fn shutdown(&self) -> Result<(), PodNetworkError> {
        self.run(Shape::shutdown).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_choices_that_cannot_work() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |prefix| BridgeNetwork::builder(Ipv4Addr::new(10, 1, 2, 3), prefix, folder.path());
        assert!(begin(31).build().is_err());
        assert!(begin(33).build().is_err());
        assert!(begin(24).bridge("").build().is_err());
        assert!(begin(24).bridge("a bridge").build().is_err());
        assert!(begin(24).bridge("sixteen-letters-").build().is_err());
        assert!(begin(24).mtu(100).build().is_err());
        let network = begin(24).build().unwrap();
        assert_eq!(network.range().to_string(), "10.1.2.0/24");
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 1, 2, 1));
    }

    #[test]
    fn interface_names_fit_and_differ() {
        let one = outside("wharf0", "a");
        assert!(one.len() <= MAX_INTERFACE);
        assert_eq!(one, outside("wharf0", "a"));
        assert_ne!(one, outside("wharf0", "b"));
        assert_ne!(one, outside("wharf1", "a"));
    }
}
