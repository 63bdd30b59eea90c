//! An [`ObjectStore`] in memory: the specification of the seam.
//!
//! Where the contract leaves room, this store decides:
//! - An empty store is at revision 1, as etcd is; each commit adds exactly one.
//! - Progress is announced once a watcher has caught up and the store has moved on out of its scope; what happens
//!   between two polls of a watch is announced as one.
//! - Compacting the future is [`StoreError::Future`]; a page limit of zero returns no record.
//! - Writing the value that is already there is a change. A transaction of only checks is not.
//!
//! History is bounded by commits and by bytes, oldest forgotten first. A watcher that falls behind it gets
//! [`StoreError::Expired`]; commits never wait for watchers.

mod history;
mod list;
mod state;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::RwLock;
use wharf_core::store::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, StoreCapabilities, StoreError, StoreResult, Transaction, WatchStream,
};

use crate::history::Bound;
use crate::state::State;

/// Commits of history kept unless the builder says otherwise.
pub const DEFAULT_HISTORY: usize = 16_384;
/// Bytes of values that history may hold, old and new together, unless the builder says otherwise.
pub const DEFAULT_HISTORY_BYTES: usize = 64 << 20;
/// Commits that one watch takes out of history at a time unless the builder says otherwise.
pub const DEFAULT_WATCH_BUFFER: usize = 64;

/// A store in memory. Clones share it; watches end when the last clone is dropped.
#[derive(Clone)]
pub struct MemoryStore {
    handle: Arc<Handle>,
}

/// What the store's users hold and its watches do not.
struct Handle {
    shared: Arc<Shared>,
    changed: tokio::sync::watch::Sender<()>,
    watch_buffer: usize,
}

/// What users and watches share.
struct Shared {
    state: RwLock<State>,
    /// The state's revision, to be read without its lock.
    revision: AtomicU64,
}

/// How a [`MemoryStore`] is made.
#[derive(Debug, Clone)]
pub struct MemoryStoreBuilder {
    bound: Bound,
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
        let state = State::new(self.bound);
        let revision = AtomicU64::new(state.revision().0);
        let shared = Arc::new(Shared { state: RwLock::new(state), revision });
        let changed = tokio::sync::watch::Sender::new(());
        MemoryStore { handle: Arc::new(Handle { shared, changed, watch_buffer: self.watch_buffer }) }
    }
}

impl MemoryStore {
    /// An empty store with the default bounds.
    pub fn new() -> Self {
        Self::builder().build()
    }
    /// An empty store with other bounds.
    pub fn builder() -> MemoryStoreBuilder {
        let bound = Bound { commits: DEFAULT_HISTORY, bytes: DEFAULT_HISTORY_BYTES };
        MemoryStoreBuilder { bound, watch_buffer: DEFAULT_WATCH_BUFFER }
    }
    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.shared().revision.load(Ordering::Acquire);
        f.debug_struct("MemoryStore").field("revision", &revision).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::with(false, true)
    }

    async fn revision(&self) -> StoreResult<Revision> {
        Ok(Revision(self.shared().revision.load(Ordering::Acquire)))
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        Ok(self.shared().state.read().get(key).cloned())
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        list::list(&self.shared().state, scope, options).await
    }

    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        transaction.validate(&self.capabilities())?;
        let (revision, changed) = {
            let mut state = self.shared().state.write();
            let before = state.revision();
            let revision = state.commit(transaction)?;
            // Under the lock, so that it never goes back.
            self.shared().revision.store(revision.0, Ordering::Release);
            (revision, revision != before)
        };
        if changed {
            self.handle.changed.send_replace(());
        }
        Ok(revision)
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        // Subscribed first: a commit in between is seen twice by the signal, never missed.
        let changed = self.handle.changed.subscribe();
        let compacted = self.shared().state.read().compacted();
        if after < compacted {
            return Err(StoreError::Expired { compacted });
        }
        let watch = watch::Watch::new(self.handle.shared.clone(), changed, scope.clone(), after, self.handle.watch_buffer);
        Ok(watch.into_stream().boxed())
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.shared().state.write().compact(upto)
    }
}
