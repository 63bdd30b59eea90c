//! Expressions over a write: match conditions of webhooks and policies.

use std::sync::OnceLock;

use serde_json::{Value, json};
use wharf_cel::{Budget, Compiled, Val};

use super::matching::operation;
use crate::resources::Resource;
use crate::resources::value::{as_map, items, text};
use crate::rest::admission::{AdmissionRequest, Operation};

/// What match conditions speak of.
const VARIABLES: &[&str] = &["object", "oldObject", "request", "authorizer"];

/// What a request says of itself.
fn options(request: &AdmissionRequest) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update if request.patched => "PatchOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if request.dry_run {
        as_map(&mut options).insert("dryRun".into(), json!(["All"]));
    }
    if !request.field_manager.is_empty() && request.operation != Operation::Delete {
        as_map(&mut options).insert("fieldManager".into(), request.field_manager.as_str().into());
    }
    options
}

/// A request as reviews and expressions have it, without its objects; `row` is the resource in the version that it is shown in.
pub(super) fn request(request: &AdmissionRequest, row: Option<&Resource>) -> Value {
    let kind = |group: &str, version: &str| json!({"group": group, "version": version, "kind": request.kind});
    let resource = |group: &str, version: &str| json!({"group": group, "version": version, "resource": request.resource});
    let (made_kind, made_resource) = (kind(&request.group, &request.version), resource(&request.group, &request.version));
    let (shown_kind, shown_resource) = match row {
        Some(row) => (kind(&row.group, &row.version), resource(&row.group, &row.version)),
        None => (made_kind.clone(), made_resource.clone()),
    };
    let user = &request.user;
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        as_map(&mut info).insert("uid".into(), user.uid.as_str().into());
    }
    if !user.extra.is_empty() {
        as_map(&mut info).insert("extra".into(), json!(user.extra));
    }
    let mut asked = json!({"kind": shown_kind, "resource": shown_resource, "requestKind": made_kind, "requestResource": made_resource,
        "operation": operation(request.operation), "userInfo": info, "dryRun": request.dry_run, "options": options(request)});
    let map = as_map(&mut asked);
    for (name, value) in [("name", &request.name), ("namespace", &request.namespace)] {
        if !value.is_empty() {
            map.insert(name.into(), value.as_str().into());
        }
    }
    if !request.subresource.is_empty() {
        map.insert("subResource".into(), request.subresource.as_str().into());
        map.insert("requestSubResource".into(), request.subresource.as_str().into());
    }
    asked
}

/// Named expressions that all have to hold.
#[derive(Debug)]
pub(super) struct Conditions(Vec<Condition>);

#[derive(Debug)]
struct Condition {
    name: String,
    source: String,
    compiled: OnceLock<Result<Compiled, String>>,
}

impl Conditions {
    /// Reads `matchConditions`.
    pub(super) fn read(value: &Value) -> Self {
        let conditions = items(value, &["matchConditions"]).iter();
        let read = |c: &Value| Condition {
            name: text(c, &["name"]).to_owned(),
            source: text(c, &["expression"]).to_owned(),
            compiled: OnceLock::new(),
        };
        Self(conditions.map(read).collect())
    }

    /// Whether all hold of a request, in the form that [`request`] gives it. One that does not hold counts before one that cannot be told.
    ///
    /// # Errors
    /// What could not be told, and why.
    pub(super) fn hold(&self, asked: &Value, object: &Value, old: &Value) -> Result<bool, String> {
        let mut failed = Vec::new();
        let mut budget = Budget::object();
        for condition in &self.0 {
            let compiled = condition.compiled.get_or_init(|| Compiled::new(&condition.source, VARIABLES).map_err(|e| e.to_string()));
            let variables = || {
                let of = |name: &str, value| (name.to_owned(), Val::of(value, None, true));
                vec![of("object", object), of("oldObject", old), ("request".to_owned(), Val::of(asked, None, false))]
            };
            let told = match compiled {
                Ok(compiled) => compiled.evaluate(variables(), &mut budget).map_err(|e| e.to_string()),
                Err(error) => Err(error.clone()),
            };
            match told {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => failed.push(format!("expression '{}' resulted in error: it is no bool", condition.name)),
                Err(why) => failed.push(format!("expression '{}' resulted in error: {why}", condition.source)),
            }
        }
        if failed.is_empty() { Ok(true) } else { Err(failed.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::request::User;

    fn held(expressions: &[&str]) -> Result<bool, String> {
        let list: Vec<Value> = expressions.iter().map(|e| json!({"name": "n", "expression": e})).collect();
        let made = AdmissionRequest {
            resource: "configmaps".into(),
            kind: "ConfigMap".into(),
            version: "v1".into(),
            namespace: "ns".into(),
            ..AdmissionRequest::new(Arc::new(User::master("me")), Operation::Create)
        };
        let object = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
        Conditions::read(&json!({"matchConditions": list})).hold(&request(&made, None), &object, &Value::Null)
    }

    #[test]
    fn conditions() {
        assert_eq!(held(&[]), Ok(true));
        assert_eq!(held(&["object.metadata.name == 'a'", "oldObject == null", "request.userInfo.username == 'me'"]), Ok(true));
        assert_eq!(held(&["request.operation == 'CREATE' && request.resource.resource == 'configmaps'"]), Ok(true));
        assert_eq!(held(&["object.metadata.name == 'b'"]), Ok(false));
        // What does not hold counts before what cannot be told.
        assert_eq!(held(&["object.data.none == 'b'", "false"]), Ok(false));
        assert!(held(&["object.data.none == 'b'"]).unwrap_err().contains("no such key"));
    }
}
