//! The same calls in this process and over HTTP, over one API server: answers and errors are equal.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
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
                value["message"] = message.split("UID in record").next().unwrap().into();
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
        // A refusal of an empty name is this crate's own, without details.
        let (local, remote) =
            if at == 15 { (local["reason"].clone(), remote["reason"].clone()) } else { (stripped(local), stripped(remote)) };
        assert_eq!(local, remote, "call {at}");
    }
}

/// Two answers, but for what differs in every HTTP answer.
fn stripped(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.retain(|name, v| name != "metadata" && !(name == "details" && v.as_object().is_none_or(|d| d.is_empty())));
    }
    value
}

fn refused<T: std::fmt::Debug>(answer: Result<T, ApiError>) -> Value {
    match answer {
        Err(ApiError::Status(status)) => serde_json::to_value(*status).unwrap(),
        other => panic!("a refusal was expected: {other:?}"),
    }
}

fn reason(error: &Value) -> (i64, &str) {
    (error["code"].as_i64().unwrap(), error["reason"].as_str().unwrap())
}

fn create(target: Target, body: Value) -> Write {
    Write { target, verb: Verb::Create(body.to_string().into()), field_manager: String::new() }
}

fn update(target: Target, body: Value) -> Write {
    Write { target, verb: Verb::Update(body.to_string().into()), field_manager: String::new() }
}

fn patch(target: Target, kind: PatchKind, body: Value, manager: &str) -> Write {
    Write { target, verb: Verb::Patch { kind, body: body.to_string().into() }, field_manager: manager.into() }
}

fn delete(target: Target) -> Write {
    Write { target, verb: Verb::Delete(DeleteParams::default()), field_manager: String::new() }
}

/// Compares what both worlds said, name by name.
fn assert_equal(worlds: &[Vec<(&str, Value)>]) {
    let [local, remote] = worlds else { panic!("two worlds") };
    assert_eq!(local.len(), remote.len());
    for ((what, local), (_, remote)) in local.iter().zip(remote) {
        assert_eq!(stripped(local), stripped(remote), "{what}");
    }
}

#[tokio::test]
async fn what_is_forbidden_is_equal() {
    let mut worlds = Vec::new();
    for (at, (server, _)) in both().await.into_iter().enumerate() {
        let nobody = || User::new("nobody", ["system:authenticated"]);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let api: SharedApi =
            if at == 1 { Arc::new(RemoteApi::new(server.kube_client(nobody(), "default"), clock)) } else { server.local(nobody()) };
        let resource = resource_of::<ConfigMap>();
        let query = Query { namespace: Some("t".into()), ..Query::default() };
        let deployment = Target::of::<Deployment>(ObjectRef::new("t", "d"));
        let namespace = Target::of::<Namespace>(ObjectRef::new("", "t"));
        let seen = vec![
            ("get", refused(api.get(&map("a")).await)),
            ("get cluster-scoped", refused(api.get(&Target::of::<Node>(ObjectRef::new("", "n"))).await)),
            ("get a namespace", refused(api.get(&namespace).await)),
            ("patch a namespace", refused(api.write(patch(namespace, PatchKind::Merge, json!({}), "")).await)),
            ("list", refused(api.list(&resource, &query).await)),
            ("list all", refused(api.list(&resource, &Query::default()).await)),
            ("watch", refused(api.watch(&resource, &query, Revision(1)).await.map(drop))),
            ("create", refused(api.write(create(map("a"), json!({"metadata": {"name": "a"}}))).await)),
            ("update", refused(api.write(update(map("a"), json!({"metadata": {"name": "a"}}))).await)),
            ("patch", refused(api.write(patch(map("a"), PatchKind::Merge, json!({}), "")).await)),
            ("delete", refused(api.write(delete(map("a"))).await)),
            ("status", refused(api.write(update(deployment.clone().sub("status"), json!({}))).await)),
            ("scale", refused(api.write(patch(deployment.sub("scale"), PatchKind::Merge, json!({}), "")).await)),
        ];
        assert!(seen.iter().all(|(_, error)| reason(error) == (403, "Forbidden")), "{seen:?}");
        worlds.push(seen);
    }
    assert_equal(&worlds);
}

#[tokio::test]
async fn refusals_keep_their_details_and_causes() {
    let mut worlds = Vec::new();
    for (_, api) in both().await {
        let mut seen = Vec::new();
        // 404, of the object, of its namespace, of the type.
        let error = refused(api.get(&Target::of::<Deployment>(ObjectRef::new("t", "none"))).await);
        assert_eq!((&error["details"]["group"], &error["details"]["name"]), (&json!("apps"), &json!("none")));
        seen.push(("no object", error));
        seen.push(("no object to delete", refused(api.write(delete(map("none"))).await)));
        let nowhere = Target::of::<ConfigMap>(ObjectRef::new("nowhere", "a"));
        let error = refused(api.write(create(nowhere, json!({"metadata": {"name": "a", "namespace": "nowhere"}}))).await);
        assert_eq!(reason(&error), (404, "NotFound"));
        seen.push(("no namespace", error));
        let mut unknown = map("a");
        unknown.resource.plural = "nothings".into();
        let error = refused(api.get(&unknown).await);
        assert_eq!(reason(&error), (404, "NotFound"));
        seen.push(("no type", error));

        // 409: it exists, somebody was first, somebody else manages the field.
        let a = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "t"}, "data": {"k": "1"}});
        api.write(patch(map("a"), PatchKind::Apply { force: false }, a.clone(), "one")).await.unwrap();
        let error = refused(api.write(create(map("a"), a.clone())).await);
        assert_eq!(reason(&error), (409, "AlreadyExists"));
        seen.push(("exists", error));
        let mut old = a.clone();
        old["metadata"]["resourceVersion"] = json!("1");
        let error = refused(api.write(update(map("a"), old.clone())).await);
        assert_eq!(reason(&error), (409, "Conflict"));
        seen.push(("conflict", error));
        let params = DeleteParams { resource_version: Some("1".into()), ..DeleteParams::default() };
        let error = refused(api.write(Write { verb: Verb::Delete(params), ..delete(map("a")) }).await);
        assert_eq!(reason(&error), (409, "Conflict"));
        let mut error = error;
        // It names the revision that the object has, which is another in each world.
        error["message"] = json!(error["message"].as_str().unwrap().split("ResourceVersion in object meta").next());
        seen.push(("conflict of a delete", error));
        let mut other = a.clone();
        other["data"]["k"] = json!("2");
        let error = refused(api.write(patch(map("a"), PatchKind::Apply { force: false }, other.clone(), "two")).await);
        assert_eq!(reason(&error), (409, "Conflict"));
        assert_eq!(error["details"]["causes"][0]["reason"], "FieldManagerConflict");
        seen.push(("conflict of an apply", error));
        seen.push(("apply by force", shown(api.write(patch(map("a"), PatchKind::Apply { force: true }, other, "two")).await)));

        // 413: bytes, and operations of a patch.
        let big = json!({"metadata": {"name": "big", "namespace": "t"}, "data": {"k": "x".repeat(3 << 20)}});
        let error = refused(api.write(create(map("big"), big)).await);
        assert_eq!(reason(&error), (413, "RequestEntityTooLarge"));
        seen.push(("too large", error));
        let big = json!({"data": {"k": "x".repeat(3 << 20)}});
        let error = refused(api.write(patch(map("a"), PatchKind::Merge, big, "")).await);
        assert_eq!(reason(&error), (413, "RequestEntityTooLarge"));
        seen.push(("a patch too large", error));
        let many = vec![json!({"op": "test", "path": "/data/k", "value": "2"}); 10_001];
        let error = refused(api.write(patch(map("a"), PatchKind::Json, json!(many), "")).await);
        assert_eq!(reason(&error), (413, "RequestEntityTooLarge"));
        seen.push(("too many operations", error));

        // 422: each cause with its field.
        let pod = |name: &str| Target::of::<Pod>(ObjectRef::new("t", name));
        let bad = json!({"metadata": {"name": "Bad_", "namespace": "t"}, "spec": {"serviceAccountName": "default",
            "restartPolicy": "Perhaps", "containers": [{"name": "c"}, {"name": "c", "image": "i"}]}});
        let sa = Target::of::<ServiceAccount>(ObjectRef::new("t", "default"));
        api.write(create(sa, json!({"metadata": {"name": "default", "namespace": "t"}}))).await.unwrap();
        let error = refused(api.write(create(pod("Bad_"), bad)).await);
        assert_eq!(reason(&error), (422, "Invalid"));
        assert!(error["details"]["causes"].as_array().unwrap().len() >= 3, "{error}");
        seen.push(("invalid", error));
        let error = refused(api.write(patch(map("a"), PatchKind::Json, json!([{"op": "remove", "path": "/data/none"}]), "")).await);
        assert_eq!(error["code"], 422);
        seen.push(("a patch that does not fit", error));

        // A namespace that is going takes nothing new.
        api.write(delete(Target::of::<Namespace>(ObjectRef::new("", "t")))).await.unwrap();
        let error = api.write(create(map("late"), json!({"metadata": {"name": "late", "namespace": "t"}}))).await.unwrap_err();
        assert!(error.is_namespace_terminating(), "{error:?}");
        seen.push(("terminating", refused(Err::<(), _>(error))));
        worlds.push(seen);
    }
    assert_equal(&worlds);
}

#[tokio::test]
async fn writes_of_subresources_are_equal() {
    let mut worlds = Vec::new();
    for (_, api) in both().await {
        let mut seen = Vec::new();
        let spec = |answer: Result<Arc<Object>, ApiError>| {
            let object = answer.unwrap();
            let value: Value = serde_json::from_slice(object.bytes()).unwrap();
            let (wanted, counted) = (&value["spec"]["replicas"], &value["status"]["replicas"]);
            json!({"key": object.object_ref().to_string(), "kind": value["kind"], "wanted": wanted, "counted": counted})
        };
        let d = Target::of::<Deployment>(ObjectRef::new("t", "d"));
        let body = json!({"metadata": {"name": "d", "namespace": "t"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        seen.push(("create", spec(api.write(create(d.clone(), body.clone())).await)));
        let mut status = body.clone();
        status["spec"]["replicas"] = json!(7);
        status["status"] = json!({"replicas": 1});
        let answer = spec(api.write(update(d.clone().sub("status"), status)).await);
        assert_eq!((&answer["wanted"], &answer["counted"]), (&json!(1), &json!(1)), "a status write changes the status alone");
        seen.push(("status", answer));
        let answer = spec(api.write(patch(d.clone().sub("status"), PatchKind::Merge, json!({"status": {"replicas": 2}}), "")).await);
        assert_eq!(answer["counted"], 2);
        seen.push(("status by patch", answer));

        let scale = d.clone().sub("scale");
        let read = spec(api.get(&scale).await);
        assert_eq!((&read["kind"], &read["wanted"]), (&json!("Scale"), &json!(1)));
        seen.push(("scale read", read));
        let wanted =
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "t"}, "spec": {"replicas": 5}});
        seen.push(("scale", spec(api.write(update(scale.clone(), wanted.clone())).await)));
        let answer = spec(api.write(patch(scale.clone(), PatchKind::Merge, json!({"spec": {"replicas": 6}}), "")).await);
        assert_eq!(answer["wanted"], 6);
        seen.push(("scale by patch", answer));
        let mut old = wanted;
        old["metadata"]["resourceVersion"] = json!("1");
        let error = refused(api.write(update(scale, old)).await);
        assert_eq!(reason(&error), (409, "Conflict"));
        seen.push(("scale in conflict", error));
        let none = Target::of::<Deployment>(ObjectRef::new("t", "none"));
        seen.push(("scale of nothing", refused(api.get(&none.clone().sub("scale")).await)));
        seen.push(("status of nothing", refused(api.write(patch(none.sub("status"), PatchKind::Merge, json!({"status": {}}), "")).await)));
        seen.push(("scaled", spec(api.get(&d).await)));

        let sa = Target::of::<ServiceAccount>(ObjectRef::new("t", "default"));
        api.write(create(sa, json!({"metadata": {"name": "default", "namespace": "t"}}))).await.unwrap();
        api.write(create(Target::of::<Node>(ObjectRef::new("", "n")), json!({"metadata": {"name": "n"}}))).await.unwrap();
        let p = Target::of::<Pod>(ObjectRef::new("t", "p"));
        let pod = json!({"metadata": {"name": "p", "namespace": "t"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let pod = api.write(create(p.clone(), pod)).await.unwrap();
        let binding = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": "t"},
                "target": {"apiVersion": "v1", "kind": "Node", "name": "n"}})
        };
        seen.push(("binding", shown(api.write(create(p.clone().sub("binding"), binding("p"))).await)));
        let bound = api.get(&p).await.unwrap().decode::<Pod>().unwrap();
        assert_eq!(bound.spec.as_ref().unwrap().node_name.as_deref(), Some("n"));
        let error = refused(api.write(create(p.clone().sub("binding"), binding("p"))).await);
        assert_eq!(reason(&error), (409, "Conflict"));
        seen.push(("bound before", error));
        let q = Target::of::<Pod>(ObjectRef::new("t", "q"));
        seen.push(("binding of nothing", refused(api.write(create(q.sub("binding"), binding("q"))).await)));
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "t"}});
        seen.push(("eviction", shown(api.write(create(p.clone().sub("eviction"), eviction)).await)));
        let going = api.get(&p).await.unwrap();
        assert!(going.meta().deletion_timestamp.is_some() && going.meta().uid == pod.meta().uid);
        worlds.push(seen);
    }
    assert_equal(&worlds);
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
