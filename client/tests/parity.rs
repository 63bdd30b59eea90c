//! The same calls in this process and over HTTP, over one API server: answers and errors are equal.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_client::RemoteApi;
use wharf_core::api::{ApiError, ApiEvent, ApiExt, DeleteParams, PatchKind, Query, SharedApi, Target, Verb, Write};
use wharf_core::clock::{Clock, ManualClock};
use wharf_core::object::{Object, ObjectRef, resource_of};
use wharf_core::store::Revision;
use wharf_store_memory::MemoryStore;

async fn both() -> Vec<(ApiServer, SharedApi)> {
    let mut out = Vec::new();
    for remote in [false, true] {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let server = ApiServer::builder(Arc::new(MemoryStore::default()), clock.clone()).build().await.unwrap();
        server.ready().await;
        let admin = User::master("admin");
        let api: SharedApi =
            if remote { Arc::new(RemoteApi::new(server.kube_client(admin, "default"), clock)) } else { server.local(admin) };
        api.create(&serde_json::from_value::<Namespace>(json!({"metadata": {"name": "t"}})).unwrap()).await.unwrap();
        out.push((server, api));
    }
    out
}

fn map(name: &str) -> Target {
    Target::of::<ConfigMap>(ObjectRef::new("t", name))
}

fn body(name: &str, more: Value) -> bytes::Bytes {
    let mut value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "t"}});
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value.to_string().into()
}

/// What must be equal: two servers give other uids and revisions.
fn shown(answer: Result<Arc<Object>, ApiError>) -> Value {
    match answer {
        Ok(object) => {
            let value: Value = serde_json::from_slice(object.bytes()).unwrap();
            json!({"key": object.key().to_string(), "kind": value["kind"], "data": value["data"]})
        }
        Err(ApiError::Status(status)) => serde_json::to_value(*status).unwrap(),
        Err(other) => json!(other.to_string()),
    }
}

#[tokio::test]
async fn writes_and_refusals_are_equal() {
    let write = |name: &str, verb: Verb| Write { target: map(name), verb, field_manager: "m".into() };
    let patch = |kind, value: Value| Verb::Patch { kind, body: value.to_string().into() };
    let table = || {
        vec![
            write("a", Verb::Create(body("a", json!({"data": {"k": "1"}})))),
            write("a", Verb::Create(body("a", json!({})))),
            write("A_", Verb::Create(body("A_", json!({})))),
            write("a", Verb::Create("{".into())),
            write("a", Verb::Update(body("a", json!({"data": {"k": "2"}})))),
            write("none", Verb::Update(body("none", json!({"metadata": {"name": "none", "resourceVersion": "1"}})))),
            write("a", Verb::Update(body("a", json!({"metadata": {"name": "a", "namespace": "t", "resourceVersion": "1"}})))),
            write("a", patch(PatchKind::Merge, json!({"data": {"m": "1"}}))),
            write("a", patch(PatchKind::Json, json!([{"op": "add", "path": "/data/j", "value": "1"}]))),
            write("a", patch(PatchKind::Strategic, json!({"data": {"s": "1"}}))),
            write("none", patch(PatchKind::Merge, json!({}))),
            write(
                "b",
                patch(
                    PatchKind::Apply { force: false },
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"x": "1"}}),
                ),
            ),
            Write { target: map("a").sub("scale"), verb: Verb::Update(body("a", json!({}))), field_manager: String::new() },
            write("a", Verb::Delete(DeleteParams { uid: Some("other".into()), ..DeleteParams::default() })),
            write("none", Verb::Delete(DeleteParams::default())),
            write("", Verb::Delete(DeleteParams::default())),
        ]
    };
    let mut answers = Vec::new();
    for (_, api) in both().await {
        let mut seen = Vec::new();
        for call in table() {
            let mut value = shown(api.write(call).await);
            if let Some(message) = value.get("message").and_then(Value::as_str).filter(|m| m.contains("UID in")) {
                // The uid itself is another.
                value["message"] = message.split(", UID in object meta").next().unwrap().into();
            }
            seen.push(value);
        }
        seen.push(shown(api.get(&map("a")).await));
        seen.push(shown(api.get(&map("none")).await));
        let gone = api.write(write("b", Verb::Delete(DeleteParams::default()))).await.unwrap();
        assert!(gone.meta().uid.is_some());
        seen.push(json!(gone.key().to_string()));
        answers.push(seen);
    }
    for (at, (local, remote)) in answers[0].iter().zip(&answers[1]).enumerate() {
        let strip = |value: &Value| {
            let mut value = value.clone();
            if let Some(map) = value.as_object_mut() {
                map.retain(|name, v| name != "metadata" && !(name == "details" && v.as_object().is_none_or(|d| d.is_empty())));
            }
            value
        };
        // A refusal of an empty name is this crate's own, without details.
        let (local, remote) = if at == 15 { (local["reason"].clone(), remote["reason"].clone()) } else { (strip(local), strip(remote)) };
        assert_eq!(local, remote, "call {at}");
    }
}

#[tokio::test]
async fn a_list_of_many_pages_is_whole_and_a_watch_goes_on_after_it() {
    for (_, api) in both().await {
        for n in 0..(wharf_client::PAGE + 3) {
            let name = format!("m{n:04}");
            api.write(Write { target: map(&name), verb: Verb::Create(body(&name, json!({}))), field_manager: String::new() })
                .await
                .unwrap();
        }
        let query = Query { namespace: Some("t".into()), field_selector: None, label_selector: None };
        let resource = resource_of::<ConfigMap>();
        let list = api.list(&resource, &query).await.unwrap();
        let names: Vec<String> = list.items.iter().map(|o| o.key().name.to_string()).filter(|n| n.starts_with('m')).collect();
        let wanted: Vec<String> = (0..(wharf_client::PAGE + 3)).map(|n| format!("m{n:04}")).collect();
        assert_eq!(names, wanted);
        let mut events = api.watch(&resource, &query, list.revision).await.unwrap();
        api.write(Write { target: map("m0001"), verb: Verb::Delete(DeleteParams::default()), field_manager: String::new() }).await.unwrap();
        loop {
            match events.next().await.unwrap().unwrap() {
                ApiEvent::Deleted(object) => break assert_eq!(&*object.key().name, "m0001"),
                ApiEvent::Bookmark(_) => {}
                other => panic!("{other:?}"),
            }
        }
        // A resumed watch repeats what came after its revision.
        let mut again = api.watch(&resource, &query, list.revision).await.unwrap();
        assert!(matches!(again.next().await.unwrap().unwrap(), ApiEvent::Deleted(_)));
    }
}

#[tokio::test]
async fn a_compacted_revision_is_expired_for_both() {
    use wharf_core::store::ObjectStore;
    for remote in [false, true] {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::default());
        // What is compacted before the server starts, its caches have never seen.
        let early = ApiServer::builder(store.clone(), clock.clone()).build().await.unwrap();
        let now = store.revision().await.unwrap();
        early.stop().cancel();
        store.compact(now).await.unwrap();
        let server = ApiServer::builder(store, clock.clone()).build().await.unwrap();
        server.ready().await;
        let admin = User::master("admin");
        let api: SharedApi =
            if remote { Arc::new(RemoteApi::new(server.kube_client(admin, "default"), clock)) } else { server.local(admin) };
        let error = match api.watch(&resource_of::<Namespace>(), &Query::default(), Revision(1)).await {
            Err(error) => error,
            Ok(mut events) => events.next().await.unwrap().unwrap_err(),
        };
        assert!(error.is_expired(), "remote {remote}: {error:?}");
    }
}
