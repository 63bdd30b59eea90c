//! As much OpenAPI v3 as clients need to learn that the server validates fields itself: paths, no schemas.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::resources::ResourceTable;

/// The document at a path.
pub fn answer(table: &ResourceTable, path: &str) -> Option<Bytes> {
    let rest = path.strip_prefix("/openapi/v3")?;
    let value = match rest.trim_matches('/') {
        "" => index(table),
        "version" => return None,
        "api/v1" => document(table, "", "v1")?,
        other => {
            let (group, version) = other.strip_prefix("apis/")?.split_once('/')?;
            document(table, group, version)?
        }
    };
    Some(value.to_string().into())
}

fn index(table: &ResourceTable) -> Value {
    let paths: Map<String, Value> = table
        .groups()
        .into_iter()
        .map(|(group, version)| {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

fn document(table: &ResourceTable, group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    for row in table.iter().filter(|r| r.group == group && r.version == version && !r.is_review()) {
        let prefix = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
        let parameters = Value::from(vec![parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"), parameter("force")]);
        let operation = json!({
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": row.kind},
        });
        let of = |action: &str| {
            let mut operation = operation.clone();
            if let Some(map) = operation.as_object_mut() {
                map.insert("x-kubernetes-action".into(), action.into());
            }
            operation
        };
        paths.insert(format!("{prefix}{scope}/{}", row.plural), json!({"post": of("post")}));
        paths.insert(format!("{prefix}{scope}/{}/{{name}}", row.plural), json!({"put": of("put"), "patch": of("patch")}));
    }
    if paths.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Wharf", "version": env!("CARGO_PKG_VERSION")}, "paths": paths, "components": {"schemas": {}},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_field_validation() {
        let table = ResourceTable::builtin();
        let text = String::from_utf8(answer(&table, "/openapi/v3/apis/apps/v1").unwrap().to_vec()).unwrap();
        assert!(text.contains("fieldValidation") && text.contains("\"kind\":\"Deployment\""));
        assert!(answer(&table, "/openapi/v3").is_some());
        assert!(answer(&table, "/openapi/v3/apis/none/v1").is_none());
    }
}
