//! Answers in protobuf, as stock controllers ask for them.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;
use wharf_apiserver::server::body::Body;
use wharf_core::clock::ManualClock;
use wharf_schema::protobuf::{MAGIC, MEDIA_TYPE, to_json};
use wharf_store_memory::MemoryStore;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn ask(server: &ApiServer, method: Method, uri: &str, body: &Value) -> Response<Body> {
    let accept = format!("{MEDIA_TYPE}, application/json");
    let request = Request::builder().method(method).uri(uri).header("content-type", "application/json").header("accept", accept);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = request.body(body.into()).unwrap();
    let info = path::parse(request.method(), request.uri());
    server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await
}

async fn value(response: Response<Body>) -> Value {
    assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    to_json(&response.into_body().collect().await.unwrap().to_bytes()).unwrap().unwrap()
}

#[tokio::test]
async fn objects_lists_and_watches() {
    let server = ApiServer::builder(Arc::new(MemoryStore::new()), Arc::new(ManualClock::default())).build().await.unwrap();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y", "empty": ""}});
    let made = value(ask(&server, Method::POST, MAPS, &map).await).await;
    assert_eq!((&made["kind"], &made["data"]), (&json!("ConfigMap"), &map["data"]));
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(value(ask(&server, Method::GET, &format!("{MAPS}/a"), &Value::Null).await).await, made);

    let list = value(ask(&server, Method::GET, &format!("{MAPS}?fieldSelector=metadata.name%3Da"), &Value::Null).await).await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!((&list["items"][0]["data"], &list["items"][0]["metadata"]), (&made["data"], &made["metadata"]));

    let uri = format!("{MAPS}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Da");
    let response = ask(&server, Method::GET, &uri, &Value::Null).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
    let frame = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    assert!(length <= frame.len() - 4);
    assert_eq!(&frame[4..11], b"\x0a\x05ADDED");
    let at = frame.windows(MAGIC.len()).position(|w| w == MAGIC).unwrap();
    assert_eq!(to_json(&frame[at..4 + length]).unwrap().unwrap()["metadata"], made["metadata"]);

    // Everything else that is answered is told in it too.
    let ok = async |method, uri: &str, body: &Value| {
        let response = ask(&server, method, uri, body).await;
        (response.status().as_u16(), value(response).await)
    };
    let (code, error) = ok(Method::GET, &format!("{MAPS}/none"), &Value::Null).await;
    assert_eq!((code, &error["kind"], &error["reason"]), (404, &json!("Status"), &json!("NotFound")));
    assert_eq!(error["message"], "configmaps \"none\" not found");
    let (code, gone) = ok(Method::DELETE, &format!("{MAPS}/a"), &Value::Null).await;
    assert_eq!((code, &gone["status"], &gone["details"]["name"]), (200, &json!("Success"), &json!("a")));
    let (code, review) = ok(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    assert_eq!((code, &review["status"]["userInfo"]["username"]), (201, &json!("admin")), "{review}");
    let access = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, review) = ok(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &access).await;
    assert_eq!((code, &review["status"]["allowed"]), (201, &json!(true)));
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    ok(Method::POST, "/apis/apps/v1/namespaces/default/deployments", &web).await;
    let (_, scale) = ok(Method::GET, "/apis/apps/v1/namespaces/default/deployments/web/scale", &Value::Null).await;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!("Scale"), &json!(2), &json!("a=b")));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    ok(Method::POST, "/api/v1/namespaces/default/pods", &pod).await;
    let bound = ok(Method::POST, "/api/v1/namespaces/default/pods/p/binding", &json!({"target": {"name": "n"}})).await;
    assert_eq!((bound.0, &bound.1["status"]), (201, &json!("Success")));
    let evicted = ok(Method::POST, "/api/v1/namespaces/default/pods/p/eviction", &json!({"metadata": {"name": "p"}})).await;
    assert_eq!((evicted.0, &evicted.1["status"]), (201, &json!("Success")));
}

#[tokio::test]
async fn metadata_alone_and_long_lists() {
    let server = ApiServer::builder(Arc::new(MemoryStore::new()), Arc::new(ManualClock::default())).build().await.unwrap();
    let wide = "x".repeat(10_000);
    for name in 0..20 {
        let map = json!({"metadata": {"name": format!("m{name}"), "labels": {"a": "b"}}, "data": {"k": wide}});
        ask(&server, Method::POST, MAPS, &map).await;
    }
    let uri = format!("{MAPS}?labelSelector=a%3Db");
    // More than one piece of a list, and the whole is one message.
    let list = value(ask(&server, Method::GET, &uri, &Value::Null).await).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 20);
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["data"]["k"] == wide.as_str()));
    for version in ["v1", "v1beta1"] {
        let accept = format!("{MEDIA_TYPE};as=PartialObjectMetadataList;g=meta.k8s.io;v={version}");
        let request = Request::get(&uri).header("accept", &accept).body(bytes::Bytes::new()).unwrap();
        let info = path::parse(request.method(), request.uri());
        let response = server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let api_version = format!("meta.k8s.io/{version}");
        assert!(bytes.starts_with(MAGIC) && bytes.windows(api_version.len()).any(|w| w == api_version.as_bytes()));
        if version == "v1" {
            let list = to_json(&bytes).unwrap().unwrap();
            assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][3]["metadata"]["labels"]["a"]), (20, &json!("b")));
            assert!(list["items"][0].get("data").is_none() && list["metadata"]["resourceVersion"].is_string());
        }
    }
}
