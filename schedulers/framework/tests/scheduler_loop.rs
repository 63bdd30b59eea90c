//! The loop against an API of a few lines: every pod ends up bound once, and what does not fit is said.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Binding, Pod};
use kube::core::ApiResource;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use wharf_core::api::{Api, ApiError, ApiEvent, ApiWatch, ObjectList, PatchKind, Query, Target, Verb, Write};
use wharf_core::clock::{Clock, ManualClock};
use wharf_core::controller::Context;
use wharf_core::events::EventRecorder;
use wharf_core::informer::Informers;
use wharf_core::object::{Object, ObjectRef, resource_of};
use wharf_core::scheduler::{Diagnosis, NodeInfo, PodInfo, Snapshot};
use wharf_core::store::{Key, ResourceId, Revision};
use wharf_scheduler_framework::{
    BACKOFF_MOST, CycleState, Filter, FrameworkScheduler, LoopOptions, Plugin, PostFilter, PostFilterOutcome, Profile, Refilter,
    Registration, Registry, Rejection, SchedulerLoop,
};

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(String, ObjectRef), Value>,
    revision: u64,
    watchers: Vec<(String, mpsc::UnboundedSender<ApiEvent>)>,
    bindings: Vec<(String, String)>,
    refuse_bindings: usize,
}

#[derive(Debug, Default)]
struct SmallApi {
    state: Mutex<State>,
    changed: Notify,
}

fn object(plural: &str, key: &ObjectRef, value: &Value, revision: u64) -> Arc<Object> {
    let key = Key::new(ResourceId::new("", plural), key.namespace.clone(), key.name.clone());
    Arc::new(Object::from_served(key, Revision(revision), serde_json::to_vec(value).unwrap().into()))
}

impl SmallApi {
    fn set(&self, plural: &str, key: ObjectRef, change: impl FnOnce(&mut Value)) -> Result<Arc<Object>, ApiError> {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let value = state.objects.entry((plural.to_owned(), key.clone())).or_insert(Value::Null);
        change(value);
        value["metadata"]["resourceVersion"] = json!(revision.to_string());
        let object = object(plural, &key, value, revision);
        state.watchers.retain(|(p, send)| p != plural || send.send(ApiEvent::Modified(object.clone())).is_ok());
        drop(state);
        self.changed.notify_waiters();
        Ok(object)
    }
    fn remove(&self, plural: &str, key: ObjectRef) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let Some(value) = state.objects.remove(&(plural.to_owned(), key.clone())) else { return };
        let object = object(plural, &key, &value, revision);
        state.watchers.retain(|(p, send)| p != plural || send.send(ApiEvent::Deleted(object.clone())).is_ok());
    }
    /// Waits until something holds of the state.
    async fn until(&self, mut holds: impl FnMut(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds(&self.state.lock()) {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Api for SmallApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let state = self.state.lock();
        let value = state.objects.get(&(target.resource.plural.clone(), target.object.clone()));
        let value = value.ok_or_else(|| ApiError::status(404, "NotFound", "not found"))?;
        Ok(object(&target.resource.plural, &target.object, value, state.revision))
    }
    async fn list(&self, resource: &ApiResource, _: &Query) -> Result<ObjectList, ApiError> {
        let state = self.state.lock();
        let of = state.objects.iter().filter(|((plural, _), _)| *plural == resource.plural);
        let items = of.map(|((plural, key), value)| object(plural, key, value, state.revision)).collect();
        Ok(ObjectList { items, revision: Revision(state.revision) })
    }
    async fn watch(&self, resource: &ApiResource, _: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        let (send, receive) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        if after.0 < state.revision {
            return Err(ApiError::status(410, "Expired", "too old"));
        }
        state.watchers.push((resource.plural.clone(), send));
        Ok(futures::stream::unfold(receive, |mut r| async { r.recv().await.map(|e| (Ok(e), r)) }).boxed())
    }
    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let (plural, key) = (write.target.resource.plural.clone(), write.target.object.clone());
        match write.verb {
            Verb::Create(body) if write.target.subresource == "binding" => {
                let binding: Binding = serde_json::from_slice(&body).unwrap();
                {
                    let mut state = self.state.lock();
                    if state.refuse_bindings > 0 {
                        state.refuse_bindings -= 1;
                        drop(state);
                        self.changed.notify_waiters();
                        return Err(ApiError::status(409, "Conflict", "not now"));
                    }
                    state.bindings.push((key.name.to_string(), binding.target.name.clone().unwrap()));
                }
                self.set(&plural, key, |pod| pod["spec"]["nodeName"] = json!(binding.target.name))
            }
            Verb::Create(body) => self.set(&plural, key, |value| *value = serde_json::from_slice(&body).unwrap()),
            Verb::Patch { kind: PatchKind::Strategic, body } if write.target.subresource == "status" => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                self.set(&plural, key, |pod| pod["status"] = patch["status"].clone())
            }
            Verb::Delete(params) => {
                assert!(params.uid.is_some(), "another pod of the same name must not be deleted");
                let gone = self.get(&write.target).await?;
                self.remove(&plural, key);
                Ok(gone)
            }
            other => panic!("the loop does not do this: {other:?}"),
        }
    }
}

/// As many pods as a node has.
#[derive(Debug)]
struct Slots;
impl Plugin for Slots {
    fn name(&self) -> &'static str {
        "Slots"
    }
}
impl Filter for Slots {
    fn filter(&self, _: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if node.requested.pods < node.allocatable.pods { Ok(()) } else { Err(Rejection::unschedulable("Too many pods")) }
    }
}

/// Any less important pod may go.
#[derive(Debug)]
struct Evict;
impl Plugin for Evict {
    fn name(&self) -> &'static str {
        "Evict"
    }
}
impl PostFilter for Evict {
    fn post_filter(&self, pod: &PodInfo, snapshot: &Snapshot, _: &Diagnosis, _: &dyn Refilter) -> Result<PostFilterOutcome, Rejection> {
        let less = snapshot.nodes().iter().flat_map(|n| n.pods.iter().map(move |p| (n, p))).find(|(_, p)| p.priority() < pod.priority());
        Ok(match less {
            Some((node, victim)) => PostFilterOutcome::Nominate { node: node.name.clone(), victims: vec![victim.pod.clone()] },
            None => PostFilterOutcome::Nothing(None),
        })
    }
}

struct Running {
    api: Arc<SmallApi>,
    clock: ManualClock,
    stop: CancellationToken,
}

impl Running {
    fn start() -> Self {
        let (api, clock, stop) = (Arc::new(SmallApi::default()), ManualClock::default(), CancellationToken::new());
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let ctx = Context {
            api: api.clone(),
            informers: Informers::new(api.clone(), shared.clone(), stop.clone()),
            clock: shared.clone(),
            events: EventRecorder::new(api.clone(), shared, "test", ""),
        };
        let registry = Registry::default()
            .register(Registration::new(Slots).filter().points())
            .register(Registration::new(Evict).post_filter().points());
        let profile = Arc::new(Profile::builder().plugin("Slots").plugin("Evict").build(&registry).unwrap());
        let scheduler = Arc::new(FrameworkScheduler::new(profile.clone(), 1));
        tokio::spawn(SchedulerLoop::new(ctx, scheduler, profile, LoopOptions::default()).run(stop.clone()));
        Self { api, clock, stop }
    }
    fn node(&self, name: &str, pods: u32) {
        let value = json!({"apiVersion":"v1","kind":"Node","metadata":{"name":name},"status":{"allocatable":{"pods":pods.to_string()}}});
        self.api.set("nodes", ObjectRef::new("", name), |v| *v = value).unwrap();
    }
    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let value = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name,"namespace":"ns","uid":name},"spec":spec});
        self.api.set("pods", ObjectRef::new("ns", name), |v| *v = value).unwrap();
    }
    /// Moves time on in steps until something holds.
    async fn until(&self, mut holds: impl FnMut(&State) -> bool) {
        loop {
            if holds(&self.api.state.lock()) {
                return;
            }
            self.clock.advance(BACKOFF_MOST / 10);
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn condition(state: &State, pod: &str) -> Option<Value> {
    let pod = state.objects.get(&("pods".to_owned(), ObjectRef::new("ns", pod)))?;
    pod["status"]["conditions"].as_array()?.first().cloned()
}

fn event(state: &State, reason: &str) -> Option<String> {
    let events = state.objects.iter().filter(|((plural, _), _)| plural == "events");
    events.map(|(_, e)| e).find(|e| e["reason"] == reason).and_then(|e| e["message"].as_str().map(Into::into))
}

#[tokio::test]
async fn every_pod_is_bound_once_and_no_node_overfilled() {
    let run = Running::start();
    for i in 0..10 {
        run.node(&format!("n{i}"), 20);
    }
    for i in 0..200 {
        run.pod(&format!("p{i}"), json!({}));
    }
    run.pod("foreign", json!({"schedulerName":"other"}));
    run.api.until(|s| s.bindings.len() == 200).await;
    let state = run.api.state.lock();
    let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
    let mut pods: Vec<_> = state.bindings.iter().map(|(pod, _)| pod).collect();
    state.bindings.iter().for_each(|(_, node)| *by_node.entry(node).or_default() += 1);
    pods.sort();
    pods.dedup();
    assert_eq!(pods.len(), 200, "no pod twice, none of another scheduler's");
    assert!(by_node.values().all(|n| *n == 20), "{by_node:?}");
}

#[tokio::test]
async fn what_does_not_fit_is_said_and_fits_once_there_is_room() {
    let run = Running::start();
    run.node("n", 1);
    run.pod("a", json!({}));
    run.api.until(|s| s.bindings.len() == 1).await;
    run.pod("b", json!({}));
    run.api.until(|s| condition(s, "b").is_some()).await;
    {
        let state = run.api.state.lock();
        let condition = condition(&state, "b").unwrap();
        assert_eq!(condition["type"], "PodScheduled");
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unschedulable")));
        assert_eq!(condition["message"], "0/1 nodes are available: 1 Too many pods.");
    }
    run.api.until(|s| event(s, "FailedScheduling").is_some_and(|m| m == "0/1 nodes are available: 1 Too many pods.")).await;
    run.api.until(|s| event(s, "Scheduled").is_some_and(|m| m == "Successfully assigned ns/a to n")).await;
    run.api.remove("pods", ObjectRef::new("ns", "a"));
    run.until(|s| s.bindings.len() == 2).await;
    assert_eq!(run.api.state.lock().bindings[1], ("b".to_string(), "n".to_string()));
}

#[tokio::test]
async fn a_refused_binding_gives_its_room_back_and_is_tried_again() {
    let run = Running::start();
    run.api.state.lock().refuse_bindings = 3;
    run.node("n", 1);
    run.pod("a", json!({}));
    run.until(|s| s.bindings.len() == 1).await;
    assert_eq!(run.api.state.lock().refuse_bindings, 0);
}

#[tokio::test]
async fn a_pod_that_comes_before_its_node_waits_for_it() {
    let run = Running::start();
    run.pod("a", json!({}));
    run.api.until(|s| condition(s, "a").is_some_and(|c| c["message"] == "no nodes available to schedule pods")).await;
    run.node("n", 1);
    run.until(|s| s.bindings.len() == 1).await;
    let key = Target::of::<Pod>(ObjectRef::new("ns", "a"));
    assert_eq!(key.resource, resource_of::<Pod>());
    let pod = run.api.get(&key).await.unwrap().decode::<Pod>().unwrap();
    assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("n"));
}

#[tokio::test]
async fn a_more_important_pod_is_nominated_and_takes_the_victims_place() {
    let run = Running::start();
    run.node("n", 1);
    run.pod("low", json!({}));
    run.api.until(|s| s.objects.values().any(|o| o["spec"]["nodeName"] == "n")).await;
    run.pod("high", json!({"priority":7}));
    run.until(|s| s.bindings.len() == 2).await;
    let state = run.api.state.lock();
    assert_eq!(state.bindings[1], ("high".to_string(), "n".to_string()));
    let key = |name: &str| ("pods".to_owned(), ObjectRef::new("ns", name));
    assert_eq!(state.objects[&key("high")]["status"]["nominatedNodeName"], "n");
    assert!(!state.objects.contains_key(&key("low")));
}
