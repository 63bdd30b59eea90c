//! Affinity and anti-affinity between pods.

use serde_json::{Value, json};

use super::SchedulerHarness;
use super::kit::{HOSTNAME, ZONE, app, cluster, declared, in_namespace, in_zone, named, needs, node, on, pod};
use crate::CaseResult;

fn term(to: &str, topology: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": to}}, "topologyKey": topology})
}

fn require(kind: &str, term: Value) -> Value {
    pod(json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}))
}

fn zones() -> [Value; 3] {
    [in_zone("a1", "a"), in_zone("a2", "a"), in_zone("b1", "b")]
}

/// A pod goes into a topology in which there is a pod that it wants to be near.
pub(super) async fn near(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, pod_affinity);
    let now = cluster(&zones(), &[on("a1", named("x", app("db", pod(json!({})))))])?;
    rig.goes("its zone", &now, &require("podAffinity", term("db", ZONE)), &["a1", "a2"])?;
    rig.goes("its host", &now, &require("podAffinity", term("db", HOSTNAME)), &["a1"])?;
    rig.goes("there is none", &now, &require("podAffinity", term("web", ZONE)), &[])?;
    rig.end()
}

/// The first of pods that want to be near each other goes anywhere.
pub(super) async fn first_of_its_kind(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, pod_affinity);
    let web = app("web", require("podAffinity", term("web", ZONE)));
    rig.goes("nobody is there yet", &cluster(&zones(), &[])?, &web, &["a1", "a2", "b1"])?;
    rig.goes("then near the first", &cluster(&zones(), &[on("b1", named("x", web.clone()))])?, &web, &["b1"])?;
    rig.end()
}

/// A pod stays out of a topology in which there is a pod that it wants to be apart from.
pub(super) async fn apart(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, pod_affinity);
    let now = cluster(&zones(), &[on("a1", named("x", app("db", pod(json!({})))))])?;
    rig.goes("another zone", &now, &require("podAntiAffinity", term("db", ZONE)), &["b1"])?;
    rig.goes("another host", &now, &require("podAntiAffinity", term("db", HOSTNAME)), &["a2", "b1"])?;
    rig.goes("others do not matter", &now, &require("podAntiAffinity", term("web", ZONE)), &["a1", "a2", "b1"])?;
    let both = cluster(&zones(), &[on("a1", named("x", app("db", pod(json!({}))))), on("b1", named("y", app("db", pod(json!({})))))])?;
    rig.goes("it is in both zones", &both, &require("podAntiAffinity", term("db", ZONE)), &[])?;
    rig.end()
}

/// A pod that is there already keeps its distance as well, from a newcomer who asks for nothing.
pub(super) async fn symmetry(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, pod_affinity);
    let shy = on("a1", named("x", require("podAntiAffinity", term("web", ZONE))));
    let now = cluster(&zones(), &[shy])?;
    rig.goes("web must keep away from zone a", &now, &app("web", pod(json!({}))), &["b1"])?;
    rig.goes("db need not", &now, &app("db", pod(json!({}))), &["a1", "a2", "b1"])?;
    rig.end()
}

/// Only pods of the term's namespaces are meant: the pod's own unless it names others, all with an empty selector.
pub(super) async fn namespaces(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, pod_affinity);
    let now = cluster(&zones(), &[on("a1", named("x", in_namespace("other", app("db", pod(json!({}))))))])?;
    let with = |field: &str, value: Value| {
        let mut term = term("db", ZONE);
        if !field.is_empty() {
            term[field] = value;
        }
        require("podAntiAffinity", term)
    };
    rig.goes("its own namespace", &now, &with("", Value::Null), &["a1", "a2", "b1"])?;
    rig.goes("the other by name", &now, &with("namespaces", json!(["other"])), &["b1"])?;
    rig.goes("a third by name", &now, &with("namespaces", json!(["third"])), &["a1", "a2", "b1"])?;
    rig.goes("every namespace", &now, &with("namespaceSelector", json!({})), &["b1"])?;
    rig.end()
}

/// Preferred terms decide between nodes that differ in nothing else.
pub(super) async fn preferred(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, preferences);
    let rig = declared!(harness, pod_affinity);
    let prefer = |kind: &str| {
        let preferred = json!([{"weight": 100, "podAffinityTerm": term("db", HOSTNAME)}]);
        pod(json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}))
    };
    let now = cluster(&[node("a"), node("b")], &[on("a", named("x", app("db", pod(json!({})))))])?;
    rig.goes("near", &now, &prefer("podAffinity"), &["a"])?;
    rig.goes("apart", &now, &prefer("podAntiAffinity"), &["b"])?;
    let alone = cluster(&[node("a")], &[on("a", named("x", app("db", pod(json!({})))))])?;
    rig.goes("only preferred", &alone, &prefer("podAntiAffinity"), &["a"])?;
    rig.end()
}
