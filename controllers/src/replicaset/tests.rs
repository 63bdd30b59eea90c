use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{BURST, Step, decide, status};

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({"metadata":{"name":"web","namespace":"ns","uid":"rs","generation":2},
        "spec":{"replicas":replicas,"minReadySeconds":10,"selector":{"matchLabels":{"app":"web"}},
            "template":{"metadata":{"labels":{"app":"web"}}}}}))
    .unwrap()
}

struct P(&'static str, &'static str, &'static str, Option<&'static str>, i32);

/// Name, node, phase, ready since, restarts.
fn pod(P(name, node, phase, ready, restarts): P) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(
            json!({"metadata":{"name":name,"uid":name,"creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"web"}},
            "spec":{"nodeName":node,"containers":[]},
            "status":{"phase":phase,"containerStatuses":[{"name":"c","image":"i","imageID":"","ready":true,"restartCount":restarts}],
                "conditions":[{"type":"Ready","status":if ready.is_some() {"True"} else {"False"},"lastTransitionTime":ready}]}}),
        )
        .unwrap(),
    )
}

fn deleted(step: Step) -> Vec<String> {
    match step {
        Step::Delete(pods) => pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn those_that_matter_least_go_first() {
    let since = Some("2026-01-01T00:01:00Z");
    let pods = [
        pod(P("good", "n1", "Running", since, 0)),
        pod(P("restarted", "n2", "Running", since, 3)),
        pod(P("newly-ready", "n3", "Running", Some("2026-01-01T00:09:00Z"), 0)),
        pod(P("crowded", "n4", "Running", since, 0)),
        pod(P("not-ready", "n5", "Running", None, 0)),
        pod(P("pending", "n6", "Pending", None, 0)),
        pod(P("unassigned", "", "Pending", None, 0)),
    ];
    let mut related = pods.to_vec();
    related.push(pod(P("sibling", "n4", "Running", since, 0)));
    let order = deleted(decide(&set(0), &pods, &HashSet::new(), &related));
    assert_eq!(order, ["unassigned", "pending", "not-ready", "crowded", "newly-ready", "restarted", "good"]);
}

#[test]
fn finished_and_terminating_pods_are_replaced_and_deletes_are_not_repeated() {
    let mut going = (*pod(P("a", "n", "Running", None, 0))).clone();
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let pods = [Arc::new(going), pod(P("b", "n", "Failed", None, 0)), pod(P("c", "n", "Running", None, 0))];
    assert!(matches!(decide(&set(3), &pods, &HashSet::new(), &[]), Step::Create(2)));
    assert!(matches!(decide(&set(1), &pods, &HashSet::new(), &[]), Step::Nothing));
    // The cache still shows c, whose deletion was asked for already.
    assert!(matches!(decide(&set(0), &pods, &HashSet::from(["c".to_string()]), &[]), Step::Nothing));
    assert!(matches!(decide(&set(9000), &[], &HashSet::new(), &[]), Step::Create(BURST)));
    let mut dying = set(3);
    dying.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    assert!(matches!(decide(&dying, &[], &HashSet::new(), &[]), Step::Nothing));
}

#[test]
fn available_after_min_ready_seconds() {
    let now: Timestamp = "2026-01-01T00:01:04Z".parse().unwrap();
    let pods = [
        pod(P("old", "n", "Running", Some("2026-01-01T00:00:00Z"), 0)),
        pod(P("new", "n", "Running", Some("2026-01-01T00:01:00Z"), 0)),
        pod(P("failed", "n", "Failed", None, 0)),
    ];
    let (status, soonest) = status(&set(3), &pods, Some(("FailedCreate", "quota".into())), now);
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(2), Some(1)));
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(soonest, Some(Duration::from_secs(6)));
    assert_eq!(status.conditions.unwrap()[0].reason.as_deref(), Some("FailedCreate"));
}
