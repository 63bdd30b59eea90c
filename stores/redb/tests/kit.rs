//! The store kit over a folder for each store.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tempfile::TempDir;
use wharf_conformance::Harness;
use wharf_conformance::store::StoreHarness;
use wharf_core::clock::SystemClock;
use wharf_core::store::SharedStore;
use wharf_store_memory::MemoryStore;
use wharf_store_redb::{RedbOpenError, RedbOptions, RedbStore};

/// Every commit is on the disk before it is acknowledged; some cases make thousands.
const PATIENCE: Duration = Duration::from_secs(180);

/// Small, so that the cases reach the checkpoint too.
fn options() -> RedbOptions {
    RedbOptions::default().segment_bytes(64 << 10)
}

/// Folders by the address of their store.
#[derive(Default)]
struct Folders {
    open: Mutex<HashMap<usize, (TempDir, RedbOptions)>>,
}

fn address(store: &SharedStore) -> usize {
    Arc::as_ptr(store).cast::<()>() as usize
}

impl Folders {
    async fn open(&self, folder: TempDir, options: RedbOptions) -> SharedStore {
        let store = loop {
            match RedbStore::open(folder.path(), options.clone(), SystemClock::shared()).await {
                // The store before has been let go of, and its threads are about to end.
                Err(RedbOpenError::InUse { .. }) => tokio::task::yield_now().await,
                store => break store.unwrap(),
            }
        };
        let store: SharedStore = Arc::new(store);
        self.open.lock().insert(address(&store), (folder, options));
        store
    }
}

impl Harness for Folders {
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[async_trait]
impl StoreHarness for Folders {
    async fn store(&self) -> SharedStore {
        self.open(tempfile::tempdir().unwrap(), options()).await
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        Some(self.open(tempfile::tempdir().unwrap(), options().history(commits)).await)
    }
    async fn restart(&self, store: SharedStore) -> Option<SharedStore> {
        let (folder, options) = self.open.lock().remove(&address(&store))?;
        // Not closed: what is in the log alone has to be found there.
        drop(store);
        Some(self.open(folder, options).await)
    }
}

wharf_conformance::store_suite!(Folders::default());

/// The specification.
struct Memory;

impl Harness for Memory {}

#[async_trait]
impl StoreHarness for Memory {
    async fn store(&self) -> SharedStore {
        Arc::new(MemoryStore::new())
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        Some(Arc::new(MemoryStore::builder().history(commits).build()))
    }
}

wharf_conformance::store_model!(Folders::default(), spec = Memory);
