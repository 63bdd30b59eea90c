//! The proxy: read, compare, carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::proxy::{
    Applied, NetworkProxy, Observed, ObservedService, ProxyCapabilities, ProxyError, ProxyResult, ProxyState, ServicePortId,
};
use wharf_netfilter::{Iptables, Variant, in_netns};
use wharf_proxy_plan::parts::generation;
use wharf_proxy_plan::{Delta, Family, Installed, Names, PlanOptions, Rule, Table, TableDelta, observe, script};

use crate::device::{Addresses, Device};
use crate::netlink::Ipvs;
use crate::plan::{Draining, Key, Scheduler, Seen, Step, Wanted, steps};
use crate::sets::{Ipset, Sets};
use crate::wanted::{rules, wanted};
use crate::{kernel, sysctl};

/// How long an endpoint that leaves may keep its connections, unless [`Builder::drain`] says otherwise.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(15 * 60);

/// What an embedder may choose.
#[derive(Debug, Clone)]
pub struct Builder {
    plan: PlanOptions,
    netns: Option<PathBuf>,
    variant: Option<Variant>,
    prefix: Option<String>,
    scheduler: Scheduler,
    ipv6: bool,
    strict_arp: bool,
    drain: Duration,
    clock: Arc<dyn Clock>,
}

impl Builder {
    /// Works in the network namespace at this path instead of the process's own.
    #[must_use]
    pub fn netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.netns = Some(path.into());
        self
    }
    /// Uses this variant of iptables and no other.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = Some(variant);
        self
    }
    /// How the names of chains and sets start, and, in lower case, that of the interface: 1 to 7 letters and digits, `WHARF`
    /// unless said. Two proxies in one namespace need different ones.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }
    /// The packet mark, one bit, for what is to be masqueraded; [`wharf_proxy_plan::DEFAULT_MARK`] unless said.
    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.plan.mark = mark;
        self
    }
    /// Masquerades all Service traffic, for networks whose pods cannot answer each other directly.
    #[must_use]
    pub fn masquerade_all(mut self, yes: bool) -> Self {
        self.plan.masquerade_all = yes;
        self
    }
    /// How connections are spread; round robin unless said.
    #[must_use]
    pub fn scheduler(mut self, scheduler: Scheduler) -> Self {
        self.scheduler = scheduler;
        self
    }
    /// Serves IPv6 addresses too; needs `ip6tables`. Without, they are left out.
    #[must_use]
    pub fn ipv6(mut self, yes: bool) -> Self {
        self.ipv6 = yes;
        self
    }
    /// Answers ARP only for addresses of the interface that asks, so that not every node claims the Services' addresses on
    /// its network. Sets `arp_ignore` and `arp_announce` of the whole namespace.
    #[must_use]
    pub fn strict_arp(mut self, yes: bool) -> Self {
        self.strict_arp = yes;
        self
    }
    /// How long an endpoint that leaves may keep its connections; [`DEFAULT_DRAIN`] unless said. Counted by each process anew.
    #[must_use]
    pub fn drain(mut self, bound: Duration) -> Self {
        self.drain = bound;
        self
    }
    /// Where time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The proxy. Loads the kernel's modules if it must; changes nothing else. Blocks shortly.
    ///
    /// # Errors
    /// [`ProxyError::Missing`] without IPVS, iptables or ipset; [`ProxyError::Invalid`] for a prefix or a mark that cannot be
    /// used.
    pub fn build(mut self) -> ProxyResult<IpvsProxy> {
        if let Some(prefix) = &self.prefix {
            self.plan.names = Names::with_prefix(prefix).ok_or_else(|| ProxyError::Invalid {
                message: format!("prefix {prefix:?} should be 1 to {} letters and digits", wharf_proxy_plan::MAX_PREFIX),
            })?;
        }
        if self.plan.mark.count_ones() != 1 {
            return Err(ProxyError::Invalid { message: format!("mark {:#x} should be a single bit", self.plan.mark) });
        }
        kernel::ensure(self.scheduler)?;
        let mut families = vec![(Family::V4, Iptables::find(Family::V4, self.variant)?)];
        if self.ipv6 {
            families.push((Family::V6, Iptables::find(Family::V6, self.variant)?));
        }
        let device = format!("{}-ipvs0", self.plan.names.prefix().to_lowercase());
        let inner = Inner {
            families,
            ipset: Ipset::find()?,
            device,
            plan: self.plan,
            scheduler: self.scheduler,
            strict_arp: self.strict_arp,
            drain: self.drain,
            clock: self.clock,
            draining: parking_lot::Mutex::default(),
        };
        Ok(IpvsProxy { inner: Arc::new(inner), netns: self.netns, turn: Arc::default() })
    }
}

#[derive(Debug)]
struct Inner {
    families: Vec<(Family, Iptables)>,
    ipset: Ipset,
    device: String,
    plan: PlanOptions,
    scheduler: Scheduler,
    strict_arp: bool,
    drain: Duration,
    clock: Arc<dyn Clock>,
    /// Since when this process knows of real servers on their way out. Never more than there are real servers.
    draining: parking_lot::Mutex<BTreeMap<(Key, SocketAddr), Duration>>,
}

/// A [`NetworkProxy`] over IPVS.
///
/// Clones share one turn. Two proxies made apart with one prefix in one network namespace would undo each other's work.
#[derive(Debug, Clone)]
pub struct IpvsProxy {
    inner: Arc<Inner>,
    netns: Option<PathBuf>,
    /// Held by the work itself, so that a call waits also for one whose future was dropped.
    turn: Arc<Mutex<()>>,
}

impl IpvsProxy {
    /// A proxy over the IPVS that this machine has. Loads the kernel's modules if it must.
    ///
    /// # Errors
    /// [`ProxyError::Missing`], which says what would help.
    pub fn detect() -> ProxyResult<Self> {
        Self::builder().build()
    }

    /// A proxy with choices.
    pub fn builder() -> Builder {
        Builder {
            plan: PlanOptions::default(),
            netns: None,
            variant: None,
            prefix: None,
            scheduler: Scheduler::default(),
            ipv6: false,
            strict_arp: false,
            drain: DEFAULT_DRAIN,
            clock: SystemClock::shared(),
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> ProxyResult<T> + Send + 'static) -> ProxyResult<T> {
        let turn = self.turn.clone().lock_owned().await;
        let inner = self.inner.clone();
        let done = in_netns(self.netns.clone(), move || {
            let result = work(&inner);
            drop(turn);
            result
        });
        done.await.map_err(|e| ProxyError::transient("entering the network namespace", e))?
    }
}

/// An error of a netlink call, or of a file.
fn failed(op: &'static str) -> impl Fn(io::Error) -> ProxyError {
    move |error| match error.raw_os_error() {
        Some(nix::libc::EPERM | nix::libc::EACCES) => {
            ProxyError::Missing { missing: "CAP_NET_ADMIN".into(), advice: format!("run as root or grant the capability ({op}: {error})") }
        }
        Some(nix::libc::EBUSY | nix::libc::EAGAIN | nix::libc::EINTR | nix::libc::ENOBUFS) => ProxyError::transient(op, error),
        _ => ProxyError::permanent(op, error),
    }
}

/// The sockets of one call, in the namespace that it works in.
struct Sockets {
    ipvs: Ipvs,
    device: Device,
}

/// One family as it is.
struct Now {
    family: Family,
    iptables: Iptables,
    installed: Installed,
    generation: Option<u64>,
    seen: Seen,
}

impl Inner {
    fn open(&self) -> ProxyResult<Sockets> {
        let ipvs = match Ipvs::open().map_err(failed("opening a socket to IPVS"))? {
            Some(ipvs) => ipvs,
            None => {
                kernel::ensure(self.scheduler)?;
                let again = Ipvs::open().map_err(failed("opening a socket to IPVS"))?;
                again.ok_or_else(|| ProxyError::Missing { missing: "IPVS".into(), advice: "load the module ip_vs".into() })?
            }
        };
        let device = Device::open(&self.device).map_err(failed("opening a socket to rtnetlink"))?;
        Ok(Sockets { ipvs, device })
    }

    fn prefix(&self) -> &str {
        self.plan.names.prefix()
    }

    /// What there is, without the real servers of others.
    fn read(&self, sockets: &Sockets) -> ProxyResult<(Addresses, Vec<Now>)> {
        let addresses = sockets.device.addresses().map_err(failed("reading addresses"))?;
        let saved = self.ipset.save()?;
        let servers = sockets.ipvs.servers().map_err(failed("reading virtual servers"))?;
        let mut all = Vec::new();
        for (family, iptables) in &self.families {
            let mut installed = Installed::default();
            installed.read(&iptables.save(&Table::ALL)?, &self.plan.names);
            let generation = observe(&installed, &self.plan.names).generation;
            let sets = Sets::parse(&saved, self.prefix(), *family);
            let own = sets.keys();
            let addresses = addresses.own.iter().copied().filter(|a| family.is_of(*a)).collect();
            let servers = servers.iter().filter(|(key, _)| family.is_of(key.address.ip()));
            let servers = servers.map(|(key, server)| (*key, (server.clone(), BTreeMap::new()))).collect();
            let seen = Seen { servers, own, addresses, sets };
            all.push(Now { family: *family, iptables: iptables.clone(), installed, generation, seen });
        }
        Ok((addresses, all))
    }

    /// Adds the real servers of these virtual servers.
    fn read_destinations(sockets: &Sockets, seen: &mut Seen, of: impl Fn(&Seen, &Key) -> bool) -> ProxyResult<()> {
        let keys: Vec<Key> = seen.servers.keys().filter(|k| of(seen, k)).copied().collect();
        for key in keys {
            let found = sockets.ipvs.destinations(&key).map_err(failed("reading real servers"))?;
            if let Some((_, destinations)) = seen.servers.get_mut(&key) {
                *destinations = found;
            }
        }
        Ok(())
    }

    fn apply(&self, state: &ProxyState) -> ProxyResult<Applied> {
        let sockets = self.open()?;
        let (addresses, mut all) = self.read(&sockets)?;
        let newest = all.iter().filter_map(|now| now.generation).max();
        if let Some(installed) = newest.filter(|g| *g > state.generation) {
            return Err(ProxyError::Stale { given: state.generation, installed });
        }
        let mut applied = Applied { generation: state.generation, ..Applied::default() };
        let device = match addresses.index {
            Some(index) => index,
            None => {
                applied.written += 1;
                sockets.device.create().map_err(failed("making the dummy interface"))?
            }
        };
        for (at, now) in all.iter_mut().enumerate() {
            let wanted = wanted(state, now.family, &addresses.machine, self.scheduler);
            Self::read_destinations(&sockets, &mut now.seen, |seen, k| wanted.servers.contains_key(k) || seen.own.contains(k))?;
            self.apply_family(state, &sockets, device, now, &wanted, at == 0, &mut applied)?;
        }
        Ok(applied)
    }

    #[allow(clippy::too_many_arguments, reason = "one family's part of an apply")]
    fn apply_family(
        &self,
        state: &ProxyState,
        sockets: &Sockets,
        device: u32,
        now: &Now,
        wanted: &Wanted,
        keeps_sysctls: bool,
        applied: &mut Applied,
    ) -> ProxyResult<()> {
        let steps = steps(wanted, &now.seen, &self.overdue(now.family, wanted, &now.seen));
        let restore = |delta: &Delta| {
            if delta.is_empty() { Ok(()) } else { now.iptables.restore(&script(delta, &now.installed)) }
        };
        // What sysctls were is on record before they change, what is ours before it is made.
        let mut record = Vec::new();
        if keeps_sysctls {
            let former = sysctl::former(&now.installed, &self.plan.names, self.strict_arp).map_err(failed("reading sysctls"))?;
            record = sysctl::record(&former);
            if sysctl::recorded(&now.installed, &self.plan.names) != former {
                let before = now.generation.map(generation);
                restore(&self.memory(before.into_iter().chain(record.clone()).collect()))?;
            }
            applied.written += sysctl::set(self.strict_arp).map_err(failed("setting sysctls"))?;
        }
        let (text, added) = now.seen.sets.additions(&wanted.sets, self.prefix(), now.family);
        self.ipset.restore(&text)?;
        applied.written += added;

        // More is let through, the packet filter turns, less is let through.
        for step in &steps.first {
            self.carry_out(sockets, step, applied)?;
        }
        for ip in &steps.bind {
            sockets.device.bind(device, *ip).map_err(failed("adding an address"))?;
            applied.written += 1;
        }
        let memory = self.plan.names.generation();
        let mut delta = rules(state, now.family, &self.plan).delta(&now.installed);
        if let Some(nat) = delta.tables.get_mut(&Table::Nat) {
            nat.delete_chains.retain(|chain| *chain != memory);
        }
        delta.tables.retain(|_, work| !work.is_empty());
        restore(&delta)?;
        applied.written += delta.written();
        applied.removed += delta.removed();
        for step in &steps.last {
            self.carry_out(sockets, step, applied)?;
        }
        for ip in &steps.unbind {
            sockets.device.unbind(device, *ip).map_err(failed("removing an address"))?;
            applied.removed += 1;
        }
        // Of a server that still drains, the entry stays: it says whose it is.
        let (text, removed) = now.seen.sets.removals(&wanted.sets, self.prefix(), now.family);
        self.ipset.restore(&text)?;
        applied.removed += removed;

        // The generation last: with it, everything is there.
        let memories: Vec<Rule> = std::iter::once(generation(state.generation)).chain(record).collect();
        let there = now.installed.chains.get(&(Table::Nat, memory)).map(Vec::as_slice).unwrap_or_default();
        let same = there.len() == memories.len()
            && there.iter().zip(&memories).all(|(t, m)| wharf_proxy_plan::canonical(t) == wharf_proxy_plan::canonical(&m.to_string()));
        if !same {
            restore(&self.memory(memories))?;
            applied.written += 1;
        }
        Ok(())
    }

    /// The chain that no packet visits.
    fn memory(&self, rules: Vec<Rule>) -> Delta {
        let work = TableDelta { write: vec![(self.plan.names.generation(), rules)], ..TableDelta::default() };
        Delta { tables: BTreeMap::from([(Table::Nat, work)]) }
    }

    fn carry_out(&self, sockets: &Sockets, step: &Step, applied: &mut Applied) -> ProxyResult<()> {
        let ipvs = &sockets.ipvs;
        match step {
            Step::PutServer(key, server) => ipvs.put_server(key, server).map_err(failed("writing a virtual server"))?,
            Step::RemoveServer(key) => ipvs.remove_server(key).map_err(failed("removing a virtual server"))?,
            Step::PutDestination(key, to) => {
                ipvs.put_destination(key, *to, crate::plan::WEIGHT).map_err(failed("writing a real server"))?;
            }
            Step::RetireDestination(key, to) => {
                ipvs.put_destination(key, *to, 0).map_err(failed("retiring a real server"))?;
                // Counted after no new one can come.
                let there = ipvs.destinations(key).map_err(failed("reading real servers"))?;
                if there.get(to).is_some_and(|d| d.connections == 0) {
                    ipvs.remove_destination(key, *to).map_err(failed("removing a real server"))?;
                    if there.len() == 1 {
                        ipvs.remove_server(key).map_err(failed("removing a virtual server"))?;
                    }
                }
            }
            Step::RemoveDestination(key, to) => ipvs.remove_destination(key, *to).map_err(failed("removing a real server"))?,
        }
        match step {
            Step::PutServer(..) | Step::PutDestination(..) => applied.written += 1,
            _ => applied.removed += 1,
        }
        tracing::debug!(%step, "carried out");
        Ok(())
    }

    /// Which real servers on their way out had their time. Those that were not known as such begin it now.
    fn overdue(&self, family: Family, wanted: &Wanted, seen: &Seen) -> Draining {
        let now = self.clock.monotonic();
        let leaving: BTreeSet<(Key, SocketAddr)> = seen
            .servers
            .iter()
            .filter(|(key, _)| seen.own.contains(key) || wanted.servers.contains_key(key))
            .flat_map(|(key, (_, destinations))| destinations.keys().map(move |to| (*key, *to)))
            .filter(|(key, to)| !wanted.servers.get(key).is_some_and(|(_, endpoints)| endpoints.contains(to)))
            .collect();
        let mut draining = self.draining.lock();
        draining.retain(|known, _| !family.is_of(known.0.address.ip()) || leaving.contains(known));
        leaving.into_iter().filter(|one| now.saturating_sub(*draining.entry(*one).or_insert(now)) >= self.drain).collect()
    }

    fn observe(&self) -> ProxyResult<Observed> {
        let sockets = self.open()?;
        let (_, mut all) = self.read(&sockets)?;
        let mut services: BTreeMap<ServicePortId, BTreeSet<SocketAddr>> = BTreeMap::new();
        let mut generation = None;
        for now in &mut all {
            Self::read_destinations(&sockets, &mut now.seen, |seen, k| seen.own.contains(k))?;
            // The older one counts: only then is everything of it installed.
            generation = match (generation, now.generation) {
                (Some(a), Some(b)) => Some(std::cmp::min::<u64>(a, b)),
                (a, b) => a.or(b),
            };
            for (key, id) in now.seen.sets.cluster() {
                let endpoints = now.seen.servers.get(&key).into_iter().flat_map(|(_, d)| d);
                services.entry(id).or_default().extend(endpoints.filter(|(_, d)| d.weight > 0).map(|(to, _)| *to));
            }
        }
        let services =
            services.into_iter().map(|(id, endpoints)| ObservedService { id, endpoints: endpoints.into_iter().collect() }).collect();
        Ok(Observed { generation, services })
    }

    fn teardown(&self) -> ProxyResult<()> {
        let sockets = self.open()?;
        let (addresses, all) = self.read(&sockets)?;
        for now in &all {
            let former = sysctl::recorded(&now.installed, &self.plan.names);
            for key in now.seen.own.iter().filter(|k| now.seen.servers.contains_key(k)) {
                sockets.ipvs.remove_server(key).map_err(failed("removing a virtual server"))?;
            }
            if addresses.index.is_some() {
                sockets.device.delete().map_err(failed("removing the dummy interface"))?;
            }
            // The record of sysctls goes last but for the sets, which the rules use.
            sysctl::restore(&former).map_err(failed("restoring sysctls"))?;
            if !now.installed.is_empty() {
                now.iptables.restore(&script(&now.installed.removal(), &now.installed))?;
            }
            if !now.seen.sets.is_empty() {
                self.ipset.restore(&now.seen.sets.destruction(self.prefix(), now.family))?;
            }
        }
        self.draining.lock().clear();
        Ok(())
    }
}

#[async_trait]
impl NetworkProxy for IpvsProxy {
    fn capabilities(&self) -> ProxyCapabilities {
        let mut all = ProxyCapabilities::all();
        all.ipv6 = self.inner.families.iter().any(|(family, _)| *family == Family::V6);
        // Virtual servers change one by one.
        all.atomic = false;
        all
    }

    async fn apply(&self, state: &ProxyState) -> ProxyResult<Applied> {
        let state = state.clone();
        self.run(move |inner| inner.apply(&state)).await
    }

    async fn observe(&self) -> ProxyResult<Observed> {
        self.run(Inner::observe).await
    }

    async fn teardown(&self) -> ProxyResult<()> {
        self.run(Inner::teardown).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_choices_that_cannot_work() {
        assert!(matches!(IpvsProxy::builder().prefix("A-B").build(), Err(ProxyError::Invalid { .. })));
        assert!(matches!(IpvsProxy::builder().mark(3).build(), Err(ProxyError::Invalid { .. })));
    }
}
