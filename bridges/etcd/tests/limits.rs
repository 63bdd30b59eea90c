//! Bounds, contention, and what others have written.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbDeleteResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbTargetUnion,
    PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnResponse,
};
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use tonic::{Code, Status};
use wharf_bridge_etcd::{DEFAULT_RESOURCE, EtcdBridge, GROUP, MAX_KEY_VALUE};
use wharf_core::clock::SystemClock;
use wharf_core::store::{Key, MAX_OPS, ObjectStore, ResourceId, Revision, Transaction};
use wharf_store_memory::MemoryStore;

use crate::support::{Raw, Served, op};

fn put(key: &str, value: Vec<u8>) -> PbPutRequest {
    PbPutRequest { key: key.into(), value, ..Default::default() }
}

async fn try_put(raw: &Raw, key: &str, value: Vec<u8>) -> Result<PbPutResponse, Status> {
    raw.call("KV/Put", put(key, value)).await
}

async fn get(raw: &Raw, key: &str, end: &str) -> PbRangeResponse {
    raw.call("KV/Range", PbRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }).await.unwrap()
}

#[tokio::test]
async fn requests_are_as_large_as_etcds_and_no_larger() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    try_put(&raw, "a", vec![1; (3 << 19) - 64]).await.unwrap();
    let refused = try_put(&raw, "a", vec![1; 3 << 19]).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    assert_eq!(get(&raw, "a", "").await.kvs[0].version, 1);
}

#[tokio::test]
async fn the_largest_value_is_the_stores_without_the_header() {
    let builder = EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).max_request_bytes(8 << 20);
    let served = Served::with(builder).await;
    let raw = served.raw().await;
    try_put(&raw, "a", vec![1; MAX_KEY_VALUE]).await.unwrap();
    assert_eq!(get(&raw, "a", "").await.kvs[0].value, vec![1; MAX_KEY_VALUE]);
    let refused = try_put(&raw, "a", vec![1; MAX_KEY_VALUE + 1]).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: request is too large");
}

#[tokio::test]
async fn ranges_larger_than_a_commit_are_deleted_in_several() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    for n in 0..300 {
        try_put(&raw, &format!("k{n:03}"), Vec::new()).await.unwrap();
    }
    let delete = PbDeleteRequest { key: b"k".to_vec(), range_end: b"l".to_vec(), prev_kv: true };
    // In a transaction, where it must be one revision, it is refused and nothing is changed.
    let txn = PbTxnRequest { success: vec![op(PbTxnOpRequest::RequestDeleteRange(delete.clone()))], ..Default::default() };
    let refused = raw.call::<_, PbTxnResponse>("KV/Txn", txn).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: too many operations in txn request");
    let deleted: PbDeleteResponse = raw.call("KV/DeleteRange", delete).await.unwrap();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len(), deleted.header.unwrap().revision), (300, 300, 304));
    assert_eq!(get(&raw, "k", "l").await.count, 0);
}

#[tokio::test]
async fn as_many_operations_as_a_store_takes() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let puts = |count: usize| (0..count).map(|n| op(PbTxnOpRequest::RequestPut(put(&n.to_string(), Vec::new())))).collect();
    let done: PbTxnResponse = raw.call("KV/Txn", PbTxnRequest { success: puts(MAX_OPS), ..Default::default() }).await.unwrap();
    assert_eq!(done.header.unwrap().revision, 2);
    let refused = raw.call::<_, PbTxnResponse>("KV/Txn", PbTxnRequest { success: puts(MAX_OPS + 1), ..Default::default() }).await;
    assert_eq!(refused.unwrap_err().message(), "etcdserver: too many operations in txn request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost_and_nobody_starves() {
    const TASKS: usize = 8;
    const EACH: usize = 25;
    let served = Served::memory().await;
    let tasks = (0..TASKS).map(|_| {
        let endpoint = served.endpoint.clone();
        tokio::spawn(async move {
            let mut client = Client::connect([endpoint], None).await.unwrap();
            for _ in 0..EACH {
                loop {
                    let read = client.get("n", None).await.unwrap();
                    let (value, at) = read.kvs().first().map_or((0, 0), |kv| (kv.value_str().unwrap().parse().unwrap(), kv.mod_revision()));
                    let next: usize = value + 1;
                    let txn = Txn::new().when([Compare::mod_revision("n", CompareOp::Equal, at)]).and_then([TxnOp::put(
                        "n",
                        next.to_string(),
                        None,
                    )]);
                    if client.txn(txn).await.unwrap().succeeded() {
                        break;
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let kv = get(&served.raw().await, "n", "").await.kvs.remove(0);
    assert_eq!((kv.value, kv.version), ((TASKS * EACH).to_string().into_bytes(), (TASKS * EACH) as i64));
}

/// Each claims the range if it is empty: one may win, whatever key it puts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_appears_in_a_range_that_was_compared() {
    let served = Served::memory().await;
    for round in 0..20 {
        let claims = (0..8).map(|n| {
            let endpoint = served.endpoint.clone();
            tokio::spawn(async move {
                let raw = Raw::to(&endpoint).await;
                let prefix = format!("r{round:02}/");
                let nobody = PbCompare {
                    target: 1,
                    result: 0,
                    key: prefix.clone().into_bytes(),
                    range_end: format!("r{round:02}0").into_bytes(),
                    target_union: Some(PbTargetUnion::CreateRevision(0)),
                };
                let claim = op(PbTxnOpRequest::RequestPut(put(&format!("{prefix}{n}"), Vec::new())));
                let txn = PbTxnRequest { compare: vec![nobody], success: vec![claim], ..Default::default() };
                raw.call::<_, PbTxnResponse>("KV/Txn", txn).await.unwrap().succeeded
            })
        });
        let mut won = 0;
        for claim in claims.collect::<Vec<_>>() {
            won += usize::from(claim.await.unwrap());
        }
        assert_eq!(won, 1, "round {round}");
    }
}

#[tokio::test]
async fn a_transaction_sees_what_it_has_written() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    try_put(&raw, "a", b"old".to_vec()).await.unwrap();
    try_put(&raw, "b", b"old".to_vec()).await.unwrap();
    let range = || op(PbTxnOpRequest::RequestRange(PbRangeRequest { key: b"a".to_vec(), range_end: b"z".to_vec(), ..Default::default() }));
    let delete = PbDeleteRequest { key: b"b".to_vec(), ..Default::default() };
    let txn = PbTxnRequest {
        success: vec![
            range(),
            op(PbTxnOpRequest::RequestPut(put("c", b"new".to_vec()))),
            op(PbTxnOpRequest::RequestDeleteRange(delete)),
            range(),
        ],
        ..Default::default()
    };
    let done: PbTxnResponse = raw.call("KV/Txn", txn).await.unwrap();
    let seen: Vec<Vec<(String, i64)>> = done
        .responses
        .iter()
        .filter_map(|op| match op.response.as_ref().unwrap() {
            PbTxnOpResponse::ResponseRange(range) => {
                Some(range.kvs.iter().map(|kv| (String::from_utf8(kv.key.clone()).unwrap(), kv.mod_revision)).collect())
            }
            _ => None,
        })
        .collect();
    assert_eq!(seen, [vec![("a".into(), 2), ("b".into(), 3)], vec![("a".into(), 2), ("c".into(), 4)]]);
}

#[tokio::test]
async fn what_others_have_written_is_no_key_and_is_said() {
    let store = Arc::new(MemoryStore::new());
    let served = Served::over(store.clone()).await;
    let raw = served.raw().await;
    let own = Key::new(ResourceId::new("", "pods"), "default", "a");
    assert_eq!(store.commit(Transaction::create(own, Bytes::from_static(b"{}"))).await.unwrap(), Revision(2));
    // The store's revisions count, whoever makes them.
    assert_eq!(get(&raw, "a", "\0").await.header.unwrap().revision, 2);
    assert_eq!(try_put(&raw, "a", Vec::new()).await.unwrap().header.unwrap().revision, 3);
    let foreign = Key::new(ResourceId::new(GROUP, DEFAULT_RESOURCE), "kv", "b");
    store.commit(Transaction::create(foreign, Bytes::from_static(b"?"))).await.unwrap();
    let range = PbRangeRequest { key: b"b".to_vec(), ..Default::default() };
    let status = raw.call::<_, PbRangeResponse>("KV/Range", range).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert_eq!(get(&raw, "a", "").await.count, 1);
    let error = EtcdBridge::builder(store, SystemClock::shared()).build().await.unwrap_err().to_string();
    assert!(error.contains("was not written by this bridge"), "{error}");
}
