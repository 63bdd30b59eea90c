//! An API server's rules, in memory, as far as controllers rely on them; and a cluster of controllers over it.
#![allow(missing_docs, reason = "support for tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::ApiResource;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_core::api::{Api, ApiError, ApiEvent, ApiWatch, Kind, ObjectList, Propagation, Query, SharedApi, Target, Verb, Write};
use wharf_core::clock::Clock;
use wharf_core::controller::{Context, Controller, Driver, DriverOptions};
use wharf_core::events::EventRecorder;
use wharf_core::informer::Informers;
use wharf_core::metrics::{ControllerMetrics, Metrics};
use wharf_core::object::{Object, ObjectRef, resource_id, resource_of};
use wharf_core::store::{Key, Revision};

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    revision: u64,
    log: Vec<(Key, Change, Value, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Added,
    Modified,
    Deleted,
}

#[derive(Debug)]
pub struct FakeApi {
    state: Mutex<State>,
    told: watch::Sender<u64>,
    /// Whether watches of pods are held up.
    held: watch::Sender<bool>,
    clock: Arc<dyn Clock>,
}

fn refuse(code: i32, reason: &str) -> ApiError {
    ApiError::status(code, reason, reason)
}

fn object(key: &Key, value: &Value, revision: u64) -> Arc<Object> {
    Arc::new(Object::from_served(key.clone(), Revision(revision), serde_json::to_vec(value).unwrap().into()))
}

fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (name, value) in patch {
                if value.is_null() {
                    into.as_object_mut().unwrap().remove(&name);
                } else {
                    merge(&mut into[name], value);
                }
            }
        }
        other => *into = other,
    }
}

fn holds(value: &Value) -> bool {
    let some = |path: &str| value.pointer(path).and_then(Value::as_array).is_some_and(|a| !a.is_empty());
    some("/metadata/finalizers") || some("/spec/finalizers")
}

impl State {
    fn put(&mut self, key: &Key, mut value: Value) -> Arc<Object> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let going = value["metadata"]["deletionTimestamp"].is_string();
        let graceful = &*key.resource.resource == "pods" && value["metadata"]["deletionGracePeriodSeconds"] != json!(0);
        let change = if going && !holds(&value) && !graceful {
            self.objects.remove(key);
            Change::Deleted
        } else if self.objects.insert(key.clone(), value.clone()).is_some() {
            Change::Modified
        } else {
            Change::Added
        };
        self.log.push((key.clone(), change, value.clone(), self.revision));
        object(key, &value, self.revision)
    }
}

impl FakeApi {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), told: watch::Sender::new(0), held: watch::Sender::new(false), clock })
    }

    pub fn all<K: Kind>(&self) -> Vec<K> {
        let id = resource_id(&resource_of::<K>());
        let state = self.state.lock();
        state.objects.iter().filter(|(k, _)| k.resource == id).map(|(_, v)| serde_json::from_value(v.clone()).unwrap()).collect()
    }

    /// Lets nobody see changes of pods for now.
    pub fn hold_pods(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Every state of a kind that ever was, in order; `None` for one that was deleted.
    pub fn history<K: Kind>(&self) -> Vec<(String, Option<K>)> {
        let id = resource_id(&resource_of::<K>());
        let state = self.state.lock();
        let entries = state.log.iter().filter(|(k, ..)| k.resource == id);
        let typed = |change, v: &Value| (change != Change::Deleted).then(|| serde_json::from_value(v.clone()).unwrap());
        entries.map(|(k, change, v, _)| (k.name.to_string(), typed(*change, v))).collect()
    }

    /// Waits until something holds; `tick` is called whenever nothing has happened for a moment.
    pub async fn until(&self, what: &str, tick: impl Fn(), holds: impl Fn(&Self) -> bool) {
        let mut told = self.told.subscribe();
        for _ in 0..3000 {
            if holds(self) {
                return;
            }
            if tokio::time::timeout(Duration::from_millis(10), told.changed()).await.is_err() {
                tick();
            }
        }
        let state = self.state.lock();
        let last: Vec<_> = state.log.iter().rev().take(12).map(|(k, c, v, _)| format!("{k} {c:?} {}", v["status"])).collect();
        panic!("never happened: {what}; the latest: {last:#?}");
    }

    fn change(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let mut state = self.state.lock();
        let target = write.target;
        let key = Key::new(resource_id(&target.resource), target.object.namespace.clone(), target.object.name.clone());
        let now = self.clock.now().to_string();
        let current = state.objects.get(&key).cloned();
        if let Verb::Create(body) = &write.verb {
            let mut value: Value = serde_json::from_slice(body).unwrap();
            let name = if key.name.is_empty() {
                let random = uuid::Uuid::new_v4().simple().to_string();
                format!("{}{}", value["metadata"]["generateName"].as_str().unwrap(), &random[..5])
            } else {
                key.name.to_string()
            };
            let key = Key::new(key.resource.clone(), key.namespace.clone(), name.as_str());
            if state.objects.contains_key(&key) {
                return Err(refuse(409, "AlreadyExists"));
            }
            let meta = &mut value["metadata"];
            meta["name"] = json!(name);
            meta["uid"] = json!(uuid::Uuid::new_v4().to_string());
            meta["creationTimestamp"] = json!(now);
            meta["generation"] = json!(1);
            value["kind"] = json!(target.resource.kind);
            value["apiVersion"] = json!(target.resource.api_version);
            return Ok(state.put(&key, value));
        }
        let Some(current) = current else { return Err(refuse(404, "NotFound")) };
        let check = |asked: &Value| {
            let differs = |field: &str| asked[field].is_string() && asked[field] != current["metadata"][field];
            if differs("uid") || differs("resourceVersion") { Err(refuse(409, "Conflict")) } else { Ok(()) }
        };
        let mut value = current.clone();
        match write.verb {
            Verb::Create(_) => {}
            Verb::Update(body) => {
                let new: Value = serde_json::from_slice(&body).unwrap();
                check(&new["metadata"])?;
                match target.subresource {
                    "status" => value["status"] = new["status"].clone(),
                    _ => {
                        value = new;
                        value["status"] = current["status"].clone();
                    }
                }
            }
            Verb::Patch { body, .. } => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                check(&patch["metadata"])?;
                merge(&mut value, patch);
            }
            Verb::Delete(params) => {
                check(&json!({"uid": params.uid, "resourceVersion": params.resource_version}))?;
                let meta = &mut value["metadata"];
                if meta["deletionTimestamp"].is_null() {
                    meta["deletionTimestamp"] = json!(now);
                }
                let unassigned = current["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
                meta["deletionGracePeriodSeconds"] = json!(if unassigned { 0 } else { params.grace_period_seconds.unwrap_or(30) });
                let finalizer = match params.propagation {
                    Some(Propagation::Orphan) => Some("orphan"),
                    Some(Propagation::Foreground) => Some("foregroundDeletion"),
                    _ => None,
                };
                if let Some(finalizer) = finalizer {
                    let mut list = meta["finalizers"].as_array().cloned().unwrap_or_default();
                    list.push(json!(finalizer));
                    meta["finalizers"] = json!(list);
                }
            }
        }
        if value == current {
            return Ok(object(&key, &current, state.revision));
        }
        if value["spec"] != current["spec"] {
            value["metadata"]["generation"] = json!(current["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        Ok(state.put(&key, value))
    }
}

#[async_trait::async_trait]
impl Api for FakeApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let state = self.state.lock();
        let key = Key::new(resource_id(&target.resource), target.object.namespace.clone(), target.object.name.clone());
        state.objects.get(&key).map(|v| object(&key, v, revision_of(v))).ok_or_else(|| refuse(404, "NotFound"))
    }

    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError> {
        let (id, state) = (resource_id(resource), self.state.lock());
        let matches = |k: &Key| k.resource == id && query.namespace.as_ref().is_none_or(|n| *n == k.namespace);
        let items = state.objects.iter().filter(|(k, _)| matches(k)).map(|(k, v)| object(k, v, revision_of(v))).collect();
        Ok(ObjectList { items, revision: Revision(state.revision) })
    }

    async fn watch(&self, resource: &ApiResource, _: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        let id = resource_id(resource);
        let start = self.state.lock().log.partition_point(|(.., revision)| *revision <= after.0);
        let Some(api) = ALIVE.lock().iter().find_map(|a| a.upgrade().filter(|a| std::ptr::eq(&**a, self))) else {
            return Err(refuse(500, "InternalError"));
        };
        let told = self.told.subscribe();
        let held = self.held.subscribe();
        let events = futures::stream::unfold((api, told, start), move |(api, mut told, mut at)| {
            let (id, mut held) = (id.clone(), held.clone());
            async move {
                loop {
                    if &*id.resource == "pods" {
                        held.wait_for(|held| !held).await.ok()?;
                    }
                    told.mark_unchanged();
                    let entry = api.state.lock().log.get(at).cloned();
                    match entry {
                        None => told.changed().await.ok()?,
                        Some((key, change, value, revision)) => {
                            at += 1;
                            if key.resource == id {
                                let object = object(&key, &value, revision);
                                let event = match change {
                                    Change::Added => ApiEvent::Added(object),
                                    Change::Modified => ApiEvent::Modified(object),
                                    Change::Deleted => ApiEvent::Deleted(object),
                                };
                                return Some((Ok(event), (api, told, at)));
                            }
                        }
                    }
                }
            }
        });
        Ok(events.boxed())
    }

    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let result = self.change(write);
        self.told.send_modify(|n| *n += 1);
        result
    }
}

/// Watches outlive the call that makes them and need the API shared.
static ALIVE: Mutex<Vec<std::sync::Weak<FakeApi>>> = Mutex::new(Vec::new());

fn revision_of(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Controllers that run over the fake until it is dropped.
#[derive(Debug)]
pub struct Running {
    pub api: Arc<FakeApi>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn run(clock: Arc<dyn Clock>, controllers: Vec<Arc<dyn Controller>>) -> Running {
    let api = FakeApi::new(clock.clone());
    ALIVE.lock().push(Arc::downgrade(&api));
    let stop = CancellationToken::new();
    let shared: SharedApi = api.clone();
    let events = EventRecorder::new(shared.clone(), clock.clone(), "test", "");
    let informers = Informers::new(shared.clone(), clock.clone(), stop.clone());
    let context = Context { api: shared, informers, clock, events };
    let driver = Driver::new(context, ControllerMetrics::new(&Metrics::default()), DriverOptions::default());
    for controller in controllers {
        let (driver, stop) = (driver.clone(), stop.clone());
        tokio::spawn(async move { driver.run(controller, stop).await });
    }
    Running { api, stop }
}

/// A node agent that only pretends: pods bind, run and become ready; those that are going go.
pub fn pretend_pods(api: &Arc<FakeApi>) {
    use k8s_openapi::api::core::v1::Pod;
    use wharf_core::api::{ApiExt, DeleteParams, PatchKind, ref_of};
    let api = api.clone();
    tokio::spawn(async move {
        let mut told = api.told.subscribe();
        let mut next = 0u32;
        loop {
            told.mark_unchanged();
            for pod in api.all::<Pod>() {
                let key: ObjectRef = ref_of(&pod);
                if pod.metadata.deletion_timestamp.is_some() {
                    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                    let _ = api.delete::<Pod>(&key, params).await;
                } else if pod.status.is_none() {
                    next += 1;
                    let patch = json!({"spec":{"nodeName":"n1"},"status":{"phase":"Running","podIP":format!("10.0.0.{next}"),
                        "podIPs":[{"ip":format!("10.0.0.{next}")}],
                        "conditions":[{"type":"Ready","status":"True","lastTransitionTime":api.clock.now().to_string()}]}});
                    let _ = api.patch::<Pod>(&key, "", PatchKind::Merge, &patch).await;
                }
            }
            if told.changed().await.is_err() {
                return;
            }
        }
    });
}
