//! The loop: informers to queue and cache, one pod at a time to a decision, decisions to the API.

use std::collections::HashSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_core::api::{ApiError, ApiExt, DeleteParams, PatchKind, ref_of};
use wharf_core::controller::Context;
use wharf_core::events::EventType;
use wharf_core::informer::{Informer, ObjectChange};
use wharf_core::object::{Object, ObjectRef};
use wharf_core::scheduler::{DEFAULT_SCHEDULER_NAME, Decision, PodInfo, Scheduler, is_terminal};

use crate::bind::DefaultBinder;
use crate::cache::Cache;
use crate::plugin::{Bind, BindOutcome};
use crate::profile::Profile;
use crate::queue::Queue;
use crate::status::Rejection;

/// Most bindings under way at once; further pods wait in the queue.
pub const MAX_BINDING: usize = 256;
/// Most conditions and nominations being written at once; further ones are left to the pod's next attempt.
pub const MAX_REPORTS: usize = 256;
/// Attempts between two looks at what the informers told.
const BATCH: usize = 16;
/// How often pods that wait for a change are looked through.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Plugins whose refusal a new pod elsewhere can remedy.
const HELPED_BY_PODS: &[&str] = &["InterPodAffinity", "PodTopologySpread"];

/// How a loop runs.
#[derive(Debug, Clone)]
pub struct LoopOptions {
    /// Only pods with this `spec.schedulerName` are handled; a pod without one counts as naming `default-scheduler`.
    pub scheduler_name: String,
    /// Most bindings under way at once, at most [`MAX_BINDING`].
    pub bindings: usize,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self { scheduler_name: DEFAULT_SCHEDULER_NAME.into(), bindings: MAX_BINDING }
    }
}

/// Feeds a scheduler from the API and carries its decisions out.
///
/// One pod is decided at a time, and counts on its node at once (it is assumed there), while its binding is still under
/// way; bindings run side by side. Several loops with different names can run side by side; two of one name must not.
pub struct SchedulerLoop {
    ctx: Context,
    scheduler: Arc<dyn Scheduler>,
    profile: Arc<Profile>,
    options: LoopOptions,
}

impl fmt::Debug for SchedulerLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulerLoop").field("scheduler", &self.scheduler).field("options", &self.options).finish_non_exhaustive()
    }
}

/// How a binding ended.
struct Bound {
    info: Arc<PodInfo>,
    node: Arc<str>,
    result: Result<(), Rejection>,
}

/// What the loop knows. Synchronous, so that it is tested without an API.
struct Known {
    cache: Cache,
    queue: Queue,
    profile: Arc<Profile>,
    name: String,
}

fn decode<K: wharf_core::api::Kind>(object: &Object) -> Option<Arc<K>> {
    object.decode().inspect_err(|error| tracing::error!("left out: {error}")).ok()
}

impl Known {
    fn ours(&self, pod: &Pod) -> bool {
        let named = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).filter(|n| !n.is_empty());
        named.unwrap_or(DEFAULT_SCHEDULER_NAME) == self.name
    }

    fn pod_is(&mut self, pod: Arc<Pod>, now: Duration) {
        let key = ref_of(&*pod);
        if is_terminal(&pod) {
            return self.pod_gone(&key, now);
        }
        if let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()) {
            self.queue.remove(&key);
            if self.cache.set_pod(pod, &node) {
                self.queue.wake_all(Some(HELPED_BY_PODS), now);
            }
            return;
        }
        if pod.metadata.deletion_timestamp.is_some() || !self.ours(&pod) {
            return self.queue.remove(&key);
        }
        if self.cache.is_assumed(&key, pod.metadata.uid.as_ref()) {
            return;
        }
        let gated = self.profile.pre_enqueue.iter().any(|p| p.pre_enqueue(&pod).is_err());
        let changed = self.queue.known(&key).is_none_or(|old| old.pod.spec != pod.spec || old.pod.metadata.labels != pod.metadata.labels);
        self.queue.add(Arc::new(PodInfo::new(pod)), gated, changed, now);
    }

    fn pod_gone(&mut self, key: &ObjectRef, now: Duration) {
        self.queue.remove(key);
        if self.cache.remove_pod(key) {
            self.queue.wake_all(None, now);
        }
    }

    fn node_is(&mut self, node: Arc<Node>, now: Duration) {
        if self.cache.set_node(node) {
            self.queue.wake_all(None, now);
        }
    }

    fn on_pod(&mut self, change: &ObjectChange, now: Duration) {
        match &change.new {
            Some(object) => {
                if let Some(pod) = decode(object) {
                    self.pod_is(pod, now);
                }
            }
            None => self.pod_gone(&change.latest().object_ref(), now),
        }
    }

    fn on_node(&mut self, change: &ObjectChange, now: Duration) {
        match &change.new {
            Some(object) => {
                if let Some(node) = decode(object) {
                    self.node_is(node, now);
                }
            }
            None => self.cache.remove_node(&change.latest().key().name),
        }
    }

    /// Everything at once, also what is gone.
    fn all_pods(&mut self, objects: Vec<Arc<Object>>, now: Duration) {
        let there: HashSet<ObjectRef> = objects.iter().map(|o| o.object_ref()).collect();
        for key in self.cache.confirmed().into_iter().chain(self.queue.keys()) {
            if !there.contains(&key) {
                self.pod_gone(&key, now);
            }
        }
        for pod in objects.iter().filter_map(|o| decode(o)) {
            self.pod_is(pod, now);
        }
    }

    fn all_nodes(&mut self, objects: Vec<Arc<Object>>, now: Duration) {
        let there: HashSet<Arc<str>> = objects.iter().map(|o| o.key().name.clone()).collect();
        for name in self.cache.node_names() {
            if !there.contains(&name) {
                self.cache.remove_node(&name);
            }
        }
        for node in objects.iter().filter_map(|o| decode(o)) {
            self.node_is(node, now);
        }
    }
}

/// An informer's changes, which looks at everything again when it fell behind.
struct Feed {
    informer: Arc<Informer>,
    changes: Receiver<ObjectChange>,
}

enum Told {
    Change(ObjectChange),
    All(Vec<Arc<Object>>),
}

impl Feed {
    fn new(informer: Arc<Informer>) -> (Vec<Arc<Object>>, Self) {
        let (now, changes) = informer.subscribe();
        (now, Self { informer, changes })
    }
    fn again(&mut self) -> Told {
        let (now, changes) = self.informer.subscribe();
        self.changes = changes;
        Told::All(now)
    }
    fn try_next(&mut self) -> Option<Told> {
        match self.changes.try_recv() {
            Ok(change) => Some(Told::Change(change)),
            Err(TryRecvError::Lagged(_)) => Some(self.again()),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
    /// Safe to drop at any point. Never ends when the informer has: the loop ends by its token.
    async fn next(&mut self) -> Told {
        match self.changes.recv().await {
            Ok(change) => Told::Change(change),
            Err(RecvError::Lagged(_)) => self.again(),
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl SchedulerLoop {
    /// A loop over `scheduler`. `profile` gives the extension points outside of the decision itself: PreEnqueue,
    /// QueueSort, Reserve, Permit, PreBind, Bind and PostBind; an empty one sorts by priority and binds through the API.
    pub fn new(ctx: Context, scheduler: Arc<dyn Scheduler>, profile: Arc<Profile>, options: LoopOptions) -> Self {
        let ctx = Context { events: ctx.events.named(&options.scheduler_name), ..ctx };
        Self { ctx, scheduler, profile, options }
    }

    /// Runs until `stop` is cancelled. Bindings under way are then dropped: each may or may not have taken place, and
    /// the pods are found as they are at the next start.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(Box::pin(self.work())).await;
    }

    async fn work(self) {
        let (pods, nodes) = (self.ctx.informers.of::<Pod>(), self.ctx.informers.of::<Node>());
        nodes.synced().await;
        pods.synced().await;
        let clock = self.ctx.clock.clone();
        let mut known = Known {
            cache: Cache::default(),
            queue: Queue::new(self.profile.queue_sort.clone()),
            profile: self.profile.clone(),
            name: self.options.scheduler_name.clone(),
        };
        let (all_nodes, mut nodes) = Feed::new(nodes.informer().clone());
        let (all_pods, mut pods) = Feed::new(pods.informer().clone());
        known.all_nodes(all_nodes, clock.monotonic());
        known.all_pods(all_pods, clock.monotonic());
        let (mut bindings, mut reports) = (JoinSet::new(), JoinSet::new());
        let most = self.options.bindings.clamp(1, MAX_BINDING);
        let mut flush = clock.sleep(FLUSH_EVERY);
        loop {
            let now = clock.monotonic();
            while let Some(told) = nodes.try_next() {
                self.on_nodes(&mut known, told, now);
            }
            while let Some(told) = pods.try_next() {
                self.on_pods(&mut known, told, now);
            }
            while let Some(done) = bindings.try_join_next() {
                self.bound(&mut known, done, now);
            }
            while reports.try_join_next().is_some() {}
            known.queue.flush(now);
            let mut tried = 0;
            while tried < BATCH && bindings.len() < most && self.attempt(&mut known, &mut bindings, &mut reports, now) {
                tried += 1;
            }
            if tried == BATCH {
                tokio::task::yield_now().await;
                continue;
            }
            let backoff = known.queue.next_backoff().map(|at| clock.sleep(at.saturating_sub(now)));
            tokio::select! {
                told = nodes.next() => self.on_nodes(&mut known, told, clock.monotonic()),
                told = pods.next() => self.on_pods(&mut known, told, clock.monotonic()),
                Some(done) = bindings.join_next() => self.bound(&mut known, done, clock.monotonic()),
                () = async { match backoff { Some(sleep) => sleep.await, None => std::future::pending().await } } => {}
                () = &mut flush => {
                    known.queue.flush_unschedulable(clock.monotonic());
                    flush = clock.sleep(FLUSH_EVERY);
                }
            }
        }
    }

    fn on_pods(&self, known: &mut Known, told: Told, now: Duration) {
        match told {
            Told::Change(change) => known.on_pod(&change, now),
            Told::All(objects) => known.all_pods(objects, now),
        }
    }
    fn on_nodes(&self, known: &mut Known, told: Told, now: Duration) {
        match told {
            Told::Change(change) => known.on_node(&change, now),
            Told::All(objects) => known.all_nodes(objects, now),
        }
    }

    /// Tries one pod; `false` if none is ready.
    fn attempt(&self, known: &mut Known, bindings: &mut JoinSet<Bound>, reports: &mut JoinSet<()>, now: Duration) -> bool {
        let Some(queued) = known.queue.pop() else { return false };
        let (key, info) = (queued.info.object_ref(), queued.info);
        match self.scheduler.schedule(&info.pod, known.cache.snapshot()) {
            Decision::Bind { node } => {
                if let Some(rejection) = self.profile.reserve.iter().find_map(|p| p.reserve(&info, &node).err()) {
                    self.unreserve(&info, &node);
                    known.queue.failed(&key, now);
                    self.report(reports, &info, "SchedulerError", rejection.to_string(), None);
                    return true;
                }
                // It stays in the queue, as being tried, until its binding has ended.
                known.cache.assume(info.clone(), node.clone());
                let (ctx, profile) = (self.ctx.clone(), self.profile.clone());
                bindings.spawn(async move {
                    let bound = AssertUnwindSafe(bind(&ctx, &profile, &info, &node)).catch_unwind().await;
                    let result = bound.unwrap_or_else(|_| Err(Rejection::error("a plugin panicked")));
                    Bound { info, node, result }
                });
            }
            Decision::Nominate { node, victims, diagnosis } => {
                known.queue.unschedulable(&key, diagnosis.plugins.clone(), now);
                self.report(reports, &info, "Unschedulable", diagnosis.to_string(), Some((node, victims)));
            }
            Decision::Unschedulable(diagnosis) => {
                let message = diagnosis.to_string();
                known.queue.unschedulable(&key, diagnosis.plugins, now);
                self.report(reports, &info, "Unschedulable", message, None);
            }
            Decision::Wait { .. } => known.queue.gated(&key),
            Decision::Failed { message } => {
                known.queue.failed(&key, now);
                self.report(reports, &info, "SchedulerError", message, None);
            }
            // A decision that this loop does not know must not lose the pod.
            _ => known.queue.failed(&key, now),
        }
        true
    }

    fn unreserve(&self, info: &PodInfo, node: &str) {
        self.profile.reserve.iter().rev().for_each(|p| p.unreserve(info, node));
    }

    fn bound(&self, known: &mut Known, done: Result<Bound, tokio::task::JoinError>, now: Duration) {
        // A binding is never aborted, and its panics are caught.
        let Ok(Bound { info, node, result }) = done else { return };
        let key = info.object_ref();
        // Another pod may have come under the same name meanwhile.
        let uid = info.pod.metadata.uid.as_ref();
        let queued = known.queue.known(&key).is_some_and(|p| p.pod.metadata.uid.as_ref() == uid);
        match result {
            Ok(()) => {
                if queued {
                    known.queue.remove(&key);
                }
                self.profile.post_bind.iter().for_each(|p| p.post_bind(&info, &node));
                self.ctx.events.event(&*info.pod, EventType::Normal, "Scheduled", format!("Successfully assigned {key} to {node}"));
            }
            Err(rejection) => {
                tracing::debug!(pod = %key, %node, "binding failed: {rejection}");
                if known.cache.is_assumed(&key, uid) {
                    known.cache.forget(&key);
                }
                self.unreserve(&info, &node);
                if queued {
                    known.queue.failed(&key, now);
                }
                known.queue.wake_all(None, now);
                self.ctx.events.event(&*info.pod, EventType::Warning, "FailedScheduling", format!("binding rejected: {rejection}"));
            }
        }
    }

    fn report(
        &self,
        reports: &mut JoinSet<()>,
        info: &Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominate: Option<(Arc<str>, Vec<Arc<Pod>>)>,
    ) {
        self.ctx.events.event(&*info.pod, EventType::Warning, "FailedScheduling", message.as_str());
        if reports.len() >= MAX_REPORTS {
            return;
        }
        let (ctx, info) = (self.ctx.clone(), info.clone());
        reports.spawn(async move {
            let key = info.object_ref();
            if let Err(error) = tell(&ctx, &info, reason, &message, nominate).await
                && !error.is_not_found()
            {
                tracing::warn!(pod = %key, "its condition was not written: {error}");
            }
        });
    }
}

/// Permit, PreBind and Bind.
async fn bind(ctx: &Context, profile: &Profile, info: &PodInfo, node: &str) -> Result<(), Rejection> {
    for plugin in &profile.permit {
        tokio::select! {
            answer = plugin.permit(info, node) => answer?,
            () = ctx.clock.sleep(plugin.timeout()) => {
                return Err(Rejection::unschedulable(format!("timed out waiting on permit plugin {:?}", plugin.name())));
            }
        }
    }
    for plugin in &profile.pre_bind {
        plugin.pre_bind(ctx, info, node).await?;
    }
    for plugin in &profile.bind {
        if plugin.bind(ctx, info, node).await? == BindOutcome::Bound {
            return Ok(());
        }
    }
    DefaultBinder.bind(ctx, info, node).await.map(|_| ())
}

/// Writes the PodScheduled condition, and makes room where that was decided.
async fn tell(
    ctx: &Context,
    info: &PodInfo,
    reason: &str,
    message: &str,
    nominate: Option<(Arc<str>, Vec<Arc<Pod>>)>,
) -> Result<(), ApiError> {
    let old = info.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let old = old.and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    let same = |c: &k8s_openapi::api::core::v1::PodCondition| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    };
    let mut status = json!({});
    if !old.is_some_and(same) {
        // It keeps the time of its last transition while its status stays.
        let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let since = since.unwrap_or_else(|| Time(ctx.clock.now()));
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastTransitionTime": since,
        }]);
    }
    let mut victims = Vec::new();
    if let Some((node, pods)) = nominate {
        status["nominatedNodeName"] = json!(node);
        victims = pods;
    }
    if status.as_object().is_some_and(|s| !s.is_empty()) {
        ctx.api.patch::<Pod>(&info.object_ref(), "status", PatchKind::Strategic, &json!({"status": status})).await?;
    }
    for victim in victims {
        let params = DeleteParams { uid: victim.metadata.uid.clone(), ..DeleteParams::default() };
        ctx.api.delete::<Pod>(&ref_of(&*victim), params).await?;
        let by = info.pod.metadata.uid.as_deref().unwrap_or_default();
        let node = victim.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        ctx.events.event(&*victim, EventType::Normal, "Preempted", format!("Preempted by pod {by} on node {node}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use wharf_core::store::{Key, ResourceId, Revision};

    const NOW: Duration = Duration::from_secs(1);

    fn known() -> Known {
        Known { cache: Cache::default(), queue: Queue::new(None), profile: Arc::default(), name: DEFAULT_SCHEDULER_NAME.into() }
    }
    fn object(plural: &str, name: &str, more: Value) -> Arc<Object> {
        let mut value = more;
        value["metadata"]["name"] = json!(name);
        value["metadata"]["namespace"] = json!("ns");
        let key = Key::new(ResourceId::new("", plural), "ns", name);
        Arc::new(Object::from_served(key, Revision(1), serde_json::to_vec(&value).unwrap().into()))
    }
    fn pod(name: &str, node: Option<&str>) -> Arc<Object> {
        object("pods", name, json!({"metadata":{"uid":name},"spec":{"nodeName":node,"containers":[]}}))
    }
    fn on(known: &Known, node: &str) -> i64 {
        known.cache.snapshot().get(node).unwrap().requested.pods
    }

    #[test]
    fn looking_at_everything_again_forgets_what_is_gone_but_not_what_is_assumed() {
        let mut known = known();
        known.all_nodes(vec![object("nodes", "n", json!({}))], NOW);
        known.all_pods(vec![pod("bound", Some("n")), pod("waiting", None), pod("trying", None)], NOW);
        let trying = known.queue.known(&ObjectRef::new("ns", "trying")).unwrap().clone();
        known.cache.assume(trying, "n".into());
        assert_eq!(on(&known, "n"), 2);
        known.all_pods(vec![pod("trying", None)], NOW);
        assert_eq!(on(&known, "n"), 1);
        assert_eq!(known.queue.keys(), [ObjectRef::new("ns", "trying")]);
        known.all_nodes(vec![], NOW);
        assert!(known.cache.snapshot().nodes().is_empty());
    }

    #[test]
    fn only_pods_that_can_be_scheduled_are_queued() {
        let mut known = known();
        for (name, more, expected) in [
            ("deleting", json!({"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[]}}), false),
            ("foreign", json!({"spec":{"schedulerName":"other","containers":[]}}), false),
            ("done", json!({"spec":{"containers":[]},"status":{"phase":"Failed"}}), false),
            ("ours", json!({"spec":{"schedulerName":"default-scheduler","containers":[]}}), true),
            ("nobody's", json!({"spec":{"containers":[]}}), true),
        ] {
            known.on_pod(&ObjectChange { old: None, new: Some(object("pods", name, more)) }, NOW);
            assert_eq!(known.queue.known(&ObjectRef::new("ns", name)).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_that_ended_gives_its_room_back() {
        let mut known = known();
        known.all_nodes(vec![object("nodes", "n", json!({}))], NOW);
        known.all_pods(vec![pod("a", Some("n"))], NOW);
        let ended = object("pods", "a", json!({"spec":{"nodeName":"n","containers":[]},"status":{"phase":"Succeeded"}}));
        known.on_pod(&ObjectChange { old: None, new: Some(ended) }, NOW);
        assert_eq!(on(&known, "n"), 0);
    }
}
