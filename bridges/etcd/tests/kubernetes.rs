//! What kube-apiserver sends, in its own order, as messages. From k8s.io/apiserver's storage/etcd3 (store.go, watcher.go, compact.go,
//! lease_manager.go, feature checks) and go.etcd.io/etcd/client/v3/kubernetes.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbRangeRequest, PbRangeResponse, PbStatusRequest,
    PbStatusResponse, PbTxnResponse,
};
use tonic::Code;

use crate::support::Served;
use crate::support::kubernetes::{POD, PODS, PODS_END, Watcher, compact, delete, found, get, list, put, range, revision, txn};

#[tokio::test]
async fn create_update_delete_as_store_go() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let created = txn(&raw, put(POD, b"1", 0, false, 0)).await;
    assert!(created.succeeded);
    assert_eq!(revision(&created), 2);
    // Create of what exists: the compare fails, nothing is read.
    let again = txn(&raw, put(POD, b"x", 0, false, 0)).await;
    assert!(!again.succeeded && again.responses.is_empty());
    assert_eq!(revision(&again), 2);
    // GuaranteedUpdate with a stale revision gets what is there.
    let updated = txn(&raw, put(POD, b"2", 2, true, 0)).await;
    assert!(updated.succeeded);
    let stale = txn(&raw, put(POD, b"3", 2, true, 0)).await;
    assert!(!stale.succeeded);
    let kv = &found(&stale).kvs[0];
    assert_eq!((kv.value.as_slice(), kv.create_revision, kv.mod_revision, kv.version), (b"2".as_slice(), 2, 3, 2));
    // An update of what is gone gets nothing.
    let gone = txn(&raw, put(b"/registry/pods/default/b", b"3", 2, true, 0)).await;
    assert!(!gone.succeeded && found(&gone).kvs.is_empty());
    let stale = txn(&raw, delete(POD, 2)).await;
    assert!(!stale.succeeded && found(&stale).kvs[0].mod_revision == 3);
    let deleted = txn(&raw, delete(POD, 3)).await;
    assert!(deleted.succeeded && revision(&deleted) == 4);
    let absent = range(&raw, get(POD)).await;
    assert_eq!((absent.kvs.len(), absent.header.unwrap().revision), (0, 4));
}

#[tokio::test]
async fn pages_and_counts_as_store_go() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    for n in 0..7 {
        let key = format!("/registry/pods/default/{n}");
        assert!(txn(&raw, put(key.as_bytes(), b"v", 0, false, 0)).await.succeeded);
    }
    txn(&raw, put(b"/registry/podsx", b"v", 0, false, 0)).await;
    let first = range(&raw, list(3, 0)).await;
    let at = first.header.as_ref().unwrap().revision;
    assert_eq!((first.kvs.len(), first.count, first.more, at), (3, 7, true, 9));
    // What comes after the first page is not on the next.
    txn(&raw, put(b"/registry/pods/default/9", b"v", 0, false, 0)).await;
    let mut key = first.kvs[2].key.clone();
    key.push(0);
    let second = range(&raw, PbRangeRequest { key: key.clone(), ..list(3, at) }).await;
    assert_eq!(
        (second.kvs.len(), second.count, second.more, second.kvs[0].key.as_slice()),
        (3, 4, true, b"/registry/pods/default/3".as_slice())
    );
    let last = range(&raw, PbRangeRequest { key: [second.kvs[2].key.as_slice(), &[0]].concat(), ..list(3, at) }).await;
    assert_eq!((last.kvs.len(), last.count, last.more), (1, 1, false));
    let count = range(&raw, PbRangeRequest { count_only: true, limit: 0, ..list(0, 0) }).await;
    assert_eq!((count.kvs.len(), count.count), (0, 8));
    // A page of a revision that has been compacted meanwhile: 410 Gone.
    let _: PbCompactionResponse = raw.call("KV/Compact", PbCompactionRequest { revision: at + 1, physical: false }).await.unwrap();
    let status = raw.call::<_, PbRangeResponse>("KV/Range", list(3, at)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
    let status = raw.call::<_, PbRangeResponse>("KV/Range", list(3, 1000)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"));
}

#[tokio::test]
async fn watch_with_progress_as_watcher_go() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    txn(&raw, put(POD, b"1", 0, false, 0)).await;
    let listed = range(&raw, list(500, 0)).await.header.unwrap().revision;
    let mut watcher = Watcher::open(&raw, listed).await;
    txn(&raw, put(POD, b"2", 2, true, 0)).await;
    txn(&raw, put(b"/registry/nodes/n", b"n", 0, false, 0)).await;
    txn(&raw, delete(POD, 3)).await;
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(watcher.next().await.events);
    }
    let (modified, deleted) = (&events[0], &events[1]);
    let (kv, prev) = (modified.kv.as_ref().unwrap(), modified.prev_kv.as_ref().unwrap());
    assert_eq!(
        (modified.r#type, kv.mod_revision, kv.create_revision, kv.value.as_slice(), prev.value.as_slice()),
        (0, 3, 2, b"2".as_slice(), b"1".as_slice())
    );
    let (kv, prev) = (deleted.kv.as_ref().unwrap(), deleted.prev_kv.as_ref().unwrap());
    assert_eq!((deleted.r#type, kv.mod_revision, kv.create_revision, prev.mod_revision), (1, 5, 0, 3));
    // A consistent read from the cache: the revision of the store is asked for, then progress until the watch has come so far.
    txn(&raw, put(b"/registry/nodes/m", b"m", 0, false, 0)).await;
    let current = range(&raw, PbRangeRequest { count_only: true, ..list(0, 0) }).await.header.unwrap().revision;
    watcher.asking.ask_for_progress().await;
    let progress = watcher.next().await;
    assert!(progress.events.is_empty() && !progress.created && !progress.canceled);
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, current));
    assert_eq!(current, 6);
}

#[tokio::test]
async fn a_watch_from_before_the_compaction_is_cancelled() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    for n in 0..5 {
        txn(&raw, put(POD, b"v", if n == 0 { 0 } else { n + 1 }, true, 0)).await;
    }
    let _: PbCompactionResponse = raw.call("KV/Compact", PbCompactionRequest { revision: 4, physical: false }).await.unwrap();
    let mut watcher = Watcher::open(&raw, 2).await;
    let cancelled = watcher.next().await;
    assert!(cancelled.canceled);
    assert_eq!(cancelled.compact_revision, 4);
    // The stream goes on for its other watches.
    watcher.asking.watch(PODS, PODS_END, 5).await;
    assert!(watcher.next().await.created);
    assert_eq!(watcher.next().await.events[0].kv.as_ref().unwrap().mod_revision, 5);
}

#[tokio::test]
async fn compaction_as_compact_go() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    // The first of two servers to come wins, the other takes over its time.
    assert!(txn(&raw, compact(0, 0)).await.succeeded);
    let lost = txn(&raw, compact(0, 0)).await;
    assert!(!lost.succeeded);
    assert_eq!((found(&lost).kvs[0].version, found(&lost).kvs[0].value.as_slice(), revision(&lost)), (1, b"0".as_slice(), 2));
    txn(&raw, put(POD, b"v", 0, false, 0)).await;
    assert!(txn(&raw, compact(1, 2)).await.succeeded);
    let _: PbCompactionResponse = raw.call("KV/Compact", PbCompactionRequest { revision: 2, physical: false }).await.unwrap();
    for (revision, message) in
        [(2, "etcdserver: mvcc: required revision has been compacted"), (100, "etcdserver: mvcc: required revision is a future revision")]
    {
        let again = raw.call::<_, PbCompactionResponse>("KV/Compact", PbCompactionRequest { revision, physical: false }).await;
        assert_eq!(again.unwrap_err().message(), message);
    }
    assert_eq!(range(&raw, get(POD)).await.kvs.len(), 1);
}

#[tokio::test]
async fn leases_of_events_as_lease_manager_go() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let granted: PbLeaseGrantResponse = raw.call("Lease/LeaseGrant", PbLeaseGrantRequest { id: 0, ttl: 3660 }).await.unwrap();
    assert!(granted.id > 0 && granted.ttl == 3660 && granted.error.is_empty());
    assert!(txn(&raw, put(b"/registry/events/default/e", b"v", 0, false, granted.id)).await.succeeded);
    assert_eq!(range(&raw, get(b"/registry/events/default/e")).await.kvs[0].lease, granted.id);
    let status = raw.call::<_, PbTxnResponse>("KV/Txn", put(b"/registry/events/default/f", b"v", 0, false, 12345)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "etcdserver: requested lease not found"));
}

/// The version decides whether watches are asked for progress (from 3.4.31, 3.5.13).
#[tokio::test]
async fn features_and_health_as_asked_for_at_the_start() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let status: PbStatusResponse = raw.call("Maintenance/Status", PbStatusRequest {}).await.unwrap();
    let version: Vec<u32> = status.version.split('.').map(|n| n.parse().unwrap()).collect();
    assert!(version >= vec![3, 5, 13], "{}", status.version);
    // The health check is a read of a key that is not there.
    let health = range(&raw, PbRangeRequest { key: b"/registry/health".to_vec(), ..Default::default() }).await;
    assert!(health.kvs.is_empty() && health.header.unwrap().cluster_id != 0);
}
