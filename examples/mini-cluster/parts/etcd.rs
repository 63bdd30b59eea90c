//! Objects in etcd.

use wharf::core::clock::SystemClock;
use wharf::core::store::SharedStore;
use wharf::store_etcd::{EtcdOptions, EtcdStore};

use std::sync::Arc;

use crate::Outcome;

/// Reaches etcd, or says why not.
pub async fn connect(endpoints: &[String]) -> Outcome<SharedStore> {
    Ok(Arc::new(EtcdStore::connect(EtcdOptions::new(endpoints), SystemClock::shared()).await?))
}
