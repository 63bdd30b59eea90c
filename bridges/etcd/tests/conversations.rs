//! What kube-apiserver's client of etcd does beside single transactions: leases over many events, lists of all sorts, racing compactors,
//! storms of watches, and what is said on the connection itself.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbResponseHeader, PbStatusRequest, PbStatusResponse,
    PbTxnResponse,
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use wharf_bridge_etcd::EtcdBridge;
use wharf_core::clock::{ManualClock, SystemClock};
use wharf_core::store::MAX_OPS;
use wharf_store_memory::MemoryStore;

use crate::support::kubernetes::{Asking, POD, PODS, PODS_END, Watcher, compact, found, get, list, put, range, revision, txn};
use crate::support::{Raw, Served};

fn pod(n: usize) -> Vec<u8> {
    format!("/registry/pods/default/{n:04}").into_bytes()
}

async fn pods(raw: &Raw, count: usize) {
    for n in 0..count {
        assert!(txn(raw, put(&pod(n), b"value", 0, false, 0)).await.succeeded);
    }
}

async fn compacted_at(raw: &Raw, revision: i64) {
    let _: PbCompactionResponse = raw.call("KV/Compact", PbCompactionRequest { revision, physical: false }).await.unwrap();
}

/// Events share a lease for a minute or for a thousand of them; what is written anew goes over to the lease of that time.
#[tokio::test]
async fn a_lease_of_many_objects_ends_for_all_of_them() {
    const EVENTS: usize = 2 * MAX_OPS + 10;
    let clock = ManualClock::default();
    let served = Served::clocked(Arc::new(MemoryStore::new()), Arc::new(clock.clone())).await;
    let raw = served.raw().await;
    let grant = async |ttl| -> i64 {
        let granted: PbLeaseGrantResponse = raw.call("Lease/LeaseGrant", PbLeaseGrantRequest { id: 0, ttl }).await.unwrap();
        assert_eq!(granted.ttl, ttl);
        granted.id
    };
    let first = grant(3660).await;
    let mut last = 0;
    for n in 0..EVENTS {
        last = revision(&txn(&raw, put(&pod(n), b"event", 0, false, first)).await);
    }
    clock.advance(Duration::from_secs(600));
    let second = grant(3660).await;
    // An event that has come again.
    let at = range(&raw, get(&pod(0))).await.kvs[0].mod_revision;
    assert!(txn(&raw, put(&pod(0), b"again", at, true, second)).await.succeeded);
    let attached = async |id| -> usize {
        let request = PbLeaseTimeToLiveRequest { id, keys: true };
        raw.call::<_, PbLeaseTimeToLiveResponse>("Lease/LeaseTimeToLive", request).await.unwrap().keys.len()
    };
    assert_eq!((attached(first).await, attached(second).await), (EVENTS - 1, 1));
    let mut watcher = Watcher::open(&raw, last).await;
    clock.advance(Duration::from_secs(3600));
    let mut deleted = BTreeSet::new();
    while deleted.len() < EVENTS - 1 {
        for event in watcher.next().await.events.into_iter().filter(|event| event.r#type == 1) {
            assert_eq!(event.prev_kv.unwrap().value, b"event");
            assert!(deleted.insert(event.kv.unwrap().key), "it is deleted once");
        }
    }
    assert!(!deleted.contains(&pod(0)));
    assert_eq!(range(&raw, list(0, 0)).await.kvs.iter().map(|kv| kv.lease).collect::<Vec<_>>(), [second]);
}

#[tokio::test]
async fn keys_counts_and_streams_of_a_list() {
    const PODS_THERE: usize = 1203;
    let served = Served::memory().await;
    let raw = served.raw().await;
    pods(&raw, PODS_THERE).await;
    // Of the sizes of resources.
    let keys = range(&raw, PbRangeRequest { keys_only: true, ..list(0, 0) }).await;
    assert_eq!((keys.kvs.len(), keys.count, keys.more), (PODS_THERE, PODS_THERE as i64, false));
    assert!(keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 1 && kv.version == 1));
    // Of the number of objects; a limit does not change it.
    for limit in [0, 1] {
        let count = range(&raw, PbRangeRequest { count_only: true, ..list(limit, 0) }).await;
        assert_eq!((count.kvs.len(), count.count), (0, PODS_THERE as i64));
    }
    // Of clients of 3.7: put together it is the list.
    let whole = range(&raw, list(0, 0)).await;
    let mut parts = raw.stream::<_, PbRangeStreamResponse>("KV/RangeStream", futures::stream::once(async { list(0, 0) })).await;
    let (mut together, mut answers) = (PbRangeResponse::default(), 0);
    while let Some(part) = parts.next().await {
        let part = part.unwrap().range_response.unwrap();
        answers += 1;
        together.kvs.extend(part.kvs);
        (together.header, together.count, together.more) = (part.header, part.count, part.more);
    }
    assert!(answers > 1 && together == whole);
}

/// A page of a revision that is gone meanwhile is 410 Gone with a token for the newest state, which goes on after the last key.
#[tokio::test]
async fn a_list_goes_on_inconsistently_after_a_compaction() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    pods(&raw, 6).await;
    let first = range(&raw, list(4, 0)).await;
    let at = first.header.as_ref().unwrap().revision;
    for n in [1, 5] {
        let old = first.kvs.get(n).map_or(at, |kv| kv.mod_revision);
        txn(&raw, put(&pod(n), b"newer", old, true, 0)).await;
    }
    compacted_at(&raw, at + 1).await;
    let start = [first.kvs[3].key.as_slice(), &[0]].concat();
    let next = PbRangeRequest { key: start.clone(), ..list(4, at) };
    let status = raw.call::<_, PbRangeResponse>("KV/Range", next).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
    let rest = range(&raw, PbRangeRequest { key: start, ..list(4, 0) }).await;
    assert_eq!(rest.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), [pod(4), pod(5)]);
    assert!(rest.kvs[1].value == b"newer" && rest.header.unwrap().revision > at);
}

/// What each of several servers knows of the rounds.
#[derive(Default, Clone, Copy)]
struct Compactor {
    time: i64,
    revision: i64,
}

impl Compactor {
    /// One round; whether it was this one that compacted.
    async fn round(&mut self, raw: &Raw) -> bool {
        let answer = txn(raw, compact(self.time, self.revision)).await;
        let upto = std::mem::replace(&mut self.revision, revision(&answer));
        if !answer.succeeded {
            self.time = found(&answer).kvs[0].version;
            return false;
        }
        self.time += 1;
        if upto > 0 {
            compacted_at(raw, upto).await;
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_compactors_one_wins_each_round() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let mut compactors = [Compactor::default(); 4];
    for round in 0..6 {
        // There is something to forget, and nobody else's compaction is refused.
        txn(&raw, put(&pod(round), b"v", 0, false, 0)).await;
        let rounds = compactors.map(|mut compactor| {
            let raw = raw.clone();
            tokio::spawn(async move { (compactor.round(&raw).await, compactor) })
        });
        let mut won = 0;
        for (compactor, round) in compactors.iter_mut().zip(rounds) {
            let (wins, after) = round.await.unwrap();
            won += usize::from(wins);
            *compactor = after;
        }
        assert_eq!(won, 1, "round {round}");
    }
    let claims = range(&raw, get(b"compact_rev_key")).await.kvs.remove(0);
    assert_eq!(claims.version, 6);
    // What the last winner has compacted is what is gone.
    let upto: i64 = String::from_utf8(claims.value).unwrap().parse().unwrap();
    assert!(raw.call::<_, PbRangeResponse>("KV/Range", list(0, upto - 1)).await.is_err());
    assert!(raw.call::<_, PbRangeResponse>("KV/Range", list(0, upto)).await.is_ok());
}

#[tokio::test]
async fn the_size_follows_what_is_stored() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let size = async || raw.call::<_, PbStatusResponse>("Maintenance/Status", PbStatusRequest {}).await.unwrap();
    let before = size().await.db_size;
    txn(&raw, put(POD, &[b'v'; 10_000], 0, false, 0)).await;
    // The event has been seen by then.
    let mut watcher = Watcher::open(&raw, 1).await;
    assert_eq!(watcher.next().await.events.len(), 1);
    let after = size().await;
    assert!(after.db_size - before >= 10_000 && after.db_size_in_use <= after.db_size && after.errors.is_empty());
}

/// Every create and every cancel is answered once, in order, and a cancelled watch tells nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_watches_on_one_stream() {
    const WATCHES: usize = 600;
    let served = Served::memory().await;
    // As every watch is opened, and from a client with a token that nobody asks for.
    let raw = served.raw().await.with("hasleader", "true").with("client-api-version", "3.6.5").with("token", "none");
    let mut watcher = Watcher::open(&raw, 1).await;
    let (mut asking, writer) = (Asking(watcher.asking.0.clone()), raw.clone());
    let storm = tokio::spawn(async move {
        for id in 1..=WATCHES as i64 {
            asking.watch(PODS, PODS_END, 2).await;
            if id % 2 == 0 {
                asking.cancel(id).await;
            }
        }
    });
    let writes = tokio::spawn(async move { pods(&writer, 40).await });
    let (mut created, mut cancelled) = (Vec::new(), BTreeSet::new());
    let mut seen: BTreeMap<i64, i64> = BTreeMap::new();
    let complete = |seen: &BTreeMap<i64, i64>, id: i64| seen.get(&id) == Some(&41);
    loop {
        let answer = watcher.next().await;
        let id = answer.watch_id;
        assert!(!cancelled.contains(&id), "{answer:?}");
        if answer.created {
            created.push(id);
        }
        if answer.canceled {
            cancelled.insert(id);
        }
        for event in answer.events {
            let revision = event.kv.unwrap().mod_revision;
            let before = seen.insert(id, revision).unwrap_or(1);
            assert_eq!(revision, before + 1, "watch {id} misses nothing and repeats nothing");
        }
        let stays = (0..=WATCHES as i64).filter(|id| *id == 0 || id % 2 == 1);
        if created.len() == WATCHES && cancelled.len() == WATCHES / 2 && stays.clone().all(|id| complete(&seen, id)) {
            break;
        }
    }
    assert_eq!(created, (1..=WATCHES as i64).collect::<Vec<_>>());
    storm.await.unwrap();
    writes.await.unwrap();
    // Nobody is left in the way of progress.
    watcher.asking.ask_for_progress().await;
    let progress = watcher.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, 41));
}

#[tokio::test]
async fn an_event_of_the_largest_objects_is_told_with_the_object_before() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let large = |byte: u8| vec![byte; (3 << 19) - 200];
    txn(&raw, put(POD, &large(1), 0, false, 0)).await;
    let mut watcher = Watcher::open(&raw, 2).await;
    assert!(txn(&raw, put(POD, &large(2), 2, true, 0)).await.succeeded);
    let event = watcher.next().await.events.remove(0);
    assert!(event.kv.unwrap().value == large(2) && event.prev_kv.unwrap().value == large(1));
    let refused = raw.call::<_, PbTxnResponse>("KV/Txn", put(POD, &vec![3; 3 << 19], 3, true, 0)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
}

/// etcd's AuthStatusResponse, and as much as is needed of the requests of Auth.
#[derive(Clone, PartialEq, prost::Message)]
struct AuthStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

/// A client that was given a password asks for a token, and goes on without if this is what it is told.
#[tokio::test]
async fn authentication_is_told_to_be_off() {
    let served = Served::memory().await;
    let raw = served.raw().await;
    let refused = raw.call::<_, AuthStatus>("Auth/Authenticate", PbStatusRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "etcdserver: authentication is not enabled"));
    let status: AuthStatus = raw.call("Auth/AuthStatus", PbStatusRequest {}).await.unwrap();
    assert!(!status.enabled && status.auth_revision == 1);
    assert_eq!(status.header.unwrap().revision, 1);
    let refused = raw.call::<_, AuthStatus>("Auth/UserList", PbStatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

/// kube-apiserver pings every 30 s, also when it asks for nothing: nobody is sent away for it, however often it is.
#[tokio::test]
async fn pings_are_answered_and_not_punished() {
    const PINGS: u8 = 200;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    let served = Served::with(EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared())).await;
    let mut client = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let mut sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]].concat();
    client.write_all(&sent).await.unwrap();
    for n in 0..PINGS {
        sent = [&[0, 0, 8, PING, 0, 0, 0, 0, 0], [n; 8].as_slice()].concat();
        client.write_all(&sent).await.unwrap();
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            client.read_exact(&mut payload).await.unwrap();
            assert_ne!(head[3], 7, "GOAWAY: {payload:?}");
            if head[3] == PING && head[4] == 1 {
                assert_eq!(payload, [n; 8]);
                break;
            }
        }
    }
}
