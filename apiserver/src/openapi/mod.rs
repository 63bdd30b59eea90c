//! OpenAPI v2 and v3: what `kubectl explain`, `kubectl apply` and helm learn about kinds and paths from.
//!
//! Documents are made when they are asked for and not kept: clients keep them, by hashes and ETags, and those are made of what the documents
//! are made of. Schemas of built-in kinds come from [`wharf_schema`], those of custom ones from their row ([`CustomKind::schema`]).
//!
//! [`CustomKind::schema`]: crate::resources::custom::CustomKind::schema

mod gnostic;
mod paths;

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wharf_core::api::ApiError;
use wharf_schema::{Definitions, Dialect};

use crate::resources::{Resource, ResourceTable};
use crate::rest::status;
use crate::server::body::{Body, empty, typed};

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What version 2 in protobuf is asked for by; the first is how clients spell it.
const V2_PROTOBUF_ASKED: [&str; 2] = ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_PROTOBUF];
/// How long a document may be kept that was asked for by its hash: a year.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const META_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The answer at a path of OpenAPI; `None` at others.
pub fn answer(table: &ResourceTable, request: &Request<Bytes>) -> Option<Result<Response<Body>, ApiError>> {
    let path = request.uri().path();
    if path == "/openapi/v2" {
        return Some(version_2(table, request));
    }
    let rest = path.strip_prefix("/openapi/v3")?.trim_matches('/');
    if !rest.is_empty() && !path.starts_with("/openapi/v3/") {
        return None;
    }
    Some(version_3(table, request, rest))
}

fn version_2(table: &ResourceTable, request: &Request<Bytes>) -> Result<Response<Body>, ApiError> {
    let content_type = accepted(request, |media| {
        if V2_PROTOBUF_ASKED.contains(&media) {
            return Some(V2_PROTOBUF);
        }
        is_json(media).then_some(JSON)
    })?;
    let etag = format!("\"{}-{}\"", hash(table.iter().map(|row| &**row)), if content_type == JSON { "json" } else { "protobuf" });
    Ok(unless_known(request, &etag, || {
        let mut out = Value::Object(document(table.iter().map(|row| &**row), Dialect::V2));
        let body = if content_type == JSON { out.to_string().into_bytes() } else { gnostic::encode(&mut out) };
        typed(StatusCode::OK, content_type, body)
    }))
}

fn version_3(table: &ResourceTable, request: &Request<Bytes>, path: &str) -> Result<Response<Body>, ApiError> {
    let content_type = accepted(request, |media| is_json(media).then_some(JSON))?;
    if path.is_empty() {
        let body = index(table).to_string();
        let etag = format!("\"{:x}\"", Sha256::digest(body.as_bytes()));
        return Ok(unless_known(request, &etag, || typed(StatusCode::OK, content_type, body)));
    }
    let (group, version) = match path {
        "api/v1" => ("", "v1"),
        other => other.strip_prefix("apis/").and_then(|p| p.split_once('/')).ok_or_else(status::no_such_path)?,
    };
    let rows = || table.iter().map(|row| &**row).filter(|row| row.group == group && row.version == version);
    if rows().next().is_none() {
        return Err(status::no_such_path());
    }
    let hash = hash(rows());
    let asked = request.uri().query().is_some_and(|q| q.split('&').any(|p| p.strip_prefix("hash=") == Some(&hash)));
    let mut response = unless_known(request, &format!("\"{hash}\""), || {
        typed(StatusCode::OK, content_type, Value::Object(document(rows(), Dialect::V3)).to_string())
    });
    if asked {
        response.headers_mut().insert(header::CACHE_CONTROL, FOR_EVER);
    }
    Ok(response)
}

fn is_json(media: &str) -> bool {
    matches!(media, "application/json" | "application/*" | "*/*" | "")
}

/// The first form that a client names and `known` has.
fn accepted(request: &Request<Bytes>, known: impl Fn(&str) -> Option<&'static str>) -> Result<&'static str, ApiError> {
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = |range: &str| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    accept.split(',').find_map(|range| known(&media(range))).ok_or_else(status::not_acceptable)
}

/// The answer, or that the client has it already.
pub(crate) fn unless_known(request: &Request<Bytes>, etag: &str, make: impl FnOnce() -> Response<Body>) -> Response<Body> {
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_known = known.split(',').any(|k| k.trim().trim_start_matches("W/") == etag || k.trim() == "*");
    let mut response = if is_known {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        make()
    };
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// Changes whenever the document of these rows may have changed.
fn hash<'a>(rows: impl Iterator<Item = &'a Resource>) -> String {
    let mut hash = Sha256::new();
    hash.update(wharf_schema::REVISION);
    hash.update(env!("CARGO_PKG_VERSION"));
    for row in rows {
        let scope = if row.namespaced { "Namespaced" } else { "Cluster" };
        for text in [&row.group, &row.version, &row.plural, &row.kind, scope] {
            hash.update(text);
            hash.update([0]);
        }
        for word in row.verbs.iter().chain(row.subresources) {
            hash.update(word);
            hash.update([0]);
        }
        if let Some(custom) = &row.custom {
            hash.update(custom.schema().to_string());
        }
    }
    format!("{:X}", hash.finalize())
}

fn index(table: &ResourceTable) -> Value {
    let paths: Map<String, Value> = table
        .groups()
        .into_iter()
        .map(|(group, version)| {
            let hash = hash(table.iter().map(|row| &**row).filter(|row| row.group == *group && row.version == *version));
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// The definition that a row's objects have: `io.k8s.api.core.v1.Pod`, `com.example.stable.v1.CronTab`.
fn definition(row: &Resource) -> String {
    match wharf_schema::builtin().kind(&row.group, &row.version, &row.kind) {
        Some(ty) if row.custom.is_none() => ty.name().to_owned(),
        _ => {
            let group: Vec<&str> = row.group.split('.').rev().collect();
            format!("{}.{}.{}", group.join("."), row.version, row.kind)
        }
    }
}

fn document<'a>(rows: impl Iterator<Item = &'a Resource>, dialect: Dialect) -> Map<String, Value> {
    let table = wharf_schema::builtin();
    let mut definitions = Definitions::new(dialect);
    let mut others = Map::new();
    let mut all_paths = Map::new();
    for kind in ["DeleteOptions", "Status", "WatchEvent", "ObjectMeta", "ListMeta"] {
        table.named(&format!("{META_V1}.{kind}")).into_iter().for_each(|ty| definitions.add(ty));
    }
    let mut seen = BTreeSet::new();
    for row in rows {
        paths::add(&mut all_paths, row, dialect, |ty| definitions.add(ty));
        let name = definition(row);
        if !seen.insert(name.clone()) {
            continue;
        }
        let builtin = table.kind(&row.group, &row.version, &row.kind).filter(|_| row.custom.is_none());
        match builtin {
            Some(ty) => {
                definitions.add(ty);
                table.kind(&row.group, &row.version, &format!("{}List", row.kind)).into_iter().for_each(|ty| definitions.add(ty));
            }
            None => {
                let list = custom_list(row, &name, dialect);
                others.insert(format!("{name}List"), list);
                others.insert(name, custom(row, dialect));
            }
        }
    }
    let mut schemas = definitions.finish();
    schemas.extend(others);
    let mut out = Map::new();
    let info = json!({"title": "Kubernetes", "version": "v1.36.0"});
    match dialect {
        Dialect::V2 => {
            out.insert("swagger".into(), "2.0".into());
            out.insert("definitions".into(), schemas.into());
        }
        Dialect::V3 => {
            out.insert("openapi".into(), "3.0.0".into());
            out.insert("components".into(), json!({"schemas": schemas}));
        }
    }
    out.insert("info".into(), info);
    out.insert("paths".into(), all_paths.into());
    out
}

fn kinds(row: &Resource, suffix: &str) -> Value {
    json!([{"group": row.group, "kind": format!("{}{suffix}", row.kind), "version": row.version}])
}

/// The schema of a kind that is not built in, with what every kind has. Version 2 takes what it knows of version 3.
fn custom(row: &Resource, dialect: Dialect) -> Value {
    let mut schema = match row.custom.as_ref().map(|custom| custom.schema().clone()) {
        Some(Value::Object(schema)) => schema,
        _ => Map::from_iter([("type".to_owned(), "object".into()), ("x-kubernetes-preserve-unknown-fields".to_owned(), true.into())]),
    };
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Value::Object(properties) = properties {
        for name in ["apiVersion", "kind"] {
            properties.insert(name.into(), json!({"type": "string"}));
        }
        let reference = dialect.reference(&format!("{META_V1}.ObjectMeta"));
        let metadata = if dialect == Dialect::V3 { json!({"allOf": [reference]}) } else { reference };
        properties.insert("metadata".into(), metadata);
    }
    schema.insert("x-kubernetes-group-version-kind".into(), kinds(row, ""));
    let mut schema = Value::Object(schema);
    if dialect == Dialect::V2 {
        only_version_2(&mut schema);
    }
    schema
}

fn custom_list(row: &Resource, name: &str, dialect: Dialect) -> Value {
    json!({
        "description": format!("{0}List is a list of {0}", row.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": dialect.reference(&format!("{META_V1}.ListMeta")),
            "items": {"type": "array", "items": dialect.reference(name)},
        },
        "x-kubernetes-group-version-kind": kinds(row, "List"),
    })
}

/// Takes away what version 2 has no words for. As Kubernetes does, it says less rather than something wrong.
fn only_version_2(schema: &mut Value) {
    if let Value::Object(map) = schema {
        for word in ["allOf", "anyOf", "oneOf", "not", "nullable"] {
            map.remove(word);
        }
        if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
            map.retain(|word, _| matches!(word.as_str(), "description") || word.starts_with("x-"));
        }
        map.values_mut().for_each(only_version_2);
    } else if let Value::Array(items) = schema {
        items.iter_mut().for_each(only_version_2);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn get(path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(&ResourceTable::builtin(), &request.body(Bytes::new()).unwrap())
            .unwrap()
            .unwrap_or_else(|error| crate::server::body::status(&crate::server::body::status_of(error)))
    }

    async fn body(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn the_index_leads_to_documents_that_may_be_kept() {
        let index: Value = serde_json::from_slice(&body(get("/openapi/v3", &[])).await).unwrap();
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        let response = get(url, &[]);
        assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let etag = response.headers()[header::ETAG].to_str().unwrap().to_owned();
        let document: Value = serde_json::from_slice(&body(response).await).unwrap();
        let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        let post = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["post"];
        assert!(post["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        assert_eq!(get(url, &[("if-none-match", &etag)]).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(get("/openapi/v3/apis/none/v1", &[]).status(), StatusCode::NOT_FOUND);
        assert_eq!(get(url, &[("accept", "text/html")]).status(), StatusCode::NOT_ACCEPTABLE);
    }

    #[tokio::test]
    async fn version_2_comes_in_both_forms() {
        let text: Value = serde_json::from_slice(&body(get("/openapi/v2", &[("accept", "application/json")])).await).unwrap();
        assert_eq!(text["swagger"], "2.0");
        assert!(text["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"]["$ref"].is_string());
        let response = get("/openapi/v2", &[("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")]);
        assert_eq!(response.headers()[header::CONTENT_TYPE], V2_PROTOBUF);
        let binary = body(response).await;
        assert_eq!(&binary[..5], b"\x0a\x032.0");
    }

    #[test]
    fn version_2_says_less_where_it_has_no_words() {
        let mut schema = json!({"type": "object", "properties": {"a": {"anyOf": [], "type": "string", "nullable": true},
            "b": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {}}}});
        only_version_2(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"x-kubernetes-preserve-unknown-fields": true}}})
        );
    }
}
