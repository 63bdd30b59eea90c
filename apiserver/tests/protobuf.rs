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
    let request = request.body(body.to_string().into()).unwrap();
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

    // What protobuf has no words for stays JSON.
    let error = ask(&server, Method::GET, &format!("{MAPS}/none"), &Value::Null).await;
    assert_eq!((error.status().as_u16(), &error.headers()[header::CONTENT_TYPE]), (404, &"application/json".parse().unwrap()));
}
