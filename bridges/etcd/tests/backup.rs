//! Snapshots, hashes and defragmentation: etcd's own programs read what the bridge sends, and a stock etcd goes on from it.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use etcd_client::proto::{
    PbDefragmentRequest, PbDefragmentResponse, PbDeleteRequest, PbDeleteResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest,
    PbHashResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
    PbTxnOpRequest, PbTxnRequest, PbTxnResponse,
};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tonic::Code;
use wharf_bridge_etcd::{EtcdBridge, Maintenance};
use wharf_conformance::system::etcd::Etcd;
use wharf_core::clock::SystemClock;
use wharf_core::store::StoreResult;
use wharf_store_memory::MemoryStore;

use crate::support::{Raw, Served, op};

/// So many keys of such a size that their pages have two floors above them.
const KEYS: usize = 400;
const LEASE: i64 = 0x77;

fn put(key: &str, value: Vec<u8>, lease: i64) -> PbPutRequest {
    PbPutRequest { key: key.into(), value, lease, ..Default::default() }
}

/// Keys of all sorts, among them what is gone again; the newest commit is a deletion.
async fn fill(raw: &Raw) {
    let _: PbLeaseGrantResponse = raw.call("Lease/LeaseGrant", PbLeaseGrantRequest { id: LEASE, ttl: 3600 }).await.unwrap();
    for n in 0..KEYS {
        // In an order that is not that of the names.
        let name = format!("/registry/pods/default/{:04}", n * 7 % KEYS);
        let _: PbPutResponse = raw.call("KV/Put", put(&name, vec![n as u8; 2500 + n], 0)).await.unwrap();
    }
    let success = ["/one", "/two", "/three"].map(|key| op(PbTxnOpRequest::RequestPut(put(key, Vec::new(), LEASE)))).to_vec();
    let _: PbTxnResponse = raw.call("KV/Txn", PbTxnRequest { success, ..Default::default() }).await.unwrap();
    for key in ["/large", "/gone", "/large"] {
        let _: PbPutResponse = raw.call("KV/Put", put(key, vec![1; 300_000], 0)).await.unwrap();
    }
    let gone = PbDeleteRequest { key: b"/gone".to_vec(), ..Default::default() };
    let _: PbDeleteResponse = raw.call("KV/DeleteRange", gone).await.unwrap();
}

async fn everything(raw: &Raw) -> PbRangeResponse {
    raw.call("KV/Range", PbRangeRequest { key: vec![0], range_end: vec![0], ..Default::default() }).await.unwrap()
}

async fn hash_kv(raw: &Raw, revision: i64) -> PbHashKvResponse {
    raw.call("Maintenance/HashKV", PbHashKvRequest { revision }).await.unwrap()
}

fn etcdctl(served: &Served, words: &[&str], file: &Path) -> String {
    let endpoint = format!("--endpoints=127.0.0.1:{}", served.port);
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").arg(endpoint).args(words).arg(file).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_etcd_goes_on_from_a_snapshot() {
    let Some(etcd) = Etcd::start_or_omit("bridge.backup.restore").await else { return };
    let served = Served::memory().await;
    let raw = served.raw().await;
    fill(&raw).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    etcdctl(&served, &["snapshot", "save"], &file);
    let expected = everything(&raw).await;
    let revision = expected.header.as_ref().unwrap().revision;
    // It checks every page. The newest key is of the commit before the deletion; with the keys come a lease and what describes the rest.
    let status = etcdctl(&served, &["snapshot", "status", "--write-out=json"], &file);
    assert!(status.contains(&format!(r#""revision":{},"totalKey":{}"#, revision - 1, KEYS + 4 + 1 + 5)), "{status}");

    etcd.restore_snapshot(&file).unwrap();
    etcd.start_again().await.unwrap();
    let restored = Raw::to(&etcd.endpoint()).await;
    let found = everything(&restored).await;
    assert_eq!(found.kvs.len(), KEYS + 4);
    assert!(found.kvs == expected.kvs);
    // Also what is hashed, which is the keys under their revisions.
    let (ours, theirs) = (hash_kv(&raw, 0).await, hash_kv(&restored, 0).await);
    assert_eq!((ours.hash, ours.compact_revision), (theirs.hash, theirs.compact_revision));
    // Its next revision is the next, and the lease holds what it held.
    let next: PbPutResponse = restored.call("KV/Put", put("/next", Vec::new(), 0)).await.unwrap();
    assert_eq!(next.header.unwrap().revision, revision + 1);
    let lease: PbLeaseTimeToLiveResponse =
        restored.call("Lease/LeaseTimeToLive", PbLeaseTimeToLiveRequest { id: LEASE, keys: true }).await.unwrap();
    assert_eq!((lease.granted_ttl, lease.keys.len()), (3600, 3));
}

#[tokio::test]
async fn an_empty_store_has_a_snapshot_too() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let requests = futures::stream::once(async { PbSnapshotRequest {} });
    let mut answers = raw.stream::<_, PbSnapshotResponse>("Maintenance/Snapshot", requests).await;
    let (mut file, mut last) = (Vec::new(), Vec::new());
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        file.append(&mut last);
        last = answer.blob;
        assert_eq!(answer.remaining_bytes as usize, (4 * 4096_usize).saturating_sub(file.len() + last.len()));
    }
    assert_eq!(file.len(), 4 * 4096);
    assert_eq!(last, Sha256::digest(&file).to_vec());
}

#[tokio::test]
async fn hashes_tell_states_apart() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let put_one = async |value: &str| {
        let _: PbPutResponse = raw.call("KV/Put", put("a", value.into(), 0)).await.unwrap();
    };
    put_one("1").await;
    let first = hash_kv(&raw, 0).await;
    assert_eq!((first.hash_revision, first.header.as_ref().unwrap().revision), (2, 2));
    put_one("2").await;
    let second = hash_kv(&raw, 0).await;
    assert_ne!(first.hash, second.hash);
    assert_eq!(hash_kv(&raw, 2).await.hash, first.hash);
    let whole: PbHashResponse = raw.call("Maintenance/Hash", PbHashRequest {}).await.unwrap();
    assert_eq!(whole.header.unwrap().revision, 3);
    let future = raw.call::<_, PbHashKvResponse>("Maintenance/HashKV", PbHashKvRequest { revision: 9 }).await.unwrap_err();
    assert_eq!((future.code(), future.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"));
}

#[derive(Debug, Default)]
struct Counting(AtomicU64);

#[async_trait]
impl Maintenance for Counting {
    async fn defragment(&self) -> StoreResult<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn size(&self) -> StoreResult<u64> {
        Ok(1_000_000 - self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn whoever_sees_to_the_files_is_asked() {
    let files = Arc::new(Counting::default());
    let builder = EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).maintenance(files.clone());
    let served = Served::with(builder).await;
    let raw = served.raw().await;
    let _: PbDefragmentResponse = raw.call("Maintenance/Defragment", PbDefragmentRequest {}).await.unwrap();
    let status: PbStatusResponse = raw.call("Maintenance/Status", PbStatusRequest {}).await.unwrap();
    assert_eq!((files.0.load(Ordering::SeqCst), status.db_size, status.db_size_in_use), (1, 999_999, 0));
    assert!(status.leader != 0 && status.raft_term > 0 && status.raft_applied_index == status.raft_index);
}
