//! Keeps a [`NetworkProxy`](crate::proxy::NetworkProxy) in step with Services and EndpointSlices.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::informer::Informers;
use crate::proxy::{NodeInfo, ProxyError, SharedProxy, proxy_state};

/// How often the whole state is applied again, so that what others broke is mended.
pub const RESYNC: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// Applies the whole desired state after each burst of changes, and from time to time.
#[derive(Debug)]
pub struct ProxyDriver {
    proxy: SharedProxy,
    informers: Informers,
    clock: Arc<dyn Clock>,
    node: NodeInfo,
    pod_cidrs: Vec<IpNet>,
}

impl ProxyDriver {
    /// A driver for the proxy of one node.
    pub fn new(proxy: SharedProxy, informers: Informers, clock: Arc<dyn Clock>, node: NodeInfo, pod_cidrs: Vec<IpNet>) -> Self {
        Self { proxy, informers, clock, node, pod_cidrs }
    }

    /// Runs until `stop` is cancelled. What is installed stays.
    pub async fn run(&self, stop: CancellationToken) {
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(&self) {
        let services = self.informers.of::<Service>();
        let slices = self.informers.of::<EndpointSlice>();
        // Subscribed before the first look, so that no change falls between.
        let (_, mut service_changes) = services.informer().subscribe();
        let (_, mut slice_changes) = slices.informer().subscribe();
        services.synced().await;
        slices.synced().await;
        // A restarted process goes on with generations above those it installed before.
        let mut generation = match self.proxy.observe().await {
            Ok(observed) => observed.generation.unwrap_or(0),
            Err(_) => 0,
        };
        let mut delay = RETRY_FIRST;
        loop {
            generation += 1;
            let state = proxy_state(generation, &services.list(), &slices.list(), &self.node, &self.pod_cidrs);
            let wait = match self.proxy.apply(&state).await {
                Ok(applied) => {
                    if applied.changed() {
                        tracing::debug!(generation, written = applied.written, removed = applied.removed, "service rules applied");
                    }
                    delay = RETRY_FIRST;
                    RESYNC
                }
                Err(ProxyError::Stale { installed, .. }) => {
                    generation = generation.max(installed);
                    RETRY_FIRST
                }
                Err(error) => {
                    tracing::warn!("service rules could not be applied, trying again: {error}");
                    delay = (delay * 2).min(RETRY_MOST);
                    delay
                }
            };
            // A lagging or closed receiver also means: look again.
            tokio::select! {
                _ = service_changes.recv() => {}
                _ = slice_changes.recv() => {}
                () = self.clock.sleep(wait) => {}
            }
            service_changes = service_changes.resubscribe();
            slice_changes = slice_changes.resubscribe();
        }
    }
}
