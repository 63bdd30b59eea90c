//! The CA and the token key in the store, for API servers that share it and no folder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wharf_core::clock::Clock;
use wharf_core::store::{INTERNAL_GROUP, Key, ResourceId, SharedStore, StoreError, Transaction};

use super::{Identity, Pki, PkiError};

/// Where the keys are: a record of the API server's own, that the API does not serve. Its resource is called `secrets`, as what it is.
pub fn record_key() -> Key {
    Key::new(ResourceId::new(INTERNAL_GROUP, "secrets"), "", "cluster-keys")
}

/// What is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    ca_certificate: String,
    ca_key: String,
    token_key: String,
    admin_token: String,
}

impl Keys {
    fn of(pki: &Pki) -> Self {
        Self {
            ca_certificate: pki.ca.certificate.clone(),
            ca_key: pki.ca.key.clone(),
            token_key: pki.token_key_pem.clone(),
            admin_token: pki.admin_token.clone(),
        }
    }
}

fn origin() -> PathBuf {
    PathBuf::from(format!("the store's record {}", record_key()))
}

async fn read(store: &SharedStore) -> Result<Option<Keys>, PkiError> {
    let Some(record) = store.get(&record_key()).await.map_err(PkiError::Store)? else { return Ok(None) };
    let keys = serde_json::from_slice(&record.value);
    keys.map(Some).map_err(|_| PkiError::Content { path: origin(), expected: "keys of a cluster" })
}

pub(super) async fn of_store(store: &SharedStore, clock: &dyn Clock) -> Result<Pki, PkiError> {
    let keys = match read(store).await? {
        Some(keys) => keys,
        None => {
            let made = Pki::generate(clock)?;
            if publish(&made, store).await? {
                return Ok(made);
            }
            // Another was faster, and what it made counts.
            read(store).await?.ok_or_else(|| PkiError::Content { path: origin(), expected: "keys any more" })?
        }
    };
    let ca = Identity { certificate: keys.ca_certificate, key: keys.ca_key };
    Pki::assemble(ca, keys.token_key, keys.admin_token, clock.now(), &origin())
}

pub(super) async fn publish(pki: &Pki, store: &SharedStore) -> Result<bool, PkiError> {
    let keys = Keys::of(pki);
    let value = serde_json::to_vec(&keys).map_err(|e| PkiError::Tls(Box::new(e)))?;
    match store.commit(Transaction::create(record_key(), value.into())).await {
        Ok(_) => Ok(true),
        // It exists, or the answer to a commit of ours was lost: what is there tells.
        Err(StoreError::Conflict { .. } | StoreError::OutcomeUnknown { .. }) => {
            let found = read(store).await?;
            Ok(found.is_some_and(|found| found.ca_certificate == keys.ca_certificate && found.token_key == keys.token_key))
        }
        Err(error) => Err(PkiError::Store(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use wharf_core::clock::SystemClock;
    use wharf_store_memory::MemoryStore;

    #[tokio::test]
    async fn the_first_makes_them_and_the_others_read_them() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let clock = SystemClock::default();
        let (a, b) = tokio::join!(Pki::of_store(&store, &clock), Pki::of_store(&store, &clock));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.ca_certificate(), b.ca_certificate());
        assert_eq!(a.token_key().jwks(), b.token_key().jwks());
        assert_eq!(a.admin_token(), b.admin_token());
        assert!(a.publish(&store).await.unwrap());
        assert!(!Pki::generate(&clock).unwrap().publish(&store).await.unwrap(), "those that are there stay");
    }

    #[tokio::test]
    async fn something_else_in_their_place_is_named() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        store.commit(Transaction::create(record_key(), "nonsense".into())).await.unwrap();
        let error = Pki::of_store(&store, &SystemClock::default()).await.unwrap_err();
        assert!(matches!(&error, PkiError::Content { .. }) && error.to_string().contains("cluster-keys"), "{error}");
    }
}
