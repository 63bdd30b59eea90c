//! What this store has beyond the seam: history over restarts, snapshots, restore, defragmentation, compaction by age.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use wharf_core::clock::{Clock, ManualClock, SystemClock};
use wharf_core::store::{
    Expect, Key, ListOptions, ObjectStore, Op, Record, ResourceId, Revision, Scope, StoreError, Transaction, WatchItem,
};
use wharf_store_redb::{RedbOpenError, RedbOptions, RedbStore};

fn options() -> RedbOptions {
    RedbOptions::default().segment_bytes(32 << 10).history_age(None)
}

async fn open_with(folder: &Path, options: RedbOptions, clock: Arc<dyn Clock>) -> RedbStore {
    loop {
        match RedbStore::open(folder, options.clone(), clock.clone()).await {
            // Who had it before is about to end.
            Err(RedbOpenError::InUse { .. }) => tokio::task::yield_now().await,
            store => return store.unwrap(),
        }
    }
}

async fn open(folder: &Path) -> RedbStore {
    open_with(folder, options(), SystemClock::shared()).await
}

fn key(n: usize) -> Key {
    Key::new(ResourceId::new("", "pods"), "default", n.to_string())
}

async fn put(store: &RedbStore, n: usize, len: usize) -> Revision {
    let op = Op::Put { key: key(n), value: Bytes::from(vec![b'x'; len]), expect: Expect::Any };
    store.commit(Transaction::new(vec![op])).await.unwrap()
}

async fn records(store: &RedbStore) -> Vec<Record> {
    store.list(&Scope::All, &ListOptions::default()).await.unwrap().records
}

async fn history(store: &RedbStore, after: Revision) -> Vec<WatchItem> {
    let end = store.revision().await.unwrap();
    let mut watch = store.watch(&Scope::All, after).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let item = watch.next().await.unwrap().unwrap();
        let at = match &item {
            WatchItem::Commit { revision, .. } | WatchItem::Progress(revision) => *revision,
        };
        seen.push(item);
        if at >= end {
            return seen;
        }
    }
}

#[tokio::test]
async fn history_is_the_same_after_a_crash_and_after_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    // Several segments, so that some of it comes from the checkpoint.
    for n in 0..200 {
        put(&store, n % 30, 1000).await;
    }
    let op = Op::Delete { key: key(3), expect: Expect::Present };
    store.commit(Transaction::new(vec![op])).await.unwrap();
    let (all, now) = (history(&store, Revision(1)).await, records(&store).await);
    let then = store.list(&Scope::All, &ListOptions { at: Some(Revision(100)), ..ListOptions::default() }).await.unwrap();
    drop(store);
    for round in 0..3 {
        let store = open(folder.path()).await;
        assert_eq!(records(&store).await, now, "round {round}");
        assert_eq!(history(&store, Revision(1)).await, all, "round {round}");
        let past = store.list(&Scope::All, &ListOptions { at: Some(Revision(100)), ..ListOptions::default() }).await.unwrap();
        assert_eq!(past.records, then.records, "round {round}");
        if round == 1 {
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn compaction_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for n in 0..10 {
        put(&store, n, 10).await;
    }
    store.compact(Revision(6)).await.unwrap();
    drop(store);
    for closed in [false, true, false] {
        let store = open(folder.path()).await;
        assert!(matches!(store.watch(&Scope::All, Revision(5)).await, Err(StoreError::Expired { compacted: Revision(6) })));
        assert_eq!(history(&store, Revision(6)).await.len(), 5);
        assert_eq!(records(&store).await.len(), 10);
        if closed {
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_restored_with_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to, file) = (folder.path().join("from"), folder.path().join("to"), folder.path().join("snapshot"));
    let store = Arc::new(open(&from).await);
    for n in 0..100 {
        put(&store, n % 40, 1000).await;
    }
    let (before, all) = (records(&store).await, history(&store, Revision(1)).await);
    let at = store.revision().await.unwrap();
    // Online: commits go on while it is made.
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 0..100 {
            put(&writer, 1000 + n, 500).await;
        }
    });
    store.snapshot(&file).await.unwrap();
    writing.await.unwrap();
    assert!(matches!(store.snapshot(&file).await, Err(RedbOpenError::Exists { .. })), "nothing is overwritten");
    assert!(matches!(RedbStore::restore(&file, &from).await, Err(RedbOpenError::InUse { .. })));
    store.close().await.unwrap();
    assert!(matches!(RedbStore::restore(&file, &from).await, Err(RedbOpenError::Exists { .. })), "a store is not overwritten");
    assert!(std::fs::read_dir(folder.path()).unwrap().all(|e| !e.unwrap().path().to_string_lossy().ends_with("partial")));

    RedbStore::restore(&file, &to).await.unwrap();
    let restored = open(&to).await;
    let old: Vec<Record> = records(&restored).await.into_iter().filter(|r| r.modified <= at).collect();
    assert_eq!(old, before);
    assert_eq!(history(&restored, Revision(1)).await[..all.len()], all);
    let next = put(&restored, 1, 10).await;
    drop(restored);
    let restored = open(&to).await;
    assert_eq!(restored.get(&key(1)).await.unwrap().unwrap().modified, next);
}

#[tokio::test]
async fn a_damaged_or_missing_snapshot_is_refused_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to, file) = (folder.path().join("from"), folder.path().join("to"), folder.path().join("snapshot"));
    assert!(matches!(RedbStore::restore(&file, &to).await, Err(RedbOpenError::Missing { .. })));
    let store = open(&from).await;
    for n in 0..100 {
        put(&store, n, 1000).await;
    }
    store.snapshot(&file).await.unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let value = bytes.windows(100).position(|w| w.iter().all(|b| *b == b'x')).unwrap();
    let mut bad = bytes.clone();
    bad[value + 50] = b'y';
    std::fs::write(&file, &bad).unwrap();
    let error = RedbStore::restore(&file, &to).await.unwrap_err();
    assert!(matches!(error, RedbOpenError::Corrupt { .. }), "{error}");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = RedbStore::restore(&file, &to).await.unwrap_err();
    assert!(matches!(error, RedbOpenError::Truncated { .. }), "{error}");
    assert!(!to.exists());
}

#[tokio::test]
async fn defragmentation_gives_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for n in 0..300 {
        put(&store, n, 8000).await;
    }
    for n in 0..300 {
        put(&store, n, 1).await;
    }
    store.compact(store.revision().await.unwrap()).await.unwrap();
    let now = records(&store).await;
    let before = store.size().await.unwrap();
    let done = store.defragment().await.unwrap();
    assert!(done.after < done.before / 2, "{done:?}");
    // With the log.
    let after = store.size().await.unwrap();
    assert!(after < before && after > done.after, "{before} to {after}, {done:?}");
    drop(store);
    assert_eq!(records(&open(folder.path()).await).await, now);
}

#[tokio::test]
async fn history_is_forgotten_by_age() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::default();
    let age = Duration::from_secs(80);
    let store = open_with(folder.path(), options().history_age(Some(age)), Arc::new(clock.clone())).await;
    let old = put(&store, 1, 10).await;
    let mut watch = store.watch(&Scope::All, old).await.unwrap();
    // Looks are a tenth of a minute apart; each waits for the clock before the next.
    let step = async |by: u64| {
        while clock.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(by));
        while clock.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    for _ in 0..7 {
        step(10).await;
        assert_eq!(history(&store, Revision(1)).await.len(), 1, "younger than its age");
    }
    for _ in 0..4 {
        step(10).await;
    }
    let error = store.watch(&Scope::All, Revision(1)).await.err().unwrap();
    assert!(matches!(error, StoreError::Expired { .. }), "{error}");
    // A watch that is up to date goes on.
    let next = put(&store, 2, 10).await;
    loop {
        match watch.next().await.unwrap().unwrap() {
            WatchItem::Commit { revision, .. } => break assert_eq!(revision, next),
            WatchItem::Progress(_) => {}
        }
    }
}

#[tokio::test]
async fn a_watch_ends_when_the_store_closes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut watch = store.watch(&Scope::All, Revision(1)).await.unwrap();
    put(&store, 1, 10).await;
    store.close().await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Commit { .. }))));
    assert!(watch.next().await.is_none());
    assert!(matches!(store.commit(Transaction::default()).await, Err(StoreError::Closed)));
    assert!(matches!(store.close().await, Err(RedbOpenError::Stopped { source: StoreError::Closed })));
}
