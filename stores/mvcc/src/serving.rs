//! A state that is read, written and watched by many at a time.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use wharf_core::store::{Key, ListOptions, Listing, Record, Revision, Scope, StoreError, StoreResult, Transaction, WatchStream};

use crate::history::Commit;
use crate::list;
use crate::plan::{Pending, Planned};
use crate::signal::Signals;
use crate::state::State;
use crate::watch::Watch;

/// Commits that one watch takes out of history at a time unless told otherwise.
pub const DEFAULT_WATCH_BUFFER: usize = 64;
/// Commits applied or forgotten under one hold of the lock.
const CHUNK: usize = 64;

/// A [`State`] behind a lock, with its watches. Clones share it; when the last is dropped, it is [closed](Serving::close).
///
/// Locks are held for microseconds, so its calls need not be awaited; two do, because they may be long and let go in between.
///
/// # Errors
/// Every call fails with [`StoreError::Closed`] once it is closed, and with the error given once it has [failed](Serving::fail).
///
/// # Panics
/// Never.
#[derive(Clone)]
pub struct Serving {
    handle: Arc<Handle>,
}

/// What the users hold and the watches do not.
struct Handle {
    shared: Arc<Shared>,
    watch_buffer: usize,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(Ending::Closed);
    }
}

/// What users and watches share.
pub(crate) struct Shared {
    state: RwLock<State>,
    /// Writers that wait for the lock, for readers to give way to.
    writers: AtomicUsize,
    /// The state's revision, to be read without its lock.
    revision: AtomicU64,
    pub(crate) signals: Signals,
    ending: OnceLock<Ending>,
}

/// Why nothing is served any more.
enum Ending {
    Closed,
    Failed(Box<dyn Fn() -> StoreError + Send + Sync>),
}

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        if let Some(state) = self.state.try_write() {
            return state;
        }
        self.writers.fetch_add(1, Ordering::Relaxed);
        // New readers come after a writer that waits, whatever their number.
        let state = self.state.write();
        self.writers.fetch_sub(1, Ordering::Relaxed);
        state
    }

    pub(crate) fn a_writer_waits(&self) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn check(&self) -> StoreResult<()> {
        match self.ending.get() {
            None => Ok(()),
            Some(Ending::Closed) => Err(StoreError::Closed),
            Some(Ending::Failed(reason)) => Err(reason()),
        }
    }

    fn end(&self, ending: Ending) {
        // The first reason stays.
        if self.ending.set(ending).is_ok() {
            self.signals.wake_all();
        }
    }

    /// Says how far the state is. Under its lock, so that it never goes back.
    fn publish(&self, state: &State) {
        self.revision.store(state.revision().0, Ordering::Release);
    }
}

impl Serving {
    /// Serves a state, with [`DEFAULT_WATCH_BUFFER`].
    pub fn new(state: State) -> Self {
        Self::with_watch_buffer(state, DEFAULT_WATCH_BUFFER)
    }

    /// Serves a state; one watch takes so many commits out of history at a time, at least 1.
    pub fn with_watch_buffer(state: State, commits: usize) -> Self {
        let revision = AtomicU64::new(state.revision().0);
        let shared = Shared {
            state: RwLock::new(state),
            writers: AtomicUsize::new(0),
            revision,
            signals: Signals::default(),
            ending: OnceLock::new(),
        };
        Self { handle: Arc::new(Handle { shared: Arc::new(shared), watch_buffer: commits.max(1) }) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Whether it still serves.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(&self) -> StoreResult<()> {
        self.shared().check()
    }

    /// The newest visible commit.
    ///
    /// # Errors
    /// As every call.
    pub fn revision(&self) -> StoreResult<Revision> {
        self.check()?;
        let revision = Revision(self.shared().revision.load(Ordering::Acquire));
        self.shared().signals.asked();
        Ok(revision)
    }

    /// One record of the newest state.
    ///
    /// # Errors
    /// As every call.
    pub fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.check()?;
        Ok(self.shared().read().get(key).cloned())
    }

    /// A page of the records in scope; see [`ListOptions`]. However long, it holds up no commit.
    ///
    /// # Cancellation
    /// Has no effect.
    ///
    /// # Errors
    /// [`StoreError::Future`], [`StoreError::Expired`], and as every call.
    pub async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.check()?;
        let listing = list::list(self.shared(), scope, options).await?;
        self.shared().signals.asked();
        Ok(listing)
    }

    /// Everything in scope that is committed after a revision.
    ///
    /// # Errors
    /// [`StoreError::Expired`] below the compaction, and as every call.
    pub fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        self.check()?;
        let compacted = self.shared().read().compacted();
        if after < compacted {
            return Err(StoreError::Expired { compacted });
        }
        Ok(Watch::new(self.shared().clone(), scope.clone(), after, self.handle.watch_buffer).boxed())
    }

    /// Forgets history up to and including a revision, in steps that hold up no commit.
    ///
    /// # Cancellation
    /// From its first poll nobody begins to read below the revision. What it had not forgotten when it was dropped stays until
    /// the next compaction or the bound.
    ///
    /// # Errors
    /// [`StoreError::Future`], and as every call.
    pub async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.check()?;
        loop {
            let forgotten = self.shared().write().compact_some(upto, CHUNK)?;
            if forgotten.len() < CHUNK {
                return Ok(());
            }
            drop(forgotten);
            tokio::task::yield_now().await;
        }
    }

    /// Carries out a transaction at once: for a store that is not durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], and as every call.
    pub fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        self.check()?;
        let commit = {
            let mut state = self.shared().write();
            match state.commit(transaction)? {
                Planned::Nothing(revision) => return Ok(revision),
                Planned::Commit(commit) => {
                    self.shared().publish(&state);
                    commit
                }
            }
        };
        self.shared().signals.committed(1, commit.changes.iter());
        Ok(commit.revision)
    }

    /// What a transaction comes to on what is visible and what is pending; see [`State::plan`]. One user at a time plans, and
    /// it alone applies.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], and as every call.
    pub fn plan(&self, pending: &mut Pending, transaction: Transaction) -> StoreResult<Planned> {
        self.check()?;
        self.shared().read().plan(pending, transaction)
    }

    /// Makes planned commits visible, in the order of their plans, and wakes their watches once. They are no longer pending.
    pub fn apply(&self, pending: &mut Pending, commits: impl IntoIterator<Item = Commit>) {
        let mut changes = Vec::new();
        let mut commits = commits.into_iter().peekable();
        while commits.peek().is_some() {
            let mut state = self.shared().write();
            for commit in commits.by_ref().take(CHUNK) {
                pending.applied(&commit);
                changes.push(commit.changes.clone());
                state.apply(commit);
            }
            self.shared().publish(&state);
        }
        self.shared().signals.committed(changes.len(), changes.iter().flat_map(|c| c.iter()));
    }

    /// Looks at the state. Commits wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared().read())
    }

    /// Ends it: every call is [`StoreError::Closed`], and watches end once they have yielded what there is.
    pub fn close(&self) {
        self.shared().end(Ending::Closed);
    }

    /// Ends it with an error that every call fails with, and that watches end with once they have yielded what they had read.
    /// The first ending stays.
    pub fn fail(&self, reason: impl Fn() -> StoreError + Send + Sync + 'static) {
        self.shared().end(Ending::Failed(Box::new(reason)));
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.handle.shared, f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match self.ending.get() {
            None => None,
            Some(Ending::Closed) => Some("closed"),
            Some(Ending::Failed(_)) => Some("failed"),
        };
        f.debug_struct("Serving").field("revision", &self.revision.load(Ordering::Acquire)).field("ending", &ending).finish_non_exhaustive()
    }
}
