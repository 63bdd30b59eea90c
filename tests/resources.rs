//! What is served, beside what controllers look after.

use std::collections::BTreeSet;

use kube::core::ApiResource;
use wharf_apiserver::resources::ResourceTable;

fn missing(listed: Vec<ApiResource>, namespaced: bool) -> BTreeSet<(String, String)> {
    let listed: BTreeSet<(String, String)> = listed.into_iter().map(|resource| (resource.group, resource.plural)).collect();
    let table = ResourceTable::builtin();
    let rows = table.iter().filter(|row| row.namespaced == namespaced && row.verbs.contains(&"delete"));
    let stored = rows.map(|row| (row.storage.group.to_string(), row.storage.resource.to_string()));
    stored.filter(|stored| !listed.contains(stored)).collect()
}

/// What a namespace has goes with it.
#[test]
fn a_deleted_namespace_is_emptied_of_every_kind() {
    let missing = missing(wharf_controllers::resources::namespaced(), true);
    assert!(missing.is_empty(), "controllers/src/resources.rs lacks {missing:?}");
}

/// Whatever can be deleted can wait for its dependents to go first, or to be let go of.
#[test]
fn garbage_of_every_kind_is_collected() {
    let missing = missing(wharf_controllers::resources::cluster_scoped(), false);
    assert!(missing.is_empty(), "controllers/src/resources.rs lacks {missing:?}");
}
