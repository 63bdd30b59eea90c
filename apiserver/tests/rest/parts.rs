//! Parts of objects that are written by themselves.

use http::Method;
use serde_json::{Value, json};

use crate::world::{World, world};

const PODS: &str = "/api/v1/namespaces/default/pods";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn with_pod(resources: Value) -> World {
    let w = world().await;
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "main", "image": "x:1", "resources": resources}]}});
    assert_eq!(w.post(PODS, &pod).await.0, 201);
    w
}

#[tokio::test]
async fn ephemeral_containers_are_added_through_their_part_alone() {
    let w = with_pod(json!({})).await;
    let uri = format!("{PODS}/a/ephemeralcontainers");
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox", "stdin": true, "targetContainerName": "main"}], "nodeName": "n"}});
    let (code, pod) = w.patch(&uri, STRATEGIC, &debugger).await;
    assert_eq!((code, &pod["kind"]), (200, &json!("Pod")), "{pod}");
    let made = &pod["spec"]["ephemeralContainers"][0];
    assert_eq!(
        (&made["name"], &made["imagePullPolicy"], &made["terminationMessagePath"]),
        (&json!("debug"), &json!("Always"), &json!("/dev/termination-log"))
    );
    assert_eq!((pod["spec"].get("nodeName"), &pod["metadata"]["generation"]), (None, &json!(2)));
    // A second one joins the first, as a strategic merge by name does.
    let (code, pod) = w.patch(&uri, STRATEGIC, &json!({"spec": {"ephemeralContainers": [{"name": "more", "image": "busybox"}]}})).await;
    assert_eq!((code, pod["spec"]["ephemeralContainers"].as_array().unwrap().len()), (200, 2));
    assert_eq!(w.get(&uri).await.1, w.get(&format!("{PODS}/a")).await.1);
    let (code, refused) = w.patch(&uri, "application/merge-patch+json", &json!({"spec": {"ephemeralContainers": []}})).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    let removed =
        |name: &str| format!("spec.ephemeralContainers: Forbidden: existing ephemeral containers \"{name}\" may not be removed\n");
    let mut both = [removed("debug"), removed("more")];
    if !refused["message"].as_str().unwrap().contains(&both.join(", ")) {
        both.reverse();
    }
    assert_eq!(refused["message"], format!("Pod \"a\" is invalid: [{}]", both.join(", ")));
    // They are no part of a write to the pod itself, and none is made with a pod.
    let (code, refused) =
        w.patch(&format!("{PODS}/a"), STRATEGIC, &json!({"spec": {"ephemeralContainers": [{"name": "x", "image": "y"}]}})).await;
    assert_eq!(code, 422, "{refused}");
    let early = json!({"metadata": {"name": "b"}, "spec": {"containers": [{"name": "m", "image": "x"}], "ephemeralContainers": [{"name": "d", "image": "x"}]}});
    let (code, refused) = w.post(PODS, &early).await;
    assert_eq!(
        (code, &refused["message"]),
        (422, &json!("Pod \"b\" is invalid: spec.ephemeralContainers: Forbidden: cannot be set on create"))
    );
}

#[tokio::test]
async fn a_pod_is_resized_through_its_part_alone() {
    let w = with_pod(json!({"requests": {"cpu": "100m"}})).await;
    let uri = format!("{PODS}/a/resize");
    let to = |cpu: &str| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "other", "resources": {"requests": {"cpu": cpu}}}]}});
    let (code, pod) = w.patch(&uri, STRATEGIC, &to("200m")).await;
    assert_eq!(code, 200, "{pod}");
    let main = &pod["spec"]["containers"][0];
    assert_eq!(
        (&main["resources"]["requests"]["cpu"], &main["image"], pod["metadata"].get("labels")),
        (&json!("200m"), &json!("x:1"), None)
    );
    assert_eq!((&pod["metadata"]["generation"], &pod["status"]["qosClass"]), (&json!(2), &json!("Burstable")));
    let (code, refused) = w.patch(&format!("{PODS}/a"), STRATEGIC, &to("300m")).await;
    assert_eq!(code, 422, "{refused}");
    let (code, refused) =
        w.patch(&uri, "application/merge-patch+json", &json!({"spec": {"containers": [{"name": "main", "image": "x:1"}]}})).await;
    let why = "[spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing, \
        spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed]";
    assert_eq!((code, &refused["message"]), (422, &json!(format!("Pod \"a\" is invalid: {why}"))));
    // Once a container runs on a node that does not tell what it has, the node cannot resize.
    let running = json!({"status": {"containerStatuses": [{"name": "main", "image": "x", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}});
    assert_eq!(w.patch(&format!("{PODS}/a/status"), STRATEGIC, &running).await.0, 200);
    let (code, refused) = w.patch(&uri, STRATEGIC, &to("300m")).await;
    let why = "spec: Forbidden: Pod running on node without support for resize";
    assert_eq!((code, &refused["message"]), (422, &json!(format!("Pod \"a\" is invalid: {why}"))));
}

#[tokio::test]
async fn pods_are_bound_by_the_older_path_too() {
    let w = with_pod(json!({})).await;
    // Who may change a pod may not choose its node: that is a verb of its own.
    let (code, refused) = w.patch(&format!("{PODS}/a"), "application/merge-patch+json", &json!({"spec": {"nodeName": "n"}})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec")), "{refused}");
    let mut gated = json!({"metadata": {"name": "gated"}, "spec": {"nodeName": "n", "schedulingGates": [{"name": "a.b/c"}]}});
    gated["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    let (code, refused) = w.post(PODS, &gated).await;
    let why = "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared";
    assert_eq!((code, &refused["message"]), (422, &json!(format!("Pod \"gated\" is invalid: {why}"))));
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let (code, done) = w.post("/api/v1/namespaces/default/bindings", &binding).await;
    assert_eq!((code, &done["status"]), (201, &json!("Success")), "{done}");
    assert_eq!(w.get(&format!("{PODS}/a")).await.1["spec"]["nodeName"], "n");
    let (code, refused) = w.post("/api/v1/namespaces/default/bindings", &binding).await;
    assert_eq!(
        (code, &refused["message"]),
        (409, &json!("Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n\""))
    );
    assert_eq!(w.http(Method::GET, "/api/v1/namespaces/default/bindings", "", "").await.0, 405);
}

#[tokio::test]
async fn components_are_told_of() {
    let w = world().await;
    let (code, list) = w.get("/api/v1/componentstatuses").await;
    assert_eq!((code, &list["kind"]), (200, &json!("ComponentStatusList")), "{list}");
    let one = &list["items"][0];
    assert_eq!((&one["metadata"]["name"], &one["conditions"][0]["status"]), (&json!("etcd-0"), &json!("True")));
    assert_eq!(w.get("/api/v1/componentstatuses/etcd-0").await.1["conditions"], one["conditions"]);
    let (code, missing) = w.get("/api/v1/componentstatuses/x").await;
    assert_eq!((code, &missing["message"]), (404, &json!("componentstatuses \"x\" not found")));
    assert_eq!(w.post("/api/v1/componentstatuses", &json!({"metadata": {"name": "x"}})).await.0, 405);
}

#[tokio::test]
async fn scales_are_checked_whatever_they_scale() {
    let w = world().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let plain = json!({"metadata": {"name": "x"}, "spec": {"replicas": 2, "selector": {"a": "b"}, "template": template}});
    let labelled = json!({"metadata": {"name": "x"}, "spec": {"replicas": 2, "serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    for (base, object, missing) in [
        ("/api/v1/namespaces/default/replicationcontrollers", &plain, "replicationcontrollers/scale.autoscaling"),
        ("/apis/apps/v1/namespaces/default/deployments", &labelled, "deployments/scale.apps"),
        ("/apis/apps/v1/namespaces/default/replicasets", &labelled, "replicasets/scale.apps"),
        ("/apis/apps/v1/namespaces/default/statefulsets", &labelled, "statefulsets.apps"),
    ] {
        assert_eq!(w.post(base, object).await.0, 201);
        let uri = format!("{base}/x/scale");
        let (_, mut scale) = w.get(&uri).await;
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("a=b")), "{base}");
        let put = async |scale: &Value| {
            let (code, value, _) = w.http(Method::PUT, &uri, "application/json", scale.to_string()).await;
            (code, value)
        };
        scale["spec"]["replicas"] = json!(3);
        assert_eq!(put(&scale).await.1["spec"]["replicas"], 3);
        let (_, object) = w.get(&format!("{base}/x")).await;
        assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(3), &json!(2)));
        // The version is that of the object, which has changed.
        assert_eq!(put(&scale).await.0, 409);
        let of = |field: &str, value: Value| {
            let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "x"}, "spec": {"replicas": 1}});
            *scale.pointer_mut(field).unwrap_or(&mut json!(null)) = value.clone();
            if field == "/metadata/uid" {
                scale["metadata"]["uid"] = value;
            }
            scale
        };
        assert_eq!(put(&of("/metadata/uid", json!("other"))).await.0, 409);
        assert_eq!(put(&of("/metadata/name", json!("y"))).await.0, 400);
        assert_eq!(put(&of("/kind", json!("Deployment"))).await.0, 400);
        let (code, refused) = put(&of("/spec/replicas", json!(-1))).await;
        let want = "Scale.autoscaling \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
        assert_eq!((code, &refused["message"]), (422, &json!(want)));
        let (code, missed) = w.get(&format!("{base}/none/scale")).await;
        assert_eq!((code, &missed["message"]), (404, &json!(format!("{missing} \"none\" not found"))));
    }
}
