//! Where a cluster's objects are kept, and that Secrets are not kept in plain text.

use std::path::PathBuf;
use std::sync::Arc;

use wharf_core::clock::Clock;
use wharf_core::store::SharedStore;
use wharf_store_encrypted::{EncryptedStore, KeyRing};
use wharf_store_memory::MemoryStore;
#[cfg(feature = "redb")]
use wharf_store_redb::{RedbOpenError, RedbOptions, RedbStore};

use crate::builder::ClusterError;

/// The folder of objects, in the data folder.
#[cfg(feature = "redb")]
const OBJECTS: &str = "store";
/// The key file, in the data folder.
const KEY_FILE: &str = "encryption-key";

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Storage {
    pub(crate) given: Option<SharedStore>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) plain: bool,
}

/// What a cluster writes to, and what it has to close at its end.
pub(crate) struct Opened {
    pub(crate) store: SharedStore,
    #[cfg(feature = "redb")]
    pub(crate) own: Option<RedbStore>,
}

impl Opened {
    pub(crate) async fn close(&self) {
        #[cfg(feature = "redb")]
        if let Some(own) = &self.own
            && let Err(error) = own.close().await
            // Closed by an earlier shutdown, or it said why when it failed.
            && !matches!(error, RedbOpenError::Stopped { .. })
        {
            tracing::error!("the store did not close in good order: {error}");
        }
    }
}

/// Opens the store that was asked for: the one given, one in the data folder, or one in memory. What outlives the process is encrypted.
pub(crate) async fn open(storage: &Storage, clock: &Arc<dyn Clock>) -> Result<Opened, ClusterError> {
    #[cfg(feature = "redb")]
    let own = match (&storage.given, &storage.data) {
        (None, Some(folder)) => Some(RedbStore::open(folder.join(OBJECTS), RedbOptions::default(), clock.clone()).await?),
        _ => None,
    };
    #[cfg(feature = "redb")]
    let opened = own.clone().map(|own| Arc::new(own) as SharedStore);
    #[cfg(not(feature = "redb"))]
    let (opened, _) = (None::<SharedStore>, clock);
    let store = storage.given.clone().or(opened).unwrap_or_else(|| Arc::new(MemoryStore::new()));
    let store = encrypted(storage, store)?;
    Ok(Opened {
        store,
        #[cfg(feature = "redb")]
        own,
    })
}

fn encrypted(storage: &Storage, store: SharedStore) -> Result<SharedStore, ClusterError> {
    // What is in memory alone ends with the process.
    if storage.plain || !(store.capabilities().durable || storage.key_file.is_some()) {
        return Ok(store);
    }
    let key_file = storage.key_file.clone().or_else(|| storage.data.as_ref().map(|folder| folder.join(KEY_FILE)));
    let keys = KeyRing::load_or_generate(key_file.ok_or(ClusterError::NoEncryptionKey)?)?;
    let resources = [wharf_store_encrypted::secrets(), wharf_apiserver::pki::record_key().resource];
    Ok(Arc::new(EncryptedStore::new(store, keys, resources)))
}
