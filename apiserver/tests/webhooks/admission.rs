//! Webhooks that admit: what they are asked, what they may change, and what becomes of those that fail.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::hook::Hook;
use crate::world::World;

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn answer(review: &Value, mut response: Value) -> Option<(u16, String)> {
    response["uid"] = review["request"]["uid"].clone();
    Some((200, json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}).to_string()))
}

fn patched(review: &Value, patch: &Value) -> Option<(u16, String)> {
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    answer(review, json!({"allowed": true, "patch": patch, "patchType": "JSONPatch"}))
}

fn rules(resources: &[&str]) -> Value {
    json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}])
}

/// A webhook of a configuration; the changes are members of it.
fn webhook(name: &str, client: Value, changes: Value) -> Value {
    let mut webhook = json!({"name": format!("{name}.example.com"), "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": rules(&["configmaps"])});
    webhook.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    webhook
}

impl World {
    async fn configure(&self, kind: &str, name: &str, webhooks: Vec<Value>) {
        let (code, made) = self.post(kind, &json!({"metadata": {"name": name}, "webhooks": webhooks})).await;
        assert_eq!(code, 201, "{made}");
        self.seen(kind, &made).await;
    }
    /// Waits until reads that need not be the newest know of a configuration: writes are held against what they know.
    async fn seen(&self, kind: &str, made: &Value) {
        let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
        let (code, _) = self.get(&format!("{kind}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan")).await;
        assert_eq!(code, 200);
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test]
async fn what_is_asked_and_what_is_changed() {
    let hook = Hook::start(&["127.0.0.1"], false, |review| {
        let patch =
            json!([{"op": "add", "path": "/data/mutated", "value": "yes"}, {"op": "add", "path": "/metadata/uid", "value": "forged"}]);
        let request = &review["request"];
        if request["operation"] == "DELETE" { answer(review, json!({"allowed": true})) } else { patched(review, &patch) }
    })
    .await;
    let w = World::new().await;
    w.configure(MUTATING, "m", vec![webhook("m", hook.by_url("/mutate"), json!({}))]).await;
    let (code, made) = w.post(&format!("{MAPS}?fieldManager=me"), &map("a")).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1", "mutated": "yes"})), "{made}");
    assert_ne!(made["metadata"]["uid"], "forged");
    let asked = hook.seen.lock()[0].clone();
    assert_eq!((&asked["apiVersion"], &asked["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let request = &asked["request"];
    for (name, wanted) in [
        ("kind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("resource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("requestKind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("operation", json!("CREATE")),
        ("name", json!("a")),
        ("namespace", json!("default")),
        ("dryRun", json!(false)),
        ("oldObject", json!(null)),
        ("userInfo", json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})),
        ("options", json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})),
    ] {
        assert_eq!(request[name], wanted, "{name}: {request}");
    }
    assert_eq!(request["object"]["data"], json!({"a": "1"}));

    // An update that the webhook makes the same again is none.
    let (code, same) = w.patch(&format!("{MAPS}/a"), &json!({"data": {"mutated": null}})).await;
    assert_eq!((code, &same["metadata"]["resourceVersion"]), (200, &made["metadata"]["resourceVersion"]), "{same}");
    let asked = hook.seen.lock()[1].clone();
    assert_eq!((&asked["request"]["operation"], &asked["request"]["options"]["kind"]), (&json!("UPDATE"), &json!("PatchOptions")));
    assert_eq!(asked["request"]["oldObject"]["data"]["mutated"], "yes");
    assert_eq!(w.delete(&format!("{MAPS}/a")).await.0, 200);
    let asked = hook.seen.lock()[2].clone();
    assert_eq!((&asked["request"]["operation"], &asked["request"]["object"]), (&json!("DELETE"), &json!(null)));
    assert_eq!(asked["request"]["oldObject"]["metadata"]["name"], "a");
}

#[tokio::test]
async fn who_is_refused_is_told_by_whom_and_why() {
    let hook = Hook::start(&["127.0.0.1"], false, |review| {
        let request = &review["request"];
        let old = request["oldObject"]["data"]["stays"].is_string();
        if request["object"]["data"]["bad"].is_string() || (request["operation"] == "DELETE" && old) {
            return answer(review, json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "it is bad"}}));
        }
        answer(review, json!({"allowed": true, "warnings": ["take care"]}))
    })
    .await;
    let w = World::new().await;
    w.configure(VALIDATING, "v", vec![webhook("v", hook.by_url("/"), json!({}))]).await;
    let mut bad = map("a");
    bad["data"]["bad"] = json!("x");
    let why = "admission webhook \"v.example.com\" denied the request: it is bad";
    for uri in [MAPS.to_owned(), format!("{MAPS}?dryRun=All")] {
        let (code, refused) = w.post(&uri, &bad).await;
        assert_eq!((code, refused["message"].as_str(), refused["reason"].as_str()), (403, Some(why), Some("Forbidden")), "{refused}");
    }
    assert_eq!(hook.seen.lock()[1]["request"]["dryRun"], json!(true));
    let mut good = map("a");
    good["data"]["stays"] = json!("x");
    assert_eq!(w.post(MAPS, &good).await.0, 201);
    assert_eq!(w.patch(&format!("{MAPS}/a"), &json!({"data": {"bad": "x"}})).await.1["message"], why);
    assert_eq!(w.delete(&format!("{MAPS}/a")).await.1["message"], why);
    assert_eq!(w.delete(MAPS).await.1["message"], why);
    assert_eq!(w.get(&format!("{MAPS}/a")).await.0, 200);
}

#[tokio::test]
async fn a_webhook_that_fails_holds_up_what_it_is_about_or_is_passed_by() {
    let mode = Arc::new(Mutex::new("breaks"));
    let asked = mode.clone();
    let hook = Hook::start(&["127.0.0.1"], false, move |review| match *asked.lock() {
        "breaks" => Some((503, "broken".into())),
        "babbles" => Some((200, "<html>".into())),
        "forges" => Some((
            200,
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "?", "allowed": true}}).to_string(),
        )),
        "mangles" => patched(review, &json!([{"op": "add", "path": "/data/x", "value": {"y": 1}}])),
        "misses" => patched(review, &json!([{"op": "remove", "path": "/none/x"}])),
        _ => None,
    })
    .await;
    let (w, clock) = World::manual().await;
    w.configure(MUTATING, "m", vec![webhook("m", hook.by_url("/"), json!({"timeoutSeconds": 5}))]).await;
    let called = "Internal error occurred: failed calling webhook \"m.example.com\": ";
    for (does, why) in [
        (
            "breaks",
            format!(
                "{called}failed to call webhook: an error on the server (\"broken\") has prevented the request from succeeding: status code 503 Service Unavailable"
            ),
        ),
        ("babbles", format!("{called}failed to call webhook: the answer does not decode: expected value at line 1 column 1")),
        ("forges", format!("{called}received invalid webhook response: expected response.uid=")),
        ("mangles", "Internal error occurred: ".to_owned()),
        ("misses", "Internal error occurred: ".to_owned()),
    ] {
        *mode.lock() = does;
        let (code, refused) = w.post(MAPS, &map("a")).await;
        let message = refused["message"].as_str().unwrap_or_default();
        assert!(code == 500 && message.starts_with(&why), "{does}: {refused}");
        assert_eq!(w.get(&format!("{MAPS}/a")).await.0, 404);
    }
    *mode.lock() = "hangs";
    let hang = async |from: usize, seconds: u64| {
        while hook.count() == from {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(seconds));
    };
    let (at, object) = (hook.count(), map("a"));
    let ((code, refused), ()) = tokio::join!(w.post(MAPS, &object), hang(at, 5));
    assert!(code == 500 && refused["message"].as_str().unwrap().ends_with("?timeout=5s\": context deadline exceeded"), "{refused}");

    // The configuration itself can always be mended.
    let (code, mended) = w
        .patch(
            &format!("{MUTATING}/m"),
            &json!({"webhooks": [webhook("m", hook.by_url("/"), json!({"failurePolicy": "Ignore", "timeoutSeconds": 1}))]}),
        )
        .await;
    assert_eq!(code, 200, "{mended}");
    w.seen(MUTATING, &mended).await;
    let at = hook.count();
    let ((code, _), ()) = tokio::join!(w.post(MAPS, &object), hang(at, 1));
    assert_eq!(code, 201);
}

#[tokio::test]
async fn only_what_is_selected_is_asked_about() {
    let hook = Hook::start(&["127.0.0.1"], false, |review| answer(review, json!({"allowed": false}))).await;
    let w = World::new().await;
    w.post("/api/v1/namespaces", &json!({"metadata": {"name": "watched", "labels": {"hooks": "on"}}})).await;
    let on = json!({"namespaceSelector": {"matchLabels": {"hooks": "on"}}, "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
        "matchConditions": [{"name": "not-skipped", "expression": "!object.metadata.name.startsWith('skip-')"}]});
    w.configure(VALIDATING, "v", vec![webhook("v", hook.by_url("/"), on)]).await;
    let watched = "/api/v1/namespaces/watched/configmaps";
    let labelled = json!({"metadata": {"name": "b", "labels": {"skip": "me"}}});
    for (uri, object, wanted) in [
        (MAPS, map("a"), 201),
        (watched, map("a"), 400),
        (watched, labelled, 201),
        (watched, map("skip-me"), 201),
        ("/api/v1/namespaces/watched/secrets", json!({"metadata": {"name": "a"}}), 201),
    ] {
        let (code, told) = w.post(uri, &object).await;
        assert_eq!(code, wanted, "{uri}: {told}");
    }
    assert_eq!(hook.count(), 1);
    // A condition that cannot be told holds the write up.
    let untold = json!({"rules": rules(&["secrets"]), "matchConditions": [{"name": "x", "expression": "object.none.x == 1"}]});
    w.configure(VALIDATING, "w", vec![webhook("w", hook.by_url("/"), untold)]).await;
    let (code, refused) = w.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "z"}})).await;
    assert!(code == 403 && refused["message"].as_str().unwrap().contains("no such key"), "{refused}");
    assert_eq!(hook.count(), 1);
}

#[tokio::test]
async fn they_are_asked_in_order_and_again() {
    let order = Arc::new(Mutex::new(Vec::new()));
    // Each adds its name, the second one only where a third has been.
    let adds = |name: &'static str, key: &'static str| {
        let order = order.clone();
        move |review: &Value| {
            order.lock().push(name);
            let data = &review["request"]["object"]["data"];
            if data[key].is_string() {
                return answer(review, json!({"allowed": true}));
            }
            patched(review, &json!([{"op": "add", "path": format!("/data/{key}"), "value": data.as_object().unwrap().len().to_string()}]))
        }
    };
    let first = Hook::start(&["127.0.0.1"], false, adds("first", "x")).await;
    let second = Hook::start(&["127.0.0.1"], false, adds("second", "y")).await;
    let w = World::new().await;
    w.configure(MUTATING, "b", vec![webhook("second", second.by_url("/"), json!({"reinvocationPolicy": "IfNeeded"}))]).await;
    w.configure(MUTATING, "a", vec![webhook("first", first.by_url("/"), json!({"reinvocationPolicy": "IfNeeded"}))]).await;
    let (_, made) = w.post(MAPS, &map("a")).await;
    assert_eq!(made["data"], json!({"a": "1", "x": "1", "y": "2"}), "{made}");
    // The second changed what the first had seen, so that the first is asked again; nothing has changed after the second.
    assert_eq!(*order.lock(), ["first", "second", "first"]);
}

#[tokio::test]
async fn another_version_is_shown_as_the_rule_wants_it() {
    let hook =
        Hook::start(&["127.0.0.1"], false, |review| patched(review, &json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 7}])))
            .await;
    let w = World::new().await;
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["horizontalpodautoscalers"]}]);
    w.configure(MUTATING, "m", vec![webhook("m", hook.by_url("/"), json!({"rules": rules}))]).await;
    let (code, made) = w
        .post(
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            &json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 55}}}]}}),
        )
        .await;
    assert_eq!((code, &made["spec"]["maxReplicas"], &made["apiVersion"]), (201, &json!(7), &json!("autoscaling/v2")), "{made}");
    let asked = hook.seen.lock()[0]["request"].clone();
    assert_eq!((&asked["kind"]["version"], &asked["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(
        (&asked["object"]["apiVersion"], &asked["object"]["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(55))
    );
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 55);
}

#[tokio::test]
async fn what_a_webhook_adds_to_a_pod_is_filled_in() {
    let hook = Hook::start(&["127.0.0.1"], false, |review| {
        patched(
            review,
            &json!([{"op": "add", "path": "/spec/initContainers", "value": [{"image": "webhook-added-image", "name": "webhook-added"}]}]),
        )
    })
    .await;
    let w = World::new().await;
    w.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    w.configure(MUTATING, "m", vec![webhook("m", hook.by_url("/"), json!({"rules": rules(&["pods"])}))]).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let (code, made) = w.post("/api/v1/namespaces/default/pods", &pod).await;
    let added = &made["spec"]["initContainers"][0];
    assert_eq!((code, &added["terminationMessagePolicy"], &added["imagePullPolicy"]), (201, &json!("File"), &json!("Always")), "{made}");
    // The plugins were asked once more, so that it has the token of the service account like the others.
    assert!(added["volumeMounts"][0]["mountPath"].as_str().unwrap().contains("serviceaccount"), "{made}");
}
