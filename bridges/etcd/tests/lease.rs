//! Leases: what they hold, when they end, and what they leave in the store.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse,
};
use futures::StreamExt;
use tonic::Code;
use wharf_core::clock::{Clock, ManualClock};
use wharf_core::store::{ListOptions, Scope, SharedStore};
use wharf_store_memory::MemoryStore;

use crate::support::{Raw, Served};

async fn grant(raw: &Raw, id: i64, ttl: i64) -> PbLeaseGrantResponse {
    raw.call("Lease/LeaseGrant", PbLeaseGrantRequest { id, ttl }).await.unwrap()
}

async fn put(raw: &Raw, key: &str, lease: i64) -> i64 {
    let request = PbPutRequest { key: key.into(), lease, ..Default::default() };
    raw.call::<_, PbPutResponse>("KV/Put", request).await.unwrap().header.unwrap().revision
}

async fn all(raw: &Raw) -> (Vec<String>, i64) {
    let request = PbRangeRequest { key: b"\0".to_vec(), range_end: b"\0".to_vec(), ..Default::default() };
    let answer: PbRangeResponse = raw.call("KV/Range", request).await.unwrap();
    let keys = answer.kvs.iter().map(|kv| String::from_utf8(kv.key.clone()).unwrap()).collect();
    (keys, answer.header.unwrap().revision)
}

async fn time_to_live(raw: &Raw, id: i64) -> PbLeaseTimeToLiveResponse {
    raw.call("Lease/LeaseTimeToLive", PbLeaseTimeToLiveRequest { id, keys: true }).await.unwrap()
}

async fn keep_alive(raw: &Raw, id: i64) -> PbLeaseKeepAliveResponse {
    let requests = futures::stream::once(async move { PbLeaseKeepAliveRequest { id } });
    raw.stream::<_, PbLeaseKeepAliveResponse>("Lease/LeaseKeepAlive", requests).await.next().await.unwrap().unwrap()
}

/// Waits until the keys are those; every change of them is a commit, so the store's own watch tells when to look again.
async fn until(raw: &Raw, store: &SharedStore, wanted: &[&str]) {
    let mut watch = store.watch(&Scope::All, store.revision().await.unwrap()).await.unwrap();
    while all(raw).await.0 != wanted {
        watch.next().await.unwrap().unwrap();
    }
}

async fn manual() -> (SharedStore, ManualClock, Served, Raw) {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let clock = ManualClock::default();
    let served = Served::clocked(store.clone(), Arc::new(clock.clone()) as Arc<dyn Clock>).await;
    let raw = served.raw().await;
    (store, clock, served, raw)
}

#[tokio::test]
async fn what_is_not_kept_alive_ends_with_its_keys() {
    let (store, clock, _served, raw) = manual().await;
    grant(&raw, 1, 10).await;
    grant(&raw, 2, 10).await;
    put(&raw, "a", 1).await;
    put(&raw, "b", 2).await;
    put(&raw, "c", 1).await;
    put(&raw, "d", 0).await;
    // It is another's now, and then nobody's.
    put(&raw, "c", 2).await;
    clock.advance(Duration::from_secs(9));
    assert_eq!(keep_alive(&raw, 2).await.ttl, 10);
    assert_eq!(time_to_live(&raw, 1).await.ttl, 1);
    assert_eq!(all(&raw).await.0, ["a", "b", "c", "d"]);
    clock.advance(Duration::from_secs(1));
    until(&raw, &store, &["b", "c", "d"]).await;
    assert_eq!(time_to_live(&raw, 1).await.ttl, -1);
    assert_eq!(keep_alive(&raw, 1).await.ttl, 0);
    clock.advance(Duration::from_secs(9));
    until(&raw, &store, &["d"]).await;
    // Nothing of a lease is left.
    let left = store.list(&Scope::All, &ListOptions::default()).await.unwrap();
    assert_eq!(left.records.len(), 1);
}

#[tokio::test]
async fn keeping_alive_writes_nothing() {
    let (store, clock, _served, raw) = manual().await;
    grant(&raw, 1, 10).await;
    put(&raw, "a", 1).await;
    let before = store.revision().await.unwrap();
    for _ in 0..200 {
        clock.advance(Duration::from_secs(5));
        assert_eq!(keep_alive(&raw, 1).await.ttl, 10);
    }
    assert_eq!(store.revision().await.unwrap(), before);
    assert_eq!(all(&raw).await.0, ["a"]);
}

#[tokio::test]
async fn leases_survive_the_bridge_and_get_their_whole_time_again() {
    let (store, clock, served, raw) = manual().await;
    grant(&raw, 7, 100).await;
    put(&raw, "a", 7).await;
    clock.advance(Duration::from_secs(60));
    served.stop().await;
    let served = Served::clocked(store.clone(), Arc::new(clock.clone()) as Arc<dyn Clock>).await;
    let raw = served.raw().await;
    let lease = time_to_live(&raw, 7).await;
    assert_eq!((lease.ttl, lease.granted_ttl, lease.keys), (100, 100, vec![b"a".to_vec()]));
    clock.advance(Duration::from_secs(99));
    assert_eq!(all(&raw).await.0, ["a"]);
    clock.advance(Duration::from_secs(1));
    until(&raw, &store, &[]).await;
}

#[tokio::test]
async fn a_lease_with_more_keys_than_a_commit_holds_ends_with_all_of_them() {
    let (store, _clock, _served, raw) = manual().await;
    grant(&raw, 1, 100).await;
    for n in 0..300 {
        put(&raw, &format!("k{n:03}"), 1).await;
    }
    let before = store.revision().await.unwrap().0 as i64;
    let revoked: PbLeaseRevokeResponse = raw.call("Lease/LeaseRevoke", PbLeaseRevokeRequest { id: 1 }).await.unwrap();
    // 300 keys and the lease, 128 a commit.
    assert_eq!(revoked.header.unwrap().revision, before + 3);
    assert_eq!(all(&raw).await.0.len(), 0);
}

#[tokio::test]
async fn numbers_and_times_are_etcds() {
    let (_store, _clock, _served, raw) = manual().await;
    assert_eq!(grant(&raw, 1, 0).await.ttl, 2);
    assert_eq!(grant(&raw, 2, 5).await.ttl, 5);
    let own = grant(&raw, 0, 5).await.id;
    assert!(own > 0);
    for (id, ttl, code, text) in [
        (1, 5, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (9, 9_000_000_001, Code::OutOfRange, "etcdserver: too large lease TTL"),
    ] {
        let status = raw.call::<_, PbLeaseGrantResponse>("Lease/LeaseGrant", PbLeaseGrantRequest { id, ttl }).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text));
    }
    let leases: PbLeaseLeasesResponse = raw.call("Lease/LeaseLeases", PbLeaseLeasesRequest {}).await.unwrap();
    assert_eq!(leases.leases.len(), 3);
    let status = raw.call::<_, PbLeaseRevokeResponse>("Lease/LeaseRevoke", PbLeaseRevokeRequest { id: 99 }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "etcdserver: requested lease not found"));
}
