//! Prometheus metrics, under Kubernetes' own names where it has them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The metrics of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Registers metrics.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }
    /// All metrics in OpenMetrics' text form.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    controller: &'static str,
    result: &'static str,
}

/// What the reconcile driver measures.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    total: Family<Outcome, Counter>,
    seconds: Family<Name, Histogram, fn() -> Histogram>,
    depth: Family<Name, Gauge>,
}

impl ControllerMetrics {
    /// Registered in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 4.0, 10));
        let this = Self { total: Family::default(), seconds: Family::new_with_constructor(buckets), depth: Family::default() };
        metrics.register(|registry| {
            registry.register("controller_runtime_reconcile", "Reconciles by controller and result", this.total.clone());
            registry.register("workqueue_work_duration_seconds", "Time that one key takes", this.seconds.clone());
            registry.register("workqueue_depth", "Keys that wait", this.depth.clone());
        });
        this
    }

    pub(crate) fn observe(&self, name: &'static str, result: &'static str, took: Duration, depth: usize) {
        self.total.get_or_create(&Outcome { controller: name, result }).inc();
        self.seconds.get_or_create(&Name { name }).observe(took.as_secs_f64());
        self.depth.get_or_create(&Name { name }).set(i64::try_from(depth).unwrap_or(i64::MAX));
    }
}
