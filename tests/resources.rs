//! What is served, beside what controllers look after.

use std::collections::BTreeSet;

use wharf_apiserver::resources::ResourceTable;

/// What a namespace has goes with it.
#[test]
fn a_deleted_namespace_is_emptied_of_every_kind() {
    let emptied: BTreeSet<(String, String)> =
        wharf_controllers::resources::namespaced().into_iter().map(|resource| (resource.group, resource.plural)).collect();
    let served = ResourceTable::builtin();
    let missing: BTreeSet<_> = served
        .iter()
        .filter(|row| row.namespaced && row.verbs.contains(&"delete"))
        .map(|row| (row.storage.group.to_string(), row.storage.resource.to_string()))
        .filter(|stored| !emptied.contains(stored))
        .collect();
    assert!(missing.is_empty(), "controllers/src/resources.rs lacks {missing:?}");
}
