//! Follows the definitions in the store: status, rows of the table, deletion of what is left.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use wharf_core::api::ApiError;
use wharf_core::cache::Cache;
use wharf_core::store::ResourceId;

use crate::crd::names::{Taken, accept, is_true, set_condition};
use crate::crd::{FINALIZER, GROUP, PLURAL, kind};
use crate::request::User;
use crate::resources::Resource;
use crate::resources::value::{at, items, object, text};
use crate::rest::{DeleteOptions, Registry, WriteContext, status};
use crate::webhook::Webhooks;

/// How long to wait after a pass that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Most objects of a definition that are deleted before others are looked at.
const DELETE_BATCH: usize = 500;

/// What rows depend on: uid and generation of the definition, the names it has been given, and whether it is going.
type Signature = (String, i64, String, bool);

/// The follower of definitions.
#[derive(Debug)]
pub(crate) struct Definitions {
    registry: Arc<Registry>,
    hooks: Webhooks,
    cache: Arc<Cache>,
    /// The rows that are in the table, by name of their definition.
    served: HashMap<String, (Signature, Vec<(String, String)>)>,
}

fn signature(definition: &Value) -> Signature {
    let names = at(definition, &["status", "acceptedNames"]).map(Value::to_string).unwrap_or_default();
    let generation = at(definition, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    let going = at(definition, &["metadata", "deletionTimestamp"]).is_some();
    (text(definition, &["metadata", "uid"]).to_owned(), generation, names, going)
}

impl Definitions {
    /// Puts the rows of the definitions that are stored already into the table, and follows them until `stop` is cancelled.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn start(registry: Arc<Registry>, hooks: Webhooks, stop: CancellationToken) -> Result<(), ApiError> {
        let cache = registry.caches().of(&ResourceId::new(GROUP, PLURAL)).await.map_err(status::of_cache)?;
        let mut this = Self { registry, hooks, cache, served: HashMap::new() };
        let stored = this.read();
        this.serve(&stored);
        tokio::spawn(async move { stop.clone().run_until_cancelled(this.follow()).await });
        Ok(())
    }

    /// Ends when the caches are stopped.
    async fn follow(mut self) {
        loop {
            let Ok((_, mut watcher)) = self.cache.list_and_watch(None) else { return };
            loop {
                match self.pass().await {
                    Ok(false) => {}
                    // There is more to delete.
                    Ok(true) => continue,
                    Err(error) => {
                        tracing::warn!("definitions of custom resources: {error}");
                        self.registry.clock().sleep(RETRY).await;
                        continue;
                    }
                }
                if watcher.next().await.is_err() {
                    break;
                }
            }
            // What was missed is in the list.
            self.registry.clock().sleep(RETRY).await;
        }
    }

    /// The definitions as they are now, oldest first, so that who came first keeps names.
    fn read(&self) -> Vec<Value> {
        let decode = |o: &Arc<wharf_core::object::Object>| serde_json::from_slice::<Value>(o.bytes()).ok();
        let mut all: Vec<Value> = self.cache.list(None).items.iter().filter_map(decode).collect();
        all.sort_by_cached_key(|d| (text(d, &["metadata", "creationTimestamp"]).to_owned(), text(d, &["metadata", "name"]).to_owned()));
        all
    }

    /// One look at everything. Answers whether there is more to delete.
    async fn pass(&mut self) -> Result<bool, ApiError> {
        let mut all = self.read();
        let before = all.clone();
        let now = self.registry.timestamp();
        for i in 0..all.len() {
            let Some(definition) = all.get(i) else { continue };
            if at(definition, &["metadata", "deletionTimestamp"]).is_some() {
                continue;
            }
            let group = text(definition, &["spec", "group"]).to_owned();
            let mut taken = Taken::default();
            let others = all.iter().enumerate().filter(|(j, other)| *j != i && text(other, &["spec", "group"]) == group);
            others.for_each(|(_, other)| taken.add(other));
            let wanted = accept(definition, &taken, &now);
            if let Some(place) = all.get_mut(i) {
                *place = wanted;
            }
        }
        // Served before it is said to be, so that who waits for that finds it.
        self.serve(&all);
        for (wanted, found) in all.iter().zip(&before) {
            if wanted != found {
                self.write("status", wanted).await?;
            }
        }
        let mut more = false;
        for definition in all.iter().filter(|d| at(d, &["metadata", "deletionTimestamp"]).is_some()) {
            more |= self.clean(definition, &now).await?;
        }
        Ok(more)
    }

    /// Makes the table agree with the definitions.
    fn serve(&mut self, all: &[Value]) {
        let mut fresh: BTreeMap<String, (Signature, Option<Vec<Resource>>)> = BTreeMap::new();
        for definition in all.iter().filter(|d| is_true(d, "Established")) {
            let name = text(definition, &["metadata", "name"]).to_owned();
            let signature = signature(definition);
            let same = self.served.get(&name).is_some_and(|(old, _)| *old == signature);
            fresh.insert(name, (signature, (!same).then(|| kind::rows(definition, &self.hooks))));
        }
        let gone: Vec<String> = self.served.keys().filter(|name| !fresh.contains_key(*name)).cloned().collect();
        if gone.is_empty() && fresh.values().all(|(_, rows)| rows.is_none()) {
            return;
        }
        self.registry.served().change(|table| {
            let mut remove = |keys: &[(String, String)]| {
                table.remove(|r| r.custom.is_some() && keys.iter().any(|(group, plural)| r.group == *group && r.plural == *plural));
            };
            for name in gone {
                if let Some((_, keys)) = self.served.remove(&name) {
                    remove(&keys);
                }
            }
            for (name, (_, rows)) in &fresh {
                if let (Some(_), Some((_, keys))) = (rows, self.served.get(name)) {
                    remove(keys);
                }
            }
            for (name, (signature, rows)) in fresh {
                let Some(rows) = rows else { continue };
                let mut keys = Vec::new();
                for row in rows {
                    // What is built in stays as it is.
                    if table.iter().any(|r| r.custom.is_none() && r.group == row.group && r.plural == row.plural) {
                        continue;
                    }
                    let key = (row.group.to_string(), row.plural.to_string());
                    if !keys.contains(&key) {
                        keys.push(key);
                    }
                    table.add(row);
                }
                self.served.insert(name, (signature, keys));
            }
        });
    }

    /// Writes a definition; that somebody else was faster is no failure, since that is seen next.
    async fn write(&self, sub: &str, definition: &Value) -> Result<(), ApiError> {
        let Some(row) = self.registry.row(GROUP, "v1", PLURAL) else { return Ok(()) };
        let ctx = Self::context();
        let name = text(definition, &["metadata", "name"]);
        match Box::pin(self.registry.update(&ctx, &row, sub, "", name, definition.clone())).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn context() -> WriteContext {
        WriteContext { field_manager: "kube-apiserver".to_owned(), ..WriteContext::new(Arc::new(User::master("system:apiserver"))) }
    }

    /// Deletes the objects of a definition that is going, and lets it go once there are none. Answers whether some are left.
    async fn clean(&self, definition: &Value, now: &str) -> Result<bool, ApiError> {
        if !items(definition, &["metadata", "finalizers"]).iter().any(|f| f == FINALIZER) {
            return Ok(false);
        }
        let (group, plural) = (text(definition, &["spec", "group"]), text(definition, &["status", "acceptedNames", "plural"]));
        let mut left = 0;
        // In the version that they are stored in, nothing has to be converted.
        let is_stored = |r: &Resource| r.custom.as_ref().is_some_and(|c| c.served_version() == c.stored_version());
        let table = self.registry.table();
        let rows: Vec<_> = table.iter().filter(|r| r.group == group && r.plural == plural && r.custom.is_some()).collect();
        let row = rows.iter().find(|r| is_stored(r)).or(rows.first()).map(|row| (*row).clone());
        if let Some(row) = row.filter(|_| is_true(definition, "Established")) {
            let cache = self.registry.caches().of(&row.storage).await.map_err(status::of_cache)?;
            cache.consistent().await.map_err(status::of_cache)?;
            let objects = cache.list(None).items;
            for object in objects.iter().take(DELETE_BATCH) {
                let key = object.key();
                let options = DeleteOptions::default();
                match Box::pin(self.registry.delete(&Self::context(), &row, &key.namespace, &key.name, &options)).await {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            cache.consistent().await.map_err(status::of_cache)?;
            left = cache.list(None).items.len();
        }
        if left > 0 {
            // What finalizers hold is looked at again after a while; it changes without the definition's doing.
            self.registry.clock().sleep(RETRY).await;
            return Ok(true);
        }
        let mut done = definition.clone();
        set_condition(&mut done, "Terminating", "False", "InstanceDeletionCompleted", "removed all instances", now);
        let finalizers: Vec<Value> = items(&done, &["metadata", "finalizers"]).iter().filter(|f| *f != FINALIZER).cloned().collect();
        object(&mut done, &["metadata"]).insert("finalizers".into(), finalizers.into());
        self.write("", &done).await?;
        Ok(false)
    }
}
