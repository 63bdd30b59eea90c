//! Ownership: controller references, adoption of orphans, release of what no longer matches.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;
use wharf_core::api::{ApiError, ApiExt, Kind, PatchKind, SharedApi, ref_of};
use wharf_core::selector::Selector;

/// A reference that makes `owner` the controller of an object.
pub fn controller_reference<K: Kind>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controlling owner of an object.
pub fn controller_of<K: kube::Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.as_deref()?.iter().find(|o| o.controller == Some(true))
}

/// What to do about an object that may belong to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is owned and matches.
    Keep,
    /// It is owned and no longer matches.
    Release,
    /// It matches and nobody controls it.
    Adopt,
    /// It is not ours.
    Ignore,
}

/// Decides about one object. An owner that is being deleted neither adopts nor releases.
pub fn claim_of<O: Kind, D: Kind>(owner: &O, selector: &Selector, object: &D) -> Claim {
    let matches = selector.matches_opt(object.meta().labels.as_ref());
    let going = owner.meta().deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.meta().uid.as_ref() => Claim::Ignore,
        Some(_) if matches || going => Claim::Keep,
        Some(_) => Claim::Release,
        None if matches && !going && object.meta().deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Adopts and releases; answers the objects that `owner` controls then.
///
/// # Errors
/// When a change is refused for another reason than the object being gone or changed, or when the owner cannot be read.
pub async fn claim<O: Kind, D: Kind>(
    api: &SharedApi,
    owner: &O,
    selector: &Selector,
    objects: Vec<Arc<D>>,
) -> Result<Vec<Arc<D>>, ApiError> {
    let mut may_adopt = None;
    let mut claimed = Vec::new();
    for object in objects {
        match claim_of(owner, selector, &*object) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Release => {
                let mut owners = object.meta().owner_references.clone().unwrap_or_default();
                owners.retain(|o| Some(&o.uid) != owner.meta().uid.as_ref());
                set_owners(api, &*object, owners).await?;
            }
            Claim::Adopt => {
                // The cached owner may be gone or replaced by one of the same name: only the API knows.
                let allowed = match may_adopt {
                    Some(allowed) => allowed,
                    None => {
                        let live = api.get_opt::<O>(&ref_of(owner)).await?;
                        live.is_some_and(|l| l.meta().uid == owner.meta().uid && l.meta().deletion_timestamp.is_none())
                    }
                };
                may_adopt = Some(allowed);
                if allowed {
                    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
                    owners.push(controller_reference(owner));
                    claimed.extend(set_owners(api, &*object, owners).await?);
                }
            }
        }
    }
    Ok(claimed)
}

async fn set_owners<D: Kind>(api: &SharedApi, object: &D, owners: Vec<OwnerReference>) -> Result<Option<Arc<D>>, ApiError> {
    // The resourceVersion makes it a change of exactly what was looked at.
    let meta = object.meta();
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}});
    match api.patch::<D>(&ref_of(object), "", PatchKind::Merge, &patch).await {
        Ok(changed) => Ok(Some(changed)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    fn owner(uid: &str) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.uid = Some(uid.into());
        set
    }

    fn pod(labels: &[(&str, &str)], controller: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.labels = Some(labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
        pod.metadata.owner_references = controller.map(|uid| vec![controller_reference(&owner(uid))]);
        pod
    }

    #[test]
    fn claims() {
        let selector: Selector = "app=web".parse().unwrap();
        let web = [("app", "web")];
        let db = [("app", "db")];
        let mut going = owner("1");
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        for (owner, pod, want) in [
            (&owner("1"), pod(&web, Some("1")), Claim::Keep),
            (&owner("1"), pod(&web, Some("2")), Claim::Ignore),
            (&owner("1"), pod(&db, Some("1")), Claim::Release),
            (&owner("1"), pod(&web, None), Claim::Adopt),
            (&owner("1"), pod(&db, None), Claim::Ignore),
            (&going, pod(&web, None), Claim::Ignore),
            (&going, pod(&db, Some("1")), Claim::Keep),
        ] {
            assert_eq!(claim_of(owner, &selector, &pod), want, "{pod:?}");
        }
    }
}
