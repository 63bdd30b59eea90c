//! Server-side apply as its users see it.

mod support;

use serde_json::{Value, json};
use support::{apply, update};
use wharf_patch::{ApplyError, Builtin, Deduced, Scope, Structural, Writer};

fn by(manager: &'static str) -> Writer<'static> {
    Writer { manager, api_version: "apps/v1", subresource: "", time: "2026-01-01T00:00:00Z", scope: Scope::Without(&["status"]) }
}

fn deployment() -> Builtin {
    Builtin::kind("apps", "v1", "Deployment")
}

fn entry<'a>(object: &'a Value, manager: &str) -> &'a Value {
    object["metadata"]["managedFields"]
        .as_array()
        .and_then(|l| l.iter().find(|e| e["manager"] == manager))
        .unwrap_or_else(|| panic!("no {manager} in {object}"))
}

fn managers(object: &Value) -> Vec<&str> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().filter_map(|e| e["manager"].as_str()).collect()
}

fn run(live: Option<&Value>, config: Value, manager: &'static str, force: bool) -> Result<Value, ApplyError> {
    apply(deployment(), live, &config, by(manager), force)
}

fn created(object: Value, manager: &'static str) -> Value {
    let mut object = object;
    update(deployment(), None, &mut object, by(manager));
    object
}

fn full() -> Value {
    json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"default","uid":"1","labels":{"app":"web"}},
        "spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}},
            "strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"}},
            "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[
                {"name":"c","image":"nginx","resources":{},"env":[{"name":"A","value":"1"}],"ports":[{"containerPort":80,"protocol":"TCP"}]}],
                "securityContext":{},"restartPolicy":"Always"}}}})
}

#[test]
fn a_create_is_recorded_as_kubernetes_records_it() {
    let object = created(full(), "kubectl-create");
    let entry = entry(&object, "kubectl-create");
    assert_eq!(
        (&entry["operation"], &entry["apiVersion"], &entry["fieldsType"]),
        (&json!("Update"), &json!("apps/v1"), &json!("FieldsV1"))
    );
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:metadata":{"f:labels":{".":{},"f:app":{}}},
            "f:spec":{"f:replicas":{},"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{},"f:maxUnavailable":{}},"f:type":{}},
            "f:template":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},
                "f:env":{".":{},"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}},
                "f:image":{},"f:name":{},
                "f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},
                "f:resources":{}}},
                "f:restartPolicy":{},"f:securityContext":{}}}}})
    );
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let live = run(None, json!({"metadata":{"name":"web"},"spec":{"replicas":2,"paused":true}}), "a", false).unwrap();
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    update(deployment(), Some(&live), &mut new, by("scaler"));
    assert_eq!(entry(&new, "a")["fieldsV1"], json!({"f:spec":{"f:paused":{}}}));
    assert_eq!(entry(&new, "scaler")["fieldsV1"], json!({"f:spec":{"f:replicas":{}}}));
    let mut last = new.clone();
    last["spec"].as_object_mut().unwrap().remove("paused");
    update(deployment(), Some(&new), &mut last, by("scaler"));
    assert_eq!(managers(&last), ["scaler"], "who owns nothing any more goes");
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_applier_has_it() {
    let pod = |list: Value| json!({"spec":{"template":{"spec":{"containers":list}}}});
    let live = run(None, pod(json!([{"name":"x","image":"1"},{"name":"y","image":"1"}])), "a", false).unwrap();
    let both = run(Some(&live), pod(json!([{"name":"x","image":"1"}])), "b", false).unwrap();
    let left = run(Some(&both), json!({"metadata":{"labels":{"l":"1"}}}), "a", false).unwrap();
    assert_eq!(left["spec"], pod(json!([{"name":"x","image":"1"}]))["spec"]);
    let none = run(Some(&left), json!({"metadata":{"annotations":{"l":"1"}}}), "b", false).unwrap();
    assert!(none.get("spec").is_none(), "{none}");
}

#[test]
fn conflicts_are_told_in_kubernetes_words() {
    let live = created(full(), "kubectl-client-side-apply");
    let error = run(Some(&live), json!({"spec":{"replicas":4}}), "me", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let error = run(Some(&live), json!({"metadata":{"labels":{"app":"x"}},"spec":{"replicas":4}}), "me", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .metadata.labels.app\n- .spec.replicas"
    );
    let forced = run(Some(&live), json!({"spec":{"replicas":4}}), "me", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 4);
    assert_eq!(entry(&forced, "me")["fieldsV1"], json!({"f:spec":{"f:replicas":{}}}));
    assert!(entry(&forced, "kubectl-client-side-apply")["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    // The same value is no conflict: both own it.
    let shared = run(Some(&live), json!({"spec":{"replicas":3}}), "me", false).unwrap();
    assert!(entry(&shared, "kubectl-client-side-apply")["fieldsV1"]["f:spec"].get("f:replicas").is_some());
}

#[test]
fn kubectl_may_change_what_it_applied_from_the_client() {
    let mut object = full();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{\"spec\":{\"replicas\":3}}\n"});
    let live = created(object, "kubectl-client-side-apply");
    let config = json!({"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":7}});
    let applied = run(Some(&live), config.clone(), "kubectl", false).unwrap();
    let text = applied["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), config);
    assert!(run(Some(&live), json!({"metadata":{"labels":{"app":"z"}}}), "kubectl", false).is_err());
}

#[test]
fn before_the_first_apply_somebody_owned_it_all() {
    let live = full();
    let applied = run(Some(&live), json!({"spec":{"paused":true}}), "me", false).unwrap();
    assert_eq!(managers(&applied), ["me", "before-first-apply"]);
    assert!(run(Some(&live), json!({"spec":{"replicas":9}}), "me", false).is_err());
}

#[test]
fn managed_fields_can_be_taken_away_and_are_not_tracked_then() {
    let live = created(full(), "a");
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset;
        new["spec"]["replicas"] = 9.into();
        update(deployment(), Some(&live), &mut new, by("b"));
        assert!(new["metadata"].get("managedFields").is_none());
        let mut next = new.clone();
        next["spec"]["replicas"] = 8.into();
        update(deployment(), Some(&new), &mut next, by("b"));
        assert!(next["metadata"].get("managedFields").is_none());
    }
    let mut invalid = live.clone();
    invalid["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    update(deployment(), Some(&live), &mut invalid, by("b"));
    assert_eq!(invalid["metadata"]["managedFields"], live["metadata"]["managedFields"], "invalid ones are ignored");
    let config = json!({"metadata":{"managedFields":[]}});
    assert_eq!(run(Some(&live), config, "me", false).unwrap_err(), ApplyError::ManagedFields);
}

#[test]
fn old_updates_become_ancient_changes() {
    let mut live = created(json!({"metadata":{"labels":{"first":"1"}}}), "m00");
    for at in 1..=12 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{at}")] = "x".into();
        let (manager, time) = (format!("m{at:02}"), format!("2026-01-01T00:00:{at:02}Z"));
        update(deployment(), Some(&live), &mut new, Writer { manager: &manager, time: &time, ..by("") });
        live = new;
    }
    assert_eq!(managers(&live).len(), 10);
    assert_eq!(managers(&live)[0], "ancient-changes");
    assert!(entry(&live, "ancient-changes")["fieldsV1"]["f:metadata"]["f:labels"].get("f:first").is_some());
}

#[test]
fn the_same_apply_again_changes_nothing() {
    let config = json!({"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"x","image":"1"}]}}}});
    let once = run(None, config.clone(), "a", false).unwrap();
    assert_eq!(run(Some(&once), config, "a", false).unwrap(), once);
}

#[test]
fn items_that_cannot_be_told_apart_are_refused() {
    let config = |list: Value| json!({"spec":{"template":{"spec":{"containers":list}}}});
    let twice = run(None, config(json!([{"name":"x"},{"name":"x"}])), "a", false).unwrap_err();
    assert_eq!(twice.to_string(), ".spec.template.spec.containers: duplicate entries for key [name=\"x\"]");
    assert!(run(None, config(json!([{"image":"x"}])), "a", false).unwrap_err().to_string().contains("omits all key fields"));
}

#[test]
fn custom_resources_are_merged_by_their_markers() {
    let schema = json!({"type":"object","properties":{"spec":{"type":"object","properties":{
        "plain":{"type":"array","items":{"type":"string"}},
        "set":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
        "atomic":{"type":"object","x-kubernetes-map-type":"atomic"},
        "map":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["id","zone"],"items":{"type":"object",
            "properties":{"id":{"type":"string"},"zone":{"type":"string","default":"z"}}}}}}}});
    let shape = Structural::object(&schema);
    let run = |live: Option<&Value>, config: Value, manager| apply(shape, live, &json!({"spec": config}), by(manager), true).unwrap();
    let first = run(None, json!({"plain":["a"],"set":["a"],"atomic":{"a":1},"map":[{"id":"1","v":1}]}), "a");
    assert_eq!(
        entry(&first, "a")["fieldsV1"]["f:spec"],
        json!({"f:plain":{},"f:set":{"v:\"a\"":{}},"f:atomic":{},"f:map":{"k:{\"id\":\"1\",\"zone\":\"z\"}":{".":{},"f:id":{},"f:v":{}}}})
    );
    let second = run(Some(&first), json!({"plain":["b"],"set":["b"],"atomic":{"b":1},"map":[{"id":"1","zone":"y","v":1}]}), "b");
    assert_eq!(second["spec"]["plain"], json!(["b"]));
    assert_eq!(second["spec"]["set"], json!(["a", "b"]));
    assert_eq!(second["spec"]["atomic"], json!({"b": 1}));
    assert_eq!(second["spec"]["map"].as_array().map(Vec::len), Some(2));
}

#[test]
fn without_a_schema_objects_are_granular_and_lists_atomic() {
    let first = apply(Deduced, None, &json!({"x":{"a":1,"l":[1]}}), by("a"), false).unwrap();
    let second = apply(Deduced, Some(&first), &json!({"x":{"b":1,"l":[2]}}), by("b"), true).unwrap();
    assert_eq!(second["x"], json!({"a":1,"b":1,"l":[2]}));
}

#[test]
fn applied_items_keep_the_order_of_the_configuration() {
    let pod = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"spec":{"template":{"spec":{"containers":list}}}})
    };
    let names = |v: &Value| -> Vec<String> {
        let list = v["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let live = run(None, pod(&["a", "b", "c"]), "a", false).unwrap();
    assert_eq!(names(&run(Some(&live), pod(&["c", "x", "a"]), "b", false).unwrap()), ["b", "c", "x", "a"]);
    assert_eq!(names(&run(Some(&live), pod(&["x", "b"]), "b", false).unwrap()), ["a", "x", "b", "c"]);
}
