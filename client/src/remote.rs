//! [`Api`] over HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::ApiResource;
use serde_json::{Value, json};
use wharf_core::api::{Api, ApiError, ApiEvent, ApiWatch, DeleteParams, ObjectList, PatchKind, Propagation, Query, Target, Verb, Write};
use wharf_core::clock::Clock;
use wharf_core::object::Object;
use wharf_core::store::Revision;

use crate::http_call::{Broken, Call, MAX_ANSWER, MAX_OBJECT, answer, is_too_large, malformed, open, transport, within};
use crate::{path, wire};

/// Objects of one page of a list.
pub const PAGE: usize = 500;
/// Objects of one page of a list whose pages of [`PAGE`] are more than [`MAX_ANSWER`](crate::MAX_ANSWER) bytes, such as one of Helm's
/// Secrets: of any size that Kubernetes stores, as many fit.
pub const SMALL_PAGE: usize = 20;
/// Most pages of one list: a million objects, where Kubernetes is made for 150,000 pods; or 40,000 large ones, where etcd is made for 8 GiB.
pub const MAX_PAGES: usize = 2_000;
/// Longest silence of a watch. Bookmarks are asked for, and Kubernetes sends one each minute and up to a quarter more: two may be missed.
/// Where a server sends none (Kubernetes for Events, which it does not cache), a watch without events ends, and its reader lists again.
pub const WATCH_IDLE: Duration = Duration::from_secs(150);
/// For how long a watch is asked for, in seconds; spread out so that the watches of a process do not end together. Below the 295 s
/// after which a `kube::Client` gives up on a silent connection.
const WATCH_SECONDS: std::ops::Range<u64> = 200..280;

/// [`Api`] over a `kube::Client`: Wharf's API server behind a socket, or any other Kubernetes. Cheap to clone.
///
/// A write that ends in [`ApiError::Transport`] may have taken place. A 429 with Retry-After is waited for, but an eviction's, which
/// is an answer. Where Kubernetes answers a write with a Status instead of the object (a delete that is done, a binding, an
/// eviction), the object returned has namespace, name and, if told, uid, and no more.
///
/// A watch that the server ends in good order ends without an error, and can be continued after the last revision seen; one that
/// breaks, or says nothing for [`WATCH_IDLE`], ends with [`ApiError::Transport`].
#[derive(Clone)]
pub struct RemoteApi {
    client: kube::Client,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for RemoteApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteApi").finish_non_exhaustive()
    }
}

fn propagation(policy: Propagation) -> &'static str {
    match policy {
        Propagation::Orphan => "Orphan",
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
    }
}

fn delete_options(params: &DeleteParams) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if let Some(map) = options.as_object_mut() {
        if let Some(seconds) = params.grace_period_seconds {
            map.insert("gracePeriodSeconds".into(), seconds.into());
        }
        if let Some(policy) = params.propagation {
            map.insert("propagationPolicy".into(), propagation(policy).into());
        }
        let mut preconditions = serde_json::Map::new();
        if let Some(uid) = &params.uid {
            preconditions.insert("uid".into(), uid.as_str().into());
        }
        if let Some(revision) = &params.resource_version {
            preconditions.insert("resourceVersion".into(), revision.as_str().into());
        }
        if !preconditions.is_empty() {
            map.insert("preconditions".into(), preconditions.into());
        }
    }
    options
}

/// The namespace that a body names, for a target that names none.
fn namespace_of(target: &Target, body: &[u8]) -> String {
    if !target.object.namespace.is_empty() {
        return target.object.namespace.to_string();
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body.get("metadata").and_then(|m| m.get("namespace")).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn call_of(write: &Write) -> Result<(String, Call), ApiError> {
    let target = &write.target;
    let (method, content_type, body, forced) = match &write.verb {
        Verb::Create(body) => (Method::POST, "application/json", body.clone(), false),
        Verb::Update(body) => (Method::PUT, "application/json", body.clone(), false),
        Verb::Patch { kind, body } => {
            let (content_type, force) = match kind {
                PatchKind::Merge => ("application/merge-patch+json", false),
                PatchKind::Json => ("application/json-patch+json", false),
                PatchKind::Strategic => ("application/strategic-merge-patch+json", false),
                PatchKind::Apply { force } => ("application/apply-patch+yaml", *force),
            };
            (Method::PATCH, content_type, body.clone(), force)
        }
        Verb::Delete(params) => (Method::DELETE, "application/json", delete_options(params).to_string().into(), false),
    };
    let namespace = match &write.verb {
        Verb::Create(body) | Verb::Update(body) => namespace_of(target, body),
        Verb::Patch { .. } | Verb::Delete(_) => target.object.namespace.to_string(),
    };
    let mut uri = match &write.verb {
        Verb::Create(_) if target.subresource.is_empty() => path::collection(&target.resource, &namespace),
        _ => path::object(target, &namespace)?,
    };
    let mut params = Vec::new();
    if !write.field_manager.is_empty() && !matches!(write.verb, Verb::Delete(_)) {
        params.push(format!("fieldManager={}", path::encode(&write.field_manager)));
    }
    if forced {
        params.push("force=true".to_owned());
    }
    if !params.is_empty() {
        uri = format!("{uri}?{}", params.join("&"));
    }
    Ok((namespace, Call { method, uri, content_type, body, most: MAX_OBJECT, refusal_is_final: target.subresource == "eviction" }))
}

struct Following {
    body: Body,
    lines: wire::Lines,
    resource: ApiResource,
    clock: Arc<dyn Clock>,
    ended: bool,
}

/// Reads on until there is a whole line.
async fn next_line(body: &mut Body, lines: &mut wire::Lines) -> Result<Option<Bytes>, ApiError> {
    loop {
        match body.frame().await {
            Some(frame) => {
                if let Ok(data) = frame.map_err(transport)?.into_data() {
                    lines.push(&data);
                }
            }
            None if lines.is_cut() => return Err(malformed("the watch ended within an event")),
            None => return Ok(None),
        }
        if let Some(line) = lines.next()? {
            return Ok(Some(line));
        }
    }
}

impl Following {
    async fn next(&mut self) -> Result<Option<ApiEvent>, ApiError> {
        let line = match self.lines.next()? {
            Some(line) => Some(line),
            None => within(&self.clock, WATCH_IDLE, Broken::Silent, next_line(&mut self.body, &mut self.lines)).await?,
        };
        line.map(|line| wire::event(&self.resource, &line)).transpose()
    }
}

fn follow(body: Body, resource: ApiResource, clock: Arc<dyn Clock>) -> impl Stream<Item = Result<ApiEvent, ApiError>> + Send {
    stream::unfold(Following { body, lines: wire::Lines::default(), resource, clock, ended: false }, |mut state| async move {
        if state.ended {
            return None;
        }
        let event = state.next().await.transpose()?;
        state.ended = event.is_err();
        Some((event, state))
    })
}

impl RemoteApi {
    /// The API that `client` reaches, as whom it authenticates. Deadlines and waits are `clock`'s.
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock }
    }

    /// Pages of one revision: a list without resourceVersion is the newest, and its continue token holds on to it.
    async fn pages(&self, resource: &ApiResource, query: &Query, limit: Option<usize>) -> Result<ObjectList, ApiError> {
        let path = path::collection(resource, query.namespace.as_deref().unwrap_or_default());
        let limit = limit.map(|limit| limit.to_string());
        let (mut items, mut next) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let mut more: Vec<(&str, &str)> = Vec::new();
            if let Some(limit) = &limit {
                more.push(("limit", limit));
            }
            if !next.is_empty() {
                more.push(("continue", &next));
            }
            let call = Call::get(format!("{path}?{}", path::query_of(query, &more)), MAX_ANSWER);
            let mut page = wire::parse(&answer(&self.client, &self.clock, &call).await?)?;
            match page.get_mut("items").map(Value::take) {
                Some(Value::Array(found)) => {
                    for value in found {
                        items.push(wire::item(resource, value)?);
                    }
                }
                Some(Value::Null) => {}
                _ => return Err(malformed("a list without items")),
            }
            next = page.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default().to_owned();
            if next.is_empty() {
                return Ok(ObjectList { items, revision: wire::revision(&page)? });
            }
        }
        Err(malformed(format!("a list of more than {MAX_PAGES} pages")))
    }
}

#[async_trait]
impl Api for RemoteApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let (namespace, name) = (&*target.object.namespace, &*target.object.name);
        let bytes = answer(&self.client, &self.clock, &Call::get(path::object(target, namespace)?, MAX_OBJECT)).await?;
        let value = wire::parse(&bytes)?;
        wire::object(&target.resource, namespace, name, &value, bytes)
    }

    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError> {
        let mut done = self.pages(resource, query, Some(PAGE)).await;
        if done.as_ref().is_err_and(is_too_large) {
            done = self.pages(resource, query, Some(SMALL_PAGE)).await;
        }
        match done {
            // The revision of the first page was compacted away before the last: all at once, then.
            Err(error) if error.is_expired() => self.pages(resource, query, None).await,
            done => done,
        }
    }

    async fn watch(&self, resource: &ApiResource, query: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        let (after, timeout) = (after.to_string(), rand::random_range(WATCH_SECONDS).to_string());
        let more = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", &*after), ("timeoutSeconds", &*timeout)];
        let path = path::collection(resource, query.namespace.as_deref().unwrap_or_default());
        let call = Call::get(format!("{path}?{}", path::query_of(query, &more)), MAX_OBJECT);
        let response = open(&self.client, &self.clock, &call).await?;
        Ok(follow(response.into_body(), resource.clone(), self.clock.clone()).boxed())
    }

    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let (namespace, call) = call_of(&write)?;
        let bytes = answer(&self.client, &self.clock, &call).await?;
        let value = wire::parse(&bytes)?;
        let (resource, name) = (&write.target.resource, &*write.target.object.name);
        if wire::is_status(&value) {
            return wire::stand_in(resource, &namespace, name, &value);
        }
        wire::object(resource, &namespace, name, &value, bytes)
    }
}
