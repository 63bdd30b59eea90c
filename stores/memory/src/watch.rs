//! One watch: a position in history. A slow one costs nothing, and is told when history has left it behind.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::watch::Receiver;
use wharf_core::store::{Change, Revision, Scope, StoreError, StoreResult, WatchItem};

use crate::Shared;
use crate::history::Commit;

/// Commits looked at under one hold of the lock; most may be out of a namespace's scope.
const SCAN: usize = 1024;

pub(crate) struct Watch {
    shared: Arc<Shared>,
    changed: Receiver<()>,
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
    pub(crate) fn new(shared: Arc<Shared>, changed: Receiver<()>, scope: Scope, after: Revision, buffer: usize) -> Self {
        Self { shared, changed, scope, position: after, announced: after, ready: VecDeque::new(), buffer, ended: false }
    }

    /// The watch as a stream. Between items it holds only its position, so a dropped `next` loses nothing.
    pub(crate) fn into_stream(self) -> impl Stream<Item = StoreResult<WatchItem>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            let item = watch.next().await?;
            watch.ended = item.is_err();
            Some((item, watch))
        })
    }

    async fn next(&mut self) -> Option<StoreResult<WatchItem>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            // A reader that always finds something lets its neighbours on the executor run between batches.
            tokio::task::coop::consume_budget().await;
            // Seen before the state is read: what comes in between wakes us again.
            self.changed.mark_unchanged();
            match self.fill() {
                Err(e) => return Some(Err(e)),
                Ok(true) => continue,
                Ok(false) => {}
            }
            if self.changed.changed().await.is_err() {
                // The store is gone. It may have changed once more before that.
                match self.fill() {
                    Ok(true) => continue,
                    _ => return None,
                }
            }
        }
    }

    /// Takes the next commits out of history. False once there is nothing to say.
    fn fill(&mut self) -> StoreResult<bool> {
        let state = self.shared.state.read();
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
    use wharf_core::store::{Key, ObjectStore, ResourceId, Transaction};

    use super::*;
    use crate::MemoryStore;

    fn pods() -> ResourceId {
        ResourceId::new("", "pods")
    }
    async fn create(store: &MemoryStore, namespace: &str, name: usize) {
        let key = Key::new(pods(), namespace, name.to_string());
        store.commit(Transaction::create(key, Bytes::new())).await.unwrap();
    }

    #[tokio::test]
    async fn progress_follows_a_scan_that_found_nothing() {
        let store = MemoryStore::new();
        for n in 0..SCAN {
            create(&store, "other", n).await;
        }
        let mut watch = store.watch(&Scope::Namespace(pods(), "mine".into()), Revision(1)).await.unwrap();
        let item = watch.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(item, WatchItem::Progress(Revision(1 + SCAN as u64)));
        assert!(watch.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_idle_watch_outlives_history_that_was_none_of_its_business() {
        let store = MemoryStore::builder().history(2).build();
        let mut nodes = store.watch(&Scope::Resource(ResourceId::new("", "nodes")), Revision(1)).await.unwrap();
        let mut all = store.watch(&Scope::All, Revision(1)).await.unwrap();
        for n in 0..5 {
            create(&store, "default", n).await;
        }
        assert_eq!(nodes.next().await.unwrap().unwrap(), WatchItem::Progress(Revision(6)));
        assert!(matches!(all.next().await, Some(Err(StoreError::Expired { compacted: Revision(4) }))));
        assert!(all.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_store_after_its_last_commit() {
        let store = MemoryStore::new();
        let mut watch = store.watch(&Scope::All, Revision(1)).await.unwrap();
        create(&store, "default", 0).await;
        drop(store);
        assert!(matches!(watch.next().await, Some(Ok(WatchItem::Commit { .. }))));
        assert!(watch.next().await.is_none());
    }
}
