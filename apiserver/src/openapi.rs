//! As much OpenAPI as clients need to learn that the server validates fields itself: paths, no schemas.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::resources::ResourceTable;

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The OpenAPI v2 document: without schemas. kubectl fetches it for kinds that version 3 does not name, and takes
/// a kind that it does not find as one that it cannot check. `accept` is the header of that name.
pub fn version_2(path: &str, accept: &str) -> Option<(&'static str, Bytes)> {
    if path != "/openapi/v2" {
        return None;
    }
    if accept.contains("protobuf") {
        // message Document { string swagger = 1; Info info = 2; } with message Info { string title = 1; string version = 2; }
        return Some((V2_PROTOBUF, Bytes::from_static(b"\x0a\x032.0\x12\x0e\x0a\x05Wharf\x12\x05v1.36")));
    }
    let value = json!({"swagger": "2.0", "info": {"title": "Wharf", "version": "v1.36"}, "paths": {}, "definitions": {}});
    Some(("application/json", value.to_string().into()))
}

/// The OpenAPI v3 document at a path.
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
        let parameters =
            Value::from(vec![parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"), parameter("force")]);
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
    fn version_2_is_well_formed_in_both_forms() {
        let (_, binary) = version_2("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").unwrap();
        // Tag, length, text; tag, length, the rest.
        assert_eq!((binary[0], usize::from(binary[1]), &binary[2..5]), (0x0a, 3, &b"2.0"[..]));
        assert_eq!((binary[5], usize::from(binary[6])), (0x12, binary.len() - 7));
        let (_, text) = version_2("/openapi/v2", "application/json").unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["swagger"], "2.0");
        assert!(version_2("/openapi/v3", "").is_none());
    }

    #[test]
    fn tells_of_field_validation() {
        let table = ResourceTable::builtin();
        let text = String::from_utf8(answer(&table, "/openapi/v3/apis/apps/v1").unwrap().to_vec()).unwrap();
        assert!(text.contains("fieldValidation") && text.contains("\"kind\":\"Deployment\""));
        assert!(answer(&table, "/openapi/v3").is_some());
        assert!(answer(&table, "/openapi/v3/apis/none/v1").is_none());
    }
}
