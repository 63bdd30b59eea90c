//! Seeded crashes on a simulated disk, and disks that fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wharf_core::clock::SystemClock;
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Expect, Key, ListOptions, ObjectStore, Op, ResourceId, Revision, Scope, StoreError, StoreResult, Transaction, WatchItem,
};
use wharf_store_mvcc::Serving;

use crate::disk::simulated::{Faults, SimulatedDisk};
use crate::disk::{Disk, Mode};
use crate::keeper::prepare;
use crate::writer::{Crowd, Request, Writer};
use crate::{RedbFault, RedbOpenError, RedbOptions, RedbStore};

/// Crashes in a test run.
const SEEDS: u64 = 200;
/// Lives of a store in one seed.
const LIVES: u64 = 4;
/// Keys that are written.
const KEYS: u64 = 12;

fn options() -> RedbOptions {
    RedbOptions::default().segment_bytes(8 << 10).history(40).history_age(None)
}

async fn open(disk: &SimulatedDisk) -> Result<RedbStore, RedbOpenError> {
    RedbStore::open_on(Arc::new(disk.clone()), Path::new("/store"), options(), SystemClock::shared()).await
}

fn key(n: u64) -> Key {
    Key::new(ResourceId::new("", "pods"), "default", format!("p{n}"))
}

/// Two keys that always change together, and one more.
fn step(rng: &mut StdRng, n: u64) -> Transaction {
    let value = Bytes::from(vec![n as u8; rng.random_range(0..900)]);
    let one = rng.random_range(0..KEYS);
    let mut ops = match rng.random_range(0..4) {
        0 => vec![Op::Delete { key: key(one), expect: Expect::Any }],
        _ => vec![Op::Put { key: key(one), value: value.clone(), expect: Expect::Any }],
    };
    for twin in [100, 101] {
        ops.push(Op::Put { key: key(twin), value: Bytes::from(n.to_string()), expect: Expect::Any });
    }
    Transaction::new(ops)
}

type Objects = BTreeMap<Key, Bytes>;

fn carry_out(objects: &mut Objects, transaction: &Transaction) {
    for op in &transaction.ops {
        match op {
            Op::Put { key, value, .. } => objects.insert(key.clone(), value.clone()),
            Op::Delete { key, .. } => objects.remove(key),
            Op::Check { .. } => None,
        };
    }
}

async fn objects(store: &RedbStore) -> Objects {
    let listing = store.list(&Scope::All, &ListOptions::default()).await.unwrap();
    listing.records.into_iter().map(|r| (r.key, r.value)).collect()
}

/// The objects at each revision that could be, by replaying history from a revision on.
async fn history_agrees(store: &RedbStore, seed: u64, states: &BTreeMap<u64, Objects>) {
    let revision = store.revision().await.unwrap();
    let after = Revision(revision.0.saturating_sub(20).max(1));
    let mut watch = match store.watch(&Scope::All, after).await {
        Ok(watch) => watch,
        Err(StoreError::Expired { .. }) => return,
        Err(e) => panic!("seed {seed}: {e}"),
    };
    let mut position = after;
    let mut at = states.get(&after.0).cloned();
    while position < revision {
        match watch.next().await.unwrap() {
            Ok(WatchItem::Commit { revision, changes }) => {
                assert_eq!(revision.0, position.0 + 1, "seed {seed}: a commit is missing from history");
                position = revision;
                for change in changes.iter() {
                    use wharf_core::store::Change;
                    let Some(objects) = &mut at else { continue };
                    let previous = match change {
                        Change::Put { record, previous } => {
                            assert_eq!(objects.get(&record.key), previous.as_ref().map(|p| &p.value), "seed {seed}: previous");
                            objects.insert(record.key.clone(), record.value.clone())
                        }
                        Change::Delete { previous } => objects.remove(&previous.key),
                    };
                    drop(previous);
                }
                if let (Some(objects), Some(expected)) = (&at, states.get(&position.0)) {
                    assert_eq!(objects, expected, "seed {seed}: history at {position}");
                }
            }
            Ok(WatchItem::Progress(_)) => {}
            Err(StoreError::Expired { .. }) => return,
            Err(e) => panic!("seed {seed}: {e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loses_nothing_that_was_acknowledged_and_keeps_no_half() {
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = SimulatedDisk::default();
        // What is at each revision, as far as it is known.
        let mut states: BTreeMap<u64, Objects> = BTreeMap::from([(1, Objects::new())]);
        for life in 0..LIVES {
            let store = open(&disk).await.unwrap_or_else(|e| panic!("seed {seed}, life {life}: {e}"));
            let revision = store.revision().await.unwrap();
            let newest = *states.keys().next_back().unwrap();
            assert!(revision.0 <= newest, "seed {seed}: revision {revision} was never made, the newest is {newest}");
            let found = objects(&store).await;
            assert_eq!(Some(&found), states.get(&revision.0), "seed {seed}, life {life}: the objects at {revision}");
            assert_eq!(found.get(&key(100)), found.get(&key(101)), "seed {seed}: half a transaction");
            history_agrees(&store, seed, &states).await;
            // What was not acknowledged and is gone never was.
            states.split_off(&(revision.0 + 1));
            let mut now = found;
            let commits = rng.random_range(0..60);
            // Faults happen in some lives: the store stops by itself.
            let fault = rng.random_range(0..4);
            let count = rng.random_range(0..commits + 1);
            disk.faults(Faults {
                syncs: (fault == 0).then_some(count),
                writes: (fault == 1).then_some(count),
                room: (fault == 2).then_some(count * 500),
                ..Faults::default()
            });
            let mut acknowledged = revision.0;
            for n in 0..commits {
                let transaction = step(&mut rng, life * 1000 + n);
                // Known before the answer: after a crash it may be there without one.
                let next = acknowledged + 1;
                let mut then = now.clone();
                carry_out(&mut then, &transaction);
                states.insert(next, then.clone());
                match store.commit(transaction).await {
                    Ok(revision) => {
                        assert_eq!(revision.0, next, "seed {seed}: one commit, one revision");
                        (acknowledged, now) = (next, then);
                    }
                    Err(StoreError::OutcomeUnknown { .. } | StoreError::Backend { retry: Retry::Permanent, .. }) => break,
                    Err(e) => panic!("seed {seed}: {e}"),
                }
                if rng.random_range(0..20) == 0 {
                    let upto = Revision(rng.random_range(1..=acknowledged));
                    if store.compact(upto).await.is_err() {
                        break;
                    }
                }
                if rng.random_range(0..30) == 0 {
                    // Moves the log into the database, or stops.
                    let _ = store.defragment().await;
                }
            }
            if rng.random_range(0..5) == 0 {
                let _ = store.close().await;
            }
            disk = disk.crash(seed * LIVES + life);
            drop(store);
            states.retain(|revision, _| *revision + 60 > acknowledged);
            // The next life must have every acknowledged commit: older states are no answer.
            let lost: Vec<u64> = states.range(..acknowledged).map(|(r, _)| *r).collect();
            let check = open(&disk).await.unwrap_or_else(|e| panic!("seed {seed}, after life {life}: {e}"));
            let found = check.revision().await.unwrap().0;
            assert!(!lost.contains(&found) && found >= acknowledged, "seed {seed}: at {found}, but {acknowledged} was acknowledged");
            // This life ends at once.
            let next = disk.crash(seed);
            drop(check);
            disk = next;
        }
    }
}

/// The fault of a store that has stopped.
fn fault<T: std::fmt::Debug>(result: StoreResult<T>) -> RedbFault {
    match result.unwrap_err() {
        StoreError::Backend { retry: Retry::Permanent, source, .. } | StoreError::OutcomeUnknown { source } => {
            source.downcast_ref::<RedbFault>().unwrap().clone()
        }
        e => panic!("{e}"),
    }
}

async fn put(store: &RedbStore, n: u64, len: usize) -> StoreResult<Revision> {
    let op = Op::Put { key: key(n), value: Bytes::from(vec![7; len]), expect: Expect::Any };
    store.commit(Transaction::new(vec![op])).await
}

/// The segments that have been written to; the next may be being made.
fn logs(disk: &SimulatedDisk) -> Vec<Vec<u8>> {
    let files = disk.image().into_iter().filter(|(path, _)| path.to_string_lossy().contains("log-"));
    files.map(|(_, bytes)| bytes).filter(|bytes| bytes.iter().skip(64).any(|b| *b != 0)).collect()
}

#[tokio::test]
async fn a_failed_fsync_stops_the_store_and_is_never_tried_again() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).await.unwrap();
    let first = put(&store, 1, 10).await.unwrap();
    let mut watch = store.watch(&Scope::All, first).await.unwrap();
    disk.faults(Faults { syncs: Some(0), log_only: true, ..Faults::default() });
    let failed = put(&store, 2, 10).await;
    assert!(matches!(failed, Err(StoreError::OutcomeUnknown { .. })), "it may be on disk: {failed:?}");
    assert!(matches!(fault(failed), RedbFault::Sync { .. }));
    // The disk would take it now.
    let image = logs(&disk);
    let later = put(&store, 3, 10).await;
    let text = later.as_ref().unwrap_err().to_string();
    assert!(matches!(fault(later), RedbFault::Sync { .. }));
    assert!(text.contains("fsync") && text.contains("open the store again"), "{text}");
    assert!(logs(&disk) == image, "nothing was written after the failure");
    assert!(matches!(watch.next().await, Some(Err(StoreError::Backend { .. }))), "the watch ends with the reason");
    assert!(watch.next().await.is_none());
    assert!(store.get(&key(1)).await.is_err());
    let disk = disk.crash(0);
    let store = open(&disk).await.unwrap();
    assert!(store.get(&key(1)).await.unwrap().is_some() && store.get(&key(3)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_lost() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).await.unwrap();
    disk.faults(Faults { room: Some(20 << 10), ..Faults::default() });
    let mut there = Vec::new();
    let error = loop {
        let n = there.len() as u64;
        match put(&store, n, 900).await {
            Ok(_) => there.push(n),
            Err(e) => break e,
        }
        assert!(n < 100, "20 KiB are room for less");
    };
    assert!(error.to_string().contains("full") && error.to_string().contains("free some space"), "{error}");
    let disk = disk.crash(1);
    let before = disk.image();
    disk.faults(Faults { room: Some(0), ..Faults::default() });
    // It opens if it has to write nothing new, and else says why and changes nothing.
    match open(&disk).await {
        Err(e) => {
            assert!(matches!(e, RedbOpenError::Full { .. }), "{e}");
            assert!(disk.image() == before, "the folder is as it was");
        }
        Ok(store) => drop(store),
    }
    let disk = disk.crash(2);
    let store = open(&disk).await.unwrap();
    for n in there {
        assert!(store.get(&key(n)).await.unwrap().is_some(), "{n} was acknowledged");
    }
    put(&store, 1000, 900).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_at_the_first_opening_is_told() {
    let disk = SimulatedDisk::default();
    disk.faults(Faults { room: Some(1000), ..Faults::default() });
    let error = open(&disk).await.unwrap_err();
    assert!(matches!(error, RedbOpenError::Full { .. }), "{error}");
    let disk = disk.crash(0);
    open(&disk).await.unwrap();
}

#[tokio::test]
async fn a_torn_write_is_not_acknowledged_and_cut_off() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).await.unwrap();
    let last = put(&store, 1, 10).await.unwrap();
    disk.faults(Faults { writes: Some(0), log_only: true, ..Faults::default() });
    assert!(matches!(fault(put(&store, 2, 2000).await), RedbFault::Write { .. }));
    for seed in 0..20 {
        let disk = disk.crash(seed);
        let store = open(&disk).await.unwrap();
        assert_eq!(store.revision().await.unwrap(), last);
        // The next frame goes where the torn one was.
        assert_eq!(put(&store, 3, 10).await.unwrap().0, last.0 + 1);
        let disk = disk.crash(seed);
        assert!(open(&disk).await.unwrap().get(&key(3)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_frame_larger_than_a_segment_is_kept() {
    let disk = SimulatedDisk::default();
    let store = open(&disk).await.unwrap();
    for n in 0..3 {
        put(&store, n, 100 << 10).await.unwrap();
    }
    let disk = disk.crash(0);
    let store = open(&disk).await.unwrap();
    assert_eq!(store.get(&key(2)).await.unwrap().unwrap().value.len(), 100 << 10);
}

/// A log of several segments that nobody has moved into the checkpoint.
fn long_log(disk: &SimulatedDisk) -> Vec<std::path::PathBuf> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = crate::recover::open(shared, Path::new("/store"), &options()).unwrap();
    let (folder, serving) = (Arc::new(opened.folder), Serving::new(opened.state));
    let (made, ready) = sync_channel(0);
    let (store, number, maker) = (opened.meta.store, opened.tail.segment.number, folder.clone());
    let preparer = std::thread::spawn(move || prepare(&maker, store, number, options().segment_bytes, &made));
    let (jobs, _kept) = sync_channel(100);
    let (requests, received) = tokio::sync::mpsc::channel(100);
    for n in 0..50 {
        let op = Op::Put { key: key(n), value: Bytes::from(vec![7; 900]), expect: Expect::Any };
        requests.try_send(Request::Commit(Transaction::new(vec![op]), tokio::sync::oneshot::channel().0)).unwrap();
        // One at a time, so that each has a frame.
        requests.try_send(Request::Compact(Revision(0), tokio::sync::oneshot::channel().0)).unwrap();
    }
    drop(requests);
    Writer { serving, folder, tail: opened.tail, ready, preparer, jobs, crowd: Crowd::default(), marked: false }.run(received);
    disk.image().into_keys().filter(|path| path.to_string_lossy().contains("log-")).collect()
}

#[tokio::test]
async fn a_segment_missing_in_the_middle_is_told() {
    let disk = SimulatedDisk::default();
    let logs = long_log(&disk);
    assert!(logs.len() > 4, "{logs:?}");
    // Folders are synced: nothing is lost but what is removed here.
    let disk = disk.crash(0);
    disk.remove(&logs[2]).unwrap();
    let before = disk.image();
    match open(&disk).await.unwrap_err() {
        RedbOpenError::Missing { file } => assert_eq!(file, logs[2]),
        e => panic!("{e}"),
    }
    assert!(disk.image() == before, "the folder is as it was");
}

#[tokio::test]
async fn damage_in_a_closed_segment_is_told_even_at_its_end() {
    let disk = SimulatedDisk::default();
    let logs = long_log(&disk);
    let disk = disk.crash(0);
    let file = disk.open(&logs[1], Mode::Write).unwrap();
    let size = usize::try_from(file.size().unwrap()).unwrap();
    let mut bytes = vec![0; size];
    file.read_at(0, &mut bytes).unwrap();
    let last = bytes.iter().rposition(|b| *b == 7).unwrap();
    file.write_at(last as u64, &[8]).unwrap();
    let before = disk.image();
    match open(&disk).await.unwrap_err() {
        RedbOpenError::Corrupt { file, offset: Some(offset), .. } => {
            assert!(file == logs[1] && offset <= last as u64 && offset + 2000 > last as u64, "{} {offset}", file.display());
        }
        e => panic!("{e}"),
    }
    assert!(disk.image() == before, "the folder is as it was");
    file.write_at(last as u64, &[7]).unwrap();
    assert_eq!(open(&disk).await.unwrap().revision().await.unwrap(), Revision(51));
}
