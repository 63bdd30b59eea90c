//! Custom resources of two versions, between which a webhook converts.

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;

use crate::hook::Hook;
use crate::world::World;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/endpoints.stable.example.com";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/endpoints";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/endpoints";

/// Version 1 has `hostPort`, version 2 `host` and `port`.
fn convert(object: &Value, wanted: &str) -> Value {
    let mut converted = object.clone();
    let map = converted.as_object_mut().unwrap();
    map.insert("apiVersion".into(), wanted.into());
    if wanted.ends_with("v2") {
        if let Some(Value::String(both)) = map.remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            map.extend([("host".to_owned(), host.into()), ("port".to_owned(), port.into())]);
        }
    } else if let (Some(Value::String(host)), Some(Value::String(port))) = (map.remove("host"), map.remove("port")) {
        map.insert("hostPort".into(), format!("{host}:{port}").into());
    }
    converted
}

fn answer(review: &Value, objects: Vec<Value>) -> Option<(u16, String)> {
    let response = json!({"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
    Some((200, json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}).to_string()))
}

fn converting(review: &Value) -> Option<(u16, String)> {
    let request = &review["request"];
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    answer(review, request["objects"].as_array().unwrap().iter().map(|o| convert(o, wanted)).collect())
}

fn definition(client: Value) -> Value {
    let version = |name: &str, storage: bool, fields: Value| {
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    let text = json!({"type": "string"});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "endpoints.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "endpoints", "kind": "Endpoint"},
            "versions": [version("v1", true, json!({"hostPort": text})), version("v2", false, json!({"host": text, "port": text}))],
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"], "clientConfig": client}}}})
}

fn endpoint(version: &str, name: &str) -> Value {
    let fields = match version {
        "v1" => json!({"hostPort": format!("{name}.local:80")}),
        _ => json!({"host": format!("{name}.local"), "port": "80"}),
    };
    let mut object = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "Endpoint",
        "metadata": {"name": name, "labels": {"a": "b"}}});
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

impl World {
    async fn define(&self, client: Value) {
        let (code, made) = self.post(CRDS, &definition(client)).await;
        assert_eq!(code, 201, "{made}");
        self.until(V1, |code, _| code == 200).await;
    }
}

#[tokio::test]
async fn objects_are_read_and_written_in_any_version() {
    let hook = Hook::start(&["127.0.0.1"], false, converting).await;
    let w = World::new().await;
    w.define(hook.by_url("/convert")).await;

    // What is stored is of version 1: no call.
    let (code, made) = w.post(V1, &endpoint("v1", "a")).await;
    assert_eq!((code, &made["hostPort"], hook.count()), (201, &json!("a.local:80"), 0), "{made}");
    let (code, read) = w.get(&format!("{V2}/a")).await;
    assert_eq!((code, &read["host"], &read["port"]), (200, &json!("a.local"), &json!("80")), "{read}");
    assert_eq!((read["apiVersion"].as_str(), read["hostPort"].is_null()), (Some("stable.example.com/v2"), true));
    assert_eq!(read["metadata"], made["metadata"]);
    let review = hook.seen.lock()[0].clone();
    assert_eq!((&review["kind"], &review["apiVersion"]), (&json!("ConversionReview"), &json!("apiextensions.k8s.io/v1")));
    assert_eq!((&review["request"]["desiredAPIVersion"], &review["request"]["objects"]), (&json!("stable.example.com/v2"), &json!([made])));
    // It is remembered.
    let calls = hook.count();
    w.get(&format!("{V2}/a")).await;
    assert_eq!((calls, hook.count()), (1, 1));

    // A write in version 2 is stored in version 1, and told of in version 2.
    let (code, made) = w.post(V2, &endpoint("v2", "b")).await;
    assert_eq!((code, &made["host"], &made["apiVersion"]), (201, &json!("b.local"), &json!("stable.example.com/v2")), "{made}");
    assert_eq!(w.get(&format!("{V1}/b")).await.1["hostPort"], "b.local:80");
    let (code, patched) = w.patch(&format!("{V2}/a"), &json!({"port": "81", "metadata": {"labels": {"c": "d"}}})).await;
    assert_eq!((code, &patched["port"], &patched["metadata"]["labels"]), (200, &json!("81"), &json!({"a": "b", "c": "d"})), "{patched}");
    let read = w.get(&format!("{V1}/a")).await.1;
    assert_eq!((&read["hostPort"], &read["metadata"]["generation"]), (&json!("a.local:81"), &json!(2)));

    // A list is converted at once, and selected from by what it looks like.
    let before = hook.count();
    let (_, list) = w.get(&format!("{V2}?labelSelector=c%3Dd")).await;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|o| &o["metadata"]["name"]).collect();
    assert_eq!((names, hook.count() - before), (vec![&json!("a")], 1), "{list}");

    // Another version is stored from now on; what is there stays as it is until it is written.
    let (_, mut crd) = w.get(CRD).await;
    crd["spec"]["versions"][0]["storage"] = json!(false);
    crd["spec"]["versions"][1]["storage"] = json!(true);
    let (code, changed) = w.put(CRD, &crd).await;
    assert_eq!((code, &changed["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{changed}");
    loop {
        let name = names_of(
            w.post(
                V2,
                &json!({"apiVersion": "stable.example.com/v2", "kind": "Endpoint",
            "metadata": {"generateName": "n-"}, "host": "n", "port": "1"}),
            )
            .await
            .1,
        );
        let calls = hook.count();
        w.get(&format!("{V2}/{name}")).await;
        if hook.count() == calls {
            break;
        }
    }
    let (_, list) = w.get(V1).await;
    let all = list["items"].as_array().unwrap();
    assert!(all.iter().all(|o| o["apiVersion"] == "stable.example.com/v1" && o["hostPort"].is_string()), "{list}");
    let (_, list) = w.get(V2).await;
    assert!(list["items"].as_array().unwrap().iter().all(|o| o["host"].is_string() && o["hostPort"].is_null()), "{list}");

    let (code, gone) = w.delete(&format!("{V2}/a")).await;
    assert_eq!(code, 200, "{gone}");
    assert_eq!(w.get(&format!("{V1}/a")).await.0, 404);
}

fn names_of(object: Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_change_is_converted_once_for_all_who_watch() {
    let hook = Hook::start(&["127.0.0.1"], false, converting).await;
    let w = World::new().await;
    w.define(hook.by_url("/")).await;
    let mut watches = Vec::new();
    for _ in 0..8 {
        let request = Request::builder().uri(format!("{V2}?watch=true&resourceVersion=0")).body(Bytes::new()).unwrap();
        let info = path::parse(request.method(), request.uri());
        let response = w.server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await;
        watches.push(response.into_body().into_data_stream());
    }
    w.post(V1, &endpoint("v1", "a")).await;
    let all = futures::future::join_all(watches.iter_mut().map(|watch| async { watch.next().await.unwrap().unwrap() })).await;
    for event in all {
        let event: Value = serde_json::from_slice(&event).unwrap();
        assert_eq!((&event["type"], &event["object"]["host"]), (&json!("ADDED"), &json!("a.local")));
    }
    assert_eq!(hook.count(), 1);
}

#[tokio::test]
async fn it_is_reached_through_its_service() {
    // An authority's own certificate, as people make them with openssl.
    let hook = Hook::start(&["hook.default.svc"], true, converting).await;
    let w = World::new().await;
    *w.pods.port.lock() = hook.address.port();
    let client = json!({"service": {"namespace": "default", "name": "hook", "port": 9443, "path": "/convert"}, "caBundle": hook.bundle});
    w.define(client).await;
    w.post(V1, &endpoint("v1", "a")).await;
    let why = async || w.get(&format!("{V2}/a")).await.1["message"].as_str().unwrap_or_default().to_owned();
    let failed = |why: &str| {
        let url = "https://hook.default.svc:9443/convert?timeout=30s";
        format!("conversion webhook for stable.example.com/v1, Kind=Endpoint failed: Post \"{url}\": client error (Connect): {why}")
    };
    assert_eq!(why().await, failed("services \"hook\" not found"));
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}});
    w.post("/api/v1/namespaces/default/services", &service).await;
    assert_eq!(why().await, failed("no service port 9443 found for service \"hook\""));
    w.patch("/api/v1/namespaces/default/services/hook", &json!({"spec": {"ports": [{"port": 9443}]}})).await;
    assert_eq!(why().await, failed("no endpoints available for service \"hook\""));
    let slice = json!({"metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "ports": [{"name": "", "port": 8443}], "endpoints": [{"addresses": ["10.7.7.7"]}]});
    let (code, made) = w.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(why().await, "");
    assert_eq!(hook.count(), 1);
}

#[tokio::test]
async fn a_webhook_that_fails_fails_the_request() {
    let mode = Arc::new(parking_lot::Mutex::new("refuses"));
    let asked = mode.clone();
    let hook = Hook::start(&["127.0.0.1"], false, move |review| {
        let objects =
            || review["request"]["objects"].as_array().unwrap().iter().map(|o| convert(o, "stable.example.com/v2")).collect::<Vec<_>>();
        match *asked.lock() {
            "refuses" => {
                let response = json!({"uid": review["request"]["uid"], "result": {"status": "Failed", "message": "not today"}});
                Some((200, json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}).to_string()))
            }
            "says nothing" => Some((200, json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}).to_string())),
            "breaks" => Some((500, "broken".into())),
            "babbles" => Some((200, "<html>".into())),
            "forgets" => answer(review, Vec::new()),
            "renames" => {
                let mut objects = objects();
                objects[0]["metadata"]["name"] = json!("other");
                answer(review, objects)
            }
            "hangs" => None,
            _ => answer(review, objects()),
        }
    })
    .await;
    let (w, clock) = World::manual().await;
    w.post(CRDS, &definition(hook.by_url("/"))).await;
    w.until(V1, |code, _| code == 200).await;
    w.post(V1, &endpoint("v1", "a")).await;
    for (does, why) in [
        ("refuses", "failed: not today"),
        ("says nothing", "failed: no response provided"),
        (
            "breaks",
            "failed: an error on the server (\"broken\") has prevented the request from succeeding: status code 500 Internal Server Error",
        ),
        ("babbles", "failed: the answer does not decode: expected value at line 1 column 1"),
        ("forgets", "returned 0 objects, expected 1"),
        ("renames", "returned invalid converted object at index 0: must have the same name: a != other"),
    ] {
        *mode.lock() = does;
        let (code, refused) = w.get(&format!("{V2}/a")).await;
        let wanted = format!("conversion webhook for stable.example.com/v1, Kind=Endpoint {why}");
        assert_eq!((code, refused["message"].as_str()), (500, Some(wanted.as_str())), "{does}");
        // The version that is stored is there as ever.
        assert_eq!(w.get(&format!("{V1}/a")).await.0, 200);
        assert_eq!(w.post(V2, &endpoint("v2", "b")).await.0, 500, "{does}");
    }
    *mode.lock() = "hangs";
    let calls = hook.count();
    let pass = async {
        while hook.count() == calls {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(30));
    };
    let path = format!("{V2}/a");
    let ((code, refused), ()) = tokio::join!(w.get(&path), pass);
    assert_eq!(code, 500);
    assert!(refused["message"].as_str().unwrap().ends_with("?timeout=30s\": context deadline exceeded"), "{refused}");
    // A failure is not remembered.
    *mode.lock() = "works";
    assert_eq!(w.get(&format!("{V2}/a")).await.1["host"], "a.local");
}

#[tokio::test]
async fn whose_certificate_nobody_vouches_for_is_not_asked() {
    let (hook, other) = (Hook::start(&["127.0.0.1"], false, converting).await, Hook::start(&["127.0.0.1"], false, converting).await);
    let w = World::new().await;
    w.define(json!({"url": format!("https://{}", hook.address), "caBundle": other.bundle})).await;
    w.post(V1, &endpoint("v1", "a")).await;
    let (code, refused) = w.get(&format!("{V2}/a")).await;
    assert_eq!((code, hook.count()), (500, 0));
    assert!(refused["message"].as_str().unwrap().contains("invalid peer certificate"), "{refused}");
}
