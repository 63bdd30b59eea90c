//! CustomResourceDefinitions from their creation to their removal, through HTTP requests over the memory store.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::store::SharedStore;
use wharf_store_memory::MemoryStore;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/crontabs.stable.example.com";
const CRONTABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

struct World {
    server: ApiServer,
}

async fn world_over(store: SharedStore) -> World {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    World { server: ApiServer::builder(store, clock).build().await.unwrap() }
}

impl World {
    async fn send(&self, method: Method, uri: &str, content_type: &str, accept: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(uri).header("content-type", content_type).header("accept", accept);
        let request = request.body(body.into()).unwrap();
        let info = path::parse(request.method(), request.uri());
        let response = self.server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
    async fn get(&self, uri: &str) -> (u16, Value) {
        self.send(Method::GET, uri, "", "application/json", "").await
    }
    async fn post(&self, uri: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, uri, "application/json", "application/json", body.to_string()).await
    }
    async fn patch(&self, uri: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PATCH, uri, "application/merge-patch+json", "application/json", body.to_string()).await
    }
    /// Waits for what comes about by itself.
    async fn until(&self, uri: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
        loop {
            let (code, value) = self.get(uri).await;
            if holds(code, &value) {
                return value;
            }
            tokio::task::yield_now().await;
        }
    }
    async fn established(&self) {
        self.until(CRD, |_, crd| condition(crd, "Established") == Some("True")).await;
    }
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a str> {
    crd["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

fn crontab_definition() -> Value {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                    "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
                    "image": {"type": "string"},
                    "colour": {"type": "string", "default": "red"},
                    "replicas": {"type": "integer", "minimum": 1, "maximum": 10}}},
                "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}}}}},
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"}},
            "selectableFields": [{"jsonPath": ".spec.colour"}],
            "additionalPrinterColumns": [
                {"name": "Spec", "type": "string", "description": "The cron spec", "jsonPath": ".spec.cronSpec"},
                {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "versions": [version("v1beta1", false), version("v1", true)],
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]}}})
}

fn crontab(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name},
        "spec": {"cronSpec": "* * * * */5", "image": "my-awesome-cron-image", "replicas": 3}})
}

#[tokio::test]
async fn from_definition_to_removal() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let w = world_over(store.clone()).await;
    assert_eq!(w.get(CRONTABS).await.0, 404);
    let (code, made) = w.post(CRDS, &crontab_definition()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["names"]["listKind"], "CronTabList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    w.established().await;

    // Discovery, both ways.
    let (_, list) = w.get("/apis/stable.example.com/v1").await;
    let names: Vec<&str> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let (_, group) = w.get("/apis/stable.example.com").await;
    assert_eq!((&group["preferredVersion"]["version"], group["versions"].as_array().unwrap().len()), (&json!("v1"), 2));

    // An object is pruned and filled in; what is wrong is told in Kubernetes' words.
    let mut object = crontab("a");
    object["spec"]["unknown"] = json!(1);
    let (code, refused) = w.post(&format!("{CRONTABS}?fieldValidation=Strict"), &object).await;
    assert_eq!(
        (code, refused["message"].as_str().unwrap()),
        (400, "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: unknown field \"spec.unknown\"")
    );
    let (code, made) = w.post(CRONTABS, &object).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"], json!({"cronSpec": "* * * * */5", "image": "my-awesome-cron-image", "replicas": 3, "colour": "red"}));
    assert_eq!(made["metadata"]["generation"], 1);
    let mut bad = crontab("b");
    bad["spec"] = json!({"cronSpec": "* * * *", "replicas": 15});
    let (code, refused) = w.post(CRONTABS, &bad).await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("CronTab.stable.example.com \"b\" is invalid: ["), "{message}");
    assert!(message.contains("spec.replicas: Invalid value: 15: spec.replicas in body should be less than or equal to 10"), "{message}");
    assert!(message.contains("spec.cronSpec: Invalid value: \"* * * *\": spec.cronSpec in body should match"), "{message}");

    // Another version of the same object.
    let (_, older) = w.get("/apis/stable.example.com/v1beta1/namespaces/default/crontabs/a").await;
    assert_eq!(older["apiVersion"], "stable.example.com/v1beta1");

    // Columns, selectable fields, status and scale.
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, table) = w.send(Method::GET, CRONTABS, "", table, "").await;
    let heads: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(heads, ["Name", "Spec", "Replicas", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), json!("* * * * */5"), json!(3)]);
    let (_, red) = w.get(&format!("{CRONTABS}?fieldSelector=spec.colour%3Dred")).await;
    let (_, blue) = w.get(&format!("{CRONTABS}?fieldSelector=spec.colour%3Dblue")).await;
    assert_eq!((red["items"].as_array().unwrap().len(), blue["items"].as_array().unwrap().len()), (1, 0));
    assert_eq!(w.get(&format!("{CRONTABS}?fieldSelector=spec.image%3Dx")).await.0, 400);
    let status = json!({"status": {"replicas": 2, "labelSelector": "app=a"}, "spec": {"replicas": 9}});
    let (code, object) = w.patch(&format!("{CRONTABS}/a/status"), &status).await;
    assert_eq!((code, &object["spec"]["replicas"], &object["status"]["replicas"]), (200, &json!(3), &json!(2)));
    let (_, scale) = w.get(&format!("{CRONTABS}/a/scale")).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]), (&json!(3), &json!({"replicas": 2, "selector": "app=a"})));
    let (code, scale) = w.patch(&format!("{CRONTABS}/a/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(5)));
    let (_, object) = w.get(&format!("{CRONTABS}/a")).await;
    assert_eq!((&object["spec"]["replicas"], &object["metadata"]["generation"]), (&json!(5), &json!(2)));

    // Another server over the same store serves it from its start.
    let other = world_over(store).await;
    assert_eq!(other.get(&format!("{CRONTABS}/a")).await.0, 200);

    // Removal takes the objects along, on every server.
    let (code, going) = w.send(Method::DELETE, CRD, "", "application/json", "").await;
    assert_eq!((code, condition(&going, "Terminating")), (200, Some("True")), "{going}");
    w.until(CRD, |code, _| code == 404).await;
    w.until(CRONTABS, |code, _| code == 404).await;
    other.until(CRONTABS, |code, _| code == 404).await;
    assert_eq!(w.get("/apis/stable.example.com").await.0, 404);

    // What comes back by the same name finds nothing of what was there.
    assert_eq!(w.post(CRDS, &crontab_definition()).await.0, 201);
    w.established().await;
    assert_eq!(w.get(CRONTABS).await.1["items"], json!([]));
}

#[tokio::test]
async fn definitions_that_are_refused() {
    let w = world_over(Arc::new(MemoryStore::new())).await;
    let mut wrong = crontab_definition();
    wrong["metadata"]["name"] = json!("other.stable.example.com");
    wrong["spec"]["versions"][0]["storage"] = json!(true);
    wrong["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["image"] = json!({});
    let (code, refused) = w.post(CRDS, &wrong).await;
    assert_eq!(code, 422, "{refused}");
    let message = refused["message"].as_str().unwrap();
    for part in [
        "CustomResourceDefinition.apiextensions.k8s.io \"other.stable.example.com\" is invalid: [",
        "metadata.name: Invalid value: \"other.stable.example.com\": must be spec.names.plural+\".\"+spec.group",
        "must have exactly one version marked as storage version",
        "spec.versions[1].schema.openAPIV3Schema.properties[spec].properties[image].type: Required value: must not be empty for specified object fields",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert_eq!(w.post(CRDS, &crontab_definition()).await.0, 201);
    w.established().await;
    let (code, refused) = w.patch(CRD, &json!({"spec": {"scope": "Cluster"}})).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("spec.scope: Invalid value: \"Cluster\": field is immutable"), "{refused}");

    // A second one that wants the same short name is not established until the name is free.
    let mut second = crontab_definition();
    second["metadata"]["name"] = json!("cats.stable.example.com");
    second["spec"]["names"] = json!({"plural": "cats", "kind": "Cat", "shortNames": ["ct"]});
    assert_eq!(w.post(CRDS, &second).await.0, 201);
    let cats = format!("{CRDS}/cats.stable.example.com");
    w.until(&cats, |_, crd| condition(crd, "NamesAccepted") == Some("False")).await;
    assert_eq!(w.get("/apis/stable.example.com/v1/cats").await.0, 404);
    assert_eq!(w.send(Method::DELETE, CRD, "", "application/json", "").await.0, 200);
    w.until(&cats, |_, crd| condition(crd, "Established") == Some("True")).await;
    w.until("/apis/stable.example.com/v1/cats", |code, _| code == 200).await;
}

#[tokio::test]
async fn conversions_and_selectable_fields_that_are_refused() {
    let w = world_over(Arc::new(MemoryStore::new())).await;
    let refused = async |pointer: &str, value: Value| {
        let mut wrong = crontab_definition();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        wrong.pointer_mut(parent).unwrap()[name] = value;
        let (code, answer) = w.post(CRDS, &wrong).await;
        assert_eq!(code, 422, "{answer}");
        let causes = answer["details"]["causes"].as_array().unwrap().clone();
        causes.iter().map(|c| format!("{}: {}", c["field"].as_str().unwrap(), c["message"].as_str().unwrap())).collect::<Vec<_>>()
    };
    let webhook = |client: Value, versions: Value| json!({"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": versions}});
    let (client, reviews) = ("spec.conversion.webhookClientConfig", "spec.conversion.conversionReviewVersions");
    for (conversion, wanted) in [
        (json!({"strategy": "Webhook"}), format!("{client}: Required value: required when strategy is set to Webhook")),
        (
            json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
            format!("{client}: Forbidden: should not be set when strategy is not set to Webhook"),
        ),
        (
            webhook(json!({"url": "http://a"}), json!(["v1"])),
            format!("{client}.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"),
        ),
        (
            webhook(json!({"service": {"name": "a", "namespace": "b", "path": "//"}}), json!(["v1"])),
            format!("{client}.service.path: Invalid value: \"//\": segment[0] may not be empty"),
        ),
        (webhook(json!({"url": "https://a"}), json!([])), format!("{reviews}: Required value")),
        (webhook(json!({"url": "https://a"}), json!(["v1", "v1"])), format!("{reviews}[1]: Invalid value: \"v1\": duplicate version")),
        (
            webhook(json!({"url": "https://a"}), json!(["v9"])),
            format!("{reviews}: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1"),
        ),
    ] {
        assert_eq!(refused("/spec/conversion", conversion).await, [wanted]);
    }
    let field = "spec.versions[0].selectableFields";
    let fields = |paths: &[&str]| Value::from(paths.iter().map(|p| json!({"jsonPath": p})).collect::<Vec<_>>());
    for (paths, wanted) in [
        (&[""][..], format!("{field}[0].jsonPath: Required value")),
        (
            &[".spec.none"],
            format!("{field}[0].jsonPath: Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field"),
        ),
        (
            &[".spec"],
            format!(
                "{field}[0]: Invalid value: \".spec\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            ),
        ),
        (&[".spec.image", ".spec.image"], format!("{field}[1]: Duplicate value: \".spec.image\"")),
    ] {
        assert_eq!(refused("/spec/versions/0/selectableFields", fields(paths)).await, [wanted]);
    }
    assert!(
        refused("/spec/versions/0/selectableFields", fields(&[".spec.image"; 9])).await[0].starts_with(&format!("{field}: Too many: 9"))
    );

    // Versions that objects may still be stored in stay.
    assert_eq!(w.post(CRDS, &crontab_definition()).await.0, 201);
    w.established().await;
    let mut only = json!({"spec": {"versions": [crontab_definition()["spec"]["versions"][0].clone()]}});
    only["spec"]["versions"][0]["storage"] = json!(true);
    let (code, answer) = w.patch(CRD, &only).await;
    let why = "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version";
    assert!(code == 422 && answer["message"].as_str().unwrap().contains(why), "{answer}");
    let (code, answer) = w.patch(&format!("{CRD}/status"), &json!({"status": {"storedVersions": ["v1beta1"]}})).await;
    assert!(code == 422 && answer["message"].as_str().unwrap().contains("must have the storage version v1"), "{answer}");
}

#[tokio::test]
async fn what_a_narrower_schema_lacks_is_not_shown() {
    let w = world_over(Arc::new(MemoryStore::new())).await;
    let mut definition = crontab_definition();
    for version in 0..2 {
        definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["colour"] =
            json!({"type": "string"});
    }
    assert_eq!(w.post(CRDS, &definition).await.0, 201);
    w.established().await;
    assert_eq!(w.post(CRONTABS, &crontab("a")).await.0, 201);
    let narrow = |definition: &mut Value| {
        for version in 0..2 {
            let spec = &mut definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            spec["properties"].as_object_mut().unwrap().remove("image");
        }
    };
    let (_, mut stored) = w.get(CRD).await;
    narrow(&mut stored);
    assert_eq!(w.send(Method::PUT, CRD, "application/json", "application/json", stored.to_string()).await.0, 200);
    let shown = w.until(&format!("{CRONTABS}/a"), |_, o| o["spec"]["image"].is_null()).await;
    assert_eq!(shown["spec"]["replicas"], 3);
    let (_, list) = w.get(CRONTABS).await;
    assert_eq!(list["items"][0], shown);
    // A write that changes nothing shows no more, and one of something else forgets it.
    let (code, same) = w.patch(&format!("{CRONTABS}/a"), &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &same["spec"]["image"]), (200, &Value::Null));
    let (code, written) = w.patch(&format!("{CRONTABS}/a"), &json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &written["spec"]["image"]), (200, &Value::Null));
}

#[tokio::test]
async fn what_the_stored_version_lacks_is_not_stored() {
    let w = world_over(Arc::new(MemoryStore::new())).await;
    let mut definition = crontab_definition();
    let fields = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    fields["early"] = json!({"type": "string"});
    assert_eq!(w.post(CRDS, &definition).await.0, 201);
    w.established().await;
    let mut object = crontab("a");
    object["apiVersion"] = json!("stable.example.com/v1beta1");
    object["spec"]["early"] = json!("x");
    let (code, made) = w.post(&CRONTABS.replace("/v1/", "/v1beta1/"), &object).await;
    assert_eq!((code, &made["spec"]["early"], &made["spec"]["image"]), (201, &Value::Null, &object["spec"]["image"]), "{made}");
}

#[tokio::test]
async fn rules_and_ratcheting() {
    let w = world_over(Arc::new(MemoryStore::new())).await;
    let mut definition = crontab_definition();
    for version in 0..2 {
        let spec = &mut definition["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-validations"] =
            json!([{"rule": "!has(self.image) || self.image.startsWith('my-')", "message": "image must be mine"}]);
        spec["properties"]["colour"]["x-kubernetes-validations"] = json!([{"rule": "self == oldSelf", "message": "colour is immutable"}]);
    }
    let mut malformed = definition.clone();
    malformed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.image =="}]);
    let (code, refused) = w.post(CRDS, &malformed).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("x-kubernetes-validations[0].rule: Invalid value: \"self.image ==\": compilation failed")
    );
    assert_eq!(w.post(CRDS, &definition).await.0, 201);
    w.established().await;
    let mut object = crontab("a");
    object["spec"]["image"] = json!("other");
    let (code, refused) = w.post(CRONTABS, &object).await;
    assert_eq!(code, 422);
    assert_eq!(refused["message"], "CronTab.stable.example.com \"a\" is invalid: spec: Invalid value: \"object\": image must be mine");
    assert_eq!(w.post(CRONTABS, &crontab("a")).await.0, 201);
    let (code, refused) = w.patch(&format!("{CRONTABS}/a"), &json!({"spec": {"colour": "blue"}})).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().ends_with("spec.colour: Invalid value: \"string\": colour is immutable"), "{refused}");

    // A bound that comes later does not hold up changes elsewhere.
    let spec = &mut definition["spec"]["versions"];
    for version in 0..2 {
        spec[version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"]["maximum"] = json!(2);
    }
    assert_eq!(w.patch(CRD, &json!({"spec": {"versions": definition["spec"]["versions"]}})).await.0, 200);
    loop {
        let (code, _) = w.post(&format!("{CRONTABS}?dryRun=All"), &crontab("b")).await;
        if code == 422 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let (code, changed) = w.patch(&format!("{CRONTABS}/a"), &json!({"spec": {"image": "my-other"}})).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(w.patch(&format!("{CRONTABS}/a"), &json!({"spec": {"replicas": 4}})).await.0, 422);
}

#[tokio::test]
async fn server_side_apply_merges_by_the_schemas_list_types() {
    let world = world_over(Arc::new(MemoryStore::new())).await;
    let mut definition = crontab_definition();
    let versions = definition["spec"]["versions"].as_array_mut().unwrap();
    for version in versions.iter_mut() {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["steps"] = json!({
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "run": {"type": "string"}}}});
    }
    assert_eq!(world.post(CRDS, &definition).await.0, 201);
    world.established().await;
    let apply = async |manager: &str, steps: Value| {
        let body = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "a"},
            "spec": {"cronSpec": "* * * * */5", "steps": steps}});
        let uri = format!("{CRONTABS}/a?fieldManager={manager}");
        world.send(Method::PATCH, &uri, "application/apply-patch+yaml", "application/json", body.to_string()).await
    };
    assert_eq!(apply("one", json!([{"name": "x", "run": "1"}])).await.0, 201);
    let (code, both) = apply("two", json!([{"name": "y", "run": "2"}])).await;
    assert_eq!((code, &both["spec"]["steps"]), (200, &json!([{"name": "x", "run": "1"}, {"name": "y", "run": "2"}])));
    let (code, refused) = apply("two", json!([{"name": "x", "run": "3"}])).await;
    assert_eq!((code, refused["details"]["causes"][0]["field"].as_str()), (409, Some(".spec.steps[name=\"x\"].run")));
    // What a manager names no longer goes, if nobody else has it.
    let (_, one) = apply("two", json!([])).await;
    assert_eq!(one["spec"]["steps"], json!([{"name": "x", "run": "1"}]));
}
