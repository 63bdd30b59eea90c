//! Writes that are only tried, that demand something of what is there, and that leave something behind.

use http::Method;
use serde_json::{Value, json};

use crate::world::{World, world};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

async fn send(w: &World, method: Method, uri: &str, body: Value) -> (u16, Value) {
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let (code, value, _) = w.http(method, uri, media, if body.is_null() { String::new() } else { body.to_string() }).await;
    (code, value)
}

fn map(name: &str, color: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"color": color}})
}

#[tokio::test]
async fn what_is_only_tried_is_answered_and_not_done() {
    let w = world().await;
    assert_eq!(send(&w, Method::POST, MAPS, map("a", "red")).await.0, 201);
    let before = w.get(&format!("{MAPS}/a")).await;
    let tried = |uri: &str| format!("{MAPS}{uri}?dryRun=All");
    let (code, made) = send(&w, Method::POST, &tried(""), map("b", "blue")).await;
    assert_eq!((code, &made["data"]["color"], made["metadata"]["uid"].is_string()), (201, &json!("blue"), true));
    // As it would be served, but for the version that it has not got.
    let managers = |object: &Value| object["metadata"]["managedFields"][0]["fieldsV1"]["f:data"].is_object();
    assert!(managers(&made) && made["metadata"]["resourceVersion"].is_null(), "{made}");
    assert_eq!(w.get(&format!("{MAPS}/b")).await.0, 404);
    let (code, refused) = send(&w, Method::POST, &tried(""), map("a", "blue")).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("AlreadyExists")));
    let (_, changed) = send(&w, Method::PUT, &tried("/a"), map("a", "blue")).await;
    assert_eq!(
        (&changed["data"]["color"], &changed["metadata"]["resourceVersion"]),
        (&json!("blue"), &before.1["metadata"]["resourceVersion"])
    );
    assert!(managers(&changed), "{changed}");
    assert_eq!(send(&w, Method::PATCH, &tried("/a"), json!({"data": {"color": "green"}})).await.1["data"]["color"], "green");
    let (code, applied, _) = w
        .http(
            Method::PATCH,
            &format!("{}&fieldManager=me&force=true", tried("/c")),
            "application/apply-patch+yaml",
            map("c", "x").to_string(),
        )
        .await;
    assert_eq!((code, &applied["metadata"]["name"]), (201, &json!("c")));
    assert_eq!(send(&w, Method::DELETE, &tried("/a"), Value::Null).await.0, 200);
    assert_eq!(send(&w, Method::DELETE, &format!("{MAPS}/a"), json!({"dryRun": ["All"]})).await.0, 200);
    assert_eq!((w.get(&format!("{MAPS}/a")).await, w.get(&format!("{MAPS}/c")).await.0), (before, 404));
    let (code, refused) = send(&w, Method::POST, &format!("{MAPS}?dryRun=Some"), map("b", "x")).await;
    let want = "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"";
    assert_eq!((code, &refused["message"]), (422, &json!(want)));
}

#[tokio::test]
async fn updates_without_a_version_are_for_kinds_that_allow_them() {
    let w = world().await;
    send(&w, Method::POST, MAPS, map("a", "red")).await;
    assert_eq!(send(&w, Method::PUT, &format!("{MAPS}/a"), map("a", "blue")).await.0, 200);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
    send(&w, Method::POST, LEASES, lease.clone()).await;
    let (code, refused) = send(&w, Method::PUT, &format!("{LEASES}/l"), lease).await;
    let why = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
    assert_eq!((code, &refused["message"]), (422, &json!(format!("leases.coordination.k8s.io \"l\" is invalid: {why}"))));
    let mut other = map("a", "x");
    other["metadata"]["uid"] = json!("other");
    let (code, refused) = send(&w, Method::PUT, &format!("{MAPS}/a"), other).await;
    assert_eq!(code, 409);
    assert!(refused["message"].as_str().unwrap().contains("Precondition failed: UID in precondition: other, UID in object meta: "));
    let (code, refused) = send(&w, Method::PUT, &format!("{MAPS}/none"), map("none", "x")).await;
    assert_eq!((code, &refused["message"]), (404, &json!("configmaps \"none\" not found")));
    let (code, refused) = send(&w, Method::PUT, &format!("{MAPS}/a"), map("b", "x")).await;
    assert_eq!((code, &refused["message"]), (400, &json!("the name of the object (b) does not match the name on the URL (a)")));
}

#[tokio::test]
async fn deletes_demand_and_leave_behind() {
    let w = world().await;
    send(&w, Method::POST, MAPS, map("a", "red")).await;
    let (_, made) = w.get(&format!("{MAPS}/a")).await;
    let (uid, revision) = (made["metadata"]["uid"].as_str().unwrap(), made["metadata"]["resourceVersion"].as_str().unwrap());
    for (precondition, asked, found, why) in
        [("uid", "u", uid, "deleted and then recreated"), ("resourceVersion", "1", revision, "modified")]
    {
        let name = if precondition == "uid" { "UID" } else { "ResourceVersion" };
        let (code, refused) = send(&w, Method::DELETE, &format!("{MAPS}/a"), json!({"preconditions": {precondition: asked}})).await;
        let want = format!(
            "Operation cannot be fulfilled on ConfigMap \"a\": the {name} in the precondition ({asked}) does not match the {name} in record \
             ({found}). The object might have been {why}"
        );
        assert_eq!((code, &refused["message"]), (409, &json!(want)));
    }
    let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
    assert_eq!(send(&w, Method::DELETE, &format!("{MAPS}/a"), both).await.0, 422);
    // Orphans are let go by the garbage collector first, and so are dependents that go first.
    for (query, finalizer) in [("propagationPolicy=Orphan", "orphan"), ("propagationPolicy=Foreground", "foregroundDeletion")] {
        let (code, held) = send(&w, Method::DELETE, &format!("{MAPS}/a?{query}"), Value::Null).await;
        assert_eq!(
            (code, &held["metadata"]["finalizers"], held["metadata"]["deletionTimestamp"].is_string()),
            (200, &json!([finalizer]), true)
        );
    }
    let (code, _) = send(&w, Method::PATCH, &format!("{MAPS}/a"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!((code, w.get(&format!("{MAPS}/a")).await.0), (200, 404));

    // A pod that runs is given its time, which only gets shorter.
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20, "containers": [{"name": "c", "image": "i"}]}});
    send(&w, Method::POST, PODS, pod).await;
    let seconds = async |query: &str| {
        let (code, value) = send(&w, Method::DELETE, &format!("{PODS}/p?{query}"), Value::Null).await;
        (code, value["metadata"]["deletionGracePeriodSeconds"].clone())
    };
    assert_eq!(seconds("").await, (200, json!(20)));
    assert_eq!(seconds("gracePeriodSeconds=40").await, (200, json!(20)));
    assert_eq!(seconds("gracePeriodSeconds=5").await, (200, json!(5)));
    assert_eq!(w.get(&format!("{PODS}/p")).await.0, 200);
    assert_eq!(seconds("gracePeriodSeconds=0").await.0, 200);
    assert_eq!(w.get(&format!("{PODS}/p")).await.0, 404);
}

#[tokio::test]
async fn people_get_lines_and_large_answers_are_compressed() {
    let w = world().await;
    send(&w, Method::POST, MAPS, map("a", "red")).await;
    let ask = async |uri: &str, agent: &str| {
        let request =
            http::Request::get(uri).header("user-agent", agent).header("accept-encoding", "gzip").body(bytes::Bytes::new()).unwrap();
        let info = wharf_apiserver::rest::path::parse(request.method(), request.uri());
        let user = std::sync::Arc::new(wharf_apiserver::request::User::master("admin"));
        let (head, body) = w.server.rest().handle(request, &info, &user).await.into_parts();
        (head.headers, http_body_util::BodyExt::collect(body).await.unwrap().to_bytes())
    };
    let lines = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'\n').count();
    let uri = format!("{MAPS}/a");
    for (agent, query, pretty) in
        [("curl/8", "", true), ("curl/8", "?pretty=false", false), ("kubectl/v1.36", "", false), ("kubectl/v1.36", "?pretty=true", true)]
    {
        assert_eq!(lines(&ask(&format!("{uri}{query}"), agent).await.1) > 5, pretty, "{agent} {query}");
    }
    // 128 KiB is where it begins to be worth it.
    for (name, size, compressed) in [("small", 100 << 10, false), ("large", 140 << 10, true)] {
        let mut wide = map(name, "x");
        wide["data"]["wide"] = json!("x".repeat(size));
        send(&w, Method::POST, MAPS, wide).await;
        let (headers, body) = ask(&format!("{MAPS}/{name}"), "kubectl/v1.36").await;
        assert_eq!((headers.contains_key("content-encoding"), body.len() < size), (compressed, compressed), "{name}");
    }
}

#[tokio::test]
async fn an_update_creates_where_kind_and_user_allow_it() {
    use tower::Service;
    use wharf_apiserver::request::{RequestUser, User};
    let w = world().await;
    w.server.ready().await;
    let put = async |user: User, uri: &str, body: Value| {
        let mut request = http::Request::put(uri).header("content-type", "application/json");
        request.extensions_mut().unwrap().insert(RequestUser(std::sync::Arc::new(user)));
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from(body.to_string()))).unwrap();
        let response = w.server.service().clone().call(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let lease = |holder: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": holder}});
    let uri = format!("{LEASES}/l");
    let (code, made) = put(User::master("admin"), &uri, lease("a")).await;
    assert_eq!((code, &made["spec"]["holderIdentity"]), (201, &json!("a")), "{made}");
    // What is there is updated, as ever.
    assert_eq!(put(User::master("admin"), &uri, lease("b")).await.0, 422);
    let (code, missing) = put(User::master("admin"), &format!("{MAPS}/none"), map("none", "x")).await;
    assert_eq!((code, &missing["reason"]), (404, &json!("NotFound")));

    let rules =
        json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update"]}]});
    send(&w, Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", rules).await;
    let bound = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    send(&w, Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", bound).await;
    let jane = || User::new("jane", ["system:authenticated"]);
    // The role is seen as soon as the authorizer's informers are.
    while put(jane(), &uri, lease("c")).await.0 == 403 {
        tokio::task::yield_now().await;
    }
    let mut other = lease("c");
    other["metadata"]["name"] = json!("m");
    let (code, refused) = put(jane(), &format!("{LEASES}/m"), other).await;
    let want = "leases.coordination.k8s.io \"m\" is forbidden: User \"jane\" cannot create resource \"leases\" in API group \
        \"coordination.k8s.io\" in the namespace \"default\"";
    assert_eq!((code, &refused["message"]), (403, &json!(want)));
}
