//! Carries an election out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{ElectionError, ElectionOptions, Leadership, LeaseRecord, Lost, Seen, Step, Term, decide, record};
use crate::api::{ApiError, ApiEvent, ApiExt, Query, SharedApi};
use crate::clock::Clock;
use crate::events::EventType;
use crate::object::resource_of;
use crate::runtime::BoxError;
use crate::store::{Fence, Revision};

/// The reason of events about the leader, as Kubernetes' components give it.
const REASON: &str = "LeaderElection";

/// Competes for a `Lease`, works while it holds it, and competes again when it has lost it.
#[derive(Clone)]
pub struct LeaderElector {
    api: SharedApi,
    clock: Arc<dyn Clock>,
    options: ElectionOptions,
}

impl fmt::Debug for LeaderElector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderElector").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A term that has just begun, or goes on.
struct Held {
    lease: Lease,
    term: Term,
    lead: Leadership,
}

/// How a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Another may lead already.
    Lost(Lost),
    /// A write was refused by the fence, or the work resigned.
    Resigned,
    /// A shutdown was asked for.
    Stopped,
    /// The work ended by itself.
    Done,
}

fn revision_of(lease: &Lease) -> Option<Revision> {
    lease.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).map(Revision)
}

impl LeaderElector {
    /// An elector that reads and writes the `Lease` through `api`, which must not be fenced itself.
    ///
    /// # Errors
    /// When the times do not go together, or the identity is empty.
    pub fn new(api: SharedApi, clock: Arc<dyn Clock>, options: ElectionOptions) -> Result<Self, ElectionError> {
        options.timing.validate()?;
        if options.identity.is_empty() {
            return Err(ElectionError::Identity);
        }
        if let Some(metrics) = &options.metrics {
            metrics.set(&options.lease.name, false);
        }
        Ok(Self { api, clock, options })
    }

    /// Competes until `stop` is cancelled. While it leads, `lead` works, once per term; it should end when [`Leadership::stop`] is
    /// cancelled. When leadership is lost the work is dropped, before another can have taken over. On a shutdown it is awaited for as
    /// long as the lease is surely held, then the lease is released, so that another takes over at once.
    ///
    /// Work that ends, or panics, ends its term too: the lease is released and competed for again.
    ///
    /// # Cancellation
    /// A dropped run drops the work; the lease runs out by itself.
    pub async fn run<F, Work>(&self, stop: CancellationToken, lead: F)
    where
        F: Fn(Leadership) -> Work + Send + Sync,
        Work: Future<Output = ()> + Send + 'static,
    {
        while let Some(held) = self.compete(&stop).await {
            let work = lead(held.lead.clone());
            let end = self.hold(held, &stop, work).await;
            if stop.is_cancelled() {
                return;
            }
            tracing::debug!(lease = %self.options.lease, ?end, "competing again");
            stop.run_until_cancelled(self.clock.sleep(self.options.timing.retry_period)).await;
        }
    }

    /// Tries to acquire the lease until it has; `None` once `stop` is cancelled.
    async fn compete(&self, stop: &CancellationToken) -> Option<Held> {
        let (mut seen, mut after) = (None, None);
        while !stop.is_cancelled() {
            let wait = match self.attempt(&mut seen, &mut after).await {
                // A shutdown may have come meanwhile: the term is begun, finds out, and releases what it got.
                Ok(Ok(held)) => return Some(held),
                Ok(Err(wait)) => wait,
                Err(error) => {
                    tracing::debug!(lease = %self.options.lease, "not acquired: {error}");
                    self.options.timing.retry_period.mul_f64(1.0 + super::JITTER_FACTOR * (self.options.random)())
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.clock.sleep(wait) => {}
                () = self.changed(after) => {}
            }
        }
        None
    }

    /// One look at the lease, and one try to take it if it is free; otherwise how long to wait.
    async fn attempt(&self, seen: &mut Option<Seen>, at_revision: &mut Option<Revision>) -> Result<Result<Held, Duration>, ApiError> {
        let ElectionOptions { lease: at, identity, timing, .. } = &self.options;
        let found = self.bounded(timing.request(), self.api.get_opt::<Lease>(at)).await?;
        let now = self.clock.monotonic();
        *seen = Seen::next(seen.take(), found.as_deref().map(LeaseRecord::of), now);
        *at_revision = found.as_deref().and_then(revision_of);
        match decide(identity, seen.as_ref(), None, now, timing, (self.options.random)()) {
            Step::Acquire => {}
            Step::Wait(wait) => return Ok(Err(wait)),
            Step::Renew | Step::Lost(_) => return Ok(Err(timing.retry_period)),
        }
        let wanted = record::acquired(found.as_deref(), at, identity, timing.lease_duration, self.clock.now());
        // Others count from when they see the write, which is later than this.
        let begun = self.clock.monotonic();
        let written = match &found {
            None => self.bounded(timing.request(), self.api.create(&wanted)).await?,
            Some(_) => self.bounded(timing.request(), self.api.update(&wanted)).await?,
        };
        let Some(revision) = revision_of(&written) else {
            return Err(ApiError::Transport("the API server answered a lease without a resourceVersion".into()));
        };
        let transitions = LeaseRecord::of(&written).transitions();
        let fence = Fence::new(at.clone(), revision);
        let lead = Leadership::new(self.clock.clone(), fence, begun + timing.renew_deadline);
        Ok(Ok(Held { lease: Lease::clone(&written), term: Term { transitions, renewed: begun }, lead }))
    }

    /// Ends when the lease changes after a revision of it; never, if that cannot be watched.
    async fn changed(&self, after: Option<Revision>) {
        let Some(after) = after else { return std::future::pending().await };
        let (at, resource) = (&self.options.lease, resource_of::<Lease>());
        let query =
            Query { namespace: Some(at.namespace.clone()), field_selector: Some(format!("metadata.name={}", at.name)), ..Query::default() };
        if self.follow(&query, after).await.is_ok() {
            return;
        }
        // The lease may be older than what is remembered for watches; a list is not.
        if let Ok(list) = self.api.list(&resource, &query).await
            && (list.items.first().map(|lease| lease.revision()) != Some(after) || self.follow(&query, list.revision).await.is_ok())
        {
            return;
        }
        std::future::pending().await
    }

    /// Ends well when something in `query` changes, and with an error when that could not be watched any longer.
    async fn follow(&self, query: &Query, after: Revision) -> Result<(), ApiError> {
        let mut events = self.api.watch(&resource_of::<Lease>(), query, after).await?;
        while let Some(event) = events.next().await {
            match event? {
                ApiEvent::Added(_) | ApiEvent::Modified(_) | ApiEvent::Deleted(_) => return Ok(()),
                ApiEvent::Bookmark(_) => {}
            }
        }
        Err(ApiError::Transport("the watch ended".into()))
    }

    async fn hold(&self, mut held: Held, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) -> End {
        self.tell(&held.lease, true);
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        let end = self.keep(&mut held, stop, &mut tasks).await;
        if end == End::Stopped {
            held.lead.stop().cancel();
            let left = self.left(&held.term);
            let ended = async { while tasks.join_next().await.is_some() {} };
            tokio::select! {
                () = ended => {}
                () = self.clock.sleep(left) => tracing::warn!(lease = %self.options.lease, "what led did not end in time and was cut off"),
                () = held.lead.lost().cancelled() => {}
            }
        }
        // From here on nothing more is written under this term, by whoever still has its API.
        held.lead.resign();
        tasks.shutdown().await;
        self.tell(&held.lease, false);
        if !matches!(end, End::Lost(_)) {
            self.release(&held).await;
        }
        end
    }

    fn left(&self, term: &Term) -> Duration {
        (term.renewed + self.options.timing.renew_deadline).saturating_sub(self.clock.monotonic())
    }

    /// Renews until the term ends.
    async fn keep(&self, held: &mut Held, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> End {
        loop {
            let deadline = self.clock.sleep(self.left(&held.term));
            let lost = held.lead.lost().clone();
            let round = async {
                self.clock.sleep(self.options.timing.retry_period).await;
                self.renew(held).await
            };
            tokio::select! {
                biased;
                () = lost.cancelled() => return End::Resigned,
                () = stop.cancelled() => return End::Stopped,
                () = deadline => return End::Lost(Lost::Deadline),
                done = tasks.join_next() => {
                    if let Some(Err(error)) = done {
                        tracing::error!(lease = %self.options.lease, "what led failed: {error}");
                    }
                    return End::Done;
                }
                renewed = round => match renewed {
                    Ok(None) => {}
                    Ok(Some(lost)) => return End::Lost(lost),
                    // It is tried again until the deadline.
                    Err(error) => tracing::debug!(lease = %self.options.lease, "not renewed: {error}"),
                },
            }
        }
    }

    /// One renewal; says if the lease was lost.
    async fn renew(&self, held: &mut Held) -> Result<Option<Lost>, ApiError> {
        let ElectionOptions { lease: at, identity, timing, .. } = &self.options;
        loop {
            let wanted = record::renewed(&held.lease, timing.lease_duration, self.clock.now());
            let begun = self.clock.monotonic();
            match self.bounded(timing.request(), self.api.update(&wanted)).await {
                Ok(written) => {
                    held.lease = Lease::clone(&written);
                    held.term.renewed = begun;
                    held.lead.renewed(begun + timing.renew_deadline);
                    return Ok(None);
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            let found = self.bounded(timing.request(), self.api.get_opt::<Lease>(at)).await?;
            let now = self.clock.monotonic();
            let seen = Seen::next(None, found.as_deref().map(LeaseRecord::of), now);
            match (decide(identity, seen.as_ref(), Some(&held.term), now, timing, 0.0), found) {
                // Written by somebody who did not take it, or by a renewal whose answer was lost.
                (Step::Renew, Some(found)) => held.lease = Lease::clone(&found),
                (Step::Lost(lost), _) => return Ok(Some(lost)),
                _ => return Ok(Some(Lost::Taken)),
            }
        }
    }

    /// Gives the lease back, if it is still the one of this term.
    async fn release(&self, held: &Held) {
        let ElectionOptions { lease: at, identity, timing, .. } = &self.options;
        let mut lease = held.lease.clone();
        for _ in 0..2 {
            let wanted = record::released(&lease, self.clock.now());
            match self.bounded(timing.request(), self.api.update(&wanted)).await {
                Err(error) if error.is_conflict() => {}
                Ok(_) => return,
                Err(error) => return tracing::warn!(lease = %at, "not released: {error}"),
            }
            // A renewal that was cut off may have been carried out.
            match self.bounded(timing.request(), self.api.get_opt::<Lease>(at)).await {
                Ok(Some(found)) => {
                    let record = LeaseRecord::of(&found);
                    if record.holder() != identity || record.transitions() != held.term.transitions {
                        return;
                    }
                    lease = Lease::clone(&found);
                }
                _ => return,
            }
        }
    }

    async fn bounded<T>(&self, most: Duration, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        tokio::select! {
            answer = call => answer,
            () = self.clock.sleep(most) => {
                let message: BoxError = format!("no answer within {} s", most.as_secs_f64()).into();
                Err(ApiError::Transport(message))
            }
        }
    }

    fn tell(&self, lease: &Lease, leads: bool) {
        let ElectionOptions { lease: at, identity, events, metrics, .. } = &self.options;
        let what = if leads { "became leader" } else { "stopped leading" };
        tracing::info!(lease = %at, %identity, "{what}");
        if let Some(metrics) = metrics {
            metrics.set(&at.name, leads);
        }
        if let Some(events) = events {
            events.event(lease, EventType::Normal, REASON, format!("{identity} {what}"));
        }
    }
}
