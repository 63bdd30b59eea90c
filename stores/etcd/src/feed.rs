//! What a watch holds for its reader, bounded in bytes.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wharf_core::store::{Change, Record, StoreResult, WatchItem, WatchStream};

/// Bytes are counted in units of this, at least one an item.
const UNIT: usize = 1 << 10;
/// Near enough what an item or a change takes besides its values.
const OVERHEAD: usize = 256;

struct Delivery {
    item: StoreResult<WatchItem>,
    _room: Option<OwnedSemaphorePermit>,
}

/// The writing end. The channel has no bound of its own, the room has.
pub(crate) struct Feed {
    items: mpsc::UnboundedSender<Delivery>,
    room: Arc<Semaphore>,
    units: u32,
}

/// The reader has not made room.
#[derive(Debug, PartialEq)]
pub(crate) struct Full;

/// A feed of this many bytes and its reading end.
pub(crate) fn feed(bytes: usize) -> (Feed, WatchStream) {
    let units = u32::try_from((bytes / UNIT).clamp(2, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let (items, reader) = mpsc::unbounded_channel::<Delivery>();
    // A permit goes with its item: room is made when the reader takes it.
    let stream = futures::stream::unfold(reader, |mut reader| async { reader.recv().await.map(|delivery| (delivery.item, reader)) });
    (Feed { items, room: Arc::new(Semaphore::new(units as usize)), units }, stream.boxed())
}

fn bytes_of(item: &WatchItem) -> usize {
    let of = |record: &Record| record.value.len() + record.key.name.len();
    let changes = match item {
        WatchItem::Commit { changes, .. } => &changes[..],
        WatchItem::Progress(_) => &[],
    };
    let each = changes.iter().map(|change| match change {
        Change::Put { record, previous } => OVERHEAD + of(record) + previous.as_ref().map_or(0, of),
        Change::Delete { previous } => OVERHEAD + of(previous),
    });
    OVERHEAD + each.sum::<usize>()
}

impl Feed {
    /// Hands an item on. One that is larger than all room goes in when there is nothing else.
    pub(crate) fn send(&self, item: WatchItem) -> Result<(), Full> {
        let units = u32::try_from(bytes_of(&item).div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        let Ok(room) = self.room.clone().try_acquire_many_owned(units) else { return Err(Full) };
        // A reader that is gone is noticed by `closed`.
        let _ = self.items.send(Delivery { item: Ok(item), _room: Some(room) });
        Ok(())
    }

    /// The last word.
    pub(crate) fn fail(&self, error: wharf_core::store::StoreError) {
        let _ = self.items.send(Delivery { item: Err(error), _room: None });
    }

    /// Waits until the reader has taken everything, so that it is worth beginning again.
    pub(crate) async fn drained(&self) {
        // It is never closed.
        let _ = self.room.acquire_many(self.units).await;
    }

    /// Waits until the reader is gone.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let items = self.items.clone();
        async move { items.closed().await }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use wharf_core::store::{Key, ResourceId, Revision};

    use super::*;

    fn commit(revision: u64, bytes: usize) -> WatchItem {
        let key = Key::new(ResourceId::new("", "pods"), "a", "b");
        let record = Record { key, value: Bytes::from(vec![0; bytes]), created: Revision(1), modified: Revision(revision) };
        WatchItem::Commit { revision: Revision(revision), changes: Arc::from([Change::Put { record, previous: None }]) }
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_costs_what_it_was_given() {
        let (feed, mut stream) = feed(4 * UNIT);
        for revision in 1..=4 {
            feed.send(commit(revision, 10)).unwrap();
        }
        assert_eq!(feed.send(commit(5, 10)), Err(Full));
        assert!(feed.drained().now_or_never().is_none());
        assert!(matches!(stream.next().await, Some(Ok(WatchItem::Commit { revision: Revision(1), .. }))));
        feed.send(commit(5, 10)).unwrap();
        for _ in 0..4 {
            stream.next().await.unwrap().unwrap();
        }
        assert!(feed.drained().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_commit_larger_than_all_room_goes_in_alone() {
        let (feed, mut stream) = feed(4 * UNIT);
        feed.send(commit(1, 10)).unwrap();
        assert_eq!(feed.send(commit(2, 100 * UNIT)), Err(Full));
        stream.next().await.unwrap().unwrap();
        feed.send(commit(2, 100 * UNIT)).unwrap();
        assert_eq!(feed.send(WatchItem::Progress(Revision(3))), Err(Full));
    }

    #[tokio::test]
    async fn an_error_needs_no_room_and_a_reader_that_left_is_noticed() {
        let (feed, stream) = feed(0);
        feed.fail(wharf_core::store::StoreError::Closed);
        assert!(feed.closed().now_or_never().is_none());
        drop(stream);
        assert!(feed.closed().now_or_never().is_some());
    }
}
