//! Writes the bootstrap policy and the system's priority classes into the store.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wharf_core::api::Kind;
use wharf_core::clock::Clock;
use wharf_core::object::{encode_typed, resource_id, resource_of};
use wharf_core::runtime::BoxError;
use wharf_core::store::{Expect, Key, ListOptions, MAX_OPS, Op, Scope, SharedStore, StoreError, Transaction};

use super::policy;
use crate::gate::admission::priority_classes;

/// How often a bootstrap that collides with another process's is tried again.
const ATTEMPTS: usize = 8;

/// A bootstrap that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The store failed.
    #[error("the bootstrap policy could not be written: {0}")]
    Store(#[source] StoreError),
    /// An object did not encode.
    #[error("the bootstrap policy does not encode: {0}")]
    Encode(#[source] BoxError),
}

fn put<K: Kind>(objects: Vec<K>, clock: &dyn Clock, ops: &mut Vec<Op>) -> Result<(), BootstrapError> {
    let resource = resource_of::<K>();
    let id = resource_id(&resource);
    let now = clock.now();
    for mut object in objects {
        let meta = object.meta_mut();
        meta.uid = Some(uuid::Uuid::new_v4().to_string());
        meta.creation_timestamp = Some(Time(now));
        let key = Key::new(id.clone(), meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let value = encode_typed(&object).map_err(|e| BootstrapError::Encode(Box::new(e)))?;
        ops.push(Op::Put { key, value, expect: Expect::Absent });
    }
    Ok(())
}

/// Creates the roles, bindings and priority classes that every cluster has and that do not exist. Those that exist stay as they are.
///
/// # Cancellation
/// A dropped bootstrap may have written a part; the next one writes the rest.
///
/// # Errors
/// When the store fails.
pub async fn bootstrap(store: &SharedStore, clock: &dyn Clock) -> Result<(), BootstrapError> {
    let mut ops = Vec::new();
    put(policy::cluster_roles(), clock, &mut ops)?;
    put(policy::cluster_bindings(), clock, &mut ops)?;
    put(priority_classes(), clock, &mut ops)?;
    let (roles, bindings) = policy::system_roles();
    put::<Role>(roles, clock, &mut ops)?;
    put::<RoleBinding>(bindings, clock, &mut ops)?;
    for attempt in 1.. {
        let known = existing(store).await.map_err(BootstrapError::Store)?;
        let missing: Vec<Op> = ops.iter().filter(|op| !known.contains(op.key())).cloned().collect();
        let mut collided = false;
        for ops in missing.chunks(MAX_OPS) {
            match store.commit(Transaction::new(ops.to_vec())).await {
                Ok(_) => {}
                // Another server bootstraps at the same time.
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => collided = true,
                Err(error) => return Err(BootstrapError::Store(error)),
            }
        }
        if !collided {
            break;
        }
    }
    Ok(())
}

async fn existing(store: &SharedStore) -> Result<BTreeSet<Key>, StoreError> {
    let resources = [
        resource_of::<ClusterRole>(),
        resource_of::<ClusterRoleBinding>(),
        resource_of::<PriorityClass>(),
        resource_of::<Role>(),
        resource_of::<RoleBinding>(),
    ];
    let mut keys = BTreeSet::new();
    for resource in resources {
        let scope = Scope::Resource(resource_id(&resource));
        let mut options = ListOptions::default();
        loop {
            let page = store.list(&scope, &options).await?;
            options.after = page.records.last().map(|r| r.key.clone());
            keys.extend(page.records.into_iter().map(|r| r.key));
            if !page.more {
                break;
            }
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_is_sound() {
        let roles = policy::cluster_roles();
        let names: BTreeSet<_> = roles.iter().map(|r| r.metadata.name.clone().unwrap()).collect();
        assert_eq!(names.len(), roles.len(), "a name twice");
        for binding in policy::cluster_bindings() {
            assert!(names.contains(&binding.role_ref.name), "{} is bound but not there", binding.role_ref.name);
        }
        for role in &roles {
            let name = role.metadata.name.as_deref().unwrap();
            for rule in role.rules.iter().flatten() {
                let words = rule.verbs.iter().chain(rule.resources.iter().flatten()).chain(rule.non_resource_urls.iter().flatten());
                assert!(words.clone().all(|w| !w.is_empty()), "{name} has an empty word");
                assert!(!rule.verbs.is_empty(), "{name} has a rule without verbs");
            }
        }
    }
}
