//! The forms of answers, what is said beside them, and what bodies may not say.

use http::Method;
use serde_json::{Value, json};

use crate::world::{World, pod, world};
use wharf_core::api::ApiExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn accepting(w: &World, uri: &str, accept: &str) -> (u16, Value) {
    let (code, value, _) = w.http_accepting(Method::GET, uri, "", accept, "").await;
    (code, value)
}

#[tokio::test]
async fn older_clients_get_tables_and_metadata_in_their_version() {
    let w = world().await;
    w.api.create(&pod("a")).await.unwrap();
    let uri = "/api/v1/namespaces/default/pods";
    let (_, table) = accepting(&w, uri, "application/json;as=Table;g=meta.k8s.io;v=v1beta1").await;
    assert_eq!(
        (&table["kind"], &table["apiVersion"], &table["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("meta.k8s.io/v1beta1"), &json!("a"))
    );
    let (_, list) = accepting(&w, uri, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1").await;
    assert_eq!((&list["apiVersion"], &list["items"][0]["apiVersion"]), (&json!("meta.k8s.io/v1beta1"), &json!("meta.k8s.io/v1beta1")));
    assert_eq!((&list["items"][0]["metadata"]["name"], list["items"][0].get("spec")), (&json!("a"), None));
    let (_, one) = accepting(&w, &format!("{uri}/a"), "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").await;
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
    let (code, refused) = accepting(&w, &format!("{uri}?watch=1"), "text/html").await;
    let want =
        "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!((code, &refused["message"]), (406, &json!(want)));
}

#[tokio::test]
async fn strict_validation_tells_everything_together() {
    let w = world().await;
    let body = r#"{"metadata":{"name":"a"},"spec":{"replicas":1,"replicas":2,"nonsense":1,"selector":{"matchLabels":{"a":"b"}},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","imagge":"x"}]}}}}"#;
    let strict = format!("{DEPLOYMENTS}?fieldValidation=Strict");
    let (code, refused, _) = w.http(Method::POST, &strict, "application/json", body).await;
    let why = "strict decoding error: duplicate field \"spec.replicas\", unknown field \"spec.nonsense\", \
        unknown field \"spec.template.spec.containers[0].imagge\"";
    let want = format!("Deployment in version \"v1\" cannot be handled as a Deployment: {why}");
    assert_eq!((code, &refused["message"]), (400, &json!(want)));
    // Told of otherwise, each by itself.
    let (code, _, headers) = w.http(Method::POST, &format!("{DEPLOYMENTS}?dryRun=All"), "application/json", body).await;
    let warnings: Vec<&str> = headers.get_all("warning").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(
        (code, warnings.as_slice()),
        (
            201,
            &[
                "299 - \"duplicate field \\\"spec.replicas\\\"\"",
                "299 - \"unknown field \\\"spec.nonsense\\\"\"",
                "299 - \"unknown field \\\"spec.template.spec.containers[0].imagge\\\"\"",
            ][..]
        )
    );
    let (code, _, headers) = w.http(Method::POST, &format!("{DEPLOYMENTS}?fieldValidation=Ignore"), "application/json", body).await;
    assert_eq!((code, headers.contains_key("warning")), (201, false));
    // A patch shows what it has made.
    let (code, refused) =
        w.patch(&format!("{DEPLOYMENTS}/a?fieldValidation=Strict"), "application/merge-patch+json", &json!({"spec": {"x": 1}})).await;
    let message = refused["message"].as_str().unwrap();
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
    assert!(
        message.starts_with(" \"\" is invalid: patch: Invalid value: \"{")
            && message.ends_with(": strict decoding error: unknown field \"spec.x\""),
        "{message}"
    );
    // YAML tells the line.
    let yaml = "metadata:\n  name: b\ndata:\n  k: one\n  k: two\n";
    let (code, refused, _) = w.http(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), "application/yaml", yaml).await;
    let why = "strict decoding error: yaml: unmarshal errors:\n  line 5: key \"k\" already set in map";
    assert_eq!((code, &refused["message"]), (400, &json!(format!("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: {why}"))));
}

#[tokio::test]
async fn what_is_deprecated_is_warned_of() {
    let w = world().await;
    for (uri, want) in [
        (
            "/api/v1/namespaces/default/endpoints",
            Some("299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""),
        ),
        ("/api/v1/componentstatuses", Some("299 - \"v1 ComponentStatus is deprecated in v1.19+\"")),
        ("/api/v1/namespaces/default/pods", None),
    ] {
        let (code, _, headers) = w.http(Method::GET, uri, "", "").await;
        assert_eq!((code, headers.get("warning").map(|v| v.to_str().unwrap())), (200, want), "{uri}");
    }
}

#[tokio::test]
async fn aggregated_discovery_is_sent_once() {
    let w = world().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    for path in ["/api", "/apis"] {
        let ask = async |tag: &str| {
            let request = http::Request::get(path).header("accept", accept).header("if-none-match", tag).body(bytes::Bytes::new()).unwrap();
            let info = wharf_apiserver::rest::path::parse(request.method(), request.uri());
            let user = std::sync::Arc::new(wharf_apiserver::request::User::master("admin"));
            w.server.rest().handle(request, &info, &user).await
        };
        let first = ask("").await;
        let tag = first.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(
            (first.status().as_u16(), &first.headers()["vary"], &first.headers()["cache-control"]),
            (200, &"Accept".parse().unwrap(), &"public".parse().unwrap())
        );
        assert_eq!(ask(&tag).await.status().as_u16(), 304);
        assert_eq!(ask("\"other\"").await.status().as_u16(), 200);
    }
}
