//! The verbs through the `Api` trait and through HTTP requests, over the memory store.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use serde_json::{Value, json};
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;
use wharf_core::api::{ApiError, ApiEvent, ApiExt, DeleteParams, PatchKind, Propagation, Query, Target, Verb, Write};
use wharf_core::clock::Clock;
use wharf_core::object::{ObjectRef, resource_of};
use wharf_core::store::SharedStore;
use wharf_store_memory::MemoryStore;

use crate::world::{at, deployment, pod, typed, world, world_over};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn pods_through_the_trait() {
    let w = world().await;
    let made = w.api.create(&pod("a")).await.unwrap();
    assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"));
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = w.api.create(&pod("a")).await.unwrap_err();
    assert!(again.is_already_exists());
    assert_eq!(again.to_string(), "pods \"a\" already exists");

    let list = w.api.list(&resource_of::<Pod>(), &Query::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let mut watch = w.api.watch(&resource_of::<Pod>(), &Query::default(), list.revision).await.unwrap();
    let patch = json!({"metadata":{"labels":{"x":"y"}}});
    let patched: Arc<Pod> = w.api.patch(&at("a"), "", PatchKind::Strategic, &patch).await.unwrap();
    assert_eq!(patched.metadata.labels.as_ref().unwrap()["x"], "y");
    assert!(matches!(watch.next().await.unwrap().unwrap(), ApiEvent::Modified(o) if o.meta().labels.as_ref().unwrap()["x"] == "y"));

    // A stale update is a conflict, in Kubernetes' words.
    let mut stale = (*made).clone();
    stale.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    let error = w.api.update(&stale).await.unwrap_err();
    assert!(error.is_conflict());
    assert_eq!(
        error.to_string(),
        "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );

    // Nobody has the pod: it goes at once.
    w.api.delete::<Pod>(&at("a"), DeleteParams::default()).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), ApiEvent::Deleted(o) if o.revision() > list.revision));
    assert!(w.api.get_opt::<Pod>(&at("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_bound_pod_is_deleted_gracefully() {
    let w = world().await;
    w.api.create(&pod("a")).await.unwrap();
    let bind = |node: &str| Write {
        target: Target::of::<Pod>(at("a")).sub("binding"),
        verb: Verb::Create(json!({"target":{"kind":"Node","name":node}}).to_string().into()),
        field_manager: String::new(),
    };
    w.api.write(bind("n1")).await.unwrap();
    assert!(w.api.write(bind("n2")).await.unwrap_err().is_conflict());
    let by_node = Query { field_selector: Some("spec.nodeName=n1".into()), ..Query::default() };
    assert_eq!(w.api.list_as::<Pod>(&by_node).await.unwrap().len(), 1);

    w.api.delete::<Pod>(&at("a"), DeleteParams::default()).await.unwrap();
    let marked = w.api.get_opt::<Pod>(&at("a")).await.unwrap().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(marked.metadata.deletion_timestamp.as_ref().unwrap().0, w.clock.now() + jiff::SignedDuration::from_secs(30));
    let now = DeleteParams { grace_period_seconds: Some(0), uid: Some("other".into()), ..DeleteParams::default() };
    assert!(w.api.delete::<Pod>(&at("a"), now.clone()).await.unwrap_err().is_conflict());
    w.api.delete::<Pod>(&at("a"), DeleteParams { uid: None, ..now }).await.unwrap();
    assert!(w.api.get_opt::<Pod>(&at("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let w = world().await;
    let start = w.api.list(&resource_of::<Pod>(), &Query::default()).await.unwrap().revision;
    let query = Query { label_selector: Some("app=b".into()), ..Query::default() };
    let mut watch = w.api.watch(&resource_of::<Pod>(), &query, start).await.unwrap();
    w.api.create(&pod("a")).await.unwrap();
    let relabel = |to: &str| json!({"metadata":{"labels":{"app":to}}});
    w.api.patch::<Pod>(&at("a"), "", PatchKind::Merge, &relabel("b")).await.unwrap();
    w.api.patch::<Pod>(&at("a"), "", PatchKind::Merge, &relabel("c")).await.unwrap();
    assert!(matches!(watch.next().await.unwrap().unwrap(), ApiEvent::Added(_)));
    let ApiEvent::Deleted(gone) = watch.next().await.unwrap().unwrap() else { panic!("a deletion is expected") };
    assert_eq!(gone.meta().labels.as_ref().unwrap()["app"], "b");
    assert_eq!(gone.meta().resource_version.as_deref(), Some(gone.revision().to_string().as_str()));
}

#[tokio::test]
async fn deployments_over_http() {
    let w = world().await;
    let (code, made) = w.post(DEPLOYMENTS, &deployment("web")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["replicas"], 1);
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");

    let uri = format!("{DEPLOYMENTS}/web");
    let (code, scale, _) =
        w.http(Method::PATCH, &format!("{uri}/scale"), "application/merge-patch+json", r#"{"spec":{"replicas":3}}"#).await;
    assert_eq!((code, &scale["kind"], &scale["spec"]["replicas"]), (200, &json!("Scale"), &json!(3)));
    assert_eq!(scale["status"]["selector"], "app=web");
    let patch = json!([{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"x:2"}]);
    let (code, patched, _) = w.http(Method::PATCH, &uri, "application/json-patch+json", patch.to_string()).await;
    assert_eq!((code, &patched["metadata"]["generation"]), (200, &json!(3)));
    // The status goes its own way, and touches nothing else.
    let mut status = patched.clone();
    status["status"] = json!({"replicas": 3});
    status["spec"]["replicas"] = json!(9);
    let (code, after, _) = w.http(Method::PUT, &format!("{uri}/status"), "application/json", status.to_string()).await;
    assert_eq!((code, &after["spec"]["replicas"], &after["status"]["replicas"]), (200, &json!(3), &json!(3)));
    assert_eq!(after["metadata"]["generation"], 3);
    // Writing what is there changes nothing.
    let (_, same, _) = w.http(Method::PUT, &uri, "application/json", after.to_string()).await;
    assert_eq!(same["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);

    let mut other = after.clone();
    other["spec"]["selector"]["matchLabels"] = json!({"app":"z"});
    let (code, refused, _) = w.http(Method::PUT, &uri, "application/json", other.to_string()).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    assert!(refused["message"].as_str().unwrap().starts_with("Deployment.apps \"web\" is invalid: "), "{refused}");
    let (code, gone, _) = w.http(Method::DELETE, &uri, "", "").await;
    assert_eq!((code, &gone["status"], &gone["details"]["kind"]), (200, &json!("Success"), &json!("deployments")));
    assert_eq!(w.get(&uri).await.0, 404);
}

#[tokio::test]
async fn bad_input_gets_kubernetes_own_words() {
    let w = world().await;
    let check = |(code, value): (u16, Value), want: u16, reason: &str, message: &str| {
        assert_eq!((code, value["reason"].as_str().unwrap_or_default()), (want, reason), "{value}");
        assert!(value["message"].as_str().unwrap().contains(message), "{value}");
        assert_eq!((value["kind"].as_str(), value["code"].as_u64()), (Some("Status"), Some(u64::from(want))));
    };
    let mut bad = deployment("web");
    bad["spec"]["foo"] = json!(1);
    check(
        w.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), &bad).await,
        400,
        "BadRequest",
        "strict decoding error: unknown field \"spec.foo\"",
    );
    let (code, _, headers) = w.http(Method::POST, &format!("{DEPLOYMENTS}?dryRun=All"), "application/json", bad.to_string()).await;
    assert_eq!(code, 201);
    assert_eq!(headers["warning"], "299 - \"unknown field \\\"spec.foo\\\"\"");
    assert_eq!(w.get(&format!("{DEPLOYMENTS}/web")).await.0, 404, "a dry run stores nothing");

    let (code, value, _) = w.http(Method::POST, PODS, "application/json", "{nonsense").await;
    check((code, value), 400, "BadRequest", "json parse error");
    let (code, value, _) = w.http(Method::POST, PODS, "application/xml", "<a/>").await;
    check((code, value), 415, "UnsupportedMediaType", "unknown format");
    let (code, value, _) = w.http(Method::POST, PODS, "application/json", vec![b' '; (3 << 20) + 1]).await;
    check((code, value), 413, "RequestEntityTooLarge", "too large");
    let (code, value, _) = w.http(Method::POST, DEPLOYMENTS, "application/yaml", "metadata: {name: UPPER}\nspec: {}\n").await;
    check((code, value.clone()), 422, "Invalid", "metadata.name: Invalid value: \"UPPER\"");
    assert!(value["details"]["causes"].as_array().unwrap().iter().any(|c| c["field"] == "spec.selector"));
    check(w.get("/apis/none/v1/things").await, 404, "NotFound", "could not find the requested resource");
    check(w.get(&format!("{PODS}/none")).await, 404, "NotFound", "pods \"none\" not found");
    check(w.get(&format!("{PODS}?fieldSelector=spec.bogus=1")).await, 400, "BadRequest", "field label not supported: spec.bogus");
    check(w.get(&format!("{PODS}?labelSelector=%3D%3D")).await, 400, "BadRequest", "");
    check(
        w.post("/api/v1/namespaces/none/pods", &json!({"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"x"}]}})).await,
        404,
        "NotFound",
        "namespaces \"none\" not found",
    );
    check(
        w.post(DEPLOYMENTS, &json!({"kind":"Pod","metadata":{"name":"a"}})).await,
        400,
        "BadRequest",
        "cannot be handled as a Deployment",
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (code, value, _) = w.http(Method::POST, PODS, "application/json", deep).await;
    check((code, value), 400, "BadRequest", "");
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let (code, value, _) = w.http(Method::POST, PODS, "application/yaml", bomb).await;
    check((code, value), 400, "BadRequest", "");
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op":"test","path":"/kind","value":"Pod"})).collect();
    let (code, value, _) =
        w.http(Method::PATCH, &format!("{PODS}/none"), "application/json-patch+json", Value::from(many).to_string()).await;
    check((code, value), 413, "RequestEntityTooLarge", "10000");
}

#[tokio::test]
async fn pages_show_one_state() {
    let w = world().await;
    for i in 0..7 {
        w.api.create(&typed::<ConfigMap>(json!({"metadata":{"name":format!("m{i}"),"namespace":"default"}}))).await.unwrap();
    }
    let uri = "/api/v1/namespaces/default/configmaps?limit=3";
    let (_, first) = w.get(uri).await;
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    w.api.delete::<ConfigMap>(&at("m5"), DeleteParams::default()).await.unwrap();
    let mut names = Vec::new();
    let mut page = first.clone();
    loop {
        names.extend(page["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()));
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        page = w.get(&format!("{uri}&continue={token}")).await.1;
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    assert_eq!(w.get(&format!("{uri}&continue=nonsense")).await.0, 400);
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let w = world().await;
    let kubernetes = w.api.get_opt::<Service>(&at("kubernetes")).await.unwrap().unwrap();
    assert_eq!(kubernetes.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    let service = |name: &str, ip: &str| {
        typed::<Service>(
            json!({"metadata":{"name":name,"namespace":"default"},"spec":{"clusterIP":ip,"type":"NodePort","ports":[{"port":80}]}}),
        )
    };
    let made = w.api.create(&service("a", "")).await.unwrap();
    let spec = made.spec.as_ref().unwrap();
    let ip = spec.cluster_ip.clone().unwrap();
    assert!(spec.ports.as_ref().unwrap()[0].node_port.is_some_and(|p| (30_000..=32_767).contains(&p)));
    let error = w.api.create(&service("b", &ip)).await.unwrap_err();
    assert!(error.to_string().contains("provided IP is already allocated"), "{error}");
    // Another server over the same store knows what is given.
    let second = world_over(w.store.clone()).await;
    assert!(second.api.create(&service("b", &ip)).await.is_err());
    w.api.delete::<Service>(&at("a"), DeleteParams::default()).await.unwrap();
    w.api.create(&service("b", &ip)).await.unwrap();
}

#[tokio::test]
async fn a_namespace_goes_when_nothing_holds_it() {
    let w = world().await;
    let (code, made) = w.post("/api/v1/namespaces", &json!({"metadata":{"name":"x"}})).await;
    assert_eq!((code, &made["status"]["phase"], &made["spec"]["finalizers"]), (201, &json!("Active"), &json!(["kubernetes"])));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    let reference = ObjectRef::new("", "x");
    w.api.delete::<Namespace>(&reference, DeleteParams::default()).await.unwrap();
    let going = w.api.get_opt::<Namespace>(&reference).await.unwrap().unwrap();
    assert_eq!(going.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
    let error = w.api.create(&typed::<ConfigMap>(json!({"metadata":{"name":"a","namespace":"x"}}))).await.unwrap_err();
    assert_eq!(error.code(), Some(403));
    assert!(error.is_namespace_terminating());
    let mut done = (*going).clone();
    done.spec = Some(Default::default());
    let write = Write {
        target: Target::of::<Namespace>(reference.clone()).sub("finalize"),
        verb: Verb::Update(serde_json::to_vec(&done).unwrap().into()),
        field_manager: String::new(),
    };
    w.api.write(write).await.unwrap();
    assert!(w.api.get_opt::<Namespace>(&reference).await.unwrap().is_none());
}

#[tokio::test]
async fn finalizers_and_propagation() {
    let w = world().await;
    w.post(DEPLOYMENTS, &deployment("web")).await;
    let params = DeleteParams { propagation: Some(Propagation::Foreground), ..DeleteParams::default() };
    w.api.delete::<Deployment>(&at("web"), params).await.unwrap();
    let marked = w.api.get_opt::<Deployment>(&at("web")).await.unwrap().unwrap();
    assert_eq!(marked.metadata.finalizers.as_deref(), Some(&["foregroundDeletion".to_owned()][..]));
    let done = json!({"metadata":{"finalizers":null}});
    w.api.patch::<Deployment>(&at("web"), "", PatchKind::Merge, &done).await.unwrap();
    assert!(w.api.get_opt::<Deployment>(&at("web")).await.unwrap().is_none());
}

#[tokio::test]
async fn apply_over_http() {
    let w = world().await;
    let uri = format!("{DEPLOYMENTS}/web?fieldManager=me");
    let apply = |value: Value, uri: String| {
        let w = &w;
        async move { w.http(Method::PATCH, &uri, "application/apply-patch+yaml", value.to_string()).await }
    };
    let mut config = deployment("web");
    config["metadata"]["labels"] = json!({"a":"1","b":"2"});
    config["spec"]["replicas"] = json!(2);
    let (code, made, _) = apply(config.clone(), uri.clone()).await;
    assert_eq!((code, &made["spec"]["replicas"]), (201, &json!(2)), "{made}");
    config["metadata"]["labels"] = json!({"a":"1"});
    let (code, after, _) = apply(config.clone(), uri.clone()).await;
    assert_eq!((code, &after["metadata"]["labels"]), (200, &json!({"a":"1"})));
    config["spec"]["replicas"] = json!(5);
    let (code, refused, _) = apply(config.clone(), format!("{DEPLOYMENTS}/web?fieldManager=you")).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")), "{refused}");
    let (code, taken, _) = apply(config.clone(), format!("{DEPLOYMENTS}/web?fieldManager=you&force=true")).await;
    assert_eq!((code, &taken["spec"]["replicas"]), (200, &json!(5)));
    let (code, same, _) = apply(config, format!("{DEPLOYMENTS}/web?fieldManager=you&force=true")).await;
    assert_eq!((code, &same["metadata"]["resourceVersion"]), (200, &taken["metadata"]["resourceVersion"]));
    assert_eq!(apply(deployment("web"), format!("{DEPLOYMENTS}/web")).await.0, 422);
}

#[tokio::test]
async fn tables_and_watches_over_http() {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let w = world().await;
    w.api.create(&pod("a")).await.unwrap();
    let (code, table, _) = w.http_accepting(Method::GET, PODS, "", TABLE, "").await;
    assert_eq!((code, &table["kind"]), (200, &json!("Table")));
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["cells"][2], "Pending");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    let request = Request::get(format!(
        "{PODS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=5"
    ))
    .body(Bytes::new())
    .unwrap();
    let info = path::parse(request.method(), request.uri());
    let response = w.server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let lines: Vec<Value> = std::str::from_utf8(&first).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["type"], "ADDED");
    assert_eq!(lines[1]["type"], "BOOKMARK");
    assert_eq!(lines[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    w.clock.advance(std::time::Duration::from_secs(6));
    assert!(body.frame().await.is_none(), "the watch ends in good order");
}

#[tokio::test]
async fn a_watch_that_starts_too_early_is_told_so() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let first = world_over(store.clone()).await;
    first.api.create(&pod("a")).await.unwrap();
    // This server never saw the past.
    let second = world_over(store).await;
    let error = second.api.watch(&resource_of::<Pod>(), &Query::default(), wharf_core::store::Revision(1)).await.err().unwrap();
    assert!(error.is_expired());
    let (code, _, _) = second.http(Method::GET, &format!("{PODS}?watch=true&resourceVersion=1"), "", "").await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn only_who_may_does() {
    let w = world().await;
    let nobody = w.server.local(User::new("nobody", ["system:authenticated"]));
    let error: ApiError = nobody.list(&resource_of::<Pod>(), &Query::default()).await.unwrap_err();
    assert_eq!(error.code(), Some(403));
    assert_eq!(nobody.create(&pod("a")).await.unwrap_err().reason(), Some("Forbidden"));
}

#[tokio::test]
async fn generated_names_and_concurrent_patches() {
    let w = world().await;
    let base =
        typed::<Pod>(json!({"metadata":{"generateName":"p-","namespace":"default"},"spec":{"containers":[{"name":"a","image":"x"}]}}));
    let made = w.api.create(&base).await.unwrap();
    let name = made.metadata.name.clone().unwrap();
    assert!(name.starts_with("p-") && name.len() == 7, "{name}");
    let mut tasks = Vec::new();
    for i in 0..16 {
        let (api, key) = (w.api.clone(), at(&name));
        tasks.push(tokio::spawn(async move {
            let patch = json!({"metadata":{"annotations":{format!("k{i}"):"v"}}});
            api.patch::<Pod>(&key, "", PatchKind::Merge, &patch).await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let after = w.api.get_opt::<Pod>(&at(&name)).await.unwrap().unwrap();
    assert_eq!(after.metadata.annotations.as_ref().unwrap().len(), 16);
}

#[tokio::test]
async fn events_have_two_shapes_and_one_storage() {
    let w = world().await;
    let event = json!({"metadata":{"name":"e"},"regarding":{"kind":"Pod","name":"a","namespace":"default"},"note":"hello","reason":"R","type":"Normal",
        "action":"A","reportingController":"c","reportingInstance":"i","eventTime":"2026-01-01T00:00:00.000000Z"});
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let (code, made) = w.post(new, &event).await;
    assert_eq!((code, &made["note"], &made["apiVersion"]), (201, &json!("hello"), &json!("events.k8s.io/v1")), "{made}");
    let (_, old) = w.get("/api/v1/namespaces/default/events/e").await;
    assert_eq!((&old["message"], &old["involvedObject"]["name"], &old["apiVersion"]), (&json!("hello"), &json!("a"), &json!("v1")));
    let patch = r#"{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:01.000000Z"}}"#;
    let (code, patched, _) = w.http(Method::PATCH, &format!("{new}/e"), "application/merge-patch+json", patch).await;
    assert_eq!((code, &patched["series"]["count"], &patched["note"]), (200, &json!(2), &json!("hello")), "{patched}");
    let (_, list) = w.get(&format!("{new}?fieldSelector=regarding.name%3Da")).await;
    assert_eq!(list["items"][0]["regarding"]["kind"], "Pod");
    assert_eq!(list["items"][0]["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);

    // Nobody sees it again: after an hour it goes.
    assert_eq!(w.server.registry().expire_events().await.unwrap(), 0);
    w.clock.advance(std::time::Duration::from_secs(3602));
    assert_eq!(w.server.registry().expire_events().await.unwrap(), 1);
    assert_eq!(w.get(&format!("{new}/e")).await.0, 404);
}

#[tokio::test]
async fn autoscalers_are_served_in_two_versions() {
    let w = world().await;
    let [old, new] = ["v1", "v2"].map(|v| format!("/apis/autoscaling/{v}/namespaces/default/horizontalpodautoscalers"));
    let target = json!({"kind": "Deployment", "name": "web"});
    let body =
        json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 50}});
    let (code, made) = w.post(&old, &body).await;
    assert_eq!((code, &made["apiVersion"], &made["spec"]["minReplicas"]), (201, &json!("autoscaling/v1"), &json!(1)), "{made}");
    let (_, stored) = w.get(&format!("{new}/a")).await;
    assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"], json!({"type": "Utilization", "averageUtilization": 50}));
    assert_eq!(stored["metadata"]["uid"], made["metadata"]["uid"]);
    // What the older version has no member for stays, in an annotation, through a change by it.
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    let mut more = stored.clone();
    more["spec"]["metrics"].as_array_mut().unwrap().push(memory.clone());
    more["spec"]["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 10}});
    let (code, more, _) = w.http(Method::PUT, &format!("{new}/a"), "application/json", more.to_string()).await;
    assert_eq!((code, &more["spec"]["behavior"]["scaleDown"]["selectPolicy"]), (200, &json!("Max")), "{more}");
    let change = json!({"spec": {"targetCPUUtilizationPercentage": 60}}).to_string();
    let (code, changed, _) = w.http(Method::PATCH, &format!("{old}/a"), "application/merge-patch+json", change).await;
    assert_eq!((code, &changed["spec"]["targetCPUUtilizationPercentage"]), (200, &json!(60)), "{changed}");
    let (_, stored) = w.get(&format!("{new}/a")).await;
    assert_eq!(stored["spec"]["behavior"], more["spec"]["behavior"]);
    let metrics = stored["spec"]["metrics"].as_array().unwrap();
    assert!(metrics.contains(&memory) && metrics.len() == 2, "{metrics:?}");
    let annotations = |v: &Value| v["metadata"]["annotations"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!((annotations(&changed), annotations(&stored)), (2, 0), "{changed}");
    // It is judged as it is stored, and is one object: a deletion by one version is one by the other.
    let bad = json!({"metadata": {"name": "b"}, "spec": {"maxReplicas": 0, "scaleTargetRef": target}});
    let (code, refused) = w.post(&old, &bad).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.maxReplicas")), "{refused}");
    assert_eq!(w.http(Method::DELETE, &format!("{old}/a"), "application/json", String::new()).await.0, 200);
    assert_eq!(w.get(&format!("{new}/a")).await.0, 404);
}
