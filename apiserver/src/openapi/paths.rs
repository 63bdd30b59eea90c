//! The paths of a resource and what can be done at each, with the parameters that clients look for.

use serde_json::{Map, Value, json};
use wharf_schema::{Dialect, Type, builtin};

use super::{META_V1, definition};
use crate::resources::Resource;

/// Parameters of writes: kubectl and helm look here for server-side validation and dry runs.
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const APPLY: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// What one operation is.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    parameters: &'static [&'static str],
    /// The definition that is sent, if any, and the one that is answered.
    takes: Option<&'a str>,
    gives: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

/// Adds a row's paths; `refer` is told of the built-in types that they refer to beyond the row's own.
pub(super) fn add(paths: &mut Map<String, Value>, row: &Resource, dialect: Dialect, mut refer: impl FnMut(Type)) {
    let own = definition(row);
    let list = format!("{own}List");
    let (status, delete_options) = (format!("{META_V1}.Status"), format!("{META_V1}.DeleteOptions"));
    let prefix = if row.group.is_empty() { format!("/api/{}", row.version) } else { format!("/apis/{}/{}", row.group, row.version) };
    let base =
        if row.namespaced { format!("{prefix}/namespaces/{{namespace}}/{}", row.plural) } else { format!("{prefix}/{}", row.plural) };
    let of = |method, action, parameters, takes, gives| Operation {
        method,
        action,
        parameters,
        takes,
        gives,
        group: &row.group,
        version: &row.version,
        kind: &row.kind,
    };
    let has = |verb: &str| row.verbs.contains(&verb);
    let all = [
        (has("list"), of("get", "list", LIST, None, list.as_str())),
        (has("create"), of("post", "post", WRITE, Some(own.as_str()), &own)),
        (has("deletecollection"), of("delete", "deletecollection", DELETE, Some(&delete_options), &status)),
    ];
    put(paths, &base, row, dialect, &all, false);
    if row.namespaced && has("list") {
        let everywhere = [(true, of("get", "list", LIST, None, list.as_str()))];
        put(paths, &format!("{prefix}/{}", row.plural), row, dialect, &everywhere, false);
    }
    let one = [
        (has("get"), of("get", "get", &[], None, own.as_str())),
        (has("update"), of("put", "put", WRITE, Some(own.as_str()), &own)),
        (has("patch"), of("patch", "patch", APPLY, Some(own.as_str()), &own)),
        (has("delete"), of("delete", "delete", DELETE, Some(&delete_options), &status)),
    ];
    put(paths, &format!("{base}/{{name}}"), row, dialect, &one, true);
    for name in row.subresources {
        let (kind, creates) = match *name {
            "scale" => (Some(("autoscaling", "v1", "Scale")), false),
            "binding" => (Some(("", "v1", "Binding")), true),
            "eviction" => (Some(("policy", "v1", "Eviction")), true),
            "token" => (Some(("authentication.k8s.io", "v1", "TokenRequest")), true),
            // Streams: no schema tells of them.
            "attach" | "exec" | "log" | "portforward" | "proxy" => continue,
            _ => (None, false),
        };
        let ty = kind.and_then(|(group, version, kind)| builtin().kind(group, version, kind));
        ty.into_iter().for_each(&mut refer);
        let definition: &str = match ty {
            Some(ty) => ty.name(),
            None => &own,
        };
        let (group, version, kind) = kind.unwrap_or((&row.group, &row.version, &row.kind));
        let of =
            |method, parameters, takes| Operation { method, action: method, parameters, takes, gives: definition, group, version, kind };
        let operations = [
            (!creates, of("get", &[][..], None)),
            (!creates, of("put", WRITE, Some(definition))),
            (!creates, of("patch", APPLY, Some(definition))),
            (creates, of("post", WRITE, Some(definition))),
        ];
        put(paths, &format!("{base}/{{name}}/{name}"), row, dialect, &operations, true);
    }
}

fn put(paths: &mut Map<String, Value>, path: &str, row: &Resource, dialect: Dialect, operations: &[(bool, Operation<'_>)], named: bool) {
    let mut item = Map::new();
    for (_, operation) in operations.iter().filter(|(is_there, _)| *is_there) {
        item.insert(operation.method.into(), render(operation, path, row, dialect));
    }
    if item.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    if named {
        parameters.push(in_path("name", dialect));
    }
    if path.contains("{namespace}") {
        parameters.push(in_path("namespace", dialect));
    }
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    paths.insert(path.to_owned(), item.into());
}

fn render(operation: &Operation<'_>, path: &str, row: &Resource, dialect: Dialect) -> Value {
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|name| in_query(name, dialect)).collect();
    let gives = dialect.reference(operation.gives);
    let kind = json!({"group": operation.group, "kind": operation.kind, "version": operation.version});
    let mut out = json!({
        "operationId": operation_id(operation, path, row),
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": kind,
    });
    let is_patch = operation.method == "patch";
    let patch = format!("{META_V1}.Patch");
    match dialect {
        Dialect::V2 => {
            if let Some(takes) = operation.takes {
                let schema = if is_patch { json!({"type": "object"}) } else { dialect.reference(takes) };
                parameters.push(json!({"in": "body", "name": "body", "required": true, "schema": schema}));
            }
            out["consumes"] = if is_patch { PATCHES.into() } else { json!(["*/*"]) };
            out["produces"] = json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]);
            out["responses"] = json!({"200": {"description": "OK", "schema": gives}});
        }
        Dialect::V3 => {
            if let Some(takes) = operation.takes {
                let schema = if is_patch { json!({"type": "object", "title": patch}) } else { dialect.reference(takes) };
                let media = if is_patch { PATCHES } else { &["*/*"] };
                let content: Map<String, Value> = media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect();
                out["requestBody"] = json!({"required": true, "content": content});
            }
            out["responses"] = json!({"200": {"description": "OK", "content": {"application/json": {"schema": gives}}}});
        }
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    out
}

/// `createAppsV1NamespacedDeployment`.
fn operation_id(operation: &Operation<'_>, path: &str, row: &Resource) -> String {
    let group = if row.group.is_empty() { "core" } else { row.group.split('.').next().unwrap_or_default() };
    let verb = match operation.action {
        "get" => "read",
        "post" => "create",
        "put" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let scope = if path.contains("{namespace}") { "Namespaced" } else { "" };
    let capital = |text: &str| text.chars().take(1).flat_map(char::to_uppercase).chain(text.chars().skip(1)).collect::<String>();
    let everywhere = if operation.action == "list" && row.namespaced && scope.is_empty() { "ForAllNamespaces" } else { "" };
    let sub = path.split_once("{name}/").map(|(_, sub)| capital(sub)).unwrap_or_default();
    format!("{verb}{}{}{scope}{}{sub}{everywhere}", capital(group), capital(&row.version), row.kind)
}

fn in_path(name: &str, dialect: Dialect) -> Value {
    match dialect {
        Dialect::V2 => json!({"in": "path", "name": name, "required": true, "type": "string", "uniqueItems": true}),
        Dialect::V3 => json!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}}),
    }
}

fn in_query(name: &str, dialect: Dialect) -> Value {
    let kind = match name {
        "allowWatchBookmarks" | "force" | "orphanDependents" | "sendInitialEvents" | "watch" => "boolean",
        "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    match dialect {
        Dialect::V2 => json!({"in": "query", "name": name, "type": kind, "uniqueItems": true}),
        Dialect::V3 => json!({"in": "query", "name": name, "schema": {"type": kind, "uniqueItems": true}}),
    }
}
