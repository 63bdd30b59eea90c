//! The store kit over the store that specifies it.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_conformance::store::StoreHarness;
use wharf_conformance::{Harness, store_model, store_suite};
use wharf_core::store::SharedStore;
use wharf_store_memory::MemoryStore;

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

store_suite!(Memory);

// With itself for a specification: what the model test asks can be answered.
store_model!(Memory, spec = Memory);
