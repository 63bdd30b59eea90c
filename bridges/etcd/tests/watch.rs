//! Streams of watches: several watches on one, progress, filters, fragments, falling behind, and what is refused.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbEvent, PbPutRequest, PbPutResponse, PbWatchRequest,
    PbWatchRequestUnion, PbWatchResponse,
};
use futures::channel::mpsc;
use futures::{FutureExt, SinkExt, StreamExt};
use tonic::{Code, Streaming};
use wharf_bridge_etcd::EtcdBridge;
use wharf_core::clock::SystemClock;
use wharf_store_memory::MemoryStore;

use crate::support::{Raw, Served};

/// A watch to be created, of the fields that differ.
#[derive(Clone, Default)]
struct Create {
    key: &'static str,
    end: &'static str,
    start: i64,
    id: i64,
    filters: Vec<i32>,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
}

struct Client {
    requests: mpsc::Sender<PbWatchRequest>,
    answers: Streaming<PbWatchResponse>,
}

impl Client {
    async fn open(raw: &Raw) -> Self {
        let (requests, sent) = mpsc::channel(64);
        Self { requests, answers: raw.stream("Watch/Watch", sent).await }
    }
    async fn send(&mut self, union: PbWatchRequestUnion) {
        self.requests.send(PbWatchRequest { request_union: Some(union) }).await.unwrap();
    }
    async fn ask(&mut self, create: Create) {
        let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
        if let PbWatchRequestUnion::CreateRequest(request) = &mut union {
            (request.key, request.range_end, request.start_revision) = (create.key.into(), create.end.into(), create.start);
            (request.watch_id, request.filters, request.prev_kv) = (create.id, create.filters, create.prev_kv);
            (request.fragment, request.progress_notify) = (create.fragment, create.progress_notify);
        }
        self.send(union).await;
    }
    async fn create(&mut self, create: Create) -> PbWatchResponse {
        self.ask(create).await;
        let created = self.next().await;
        assert!(created.created, "{created:?}");
        created
    }
    async fn cancel(&mut self, id: i64) {
        let mut union = PbWatchRequestUnion::CancelRequest(Default::default());
        if let PbWatchRequestUnion::CancelRequest(request) = &mut union {
            request.watch_id = id;
        }
        self.send(union).await;
    }
    async fn ask_for_progress(&mut self) {
        self.send(PbWatchRequestUnion::ProgressRequest(Default::default())).await;
    }
    async fn next(&mut self) -> PbWatchResponse {
        self.answers.next().await.unwrap().unwrap()
    }
    /// The next events of one watch, as `KEY@REVISION`, a `-` before for a delete.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events.iter().map(word));
        }
        events
    }
}

fn word(event: &PbEvent) -> String {
    let kv = event.kv.as_ref().unwrap();
    let sign = if event.r#type == 1 { "-" } else { "" };
    format!("{sign}{}@{}", String::from_utf8_lossy(&kv.key), kv.mod_revision)
}

async fn put(raw: &Raw, key: &str, value: &[u8]) -> i64 {
    let request = PbPutRequest { key: key.into(), value: value.to_vec(), ..Default::default() };
    raw.call::<_, PbPutResponse>("KV/Put", request).await.unwrap().header.unwrap().revision
}

async fn delete(raw: &Raw, key: &str) {
    let _: PbDeleteResponse = raw.call("KV/DeleteRange", PbDeleteRequest { key: key.into(), ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn several_watches_share_a_stream() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let mut client = Client::open(&raw).await;
    let ids = [
        client.create(Create { key: "a", ..Create::default() }).await.watch_id,
        client.create(Create { key: "a", end: "c", ..Create::default() }).await.watch_id,
        client.create(Create { key: "b", end: "\0", filters: vec![0], ..Create::default() }).await.watch_id,
        client.create(Create { key: "b", id: 77, filters: vec![1], ..Create::default() }).await.watch_id,
    ];
    assert_eq!(ids, [0, 1, 2, 77]);
    put(&raw, "a", b"").await;
    put(&raw, "b", b"").await;
    delete(&raw, "b").await;
    put(&raw, "end", b"").await;
    client.ask_for_progress().await;
    let mut told: Vec<(i64, String)> = Vec::new();
    loop {
        let answer = client.next().await;
        if answer.watch_id == -1 {
            assert_eq!(answer.header.unwrap().revision, 5);
            break;
        }
        told.extend(answer.events.iter().map(|event| (answer.watch_id, word(event))));
    }
    told.sort();
    let expected = [(0, "a@2"), (1, "-b@4"), (1, "a@2"), (1, "b@3"), (2, "-b@4"), (77, "b@3")];
    assert_eq!(told, expected.map(|(id, word)| (id, word.to_owned())));
    // One ends, the others go on.
    client.cancel(1).await;
    let cancelled = client.next().await;
    assert!(cancelled.canceled && cancelled.watch_id == 1 && cancelled.compact_revision == 0);
    // What is not there is not cancelled again.
    client.cancel(1).await;
    put(&raw, "a", b"").await;
    let event = client.next().await;
    assert_eq!((event.watch_id, event.events.len()), (0, 1));
}

#[tokio::test]
async fn what_cannot_be_watched_is_cancelled_at_once() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", id: 5, ..Create::default() }).await;
    for (create, reason) in [
        (Create { key: "b", end: "a", ..Create::default() }, "mvcc: watcher range is empty"),
        (Create { key: "b", id: 5, ..Create::default() }, "mvcc: duplicate watch ID provided on the WatchStream"),
        (Create { key: "b", start: -1, ..Create::default() }, "etcdserver: mvcc: required revision has been compacted"),
    ] {
        let refused = client.create(create).await;
        assert!(refused.canceled && refused.watch_id == -1);
        assert_eq!(refused.cancel_reason, reason);
    }
    // The empty key is the first of all.
    client.create(Create { key: "", end: "\0", ..Create::default() }).await;
    put(&raw, "z", b"").await;
    assert_eq!(client.events(1).await, ["z@2"]);
}

#[tokio::test]
async fn a_watch_from_the_future_gets_nothing_before_and_no_progress() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", start: 4, ..Create::default() }).await;
    client.ask_for_progress().await;
    for _ in 0..3 {
        put(&raw, "a", b"").await;
    }
    // It is told once the watch has come there: with 3 there is nothing before that it does not know.
    let mut told = Vec::new();
    while !told.iter().any(|answer: &PbWatchResponse| answer.watch_id == -1) || !told.iter().any(|answer| !answer.events.is_empty()) {
        told.push(client.next().await);
    }
    for answer in &told {
        assert!(answer.header.as_ref().unwrap().revision >= 3, "{answer:?}");
        assert!(answer.events.iter().all(|event| word(event) == "a@4"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_the_ring_has_forgotten_comes_from_the_store() {
    let builder = EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).watch_history(4, 1 << 20);
    let served = Served::with(builder).await;
    let raw = served.raw().await;
    for n in 0..40 {
        put(&raw, if n % 2 == 0 { "even" } else { "odd" }, b"").await;
    }
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "even", start: 1, prev_kv: true, ..Create::default() }).await;
    client.ask(Create { key: "odd", start: 11, ..Create::default() }).await;
    let mut told = client.events(20 + 16).await;
    put(&raw, "odd", b"").await;
    told.extend(client.events(1).await);
    let mut expected: Vec<String> = (0..20).map(|n| format!("even@{}", 2 + 2 * n)).collect();
    expected.extend((4..20).map(|n| format!("odd@{}", 3 + 2 * n)));
    expected.push("odd@42".into());
    let of = |words: &[String], key: &str| words.iter().filter(|word| word.starts_with(key)).cloned().collect::<Vec<_>>();
    for key in ["even", "odd"] {
        assert_eq!(of(&told, key), of(&expected, key));
    }
}

#[tokio::test]
async fn who_does_not_read_stalls_nobody_and_misses_nothing() {
    let builder = EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).watch_history(8, 1 << 30);
    let served = Served::with(builder).await;
    let (slow_raw, raw) = (served.raw().await, served.raw().await);
    let mut slow = Client::open(&slow_raw).await;
    slow.create(Create { key: "a", ..Create::default() }).await;
    let mut quick = Client::open(&raw).await;
    quick.create(Create { key: "a", ..Create::default() }).await;
    // More than what the connection and the stream hold.
    let value = vec![b'v'; 256 << 10];
    for n in 0..100 {
        let revision = put(&raw, "a", &value).await;
        assert_eq!(quick.events(1).await, [format!("a@{revision}")], "{n}");
    }
    let expected: Vec<String> = (2..102).map(|revision| format!("a@{revision}")).collect();
    assert_eq!(slow.events(100).await, expected);
}

#[tokio::test]
async fn who_is_left_behind_by_the_store_is_told_where_history_is_gone() {
    let store = Arc::new(MemoryStore::builder().history(10).build());
    let served = Served::with(EtcdBridge::builder(store, SystemClock::shared()).watch_history(4, 1 << 30)).await;
    let (slow_raw, raw) = (served.raw().await, served.raw().await);
    let mut slow = Client::open(&slow_raw).await;
    slow.create(Create { key: "a", ..Create::default() }).await;
    let value = vec![b'v'; 256 << 10];
    for _ in 0..100 {
        put(&raw, "a", &value).await;
    }
    let mut last = 1;
    loop {
        let answer = slow.next().await;
        for event in &answer.events {
            let revision = event.kv.as_ref().unwrap().mod_revision;
            assert_eq!(revision, last + 1, "no gap");
            last = revision;
        }
        if answer.canceled {
            assert!(answer.compact_revision > last, "{answer:?}");
            return;
        }
        assert!(last < 101, "it was not left behind");
    }
}

#[tokio::test]
async fn large_answers_come_in_fragments_for_who_wants_them() {
    let builder = EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).max_request_bytes(100 << 10);
    let served = Served::with(builder).await;
    let raw = served.raw().await;
    for n in 0..10 {
        put(&raw, &format!("a{n}"), &vec![b'v'; 60 << 10]).await;
    }
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", end: "b", start: 2, fragment: true, ..Create::default() }).await;
    let mut parts = Vec::new();
    let mut events = Vec::new();
    while events.len() < 10 {
        let answer = client.next().await;
        parts.push(answer.fragment);
        events.extend(answer.events.iter().map(word));
    }
    assert_eq!(parts, [true, true, true, true, true, true, true, true, true, false]);
    assert_eq!(events, (0..10).map(|n| format!("a{n}@{}", n + 2)).collect::<Vec<_>>());
    let mut whole = Client::open(&raw).await;
    whole.create(Create { key: "a", end: "b", start: 2, ..Create::default() }).await;
    assert_eq!(whole.next().await.events.len(), 10);
}

#[tokio::test]
async fn the_revision_of_a_compaction_can_still_be_watched() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    for key in ["a", "b", "c", "d"] {
        put(&raw, key, b"").await;
    }
    let _: PbCompactionResponse = raw.call("KV/Compact", PbCompactionRequest { revision: 4, physical: true }).await.unwrap();
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", end: "z", start: 4, ..Create::default() }).await;
    assert_eq!(client.events(2).await, ["c@4", "d@5"]);
    // A bridge that starts has nothing but the store's history, and etcd forgets no put of that revision.
    client.create(Create { key: "a", end: "z", start: 3, ..Create::default() }).await;
    let cancelled = client.next().await;
    assert!(cancelled.canceled && cancelled.compact_revision == 4);
}

#[tokio::test]
async fn a_bridge_that_starts_serves_the_history_of_its_store() {
    let store = Arc::new(MemoryStore::new());
    let first = Served::over(store.clone()).await;
    let raw = first.raw().await;
    for key in ["a", "b", "c", "d"] {
        put(&raw, key, b"").await;
    }
    delete(&raw, "b").await;
    let _: PbCompactionResponse = raw.call("KV/Compact", PbCompactionRequest { revision: 4, physical: true }).await.unwrap();
    first.stop().await;
    let second = Served::over(store).await;
    let raw = second.raw().await;
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", end: "z", start: 4, ..Create::default() }).await;
    assert_eq!(client.events(3).await, ["c@4", "d@5", "-b@6"]);
    client.create(Create { key: "a", end: "z", start: 3, ..Create::default() }).await;
    let cancelled = client.next().await;
    assert!(cancelled.canceled && cancelled.compact_revision == 4, "{cancelled:?}");
}

#[tokio::test]
async fn progress_is_notified_to_who_wants_it() {
    let clock = wharf_core::clock::ManualClock::default();
    let builder = EtcdBridge::builder(Arc::new(MemoryStore::new()), Arc::new(clock.clone()));
    let served = Served::with(builder.progress_interval(std::time::Duration::from_secs(60))).await;
    let raw = served.raw().await;
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", progress_notify: true, ..Create::default() }).await;
    client.create(Create { key: "b", ..Create::default() }).await;
    put(&raw, "other", b"").await;
    clock.advance(std::time::Duration::from_secs(60));
    let progress = client.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (0, 0));
    put(&raw, "a", b"").await;
    assert_eq!(client.events(1).await, ["a@3"]);
    // It has been told something since.
    clock.advance(std::time::Duration::from_secs(60));
    put(&raw, "b", b"").await;
    assert_eq!(client.events(1).await, ["b@4"]);
}

#[tokio::test]
async fn a_shutdown_ends_streams() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let mut client = Client::open(&raw).await;
    client.create(Create { key: "a", ..Create::default() }).await;
    assert!(client.answers.next().now_or_never().is_none());
    let (ended, ()) = tokio::join!(client.answers.next(), served.stop());
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::Unavailable);
}
