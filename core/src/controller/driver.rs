//! Runs controllers over shared informers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::custom::follow;
use super::{Action, Context, Controller, Mapper, ReconcileError, WorkQueue};
use crate::api::Query;
use crate::informer::{Informer, ObjectChange};
use crate::metrics::ControllerMetrics;
use crate::object::ObjectRef;

/// Bounds of a driver.
#[derive(Debug, Clone, Copy)]
pub struct DriverOptions {
    /// Keys of one controller worked on at the same time.
    pub workers: usize,
    /// How long calls under way may take after a shutdown was asked for.
    pub drain: Duration,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { workers: 4, drain: Duration::from_secs(5) }
    }
}

/// Runs controllers.
#[derive(Debug, Clone)]
pub struct Driver {
    context: Context,
    options: DriverOptions,
    metrics: ControllerMetrics,
}

impl Driver {
    /// A driver whose controllers work with `context`.
    pub fn new(context: Context, metrics: ControllerMetrics, options: DriverOptions) -> Self {
        Self { context, options, metrics }
    }

    /// Runs a controller until `stop` is cancelled, then drains it.
    pub async fn run(&self, controller: Arc<dyn Controller>, stop: CancellationToken) {
        let name = controller.name();
        let queue = Arc::new(WorkQueue::new(self.context.clock.clone()));
        let mut feeders = JoinSet::new();
        let mut informers = Vec::new();
        for watch in controller.watches() {
            let informer = self.context.informers.informer(watch.resource.clone(), Query::default());
            informers.push(informer.clone());
            if let Some(map) = watch.custom {
                feeders.spawn(follow(self.context.clone(), map, queue.clone()));
            }
            feeders.spawn(feed(self.context.clone(), informer, watch.map, queue.clone()));
        }
        for informer in &informers {
            if stop.run_until_cancelled(informer.synced()).await.is_none() {
                return;
            }
        }
        feeders.spawn({
            let queue = queue.clone();
            async move { queue.run_delays().await }
        });
        let mut workers = JoinSet::new();
        for _ in 0..self.options.workers.max(1) {
            let (driver, controller, queue, stop) = (self.clone(), controller.clone(), queue.clone(), stop.clone());
            workers.spawn(async move {
                while let Some(key) = stop.run_until_cancelled(queue.next()).await {
                    driver.reconcile(&*controller, &queue, &key).await;
                }
            });
        }
        stop.cancelled().await;
        tokio::select! {
            () = async { while workers.join_next().await.is_some() {} } => {}
            () = self.context.clock.sleep(self.options.drain) => tracing::warn!(controller = name, "calls under way were cut off"),
        }
    }

    async fn reconcile(&self, controller: &dyn Controller, queue: &WorkQueue, key: &ObjectRef) {
        let name = controller.name();
        let span = tracing::debug_span!("reconcile", controller = name, %key, id = %uuid::Uuid::new_v4());
        let begin = self.context.clock.monotonic();
        let outcome = AssertUnwindSafe(controller.reconcile(&self.context, key)).catch_unwind().instrument(span.clone()).await;
        let took = self.context.clock.monotonic().saturating_sub(begin);
        let result = span.in_scope(|| match outcome {
            Ok(Ok(Action::Done)) => {
                queue.forget(key);
                "success"
            }
            Ok(Ok(Action::RequeueAfter(delay))) => {
                queue.forget(key);
                queue.add_after(key.clone(), delay);
                "requeue_after"
            }
            Ok(Err(ReconcileError::Terminal(error))) => {
                tracing::warn!(controller = name, %key, "gave up until something changes: {error}");
                queue.forget(key);
                "terminal"
            }
            Ok(Err(ReconcileError::Retry(error))) => {
                tracing::debug!(controller = name, %key, failures = queue.failures(key), "trying again: {error}");
                queue.add_failed(key.clone(), rand::random());
                "retry"
            }
            Err(_) => {
                tracing::error!(controller = name, %key, "a reconcile panicked; trying again");
                queue.add_failed(key.clone(), rand::random());
                "panic"
            }
        });
        queue.done(key);
        self.metrics.observe(name, result, took, queue.depth());
    }
}

/// Puts the keys that the changes of an informer concern into a queue.
pub(super) async fn feed(context: Context, informer: Arc<Informer>, map: Mapper, queue: Arc<WorkQueue>) {
    let add = |change: &ObjectChange| map(&context, change).into_iter().for_each(|key| queue.add(key));
    loop {
        let (now, mut changes) = informer.subscribe();
        for object in now {
            add(&ObjectChange { old: None, new: Some(object) });
        }
        loop {
            match changes.recv().await {
                Ok(change) => add(&change),
                // Behind by more than the buffer: look at everything again. Deleted keys that were missed were
                // told of by their owners, or are found by the controller's own re-listing.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}
