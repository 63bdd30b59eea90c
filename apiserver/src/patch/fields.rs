//! managedFields of a resource's objects: which schema tells how they are merged, and what a request can change.

use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_patch::apply::{ApplyError, Scope, Writer};
use wharf_patch::{Builtin, Structural};

use super::Changed;
use crate::resources::{Resource, StatusRule};
use crate::rest::status;

/// Longest name of a manager, in bytes.
const MAX_MANAGER: usize = 128;

/// What tells how objects of a resource are merged.
pub(super) enum Form<'a> {
    Builtin(Builtin),
    Custom(Structural<'a>),
}

pub(super) fn form(row: &Resource) -> Form<'_> {
    match &row.custom {
        Some(custom) => Form::Custom(Structural::object(custom.schema())),
        None => Form::Builtin(Builtin::kind(&row.group, &row.version, &row.kind)),
    }
}

/// Writes of a status of these may change labels and annotations as well.
fn reports_in_metadata(row: &Resource) -> bool {
    row.group.is_empty() && matches!(&*row.plural, "pods" | "nodes")
}

fn scope(row: &Resource, sub: &str) -> Scope<'static> {
    match sub {
        "status" | "approval" if reports_in_metadata(row) => Scope::Only(&["status", "metadata"]),
        "status" | "approval" => Scope::Only(&["status"]),
        _ if row.status == StatusRule::Split => Scope::Without(&["status"]),
        _ => Scope::Without(&[]),
    }
}

fn short(manager: &str) -> &str {
    let mut end = manager.len().min(MAX_MANAGER);
    while !manager.is_char_boundary(end) {
        end -= 1;
    }
    manager.get(..end).unwrap_or_default()
}

/// Records what a write other than an apply has changed: answers the managedFields of `new`. `managed` are those of `live`, and `sent` those
/// that the client sent; no object has them in it.
#[allow(clippy::too_many_arguments, reason = "the pieces of one write")]
pub(crate) fn record<'t>(
    row: &Resource,
    live: Option<&'t Value>,
    managed: &'t str,
    new: &'t Value,
    sent: Option<&'t str>,
    manager: &'t str,
    sub: &'t str,
    now: &'t str,
) -> String {
    let version = row.api_version();
    let writer = Writer { manager: short(manager), api_version: &version, subresource: sub, time: now, scope: scope(row, sub) };
    match form(row) {
        Form::Builtin(shape) => wharf_patch::apply::update(shape, live, managed, new, sent, writer),
        Form::Custom(shape) => wharf_patch::apply::update(shape, live, managed, new, sent, writer),
    }
    .into_owned()
}

/// Whether managedFields differ in times at most.
pub(crate) fn same_but_for_times(a: &str, b: &str) -> bool {
    wharf_patch::apply::same_but_for_times(a, b)
}

/// Applies a configuration.
#[allow(clippy::too_many_arguments, reason = "the pieces of one write")]
pub(super) fn apply(
    row: &Resource,
    live: Option<&Value>,
    managed: &str,
    config: &Value,
    manager: &str,
    force: bool,
    sub: &str,
    now: &str,
) -> Result<Changed, ApiError> {
    let version = row.api_version();
    let writer = Writer { manager: short(manager), api_version: &version, subresource: sub, time: now, scope: scope(row, sub) };
    let applied = match form(row) {
        Form::Builtin(shape) => wharf_patch::apply::apply(shape, live, managed, config, writer, force),
        Form::Custom(shape) => wharf_patch::apply::apply(shape, live, managed, config, writer, force),
    };
    let applied = applied.map(|applied| Changed { object: applied.object, managed: Some(applied.managed) });
    applied.map_err(|error| match error {
        ApplyError::Conflicts(ref conflicts) => {
            let cause = |c: &wharf_patch::Conflict| status::cause("FieldManagerConflict", format!("conflict with {}", c.manager), &c.path);
            status::apply_conflict(error.to_string(), conflicts.iter().map(cause).collect())
        }
        ApplyError::ManagedFields => status::bad_request(error.to_string()),
        ApplyError::List { .. } => {
            let at = |name: &str| config.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default();
            let object = format!("{}/{}; {version}, Kind={}", at("namespace"), at("name"), row.kind);
            ApiError::status(500, "", format!("failed to create typed patch object ({object}): {error}"))
        }
        error => ApiError::status(500, "", error.to_string()),
    })
}
