//! Events: what happened, told to people.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::api::{ApiExt, Kind, PatchKind, SharedApi};
use crate::clock::Clock;
use crate::object::ObjectRef;

/// Events that wait to be written; further ones are dropped, for events are hints.
pub const EVENT_BUFFER: usize = 1024;
/// Distinct events whose repetitions are counted.
pub const EVENT_SERIES: usize = 4096;
const MAX_MESSAGE: usize = 1024;

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes events about objects, without making anyone wait. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    send: mpsc::Sender<Pending>,
    component: Arc<str>,
    host: Arc<str>,
    clock: Arc<dyn Clock>,
}

struct Pending {
    object: ObjectReference,
    r#type: EventType,
    reason: String,
    message: String,
    component: Arc<str>,
    host: Arc<str>,
    at: jiff::Timestamp,
}

impl fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventRecorder({})", self.component)
    }
}

/// A reference to an object, as events carry it.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

impl EventRecorder {
    /// A recorder that writes through `api` in the background, as `component` (`kubelet`) on `host`.
    /// Must be called inside a tokio runtime; the writing ends with the last clone.
    pub fn new(api: SharedApi, clock: Arc<dyn Clock>, component: &str, host: &str) -> Self {
        let (send, receive) = mpsc::channel(EVENT_BUFFER);
        tokio::spawn(write_all(api, receive));
        Self { send, component: component.into(), host: host.into(), clock }
    }

    /// The same, speaking for another component.
    pub fn named(&self, component: &str) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// Tells of something about a typed object.
    pub fn event<K: Kind>(&self, object: &K, r#type: EventType, reason: &str, message: impl Into<String>) {
        self.event_ref(reference(object), r#type, reason, message);
    }

    /// Tells of something about an object by reference.
    pub fn event_ref(&self, object: ObjectReference, r#type: EventType, reason: &str, message: impl Into<String>) {
        let mut message: String = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
        }
        let pending = Pending {
            object,
            r#type,
            reason: reason.into(),
            message,
            component: self.component.clone(),
            host: self.host.clone(),
            at: self.clock.now(),
        };
        if self.send.try_send(pending).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

async fn write_all(api: SharedApi, mut receive: mpsc::Receiver<Pending>) {
    let series: Mutex<HashMap<String, i32>> = Mutex::default();
    while let Some(pending) = receive.recv().await {
        let now = pending.at;
        let mut hasher = DefaultHasher::new();
        (&pending.object.uid, &pending.object.name, &pending.object.field_path, &pending.reason, &pending.message, &pending.component)
            .hash(&mut hasher);
        let name = format!("{}.{:016x}", pending.object.name.as_deref().unwrap_or("unknown"), hasher.finish());
        let namespace = pending.object.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let key = format!("{namespace}/{name}");
        let count = {
            let mut series = series.lock();
            if series.len() >= EVENT_SERIES {
                series.clear();
            }
            let count = series.entry(key).or_default();
            *count += 1;
            *count
        };
        let object = ObjectRef::new(namespace.as_str(), name.as_str());
        if count > 1 {
            let patch = serde_json::json!({"count": count, "lastTimestamp": Time(now)});
            match api.patch::<Event>(&object, "", PatchKind::Merge, &patch).await {
                Ok(_) => continue,
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::debug!("an event was lost: {error}");
                    continue;
                }
            }
        }
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: pending.object,
            type_: Some(format!("{:?}", pending.r#type)),
            reason: Some(pending.reason),
            message: Some(pending.message),
            source: Some(EventSource {
                component: Some(pending.component.to_string()),
                host: Some(pending.host.to_string()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(pending.component.to_string()),
            reporting_instance: Some(pending.host.to_string()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        match api.create(&event).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {
                let patch = serde_json::json!({"lastTimestamp": Time(now)});
                let _ = api.patch::<Event>(&object, "", PatchKind::Merge, &patch).await;
            }
            Err(error) => tracing::debug!("an event was lost: {error}"),
        }
    }
}
