//! Requests as kube-apiserver makes them.

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbPutRequest, PbRangeRequest, PbRangeResponse, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse,
    PbTxnRequest, PbTxnResponse, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse,
};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use tonic::Streaming;

use super::{Raw, op};

pub const POD: &[u8] = b"/registry/pods/default/a";
pub const PODS: &[u8] = b"/registry/pods/";
pub const PODS_END: &[u8] = b"/registry/pods0";

pub fn get(key: &[u8]) -> PbRangeRequest {
    PbRangeRequest { key: key.to_vec(), limit: 1, ..Default::default() }
}

pub fn list(limit: i64, revision: i64) -> PbRangeRequest {
    PbRangeRequest { key: PODS.to_vec(), range_end: PODS_END.to_vec(), limit, revision, ..Default::default() }
}

/// `ModRevision(key) == revision`.
pub fn unchanged(key: &[u8], revision: i64) -> PbCompare {
    PbCompare { target: 2, result: 0, key: key.to_vec(), range_end: Vec::new(), target_union: Some(PbTargetUnion::ModRevision(revision)) }
}

/// OptimisticPut; a creation expects revision 0 and gets nothing on failure.
pub fn put(key: &[u8], value: &[u8], revision: i64, get_on_failure: bool, lease: i64) -> PbTxnRequest {
    let put = PbPutRequest { key: key.to_vec(), value: value.to_vec(), lease, ..Default::default() };
    let failure = if get_on_failure { vec![op(PbTxnOpRequest::RequestRange(get_op(key)))] } else { Vec::new() };
    PbTxnRequest { compare: vec![unchanged(key, revision)], success: vec![op(PbTxnOpRequest::RequestPut(put))], failure }
}

/// OptimisticDelete.
pub fn delete(key: &[u8], revision: i64) -> PbTxnRequest {
    let delete = PbDeleteRequest { key: key.to_vec(), ..Default::default() };
    PbTxnRequest {
        compare: vec![unchanged(key, revision)],
        success: vec![op(PbTxnOpRequest::RequestDeleteRange(delete))],
        failure: vec![op(PbTxnOpRequest::RequestRange(get_op(key)))],
    }
}

/// Compactor's claim of a round: its time is the version of the key, which has the revision that is compacted next.
pub fn compact(time: i64, rev: i64) -> PbTxnRequest {
    const KEY: &[u8] = b"compact_rev_key";
    let version =
        PbCompare { target: 0, result: 0, key: KEY.to_vec(), range_end: Vec::new(), target_union: Some(PbTargetUnion::Version(time)) };
    let put = PbPutRequest { key: KEY.to_vec(), value: rev.to_string().into_bytes(), ..Default::default() };
    PbTxnRequest {
        compare: vec![version],
        success: vec![op(PbTxnOpRequest::RequestPut(put))],
        failure: vec![op(PbTxnOpRequest::RequestRange(get_op(KEY)))],
    }
}

pub fn get_op(key: &[u8]) -> PbRangeRequest {
    PbRangeRequest { key: key.to_vec(), ..Default::default() }
}

pub async fn txn(raw: &Raw, request: PbTxnRequest) -> PbTxnResponse {
    raw.call("KV/Txn", request).await.unwrap()
}

pub async fn range(raw: &Raw, request: PbRangeRequest) -> PbRangeResponse {
    raw.call("KV/Range", request).await.unwrap()
}

pub fn revision(answer: &PbTxnResponse) -> i64 {
    answer.header.as_ref().unwrap().revision
}

pub fn found(answer: &PbTxnResponse) -> &PbRangeResponse {
    match answer.responses[0].response.as_ref().unwrap() {
        PbTxnOpResponse::ResponseRange(range) => range,
        other => panic!("{other:?}"),
    }
}

/// What is asked on a stream of watches.
pub struct Asking(pub mpsc::Sender<PbWatchRequest>);

impl Asking {
    async fn ask(&mut self, union: PbWatchRequestUnion) {
        self.0.send(PbWatchRequest { request_union: Some(union) }).await.unwrap();
    }
    pub async fn watch(&mut self, key: &[u8], end: &[u8], start: i64) {
        let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
        if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
            (create.key, create.range_end, create.start_revision) = (key.to_vec(), end.to_vec(), start);
            (create.prev_kv, create.progress_notify) = (true, true);
        }
        self.ask(union).await;
    }
    pub async fn cancel(&mut self, id: i64) {
        let mut union = PbWatchRequestUnion::CancelRequest(Default::default());
        if let PbWatchRequestUnion::CancelRequest(cancel) = &mut union {
            cancel.watch_id = id;
        }
        self.ask(union).await;
    }
    pub async fn ask_for_progress(&mut self) {
        self.ask(PbWatchRequestUnion::ProgressRequest(Default::default())).await;
    }
}

/// A watch as watcher.go opens it: prefix, after the list, with the previous value and progress.
pub struct Watcher {
    pub asking: Asking,
    pub answers: Streaming<PbWatchResponse>,
}

impl Watcher {
    pub async fn open(raw: &Raw, after: i64) -> Self {
        let (requests, sent) = mpsc::channel(8);
        let answers = raw.stream("Watch/Watch", sent).await;
        let mut watcher = Self { asking: Asking(requests), answers };
        watcher.asking.watch(PODS, PODS_END, after + 1).await;
        assert!(watcher.next().await.created);
        watcher
    }
    pub async fn next(&mut self) -> PbWatchResponse {
        self.answers.next().await.unwrap().unwrap()
    }
}
