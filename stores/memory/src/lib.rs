//! An [`ObjectStore`] in memory: the specification of the seam.
//!
//! Where the contract leaves room, this store decides:
//! - An empty store is at revision 1, as etcd is; each commit adds exactly one.
//! - Progress is announced once a watcher has caught up and the store has moved on out of its scope; what happens
//!   between two polls of a watch is announced as one. A few watchers are told of every commit elsewhere, a crowd of
//!   [more](wharf_store_mvcc::CROWD) less often, and all when somebody asks where the store is.
//! - Compacting the future is [`StoreError::Future`]; a page limit of zero returns no record.
//! - Writing the value that is already there is a change. A transaction of only checks is not.
//!
//! History is bounded by commits and by bytes, oldest forgotten first. A watcher that falls behind it gets
//! [`StoreError::Expired`]; commits never wait for watchers, and lists give way to them.
//!
//! [`StoreError::Future`]: wharf_core::store::StoreError::Future
//! [`StoreError::Expired`]: wharf_core::store::StoreError::Expired

use std::fmt;

use async_trait::async_trait;
use wharf_core::store::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, StoreCapabilities, StoreResult, Transaction, WatchStream,
};
use wharf_store_mvcc::{HistoryBound, Serving, State};

pub use wharf_store_mvcc::{DEFAULT_HISTORY, DEFAULT_HISTORY_BYTES, DEFAULT_WATCH_BUFFER};

const CAPABILITIES: StoreCapabilities = StoreCapabilities::with(false, true);

/// A store in memory. Clones share it; watches end when the last clone is dropped.
#[derive(Clone)]
pub struct MemoryStore {
    serving: Serving,
}

/// How a [`MemoryStore`] is made.
#[derive(Debug, Clone)]
pub struct MemoryStoreBuilder {
    bound: HistoryBound,
    watch_buffer: usize,
}

impl MemoryStoreBuilder {
    /// How many commits of history to keep; at least 1.
    pub fn history(mut self, commits: usize) -> Self {
        self.bound.commits = commits.max(1);
        self
    }
    /// How many bytes of values history may hold. The newest commit is kept whatever its size.
    pub fn history_bytes(mut self, bytes: usize) -> Self {
        self.bound.bytes = bytes;
        self
    }
    /// How many commits one watch takes out of history at a time; at least 1.
    pub fn watch_buffer(mut self, commits: usize) -> Self {
        self.watch_buffer = commits.max(1);
        self
    }
    /// An empty store.
    pub fn build(self) -> MemoryStore {
        MemoryStore { serving: Serving::with_watch_buffer(State::new(self.bound), self.watch_buffer) }
    }
}

impl MemoryStore {
    /// An empty store with the default bounds.
    pub fn new() -> Self {
        Self::builder().build()
    }
    /// An empty store with other bounds.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { bound: HistoryBound::default(), watch_buffer: DEFAULT_WATCH_BUFFER }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("serving", &self.serving).finish()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        CAPABILITIES
    }

    async fn revision(&self) -> StoreResult<Revision> {
        self.serving.revision()
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.serving.get(key)
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.serving.list(scope, options).await
    }

    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        transaction.validate(&CAPABILITIES)?;
        self.serving.commit(transaction)
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        self.serving.watch(scope, after)
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.serving.compact(upto).await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;
    use wharf_core::store::{ResourceId, StoreError, WatchItem};

    use super::*;

    async fn create(store: &MemoryStore, name: usize) {
        let key = Key::new(ResourceId::new("", "pods"), "default", name.to_string());
        store.commit(Transaction::create(key, Bytes::new())).await.unwrap();
    }

    #[tokio::test]
    async fn bounds_are_those_asked_for() {
        let store = MemoryStore::builder().history(2).build();
        let mut nodes = store.watch(&Scope::Resource(ResourceId::new("", "nodes")), Revision(1)).await.unwrap();
        let mut all = store.watch(&Scope::All, Revision(1)).await.unwrap();
        for n in 0..5 {
            create(&store, n).await;
        }
        assert_eq!(nodes.next().await.unwrap().unwrap(), WatchItem::Progress(Revision(6)));
        assert!(matches!(all.next().await, Some(Err(StoreError::Expired { compacted: Revision(4) }))));
        assert!(all.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_last_clone_after_the_last_commit() {
        let store = MemoryStore::new();
        let clone = store.clone();
        let mut watch = store.watch(&Scope::All, Revision(1)).await.unwrap();
        drop(store);
        create(&clone, 0).await;
        drop(clone);
        assert!(matches!(watch.next().await, Some(Ok(WatchItem::Commit { .. }))));
        assert!(watch.next().await.is_none());
    }
}
