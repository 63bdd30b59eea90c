//! What the API server measures, under Kubernetes' names and with bounded labels.

use std::time::Duration;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use wharf_core::metrics::Metrics;

use crate::request::RequestInfo;

/// Longest label value taken from a request that was allowed.
const MAX_LABEL: usize = 63;
/// Kubernetes' buckets of request durations, in seconds, thinned.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    verb: &'static str,
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

/// What the API server measures.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    total: Family<Request, Counter>,
    seconds: Family<Timed, Histogram, fn() -> Histogram>,
    inflight: Family<Kind, Gauge>,
}

fn verb(info: &RequestInfo, method: &Method) -> &'static str {
    const VERBS: [(&str, &str); 8] = [
        ("get", "GET"),
        ("list", "LIST"),
        ("watch", "WATCH"),
        ("create", "POST"),
        ("update", "PUT"),
        ("patch", "PATCH"),
        ("delete", "DELETE"),
        ("deletecollection", "DELETECOLLECTION"),
    ];
    let asked = if info.is_resource { info.verb.as_str() } else { "" };
    match VERBS.iter().find(|(name, _)| *name == asked) {
        Some((_, label)) => label,
        None if *method == Method::GET => "GET",
        None => "other",
    }
}

impl ServerMetrics {
    /// Registered in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(BUCKETS);
        let this = Self { total: Family::default(), seconds: Family::new_with_constructor(buckets), inflight: Family::default() };
        metrics.register(|registry| {
            // The registry appends `_total`.
            registry.register("apiserver_request", "Requests by verb, resource and response code", this.total.clone());
            registry.register("apiserver_request_duration_seconds", "Time to the head of the response", this.seconds.clone());
            registry.register("apiserver_current_inflight_requests", "Requests in flight", this.inflight.clone());
        });
        this
    }

    /// Counts a request. What it asked for becomes a label only if it was served: a path that anybody can make up must not
    /// make up labels.
    pub(crate) fn observe(&self, info: &RequestInfo, method: &Method, code: u16, took: Duration) {
        let served = info.is_resource && !matches!(code, 401 | 403 | 404 | 405);
        let label = |text: &str| if served && text.len() <= MAX_LABEL { text.to_owned() } else { String::new() };
        let (verb, group, resource) = (verb(info, method), label(&info.group), label(&info.resource));
        self.seconds.get_or_create(&Timed { verb, group: group.clone(), resource: resource.clone() }).observe(took.as_secs_f64());
        let (version, subresource) = (label(&info.version), label(&info.subresource));
        self.total.get_or_create(&Request { verb, group, version, resource, subresource, code }).inc();
    }

    /// Sets how many requests are in flight; `kind` is `readOnly` or `mutating`.
    pub(crate) fn inflight(&self, kind: &'static str, now: usize) {
        self.inflight.get_or_create(&Kind { request_kind: kind }).set(i64::try_from(now).unwrap_or(i64::MAX));
    }
}
