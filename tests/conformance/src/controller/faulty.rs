//! An API that misbehaves on command, over one that does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use kube::core::ApiResource;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use wharf_core::api::{Api, ApiError, ApiWatch, DeleteParams, ObjectList, Query, SharedApi, Target, Verb, Write};
use wharf_core::object::{Object, resource_id};
use wharf_core::store::{Key, Revision};

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The call fails and nothing was done.
    Refused,
    /// Somebody else was faster; a create is refused otherwise.
    Conflict,
    /// The call was carried out, but its answer is lost.
    OutcomeUnknown,
    /// The target is deleted just before.
    DeletedMeanwhile,
    /// The call never returns and nothing was done.
    HangsBefore,
    /// The call was carried out and never returns.
    HangsAfter,
}

/// One call of the controller.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) write: bool,
    pub(super) create: bool,
    pub(super) key: Key,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<(usize, Fault)>,
    hit: bool,
    calls: Vec<Call>,
    created: Vec<(ApiResource, Key, String)>,
    watched: BTreeSet<String>,
    on_deleted: Option<Key>,
}

/// The API as a controller sees it, and as its informers do.
#[derive(Debug)]
pub(super) struct Shared {
    inner: SharedApi,
    state: Mutex<State>,
    /// Tells that a call hangs.
    pub(super) hung: Notify,
    /// `None`: events come as they come. Otherwise each watch yields one event a tick.
    pace: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
pub(super) struct FaultyApi {
    shared: Arc<Shared>,
    informer: bool,
}

fn lost() -> ApiError {
    ApiError::Transport("the connection broke, says the kit".into())
}

impl Shared {
    pub(super) fn new(inner: SharedApi) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::default(), hung: Notify::new(), pace: watch::Sender::new(None) })
    }
    pub(super) fn controllers(self: &Arc<Self>) -> SharedApi {
        Arc::new(FaultyApi { shared: self.clone(), informer: false })
    }
    pub(super) fn informers(self: &Arc<Self>) -> SharedApi {
        Arc::new(FaultyApi { shared: self.clone(), informer: true })
    }
    pub(super) fn inner(&self) -> &SharedApi {
        &self.inner
    }
    /// Lets a call go wrong, counted from the first that the controller makes.
    pub(super) fn set_fault(&self, call: usize, fault: Fault) {
        self.state.lock().fault = Some((call, fault));
    }
    pub(super) fn fault_was_hit(&self) -> bool {
        self.state.lock().hit
    }
    /// What was deleted meanwhile.
    pub(super) fn deleted(&self) -> Option<Key> {
        self.state.lock().on_deleted.clone()
    }
    pub(super) fn calls(&self) -> Vec<Call> {
        self.state.lock().calls.clone()
    }
    pub(super) fn writes(&self) -> usize {
        self.state.lock().calls.iter().filter(|c| c.write).count()
    }
    pub(super) fn created(&self) -> Vec<(ApiResource, Key, String)> {
        self.state.lock().created.clone()
    }
    pub(super) fn watched(&self) -> BTreeSet<String> {
        self.state.lock().watched.clone()
    }
    /// Holds events up from now on.
    pub(super) fn hold(&self) {
        self.pace.send_replace(Some(0));
    }
    /// Lets each watch yield one event.
    pub(super) fn tick(&self) {
        self.pace.send_modify(|p| *p = p.map(|n| n + 1));
    }
    /// Lets events come as they come.
    pub(super) fn release(&self) {
        self.pace.send_replace(None);
    }

    fn note(&self, call: Call) -> Option<Fault> {
        let mut state = self.state.lock();
        let at = state.calls.len();
        state.calls.push(call);
        let fault = state.fault.filter(|(call, _)| *call == at).map(|(_, fault)| fault);
        state.hit |= fault.is_some();
        fault
    }

    async fn hang<T>(&self) -> T {
        self.hung.notify_one();
        std::future::pending().await
    }

    async fn around<T>(&self, call: Call, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        match self.note(call.clone()) {
            None | Some(Fault::DeletedMeanwhile) => work.await,
            Some(Fault::Refused) => Err(ApiError::status(500, "InternalError", "the kit refuses this call")),
            Some(Fault::Conflict) if call.write && !call.create => Err(ApiError::status(409, "Conflict", "the kit was faster")),
            Some(Fault::Conflict) => Err(ApiError::status(429, "TooManyRequests", "the kit refuses this call")),
            Some(Fault::OutcomeUnknown) => {
                // Whether it worked or not, nobody hears of it.
                let _ = work.await;
                Err(lost())
            }
            Some(Fault::HangsBefore) => self.hang().await,
            Some(Fault::HangsAfter) => {
                let _ = work.await;
                self.hang().await
            }
        }
    }
}

fn key_of(target: &Target) -> Key {
    Key::new(resource_id(&target.resource), target.object.namespace.clone(), target.object.name.clone())
}

#[async_trait]
impl Api for FaultyApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let call = Call { write: false, create: false, key: key_of(target) };
        self.shared.around(call, self.shared.inner.get(target)).await
    }

    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError> {
        if self.informer {
            return self.shared.inner.list(resource, query).await;
        }
        let call = Call { write: false, create: false, key: Key::new(resource_id(resource), "", "") };
        self.shared.around(call, self.shared.inner.list(resource, query)).await
    }

    async fn watch(&self, resource: &ApiResource, query: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        self.shared.state.lock().watched.insert(format!("{}/{}", resource.api_version, resource.plural));
        let events = self.shared.inner.watch(resource, query, after).await?;
        let pace = self.shared.pace.subscribe();
        let paced = futures::stream::unfold((events, pace, 0u64), |(mut events, mut pace, mut last)| async move {
            let event = events.next().await?;
            let now = pace.wait_for(|p| p.is_none_or(|tick| tick > last)).await.map(|p| *p).ok().flatten();
            last = now.map_or(0, |_| last + 1);
            Some((event, (events, pace, last)))
        });
        Ok(paced.boxed())
    }

    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let create = matches!(write.verb, Verb::Create(_)) && write.target.subresource.is_empty();
        let (target, call) = (write.target.clone(), Call { write: true, create, key: key_of(&write.target) });
        let inner = &self.shared.inner;
        let work = async {
            let meanwhile = self.shared.state.lock().fault.is_some_and(|(_, f)| f == Fault::DeletedMeanwhile);
            let mine = meanwhile && !create && {
                let mut state = self.shared.state.lock();
                let due = state.fault.is_some_and(|(at, _)| at + 1 == state.calls.len()) && state.on_deleted.is_none();
                if due {
                    state.on_deleted = Some(call.key.clone());
                }
                due
            };
            if mine {
                let verb = Verb::Delete(DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() });
                let target = Target { subresource: "", ..target.clone() };
                // It may be gone already.
                let _ = inner.write(Write { target, verb, field_manager: String::new() }).await;
            }
            let object = inner.write(write).await?;
            if create {
                let uid = object.meta().uid.clone().unwrap_or_default();
                self.shared.state.lock().created.push((target.resource.clone(), object.key().clone(), uid));
            }
            Ok(object)
        };
        self.shared.around(call.clone(), work).await
    }
}
