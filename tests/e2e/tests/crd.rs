//! kubectl and custom resources: definitions, what is made of them, and how they go.

use serde_json::Value;
use wharf_core::testing::omit;
use wharf_e2e::ControlPlane;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: &schema
      openAPIV3Schema:
        type: object
        description: CronTab runs an image now and then.
        properties:
          spec:
            type: object
            description: What is wanted.
            required: [cronSpec]
            x-kubernetes-validations:
            - rule: "!has(self.maximum) || self.replicas <= self.maximum"
              message: replicas must not exceed maximum
            properties:
              cronSpec: {type: string, description: When it runs., pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$'}
              image: {type: string}
              replicas: {type: integer, minimum: 0, default: 1}
              maximum: {type: integer}
              hosts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, weight: {type: integer}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}}
    subresources: &subresources
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    additionalPrinterColumns: &columns
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: &fields
    - {jsonPath: .spec.image}
  - name: v1
    served: true
    storage: true
    schema: *schema
    subresources: *subresources
    additionalPrinterColumns: *columns
    selectableFields: *fields
"#;

const OBJECT: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly, labels: {app: a}}
spec:
  cronSpec: "0 3 * * *"
  image: example/cron:1
  hosts: [{name: a, weight: 1}, {name: b}]
"#;

async fn stage(test: &str) -> Option<ControlPlane> {
    if tokio::process::Command::new("kubectl").args(["version", "--client"]).output().await.is_err() {
        omit(test, "kubectl is not installed");
        return None;
    }
    let plane = ControlPlane::start().await;
    let file = plane.file("definition.yaml", DEFINITION);
    assert_eq!(
        plane.good(&["apply", "-f", &file]).await,
        "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created\n"
    );
    plane.good(&["wait", "crd/crontabs.stable.example.com", "--for=condition=Established", "--timeout=60s"]).await;
    Some(plane)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_made_shown_changed_and_refused() {
    let Some(plane) = stage("e2e.crd.objects").await else { return };
    let file = plane.file("object.yaml", OBJECT);
    assert_eq!(plane.good(&["apply", "-f", &file]).await, "crontab.stable.example.com/nightly created\n");
    assert_eq!(plane.good(&["apply", "-f", &file]).await, "crontab.stable.example.com/nightly unchanged\n");
    // Made anew without the trace of an apply, which kubectl would take over into server-side apply.
    assert_eq!(plane.good(&["delete", "-f", &file]).await, "crontab.stable.example.com \"nightly\" deleted\n");
    assert_eq!(plane.good(&["create", "-f", &file]).await, "crontab.stable.example.com/nightly created\n");

    let table = plane.good(&["get", "ct"]).await;
    let words = |line: usize| table.lines().nth(line).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["NAME", "SPEC", "REPLICAS", "AGE"]);
    assert_eq!(words(1)[..7], ["nightly", "0", "3", "*", "*", "*", "1"]);
    assert!(plane.good(&["get", "ct", "-o", "wide"]).await.contains("example/cron:1"));
    assert!(plane.good(&["get", "all"]).await.contains("crontab.stable.example.com/nightly"));
    assert_eq!(plane.good(&["get", "ct", "--field-selector", "spec.image=example/cron:1", "-o", "name"]).await.lines().count(), 1);
    assert_eq!(plane.good(&["get", "ct", "--field-selector", "spec.image!=example/cron:1", "-o", "name"]).await, "");
    assert!(plane.good(&["describe", "ct", "nightly"]).await.contains("Cron Spec:  0 3 * * *"));

    let ran = plane.kubectl(&["get", "crontabs.v1beta1.stable.example.com", "nightly", "-o", "jsonpath={.apiVersion}"], "").await;
    assert_eq!(ran.out, "stable.example.com/v1beta1");
    assert!(ran.err.contains("Warning: stable.example.com/v1beta1 CronTab is deprecated"), "{}", ran.err);

    // What is wrong is told, by the server and by kubectl before it.
    let refused = plane.bad(&["patch", "ct", "nightly", "--type=merge", "-p", r#"{"spec":{"cronSpec":"never"}}"#]).await;
    assert!(refused.contains("spec.cronSpec: Invalid value: \"never\": spec.cronSpec in body should match"), "{refused}");
    let refused = plane.bad(&["patch", "ct", "nightly", "--type=merge", "-p", r#"{"spec":{"maximum":0}}"#]).await;
    assert!(refused.contains("spec: Invalid value: ") && refused.contains("replicas must not exceed maximum"), "{refused}");
    let wrong = plane.file("wrong.yaml", &OBJECT.replace("image:", "imagine:").replace("nightly", "other"));
    let refused = plane.bad(&["create", "-f", &wrong]).await;
    assert!(refused.contains("unknown field") && refused.contains("imagine"), "{refused}");

    // Server-side apply merges lists by their keys, and tells of conflicts.
    let ours =
        "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: nightly}\nspec: {cronSpec: '0 3 * * *', hosts: [{name: c}]}\n";
    let ours = plane.file("ours.yaml", ours);
    plane.good(&["apply", "--server-side", "--field-manager=ours", "-f", &ours]).await;
    assert_eq!(plane.good(&["get", "ct", "nightly", "-o", "jsonpath={.spec.hosts[*].name}"]).await, "a b c");
    let theirs = "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: nightly}\nspec: {cronSpec: '* * * * *', hosts: [{name: c, weight: 5}]}\n";
    let theirs = plane.file("theirs.yaml", theirs);
    let refused = plane.bad(&["apply", "--server-side", "--field-manager=theirs", "-f", &theirs]).await;
    assert!(refused.contains("conflict") && refused.contains(".spec.cronSpec"), "{refused}");
    plane.good(&["apply", "--server-side", "--field-manager=theirs", "--force-conflicts", "-f", &theirs]).await;
    assert_eq!(plane.good(&["get", "ct", "nightly", "-o", "jsonpath={.spec.cronSpec}"]).await, "* * * * *");

    // Scale and status.
    plane.good(&["scale", "ct", "nightly", "--replicas=3"]).await;
    assert_eq!(plane.good(&["get", "ct", "nightly", "-o", "jsonpath={.spec.replicas} {.metadata.generation}"]).await, "3 4");
    plane.good(&["get", "--raw", "/apis/stable.example.com/v1/namespaces/default/crontabs/nightly/scale"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_of_in_discovery_and_explained() {
    let Some(plane) = stage("e2e.crd.discovery").await else { return };
    let listed = plane.good(&["api-resources", "--api-group=stable.example.com"]).await;
    let line: Vec<&str> = listed.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(line, ["crontabs", "ct", "stable.example.com/v1", "true", "CronTab"]);
    assert!(plane.good(&["api-versions"]).await.contains("stable.example.com/v1beta1\n"));
    // OpenAPI follows a moment after.
    let explained = loop {
        let ran = plane.kubectl(&["explain", "ct.spec.cronSpec"], "").await;
        if ran.code == 0 {
            break ran.out;
        }
    };
    assert!(explained.contains("When it runs."), "{explained}");
    let document: Value =
        serde_json::from_str(&plane.good(&["get", "--raw", "/openapi/v3/apis/stable.example.com/v1"]).await).expect("JSON");
    assert!(document["components"]["schemas"]["com.example.stable.v1.CronTab"]["properties"]["spec"].is_object());
    // A version that is served no more is told of no more.
    let not_served = r#"[{"op": "replace", "path": "/spec/versions/0/served", "value": false}]"#;
    plane.good(&["patch", "crd", "crontabs.stable.example.com", "--type=json", "-p", not_served]).await;
    while plane.good(&["get", "--raw", "/apis/stable.example.com"]).await.contains("v1beta1") {}
    assert!(plane.kubectl(&["get", "--raw", "/apis/stable.example.com/v1beta1/crontabs"], "").await.code != 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_goes_with_its_objects() {
    let Some(plane) = stage("e2e.crd.removal").await else { return };
    let held = plane.file("held.yaml", &OBJECT.replace("labels: {app: a}", "finalizers: [example.com/hold]"));
    plane.good(&["create", "-f", &held]).await;
    plane.good(&["create", "-f", &plane.file("free.yaml", &OBJECT.replace("nightly", "free"))]).await;
    plane.good(&["delete", "crd", "crontabs.stable.example.com", "--wait=false"]).await;
    plane.good(&["wait", "ct/free", "--for=delete", "--timeout=60s"]).await;
    // What is held holds the definition; nothing new comes.
    assert_eq!(plane.good(&["get", "ct", "-o", "name"]).await, "crontab.stable.example.com/nightly\n");
    let refused = plane.bad(&["create", "-f", &plane.file("late.yaml", &OBJECT.replace("nightly", "late"))]).await;
    assert!(refused.contains("MethodNotAllowed") || refused.contains("not allowed"), "{refused}");
    plane.good(&["patch", "ct", "nightly", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).await;
    plane.good(&["wait", "crd/crontabs.stable.example.com", "--for=delete", "--timeout=60s"]).await;
    assert!(plane.bad(&["get", "--raw", "/apis/stable.example.com/v1/crontabs"]).await.contains("NotFound"));
    assert!(!plane.good(&["api-versions"]).await.contains("stable.example.com"));
}
