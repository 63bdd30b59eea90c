//! Claims in the store on cluster IPs and node ports: several API servers may give them out, and none is given twice.
//!
//! A claim is written in the same transaction as the Service that holds it, and must be absent before; it goes with it. So there is none
//! without its Service after a crash, and nothing that only one process knows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::cache::Cache;
use wharf_core::store::{
    Expect, INTERNAL_GROUP, Key, ListOptions, MAX_OPS, Op, Record, ResourceId, Scope, SharedStore, StoreError, Transaction,
};

pub(super) use super::services::Given;
use super::services::{held, is_service};
use super::{Registry, parse_stored, status};
use crate::resources::Resource;
use crate::resources::value::text;

/// What a transaction has room for beside claims: the Service, its namespace, a fence.
const OTHER_OPS: usize = 4;
/// Most addresses and ports that one write of a Service may take and give back.
const MAX_CLAIMS: usize = MAX_OPS - OTHER_OPS;

fn resource() -> ResourceId {
    ResourceId::new(INTERNAL_GROUP, "serviceclaims")
}

fn claim(given: Given) -> Key {
    Key::new(resource(), "", given.to_string())
}

/// Whether a conflict was about a claim.
pub(super) fn is_claim(key: &Key) -> bool {
    key.resource == resource()
}

/// The step that claims something for a Service.
pub(super) fn take(given: Given, service: &Key, expect: Expect) -> Op {
    let value = json!({"namespace": &*service.namespace, "name": &*service.name}).to_string().into();
    Op::Put { key: claim(given), value, expect }
}

/// What becomes of claims when a Service is written: what it holds anew is taken, what it holds no more is given back.
pub(super) fn ops(row: &Resource, key: &Key, old: Option<&Value>, new: Option<&Value>) -> Vec<Op> {
    if !is_service(row) {
        return Vec::new();
    }
    let (had, has) = (old.map(held).unwrap_or_default(), new.map(held).unwrap_or_default());
    let taken = has.difference(&had).map(|given| take(*given, key, Expect::Absent));
    let returned = had.difference(&has).map(|given| Op::Delete { key: claim(*given), expect: Expect::Any });
    taken.chain(returned).collect()
}

/// Every record in scope.
async fn all(store: &SharedStore, scope: Scope) -> Result<Vec<Record>, ApiError> {
    let (mut records, mut options) = (Vec::new(), ListOptions::default());
    loop {
        let page = store.list(&scope, &options).await.map_err(status::of_store)?;
        options.after = page.records.last().map(|r| r.key.clone());
        options.at = Some(page.revision);
        records.extend(page.records);
        if !page.more || options.after.is_none() {
            return Ok(records);
        }
    }
}

impl Registry {
    async fn claims(&self) -> Result<Arc<Cache>, ApiError> {
        self.caches.of(&resource()).await.map_err(status::of_cache)
    }

    /// Waits until what others have claimed is known here.
    pub(super) async fn claims_seen(&self) -> Result<(), ApiError> {
        self.claims().await?.consistent().await.map_err(status::of_cache)
    }

    /// Fills in the addresses of a Service that is about to be written. [`ops`] takes them.
    pub(super) async fn allocate(&self, row: &Resource, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        if !is_service(row) {
            return Ok(());
        }
        let claims = self.claims().await?;
        let taken = |given: Given| claims.get("", &given.to_string()).is_some();
        let asked = service.clone();
        if let Err(first) = self.services.allocate(service, old, &taken) {
            tracing::debug!("looking again: {first}");
            // What stands in the way may have been given back a moment ago.
            claims.consistent().await.map_err(status::of_cache)?;
            *service = asked;
            self.services.allocate(service, old, &taken)?;
        }
        let (had, has) = (old.map(held).unwrap_or_default(), held(service));
        if has.symmetric_difference(&had).count() > MAX_CLAIMS {
            let message = format!("Too many: must have at most {MAX_CLAIMS} node ports");
            let cause = status::cause("FieldValueTooMany", message, "spec.ports");
            return Err(status::invalid("", "Service", text(service, &["metadata", "name"]), vec![cause]));
        }
        Ok(())
    }

    /// Claims what stored Services hold and nobody has claimed, and gives back what no Service holds: after an upgrade, and should a
    /// Service have been written or removed past the API.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn repair_claims(&self) -> Result<(), ApiError> {
        let store = self.store();
        // Claims first: one that comes after this list is not seen as orphaned.
        let claims: BTreeMap<Key, Record> =
            all(store, Scope::Resource(resource())).await?.into_iter().map(|record| (record.key.clone(), record)).collect();
        let services = all(store, Scope::Resource(ResourceId::new("", "services"))).await?;
        let mut wanted = HashSet::new();
        for service in &services {
            for given in held(&parse_stored(&service.value)?) {
                let key = claim(given);
                if wanted.insert(key.clone()) && !claims.contains_key(&key) {
                    let check = Op::Check { key: service.key.clone(), expect: Expect::Revision(service.modified) };
                    self.try_repair(vec![take(given, &service.key, Expect::Absent), check]).await?;
                }
            }
        }
        for (key, record) in claims.into_iter().filter(|(key, _)| !wanted.contains(key)) {
            self.try_repair(vec![Op::Delete { key, expect: Expect::Revision(record.modified) }]).await?;
        }
        Ok(())
    }

    async fn try_repair(&self, ops: Vec<Op>) -> Result<(), ApiError> {
        match self.store().commit(Transaction::new(ops)).await {
            // Somebody else was faster, and whoever it was did it right.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(status::of_store(error)),
        }
    }
}
