//! Where a cluster's keys come from.

use std::path::Path;

use wharf_apiserver::pki::{Pki, PkiError};
use wharf_core::clock::Clock;
use wharf_core::store::SharedStore;

/// The keys of a cluster whose store is its own: those of the folder, or new ones.
pub(crate) fn of_one(folder: Option<&Path>, clock: &dyn Clock) -> Result<Pki, PkiError> {
    match folder {
        Some(folder) => Pki::load_or_generate(folder, clock),
        None => Pki::generate(clock),
    }
}

/// The keys of a cluster of several processes, which must trust each other: those in the store. A folder that has keys wins; where the
/// store has none they are put there for the others.
pub(crate) async fn of_several(folder: Option<&Path>, store: &SharedStore, clock: &dyn Clock) -> Result<Pki, PkiError> {
    let Some(folder) = folder else { return Pki::of_store(store, clock).await };
    let Some(found) = Pki::load(folder, clock)? else { return Pki::of_store(store, clock).await };
    if !found.publish(store).await? {
        tracing::warn!(
            "the keys in {} are not those in the store: other processes of this cluster do not trust what is signed here; remove them to take the store's",
            folder.display()
        );
        return Ok(found);
    }
    // The same keys, and the token that belongs to them.
    Pki::of_store(store, clock).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use wharf_core::clock::SystemClock;
    use wharf_store_memory::MemoryStore;

    #[tokio::test]
    async fn a_folder_that_has_keys_wins_and_gives_them_to_the_others() {
        let (clock, store) = (SystemClock::default(), Arc::new(MemoryStore::new()) as SharedStore);
        let folder = tempfile::tempdir().unwrap();
        let given = Pki::load_or_generate(folder.path(), &clock).unwrap();
        let first = of_several(Some(folder.path()), &store, &clock).await.unwrap();
        let second = of_several(None, &store, &clock).await.unwrap();
        let again = of_several(Some(folder.path()), &store, &clock).await.unwrap();
        for keys in [&first, &second, &again] {
            assert_eq!((keys.ca_certificate(), keys.token_key().jwks()), (given.ca_certificate(), given.token_key().jwks()));
            assert_eq!(keys.admin_token(), first.admin_token());
        }
        // One of its own, although the store has others.
        let stubborn = tempfile::tempdir().unwrap();
        let other = Pki::load_or_generate(stubborn.path(), &clock).unwrap();
        let kept = of_several(Some(stubborn.path()), &store, &clock).await.unwrap();
        assert_eq!(kept.ca_certificate(), other.ca_certificate());
    }

    #[tokio::test]
    async fn an_empty_folder_takes_those_of_the_store_and_stays_empty() {
        let (clock, store) = (SystemClock::default(), Arc::new(MemoryStore::new()) as SharedStore);
        let folder = tempfile::tempdir().unwrap();
        let first = of_several(Some(&folder.path().join("pki")), &store, &clock).await.unwrap();
        let second = of_several(None, &store, &clock).await.unwrap();
        assert_eq!(first.ca_certificate(), second.ca_certificate());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
