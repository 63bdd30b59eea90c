//! An API in memory, as far as a node agent relies on it.
#![allow(missing_docs, clippy::unwrap_used, reason = "support for tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use kube::core::ApiResource;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use wharf_core::api::{Api, ApiError, ApiEvent, ApiWatch, Kind, ObjectList, Query, Target, Verb, Write};
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::object::{Object, resource_id, resource_of};
use wharf_core::store::{Key, Revision};

#[derive(Debug, Clone)]
enum Change {
    Set(Value),
    Gone(Value),
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    log: Vec<(Key, Change)>,
}

#[derive(Debug)]
pub struct FakeApi {
    me: Weak<FakeApi>,
    state: Mutex<State>,
    told: watch::Sender<u64>,
}

fn refuse(code: i32, reason: &str) -> ApiError {
    ApiError::status(code, reason, reason)
}

fn object(key: &Key, value: &Value) -> Arc<Object> {
    let revision = value["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    Arc::new(Object::from_served(key.clone(), Revision(revision), serde_json::to_vec(value).unwrap().into()))
}

fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
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

impl State {
    fn put(&mut self, key: &Key, mut value: Value) -> Arc<Object> {
        value["metadata"]["resourceVersion"] = json!((self.log.len() + 1).to_string());
        let made = object(key, &value);
        let meta = &value["metadata"];
        if meta["deletionTimestamp"].is_string() && meta["deletionGracePeriodSeconds"] == json!(0) {
            self.objects.remove(key);
            self.log.push((key.clone(), Change::Gone(value)));
        } else {
            self.objects.insert(key.clone(), value.clone());
            self.log.push((key.clone(), Change::Set(value)));
        }
        made
    }
}

impl FakeApi {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), state: Mutex::default(), told: watch::Sender::new(0) })
    }

    pub fn all<K: Kind>(&self) -> Vec<K> {
        let id = resource_id(&resource_of::<K>());
        let state = self.state.lock();
        state.objects.iter().filter(|(k, _)| k.resource == id).map(|(_, v)| serde_json::from_value(v.clone()).unwrap()).collect()
    }

    pub fn find<K: Kind>(&self, name: &str) -> Option<K> {
        self.all::<K>().into_iter().find(|o| o.meta().name.as_deref() == Some(name))
    }

    /// Waits until something holds. The bound only ends a test that would hang.
    pub async fn until<T>(&self, what: &str, holds: impl Fn(&Self) -> Option<T>) -> T {
        let mut told = self.told.subscribe();
        let look = async {
            loop {
                told.mark_unchanged();
                if let Some(found) = holds(self) {
                    return found;
                }
                told.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), look).await {
            Ok(found) => found,
            Err(_) => panic!("never happened: {what}; {:#?}", self.state.lock().objects.values().collect::<Vec<_>>()),
        }
    }

    fn change(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let mut state = self.state.lock();
        let target = write.target;
        let key = Key::new(resource_id(&target.resource), target.object.namespace.clone(), target.object.name.clone());
        let now = SystemClock::default().now().to_string();
        let current = state.objects.get(&key).cloned();
        if let Verb::Create(body) = &write.verb {
            if current.is_some() {
                return Err(refuse(409, "AlreadyExists"));
            }
            let mut value: Value = serde_json::from_slice(body).unwrap();
            value["metadata"]["creationTimestamp"] = json!(now);
            if value["metadata"]["uid"].is_null() {
                value["metadata"]["uid"] = json!(format!("uid-{}-{}", key.name, state.log.len()));
            }
            return Ok(state.put(&key, value));
        }
        let Some(mut value) = current.clone() else { return Err(refuse(404, "NotFound")) };
        match write.verb {
            Verb::Create(_) => unreachable!(),
            Verb::Update(body) => value = serde_json::from_slice(&body).unwrap(),
            Verb::Patch { body, .. } => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let uid = &patch["metadata"]["uid"];
                if uid.is_string() && *uid != value["metadata"]["uid"] {
                    return Err(refuse(409, "Conflict"));
                }
                merge(&mut value, patch);
            }
            Verb::Delete(params) => {
                if params.uid.is_some_and(|uid| json!(uid) != value["metadata"]["uid"]) {
                    return Err(refuse(409, "Conflict"));
                }
                value["metadata"]["deletionTimestamp"] = json!(now);
                value["metadata"]["deletionGracePeriodSeconds"] = json!(params.grace_period_seconds.unwrap_or(30));
            }
        }
        if Some(&value) == current.as_ref() {
            return Ok(object(&key, &value));
        }
        Ok(state.put(&key, value))
    }
}

#[async_trait::async_trait]
impl Api for FakeApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let key = Key::new(resource_id(&target.resource), target.object.namespace.clone(), target.object.name.clone());
        self.state.lock().objects.get(&key).map(|v| object(&key, v)).ok_or_else(|| refuse(404, "NotFound"))
    }
    async fn list(&self, resource: &ApiResource, _: &Query) -> Result<ObjectList, ApiError> {
        let (id, state) = (resource_id(resource), self.state.lock());
        let items = state.objects.iter().filter(|(k, _)| k.resource == id).map(|(k, v)| object(k, v)).collect();
        Ok(ObjectList { items, revision: Revision(state.log.len() as u64) })
    }
    async fn watch(&self, resource: &ApiResource, _: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        let (id, api) = (resource_id(resource), self.me.upgrade().unwrap());
        let start = (api, self.told.subscribe(), usize::try_from(after.0).unwrap());
        let events = futures::stream::unfold(start, move |(api, mut told, mut at)| {
            let id = id.clone();
            async move {
                loop {
                    told.mark_unchanged();
                    let entry = api.state.lock().log.get(at).cloned();
                    let Some((key, change)) = entry else {
                        told.changed().await.ok()?;
                        continue;
                    };
                    at += 1;
                    if key.resource == id {
                        let event = match change {
                            Change::Set(value) => ApiEvent::Modified(object(&key, &value)),
                            Change::Gone(value) => ApiEvent::Deleted(object(&key, &value)),
                        };
                        return Some((Ok(event), (api, told, at)));
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
