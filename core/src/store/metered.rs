//! Measures a store: calls by name and result, how long they take, and watches.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, SharedStore, StoreCapabilities, StoreError, StoreResult, Transaction,
    WatchItem, WatchStream,
};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// The result of a call that was dropped before it ended.
const DROPPED: &str = "dropped";
/// The result of a call, or the end of a watch, without an error.
const OK: &str = "ok";

// Names and results are words of this file, so that there are few of them whatever is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    result: &'static str,
}

/// What [`Metered`] measures.
///
/// | metric | |
/// |---|---|
/// | `wharf_store_requests_total` | calls by `operation` and `result` |
/// | `wharf_store_request_duration_seconds` | how long they took, by `operation`; of a watch, until it was begun |
/// | `wharf_store_watches` | watches that are open |
/// | `wharf_store_watch_commits_total` | commits that watches yielded |
/// | `wharf_store_watch_ends_total` | watches that ended, by `result`; `dropped` is the watcher's own choice |
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    requests: Family<Call, Counter>,
    seconds: Family<Operation, Histogram, fn() -> Histogram>,
    watches: Gauge,
    commits: Counter,
    ends: Family<End, Counter>,
}

impl StoreMetrics {
    /// Registered in `metrics`; once for a process, stores share them.
    pub fn new(metrics: &Metrics) -> Self {
        // 10 us to 10 s.
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_01, 4.0, 11));
        let this = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            watches: Gauge::default(),
            commits: Counter::default(),
            ends: Family::default(),
        };
        metrics.register(|registry| {
            registry.register("wharf_store_requests", "Calls of the store by operation and result", this.requests.clone());
            registry.register("wharf_store_request_duration_seconds", "Time that a call of the store takes", this.seconds.clone());
            registry.register("wharf_store_watches", "Watches of the store that are open", this.watches.clone());
            registry.register("wharf_store_watch_commits", "Commits that watches of the store yielded", this.commits.clone());
            registry.register("wharf_store_watch_ends", "Watches of the store that ended, by result", this.ends.clone());
        });
        this
    }

    fn call(&self, operation: &'static str, result: &'static str, took: Duration) {
        self.requests.get_or_create(&Call { operation, result }).inc();
        self.seconds.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }
}

fn word(error: &StoreError) -> &'static str {
    match error {
        StoreError::Conflict { .. } => "conflict",
        StoreError::Expired { .. } => "expired",
        StoreError::Future { .. } => "future",
        StoreError::Invalid { .. } => "invalid",
        StoreError::OutcomeUnknown { .. } => "outcome_unknown",
        StoreError::Unsupported { .. } => "unsupported",
        StoreError::Closed => "closed",
        StoreError::Backend { .. } => "backend",
    }
}

/// A decorator that measures any store, and changes nothing.
///
/// # Cancellation
/// A call that is dropped counts as `dropped`, with the time until then.
#[derive(Debug, Clone)]
pub struct Metered {
    inner: SharedStore,
    metrics: StoreMetrics,
    clock: Arc<dyn Clock>,
}

impl Metered {
    /// Measures `inner`; time is the clock's.
    pub fn new(inner: SharedStore, metrics: StoreMetrics, clock: Arc<dyn Clock>) -> Self {
        Self { inner, metrics, clock }
    }

    async fn measure<T>(&self, operation: &'static str, call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        let mut running = Running { metered: self, operation, begin: self.clock.monotonic(), result: DROPPED };
        let result = call.await;
        running.result = result.as_ref().map_or_else(word, |_| OK);
        result
    }
}

/// A call; observed when it ends, however it ends.
struct Running<'a> {
    metered: &'a Metered,
    operation: &'static str,
    begin: Duration,
    result: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let took = self.metered.clock.monotonic().saturating_sub(self.begin);
        self.metered.metrics.call(self.operation, self.result, took);
    }
}

/// An open watch; counted as long as it lives.
struct Open {
    stream: WatchStream,
    metrics: StoreMetrics,
    result: &'static str,
}

impl Open {
    /// The first reason is the one that counts.
    fn ends(&mut self, result: &'static str) {
        if self.result == DROPPED {
            self.result = result;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.watches.dec();
        self.metrics.ends.get_or_create(&End { result: self.result }).inc();
    }
}

#[async_trait]
impl ObjectStore for Metered {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities()
    }

    async fn revision(&self) -> StoreResult<Revision> {
        self.measure("revision", self.inner.revision()).await
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.measure("get", self.inner.get(key)).await
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.measure("list", self.inner.list(scope, options)).await
    }

    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        self.measure("commit", self.inner.commit(transaction)).await
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        let stream = self.measure("watch", self.inner.watch(scope, after)).await?;
        self.metrics.watches.inc();
        let open = Open { stream, metrics: self.metrics.clone(), result: DROPPED };
        Ok(futures::stream::unfold(open, |mut open| async move {
            let Some(item) = open.stream.next().await else {
                open.ends(OK);
                return None;
            };
            match &item {
                Ok(WatchItem::Commit { .. }) => {
                    open.metrics.commits.inc();
                }
                Ok(WatchItem::Progress(_)) => {}
                Err(e) => open.ends(word(e)),
            }
            Some((item, open))
        })
        .boxed())
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.measure("compact", self.inner.compact(upto)).await
    }
}
