//! RuntimeClasses and what becomes of the pods that name one.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_core::api::{Api, ApiExt, Kind};
use wharf_core::clock::ManualClock;
use wharf_core::scheduler::pod_requests;
use wharf_store_memory::MemoryStore;

async fn api() -> Arc<dyn Api> {
    let server = ApiServer::builder(Arc::new(MemoryStore::new()), Arc::new(ManualClock::default())).build().await.unwrap();
    server.local(User::master("admin"))
}

fn typed<K: Kind>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn pod(spec: Value) -> Pod {
    let mut all = json!({"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    typed(json!({"metadata":{"generateName":"p-","namespace":"default"},"spec":all}))
}

async fn refused(api: &Arc<dyn Api>, spec: Value) -> String {
    let error = api.create(&pod(spec)).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(403), Some("Forbidden")));
    error.to_string()
}

#[tokio::test]
async fn a_class_is_merged_into_its_pods() {
    let api = api().await;
    let class: RuntimeClass = typed(json!({
        "metadata":{"name":"heavy"},"handler":"kata",
        "overhead":{"podFixed":{"cpu":"250m","memory":"100Mi"}},
        "scheduling":{"nodeSelector":{"kata":"yes"},"tolerations":[{"key":"kata","operator":"Exists","effect":"NoSchedule"}]},
    }));
    api.create(&class).await.unwrap();
    let made = api.create(&pod(json!({"runtimeClassName":"heavy","nodeSelector":{"disk":"ssd"}}))).await.unwrap();
    assert_eq!(pod_requests(&made, false).unwrap().milli_cpu, 1250, "the scheduler counts the overhead");
    let spec = made.spec.clone().unwrap();
    assert_eq!(spec.overhead.unwrap()["memory"].0, "100Mi");
    assert_eq!(spec.node_selector.unwrap(), [("disk".to_string(), "ssd".to_string()), ("kata".to_string(), "yes".to_string())].into());
    let keys: Vec<_> = spec.tolerations.unwrap().into_iter().filter_map(|t| t.key).collect();
    assert_eq!(keys.iter().filter(|k| *k == "kata").count(), 1);
    assert_eq!(keys.len(), 3, "those of lost nodes stay: {keys:?}");

    // The same overhead in other words is the same.
    api.create(&pod(json!({"runtimeClassName":"heavy","overhead":{"cpu":"0.25","memory":"100Mi"}}))).await.unwrap();
    for (spec, why) in [
        (json!({"runtimeClassName":"x"}), r#"is forbidden: pod rejected: RuntimeClass "x" not found"#),
        (json!({"runtimeClassName":"heavy","overhead":{"cpu":"1"}}), "Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        (json!({"overhead":{"cpu":"1"}}), "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (
            json!({"runtimeClassName":"heavy","nodeSelector":{"kata":"no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[kata] = yes; pod.spec.nodeSelector[kata] = no",
        ),
    ] {
        let text = refused(&api, spec).await;
        assert!(text.ends_with(why), "{text}");
    }
}

#[tokio::test]
async fn a_class_is_validated() {
    let api = api().await;
    let bad: RuntimeClass = typed(json!({
        "metadata":{"name":"a"},"handler":"Not/a/label","overhead":{"podFixed":{"cpu":"-1"}},
        "scheduling":{"tolerations":[{"operator":"Equal"}]},
    }));
    let text = api.create(&bad).await.unwrap_err().to_string();
    for part in ["handler: Invalid value: \"Not/a/label\"", "overhead.limits[cpu]", "scheduling.tolerations[0].operator"] {
        assert!(text.contains(part), "{text}");
    }
    let none: RuntimeClass = typed(json!({"metadata":{"name":"a"},"handler":""}));
    assert_eq!(api.create(&none).await.unwrap_err().code(), Some(422));

    let good = api.create(&typed::<RuntimeClass>(json!({"metadata":{"name":"a"},"handler":"runsc"}))).await.unwrap();
    let mut changed = (*good).clone();
    changed.handler = "other".into();
    let text = api.update(&changed).await.unwrap_err().to_string();
    assert!(text.contains("handler: Invalid value: \"other\": field is immutable"), "{text}");
}
