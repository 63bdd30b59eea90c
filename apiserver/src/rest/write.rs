//! create, update and patch.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::{Object, without_revision};
use wharf_core::store::{Expect, Key, Op, Record, ResourceId, Revision, StoreError, Transaction};

use super::admission::{AdmissionRequest, Operation};
use super::versions::{decode, encode, present, present_written, take_managed};
use super::{
    FieldValidation, MAX_RETRIES, Registry, Tracking, WriteContext, Written, commit, names, parts, service_claims, services, status, strict,
};
use crate::patch::{self, Changed, Patch};
use crate::resources::value::{as_map, at, copy_member, items, object, text};
use crate::resources::{DeleteRule, Resource, StatusRule};
use crate::validation;

/// How often another name is made when a generated one is taken.
const NAME_TRIES: usize = 8;

/// A change of an object: from what is there, and its managedFields, to what shall be there.
pub(super) type Change<'a> = &'a (dyn Fn(&Value, &str) -> Result<Changed, ApiError> + Send + Sync);

/// The metadata that the server alone writes.
const SYSTEM_METADATA: &[&str] = &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

impl Registry {
    fn request(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        operation: Operation,
        sub: &str,
        namespace: &str,
        name: &str,
    ) -> AdmissionRequest {
        AdmissionRequest {
            group: row.group.to_string(),
            version: row.version.to_string(),
            resource: row.plural.to_string(),
            kind: row.kind.to_string(),
            subresource: sub.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dry_run: ctx.dry_run,
            field_manager: ctx.field_manager.clone(),
            patched: ctx.patched,
            row: Some(row.clone()),
            ..AdmissionRequest::new(ctx.user.clone(), operation)
        }
    }

    pub(super) fn admission_request(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        operation: Operation,
        sub: &str,
        key: &Key,
        old: Option<Arc<Value>>,
    ) -> AdmissionRequest {
        AdmissionRequest { old, ..self.request(ctx, row, operation, sub, &key.namespace, &key.name) }
    }

    /// Reads a body as the resource's type.
    fn decode(&self, ctx: &WriteContext, row: &Resource, mut value: Value, warnings: &mut Vec<String>) -> Result<Value, ApiError> {
        if !value.is_object() {
            return Err(status::bad_request("the object provided is unrecognized: a JSON object is expected"));
        }
        check_kind(row, &mut value)?;
        let mut unknown = Vec::new();
        let patched = (ctx.patched && ctx.validation == FieldValidation::Strict).then(|| value.to_string());
        let value = row.read(value, &mut |path| unknown.push(path)).map_err(|e| {
            status::bad_request(format!("{} in version \"{}\" cannot be handled as a {}: {e}", row.kind, row.version, row.kind))
        })?;
        warnings.extend(strict::judge(ctx, row, patched.as_deref(), unknown)?);
        Ok(value)
    }

    fn validate(&self, row: &Resource, sub: &str, value: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let mut causes = Vec::new();
        validation::metadata(row, value, old, &mut causes);
        match parts::rule(row, sub).zip(old) {
            Some((rule, old)) => rule(value, old, &mut causes),
            None => row.check(sub, value, old, &mut causes),
        }
        if causes.is_empty() { Ok(()) } else { Err(status::invalid(&row.group, &row.kind, text(value, &["metadata", "name"]), causes)) }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// 400 for what does not decode, 403 and 404 for its namespace, 409 if it exists, 422 for what is invalid.
    pub async fn create(&self, ctx: &WriteContext, row: &Arc<Resource>, namespace: &str, body: Value) -> Result<Written, ApiError> {
        self.create_changed(ctx, row, namespace, body.into()).await
    }

    async fn create_changed(&self, ctx: &WriteContext, row: &Arc<Resource>, namespace: &str, body: Changed) -> Result<Written, ApiError> {
        let mut warnings = Vec::new();
        let mut value = self.decode(ctx, row, body.object, &mut warnings)?;
        let sent = take_managed(&mut value);
        put_namespace(row, &mut value, namespace)?;
        if !text(&value, &["metadata", "resourceVersion"]).is_empty() {
            return Err(status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let base = text(&value, &["metadata", "generateName"]).to_owned();
        let generated = text(&value, &["metadata", "name"]).is_empty() && !base.is_empty();
        let now = self.now();
        let uid = names::uid();
        put_system_metadata(row, &mut value, &uid, &now);
        if generated {
            object(&mut value, &["metadata"]).insert("name".into(), names::generate(&base).into());
        }
        if row.status == StatusRule::Split {
            as_map(&mut value).remove("status");
        }
        parts::prepare(row, &ctx.user, &mut value);
        row.fill(&mut value);
        // As in Kubernetes, what admission adds is nobody's.
        let managed = match ctx.tracking {
            Tracking::Off => body.managed.or(sent).unwrap_or_default(),
            _ => patch::record(row, None, "", &value, sent.as_deref(), &ctx.field_manager, "", &now),
        };
        let mut request = self.request(ctx, row, Operation::Create, "", namespace, text(&value, &["metadata", "name"]));
        let check = self.check_namespace(row, namespace, &request.name, false).await?;
        if self.admission.handles(&request) {
            warnings.extend(self.admission.admit(&request, &mut value).await?);
            // Whoever changed it, this stays the server's.
            put_namespace(row, &mut value, namespace)?;
            put_system_metadata(row, &mut value, &uid, &now);
            row.fill(&mut value);
        }
        self.validate(row, "", &value, None)?;
        warnings.extend(self.admission.validate(&request, &value).await?);
        let mut check = check;
        // Only a Service is given what another server may give out at the same time.
        let mut asked = services::is_service(row).then(|| value.clone());
        self.allocate(row, &mut value, None).await?;
        for attempt in 0.. {
            let key = Self::key(row, namespace, text(&value, &["metadata", "name"]));
            let stored = encode(row, &value, &managed).await?;
            if ctx.dry_run {
                if self.store().get(&key).await.map_err(status::of_store)?.is_some() {
                    return Err(status::already_exists(&row.group, &row.plural, &key.name));
                }
                let object = present_written(row, Object::from_served(key, Revision(0), without_revision(&stored))).await?;
                return Ok(Written { object, warnings, created: true, gone: false });
            }
            let mut ops = vec![Op::Put { key: key.clone(), value: stored.clone(), expect: Expect::Absent }];
            ops.extend(check.clone());
            ops.extend(service_claims::ops(row, &key, None, Some(&value)));
            ops.extend(commit::acquisition(row, &key, None, Some(&value)));
            match self.commit(ctx, Transaction::new(ops)).await? {
                Ok(revision) => {
                    let record = Record { key, value: stored, created: revision, modified: revision };
                    let object = present_written(row, Object::from_record(&record)).await?;
                    return Ok(Written { object, warnings, created: true, gone: false });
                }
                Err(StoreError::Conflict { key: at, .. }) if service_claims::is_claim(&at) && attempt < MAX_RETRIES => {
                    // Another server gave it out meanwhile. Something else is given, or what was asked for is refused.
                    self.claims_seen().await?;
                    if let Some(asked) = &asked {
                        value.clone_from(asked);
                    }
                    self.allocate(row, &mut value, None).await?;
                }
                Err(StoreError::Conflict { key: at, .. }) if at != key && attempt < MAX_RETRIES => {
                    // The namespace has changed meanwhile; it may be terminating now.
                    check = self.check_namespace(row, namespace, &request.name, true).await?;
                }
                Err(StoreError::Conflict { .. }) if generated && attempt < NAME_TRIES => {
                    let name = names::generate(&base);
                    request.name.clone_from(&name);
                    for value in std::iter::once(&mut value).chain(&mut asked) {
                        object(value, &["metadata"]).insert("name".into(), name.as_str().into());
                    }
                }
                Err(StoreError::Conflict { .. }) if generated => {
                    return Err(status::no_unique_name(&row.group, &row.plural, &key.name));
                }
                Err(StoreError::Conflict { .. }) => return Err(status::already_exists(&row.group, &row.plural, &key.name)),
                Err(error) => return Err(status::of_store(error)),
            }
        }
        Err(status::internal("no free name was found"))
    }

    /// The namespace must exist and stay: answers the check to commit together with the create. What the cache knows will do but
    /// for a second try, as the commit finds out whether it is the newest.
    async fn check_namespace(&self, row: &Resource, namespace: &str, name: &str, again: bool) -> Result<Option<Op>, ApiError> {
        if !row.namespaced {
            return Ok(None);
        }
        let key = Key::new(ResourceId::new("", "namespaces"), "", namespace);
        if !again
            && let Some(found) = self.caches.of(&key.resource).await.map_err(status::of_cache)?.get("", namespace)
            && found.meta().deletion_timestamp.is_none()
        {
            return Ok(Some(Op::Check { key, expect: Expect::Revision(found.revision()) }));
        }
        let Some(record) = self.store().get(&key).await.map_err(status::of_store)? else {
            return Err(status::not_found("", "namespaces", namespace));
        };
        let found = Object::from_record(&record);
        if found.meta().deletion_timestamp.is_some() {
            return Err(status::namespace_terminating(&row.group, &row.plural, name, namespace));
        }
        Ok(Some(Op::Check { key, expect: Expect::Revision(record.modified) }))
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// 404, 409 for another resourceVersion, 422.
    pub async fn update(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        sub: &str,
        namespace: &str,
        name: &str,
        body: Value,
    ) -> Result<Written, ApiError> {
        let mut body = body;
        put_namespace(row, &mut body, namespace)?;
        let found = text(&body, &["metadata", "name"]);
        if found.is_empty() {
            let why = format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
            return Err(status::bad_request(why));
        }
        if found != name {
            return Err(status::bad_request(format!("the name of the object ({found}) does not match the name on the URL ({name})")));
        }
        let unconditional = text(&body, &["metadata", "resourceVersion"]).is_empty() && !row.allows_unconditional_update();
        // What is not there is told of first.
        let replace = |_: &Value, _: &str| {
            if unconditional {
                let why = "Invalid value: 0x0: must be specified for an update";
                let cause = status::cause("FieldValueInvalid", why, "metadata.resourceVersion");
                return Err(status::invalid(&row.group, &row.plural, name, vec![cause]));
            }
            Ok(body.clone().into())
        };
        self.change(ctx, row, sub, namespace, name, &replace).await
    }

    /// Replaces an object, or creates it. Whether the kind and the user allow that, the caller has found out.
    ///
    /// # Errors
    /// As [`Self::update`] and [`Self::create`].
    pub(super) async fn update_or_create(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        namespace: &str,
        name: &str,
        mut body: Value,
    ) -> Result<Written, ApiError> {
        // One who names no version creates; Kubernetes demands none of what is not there.
        let key = Self::key(row, namespace, name);
        if self.store().get(&key).await.map_err(status::of_store)?.is_some() || text(&body, &["metadata", "name"]) != name {
            return self.update(ctx, row, "", namespace, name, body).await;
        }
        object(&mut body, &["metadata"]).remove("resourceVersion");
        self.create(ctx, row, namespace, body).await
    }

    /// Patches an object; an apply creates it if it does not exist.
    ///
    /// # Errors
    /// 404, 409, 422 for a patch that does not apply.
    pub(crate) async fn patch(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        sub: &str,
        namespace: &str,
        name: &str,
        patch: &Patch,
    ) -> Result<Written, ApiError> {
        if let Patch::Apply { config, .. } = patch {
            if ctx.field_manager.is_empty() {
                let cause = status::cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager");
                return Err(status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
            }
            let given = text(config, &["metadata", "name"]);
            if !given.is_empty() && given != name {
                return Err(status::bad_request(format!("the name of the object ({given}) does not match the name on the URL ({name})")));
            }
            // The applied fields alone are checked for unknown ones: what is stored has none.
            self.decode(
                &WriteContext { validation: strict_or_ignore(ctx.validation), ..ctx.clone() },
                row,
                config.clone(),
                &mut Vec::new(),
            )?;
        }
        // An apply has told of itself.
        let tracking = if patch.is_apply() { Tracking::Off } else { ctx.tracking };
        let ctx = &WriteContext { tracking, ..ctx.clone() };
        for _ in 0..NAME_TRIES {
            let now = self.now();
            let change = |old: &Value, managed: &str| patch.apply(row, old, managed, &ctx.field_manager, sub, &now);
            match self.change(ctx, row, sub, namespace, name, &change).await {
                Err(error) if error.is_not_found() && sub.is_empty() && patch.is_apply() => {
                    let mut changed = patch.apply(row, &json!({}), "", &ctx.field_manager, sub, &now)?;
                    object(&mut changed.object, &["metadata"]).insert("name".into(), name.into());
                    match self.create_changed(ctx, row, namespace, changed).await {
                        // Somebody else was faster: now it is a change.
                        Err(error) if error.is_already_exists() => {}
                        other => return other,
                    }
                }
                other => return other,
            }
        }
        Err(status::conflict(&row.group, &row.plural, name, status::MODIFIED))
    }

    /// Changes an object; tried again when somebody else was faster, unless the change names a resourceVersion.
    pub(super) async fn change(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        sub: &str,
        namespace: &str,
        name: &str,
        change: Change<'_>,
    ) -> Result<Written, ApiError> {
        let key = Self::key(row, namespace, name);
        for _ in 0..MAX_RETRIES {
            let Some(record) = self.store().get(&key).await.map_err(status::of_store)? else {
                return Err(status::not_found(&row.group, &row.plural, name));
            };
            let (mut old, managed) = decode(row, &record.value).await?;
            object(&mut old, &["metadata"]).insert("resourceVersion".into(), record.modified.to_string().into());
            let new = change(&old, &managed)?;
            if let Some(written) = self.replace(ctx, row, sub, &record, (old, &managed), new).await? {
                return Ok(written);
            }
        }
        Err(status::conflict(&row.group, &row.plural, name, status::MODIFIED))
    }

    /// Puts `new` where `old` is. `None` when somebody else was faster.
    async fn replace(
        &self,
        ctx: &WriteContext,
        row: &Arc<Resource>,
        sub: &str,
        record: &Record,
        (old, old_managed): (Value, &str),
        Changed { object: new, managed }: Changed,
    ) -> Result<Option<Written>, ApiError> {
        let key = &record.key;
        let asked = text(&new, &["metadata", "resourceVersion"]);
        if !asked.is_empty() && asked != record.modified.to_string() {
            return Err(status::conflict(&row.group, &row.plural, &key.name, status::MODIFIED));
        }
        let (uid, old_uid) = (text(&new, &["metadata", "uid"]), text(&old, &["metadata", "uid"]));
        if !uid.is_empty() && uid != old_uid {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
            return Err(status::conflict(&row.group, &row.plural, &key.name, &why));
        }
        if text(&new, &["metadata", "name"]) != &*key.name {
            let cause = status::cause(
                "FieldValueInvalid",
                format!("Invalid value: \"{}\": field is immutable", text(&new, &["metadata", "name"])),
                "metadata.name",
            );
            return Err(status::invalid(&row.group, &row.kind, &key.name, vec![cause]));
        }
        let mut warnings = Vec::new();
        let mut new = self.decode(ctx, row, new, &mut warnings)?;
        let sent = take_managed(&mut new);
        put_namespace(row, &mut new, &key.namespace)?;
        keep_system_metadata(&mut new, &old);
        parts::keep(row, sub, &mut new, &old, &self.now());
        row.fill(&mut new);
        let record_as = |sub| patch::record(row, Some(&old), old_managed, &new, sent.as_deref(), &ctx.field_manager, sub, &self.now());
        // Clients that send no managedFields keep what is there; an empty list takes them away.
        let managed = match ctx.tracking {
            Tracking::Off => managed.unwrap_or_else(|| old_managed.to_owned()),
            Tracking::Update => record_as(sub),
            Tracking::Scale => record_as("scale"),
        };
        let old = Arc::new(old);
        let request = self.admission_request(ctx, row, Operation::Update, sub, key, Some(old.clone()));
        if self.admission.handles(&request) {
            warnings.extend(self.admission.admit(&request, &mut new).await?);
            put_namespace(row, &mut new, &key.namespace)?;
            keep_system_metadata(&mut new, &old);
            parts::keep(row, sub, &mut new, &old, &self.now());
        }
        if sub.is_empty() {
            self.allocate(row, &mut new, Some(&old)).await?;
        }
        bump_generation(row, &mut new, &old);
        self.validate(row, sub, &new, Some(&old))?;
        warnings.extend(self.admission.validate(&request, &new).await?);
        object(&mut new, &["metadata"]).remove("resourceVersion");
        let stored = encode(row, &new, &managed).await?;
        let written = async |object: Object, warnings| {
            Ok(Some(Written { object: present_written(row, object).await?, warnings, created: false, gone: false }))
        };
        if is_finished(row, &new) {
            if ctx.dry_run {
                return written(Object::from_record(&Record { value: stored, ..record.clone() }), warnings).await;
            }
            let mut transaction = Transaction::delete(key.clone(), record.modified);
            transaction.ops.extend(service_claims::ops(row, key, Some(&old), None));
            transaction.ops.extend(commit::acquisition(row, key, Some(&old), None));
            return match self.commit(ctx, transaction).await? {
                Ok(revision) => {
                    let last = Record { key: key.clone(), value: stored, created: record.created, modified: revision };
                    let object = present_written(row, Object::from_record(&last)).await?;
                    Ok(Some(Written { object, warnings, created: false, gone: true }))
                }
                Err(StoreError::Conflict { .. }) => Ok(None),
                Err(error) => Err(status::of_store(error)),
            };
        }
        if is_same(&new, &old) && patch::same_but_for_times(&managed, old_managed) {
            let object = present(row, Arc::new(Object::from_record(record))).await?;
            return Ok(Some(Written { object, warnings, created: false, gone: false }));
        }
        if ctx.dry_run {
            return written(Object::from_record(&Record { value: stored, ..record.clone() }), warnings).await;
        }
        let mut transaction = Transaction::update(key.clone(), stored.clone(), record.modified);
        transaction.ops.extend(service_claims::ops(row, key, Some(&old), Some(&new)));
        transaction.ops.extend(commit::acquisition(row, key, Some(&old), Some(&new)));
        match self.commit(ctx, transaction).await? {
            Ok(revision) => {
                let record = Record { key: key.clone(), value: stored, created: record.created, modified: revision };
                written(Object::from_record(&record), warnings).await
            }
            Err(StoreError::Conflict { key: at, .. }) if service_claims::is_claim(&at) => {
                // Another server gave it out meanwhile: the next try sees so.
                self.claims_seen().await?;
                Ok(None)
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(status::of_store(error)),
        }
    }
}

fn strict_or_ignore(validation: FieldValidation) -> FieldValidation {
    if validation == FieldValidation::Strict { FieldValidation::Strict } else { FieldValidation::Ignore }
}

/// Fills in a missing apiVersion and kind, and refuses others.
pub(super) fn check_kind(row: &Resource, value: &mut Value) -> Result<(), ApiError> {
    let version = row.api_version();
    let map = as_map(value);
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() {
        map.insert("kind".into(), row.kind.as_ref().into());
    } else if kind != row.kind {
        return Err(status::bad_request(format!(
            "{kind} in version \"{0}\" cannot be handled as a {1}: converting ({0}.{kind}) to ({2}.{1}): unknown conversion",
            row.version,
            row.kind,
            if row.group.is_empty() { "core" } else { row.group.split('.').next().unwrap_or_default() },
        )));
    }
    let given = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if given.is_empty() {
        map.insert("apiVersion".into(), version.into());
    } else if given != version {
        return Err(status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        )));
    }
    Ok(())
}

/// The namespace of an object is that of the URL.
fn put_namespace(row: &Resource, value: &mut Value, namespace: &str) -> Result<(), ApiError> {
    if !value.is_object() {
        return Err(status::bad_request("the object provided is unrecognized: a JSON object is expected"));
    }
    let found = text(value, &["metadata", "namespace"]).to_owned();
    let meta = object(value, &["metadata"]);
    if !row.namespaced {
        meta.remove("namespace");
        return Ok(());
    }
    if found.is_empty() {
        meta.insert("namespace".into(), namespace.into());
    } else if found != namespace {
        return Err(status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(())
}

fn put_system_metadata(row: &Resource, value: &mut Value, uid: &str, now: &str) {
    let meta = object(value, &["metadata"]);
    for name in SYSTEM_METADATA.iter().chain(&["resourceVersion"]) {
        meta.remove(*name);
    }
    meta.insert("uid".into(), uid.into());
    meta.insert("creationTimestamp".into(), now.into());
    if row.generation {
        meta.insert("generation".into(), 1.into());
    }
}

fn keep_system_metadata(new: &mut Value, old: &Value) {
    let empty = json!({});
    let from = old.get("metadata").unwrap_or(&empty);
    let to = as_map(new).entry("metadata").or_insert_with(|| json!({}));
    for name in SYSTEM_METADATA {
        copy_member(to, from, name);
    }
}

fn bump_generation(row: &Resource, new: &mut Value, old: &Value) {
    if !row.generation {
        return;
    }
    let differs = {
        let names = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let mut all = names(new);
        all.extend(names(old));
        let ignored =
            |name: &str| matches!(name, "metadata" | "apiVersion" | "kind") || (name == "status" && row.status == StatusRule::Split);
        all.iter().any(|name| !ignored(name) && new.get(name) != old.get(name))
    };
    if differs {
        let generation = at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0) + 1;
        object(new, &["metadata"]).insert("generation".into(), generation.into());
    }
}

/// Whether nothing holds an object any more that is to go.
pub(super) fn is_finished(row: &Resource, value: &Value) -> bool {
    let meta = &["metadata", "deletionTimestamp"];
    at(value, meta).is_some()
        && items(value, &["metadata", "finalizers"]).is_empty()
        && at(value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0) == 0
        && (row.delete != DeleteRule::Namespace || items(value, &["spec", "finalizers"]).is_empty())
}

/// Whether a write changes nothing.
fn is_same(new: &Value, old: &Value) -> bool {
    fn same(new: &Value, old: &Value, but: &str) -> bool {
        let (Value::Object(new), Value::Object(old)) = (new, old) else { return new == old };
        let members = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(but));
        members(new) == members(old) && new.iter().all(|(name, value)| name == but || old.get(name) == Some(value))
    }
    let metadata = |value: &Value| value.get("metadata").is_some();
    same(new, old, "metadata")
        && metadata(new) == metadata(old)
        && (!metadata(new) || same(&new["metadata"], &old["metadata"], "resourceVersion"))
}
