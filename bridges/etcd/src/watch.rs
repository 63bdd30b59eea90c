//! A stream of watches: one task, that takes from the hub when it can send, so that a client that does not read costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbKeyValue, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamMap;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wharf_core::store::{Revision, StoreError, StoreResult, WatchItem};

use crate::entry::{Entry, signed};
use crate::hub::{Batch, Event, Taken};
use crate::index::StreamId;
use crate::keys::KeyRange;
use crate::snapshot::Snapshot;
use crate::{Shared, fault};

/// Answers that wait for a client to read them, a stream; etcd's clients read at once.
pub(crate) const MAX_WAITING: usize = 4;
/// Most watches of one stream.
pub const MAX_WATCHES: usize = 16_384;
/// Bytes of keys and values after which events go into another answer. A commit is split only for a watch that has asked for fragments.
const ANSWER_BYTES: usize = 1 << 20;
/// What an event takes in a message beside its keys and values, at most.
const EVENT_OVERHEAD: usize = 96;
/// The number of no watch.
const NO_WATCH: i64 = -1;

/// Answers to one stream's requests, until either side ends it.
pub(crate) async fn serve<S>(
    shared: Arc<Shared>,
    requests: S,
    answers: mpsc::Sender<Result<PbWatchResponse, Status>>,
    stopped: CancellationToken,
) where
    S: Stream<Item = Result<PbWatchRequest, Status>> + Send + Unpin,
{
    let (id, wake) = shared.hub.open();
    let mut stream = WatchServer {
        shared: shared.clone(),
        id,
        wake,
        answers: answers.clone(),
        watches: BTreeMap::new(),
        catching_up: StreamMap::new(),
        next_watch: 0,
        cursor: 0,
        progress: None,
    };
    let end = tokio::select! {
        end = stream.run(requests) => end,
        () = stopped.cancelled() => End::Failed(fault::stopped()),
    };
    if let End::Failed(status) = end {
        // Who does not read needs no reason.
        let _ = answers.try_send(Err(status));
    }
}

/// Why a stream ends.
enum End {
    /// The client is gone, or wants no more.
    Done,
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

struct Watch {
    range: KeyRange,
    /// The first revision whose events have not been sent.
    next: i64,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    no_put: bool,
    no_delete: bool,
    /// Whether the hub feeds it; else it catches up from the store.
    joined: bool,
    /// Whether events were sent since progress was last due.
    told: bool,
}

impl Watch {
    fn wants(&self, event: &Event) -> bool {
        let filtered = if event.put.is_some() { self.no_put } else { self.no_delete };
        !filtered && self.range.contains(&event.key)
    }

    fn event(&self, event: &Event, revision: i64) -> PbEvent {
        let kv = match &event.put {
            Some(put) => put.to_kv(),
            None => PbKeyValue { key: event.key.clone(), mod_revision: revision, ..Default::default() },
        };
        let prev_kv = event.previous.as_ref().filter(|_| self.prev_kv).map(Entry::to_kv);
        PbEvent { r#type: i32::from(event.put.is_none()), kv: Some(kv), prev_kv }
    }
}

type CatchingUp = BoxStream<'static, StoreResult<WatchItem>>;

struct WatchServer {
    shared: Arc<Shared>,
    id: StreamId,
    wake: Arc<Notify>,
    answers: mpsc::Sender<Result<PbWatchResponse, Status>>,
    watches: BTreeMap<i64, Watch>,
    /// The store's history for those that the hub cannot serve yet.
    catching_up: StreamMap<i64, CatchingUp>,
    next_watch: i64,
    /// Everything up to here has been sent on the watches that the hub feeds.
    cursor: i64,
    /// The client waits to be told progress, up to this revision at least.
    progress: Option<i64>,
}

impl Drop for WatchServer {
    fn drop(&mut self) {
        for watch in self.watches.values().filter(|watch| watch.joined) {
            self.shared.hub.leave(self.id, &watch.range);
        }
        self.shared.hub.close(self.id);
    }
}

impl WatchServer {
    async fn run<S>(&mut self, requests: S) -> End
    where
        S: Stream<Item = Result<PbWatchRequest, Status>> + Send + Unpin,
    {
        match self.answer_all(requests).await {
            Ok(()) => End::Done,
            Err(end) => end,
        }
    }

    async fn answer_all<S>(&mut self, mut requests: S) -> Result<(), End>
    where
        S: Stream<Item = Result<PbWatchRequest, Status>> + Send + Unpin,
    {
        let (shared, wake, answers) = (self.shared.clone(), self.wake.clone(), self.answers.clone());
        let mut position = shared.hub.position();
        let mut due = shared.clock.sleep(self.interval());
        loop {
            self.drain().await?;
            self.tell_progress().await?;
            let waits = self.progress.is_some();
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.take_request(request).await?,
                    Some(Err(_)) | None => return Ok(()),
                },
                () = wake.notified() => {}
                _ = position.changed(), if waits => {}
                Some((id, item)) = self.catching_up.next(), if !self.catching_up.is_empty() => self.caught(id, item).await?,
                () = &mut due => {
                    due = shared.clock.sleep(self.interval());
                    self.progress_is_due().await?;
                }
                () = answers.closed() => return Ok(()),
            }
        }
    }

    fn interval(&self) -> Duration {
        self.shared.limits.progress_interval
    }

    async fn send(&mut self, answer: PbWatchResponse) -> Result<(), End> {
        self.answers.send(Ok(answer)).await.map_err(|_| End::Done)
    }

    fn answer(&self, watch_id: i64, revision: i64) -> PbWatchResponse {
        PbWatchResponse { header: Some(self.shared.header(revision)), watch_id, ..Default::default() }
    }

    async fn revision(&mut self) -> Result<i64, End> {
        Ok(self.shared.store.revision().await.map(signed).map_err(fault::of)?)
    }

    async fn take_request(&mut self, request: PbWatchRequest) -> Result<(), End> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let revision = self.revision().await?;
                // 0 is the smallest key.
                let key = if create.key.is_empty() { vec![0] } else { create.key };
                let range = KeyRange::new(key, create.range_end);
                let refusal = if create.start_revision < 0 {
                    Some(fault::WATCH_COMPACTED)
                } else if range.is_empty() {
                    Some(fault::EMPTY_WATCH_RANGE)
                } else if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
                    Some(fault::DUPLICATE_WATCH_ID)
                } else if self.watches.len() >= MAX_WATCHES {
                    Some(fault::TOO_MANY_WATCHES)
                } else {
                    None
                };
                if let Some(refusal) = refusal {
                    let answer = self.answer(NO_WATCH, revision);
                    return self.send(PbWatchResponse { created: true, canceled: true, cancel_reason: refusal.into(), ..answer }).await;
                }
                let id = if create.watch_id == 0 { self.unused_id() } else { create.watch_id };
                let next = if create.start_revision == 0 { revision.saturating_add(1) } else { create.start_revision };
                let watch = Watch {
                    range,
                    next,
                    prev_kv: create.prev_kv,
                    fragment: create.fragment,
                    progress_notify: create.progress_notify,
                    // NOPUT and NODELETE.
                    no_put: create.filters.contains(&0),
                    no_delete: create.filters.contains(&1),
                    joined: false,
                    told: false,
                };
                self.watches.insert(id, watch);
                let answer = self.answer(id, revision);
                self.send(PbWatchResponse { created: true, ..answer }).await?;
                if next < self.shared.hub.compacted() {
                    return self.cancel_compacted(id, self.shared.hub.compacted()).await;
                }
                self.join_or_catch_up(id).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                if self.remove(cancel.watch_id).is_some() {
                    let revision = self.revision().await?;
                    let answer = self.answer(cancel.watch_id, revision);
                    self.send(PbWatchResponse { canceled: true, ..answer }).await?;
                }
                Ok(())
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                // Of no watch there is no progress, and etcd tells none.
                if !self.watches.is_empty() {
                    let revision = self.revision().await?;
                    self.progress = Some(revision);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn unused_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_watch) {
            self.next_watch += 1;
        }
        self.next_watch += 1;
        self.next_watch - 1
    }

    fn remove(&mut self, id: i64) -> Option<Watch> {
        let watch = self.watches.remove(&id)?;
        self.catching_up.remove(&id);
        if watch.joined {
            self.shared.hub.leave(self.id, &watch.range);
        }
        Some(watch)
    }

    async fn cancel_compacted(&mut self, id: i64, compacted: i64) -> Result<(), End> {
        self.remove(id);
        let revision = self.revision().await?;
        let answer = self.answer(id, revision);
        self.send(PbWatchResponse { canceled: true, compact_revision: compacted, ..answer }).await
    }

    /// Lets the hub feed a watch, after what it has missed; or the store, if the hub has forgotten that.
    async fn join_or_catch_up(&mut self, id: i64) -> Result<(), End> {
        if self.join(id).await? {
            return Ok(());
        }
        let Some(watch) = self.watches.get(&id) else { return Ok(()) };
        let after = Revision(watch.next.unsigned_abs().saturating_sub(1));
        match self.shared.store.watch(&self.shared.layout.everything(), after).await {
            Ok(items) => {
                // It ends without an error when the store closes.
                let items = items.chain(futures::stream::once(async { Err(StoreError::Closed) }));
                self.catching_up.insert(id, items.boxed());
                Ok(())
            }
            Err(error) => self.catch_up_failed(id, error).await,
        }
    }

    /// False if the hub has forgotten what the watch needs.
    async fn join(&mut self, id: i64) -> Result<bool, End> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(true) };
        let Some((missed, position)) = self.shared.hub.join(self.id, &watch.range, watch.next) else { return Ok(false) };
        watch.joined = true;
        self.catching_up.remove(&id);
        self.send_batches(id, &missed, position).await?;
        Ok(true)
    }

    /// An item of the store's history for a watch that catches up.
    async fn caught(&mut self, id: i64, item: StoreResult<WatchItem>) -> Result<(), End> {
        match item {
            Ok(WatchItem::Commit { revision, changes }) => {
                let batch = Arc::new(Batch::of(&self.shared.layout, revision, &changes));
                self.send_batches(id, &[batch], signed(revision)).await?;
            }
            Ok(WatchItem::Progress(revision)) => {
                if let Some(watch) = self.watches.get_mut(&id) {
                    watch.next = watch.next.max(signed(revision).saturating_add(1));
                }
            }
            Err(error) => {
                self.catching_up.remove(&id);
                return self.catch_up_failed(id, error).await;
            }
        }
        self.join(id).await.map(|_| ())
    }

    async fn catch_up_failed(&mut self, id: i64, error: StoreError) -> Result<(), End> {
        let StoreError::Expired { compacted } = error else { return Err(End::Failed(fault::of(error))) };
        let compacted = signed(compacted);
        self.shared.hub.set_compacted(compacted);
        let Some(watch) = self.watches.get(&id) else { return Ok(()) };
        if watch.next != compacted {
            return self.cancel_compacted(id, compacted).await;
        }
        // To etcd, the revision of a compaction is not compacted itself: what was put then, and has stayed, is told.
        let mut batch = Batch { revision: compacted, events: Vec::new() };
        let entries = match Snapshot::at(&self.shared, compacted).all(&watch.range).await {
            Ok(entries) => entries,
            Err(status) if fault::is_compacted(&status) => return self.cancel_compacted(id, compacted.saturating_add(1)).await,
            Err(status) => return Err(End::Failed(status)),
        };
        let put_then = entries.into_iter().filter(|entry| entry.modified == compacted);
        batch.events.extend(put_then.map(|entry| Event { key: entry.key.clone(), put: Some(entry), previous: None }));
        self.send_batches(id, &[Arc::new(batch)], compacted).await?;
        Box::pin(self.join_or_catch_up(id)).await
    }

    /// Takes all that the hub has for this stream.
    async fn drain(&mut self) -> Result<(), End> {
        loop {
            match self.shared.hub.take(self.id) {
                Taken::Commits { batches, upto, more } => {
                    if !batches.is_empty() {
                        let joined: Vec<i64> = self.watches.iter().filter(|(_, watch)| watch.joined).map(|(id, _)| *id).collect();
                        for id in joined {
                            self.send_batches(id, &batches, upto).await?;
                        }
                    }
                    self.cursor = self.cursor.max(upto);
                    if !more {
                        return Ok(());
                    }
                }
                Taken::Gone => {
                    let joined: Vec<i64> = self.watches.iter().filter(|(_, watch)| watch.joined).map(|(id, _)| *id).collect();
                    for id in joined {
                        if let Some(watch) = self.watches.get_mut(&id) {
                            watch.joined = false;
                            // What it does not watch has moved on without it.
                            watch.next = watch.next.max(self.cursor.saturating_add(1));
                            self.shared.hub.leave(self.id, &watch.range);
                        }
                        self.join_or_catch_up(id).await?;
                    }
                }
            }
        }
    }

    /// Sends what a watch wants of some commits; it has everything up to a revision then.
    async fn send_batches(&mut self, id: i64, batches: &[Arc<Batch>], upto: i64) -> Result<(), End> {
        let Some(watch) = self.watches.get(&id) else { return Ok(()) };
        let revision = upto.max(*self.shared.hub.position().borrow());
        let mut answers = Vec::new();
        let (mut events, mut bytes) = (Vec::new(), 0);
        for batch in batches.iter().filter(|batch| batch.revision >= watch.next) {
            if bytes > ANSWER_BYTES {
                answers.push(std::mem::take(&mut events));
                bytes = 0;
            }
            for event in batch.events.iter().filter(|event| watch.wants(event)) {
                bytes += event.size() + EVENT_OVERHEAD;
                events.push(watch.event(event, batch.revision));
            }
        }
        if !events.is_empty() {
            answers.push(events);
        }
        let fragment = watch.fragment;
        let told = !answers.is_empty();
        for events in answers {
            let mut parts = if fragment { fragments(events, self.shared.limits.max_request_bytes) } else { vec![events] };
            let last = parts.pop();
            for events in parts {
                let answer = self.answer(id, revision);
                self.send(PbWatchResponse { events, fragment: true, ..answer }).await?;
            }
            let answer = self.answer(id, revision);
            self.send(PbWatchResponse { events: last.unwrap_or_default(), ..answer }).await?;
        }
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.next = watch.next.max(upto.saturating_add(1));
            watch.told |= told;
        }
        Ok(())
    }

    /// Tells the progress that was asked for, once every watch of the stream has come so far.
    async fn tell_progress(&mut self) -> Result<(), End> {
        let Some(wanted) = self.progress else { return Ok(()) };
        let cursor = self.cursor;
        // A watch from a revision to come is not told that it is before that.
        let reached = |watch: &Watch| watch.joined && (watch.next <= cursor.saturating_add(1));
        if cursor < wanted || !self.watches.values().all(reached) {
            return Ok(());
        }
        self.progress = None;
        let answer = self.answer(NO_WATCH, cursor);
        self.send(answer).await
    }

    /// Tells watches that want it that nothing has happened.
    async fn progress_is_due(&mut self) -> Result<(), End> {
        self.drain().await?;
        let cursor = self.cursor;
        let mut quiet = Vec::new();
        for (id, watch) in &mut self.watches {
            if watch.progress_notify && watch.joined && !watch.told && watch.next <= cursor.saturating_add(1) {
                quiet.push(*id);
            }
            watch.told = false;
        }
        for id in quiet {
            let answer = self.answer(id, cursor);
            self.send(answer).await?;
        }
        Ok(())
    }
}

/// Parts of an answer that are within a size, as long as one event is.
fn fragments(events: Vec<PbEvent>, max_bytes: usize) -> Vec<Vec<PbEvent>> {
    let size = |kv: &Option<PbKeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for event in events {
        let more = size(&event.kv) + size(&event.prev_kv) + EVENT_OVERHEAD;
        if bytes > 0 && bytes + more > max_bytes {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(part) = parts.last_mut() {
            part.push(event);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize) -> PbEvent {
        PbEvent { kv: Some(PbKeyValue { value: vec![0; bytes], ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn fragments_are_as_large_as_allowed_and_lose_nothing() {
        let sizes = |events: Vec<PbEvent>, max| fragments(events, max).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![], 1000), [0]);
        assert_eq!(sizes(vec![event(400), event(400), event(400)], 1000), [2, 1]);
        assert_eq!(sizes(vec![event(5000), event(1), event(5000)], 1000), [1, 1, 1]);
        assert_eq!(sizes(vec![event(5000)], 1000), [1]);
    }
}
