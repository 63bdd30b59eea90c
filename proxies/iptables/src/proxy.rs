//! The proxy: read, compare, write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use wharf_core::proxy::{
    Applied, NetworkProxy, Observed, ObservedService, ProxyCapabilities, ProxyError, ProxyResult, ProxyState, ServicePortId,
};
use wharf_core::runtime::Protocol;
use wharf_proxy_plan::{Family, Installed, Names, ObservedPlan, Plan, PlanOptions, Table, observe, script};

use crate::{conntrack, in_netns};
use wharf_netfilter::{Iptables, Variant};

/// What an embedder may choose.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    plan: PlanOptions,
    netns: Option<PathBuf>,
    variant: Option<Variant>,
    ipv6: bool,
    prefix: Option<String>,
}

impl Builder {
    /// Works in the network namespace at this path instead of the process's own.
    #[must_use]
    pub fn netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.netns = Some(path.into());
        self
    }
    /// Uses this variant and no other.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = Some(variant);
        self
    }
    /// Serves IPv6 addresses too; needs `ip6tables`. Without, they are left out.
    #[must_use]
    pub fn ipv6(mut self, yes: bool) -> Self {
        self.ipv6 = yes;
        self
    }
    /// How chain names start: 1 to 7 letters and digits, `WHARF` unless said. Two proxies in one namespace need different ones.
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

    /// The proxy. Looks for programs, runs none.
    ///
    /// # Errors
    /// [`ProxyError::Missing`] without iptables; [`ProxyError::Invalid`] for a prefix or a mark that cannot be used.
    pub fn build(mut self) -> ProxyResult<IptablesProxy> {
        if let Some(prefix) = &self.prefix {
            self.plan.names = Names::with_prefix(prefix).ok_or_else(|| ProxyError::Invalid {
                message: format!("prefix {prefix:?} should be 1 to {} letters and digits", wharf_proxy_plan::MAX_PREFIX),
            })?;
        }
        if self.plan.mark.count_ones() != 1 {
            return Err(ProxyError::Invalid { message: format!("mark {:#x} should be a single bit", self.plan.mark) });
        }
        let mut families = vec![(Family::V4, Iptables::find(Family::V4, self.variant)?)];
        if self.ipv6 {
            families.push((Family::V6, Iptables::find(Family::V6, self.variant)?));
        }
        Ok(IptablesProxy { inner: Arc::new(Inner { families, plan: self.plan }), netns: self.netns, turn: Arc::default() })
    }
}

#[derive(Debug)]
struct Inner {
    families: Vec<(Family, Iptables)>,
    plan: PlanOptions,
}

/// A [`NetworkProxy`] over iptables-save and iptables-restore.
///
/// Clones share one turn. Two proxies made apart with one prefix in one network namespace would undo each other's work.
#[derive(Debug, Clone)]
pub struct IptablesProxy {
    inner: Arc<Inner>,
    netns: Option<PathBuf>,
    /// Held by the work itself, so that a call waits also for one whose future was dropped.
    turn: Arc<Mutex<()>>,
}

impl IptablesProxy {
    /// A proxy over the iptables that this machine has. Fast: looks for programs, runs none.
    ///
    /// # Errors
    /// [`ProxyError::Missing`], which says what to install.
    pub fn detect() -> ProxyResult<Self> {
        Self::builder().build()
    }

    /// A proxy with choices.
    pub fn builder() -> Builder {
        Builder::default()
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

impl Inner {
    fn read(&self, iptables: &Iptables) -> ProxyResult<(Installed, ObservedPlan)> {
        let mut installed = Installed::default();
        installed.read(&iptables.save(&Table::ALL)?, &self.plan.names);
        let observed = observe(&installed, &self.plan.names);
        Ok((installed, observed))
    }

    fn read_all(&self) -> ProxyResult<Vec<(Family, Iptables, Installed, ObservedPlan)>> {
        let mut all = Vec::new();
        for (family, iptables) in &self.families {
            let (installed, observed) = self.read(iptables)?;
            all.push((*family, iptables.clone(), installed, observed));
        }
        Ok(all)
    }

    fn apply(&self, state: &ProxyState) -> ProxyResult<Applied> {
        let current = self.read_all()?;
        let newest = current.iter().filter_map(|(_, _, _, observed)| observed.generation).max();
        if let Some(installed) = newest.filter(|g| *g > state.generation) {
            return Err(ProxyError::Stale { given: state.generation, installed });
        }
        let mut applied = Applied { generation: state.generation, ..Applied::default() };
        for (family, iptables, installed, observed) in &current {
            let delta = Plan::new(state, *family, &self.plan).delta(installed);
            if delta.is_empty() {
                continue;
            }
            iptables.restore(&script(&delta, installed))?;
            applied.written += delta.written();
            applied.removed += delta.removed();
            redirect_udp(state, observed);
        }
        Ok(applied)
    }

    fn teardown(&self) -> ProxyResult<()> {
        for (_, iptables, installed, _) in self.read_all()? {
            if !installed.is_empty() {
                iptables.restore(&script(&installed.removal(), &installed))?;
            }
        }
        Ok(())
    }
}

/// UDP has no connections that end: a client that keeps sending would stay with an endpoint that is gone. Its conntrack
/// entries are deleted, so that its next packet chooses anew.
fn redirect_udp(state: &ProxyState, before: &ObservedPlan) {
    let now: BTreeMap<ServicePortId, BTreeSet<SocketAddr>> = state
        .services
        .iter()
        .filter(|s| s.protocol == Protocol::Udp)
        .map(|s| (s.id(), s.cluster_endpoints().into_iter().chain(s.local_endpoints()).map(|e| e.address()).collect()))
        .collect();
    let mut gone = BTreeSet::new();
    for service in before.services.iter().filter(|s| s.id.protocol == Protocol::Udp) {
        let kept = now.get(&service.id);
        gone.extend(service.endpoints.iter().filter(|e| !kept.is_some_and(|k| k.contains(e))));
    }
    // A Service that just got its first endpoints may have clients whose packets passed unredirected.
    let mut fresh = BTreeSet::new();
    for port in state.services.iter().filter(|s| s.protocol == Protocol::Udp && !s.cluster_endpoints().is_empty()) {
        if before.services.iter().all(|b| b.id != port.id() || b.endpoints.is_empty()) {
            let addresses = port.cluster_ips.iter().chain(&port.external_ips).chain(&port.load_balancer_ips);
            fresh.extend(addresses.map(|ip| SocketAddr::new(*ip, port.port)));
        }
    }
    if gone.is_empty() && fresh.is_empty() {
        return;
    }
    // The rules are right whether this succeeds or not.
    match conntrack::forget_udp(&gone, &fresh) {
        Ok(forgotten) => tracing::debug!(forgotten, "deleted conntrack entries of UDP flows"),
        Err(error) => tracing::warn!(%error, "could not delete conntrack entries; UDP flows may go on to endpoints that are gone"),
    }
}

#[async_trait]
impl NetworkProxy for IptablesProxy {
    fn capabilities(&self) -> ProxyCapabilities {
        let mut all = ProxyCapabilities::all();
        all.ipv6 = self.inner.families.iter().any(|(family, _)| *family == Family::V6);
        all
    }

    async fn apply(&self, state: &ProxyState) -> ProxyResult<Applied> {
        let state = state.clone();
        self.run(move |inner| inner.apply(&state)).await
    }

    async fn observe(&self) -> ProxyResult<Observed> {
        let all = self.run(Inner::read_all).await?;
        let mut services: BTreeMap<ServicePortId, BTreeSet<SocketAddr>> = BTreeMap::new();
        let mut generation = None;
        for (_, _, _, observed) in all {
            // The older one counts: only then is everything of it installed.
            generation = match (generation, observed.generation) {
                (Some(a), Some(b)) => Some(std::cmp::min::<u64>(a, b)),
                (a, b) => a.or(b),
            };
            for service in observed.services {
                services.entry(service.id).or_default().extend(service.endpoints);
            }
        }
        let services =
            services.into_iter().map(|(id, endpoints)| ObservedService { id, endpoints: endpoints.into_iter().collect() }).collect();
        Ok(Observed { generation, services })
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
        assert!(matches!(IptablesProxy::builder().prefix("A-B").build(), Err(ProxyError::Invalid { .. })));
        assert!(matches!(IptablesProxy::builder().mark(3).build(), Err(ProxyError::Invalid { .. })));
    }
}
