//! The store kit over the encrypted memory store, with the kit's own resources encrypted too.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_conformance::store::StoreHarness;
use wharf_conformance::{Harness, store_model, store_suite};
use wharf_core::store::{ResourceId, SharedStore};
use wharf_store_encrypted::{EncryptedStore, KeyRing, secrets};
use wharf_store_memory::MemoryStore;

struct Encrypted;

fn encrypted(inner: MemoryStore) -> SharedStore {
    let named = [secrets(), ResourceId::new("", "pods"), ResourceId::new("", "nodes")];
    Arc::new(EncryptedStore::new(Arc::new(inner), KeyRing::generate().expect("there are random numbers"), named).refuse_plaintext())
}

impl Harness for Encrypted {}

#[async_trait]
impl StoreHarness for Encrypted {
    async fn store(&self) -> SharedStore {
        encrypted(MemoryStore::new())
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        Some(encrypted(MemoryStore::builder().history(commits).build()))
    }
}

struct Memory;

impl Harness for Memory {}

#[async_trait]
impl StoreHarness for Memory {
    async fn store(&self) -> SharedStore {
        Arc::new(MemoryStore::new())
    }
}

store_suite!(Encrypted);
store_model!(Encrypted, spec = Memory);
