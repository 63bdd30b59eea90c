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
