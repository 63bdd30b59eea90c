//! Watches: etcd's, taken up where they were when the connection is lost or the reader fell behind.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbWatchResponse;
use tokio::sync::watch::Receiver;
use wharf_core::runtime::Retry;
use wharf_core::store::{Change, Revision, Scope, StoreError, StoreResult, WatchItem, WatchStream};

use crate::Shared;
use crate::endpoints::Opened;
use crate::fault::EtcdFault;
use crate::feed::{Feed, Full, feed};
use crate::record::{self, Forgotten};

/// How long etcd is given to tell what there is before it is asked for progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(20);
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
/// Longest pause between two attempts to take a watch up again.
pub const RECONNECT_MOST: Duration = Duration::from_secs(2);
/// How long a watch is tried to be taken up again before it ends with the failure.
pub const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// Starts a watch. It lives in a task, so that a reader that does not read keeps nothing from the connection's others.
pub(crate) async fn start(shared: Arc<Shared>, mut open: Receiver<()>, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
    let (feed, stream) = feed(shared.watch_buffer);
    let range = shared.keys.range(scope);
    let opened = shared.etcd.watch(&shared.keys, &range, from(after)).await.map_err(|fault| fault.failed("watch"))?;
    let newest = shared.etcd.newest();
    let closed = feed.closed();
    let mut watch =
        Watch { shared, newest, scope: scope.clone(), range, position: after, announced: after, held: None, delay: RECONNECT_FIRST, feed };
    tokio::spawn(async move {
        tokio::select! {
            () = watch.run(opened) => {}
            () = closed => {}
            // Nothing is ever sent: the last user of the store is gone.
            _ = open.changed() => {}
        }
    });
    Ok(stream)
}

/// Where to begin to miss nothing after a revision. etcd begins with the revision itself, and is asked for it although it is
/// not wanted: only then does it refuse when that revision is compacted, as it may have forgotten a delete in the next.
fn from(after: Revision) -> i64 {
    i64::try_from(after.0).unwrap_or(i64::MAX).max(1)
}

/// Up to where history is gone, given a revision that is: only a watch is told.
pub(crate) async fn compacted(shared: &Shared, gone: i64) -> Result<Revision, EtcdFault> {
    let key = shared.keys.probe();
    let range = key.clone()..[key.as_slice(), &[0]].concat();
    let mut opened = shared.etcd.watch(&shared.keys, &range, gone.max(1)).await?;
    let timeout = shared.etcd.timeout();
    let answer = tokio::select! {
        answer = opened.responses.message() => answer,
        () = shared.clock.sleep(timeout) => return Err(EtcdFault::Silent { endpoint: opened.endpoint, within: timeout }),
    };
    match answer {
        Ok(Some(response)) if response.0.compact_revision > 0 => Ok(record::revision(response.0.compact_revision)),
        Ok(_) => Err(EtcdFault::Malformed { endpoint: opened.endpoint, what: "no compaction to a watch of what it had compacted" }),
        Err(error) => Err(EtcdFault::of(&opened.endpoint, &error)),
    }
}

/// Why a connection is not read any further.
enum Stop {
    /// It may be opened again.
    Lost(EtcdFault),
    /// The reader is behind.
    Full,
    /// The watch is over.
    Over(StoreError),
}

impl From<Full> for Stop {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

struct Watch {
    shared: Arc<Shared>,
    newest: Receiver<u64>,
    scope: Scope,
    range: Range<Vec<u8>>,
    /// Everything in scope up to here has been handed on.
    position: Revision,
    /// What the reader knows or will know from what was handed on.
    announced: Revision,
    /// A commit that etcd may have sent only a part of.
    held: Option<(Revision, Vec<Change>)>,
    delay: Duration,
    feed: Feed,
}

impl Watch {
    async fn run(&mut self, mut opened: Opened) {
        loop {
            let stop = self.follow(&mut opened).await;
            // Ends etcd's side before any wait.
            drop(opened);
            self.held = None;
            match stop {
                Stop::Over(error) => return self.feed.fail(error),
                Stop::Lost(fault) if fault.retry() == Retry::Permanent => return self.feed.fail(fault.failed("watch")),
                Stop::Lost(fault) => {
                    tracing::info!("taking a watch up again after {}: {fault}", self.position);
                    self.pause().await;
                }
                Stop::Full => self.feed.drained().await,
            }
            opened = match self.reopen().await {
                Ok(opened) => opened,
                Err(fault) => return self.feed.fail(fault.failed("watch")),
            };
        }
    }

    /// Waits, longer each time until etcd tells something.
    async fn pause(&mut self) {
        self.shared.clock.sleep(self.delay).await;
        self.delay = (self.delay * 2).min(RECONNECT_MOST);
    }

    async fn reopen(&mut self) -> Result<Opened, EtcdFault> {
        let clock = self.shared.clock.clone();
        let since = clock.monotonic();
        loop {
            match self.shared.etcd.watch(&self.shared.keys, &self.range, from(self.position)).await {
                Ok(opened) => return Ok(opened),
                Err(fault) if fault.retry() == Retry::Permanent || clock.monotonic().saturating_sub(since) > RECONNECT_PATIENCE => {
                    return Err(fault);
                }
                Err(fault) => tracing::warn!("a watch cannot be taken up again, trying on: {fault}"),
            }
            self.pause().await;
        }
    }

    /// Hands on what etcd tells.
    async fn follow(&mut self, opened: &mut Opened) -> Stop {
        loop {
            let behind = opened.answers_progress && *self.newest.borrow_and_update() > self.announced.0;
            tokio::select! {
                // What is there is taken before more is asked for.
                biased;
                message = opened.responses.message() => {
                    let response = match message {
                        Ok(Some(response)) => response.0,
                        Ok(None) => return Stop::Lost(EtcdFault::Lost { endpoint: opened.endpoint.clone(), cause: "it ended the watch".into() }),
                        Err(error) => return Stop::Lost(EtcdFault::of(&opened.endpoint, &error)),
                    };
                    if let Err(stop) = self.take(response, opened) {
                        return stop;
                    }
                }
                () = self.shared.clock.sleep(PROGRESS_AFTER), if behind => {
                    if let Err(error) = opened.requests.request_progress().await {
                        return Stop::Lost(EtcdFault::of(&opened.endpoint, &error));
                    }
                }
                // The sender is in `shared`.
                _ = self.newest.changed(), if !behind => {}
            }
        }
    }

    fn take(&mut self, response: PbWatchResponse, opened: &Opened) -> Result<(), Stop> {
        let told_at = self.shared.etcd.seen(&opened.endpoint, response.header.as_ref(), None).map_err(Stop::Lost)?;
        if response.compact_revision > 0 {
            return Err(Stop::Over(StoreError::Expired { compacted: record::revision(response.compact_revision) }));
        }
        if response.canceled {
            let (endpoint, message) = (opened.endpoint.clone(), response.cancel_reason);
            return Err(Stop::Lost(EtcdFault::Lost { endpoint, cause: format!("it canceled the watch: {message}") }));
        }
        self.delay = RECONNECT_FIRST;
        if response.events.is_empty() {
            // Only what was asked for has no watch's number.
            let is_progress = !response.created && (response.watch_id >= 0 || opened.answers_progress);
            return if is_progress { self.progress(Revision(told_at)) } else { Ok(()) };
        }
        for event in response.events {
            let revision = record::revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
            if revision <= self.position {
                continue;
            }
            if self.held.as_ref().is_some_and(|(held, _)| *held < revision) {
                self.hand_on()?;
            }
            let (_, changes) = self.held.get_or_insert_with(|| (revision, Vec::new()));
            match record::change(&self.shared.keys, event, changes.last().map(Change::key)) {
                Ok(Some(change)) if self.scope.contains(change.key()) => changes.push(change),
                Ok(_) => {}
                // Read as of the revision before, which therefore is compacted: history is gone at least up to here.
                Err(Forgotten) => return Err(Stop::Over(StoreError::Expired { compacted: revision })),
            }
        }
        if response.fragment { Ok(()) } else { self.hand_on() }
    }

    /// Hands on the commit that is held, now whole.
    fn hand_on(&mut self) -> Result<(), Stop> {
        let Some((revision, changes)) = self.held.take() else { return Ok(()) };
        if changes.is_empty() {
            return Ok(());
        }
        self.feed.send(WatchItem::Commit { revision, changes: Arc::from(changes) })?;
        self.position = revision;
        self.announced = self.announced.max(revision);
        Ok(())
    }

    fn progress(&mut self, revision: Revision) -> Result<(), Stop> {
        if revision > self.announced {
            self.feed.send(WatchItem::Progress(revision))?;
            self.announced = revision;
            self.position = self.position.max(revision);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_begins_where_compaction_is_noticed() {
        assert_eq!(from(Revision(7)), 7);
        // 0 would be "from now on".
        assert_eq!(from(Revision(0)), 1);
        assert_eq!(from(Revision(u64::MAX)), i64::MAX);
    }
}
