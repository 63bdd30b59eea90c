//! delete and deletecollection.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use wharf_core::api::{ApiError, DeleteParams, Propagation};
use wharf_core::object::Object;
use wharf_core::store::{Record, StoreError, Transaction};

use super::admission::Operation;
use super::read::{ListAnswer, ListRequest};
use super::versions::{decode, encode, present, present_written};
use super::write::is_finished;
use super::{MAX_RETRIES, Registry, WriteContext, Written, commit, service_claims, status, timestamp};
use crate::resources::value::{at, items, number, object, text};
use crate::resources::{DeleteRule, Resource};

/// How to delete.
pub type DeleteOptions = DeleteParams;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const DEFAULT_GRACE: i64 = 30;

impl Registry {
    /// Deletes an object, or marks it for deletion.
    ///
    /// # Errors
    /// 404, 409 for a precondition that does not hold.
    pub async fn delete(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Written, ApiError> {
        let key = Self::key(row, namespace, name);
        for _ in 0..MAX_RETRIES {
            let Some(record) = self.store().get(&key).await.map_err(status::of_store)? else {
                return Err(status::not_found(&row.group, &row.plural, name));
            };
            let (old, managed) = decode(row, &record.value).await?;
            check_preconditions(row, &record, &old, options)?;
            let old = Arc::new(old);
            let request = self.admission_request(ctx, row, Operation::Delete, "", &key, Some(old.clone()));
            let mut nothing = Value::Null;
            let mut warnings = self.admission.admit(&request, &mut nothing).await?;
            warnings.extend(self.admission.validate(&request, &nothing).await?);
            let new = mark(row, &old, options, self.clock.now());
            let gone = is_finished(row, &new);
            if !gone && new == *old {
                let object = present(row, Arc::new(Object::from_record(&record))).await?;
                return Ok(Written { object, warnings, created: false, gone: false });
            }
            let marked = if gone { None } else { Some(encode(row, &new, &managed).await?) };
            drop(managed);
            let mut transaction = match &marked {
                None => Transaction::delete(key.clone(), record.modified),
                Some(marked) => Transaction::update(key.clone(), marked.clone(), record.modified),
            };
            if gone {
                transaction.ops.extend(service_claims::ops(row, &key, Some(&old), None));
                transaction.ops.extend(commit::acquisition(row, &key, Some(&old), None));
            }
            let revision = if ctx.dry_run {
                record.modified
            } else {
                match self.commit(ctx, transaction).await? {
                    Ok(revision) => revision,
                    Err(StoreError::Conflict { .. }) => continue,
                    Err(error) => return Err(status::of_store(error)),
                }
            };
            let object = match marked {
                Some(value) => {
                    let marked = Record { key, value, created: record.created, modified: revision };
                    present_written(row, Object::from_record(&marked)).await?
                }
                None => present(row, Arc::new(Object::from_record(&Record { modified: revision, ..record }))).await?,
            };
            return Ok(Written { object, warnings, created: false, gone });
        }
        Err(status::conflict(&row.group, &row.plural, name, status::MODIFIED))
    }

    /// Deletes the objects that a list shows: a page of them where it has a limit. Answers the list.
    ///
    /// # Errors
    /// The first failure other than that an object is gone already.
    pub async fn delete_collection(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        request: &ListRequest,
        options: &DeleteOptions,
    ) -> Result<ListAnswer, ApiError> {
        let listed = self.list(row, request).await?;
        for object in &listed.items {
            let key = object.key();
            // Boxed: the future of a delete is large.
            match Box::pin(self.delete(ctx, row, &key.namespace, &key.name, options)).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(listed)
    }
}

fn check_preconditions(row: &Resource, record: &Record, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    // Kubernetes names the kind here, where other conflicts name the resource.
    let refuse = |what: &str, asked: &str, found: &str, why: &str| {
        let why = format!(
            "the {what} in the precondition ({asked}) does not match the {what} in record ({found}). The object might have been {why}"
        );
        Err(status::conflict(&row.group, &row.kind, &record.key.name, &why))
    };
    let uid = text(old, &["metadata", "uid"]);
    if let Some(asked) = options.uid.as_deref().filter(|asked| *asked != uid) {
        return refuse("UID", asked, uid, "deleted and then recreated");
    }
    let revision = record.modified.to_string();
    if let Some(asked) = options.resource_version.as_deref().filter(|asked| *asked != revision) {
        return refuse("ResourceVersion", asked, &revision, "modified");
    }
    Ok(())
}

/// The seconds of grace that an object is given.
fn grace(row: &Resource, old: &Value, options: &DeleteOptions) -> i64 {
    if row.delete != DeleteRule::Graceful {
        return 0;
    }
    let asked = options.grace_period_seconds.or_else(|| number(old, &["spec", "terminationGracePeriodSeconds"])).unwrap_or(DEFAULT_GRACE);
    // No node agent has it, or it has ended: nobody to wait for.
    let nobody = text(old, &["spec", "nodeName"]).is_empty() || matches!(text(old, &["status", "phase"]), "Succeeded" | "Failed");
    match asked {
        _ if nobody => 0,
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

/// A definition stays, and says so, until the objects of its kind are gone.
fn hold_definition(definition: &mut Value, now: &str) {
    let finalizer = Value::from(crate::crd::FINALIZER);
    let mut finalizers = items(definition, &["metadata", "finalizers"]).to_vec();
    if !finalizers.contains(&finalizer) {
        finalizers.push(finalizer);
        object(definition, &["metadata"]).insert("finalizers".into(), finalizers.into());
    }
    crate::crd::set_terminating(definition, now);
}

/// An object marked for deletion. The old object, where nothing is to be changed; one that is finished can go.
fn mark(row: &Resource, old: &Value, options: &DeleteOptions, now: Timestamp) -> Value {
    let mut new = old.clone();
    let mut seconds = grace(row, old, options);
    let marked = at(old, &["metadata", "deletionTimestamp"]).is_some();
    let meta = object(&mut new, &["metadata"]);
    if let Some(propagation) = options.propagation {
        let mut finalizers: Vec<Value> = items(old, &["metadata", "finalizers"]).to_vec();
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        match propagation {
            Propagation::Orphan => finalizers.push(ORPHAN.into()),
            Propagation::Foreground => finalizers.push(FOREGROUND.into()),
            Propagation::Background => {}
        }
        if finalizers.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), finalizers.into());
        }
    }
    if marked {
        // Grace is only ever shortened.
        let left = number(old, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
        if row.delete == DeleteRule::Graceful && options.grace_period_seconds.is_none() {
            return new;
        }
        if seconds >= left {
            return new;
        }
    } else {
        let generation = number(old, &["metadata", "generation"]).filter(|g| *g > 0 && row.generation);
        if let Some(generation) = generation {
            meta.insert("generation".into(), (generation + 1).into());
        }
    }
    seconds = seconds.max(0);
    let at = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    meta.insert("deletionTimestamp".into(), timestamp(at).into());
    meta.insert("deletionGracePeriodSeconds".into(), seconds.into());
    if row.delete == DeleteRule::Definition && !marked {
        hold_definition(&mut new, &timestamp(now));
    }
    if row.delete == DeleteRule::Namespace {
        object(&mut new, &["status"]).insert("phase".into(), json!("Terminating"));
    }
    new
}
