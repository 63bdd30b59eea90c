//! One cache per resource above any store: what the API serves reads and watches from.
//!
//! A single watch over the whole store feeds every cache, so that one revision tells how far all of them are. A cache
//! starts when it is first asked for. Its entries are shared: whoever reads an object reads the same bytes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use futures::StreamExt;
use parking_lot::RwLock;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::object::{Object, ObjectRef};

mod name;
use crate::store::{Change, ListOptions, ResourceId, Revision, Scope, SharedStore, StoreError, WatchItem};
use name::{Name, Names};

/// Most events that a cache keeps for watches to resume from.
pub const MAX_EVENTS: usize = 32_768;
/// Events that are kept however old they are.
pub const MIN_EVENTS: usize = 256;
/// How long events are kept beyond [`MIN_EVENTS`]; Kubernetes keeps at least 75 s.
pub const EVENT_AGE: Duration = Duration::from_secs(120);
/// Most events that a watcher takes at once.
pub const MAX_BATCH: usize = 512;
/// How long a consistent read waits for the cache; Kubernetes' own bound.
pub const CONSISTENT_READ_WAIT: Duration = Duration::from_secs(3);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// What reading a cache can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The revision is older than what the cache remembers, or the watcher fell behind; list again.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that a watch can start after.
        oldest: Revision,
    },
    /// The cache did not reach the revision in time.
    #[error("too large resource version: {asked}, current: {current}")]
    Behind {
        /// What was asked for.
        asked: Revision,
        /// Where the cache is.
        current: Revision,
    },
    /// The caches have been stopped.
    #[error("the cache is stopped")]
    Closed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A change of one object.
#[derive(Debug, Clone)]
pub struct CacheEvent {
    /// The commit.
    pub revision: Revision,
    /// The state before; `None` if the object is new.
    pub previous: Option<Arc<Object>>,
    /// The state now; of a deleted object the last, at the revision of its deletion.
    pub object: Arc<Object>,
    /// Whether it is gone.
    pub deleted: bool,
}

#[derive(Debug, Default)]
struct State {
    loaded: bool,
    /// Counts reloads: a watcher of an earlier epoch has missed something.
    epoch: u64,
    objects: BTreeMap<Name, Arc<Object>>,
    /// Changes at or before this revision are contained in `objects`.
    last: Revision,
    /// A watch can start after this revision or a later one.
    oldest: Revision,
    events: VecDeque<(Duration, Arc<CacheEvent>)>,
    /// Number of events that have left the ring in this epoch.
    dropped: u64,
    /// Commits that came while the first list was being read.
    pending: Vec<(Revision, Arc<[Change]>)>,
}

impl State {
    fn end(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    fn apply(&mut self, resource: &ResourceId, revision: Revision, changes: &[Change], now: Duration) -> bool {
        if revision <= self.last {
            return false;
        }
        let mut any = false;
        for change in changes.iter().filter(|c| c.key().resource == *resource) {
            any = true;
            let key = change.key();
            let name = Name(ObjectRef { namespace: key.namespace.clone(), name: key.name.clone() });
            let event = match change {
                Change::Put { record, .. } => {
                    let object = Arc::new(Object::from_record(record));
                    CacheEvent { revision, previous: self.objects.insert(name, object.clone()), object, deleted: false }
                }
                Change::Delete { previous } => {
                    let mut last = previous.clone();
                    last.modified = revision;
                    let object = Arc::new(Object::from_record(&last));
                    CacheEvent { revision, previous: self.objects.remove(&name), object, deleted: true }
                }
            };
            self.events.push_back((now, Arc::new(event)));
        }
        if any {
            self.last = revision;
            self.trim(now);
        }
        any
    }

    fn trim(&mut self, now: Duration) {
        while let Some((at, event)) = self.events.front() {
            let old = self.events.len() > MIN_EVENTS && now.saturating_sub(*at) > EVENT_AGE;
            if !old && self.events.len() <= MAX_EVENTS {
                break;
            }
            self.oldest = event.revision;
            self.events.pop_front();
            self.dropped += 1;
        }
    }
}

/// The objects of one resource.
#[derive(Debug)]
pub struct Cache {
    resource: ResourceId,
    shared: Arc<Shared>,
    state: RwLock<State>,
    loading: OnceCell<()>,
    /// Moves with every event and every reload.
    moved: watch::Sender<u64>,
}

/// A page of objects at a revision.
#[derive(Debug, Clone)]
pub struct Page {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// The page shows exactly this revision; watch after it.
    pub revision: Revision,
}

impl Cache {
    /// Which resource.
    pub fn resource(&self) -> &ResourceId {
        &self.resource
    }

    /// One object, as far as the cache is.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(&(namespace, name) as &dyn Names).cloned()
    }

    /// Whether there is no object, as far as the cache is.
    pub fn is_empty(&self) -> bool {
        self.state.read().objects.is_empty()
    }

    /// All objects, or those of a namespace.
    pub fn list(&self, namespace: Option<&str>) -> Page {
        // Read before the state: everything up to here is in it.
        let applied = *self.shared.applied.borrow();
        let state = self.state.read();
        let items = match namespace {
            None => state.objects.values().cloned().collect(),
            Some(namespace) => {
                let from = Bound::Included(&(namespace, "") as &dyn Names);
                let range = state.objects.range::<dyn Names, _>((from, Bound::Unbounded));
                range.take_while(|(key, _)| &*key.0.namespace == namespace).map(|(_, o)| o.clone()).collect()
            }
        };
        Page { items, revision: applied.max(state.last) }
    }

    /// Waits until everything that was committed before the call is in the cache.
    ///
    /// # Errors
    /// [`CacheError::Behind`] after [`CONSISTENT_READ_WAIT`].
    pub async fn consistent(&self) -> Result<(), CacheError> {
        let newest = self.shared.store.revision().await?;
        self.reach(newest).await
    }

    /// Waits until a revision is in the cache.
    ///
    /// # Errors
    /// [`CacheError::Behind`] after [`CONSISTENT_READ_WAIT`].
    pub async fn reach(&self, revision: Revision) -> Result<(), CacheError> {
        if *self.shared.applied.borrow() >= revision || self.state.read().last >= revision {
            return Ok(());
        }
        let mut applied = self.shared.applied.subscribe();
        tokio::select! {
            done = applied.wait_for(|at| *at >= revision) => done.map(|_| ()).map_err(|_| CacheError::Closed),
            () = self.shared.stop.cancelled() => Err(CacheError::Closed),
            () = self.shared.clock.sleep(CONSISTENT_READ_WAIT) => {
                Err(CacheError::Behind { asked: revision, current: *self.shared.applied.borrow() })
            }
        }
    }

    /// Everything after a revision.
    ///
    /// # Errors
    /// [`CacheError::Expired`].
    pub fn watch(self: &Arc<Self>, after: Revision) -> Result<Watcher, CacheError> {
        let moved = self.moved.subscribe();
        let state = self.state.read();
        if after < state.oldest {
            return Err(CacheError::Expired { asked: after, oldest: state.oldest });
        }
        let skip = state.events.partition_point(|(_, e)| e.revision <= after);
        Ok(Watcher { cursor: state.dropped + skip as u64, epoch: state.epoch, after, cache: self.clone(), moved })
    }

    /// Everything there is, and what happens to it from then on.
    pub fn list_and_watch(self: &Arc<Self>, namespace: Option<&str>) -> Result<(Page, Watcher), CacheError> {
        let page = self.list(namespace);
        let watcher = self.watch(page.revision)?;
        Ok((page, watcher))
    }

    async fn load(&self) -> Result<(), CacheError> {
        let scope = Scope::Resource(self.resource.clone());
        let mut options = ListOptions::default();
        let mut objects = BTreeMap::new();
        let revision = loop {
            let page = self.shared.store.list(&scope, &options).await?;
            options.at = Some(page.revision);
            options.after = page.records.last().map(|r| r.key.clone());
            let more = page.more && options.after.is_some();
            for record in page.records {
                let object = Arc::new(Object::from_record(&record));
                objects.insert(Name(object.object_ref()), object);
            }
            if !more {
                break page.revision;
            }
        };
        let now = self.shared.clock.monotonic();
        let mut state = self.state.write();
        state.epoch += 1;
        state.loaded = true;
        state.objects = objects;
        state.last = revision;
        state.oldest = revision;
        state.events.clear();
        state.dropped = 0;
        for (revision, changes) in std::mem::take(&mut state.pending) {
            state.apply(&self.resource, revision, &changes, now);
        }
        drop(state);
        self.moved.send_modify(|n| *n += 1);
        Ok(())
    }

    fn deliver(&self, revision: Revision, changes: &Arc<[Change]>, now: Duration) {
        let mut state = self.state.write();
        if !state.loaded {
            if changes.iter().any(|c| c.key().resource == self.resource) {
                state.pending.push((revision, changes.clone()));
            }
            return;
        }
        let any = state.apply(&self.resource, revision, changes, now);
        drop(state);
        if any {
            self.moved.send_modify(|n| *n += 1);
        }
    }
}

/// A place in the events of a cache.
#[derive(Debug)]
pub struct Watcher {
    cache: Arc<Cache>,
    cursor: u64,
    epoch: u64,
    after: Revision,
    moved: watch::Receiver<u64>,
}

impl Watcher {
    /// The next events, at least one, in order; waits for them. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`CacheError::Expired`] when events have been forgotten before they were taken.
    pub async fn next(&mut self) -> Result<Vec<Arc<CacheEvent>>, CacheError> {
        loop {
            self.moved.mark_unchanged();
            let batch = self.take()?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            // The end moves every cache too: one thing to wait for, where a thousand watchers wait.
            if self.cache.shared.closed.load(Ordering::Acquire) {
                return Err(CacheError::Closed);
            }
            self.moved.changed().await.map_err(|_| CacheError::Closed)?;
        }
    }

    /// Every event up to this revision has been taken; `None` if some wait.
    pub fn caught_up(&self) -> Option<Revision> {
        let applied = *self.cache.shared.applied.borrow();
        let state = self.cache.state.read();
        (state.epoch == self.epoch && state.end() == self.cursor).then(|| applied.max(state.last).max(self.after))
    }

    fn take(&mut self) -> Result<Vec<Arc<CacheEvent>>, CacheError> {
        let state = self.cache.state.read();
        if state.epoch != self.epoch || self.cursor < state.dropped {
            return Err(CacheError::Expired { asked: self.after, oldest: state.oldest });
        }
        let from = (self.cursor - state.dropped) as usize;
        let mut batch = Vec::new();
        for (_, event) in state.events.range(from..).take(MAX_BATCH) {
            self.cursor += 1;
            // A watch from a future revision gets no old events.
            if event.revision > self.after {
                batch.push(event.clone());
            }
        }
        Ok(batch)
    }
}

#[derive(Debug)]
struct Shared {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    /// Whether the store is followed no more.
    closed: AtomicBool,
    applied: watch::Sender<Revision>,
}

/// The caches of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caches {
    shared: Arc<Shared>,
    caches: Arc<DashMap<ResourceId, Arc<Cache>>>,
}

impl Caches {
    /// Starts to follow a store; ends when `stop` is cancelled. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn start(store: SharedStore, clock: Arc<dyn Clock>, stop: CancellationToken) -> Result<Self, CacheError> {
        let revision = store.revision().await?;
        let shared = Arc::new(Shared { store, clock, stop, closed: AtomicBool::new(false), applied: watch::Sender::new(revision) });
        let caches = Self { shared, caches: Arc::default() };
        let pump = caches.clone();
        let stop = caches.shared.stop.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(pump.pump(revision)).await;
            pump.close();
        });
        Ok(caches)
    }

    /// The store below.
    pub fn store(&self) -> &SharedStore {
        &self.shared.store
    }

    /// How far the caches are.
    pub fn applied(&self) -> Revision {
        *self.shared.applied.borrow()
    }

    /// The cache of a resource, read from the store on first use.
    ///
    /// # Errors
    /// When the store does not answer; the next call tries again.
    pub async fn of(&self, resource: &ResourceId) -> Result<Arc<Cache>, CacheError> {
        let known = self.caches.get(resource).map(|c| c.clone());
        let cache = known.unwrap_or_else(|| {
            let fresh = || {
                Arc::new(Cache {
                    resource: resource.clone(),
                    shared: self.shared.clone(),
                    state: RwLock::default(),
                    loading: OnceCell::new(),
                    moved: watch::Sender::new(0),
                })
            };
            self.caches.entry(resource.clone()).or_insert_with(fresh).clone()
        });
        cache.loading.get_or_try_init(|| cache.load()).await?;
        Ok(cache)
    }

    fn loaded(&self) -> Vec<Arc<Cache>> {
        self.caches.iter().filter(|c| c.loading.initialized()).map(|c| c.clone()).collect()
    }

    async fn pump(&self, from: Revision) {
        let mut after = from;
        let mut delay = RETRY_FIRST;
        loop {
            let error = match self.follow(&mut after, &mut delay).await {
                Ok(()) => None,
                Err(StoreError::Expired { .. }) => match self.reload().await {
                    Ok(revision) => {
                        after = revision;
                        continue;
                    }
                    Err(error) => Some(error.to_string()),
                },
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error {
                tracing::warn!("the watch of the store failed, trying again: {error}");
            }
            self.shared.clock.sleep(delay).await;
            delay = (delay * 2).min(RETRY_MOST);
        }
    }

    /// Ends every watcher.
    fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        for cache in self.caches.iter() {
            cache.moved.send_modify(|n| *n += 1);
        }
    }

    async fn follow(&self, after: &mut Revision, delay: &mut Duration) -> Result<(), StoreError> {
        let mut items = self.shared.store.watch(&Scope::All, *after).await?;
        while let Some(item) = items.next().await {
            *delay = RETRY_FIRST;
            *after = match item? {
                WatchItem::Commit { revision, changes } => {
                    let now = self.shared.clock.monotonic();
                    match changes.as_ref() {
                        [one] => {
                            let cache = self.caches.get(&one.key().resource).map(|c| c.clone());
                            if let Some(cache) = cache {
                                cache.deliver(revision, &changes, now);
                            }
                        }
                        _ => {
                            for cache in self.caches.iter().map(|c| c.clone()).collect::<Vec<_>>() {
                                cache.deliver(revision, &changes, now);
                            }
                        }
                    }
                    revision
                }
                WatchItem::Progress(revision) => revision,
            };
            let to = *after;
            self.shared.applied.send_if_modified(|at| {
                let moves = to > *at;
                *at = to.max(*at);
                moves
            });
        }
        Ok(())
    }

    /// Reads everything again after a gap. Every watch of before ends with [`CacheError::Expired`].
    async fn reload(&self) -> Result<Revision, CacheError> {
        let revision = self.shared.store.revision().await?;
        for cache in self.loaded() {
            cache.load().await?;
        }
        self.shared.applied.send_if_modified(|at| std::mem::replace(at, revision.max(*at)) < revision);
        Ok(revision)
    }
}
