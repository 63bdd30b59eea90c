//! The store kit.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_core::store::ObjectStore;

use crate::Harness;

/// Makes stores for the kit.
#[async_trait]
pub trait StoreHarness: Harness {
    /// A fresh, empty store.
    async fn store(&self) -> Arc<dyn ObjectStore>;
}
