//! What clients should not send: each is refused with Kubernetes' Status, memory stays bounded, and others notice nothing.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::{RequestUser, User};
use wharf_core::clock::SystemClock;
use wharf_store_memory::MemoryStore;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

struct World(ApiServer);

impl World {
    async fn new() -> Self {
        let world = Self(ApiServer::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).build().await.unwrap());
        let (code, _) = world.send(Method::POST, MAPS, JSON, json!({"metadata": {"name": "bystander"}}).to_string()).await;
        assert_eq!(code, 201);
        world
    }

    async fn send(&self, method: Method, uri: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(uri).header("content-type", content_type);
        request.extensions_mut().unwrap().insert(RequestUser(Arc::new(User::master("admin"))));
        let response = self.0.service().clone().oneshot(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// The Status that something is refused with; it is whole, and another object can be read as before.
    async fn refused(&self, method: Method, uri: &str, content_type: &str, body: impl Into<Bytes>) -> Value {
        let (code, status) = self.send(method, uri, content_type, body).await;
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{code} {status}");
        assert_eq!(status["code"], code);
        assert!(status["reason"].is_string() && status["message"].is_string(), "{status}");
        let (code, _) = self.send(Method::GET, &format!("{MAPS}/bystander"), "", "").await;
        assert_eq!(code, 200);
        status
    }
}

fn says(status: &Value, code: u16, reason: &str, text: &str) {
    assert_eq!((&status["code"], &status["reason"]), (&json!(code), &json!(reason)), "{status}");
    assert!(status["message"].as_str().unwrap().contains(text), "{status}");
}

#[tokio::test]
async fn deep_and_huge_bodies() {
    let w = World::new().await;
    let deep = format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":{}", "{\"a\":".repeat(50_000));
    says(&w.refused(Method::POST, MAPS, JSON, deep).await, 400, "BadRequest", "exceeded max depth");
    let arrays = "[".repeat(1_000_000);
    says(&w.refused(Method::POST, MAPS, JSON, arrays.clone()).await, 400, "BadRequest", "exceeded max depth");
    w.refused(Method::POST, MAPS, "application/yaml", arrays).await;
    let huge = vec![b' '; 4 << 20];
    says(&w.refused(Method::POST, MAPS, JSON, huge.clone()).await, 413, "RequestEntityTooLarge", "limit is 3145728");
    says(
        &w.refused(Method::PATCH, &format!("{MAPS}/bystander"), "application/merge-patch+json", huge).await,
        413,
        "RequestEntityTooLarge",
        "limit is",
    );
}

#[tokio::test]
async fn yaml_bombs() {
    let w = World::new().await;
    let mut bomb = String::from("metadata: {name: a}\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(","));
    }
    w.refused(Method::POST, MAPS, "application/yaml", bomb.clone()).await;
    w.refused(Method::PATCH, &format!("{MAPS}/x?fieldManager=m"), "application/apply-patch+yaml", bomb).await;
}

#[tokio::test]
async fn a_million_patch_operations() {
    let w = World::new().await;
    let operation = br#"{"op":"add"},"#;
    let count = (3 << 20) / operation.len() - 1;
    let mut body = vec![b'['];
    body.extend(operation.repeat(count));
    body.pop();
    body.push(b']');
    let status = w.refused(Method::PATCH, &format!("{MAPS}/bystander"), "application/json-patch+json", body).await;
    assert!(status["code"] == 413 || status["code"] == 400 || status["code"] == 422, "{status}");
}

#[tokio::test]
async fn fields_that_appear_twice_or_not_at_all() {
    let w = World::new().await;
    let twice = r#"{"metadata":{"name":"a","name":"b"},"data":{"k":"1","k":"2"}}"#;
    let status = w.refused(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), JSON, twice).await;
    says(&status, 400, "BadRequest", r#"strict decoding error: duplicate field "metadata.name", duplicate field "data.k""#);
    let (code, made) = w.send(Method::POST, MAPS, JSON, twice).await;
    assert_eq!((code, &made["metadata"]["name"], &made["data"]["k"]), (201, &json!("b"), &json!("2")));
    let patch = r#"{"data":{"k":"1","k":"3"}}"#;
    let uri = format!("{MAPS}/b?fieldValidation=Strict");
    says(&w.refused(Method::PATCH, &uri, "application/merge-patch+json", patch).await, 422, "Invalid", "duplicate field \"data.k\"");
    let unknown = r#"{"metadata":{"name":"c"},"dta":{}}"#;
    let status = w.refused(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), JSON, unknown).await;
    says(&status, 400, "BadRequest", "strict decoding error: unknown field \"dta\"");
    let status = w.refused(Method::POST, &format!("{MAPS}?fieldValidation=Sometimes"), JSON, unknown).await;
    says(&status, 422, "Invalid", "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Sometimes\"");
    assert_eq!(status["details"]["causes"][0]["field"], "fieldValidation");
}

#[tokio::test]
async fn values_of_wrong_types() {
    let w = World::new().await;
    for body in [
        json!({"metadata": {"name": 1}}),
        json!({"metadata": {"name": "a"}, "data": {"k": 1}}),
        json!({"metadata": []}),
        json!({"metadata": {"name": "a", "labels": {"x": {}}}}),
    ] {
        says(
            &w.refused(Method::POST, MAPS, JSON, body.to_string()).await,
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap",
        );
    }
    for body in ["[]", "1", "\"x\"", "null", "true"] {
        says(
            &w.refused(Method::POST, MAPS, JSON, body).await,
            400,
            "BadRequest",
            "the object provided is unrecognized (must be of type ConfigMap)",
        );
    }
    says(&w.refused(Method::POST, MAPS, JSON, "").await, 400, "BadRequest", "unexpected end of JSON input (<empty>)");
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}).to_string();
    says(
        &w.refused(Method::POST, MAPS, JSON, other).await,
        400,
        "BadRequest",
        "converting (v1.Secret) to (core.ConfigMap): unknown conversion",
    );
    let other = json!({"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
    let text = "the API version in the data (apps/v1) does not match the expected API version (v1)";
    says(&w.refused(Method::POST, MAPS, JSON, other).await, 400, "BadRequest", text);
    let other = json!({"metadata": {"name": "a", "namespace": "b"}}).to_string();
    let text = "the namespace of the provided object does not match the namespace sent on the request";
    says(&w.refused(Method::POST, MAPS, JSON, other).await, 400, "BadRequest", text);
    let other = json!({"metadata": {"name": "b"}}).to_string();
    let text = "the name of the object (b) does not match the name on the URL (bystander)";
    says(&w.refused(Method::PUT, &format!("{MAPS}/bystander"), JSON, other).await, 400, "BadRequest", text);
    says(
        &w.refused(Method::POST, MAPS, "text/plain", "{}").await,
        415,
        "UnsupportedMediaType",
        "accepted media types include: application/json",
    );
    says(
        &w.refused(Method::PATCH, &format!("{MAPS}/bystander"), JSON, "{}").await,
        415,
        "UnsupportedMediaType",
        "application/json-patch+json, ",
    );
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let w = World::new().await;
    says(&w.refused(Method::POST, MAPS, JSON, &b"\xff\xfe\x00"[..]).await, 400, "BadRequest", "must be of type ConfigMap");
    // Within a string Kubernetes puts U+FFFD in their place.
    let (code, made) = w.send(Method::POST, MAPS, JSON, &b"{\"metadata\":{\"name\":\"t\"},\"data\":{\"k\":\"a\xffb\"}}"[..]).await;
    assert_eq!((code, &made["data"]["k"]), (201, &json!("a\u{fffd}b")));
    w.refused(Method::POST, MAPS, JSON, &b"{\"metadata\":{\"name\":\"a\xff\"}}"[..]).await;
    w.refused(Method::GET, &format!("{MAPS}/%ff%fe"), "", "").await;
}

#[tokio::test]
async fn selectors_as_long_as_can_be_and_of_nonsense() {
    let w = World::new().await;
    // As long as a request line can be: what is longer ends in the HTTP library, before it is read.
    let long: String = (0..4_000).map(|n| format!("key{n}=value,")).collect();
    w.refused(Method::GET, &format!("{MAPS}?labelSelector={long}"), "", "").await;
    for selector in ["a in", "a in (", "=", "a==b==c", "!", "a notin b", "%00"] {
        let selector = selector.replace(' ', "%20");
        let status = w.refused(Method::GET, &format!("{MAPS}?labelSelector={selector}"), "", "").await;
        assert_eq!(status["reason"], "BadRequest", "{selector}: {status}");
    }
    let status = w.refused(Method::GET, "/api/v1/pods?fieldSelector=spec.what%3D1", "", "").await;
    assert_eq!(status["message"], "field label not supported: spec.what");
    let status = w.refused(Method::GET, "/apis/apps/v1/deployments?fieldSelector=spec.what%3D1", "", "").await;
    assert_eq!(status["message"], "\"spec.what\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
}

#[tokio::test]
async fn tokens_that_were_tampered_with() {
    let w = World::new().await;
    w.send(Method::POST, MAPS, JSON, json!({"metadata": {"name": "second"}}).to_string()).await;
    let (_, page) = w.send(Method::GET, &format!("{MAPS}?limit=1"), "", "").await;
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = w.send(Method::GET, &format!("{MAPS}?limit=1&continue={token}"), "", "").await;
    assert_eq!((code, &rest["items"][0]["metadata"]["name"]), (200, &json!("second")));
    for bad in ["AAAA", "%3F%3F", &token[1..], &format!("{token}x")] {
        says(
            &w.refused(Method::GET, &format!("{MAPS}?continue={bad}"), "", "").await,
            400,
            "BadRequest",
            "invalid continue token: continue key is not valid",
        );
    }
    // Of another namespace's list.
    let status = w.refused(Method::GET, &format!("/api/v1/namespaces/kube-system/configmaps?continue={token}"), "", "").await;
    says(&status, 400, "BadRequest", "continue key is not valid");
    let status = w.refused(Method::GET, &format!("{MAPS}?continue={token}&resourceVersion=5"), "", "").await;
    says(&status, 400, "BadRequest", "specifying resource version is not allowed when using continue");
}

#[tokio::test]
async fn numbers_and_revisions_that_are_none() {
    let w = World::new().await;
    for (query, text) in [
        ("limit=many", "strconv.ParseInt: parsing \"many\": invalid syntax"),
        ("resourceVersion=x", "Invalid value: \"x\""),
        ("resourceVersion=-1", "Invalid value: \"-1\""),
        ("watch=1&timeoutSeconds=soon", "strconv.ParseInt"),
        ("watch=1&resourceVersion=x", "Invalid value: \"x\""),
    ] {
        says(&w.refused(Method::GET, &format!("{MAPS}?{query}"), "", "").await, 400, "BadRequest", text);
    }
    let status = w.refused(Method::GET, &format!("{MAPS}?watch=1&sendInitialEvents=true"), "", "").await;
    says(&status, 422, "Invalid", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueForbidden");
}
