//! Three members that are killed, paused and cut off while clients write, read and watch: what the clients saw must be
//! linearizable, and watches must tell all of it once and in order.
//!
//! `WHARF_FAULT_ROUNDS` faults are brought about (default 7, one of each kind), chosen by `WHARF_FAULT_SEED`.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

#[path = "support/register.rs"]
mod register;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wharf_conformance::system::etcd::{EtcdCluster, EtcdError, EtcdNetwork};
use wharf_core::clock::SystemClock;
use wharf_core::store::{
    Change, Expect, Key, ListOptions, ObjectStore, Op, Record, ResourceId, Revision, Scope, StoreError, Transaction, WatchItem, WatchStream,
};
use wharf_core::testing::omit;
use wharf_store_etcd::{EtcdOptions, EtcdStore};

use crate::register::{Action, Operation, Value, is_linearizable};

const MEMBERS: usize = 3;
const KEYS: usize = 6;
const STORES: usize = 2;
const CLIENTS_OF_EACH: usize = 4;
/// Operations that must succeed before a fault, and while it lasts.
const OPERATIONS: u64 = 150;
/// How long they may take: several elections and timeouts.
const PATIENCE: Duration = Duration::from_secs(60);
const FAULTS: [Fault; 7] = [
    Fault::KillLeader,
    Fault::CutLeaderFromPeers,
    Fault::PauseLeader,
    Fault::KillOther,
    Fault::CutLeaderFromAll,
    Fault::PauseOther,
    Fault::KillAll,
];

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillLeader,
    KillOther,
    KillAll,
    PauseLeader,
    PauseOther,
    CutLeaderFromPeers,
    CutLeaderFromAll,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}
fn key(index: usize) -> Key {
    Key::new(ResourceId::new("", "pods"), "default", format!("p{index}"))
}
fn put(index: usize, value: u64, expect: Expect) -> Transaction {
    Transaction::new(vec![Op::Put { key: key(index), value: Bytes::from(value.to_string()), expect }])
}
fn value(record: &Record) -> u64 {
    std::str::from_utf8(&record.value).unwrap().parse().unwrap()
}
async fn connect(endpoints: Vec<String>) -> EtcdStore {
    let options = EtcdOptions { request_timeout: Duration::from_secs(1), ..EtcdOptions::new(endpoints) };
    EtcdStore::connect(options, SystemClock::shared()).await.unwrap()
}

/// A revision that was told, and when.
struct Told {
    begun: u64,
    ended: u64,
    revision: Revision,
    /// Whether it is a commit's own.
    own: bool,
}

/// What the clients did and saw.
#[derive(Default)]
struct History {
    /// Counts up with every begin and end.
    clock: AtomicU64,
    values: AtomicU64,
    succeeded: AtomicU64,
    unknown: AtomicU64,
    over: AtomicBool,
    keys: Mutex<BTreeMap<usize, Vec<Operation>>>,
    told: Mutex<Vec<Told>>,
    /// Puts that were acknowledged.
    written: Mutex<Vec<(Revision, usize, u64)>>,
}

impl History {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
    fn did(&self, index: usize, action: Action, begun: u64, ended: Option<u64>) {
        self.keys.lock().entry(index).or_default().push(Operation { action, begun, ended });
    }
    fn told(&self, begun: u64, ended: u64, revision: Revision, own: bool) {
        self.told.lock().push(Told { begun, ended, revision, own });
    }

    /// One operation; whether it succeeded.
    async fn operate(&self, store: &EtcdStore, rng: &mut StdRng, known: &mut [Option<(u64, Revision)>]) -> bool {
        let index = rng.random_range(0..KEYS);
        let begun = self.tick();
        match rng.random_range(0..100) {
            0..35 => {
                let Ok(record) = store.get(&key(index)).await else { return false };
                self.did(index, Action::Read(record.as_ref().map(value)), begun, Some(self.tick()));
                known[index] = record.map(|record| (value(&record), record.modified));
            }
            35..45 => {
                let Ok(revision) = store.revision().await else { return false };
                self.told(begun, self.tick(), revision, false);
            }
            45..50 => {
                let Ok(page) = store.list(&Scope::All, &ListOptions::default()).await else { return false };
                let ended = self.tick();
                self.told(begun, ended, page.revision, false);
                for index in 0..KEYS {
                    let there = page.records.iter().find(|record| record.key == key(index));
                    self.did(index, Action::Read(there.map(value)), begun, Some(ended));
                }
            }
            50..58 => {
                let delete = Transaction::new(vec![Op::Delete { key: key(index), expect: Expect::Any }]);
                return self.write(store, index, delete, Action::Write(None), begun).await.is_some();
            }
            choice => {
                let new = self.values.fetch_add(1, Ordering::SeqCst) + 1;
                let (expect, action) = match known[index].filter(|_| choice >= 78) {
                    Some((old, revision)) => (Expect::Revision(revision), Action::Swap(Some(old), Some(new))),
                    None => (Expect::Any, Action::Write(Some(new))),
                };
                let Some(revision) = self.write(store, index, put(index, new, expect), action, begun).await else { return false };
                known[index] = revision.map(|revision| (new, revision));
                self.written.lock().extend(revision.map(|revision| (revision, index, new)));
            }
        }
        true
    }

    /// A commit: its revision, no revision if it was refused, and nothing if it failed.
    async fn write(&self, store: &EtcdStore, index: usize, write: Transaction, action: Action, begun: u64) -> Option<Option<Revision>> {
        match store.commit(write).await {
            Ok(revision) => {
                let ended = self.tick();
                self.did(index, action, begun, Some(ended));
                // A delete of nothing has no revision of its own.
                self.told(begun, ended, revision, action != Action::Write(None));
                Some(Some(revision))
            }
            // It tells what was there instead.
            Err(StoreError::Conflict { current, .. }) => {
                let seen: Value = current.as_deref().map(value);
                self.did(index, Action::Read(seen), begun, Some(self.tick()));
                Some(None)
            }
            Err(StoreError::OutcomeUnknown { .. }) => {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                self.did(index, action, begun, None);
                None
            }
            Err(StoreError::Backend { .. }) => None,
            Err(other) => panic!("{other}"),
        }
    }

    async fn client(self: Arc<Self>, store: EtcdStore, seed: u64) {
        let (mut rng, mut known) = (StdRng::seed_from_u64(seed), vec![None; KEYS]);
        while !self.over.load(Ordering::SeqCst) {
            if self.operate(&store, &mut rng, &mut known).await {
                self.succeeded.fetch_add(1, Ordering::SeqCst);
            }
            // Bounds the length of the history, and the work while nothing answers.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many more operations have succeeded.
    async fn more(&self, during: &str) {
        let wanted = self.succeeded.load(Ordering::SeqCst) + OPERATIONS;
        let reached = async {
            while self.succeeded.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("no {OPERATIONS} operations succeed during {during}"));
    }

    /// Each revision that is told is at least what was told before it was asked for; a commit's own is above.
    fn check_revisions(&self) {
        let told = self.told.lock();
        let mut by_end: Vec<&Told> = told.iter().collect();
        by_end.sort_by_key(|t| t.ended);
        let mut by_begin = by_end.clone();
        by_begin.sort_by_key(|t| t.begun);
        let (mut ended, mut floor) = (by_end.into_iter().peekable(), Revision(0));
        for one in by_begin {
            while let Some(before) = ended.next_if(|before| before.ended < one.begun) {
                floor = floor.max(before.revision);
            }
            let holds = if one.own { one.revision > floor } else { one.revision >= floor };
            assert!(holds, "{} was told after {floor} had been told", one.revision);
        }
    }
}

/// Reads a watch until a revision; the commits, with progress checked to come after what it covers.
async fn read_until(watch: &mut WatchStream, end: Revision) -> Vec<(Revision, Vec<Change>)> {
    let mut seen: Vec<(Revision, Vec<Change>)> = Vec::new();
    let mut covered = Revision(0);
    loop {
        match watch.next().await.expect("a watch ends with an error only").unwrap() {
            WatchItem::Commit { revision, changes } => {
                assert!(revision > covered, "{revision} comes after {covered}");
                covered = revision;
                seen.push((revision, changes.to_vec()));
                if revision >= end {
                    return seen;
                }
            }
            WatchItem::Progress(revision) => covered = covered.max(revision),
        }
    }
}

async fn bring_about(fault: Fault, network: &EtcdNetwork, cluster: &EtcdCluster, history: &History) -> Result<(), EtcdError> {
    let leader = cluster.leader().await.unwrap_or(0);
    let other = (leader + 1) % MEMBERS;
    let during = format!("{fault:?}");
    match fault {
        Fault::KillLeader | Fault::KillOther => {
            let member = &cluster.members()[if matches!(fault, Fault::KillLeader) { leader } else { other }];
            member.kill();
            history.more(&during).await;
            member.start_again().await?;
        }
        Fault::KillAll => {
            cluster.start_again().await?;
            history.more(&during).await;
        }
        Fault::PauseLeader | Fault::PauseOther => {
            let member = &cluster.members()[if matches!(fault, Fault::PauseLeader) { leader } else { other }];
            member.pause()?;
            history.more(&during).await;
            member.resume()?;
        }
        Fault::CutLeaderFromPeers | Fault::CutLeaderFromAll => {
            network.cut_from_peers(leader)?;
            if matches!(fault, Fault::CutLeaderFromAll) {
                network.cut_from_clients(leader)?;
            }
            history.more(&during).await;
            network.heal(leader)?;
        }
    }
    history.more("recovery").await;
    Ok(())
}

async fn clients_beside_faults(network: &EtcdNetwork) {
    let cluster = match EtcdCluster::start_in(network).await {
        Err(error @ EtcdError::Missing { .. }) => return omit("etcd.cluster.faults", &error.to_string()),
        started => started.unwrap(),
    };
    let (rounds, seed) = (number("WHARF_FAULT_ROUNDS", FAULTS.len() as u64), number("WHARF_FAULT_SEED", 1));
    let history = Arc::new(History::default());
    let first = connect(cluster.endpoints()).await;
    let start = first.revision().await.unwrap();
    let mut clients = Vec::new();
    let mut watches = Vec::new();
    // Watches end with the last user of their store.
    let mut stores = Vec::new();
    let (end, ends) = tokio::sync::watch::channel(Revision(u64::MAX));
    for number in 0..STORES {
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(number);
        let store = connect(endpoints).await;
        let watch = store.watch(&Scope::All, start).await.unwrap();
        let mut ends = ends.clone();
        watches.push(tokio::spawn(async move {
            let (mut watch, mut seen) = (watch, Vec::new());
            loop {
                tokio::select! {
                    item = watch.next() => seen.push(item.expect("a watch ends with an error only")),
                    _ = ends.changed() => return (watch, seen),
                }
            }
        }));
        for client in 0..CLIENTS_OF_EACH {
            let seed = seed.wrapping_mul(1_000) + (number * CLIENTS_OF_EACH + client) as u64;
            clients.push(tokio::spawn(history.clone().client(store.clone(), seed)));
        }
        stores.push(store);
    }
    history.more("the start").await;
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..rounds as usize {
        let fault = FAULTS.get(round).copied().unwrap_or_else(|| FAULTS[rng.random_range(0..FAULTS.len())]);
        let since = std::time::Instant::now();
        bring_about(fault, network, &cluster, &history).await.unwrap();
        println!("round {round}: {fault:?} for {:?}", since.elapsed());
    }
    history.over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    // The cluster is whole, so this is settled.
    let last = first.commit(put(KEYS, 0, Expect::Any)).await.unwrap();
    let truth = read_until(&mut first.watch(&Scope::All, start).await.unwrap(), last).await;
    end.send(last).unwrap();
    for watch in watches {
        let (rest, seen) = watch.await.unwrap();
        let mut all = futures::stream::iter(seen).chain(rest).boxed();
        let seen = read_until(&mut all, last).await;
        assert!(seen == truth, "a watch told {} commits, {} took place", seen.len(), truth.len());
    }
    for (revision, index, new) in history.written.lock().iter() {
        let at = truth.binary_search_by_key(revision, |(revision, _)| *revision).expect("an acknowledged write is in history");
        let is_it = |change: &Change| matches!(change, Change::Put { record, .. } if record.key == key(*index) && value(record) == *new);
        assert!(truth[at].1.iter().any(is_it), "{revision} is not the write that was told so");
    }
    history.check_revisions();
    let mut operations = 0;
    for (index, of_key) in history.keys.lock().iter() {
        operations += of_key.len();
        assert!(is_linearizable(of_key), "the history of p{index} is not linearizable");
    }
    drop(stores);
    println!("{operations} operations, {} of them with unknown outcome; {} commits", history.unknown.load(Ordering::SeqCst), truth.len());
}

#[test]
fn histories_are_linearizable_and_watches_whole_beside_faults() {
    let Some(network) = EtcdNetwork::new_or_omit("etcd.cluster.faults", MEMBERS) else { return };
    network.run(|| clients_beside_faults(&network)).unwrap();
}

#[test]
fn a_member_that_is_behind_is_not_read_from() {
    let Some(network) = EtcdNetwork::new_or_omit("etcd.cluster.behind", MEMBERS) else { return };
    let test = async || {
        let cluster = match EtcdCluster::start_in(&network).await {
            Err(error @ EtcdError::Missing { .. }) => return omit("etcd.cluster.behind", &error.to_string()),
            started => started.unwrap(),
        };
        let behind = (cluster.leader().await.unwrap() + 1) % MEMBERS;
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(behind);
        let (only, all, writer) =
            (connect(endpoints[..1].to_vec()).await, connect(endpoints.clone()).await, connect(endpoints[1..].to_vec()).await);
        let old = writer.commit(put(0, 1, Expect::Any)).await.unwrap();
        assert_eq!(only.get(&key(0)).await.unwrap().unwrap().modified, old);
        let mut watch = only.watch(&Scope::All, old).await.unwrap();
        network.cut_from_peers(behind).unwrap();
        let new = writer.commit(put(0, 2, Expect::Any)).await.unwrap();
        let deleted = writer.commit(Transaction::delete(key(0), new)).await.unwrap();
        let error = only.get(&key(0)).await.unwrap_err();
        assert!(matches!(error, StoreError::Backend { .. }), "{error}");
        assert!(only.revision().await.is_err());
        assert_eq!(all.get(&key(0)).await.unwrap(), None);
        assert_eq!(all.revision().await.unwrap(), deleted);
        network.heal(behind).unwrap();
        // What happened meanwhile is told, the delete too.
        let seen = read_until(&mut watch, deleted).await;
        assert_eq!(seen.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), [new, deleted]);
        assert!(matches!(&seen[1].1[..], [Change::Delete { .. }]));
    };
    network.run(test).unwrap();
}
