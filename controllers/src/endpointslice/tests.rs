use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{MAX_ENDPOINTS, Step, decide};

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata":{"name":"web","namespace":"ns","uid":"s"},"spec":spec})).unwrap()
}

fn plain() -> Service {
    service(json!({"clusterIP":"10.0.0.1","selector":{"app":"web"},"ports":[{"name":"http","port":80,"targetPort":"http"}]}))
}

fn pod(name: &str, ip: &str, port: i32, ready: bool, terminating: bool) -> Arc<Pod> {
    let deleted = terminating.then_some("2026-01-01T00:00:00Z");
    Arc::new(
        serde_json::from_value(json!({
            "metadata":{"name":name,"namespace":"ns","uid":name,"deletionTimestamp":deleted},
            "spec":{"nodeName":"n1","containers":[{"name":"c","ports":[{"name":"http","containerPort":port}]}]},
            "status":{"phase":"Running","podIP":ip,"podIPs":[{"ip":ip}],
                "conditions":[{"type":"Ready","status": if ready {"True"} else {"False"}}]}
        }))
        .unwrap(),
    )
}

/// Carries the steps out, as the API server would.
fn apply(slices: &[Arc<EndpointSlice>], steps: Vec<Step>, next: &mut u32) -> Vec<Arc<EndpointSlice>> {
    let mut slices = slices.to_vec();
    for step in steps {
        match step {
            Step::Create(mut slice) => {
                *next += 1;
                slice.metadata.name = Some(format!("web-{next}"));
                slices.push(Arc::new(*slice));
            }
            Step::Update(slice) => {
                let at = slices.iter().position(|s| s.metadata.name == slice.metadata.name).unwrap();
                slices[at] = Arc::new(*slice);
            }
            Step::Delete(slice) => slices.retain(|s| s.metadata.name != slice.metadata.name),
        }
    }
    slices
}

fn conditions(slices: &[Arc<EndpointSlice>]) -> Vec<(String, bool, bool, bool)> {
    let mut all: Vec<_> = slices
        .iter()
        .flat_map(|s| s.endpoints.iter().flatten())
        .map(|e| {
            let c = e.conditions.clone().unwrap();
            (e.addresses[0].clone(), c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn conditions_follow_the_pods() {
    let pods = [
        pod("a", "10.1.0.1", 8080, true, false),
        pod("b", "10.1.0.2", 8080, false, false),
        pod("c", "10.1.0.3", 8080, true, true),
        pod("d", "10.1.0.4", 8080, false, true),
    ];
    let mut next = 0;
    let slices = apply(&[], decide(&plain(), &pods, &[]), &mut next);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(
        conditions(&slices),
        [
            ("10.1.0.1".into(), true, true, false),
            ("10.1.0.2".into(), false, false, false),
            ("10.1.0.3".into(), false, true, true),
            ("10.1.0.4".into(), false, false, true)
        ]
    );
    assert!(decide(&plain(), &pods, &slices).is_empty(), "nothing changed, nothing is written");
    let mut publish = plain();
    publish.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let slices = apply(&slices, decide(&publish, &pods, &slices), &mut next);
    assert!(conditions(&slices).iter().all(|(_, ready, ..)| *ready));
}

#[test]
fn one_changed_pod_rewrites_one_slice() {
    let mut pods: Vec<_> = (0..250).map(|i| pod(&format!("p{i:03}"), &format!("10.1.1.{i}"), 80, true, false)).collect();
    let mut next = 0;
    let slices = apply(&[], decide(&plain(), &pods, &[]), &mut next);
    let sizes: Vec<_> = slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [MAX_ENDPOINTS, MAX_ENDPOINTS, 50]);
    pods[7] = pod("p007", "10.1.1.7", 80, false, false);
    let steps = decide(&plain(), &pods, &slices);
    assert!(matches!(&steps[..], [Step::Update(_)]), "{}", steps.len());
    let slices = apply(&slices, steps, &mut next);
    pods.truncate(100);
    let slices = apply(&slices, decide(&plain(), &pods, &slices), &mut next);
    assert_eq!(slices.len(), 1);
    assert_eq!(conditions(&slices).len(), 100);
}

#[test]
fn named_ports_that_differ_make_groups() {
    let pods = [pod("a", "10.1.0.1", 8080, true, false), pod("b", "10.1.0.2", 9090, true, false)];
    let steps = decide(&plain(), &pods, &[]);
    let mut ports: Vec<_> = steps
        .iter()
        .map(|s| match s {
            Step::Create(s) => s.ports.as_ref().unwrap()[0].port.unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    ports.sort();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn without_pods_one_empty_slice_stays() {
    let mut next = 0;
    let pods = [pod("a", "10.1.0.1", 8080, true, false)];
    let slices = apply(&[], decide(&plain(), &pods, &[]), &mut next);
    let slices = apply(&slices, decide(&plain(), &[], &slices), &mut next);
    assert_eq!(slices.len(), 1);
    assert!(conditions(&slices).is_empty());
    assert!(decide(&plain(), &[], &slices).is_empty());
    assert_eq!(apply(&slices, decide(&plain(), &pods, &slices), &mut next).len(), 1);
}

#[test]
fn headless_and_both_families() {
    let mut service = plain();
    let spec = service.spec.as_mut().unwrap();
    spec.cluster_ip = Some("None".into());
    spec.ports = None;
    spec.ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    let mut two = (*pod("a", "10.1.0.1", 80, true, false)).clone();
    two.status.as_mut().unwrap().pod_ips = serde_json::from_value(json!([{"ip":"10.1.0.1"},{"ip":"fd00::1"}])).unwrap();
    let slices = apply(&[], decide(&service, &[Arc::new(two)], &[]), &mut 0);
    let mut types: Vec<_> = slices.iter().map(|s| s.address_type.as_str()).collect();
    types.sort_unstable();
    assert_eq!(types, ["IPv4", "IPv6"]);
    assert!(slices[0].metadata.labels.as_ref().unwrap().contains_key("service.kubernetes.io/headless"));
}
