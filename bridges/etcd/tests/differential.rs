//! The bridge beside a real etcd: the same random requests to both, and the answers compared field by field, revisions included.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompare, PbDeleteRequest, PbDeleteResponse, PbEvent, PbKeyValue, PbLeaseGrantRequest,
    PbLeaseGrantResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbResponseHeader,
    PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse, PbWatchRequest, PbWatchRequestUnion,
    PbWatchResponse,
};
use futures::StreamExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tonic::Status;
use wharf_conformance::system::etcd::Etcd;

use crate::support::{Raw, Served, op};

/// Requests of each run.
const REQUESTS: usize = 600;
/// Another seed, or several: `1,2,3`.
const SEEDS: &str = "WHARF_DIFFERENTIAL_SEEDS";
/// A watch that has said nothing for so long has lost something.
const PATIENCE: Duration = Duration::from_secs(60);

const KEYS: &[&[u8]] = &[b"k", b"k\0", b"ka", b"ka/1", b"ka/2", b"ka\xff", b"kb", b"kb\x80", b"kc", b"k\xff", b"k\xff\xff"];
const ENDS: &[&[u8]] = &[b"", b"", b"ka0", b"kb", b"kb\0", b"kc", b"k\xff", b"l", b"a"];
const LEASES: std::ops::Range<i64> = 1..5;

struct Plan {
    random: Xoshiro256PlusPlus,
    counter: u64,
    revision: i64,
}

impl Plan {
    fn pick<'a>(&mut self, from: &'a [&'a [u8]]) -> Vec<u8> {
        from[self.random.random_range(0..from.len())].to_vec()
    }
    fn chance(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }
    fn value(&mut self) -> Vec<u8> {
        self.counter += 1;
        // So that no two are equal, in no particular order.
        format!("{:x}", self.counter.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes()
    }
    /// A revision of the past, or none, or now and then one to come.
    fn at(&mut self) -> i64 {
        if self.chance(3) { (self.revision - self.random.random_range(-1..20i64)).max(-1) } else { 0 }
    }
    fn number(&mut self) -> i64 {
        if self.chance(2) { self.random.random_range(0..4) } else { (self.revision - self.random.random_range(0..15i64)).max(0) }
    }

    fn range(&mut self, from_on: bool) -> PbRangeRequest {
        let mut request = PbRangeRequest { key: self.pick(KEYS), range_end: self.pick(ENDS), revision: self.at(), ..Default::default() };
        if from_on && self.chance(5) {
            request.range_end = vec![0];
        }
        if self.chance(2) {
            request.limit = self.random.random_range(0..5);
        }
        if self.chance(3) {
            // By values, of which no two are equal: etcd's order of equals is any.
            (request.sort_order, request.sort_target) = (self.random.random_range(0..3), [0, 4][self.random.random_range(0..2usize)]);
        } else if self.chance(4) {
            (request.sort_order, request.sort_target, request.limit) = (self.random.random_range(1..3), self.random.random_range(1..4), 0);
        }
        request.serializable = self.chance(4);
        request.keys_only = self.chance(6);
        request.count_only = self.chance(8);
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if self.random.random_range(0..12) == 0 {
                *bound = (self.revision - self.random.random_range(0..15i64)).max(0);
            }
        }
        request
    }
    fn put(&mut self) -> PbPutRequest {
        let mut request = PbPutRequest { key: self.pick(KEYS), value: self.value(), prev_kv: self.chance(2), ..Default::default() };
        if self.chance(4) {
            request.lease = self.random.random_range(LEASES);
        }
        if self.chance(8) {
            request.ignore_value = true;
            if !self.chance(4) {
                request.value = Vec::new();
            }
        }
        if self.chance(8) {
            request.ignore_lease = true;
            if !self.chance(4) {
                request.lease = 0;
            }
        }
        request
    }
    fn delete(&mut self) -> PbDeleteRequest {
        PbDeleteRequest { key: self.pick(KEYS), range_end: self.pick(ENDS), prev_kv: self.chance(2) }
    }
    fn compare(&mut self) -> PbCompare {
        let (target, number) = (self.random.random_range(0..5), self.number());
        let union = match target {
            0 => PbTargetUnion::Version(number),
            1 => PbTargetUnion::CreateRevision(number),
            2 => PbTargetUnion::ModRevision(number),
            3 => PbTargetUnion::Value(self.value()),
            _ => PbTargetUnion::Lease(number),
        };
        let range_end = if self.chance(3) { self.pick(ENDS) } else { Vec::new() };
        PbCompare { target, result: self.random.random_range(0..4), key: self.pick(KEYS), range_end, target_union: Some(union) }
    }
    fn ops(&mut self, depth: usize) -> Vec<PbTxnRequestOp> {
        let count = self.random.random_range(0..4);
        let ops = (0..count).map(|_| {
            op(match self.random.random_range(0..7) {
                0 | 1 => PbTxnOpRequest::RequestRange(self.range(false)),
                2..=4 => PbTxnOpRequest::RequestPut(self.put()),
                5 => PbTxnOpRequest::RequestDeleteRange(self.delete()),
                _ if depth > 0 => PbTxnOpRequest::RequestTxn(self.txn(depth - 1)),
                _ => PbTxnOpRequest::RequestPut(self.put()),
            })
        });
        ops.collect()
    }
    fn txn(&mut self, depth: usize) -> PbTxnRequest {
        let compare = (0..self.random.random_range(0..3)).map(|_| self.compare()).collect();
        PbTxnRequest { compare, success: self.ops(depth), failure: self.ops(depth) }
    }
}

fn header(header: &mut Option<PbResponseHeader>) {
    if let Some(header) = header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}

fn told<T: std::fmt::Debug>(answer: Result<T, Status>) -> Result<T, String> {
    answer.map_err(|status| format!("{:?} {}", status.code(), status.message()))
}

fn in_order(request: &PbRangeRequest, answer: &mut PbRangeResponse) {
    header(&mut answer.header);
    let target = |kv: &PbKeyValue| match request.sort_target {
        1 => kv.version,
        2 => kv.create_revision,
        _ => kv.mod_revision,
    };
    if (1..4).contains(&request.sort_target) {
        // Equals are in any order.
        let down = request.sort_order == 2;
        assert!(answer.kvs.is_sorted_by(|a, b| if down { target(a) >= target(b) } else { target(a) <= target(b) }), "{answer:?}");
        answer.kvs.sort_by_key(|kv| (target(kv), kv.key.clone()));
    }
}

fn txn_in_order(request: &PbTxnRequest, answer: &mut PbTxnResponse) {
    header(&mut answer.header);
    let ops = if answer.succeeded { &request.success } else { &request.failure };
    for (op, answer) in ops.iter().zip(&mut answer.responses) {
        match (op.request.as_ref().unwrap(), answer.response.as_mut().unwrap()) {
            (PbTxnOpRequest::RequestRange(request), PbTxnOpResponse::ResponseRange(answer)) => in_order(request, answer),
            (PbTxnOpRequest::RequestTxn(request), PbTxnOpResponse::ResponseTxn(answer)) => {
                txn_in_order(request, answer);
                // etcd leaves it out in some versions.
                answer.header = None;
            }
            _ => {}
        }
    }
}

/// Both sides, and what they have been told.
struct Pair {
    etcd: Raw,
    bridge: Raw,
    plan: Plan,
    seed: u64,
    step: usize,
}

impl Pair {
    fn same<Q: std::fmt::Debug, A: std::fmt::Debug + PartialEq>(&self, request: &Q, etcd: Result<A, Status>, bridge: Result<A, Status>) {
        let (etcd, bridge) = (told(etcd), told(bridge));
        assert_eq!(bridge, etcd, "seed {}, step {}: left is the bridge, right is etcd, asked {request:?}", self.seed, self.step);
    }

    async fn revisions(&self) -> (i64, i64) {
        let ask = PbRangeRequest { key: b"k".to_vec(), count_only: true, ..Default::default() };
        let of = |answer: PbRangeResponse| answer.header.unwrap().revision;
        let etcd = of(self.etcd.call("KV/Range", ask.clone()).await.unwrap());
        (etcd, of(self.bridge.call("KV/Range", ask).await.unwrap()))
    }

    /// A lease's beginning, and the end of one without keys, is a commit behind the bridge and none in etcd.
    async fn level(&self) {
        let (etcd, bridge) = self.revisions().await;
        assert!((0..=1).contains(&(bridge - etcd)), "seed {}, step {}: {bridge} {etcd}", self.seed, self.step);
        if bridge > etcd {
            let filler = PbPutRequest { key: b"\0filler".to_vec(), ..Default::default() };
            let _: PbPutResponse = self.etcd.call("KV/Put", filler).await.unwrap();
        }
    }

    async fn step(&mut self) {
        match self.plan.random.random_range(0..24) {
            0..=4 => {
                let request = self.plan.range(true);
                let [mut etcd, mut bridge] = self.both::<_, PbRangeResponse>("KV/Range", &request).await;
                for answer in [&mut etcd, &mut bridge] {
                    answer.iter_mut().for_each(|answer| in_order(&request, answer));
                }
                self.same(&request, etcd, bridge);
            }
            5..=9 => {
                let request = self.plan.put();
                let [etcd, bridge] = self.both::<_, PbPutResponse>("KV/Put", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        header(&mut a.header);
                        a
                    })
                });
                self.same(&request, etcd, bridge);
            }
            10..=12 => {
                let request = self.plan.delete();
                let [etcd, bridge] = self.both::<_, PbDeleteResponse>("KV/DeleteRange", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        header(&mut a.header);
                        a
                    })
                });
                self.same(&request, etcd, bridge);
            }
            13..=19 => {
                let request = self.plan.txn(2);
                let [mut etcd, mut bridge] = self.both::<_, PbTxnResponse>("KV/Txn", &request).await;
                for answer in [&mut etcd, &mut bridge] {
                    answer.iter_mut().for_each(|answer| txn_in_order(&request, answer));
                }
                self.same(&request, etcd, bridge);
            }
            20 => {
                let request =
                    PbCompactionRequest { revision: self.plan.revision - self.plan.random.random_range(-2..40i64), physical: true };
                if request.revision > 0 {
                    let [etcd, bridge] = self.both::<_, PbCompactionResponse>("KV/Compact", &request).await.map(|answer| {
                        answer.map(|mut a| {
                            header(&mut a.header);
                            a
                        })
                    });
                    self.same(&request, etcd, bridge);
                }
            }
            21 => {
                // Long ones: a short one would end amid the requests, and not at the same moment on both sides.
                let request =
                    PbLeaseGrantRequest { id: self.plan.random.random_range(LEASES), ttl: self.plan.random.random_range(1..6i64) * 1000 };
                let [etcd, bridge] = self.both::<_, PbLeaseGrantResponse>("Lease/LeaseGrant", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        a.header = None;
                        a
                    })
                });
                self.same(&request, etcd, bridge);
                self.level().await;
            }
            22 => {
                let request = PbLeaseRevokeRequest { id: self.plan.random.random_range(LEASES) };
                let [etcd, bridge] = self.both::<_, PbLeaseRevokeResponse>("Lease/LeaseRevoke", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        a.header = None;
                        a
                    })
                });
                self.same(&request, etcd, bridge);
                self.level().await;
            }
            _ => {
                let request = PbLeaseTimeToLiveRequest { id: self.plan.random.random_range(LEASES), keys: true };
                let [etcd, bridge] = self.both::<_, PbLeaseTimeToLiveResponse>("Lease/LeaseTimeToLive", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        header(&mut a.header);
                        a.keys.sort();
                        // Time passes.
                        a.ttl = a.ttl.min(0);
                        a
                    })
                });
                self.same(&request, etcd, bridge);
                let [etcd, bridge] =
                    self.both::<_, PbLeaseLeasesResponse>("Lease/LeaseLeases", &PbLeaseLeasesRequest {}).await.map(|answer| {
                        answer.map(|mut a| {
                            header(&mut a.header);
                            a.leases.sort_by_key(|lease| lease.id);
                            a
                        })
                    });
                self.same(&"LeaseLeases", etcd, bridge);
            }
        }
        let (etcd, bridge) = self.revisions().await;
        assert_eq!(bridge, etcd, "seed {}, step {}", self.seed, self.step);
        self.plan.revision = etcd;
    }

    async fn both<Q, A>(&self, method: &'static str, request: &Q) -> [Result<A, Status>; 2]
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        [self.etcd.call(method, request.clone()).await, self.bridge.call(method, request.clone()).await]
    }
}

/// What a watch of everything from a revision on tells, up to the newest; by revision, in order of keys. Or where history is gone.
async fn watched(raw: &Raw, from: i64, upto: i64) -> Result<BTreeMap<(i64, Vec<u8>), PbEvent>, i64> {
    let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
    if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
        (create.key, create.range_end, create.start_revision, create.prev_kv) = (b"k".to_vec(), b"l".to_vec(), from, true);
    }
    let request = PbWatchRequest { request_union: Some(union) };
    let requests = futures::stream::once(async { request }).chain(futures::stream::pending());
    let mut answers = raw.stream::<_, PbWatchResponse>("Watch/Watch", requests).await;
    let mut events = BTreeMap::new();
    let mut reached = 0;
    while reached < upto {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("the watch goes on").unwrap().unwrap();
        if answer.canceled {
            return Err(answer.compact_revision);
        }
        for event in answer.events {
            let kv = event.kv.as_ref().unwrap();
            assert!(kv.mod_revision >= reached, "a watch goes on only");
            reached = kv.mod_revision;
            assert!(events.insert((reached, kv.key.clone()), event).is_none(), "an event is told once");
        }
    }
    Ok(events)
}

async fn run(seed: u64) {
    let Some(etcd) = Etcd::start_or_omit("bridge.etcd.differential").await else { return };
    let served = Served::over(Arc::new(wharf_store_memory::MemoryStore::new())).await;
    let plan = Plan { random: Xoshiro256PlusPlus::seed_from_u64(seed), counter: seed << 32, revision: 1 };
    let mut pair = Pair { etcd: Raw::to(&etcd.endpoint()).await, bridge: served.raw().await, plan, seed, step: 0 };
    for step in 0..REQUESTS {
        pair.step = step;
        pair.step().await;
    }
    // A last event that both know.
    let last = PbPutRequest { key: b"k/last".to_vec(), ..Default::default() };
    let [etcd, bridge] = pair.both::<_, PbPutResponse>("KV/Put", &last).await;
    let upto = etcd.unwrap().header.unwrap().revision;
    assert_eq!(bridge.unwrap().header.unwrap().revision, upto);
    let gone = watched(&pair.etcd, 1, upto).await;
    assert_eq!(watched(&pair.bridge, 1, upto).await.err(), gone.as_ref().err().copied(), "seed {seed}: compacted at");
    // At the revision of the compaction itself etcd forgets deletes, and what came before.
    let from = gone.err().map_or(1, |compacted| compacted + 1);
    for from in [from, (from + upto) / 2, upto] {
        assert_eq!(watched(&pair.bridge, from, upto).await, watched(&pair.etcd, from, upto).await, "seed {seed}: watched from {from}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridge_and_etcd_answer_alike() {
    let seeds = std::env::var(SEEDS).unwrap_or_else(|_| "1,2,3".into());
    for seed in seeds.split(',') {
        run(seed.trim().parse().expect("seeds are numbers")).await;
    }
}
