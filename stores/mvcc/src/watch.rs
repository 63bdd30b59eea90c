//! One watch: a position in history. A slow one costs nothing, and is told when history has left it behind.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use wharf_core::store::{Change, Revision, Scope, StoreError, StoreResult, WatchItem};

use crate::history::Commit;
use crate::serving::Shared;
use crate::signal::Place;

/// Commits looked at under one hold of the lock; most may be out of a namespace's scope.
pub(crate) const SCAN: usize = 256;
/// Items whose place is kept while a watch waits, of which there may be many.
const KEPT: usize = 4;

#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    place: Place,
    scope: Scope,
    /// Everything in scope up to here is in `ready` or has been yielded.
    position: Revision,
    /// What the watcher knows or will know from `ready`.
    announced: Revision,
    ready: VecDeque<WatchItem>,
    buffer: usize,
    ended: bool,
}

impl Watch {
    /// A watch that takes at most `buffer` commits out of history at a time.
    pub(crate) fn new(shared: Arc<Shared>, scope: Scope, after: Revision, buffer: usize) -> Self {
        let place = shared.signals.join(&scope);
        Self { shared, place, scope, position: after, announced: after, ready: VecDeque::new(), buffer, ended: false }
    }

    /// Takes the next commits out of history. False once there is nothing to say.
    fn fill(&mut self) -> StoreResult<bool> {
        let state = self.shared.read();
        let expired = || StoreError::Expired { compacted: state.compacted() };
        let mut commits = state.history(&self.scope).after(self.position).ok_or_else(expired)?;
        for commit in commits.by_ref().take(SCAN) {
            self.position = commit.revision;
            if let Some(changes) = in_scope(&self.scope, commit) {
                self.announced = commit.revision;
                self.ready.push_back(WatchItem::Commit { revision: commit.revision, changes });
                if self.ready.len() >= self.buffer {
                    break;
                }
            }
        }
        if commits.next().is_some() {
            return Ok(true);
        }
        self.position = self.position.max(state.revision());
        if self.announced < self.position {
            self.announced = self.position;
            self.ready.push_back(WatchItem::Progress(self.position));
        }
        Ok(!self.ready.is_empty())
    }

    fn end(&mut self, last: Option<StoreError>) -> Poll<Option<StoreResult<WatchItem>>> {
        self.ended = true;
        Poll::Ready(last.map(Err))
    }
}

impl Stream for Watch {
    type Item = StoreResult<WatchItem>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watch = &mut *self;
        let mut waits = false;
        while !watch.ended {
            if let Some(item) = watch.ready.pop_front() {
                if watch.ready.is_empty() {
                    watch.ready.shrink_to(KEPT);
                }
                return Poll::Ready(Some(Ok(item)));
            }
            // A reader that always finds something lets its neighbours on the executor run between batches.
            if pin!(tokio::task::coop::consume_budget()).poll(context).is_pending() {
                return Poll::Pending;
            }
            // Asked before the state is read: nothing is committed after the end.
            let end = watch.shared.check();
            if let Err(error) = &end
                && !matches!(error, StoreError::Closed)
            {
                return watch.end(end.err());
            }
            match watch.fill() {
                Ok(true) => {}
                Ok(false) if end.is_err() => return watch.end(None),
                Ok(false) if waits => return Poll::Pending,
                Ok(false) => {
                    // Then the state is read once more: what came before is seen, what comes after wakes.
                    watch.shared.signals.wait(&watch.scope, watch.place, context.waker());
                    waits = true;
                }
                Err(error) => return watch.end(Some(error)),
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.signals.leave(&self.scope, self.place);
    }
}

/// A commit's changes in scope: shared as they are if that is all of them.
fn in_scope(scope: &Scope, commit: &Commit) -> Option<Arc<[Change]>> {
    match scope {
        Scope::Namespace(_, namespace) => {
            // The history is the resource's already.
            let inside = |c: &&Change| c.key().namespace == *namespace;
            match commit.changes.iter().filter(inside).count() {
                0 => None,
                n if n == commit.changes.len() => Some(commit.changes.clone()),
                _ => Some(commit.changes.iter().filter(inside).cloned().collect()),
            }
        }
        _ => Some(commit.changes.clone()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::{FutureExt, StreamExt};
    use wharf_core::runtime::Retry;
    use wharf_core::store::{Key, ResourceId, Transaction, WatchStream};

    use super::*;
    use crate::{CROWD, HistoryBound, Pending, Planned, Serving, State};

    fn serving(commits: usize) -> Serving {
        Serving::new(State::new(HistoryBound { commits, ..HistoryBound::default() }))
    }
    fn resource(name: &str) -> ResourceId {
        ResourceId::new("", name)
    }
    fn pods() -> Scope {
        Scope::Resource(resource("pods"))
    }
    fn creation(namespace: &str, name: usize) -> Transaction {
        Transaction::create(Key::new(resource("pods"), namespace, name.to_string()), Bytes::new())
    }
    fn create(serving: &Serving, namespace: &str, name: usize) {
        serving.commit(creation(namespace, name)).unwrap();
    }
    /// What there is now.
    fn now(watch: &mut WatchStream) -> Option<Option<StoreResult<WatchItem>>> {
        watch.next().now_or_never()
    }
    fn revision(item: Option<Option<StoreResult<WatchItem>>>) -> u64 {
        match item {
            Some(Some(Ok(WatchItem::Commit { revision, .. }))) => revision.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn progress_follows_a_scan_that_found_nothing() {
        let serving = serving(SCAN * 2);
        for n in 0..SCAN {
            create(&serving, "other", n);
        }
        let mut watch = serving.watch(&Scope::Namespace(resource("pods"), "mine".into()), Revision(1)).unwrap();
        assert!(matches!(now(&mut watch), Some(Some(Ok(WatchItem::Progress(Revision(r))))) if r == 1 + SCAN as u64));
        assert!(now(&mut watch).is_none());
    }

    #[test]
    fn an_idle_watch_outlives_history_that_was_none_of_its_business() {
        let serving = serving(2);
        let mut nodes = serving.watch(&Scope::Resource(resource("nodes")), Revision(1)).unwrap();
        let mut all = serving.watch(&Scope::All, Revision(1)).unwrap();
        for n in 0..5 {
            create(&serving, "default", n);
        }
        assert!(matches!(now(&mut nodes), Some(Some(Ok(WatchItem::Progress(Revision(6)))))));
        assert!(matches!(now(&mut all), Some(Some(Err(StoreError::Expired { compacted: Revision(4) })))));
        assert!(matches!(now(&mut all), Some(None)));
    }

    #[test]
    fn a_watch_ends_with_the_store_after_its_last_commit() {
        let serving = serving(10);
        let (mut dropped, mut closed) = (serving.watch(&pods(), Revision(1)).unwrap(), serving.watch(&pods(), Revision(1)).unwrap());
        create(&serving, "default", 0);
        serving.close();
        assert_eq!(revision(now(&mut closed)), 2);
        assert!(matches!(now(&mut closed), Some(None)));
        assert!(matches!(serving.revision(), Err(StoreError::Closed)));
        drop(serving);
        assert_eq!(revision(now(&mut dropped)), 2);
        assert!(matches!(now(&mut dropped), Some(None)));
    }

    #[tokio::test]
    async fn a_store_that_fails_tells_its_watches_even_those_that_wait() {
        let serving = serving(10);
        let mut watch = serving.watch(&pods(), Revision(1)).unwrap();
        let waiting = tokio::spawn(async move { (watch.next().await, watch.next().await) });
        tokio::task::yield_now().await;
        serving.fail(|| StoreError::Backend { op: "fsync", retry: Retry::Permanent, source: "no".into() });
        assert!(matches!(waiting.await.unwrap(), (Some(Err(StoreError::Backend { op: "fsync", .. })), None)));
        assert!(matches!(serving.commit(creation("default", 0)), Err(StoreError::Backend { .. })));
        serving.close();
        assert!(matches!(serving.check(), Err(StoreError::Backend { .. })), "the first reason stays");
    }

    #[tokio::test]
    async fn what_is_applied_wakes_and_what_is_planned_does_not() {
        let serving = serving(100);
        let mut watch = serving.watch(&pods(), Revision(1)).unwrap();
        assert!(now(&mut watch).is_none());
        let mut pending = Pending::new();
        let planned: Vec<Commit> = (0..3)
            .map(|n| match serving.plan(&mut pending, creation("default", n)).unwrap() {
                Planned::Commit(commit) => commit,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(now(&mut watch).is_none());
        let waiting = tokio::spawn(async move { watch.by_ref().take(3).map(|item| item.unwrap()).collect::<Vec<_>>().await });
        tokio::task::yield_now().await;
        serving.apply(&mut pending, planned);
        assert!(pending.is_empty());
        let seen = waiting.await.unwrap();
        assert!(seen.iter().zip(2..).all(|(item, r)| matches!(item, WatchItem::Commit { revision, .. } if revision.0 == r)), "{seen:?}");
    }

    #[test]
    fn a_crowd_gets_its_progress_when_somebody_asks() {
        let serving = serving(100);
        let nodes = Scope::Resource(resource("nodes"));
        let mut crowd: Vec<WatchStream> = (0..CROWD * 2).map(|_| serving.watch(&nodes, Revision(1)).unwrap()).collect();
        assert!(crowd.iter_mut().all(|watch| now(watch).is_none()));
        create(&serving, "default", 0);
        assert!(!serving.shared().signals.nobody());
        assert_eq!(serving.revision().unwrap(), Revision(2));
        assert!(serving.shared().signals.nobody());
        for watch in &mut crowd {
            assert!(matches!(now(watch), Some(Some(Ok(WatchItem::Progress(Revision(2)))))));
        }
    }

    #[test]
    fn what_a_watch_has_read_ahead_is_given_back() {
        let serving = serving(100);
        for n in 0..60 {
            create(&serving, "default", n);
        }
        let shared = serving.shared().clone();
        let mut watch = Watch::new(shared, pods(), Revision(1), 64);
        while watch.next().now_or_never().is_some() {}
        assert!(watch.ready.capacity() <= KEPT, "{}", watch.ready.capacity());
        assert!(size_of::<Watch>() <= 192, "{}", size_of::<Watch>());
    }
}
