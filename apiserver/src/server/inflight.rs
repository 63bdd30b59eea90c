//! How many requests are served at once.

use std::sync::Arc;

use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::failure;
use crate::gate::authorization::MASTERS;
use crate::metrics::ServerMetrics;
use crate::request::{RequestInfo, User};

/// Most reads in flight; Kubernetes' `--max-requests-inflight`.
pub const MAX_READS: usize = 400;
/// Most writes in flight; Kubernetes' `--max-mutating-requests-inflight`.
pub const MAX_WRITES: usize = 200;

/// The two kinds of requests in flight.
#[derive(Debug)]
pub(super) struct Limits {
    reads: Kind,
    writes: Kind,
    metrics: ServerMetrics,
}

#[derive(Debug, Clone)]
struct Kind {
    name: &'static str,
    most: usize,
    free: Arc<Semaphore>,
}

impl Kind {
    fn new(name: &'static str, most: usize) -> Self {
        Self { name, most, free: Arc::new(Semaphore::new(most)) }
    }
    fn tell(&self, metrics: &ServerMetrics) {
        metrics.inflight(self.name, self.most.saturating_sub(self.free.available_permits()));
    }
}

/// One request in flight.
#[derive(Debug)]
pub(super) struct Permit {
    kind: Kind,
    metrics: ServerMetrics,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.kind.tell(&self.metrics);
    }
}

impl Limits {
    pub(super) fn new(metrics: ServerMetrics) -> Self {
        Self { reads: Kind::new("readOnly", MAX_READS), writes: Kind::new("mutating", MAX_WRITES), metrics }
    }

    /// Lets a request in. `None` without a permit for `system:masters`, who always get an answer.
    ///
    /// # Errors
    /// 429 when there is no room.
    pub(super) fn enter(&self, info: &RequestInfo, method: &Method, user: &User) -> Result<Option<Permit>, Box<Status>> {
        let read = if info.is_resource { matches!(info.verb.as_str(), "get" | "list" | "watch") } else { method == Method::GET };
        let kind = if read { &self.reads } else { &self.writes };
        match kind.free.clone().try_acquire_owned() {
            Ok(permit) => {
                kind.tell(&self.metrics);
                Ok(Some(Permit { kind: kind.clone(), metrics: self.metrics.clone(), permit: Some(permit) }))
            }
            Err(_) if user.groups.iter().any(|g| g == MASTERS) => Ok(None),
            Err(_) => Err(Box::new(failure(429, "TooManyRequests", "Too many requests, please try again later."))),
        }
    }
}
