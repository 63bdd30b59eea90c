//! The bridge beside a real etcd: the same random requests to both, and the answers compared field by field, revisions included.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod plan;
#[path = "../support/mod.rs"]
mod support;
mod watches;

use std::sync::Arc;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKeyValue, PbLeaseGrantRequest, PbLeaseGrantResponse,
    PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest,
    PbLeaseRevokeResponse, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseHeader, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnResponse,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tonic::Status;
use wharf_conformance::system::etcd::Etcd;

use crate::plan::{LEASES, Plan};
use crate::support::{Raw, Served};
use crate::watches::LAST;

/// Requests of each run.
const REQUESTS: usize = 600;
/// Another seed, or several: `1,2,3`.
const SEEDS: &str = "WHARF_DIFFERENTIAL_SEEDS";

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
        match self.plan.random.random_range(0..30) {
            0..=4 => {
                let request = if self.plan.chance(6) { self.plan.odd_range() } else { self.plan.range(true) };
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
                let request = match self.plan.random.random_range(0..10) {
                    0..=4 => self.plan.apart(),
                    5 => self.plan.odd_txn(),
                    6 => {
                        let lease = self.plan.random.random_range(LEASES);
                        self.plan.leased(lease)
                    }
                    _ => self.plan.txn(2),
                };
                let [mut etcd, mut bridge] = self.both::<_, PbTxnResponse>("KV/Txn", &request).await;
                for answer in [&mut etcd, &mut bridge] {
                    answer.iter_mut().for_each(|answer| txn_in_order(&request, answer));
                }
                self.same(&request, etcd, bridge);
            }
            20 => {
                // Near the newest, or about nothing at all.
                let revision = if self.plan.chance(4) { 0 } else { self.plan.revision } - self.plan.random.random_range(-2..40i64);
                let revision = if self.plan.chance(4) { revision.clamp(-1, 1) } else { revision };
                let request = PbCompactionRequest { revision, physical: true };
                let [etcd, bridge] = self.both::<_, PbCompactionResponse>("KV/Compact", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        header(&mut a.header);
                        a
                    })
                });
                self.same(&request, etcd, bridge);
            }
            21 | 24..=26 => {
                // Long ones: a short one would end amid the requests, and not at the same moment on both sides.
                let ttl = if self.plan.chance(8) { 9_000_000_001 } else { self.plan.random.random_range(1..6i64) * 1000 };
                let request = PbLeaseGrantRequest { id: self.plan.random.random_range(LEASES), ttl };
                let [etcd, bridge] = self.both::<_, PbLeaseGrantResponse>("Lease/LeaseGrant", &request).await.map(|answer| {
                    answer.map(|mut a| {
                        a.header = None;
                        a
                    })
                });
                self.same(&request, etcd, bridge);
                self.level().await;
            }
            22 | 27 => {
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
            28 => {
                let id = self.plan.random.random_range(LEASES);
                let mut told = Vec::new();
                for raw in [&self.etcd, &self.bridge] {
                    let request = futures::stream::once(async move { PbLeaseKeepAliveRequest { id } });
                    let mut answers = raw.stream::<_, PbLeaseKeepAliveResponse>("Lease/LeaseKeepAlive", request).await;
                    told.push(answers.message().await.map(|answer| answer.map(|answer| (answer.id, answer.ttl))));
                }
                let bridge = told.pop().unwrap();
                self.same(&"LeaseKeepAlive", told.pop().unwrap(), bridge);
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

    /// The revision of a request that both carry out.
    async fn last<Q, A>(&self, method: &'static str, request: Q, header: impl Fn(A) -> Option<PbResponseHeader>) -> i64
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let [etcd, bridge] = self.both::<_, A>(method, &request).await.map(|answer| header(answer.unwrap()).unwrap().revision);
        assert_eq!(bridge, etcd);
        etcd
    }

    async fn both<Q, A>(&self, method: &'static str, request: &Q) -> [Result<A, Status>; 2]
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        [self.etcd.call(method, request.clone()).await, self.bridge.call(method, request.clone()).await]
    }
}

async fn run(seed: u64) {
    let Some(etcd) = Etcd::start_or_omit("bridge.etcd.differential").await else { return };
    let served = Served::over(Arc::new(wharf_store_memory::MemoryStore::new())).await;
    let plan = Plan { random: Xoshiro256PlusPlus::seed_from_u64(seed), counter: seed << 32, revision: 1 };
    let mut pair = Pair { etcd: Raw::to(&etcd.endpoint()).await, bridge: served.raw().await, plan, seed, step: 0 };
    let mut live = Vec::new();
    for what in watches::all() {
        live.push((what.clone().live(&pair.etcd).await, what.live(&pair.bridge).await));
    }
    for step in 0..REQUESTS {
        pair.step = step;
        pair.step().await;
    }
    // The last events, that all watches know of.
    let put = pair.last::<_, PbPutResponse>("KV/Put", PbPutRequest { key: LAST.to_vec(), ..Default::default() }, |a| a.header).await;
    let delete = PbDeleteRequest { key: LAST.to_vec(), ..Default::default() };
    let delete = pair.last::<_, PbDeleteResponse>("KV/DeleteRange", delete, |a| a.header).await;
    for (etcd, bridge) in live {
        let what = etcd.what.clone();
        let (etcd, bridge) = (etcd.end(put, delete).await, bridge.end(put, delete).await);
        // etcd may have found it too slow, and then compacted.
        assert!(etcd.is_err() || bridge == etcd, "seed {seed}: live {what:?}: left is the bridge\n{bridge:?}\n{etcd:?}");
        assert!(bridge.is_ok());
    }
    let everything = &watches::all()[0];
    let gone = everything.past(&pair.etcd, 1, put, delete).await;
    assert_eq!(everything.past(&pair.bridge, 1, put, delete).await.err(), gone.as_ref().err().copied(), "seed {seed}: compacted at");
    // At the revision of the compaction itself etcd forgets deletes, and what came before.
    let from = gone.err().map_or(1, |compacted| compacted + 1);
    for from in [from, (from + delete) / 2, put] {
        for what in watches::all() {
            let (bridge, etcd) = (what.past(&pair.bridge, from, put, delete).await, what.past(&pair.etcd, from, put, delete).await);
            assert_eq!(bridge, etcd, "seed {seed}: {what:?} watched from {from}: left is the bridge");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridge_and_etcd_answer_alike() {
    let seeds = std::env::var(SEEDS).unwrap_or_else(|_| "1,2,3".into());
    for seed in seeds.split(',') {
        run(seed.trim().parse().expect("seeds are numbers")).await;
    }
}
