//! Server-side apply, and the entries of managedFields that all other writes leave.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::compare::{self, Comparison, Side, objects};
use crate::entries::{self, Entry, Operation};
use crate::fields::Fields;
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

impl<'t> Writer<'t> {
    fn entry(&self, operation: Operation, fields: Fields<'t>) -> Entry<'t> {
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

/// Records what a create, an update or a patch of another kind than apply has changed. `live` is what was there before and `managed` its
/// managedFields; neither object has them in it. The answer is the managedFields of `new`.
///
/// Those that the client `sent` are taken for those of before, if they can be read; `[]` and `[{}]` take all away. An object whose
/// managedFields were taken away is tracked again once it is applied to.
pub fn update<'t, 'a, S: Shape<'a>>(
    shape: S,
    live: Option<&'t Value>,
    managed: &'t str,
    new: &'t Value,
    sent: Option<&'t str>,
    writer: Writer<'t>,
) -> Cow<'t, str> {
    let before = match sent {
        Some(sent) if writer.subresource.is_empty() && entries::is_reset(sent) => Before::Read(Vec::new()),
        Some(sent) if writer.subresource.is_empty() => match entries::read_sent(sent) {
            Some(entries) if !entries.is_empty() => Before::Read(entries),
            _ => Before::Kept,
        },
        _ => Before::Kept,
    };
    let nobody = match &before {
        Before::Read(entries) => entries.is_empty(),
        Before::Kept => managed.is_empty(),
    };
    if nobody && live.is_some() {
        return Cow::Borrowed("");
    }
    let comparison = objects(shape, live.map_or(Side::Empty, Side::Is), new, writer.scope);
    match before {
        // What does not change is not even read.
        Before::Kept if comparison.is_empty() => Cow::Borrowed(managed),
        Before::Kept => Cow::Owned(entries::write(record(comparison, entries::read(managed).unwrap_or_default(), writer))),
        Before::Read(entries) => Cow::Owned(entries::write(record(comparison, entries, writer))),
    }
}

/// Whether two texts of managedFields differ in times at most.
pub fn same_but_for_times(a: &str, b: &str) -> bool {
    let timeless = |text| {
        let mut entries = entries::read(text).ok()?;
        entries.iter_mut().for_each(|entry| entry.time = Cow::Borrowed(""));
        Some(entries)
    };
    a == b || timeless(a).is_some_and(|a| timeless(b) == Some(a))
}

/// The entries that a write begins with.
enum Before<'t> {
    /// Those of the object.
    Kept,
    /// Others.
    Read(Vec<Entry<'t>>),
}

fn record<'t>(comparison: Comparison<'t>, mut entries: Vec<Entry<'t>>, writer: Writer<'t>) -> Vec<Entry<'t>> {
    if comparison.is_empty() {
        return entries;
    }
    take_away(&mut entries, &comparison);
    let own = comparison.changed;
    if !own.is_empty() {
        let entry = writer.entry(Operation::Update, own);
        match entries.iter_mut().find(|e| e.is_same(&entry)) {
            Some(before) => {
                before.fields.add(entry.fields);
                before.time = entry.time;
            }
            None => entries.push(entry),
        }
    }
    entries::cap(entries)
}

/// Takes what differs from everybody; who has nothing left goes.
fn take_away(entries: &mut Vec<Entry<'_>>, gone: &Comparison<'_>) {
    for entry in entries.iter_mut() {
        entry.fields.subtract(&gone.changed);
        entry.fields.subtract(&gone.removed);
    }
    entries.retain(|e| !e.fields.is_empty());
}

/// An object that was applied to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The whole object, without managedFields.
    pub object: Value,
    /// Its managedFields: the text of a list, or nothing.
    pub managed: String,
}

/// Applies a configuration. `live` is what is there and `managed` its managedFields, which it has not in it.
///
/// # Errors
/// Conflicts, unless `force`; a configuration that cannot be applied at all.
pub fn apply<'a, S: Shape<'a>>(
    shape: S,
    live: Option<&Value>,
    managed: &str,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Applied, ApplyError> {
    if config.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::ManagedFields);
    }
    let bad_list = |bad: compare::BadList| ApplyError::List { path: bad.path, why: bad.why };
    let mut entries = entries::read(managed).map_err(ApplyError::Undecodable)?;
    if let (Some(live), true) = (live, entries.is_empty()) {
        let first = Writer { manager: BEFORE_FIRST_APPLY, scope: Scope::Without(&[]), subresource: "", ..writer };
        entries = record(objects(shape, Side::Empty, live, first.scope), entries, first);
    }
    let wanted = compare::fields_of(shape, config, writer.scope).map_err(bad_list)?;
    let mine = writer.entry(Operation::Apply, wanted);
    let last = entries.iter().position(|e| e.is_same(&mine)).map(|at| entries.remove(at));

    let mut merged = merge::merge(shape, live.cloned(), &stripped(config));
    if let Some(last) = last {
        let mut kept = mine.fields.clone();
        entries.iter().filter(|e| e.operation == Operation::Apply).for_each(|entry| kept.add(entry.fields.clone()));
        merge::prune(shape, &mut merged, &last.fields, Some(&kept));
    }
    let comparison = objects(shape, live.map_or(Side::Empty, Side::Is), &merged, writer.scope);
    if !force {
        refuse_conflicts(shape, live, &entries, &comparison, writer)?;
    }
    take_away(&mut entries, &comparison);
    drop(comparison);
    if !mine.fields.is_empty() {
        entries.push(mine);
    }
    let managed = entries::write(entries);
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
    Ok(Applied { object: merged, managed })
}

/// Refuses to change what others own.
fn refuse_conflicts<'a, S: Shape<'a>>(
    shape: S,
    live: Option<&Value>,
    entries: &[Entry<'_>],
    comparison: &Comparison<'_>,
    writer: Writer<'_>,
) -> Result<(), ApplyError> {
    let mut found: Vec<(&Entry<'_>, Fields<'_>)> =
        entries.iter().map(|e| (e, e.fields.intersection(&comparison.changed))).filter(|(_, f)| !f.is_empty()).collect();
    if let (Some(live), true) = (live, writer.manager == KUBECTL && !found.is_empty()) {
        // Whoever comes from kubectl's client-side apply may change what that has applied, as long as nobody else has changed it.
        let applied = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
        if let Ok(mut allowed) = compare::fields_of(shape, &applied, writer.scope) {
            let since = objects(shape, Side::Is(&applied), live, writer.scope);
            allowed.subtract(&since.changed);
            allowed.subtract(&since.removed);
            found.iter_mut().for_each(|(_, fields)| fields.subtract(&allowed));
        }
    }
    let mut conflicts: Vec<Conflict> =
        found.iter().flat_map(|(entry, set)| set.paths().into_iter().map(|path| Conflict { manager: entry.told(), path })).collect();
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
    Err(ApplyError::Conflicts(conflicts))
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
