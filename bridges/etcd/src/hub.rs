//! The one watch of the store that feeds everything: the streams of watches, what is attached to leases, and the size.
//!
//! Commits are kept in a bounded ring. A stream is woken by a commit that it watches, and takes it from there when it likes to; one that
//! comes after its commits have left the ring is told so, and reads the store's own history. Nobody waits for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tonic::Status;
use wharf_core::store::{Change, Record, Revision, StoreError, StoreResult, WatchItem};

use crate::entry::{Entry, HEADER, signed};
use crate::index::{Index, StreamId};
use crate::keys::{KeyRange, Layout};
use crate::snapshot::Snapshot;
use crate::{Shared, fault};

/// Pause before the store is watched again after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// How long a request waits until the bridge has seen what the store has committed.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Most commits that a stream takes at once.
const TAKE: usize = 256;

/// What is compacted before anything was: etcd's, which takes a compaction of nothing for one, once.
const NEVER: i64 = -1;

/// How many commits the ring holds. Whichever is reached first; the newest commit is held whatever its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingBound {
    pub(crate) commits: usize,
    /// Of keys and values, old and new.
    pub(crate) bytes: usize,
}

/// What happened to a key.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) key: Vec<u8>,
    /// What was put; `None` for a delete.
    pub(crate) put: Option<Entry>,
    pub(crate) previous: Option<Entry>,
}

impl Event {
    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.put.as_ref().map_or(0, Entry::size) + self.previous.as_ref().map_or(0, Entry::size)
    }
}

/// A commit.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) revision: i64,
    /// In order of keys.
    pub(crate) events: Vec<Event>,
}

impl Batch {
    /// What a commit changed of the bridge's keys.
    pub(crate) fn of(layout: &Layout, revision: Revision, changes: &[Change]) -> Self {
        let entry = |record: &Record| Entry::of(layout, record);
        let mut events: Vec<Event> = Vec::with_capacity(changes.len());
        for change in changes {
            let Some(key) = layout.raw(change.key()) else { continue };
            let event = match change {
                Change::Put { record, previous } => {
                    let Some(put) = entry(record) else {
                        tracing::warn!("ignored what somebody else has written to {}", record.key);
                        continue;
                    };
                    Event { key, put: Some(put), previous: previous.as_ref().and_then(entry) }
                }
                Change::Delete { previous } => Event { key, put: None, previous: entry(previous) },
            };
            events.push(event);
        }
        events.sort_by(|a, b| a.key.cmp(&b.key));
        Self { revision: signed(revision), events }
    }

    fn size(&self) -> usize {
        self.events.iter().map(Event::size).sum()
    }
}

/// What a stream takes.
pub(crate) enum Taken {
    /// Commits that it may watch, in order; everything up to a revision is among them.
    Commits {
        batches: Vec<Arc<Batch>>,
        upto: i64,
        /// There is more to take.
        more: bool,
    },
    /// Its commits have left the ring.
    Gone,
}

/// What is known of the bridge's keys.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
}

pub(crate) struct Hub {
    bound: RingBound,
    state: Mutex<State>,
    position: watch::Sender<i64>,
}

/// Keys of each lease, with the revision at which they were put.
type Attached = HashMap<i64, BTreeMap<Vec<u8>, i64>>;

struct Stream {
    wake: Arc<Notify>,
    /// The first commit for it that it has not taken.
    pending: Option<i64>,
}

#[derive(Default)]
struct State {
    ring: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// Commits up to here are not in the ring.
    forgotten: i64,
    position: i64,
    /// The newest compaction that the bridge knows of.
    compacted: i64,
    index: Index,
    streams: HashMap<StreamId, Stream>,
    next_stream: StreamId,
    attached: Attached,
    size: Size,
}

/// What a look at every key tells.
#[derive(Default)]
struct Found {
    size: Size,
    attached: Attached,
}

impl Found {
    fn add(&mut self, entry: &Entry) {
        self.size.keys += 1;
        self.size.bytes += kept_bytes(entry);
        if entry.lease != 0 {
            self.attached.entry(entry.lease).or_default().insert(entry.key.clone(), entry.modified);
        }
    }
}

fn kept_bytes(entry: &Entry) -> u64 {
    (entry.size() + HEADER) as u64
}

impl State {
    fn count(&mut self, entry: &Entry, add: bool) {
        let bytes = kept_bytes(entry);
        if add {
            self.size = Size { keys: self.size.keys + 1, bytes: self.size.bytes + bytes };
            if entry.lease != 0 {
                self.attached.entry(entry.lease).or_default().insert(entry.key.clone(), entry.modified);
            }
        } else {
            self.size = Size { keys: self.size.keys.saturating_sub(1), bytes: self.size.bytes.saturating_sub(bytes) };
            if let Some(keys) = self.attached.get_mut(&entry.lease) {
                keys.remove(&entry.key);
                if keys.is_empty() {
                    self.attached.remove(&entry.lease);
                }
            }
        }
    }
}

impl Hub {
    pub(crate) fn new(bound: RingBound) -> Self {
        let state = State { compacted: NEVER, ..State::default() };
        Self { bound, state: Mutex::new(state), position: watch::Sender::new(0) }
    }

    /// Where it is.
    pub(crate) fn position(&self) -> watch::Receiver<i64> {
        self.position.subscribe()
    }

    pub(crate) fn size(&self) -> Size {
        self.state.lock().size
    }

    /// The newest compaction that is known of.
    pub(crate) fn compacted(&self) -> i64 {
        self.state.lock().compacted
    }

    pub(crate) fn set_compacted(&self, revision: i64) {
        let mut state = self.state.lock();
        state.compacted = state.compacted.max(revision);
    }

    /// The keys of a lease, with the revisions at which they were put.
    pub(crate) fn attached(&self, lease: i64) -> BTreeMap<Vec<u8>, i64> {
        self.state.lock().attached.get(&lease).cloned().unwrap_or_default()
    }

    /// Waits until everything up to a revision has been seen.
    pub(crate) async fn reached(&self, shared: &Shared, revision: i64) -> Result<(), Status> {
        let mut position = self.position();
        tokio::select! {
            reached = position.wait_for(|position| *position >= revision) => reached.map(|_| ()).map_err(|_| fault::stopped()),
            () = shared.clock.sleep(CATCH_UP) => Err(fault::timed_out()),
        }
    }

    /// A new stream, and what wakes it.
    pub(crate) fn open(&self) -> (StreamId, Arc<Notify>) {
        let mut state = self.state.lock();
        let (id, wake) = (state.next_stream, Arc::new(Notify::new()));
        state.next_stream += 1;
        state.streams.insert(id, Stream { wake: wake.clone(), pending: None });
        (id, wake)
    }

    /// A stream is gone, after its watches.
    pub(crate) fn close(&self, stream: StreamId) {
        self.state.lock().streams.remove(&stream);
    }

    /// Adds a watch of what comes after a revision if the ring has all of it, and returns what it has missed. `None` if it has not.
    pub(crate) fn join(&self, stream: StreamId, range: &KeyRange, next: i64) -> Option<(Vec<Arc<Batch>>, i64)> {
        let mut state = self.state.lock();
        if next <= state.forgotten {
            return None;
        }
        let missed = state.ring.partition_point(|batch| batch.revision < next);
        let missed = state.ring.range(missed..).filter(|batch| batch.events.iter().any(|event| range.contains(&event.key)));
        let missed = missed.cloned().collect();
        state.index.add(range, stream);
        Some((missed, state.position))
    }

    /// Removes a watch.
    pub(crate) fn leave(&self, stream: StreamId, range: &KeyRange) {
        self.state.lock().index.remove(range, stream);
    }

    /// What there is for a stream.
    pub(crate) fn take(&self, stream: StreamId) -> Taken {
        let mut state = self.state.lock();
        let (forgotten, position) = (state.forgotten, state.position);
        let pending = state.streams.get_mut(&stream).and_then(|stream| stream.pending.take());
        let Some(first) = pending else { return Taken::Commits { batches: Vec::new(), upto: position, more: false } };
        if first <= forgotten {
            return Taken::Gone;
        }
        let start = state.ring.partition_point(|batch| batch.revision < first);
        let batches: Vec<_> = state.ring.range(start..).take(TAKE).cloned().collect();
        let next = state.ring.get(start + batches.len()).map(|batch| batch.revision);
        if let (Some(stream), Some(next)) = (state.streams.get_mut(&stream), next) {
            stream.pending = Some(next);
        }
        let upto = match (&next, batches.last()) {
            (Some(_), Some(last)) => last.revision,
            _ => position,
        };
        Taken::Commits { batches, upto, more: next.is_some() }
    }

    fn push(&self, batch: Batch) {
        let revision = batch.revision;
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for event in &batch.events {
                if let Some(previous) = &event.previous {
                    state.count(previous, false);
                }
                if let Some(put) = &event.put {
                    state.count(put, true);
                }
                let streams = &mut state.streams;
                state.index.watching(&event.key, |id| {
                    if let Some(stream) = streams.get_mut(&id) {
                        stream.pending.get_or_insert(revision);
                        stream.wake.notify_one();
                    }
                });
            }
            if !batch.events.is_empty() {
                state.bytes += batch.size();
                state.ring.push_back(Arc::new(batch));
                while state.ring.len() > self.bound.commits.max(1) || (state.bytes > self.bound.bytes && state.ring.len() > 1) {
                    if let Some(oldest) = state.ring.pop_front() {
                        state.bytes -= oldest.size();
                        state.forgotten = oldest.revision;
                    }
                }
            }
            state.position = revision;
        }
        self.position.send_replace(revision);
    }

    fn progress(&self, revision: i64) {
        {
            let mut state = self.state.lock();
            state.position = state.position.max(revision);
        }
        self.position.send_if_modified(|position| std::mem::replace(position, revision.max(*position)) < revision);
    }

    /// Begins anew with a state of the store. Who has not taken everything finds it gone.
    fn reset(&self, found: Found, revision: i64) {
        {
            let mut state = self.state.lock();
            let lost = state.position + 1;
            state.ring.clear();
            (state.bytes, state.size, state.attached) = (0, found.size, found.attached);
            (state.forgotten, state.position) = (revision, revision);
            for stream in state.streams.values_mut() {
                stream.pending.get_or_insert(lost.min(revision));
                stream.wake.notify_one();
            }
        }
        self.position.send_replace(revision);
    }
}

/// Reads the state of the store from which the hub is to follow it.
pub(crate) async fn load(shared: &Shared) -> Result<(), Status> {
    let mut snapshot = Snapshot::newest(shared);
    let mut found = Found::default();
    snapshot
        .each(&KeyRange::From(Vec::new()), |entry| {
            found.add(&entry);
            ControlFlow::Continue(())
        })
        .await?;
    let revision = snapshot.revision().await?;
    shared.hub.reset(found, revision);
    Ok(())
}

/// Follows the store for as long as it is there.
pub(crate) async fn follow(shared: Arc<Shared>) {
    loop {
        let position = *shared.hub.position.borrow();
        let stopped = match shared.store.watch(&shared.layout.everything(), Revision(position.unsigned_abs())).await {
            Ok(mut items) => loop {
                match items.next().await {
                    Some(Ok(item)) => take_in(&shared, item),
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                }
            },
            Err(error) => Err(error),
        };
        if let Err(stopped) = again(&shared, stopped).await {
            tracing::warn!("the store cannot be followed, trying again: {stopped}");
            shared.clock.sleep(RETRY).await;
        }
    }
}

fn take_in(shared: &Shared, item: WatchItem) {
    match item {
        WatchItem::Commit { revision, changes } => shared.hub.push(Batch::of(&shared.layout, revision, &changes)),
        WatchItem::Progress(revision) => shared.hub.progress(signed(revision)),
    }
}

/// After the watch has ended: begins anew if what comes next is gone.
async fn again(shared: &Shared, stopped: StoreResult<()>) -> Result<(), Status> {
    match stopped {
        Err(StoreError::Expired { compacted }) => {
            shared.hub.set_compacted(signed(compacted));
            load(shared).await
        }
        Err(error) => Err(fault::of(error)),
        Ok(()) => Err(fault::stopped()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(key: &str, modified: i64, lease: i64) -> Entry {
        Entry { key: key.into(), value: Bytes::from_static(b"12345678"), created: modified, modified, version: 1, lease }
    }
    fn put(hub: &Hub, key: &str, revision: i64, lease: i64, previous: Option<Entry>) {
        let event = Event { key: key.into(), put: Some(entry(key, revision, lease)), previous };
        hub.push(Batch { revision, events: vec![event] });
    }
    fn delete(hub: &Hub, previous: Entry, revision: i64) {
        hub.push(Batch { revision, events: vec![Event { key: previous.key.clone(), put: None, previous: Some(previous) }] });
    }
    fn hub(commits: usize) -> Hub {
        let hub = Hub::new(RingBound { commits, bytes: usize::MAX });
        hub.reset(Found::default(), 1);
        hub
    }
    fn one(key: &str) -> KeyRange {
        KeyRange::One(key.into())
    }
    fn taken(hub: &Hub, stream: StreamId) -> Option<(Vec<i64>, i64, bool)> {
        match hub.take(stream) {
            Taken::Commits { batches, upto, more } => Some((batches.iter().map(|b| b.revision).collect(), upto, more)),
            Taken::Gone => None,
        }
    }

    #[test]
    fn a_stream_is_not_behind_for_what_it_does_not_watch() {
        let hub = hub(2);
        let (stream, _) = hub.open();
        hub.join(stream, &one("a"), 2).unwrap();
        for revision in 2..10 {
            put(&hub, "b", revision, 0, None);
        }
        assert_eq!(taken(&hub, stream), Some((vec![], 9, false)));
        put(&hub, "a", 10, 0, None);
        assert_eq!(taken(&hub, stream), Some((vec![10], 10, false)));
        put(&hub, "a", 11, 0, None);
        put(&hub, "b", 12, 0, None);
        put(&hub, "b", 13, 0, None);
        assert_eq!(taken(&hub, stream), None);
        // It is told once.
        assert_eq!(taken(&hub, stream), Some((vec![], 13, false)));
    }

    #[test]
    fn much_is_taken_in_parts() {
        let hub = hub(10_000);
        let (stream, _) = hub.open();
        hub.join(stream, &one("a"), 2).unwrap();
        for revision in 2..2 + TAKE as i64 + 3 {
            put(&hub, "a", revision, 0, None);
        }
        let (first, upto, more) = taken(&hub, stream).unwrap();
        assert_eq!((first.len(), upto, more), (TAKE, 1 + TAKE as i64, true));
        let (rest, upto, more) = taken(&hub, stream).unwrap();
        assert_eq!((rest.len(), upto, more), (3, 4 + TAKE as i64, false));
    }

    #[test]
    fn a_watch_joins_where_the_ring_has_what_it_missed() {
        let hub = hub(3);
        let (stream, _) = hub.open();
        for revision in 2..8 {
            put(&hub, if revision % 2 == 0 { "a" } else { "b" }, revision, 0, None);
        }
        // 5, 6 and 7 are there.
        assert!(hub.join(stream, &one("a"), 4).is_none());
        let (missed, position) = hub.join(stream, &one("a"), 5).unwrap();
        assert_eq!((missed.iter().map(|b| b.revision).collect::<Vec<_>>(), position), (vec![6], 7));
        assert!(hub.join(stream, &one("a"), 100).unwrap().0.is_empty());
    }

    #[test]
    fn leases_keys_and_the_size_follow_the_commits() {
        let hub = hub(10);
        put(&hub, "a", 2, 7, None);
        put(&hub, "b", 3, 7, None);
        assert_eq!(hub.attached(7), BTreeMap::from([(b"a".to_vec(), 2), (b"b".to_vec(), 3)]));
        let bytes = hub.size().bytes;
        // Attached to another.
        put(&hub, "a", 4, 8, Some(entry("a", 2, 7)));
        assert_eq!((hub.attached(7).len(), hub.attached(8).len()), (1, 1));
        assert_eq!((hub.size().keys, hub.size().bytes), (2, bytes));
        delete(&hub, entry("a", 4, 8), 5);
        delete(&hub, entry("b", 3, 7), 6);
        assert!(hub.attached(7).is_empty() && hub.attached(8).is_empty());
        assert_eq!((hub.size().keys, hub.size().bytes), (0, 0));
        assert!(hub.state.lock().attached.is_empty());
    }

    #[test]
    fn after_a_gap_everybody_is_told() {
        let hub = hub(10);
        let (stream, _) = hub.open();
        hub.join(stream, &one("a"), 2).unwrap();
        put(&hub, "b", 2, 0, None);
        let mut found = Found::default();
        found.add(&entry("a", 5, 3));
        hub.reset(found, 9);
        assert_eq!(taken(&hub, stream), None);
        assert_eq!(hub.attached(3).len(), 1);
        assert!(hub.join(stream, &one("a"), 9).is_none());
        assert!(hub.join(stream, &one("a"), 10).is_some());
    }
}
