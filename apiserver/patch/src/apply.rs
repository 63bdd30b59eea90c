//! Server-side apply, and the entries of managedFields that all other writes leave.

use serde_json::{Map, Value};

use crate::compare::{self, Side, objects, touched};
use crate::entries::{self, Entry, Operation};
use crate::fields::{self, Fields};
use crate::merge;
use crate::shape::Shape;

pub use crate::compare::Scope;

/// What kubectl calls itself when it applies on the server.
const KUBECTL: &str = "kubectl";
/// The manager of what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Where kubectl keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Longest annotation, in bytes.
const MAX_ANNOTATION: usize = 256 << 10;

/// Who writes, and what of the object.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager; `unknown` if empty.
    pub manager: &'a str,
    /// Version in which the object is written.
    pub api_version: &'a str,
    /// The subresource that is written, or nothing.
    pub subresource: &'a str,
    /// Now, in RFC 3339 to the second.
    pub time: &'a str,
    /// What the request can change.
    pub scope: Scope<'a>,
}

impl Writer<'_> {
    fn entry(&self, operation: Operation, fields: Fields) -> Entry {
        Entry {
            operation,
            time: self.time.into(),
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.into(),
            api_version: self.api_version.into(),
            subresource: self.subresource.into(),
            fields,
        }
    }
}

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who, as messages tell it: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub path: String,
}

/// Why a configuration is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Others own what is to change.
    #[error("{}", told(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration has managedFields.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// The object's managedFields cannot be read.
    #[error("failed to decode managed fields: {0}")]
    Undecodable(&'static str),
    /// A list whose items cannot be told apart.
    #[error("{path}: {why}")]
    List {
        /// Where.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

fn told(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

fn metadata(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.get_mut("metadata").and_then(Value::as_object_mut)
}

fn managed_fields(value: Option<&Value>) -> Value {
    value.and_then(|v| v.get("metadata")).and_then(|m| m.get("managedFields")).cloned().unwrap_or_default()
}

fn put(value: &mut Value, entries: Vec<Entry>) {
    if let Some(meta) = metadata(value)
        && !entries.is_empty()
    {
        meta.insert("managedFields".into(), entries::write(entries));
    }
}

/// Records what a create, an update or a patch of another kind than apply has changed; `live` is what was there before.
///
/// managedFields that the client sent are taken for those of before, if they can be read; `[]` and `[{}]` take all away. An object whose
/// managedFields were taken away is tracked again once it is applied to.
pub fn update<'a, S: Shape<'a>>(shape: S, live: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let sent = metadata(new).and_then(|m| m.remove("managedFields")).unwrap_or_default();
    let entries = if !writer.subresource.is_empty() {
        entries::read(managed_fields(live)).unwrap_or_default()
    } else if entries::is_reset(&sent) {
        Vec::new()
    } else {
        match entries::read(sent) {
            Ok(entries) if !entries.is_empty() => entries,
            _ => entries::read(managed_fields(live)).unwrap_or_default(),
        }
    };
    if entries.is_empty() && live.is_some() {
        return;
    }
    let entries = record(shape, live, new, entries, writer);
    put(new, entries);
}

fn record<'a, S: Shape<'a>>(shape: S, live: Option<&Value>, new: &Value, mut entries: Vec<Entry>, writer: Writer<'_>) -> Vec<Entry> {
    let comparison = objects(shape, live.map_or(Side::Empty, Side::Is), new, writer.scope);
    if comparison.changed.is_empty() && comparison.removed.is_empty() {
        return entries;
    }
    if !entries.is_empty() {
        take_away(&mut entries, &touched(&comparison));
    }
    let own = comparison.changed;
    if !own.is_empty() {
        let mut entry = writer.entry(Operation::Update, own);
        match entries.iter_mut().find(|e| e.is_same(&entry)) {
            Some(before) => {
                before.fields = fields::union(std::mem::take(&mut before.fields), &entry.fields);
                before.time = std::mem::take(&mut entry.time);
            }
            None => entries.push(entry),
        }
    }
    entries::cap(entries)
}

/// Takes fields from everybody; who has none left goes.
fn take_away(entries: &mut Vec<Entry>, gone: &Fields) {
    for entry in entries.iter_mut() {
        entry.fields = fields::difference(std::mem::take(&mut entry.fields), gone);
    }
    entries.retain(|e| !e.fields.is_empty());
}

/// Applies a configuration; `live` is what is there. The answer is the whole object, with managedFields.
///
/// # Errors
/// Conflicts, unless `force`; a configuration that cannot be applied at all.
pub fn apply<'a, S: Shape<'a>>(
    shape: S,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if config.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::ManagedFields);
    }
    let bad_list = |bad: compare::BadList| ApplyError::List { path: bad.path, why: bad.why };
    let mut entries = entries::read(managed_fields(live)).map_err(ApplyError::Undecodable)?;
    if let (Some(live), true) = (live, entries.is_empty()) {
        let first = Writer { manager: BEFORE_FIRST_APPLY, scope: Scope::Without(&[]), subresource: "", ..writer };
        entries = record(shape, None, live, entries, first);
    }
    let wanted = compare::fields_of(shape, config, writer.scope).map_err(bad_list)?;
    let mine = writer.entry(Operation::Apply, wanted);
    let last = entries.iter().position(|e| e.is_same(&mine)).map(|at| entries.remove(at));

    let mut merged = merge::merge(shape, live.map(without_managed_fields), &stripped(config));
    if let Some(last) = last {
        let kept = entries
            .iter()
            .filter(|e| e.operation == Operation::Apply)
            .fold(mine.fields.clone(), |kept, entry| fields::union(kept, &entry.fields));
        merge::prune(shape, &mut merged, &last.fields, Some(&kept));
    }
    let comparison = objects(shape, live.map_or(Side::Empty, Side::Is), &merged, writer.scope);
    if !force {
        let mut found: Vec<(&Entry, Fields)> =
            entries.iter().map(|e| (e, fields::intersection(&e.fields, &comparison.changed))).filter(|(_, f)| !f.is_empty()).collect();
        if let (Some(live), true) = (live, writer.manager == KUBECTL && !found.is_empty()) {
            // Whoever comes from kubectl's client-side apply may change what that has applied.
            let allowed = unchanged_since_applied(shape, live, writer.scope);
            for (_, fields) in &mut found {
                *fields = fields::difference(std::mem::take(fields), &allowed);
            }
        }
        let mut conflicts: Vec<Conflict> = found
            .iter()
            .flat_map(|(entry, set)| fields::paths(set).into_iter().map(|path| Conflict { manager: entry.told(), path }))
            .collect();
        if !conflicts.is_empty() {
            conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    take_away(&mut entries, &touched(&comparison));
    if !mine.fields.is_empty() {
        entries.push(mine);
    }
    if writer.manager == KUBECTL && live.is_some_and(|l| last_applied(l).is_some()) {
        let text = format!("{}\n", without_annotation(config));
        let text = if text.len() > MAX_ANNOTATION { String::new() } else { text };
        if let Some(Value::Object(annotations)) = metadata(&mut merged).and_then(|m| m.get_mut("annotations")) {
            annotations.insert(LAST_APPLIED.into(), text.into());
        }
    }
    if merged.get("metadata").is_none()
        && let Some(map) = merged.as_object_mut()
    {
        map.insert("metadata".into(), Value::Object(Map::new()));
    }
    put(&mut merged, entries);
    Ok(merged)
}

fn without_managed_fields(live: &Value) -> Value {
    let mut live = live.clone();
    if let Some(meta) = metadata(&mut live) {
        meta.remove("managedFields");
    }
    live
}

/// What the server writes is not the applier's to set; uid and resourceVersion are preconditions.
fn stripped(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(meta) = metadata(&mut config) {
        for name in ["generation", "creationTimestamp", "deletionTimestamp", "selfLink", "managedFields"] {
            meta.remove(name);
        }
    }
    config
}

fn last_applied(live: &Value) -> Option<&str> {
    live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()
}

fn without_annotation(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = metadata(&mut config).and_then(|m| m.get_mut("annotations")) {
        annotations.remove(LAST_APPLIED);
    }
    config
}

/// What kubectl applied from the client and nobody has changed since.
fn unchanged_since_applied<'a, S: Shape<'a>>(shape: S, live: &Value, scope: Scope<'_>) -> Fields {
    let Some(applied) = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return Fields::new() };
    let Ok(named) = compare::fields_of(shape, &applied, scope) else { return Fields::new() };
    fields::difference(named, &touched(&objects(shape, Side::Is(&applied), live, scope)))
}
