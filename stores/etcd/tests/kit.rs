//! The store kit over an etcd of its own for each case: one member, or as many as `WHARF_ETCD_MEMBERS` says.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use wharf_conformance::store::{StoreHarness, cases};
use wharf_conformance::system::etcd::{Etcd, EtcdCluster, EtcdError};
use wharf_conformance::{Harness, test_main};
use wharf_core::clock::SystemClock;
use wharf_core::store::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, SharedStore, StoreCapabilities, StoreResult, Transaction, WatchStream,
};
use wharf_core::testing::omit;
use wharf_store_etcd::{EtcdOptions, EtcdStore};

use crate::support::Wire;

/// Every commit is on the disk before it is acknowledged; some cases make thousands.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let listing = std::env::args().any(|word| word == "--list");
    if !listing {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Err(error @ EtcdError::Missing { .. }) = runtime.block_on(Etcd::start()) {
            omit("store", &error.to_string());
            return ExitCode::SUCCESS;
        }
    }
    test_main(cases(), &Stock::default())
}

/// The etcd of the case that runs, and the way to it.
#[derive(Default)]
struct Stock {
    running: Mutex<Option<(EtcdCluster, Vec<Wire>)>>,
}

fn members() -> usize {
    std::env::var("WHARF_ETCD_MEMBERS").map_or(1, |count| count.parse().unwrap())
}

fn through(wires: &[Wire]) -> EtcdOptions {
    EtcdOptions::new(wires.iter().map(Wire::endpoint))
}

impl Stock {
    async fn options(&self) -> EtcdOptions {
        let etcd = EtcdCluster::start(members()).await.unwrap();
        let mut wires = Vec::new();
        for member in etcd.members() {
            wires.push(Wire::to(member.port()).await);
        }
        let options = through(&wires);
        *self.running.lock().await = Some((etcd, wires));
        options
    }
}

async fn connect(options: EtcdOptions) -> EtcdStore {
    EtcdStore::connect(options, SystemClock::shared()).await.unwrap()
}

impl Harness for Stock {
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[async_trait]
impl StoreHarness for Stock {
    async fn store(&self) -> SharedStore {
        std::sync::Arc::new(connect(self.options().await).await)
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        let options = EtcdOptions { watch_buffer: 16 << 10, ..self.options().await };
        Some(std::sync::Arc::new(Forgetful { store: connect(options).await, commits: commits as u64 }))
    }
    async fn disconnect(&self, _store: &SharedStore) -> bool {
        self.running.lock().await.as_ref().unwrap().1.iter().for_each(|wire| wire.cut(None));
        true
    }
    async fn restart(&self, store: SharedStore) -> Option<SharedStore> {
        drop(store);
        let running = self.running.lock().await;
        let (etcd, wires) = running.as_ref().unwrap();
        etcd.kill();
        etcd.start_again().await.unwrap();
        Some(std::sync::Arc::new(connect(through(wires)).await))
    }
}

/// Compacts after every commit, as an etcd with `--auto-compaction-retention` does now and then.
#[derive(Debug)]
struct Forgetful {
    store: EtcdStore,
    commits: u64,
}

#[async_trait]
impl ObjectStore for Forgetful {
    fn capabilities(&self) -> StoreCapabilities {
        self.store.capabilities()
    }
    async fn revision(&self) -> StoreResult<Revision> {
        self.store.revision().await
    }
    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.store.get(key).await
    }
    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.store.list(scope, options).await
    }
    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        let revision = self.store.commit(transaction).await?;
        self.store.compact(Revision(revision.0.saturating_sub(self.commits))).await?;
        Ok(revision)
    }
    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        self.store.watch(scope, after).await
    }
    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.store.compact(upto).await
    }
}
