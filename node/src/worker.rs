//! One pod, one worker: reads the state, decides, acts, writes the status. One sync at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wharf_core::api::{ApiError, ApiExt, DeleteParams, PatchKind};
use wharf_core::events::EventType;
use wharf_core::object::ObjectRef;
use wharf_core::runtime::{ContainerState, RuntimeError, RuntimeService};

use crate::backoff::Backoff;
use crate::probes::{Probers, SharedResults};
use crate::shared::Shared;
use crate::snapshot::PodRuntime;
use crate::status::{self, Reason};
use crate::sync::{self, Action, Decision};
use crate::volumes::PodVolumes;
use crate::{config, hooks, messages, pod, runtime_class};

/// How long a container whose configuration cannot be made waits for the next try.
const CONFIG_RETRY: Duration = Duration::from_secs(5);
/// How long volumes that cannot be set up wait for the next try.
const MOUNT_RETRY: Duration = Duration::from_secs(2);
/// How long to wait after the runtime or the API failed.
const FAULT_RETRY: Duration = Duration::from_secs(1);
/// How often ConfigMaps, Secrets and tokens in volumes are looked at again.
const VOLUME_REFRESH: Duration = Duration::from_secs(10);
/// Dead instances that are kept per container, so that `logs --previous` has something to show.
const DEAD_KEPT: usize = 1;

/// What is asked of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// The object is no longer in the API.
    pub(crate) gone: bool,
}

impl Desired {
    /// A higher one interrupts what is done for a lower one.
    fn urgency(&self) -> u64 {
        if self.gone || pod::is_terminating(&self.pod) { u64::MAX - pod::grace(&self.pod).as_secs() } else { 0 }
    }
    /// The pod as decisions see it: what is gone from the API is terminating.
    fn pod(&self, now: Timestamp) -> Arc<Pod> {
        if !self.gone || pod::is_terminating(&self.pod) {
            return self.pod.clone();
        }
        let mut pod = (*self.pod).clone();
        pod.metadata.deletion_timestamp = Some(Time(now));
        pod.spec.get_or_insert_with(PodSpec::default);
        Arc::new(pod)
    }
}

/// How the agent speaks to a worker.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) desired: Arc<watch::Sender<Desired>>,
    pub(crate) wake: Arc<Notify>,
}

enum Outcome {
    /// Something was done: look again.
    Again,
    /// Nothing to do until something changes or this has passed.
    Wait(Option<Duration>),
    /// The pod is gone for good.
    Done,
}

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    #[error("{0}")]
    Api(#[from] ApiError),
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    backoffs: BTreeMap<String, Backoff>,
    reasons: BTreeMap<String, Reason>,
    /// Containers that are not tried before this time.
    hold: BTreeMap<String, Timestamp>,
    messages: BTreeMap<String, String>,
    probers: Probers,
    volumes: Option<PodVolumes>,
    refreshed: Timestamp,
    written: Option<PodStatus>,
    deadline_exceeded: bool,
    /// Containers whose preStop hook has been begun: it is never run twice.
    stopping: Arc<Mutex<std::collections::HashSet<String>>>,
}

/// Runs the worker of one pod until the pod is gone or `stop` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, mut desired: watch::Receiver<Desired>, wake: Arc<Notify>, stop: CancellationToken) {
    let mut worker = Worker {
        probers: Probers::new(shared.clone(), wake.clone()),
        shared: shared.clone(),
        wake: wake.clone(),
        backoffs: BTreeMap::new(),
        reasons: BTreeMap::new(),
        hold: BTreeMap::new(),
        messages: BTreeMap::new(),
        volumes: None,
        refreshed: shared.clock.now(),
        written: None,
        deadline_exceeded: false,
        stopping: Arc::default(),
    };
    loop {
        let want = desired.borrow_and_update().clone();
        let mut urgent = desired.clone();
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Dropping a sync is safe: every step converges when it is tried again.
            () = more_urgent(&mut urgent, want.urgency()) => Ok(Outcome::Again),
            outcome = worker.sync(&want) => outcome,
        };
        let wait = match outcome {
            Ok(Outcome::Again) => continue,
            Ok(Outcome::Done) => return,
            Ok(Outcome::Wait(wait)) => wait,
            Err(error) => {
                tracing::warn!(pod = %pod::full_name(&want.pod), "sync failed, trying again: {error}");
                Some(FAULT_RETRY)
            }
        };
        let sleep = async {
            match wait {
                Some(wait) => shared.clock.sleep(wait.max(Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = desired.changed() => if changed.is_err() { return },
            () = worker.wake.notified() => {}
            () = sleep => {}
        }
    }
}

async fn more_urgent(desired: &mut watch::Receiver<Desired>, than: u64) {
    loop {
        if desired.changed().await.is_err() {
            return std::future::pending().await;
        }
        if desired.borrow().urgency() > than {
            return;
        }
    }
}

impl Worker {
    fn results(&self) -> &SharedResults {
        self.probers.results()
    }

    /// Boxed by name: the compiler cannot see that the anonymous future is `Send` for every lifetime.
    fn sync<'a>(&'a mut self, want: &'a Desired) -> BoxFuture<'a, Result<Outcome, SyncError>> {
        Box::pin(self.sync_once(want))
    }

    async fn sync_once(&mut self, want: &Desired) -> Result<Outcome, SyncError> {
        let shared = self.shared.clone();
        let now = shared.clock.now();
        let pod = want.pod(now);
        let runtime = PodRuntime::read(&*shared.runtime, &shared.name, pod::uid(&pod)).await?;
        messages::collect(&shared, &pod, &runtime, &mut self.messages).await;
        if pod::is_terminating(&pod) {
            self.probers.stop();
        } else {
            self.probers.follow(&pod, &runtime);
        }
        let probes = self.results().lock().clone();
        // What the informer shows may be older than what was written.
        let effective = self.with_written_status(&pod);
        let decision = sync::decide(&sync::Input {
            pod: &effective,
            runtime: &runtime,
            probes: &probes,
            backoffs: &self.backoffs,
            policy: &shared.crash_backoff,
            probing: shared.probing(&runtime),
            now,
        });
        self.deadline_exceeded |= decision.deadline_exceeded;
        self.note_crashing(&pod, &runtime, &decision);
        if !want.gone {
            let last = decision.actions == [Action::Remove];
            self.write_status(&pod, &runtime, last).await?;
        }
        if decision.actions == [Action::Remove] {
            self.remove(want, &pod, &runtime).await?;
            return Ok(Outcome::Done);
        }
        let mut wait = decision.wake_after;
        let mut sooner = |after: Duration| wait = Some(wait.map_or(after, |w| w.min(after)));
        if !pod::is_terminating(&pod) {
            let live = self.volumes.as_ref().is_some_and(PodVolumes::is_live);
            if live {
                let due = VOLUME_REFRESH.saturating_sub(crate::backoff::elapsed(self.refreshed, now));
                if due.is_zero() {
                    self.refreshed = now;
                    if let Err(error) = PodVolumes::prepare(&shared, &pod).await {
                        tracing::warn!(pod = %pod::full_name(&pod), "volumes were not refreshed: {error}");
                    }
                }
                sooner(if due.is_zero() { VOLUME_REFRESH } else { due });
            }
        }
        let mut progressed = false;
        let mut tried = false;
        for action in decision.actions {
            tried = true;
            match self.execute(&pod, &runtime, action).await? {
                Step::Done => progressed = true,
                Step::Later(after) => sooner(after),
                // The next actions stand on this one.
                Step::Blocked(after) => {
                    sooner(after);
                    break;
                }
            }
        }
        if progressed {
            return Ok(Outcome::Again);
        }
        if tried && !want.gone {
            let fresh = PodRuntime::read(&*shared.runtime, &shared.name, pod::uid(&pod)).await?;
            self.write_status(&pod, &fresh, false).await?;
        }
        Ok(Outcome::Wait(wait))
    }

    fn with_written_status(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match &self.written {
            Some(status) if pod.status.as_ref() != Some(status) => Arc::new(Pod { status: Some(status.clone()), ..(**pod).clone() }),
            _ => pod.clone(),
        }
    }

    fn note_crashing(&mut self, pod: &Pod, runtime: &PodRuntime, decision: &Decision) {
        for container in runtime.running() {
            self.reasons.remove(&container.container.metadata.name);
        }
        for crashing in &decision.crashing {
            let reason = sync::crash_reason(pod, crashing);
            if self.reasons.get(&crashing.name) != Some(&reason) {
                let message = format!("Back-off restarting failed container {} in pod {}", crashing.name, pod::full_name(pod));
                self.shared.container_event(pod, &crashing.name, EventType::Warning, "BackOff", message);
                self.reasons.insert(crashing.name.clone(), reason);
            }
        }
    }

    async fn write_status(&mut self, pod: &Pod, runtime: &PodRuntime, last: bool) -> Result<(), SyncError> {
        let shared = &self.shared;
        let old = self.written.clone().or_else(|| pod.status.clone()).unwrap_or_default();
        // Conditions of others as the API has them now, the agent's own as it wrote them last.
        let mut base = old.clone();
        if let (Some(mine), Some(theirs)) = (&mut base.conditions, pod.status.as_ref().and_then(|s| s.conditions.as_ref())) {
            for other in theirs {
                if !mine.iter().any(|c| c.type_ == other.type_) {
                    mine.push(other.clone());
                }
            }
        }
        let new = {
            let probes = self.results().lock();
            status::make(&status::Input {
                pod,
                old: &base,
                runtime,
                probes: &probes,
                probing: shared.probing(runtime),
                reasons: &self.reasons,
                messages: &self.messages,
                runtime_name: shared.runtime_name(runtime),
                host_ip: shared.node_ip,
                deadline_exceeded: self.deadline_exceeded,
                last,
                now: shared.clock.now(),
            })
        };
        let Some(patch) = status::patch(pod::uid(pod), &old, &new) else { return Ok(()) };
        let key = ObjectRef::new(pod::namespace(pod), pod::name(pod));
        match shared.api.patch::<Pod>(&key, "status", PatchKind::Merge, &patch).await {
            Ok(_) => {
                self.written = Some(new);
                Ok(())
            }
            // The pod is gone, or a successor has its name: the informer will tell.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove(&mut self, want: &Desired, pod: &Pod, runtime: &PodRuntime) -> Result<(), SyncError> {
        let shared = &self.shared;
        for sandbox in &runtime.sandboxes {
            shared.runtime.stop_pod_sandbox(&sandbox.id).await?;
            shared.runtime.remove_pod_sandbox(&sandbox.id).await?;
        }
        for container in &runtime.containers {
            shared.runtime.remove_container(&container.container.id).await?;
        }
        if shared.volumes {
            crate::volumes::teardown(shared, pod).await;
        }
        shared.images.forget(pod::uid(pod));
        if !want.gone {
            let key = ObjectRef::new(pod::namespace(pod), pod::name(pod));
            let params = DeleteParams { grace_period_seconds: Some(0), uid: pod.metadata.uid.clone(), ..DeleteParams::default() };
            match shared.api.delete::<Pod>(&key, params).await {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn execute(&mut self, pod: &Pod, runtime: &PodRuntime, action: Action) -> Result<Step, SyncError> {
        let shared = self.shared.clone();
        match action {
            Action::CreateSandbox { attempt } => self.create_sandbox(pod, attempt).await,
            Action::KillSandbox { id } => {
                shared.runtime.stop_pod_sandbox(&id).await?;
                Ok(Step::Done)
            }
            Action::Start { name, attempt, after_exit } => self.start(pod, runtime, &name, attempt, after_exit).await,
            Action::Kill { id, name, message, grace } => {
                shared.container_event(pod, &name, EventType::Normal, "Killing", message);
                hooks::stop_container(&shared, pod, runtime, &name, &id, grace, &self.stopping).await?;
                Ok(Step::Done)
            }
            Action::KillPod { grace } => {
                hooks::stop_pod(&shared, pod, runtime, grace, &self.stopping).await?;
                Ok(Step::Done)
            }
            // Handled by the caller.
            Action::Remove => Ok(Step::Done),
        }
    }

    async fn create_sandbox(&mut self, pod: &Pod, attempt: u32) -> Result<Step, SyncError> {
        let shared = self.shared.clone();
        if let Some(step) = self.ensure_volumes(pod).await {
            return Ok(step);
        }
        if attempt > 0 {
            shared.events.event(pod, EventType::Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
        let refused = match runtime_class::handler(&*shared.api, pod).await {
            Ok(handler) => match shared.runtime.run_pod_sandbox(&config::sandbox(&shared, pod, attempt), &handler).await {
                Ok(_) => return Ok(Step::Done),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let message = format!("Failed to create pod sandbox: {refused}");
        shared.events.event(pod, EventType::Warning, "FailedCreatePodSandBox", message);
        Ok(Step::Blocked(MOUNT_RETRY))
    }

    /// Sets the volumes up; says what to wait for when that fails.
    async fn ensure_volumes(&mut self, pod: &Pod) -> Option<Step> {
        if self.volumes.is_some() {
            return None;
        }
        match PodVolumes::prepare(&self.shared, pod).await {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                self.refreshed = self.shared.clock.now();
                None
            }
            Err(error) => {
                let message = format!("MountVolume.SetUp failed for volume {:?} : {error}", error.volume());
                self.shared.events.event(pod, EventType::Warning, "FailedMount", message);
                Some(Step::Blocked(MOUNT_RETRY))
            }
        }
    }

    fn fail(&mut self, name: &str, reason: Reason, after: Duration) -> Step {
        let until = self.shared.clock.now().checked_add(jiff::SignedDuration::try_from(after).unwrap_or_default());
        self.hold.insert(name.into(), until.unwrap_or(Timestamp::MAX));
        self.reasons.insert(name.into(), reason);
        Step::Later(after)
    }

    async fn start(
        &mut self,
        pod: &Pod,
        runtime: &PodRuntime,
        name: &str,
        attempt: u32,
        after_exit: Option<Timestamp>,
    ) -> Result<Step, SyncError> {
        let shared = self.shared.clone();
        let now = shared.clock.now();
        if let Some(until) = self.hold.get(name)
            && *until > now
        {
            return Ok(Step::Later(crate::backoff::elapsed(now, *until)));
        }
        let Some(spec) = pod.spec.as_ref() else { return Ok(Step::Later(FAULT_RETRY)) };
        let (Some((container, _)), Some(sandbox)) = (pod::find(spec, name), runtime.sandbox()) else {
            return Ok(Step::Later(FAULT_RETRY));
        };
        let container = &*container;
        if let Some(step) = self.ensure_volumes(pod).await {
            return Ok(step);
        }
        let image = match shared.images.ensure(&shared, pod, container, runtime.handler()).await {
            Ok(image) => image,
            Err(missing) => return Ok(self.fail(name, missing.reason, missing.wake_after.unwrap_or(CONFIG_RETRY))),
        };
        let warn = |text: String| shared.container_event(pod, name, EventType::Warning, "Failed", format!("Error: {text}"));
        let volumes = self.volumes.clone().unwrap_or_default();
        let config = match Box::pin(config::container(&shared, pod, container, attempt, &image, runtime, &volumes)).await {
            Ok(config) => config,
            Err(error) => {
                let message = error.to_string();
                warn(message.clone());
                return Ok(self.fail(name, Reason::new("CreateContainerConfigError", message), CONFIG_RETRY));
            }
        };
        let id = match shared.runtime.create_container(&sandbox.id, &config, &config::sandbox(&shared, pod, sandbox.metadata.attempt)).await
        {
            Ok(id) => id,
            Err(error) => {
                let message = error.to_string();
                warn(message.clone());
                return Ok(self.fail(name, Reason::new("CreateContainerError", message), CONFIG_RETRY));
            }
        };
        shared.container_event(pod, name, EventType::Normal, "Created", format!("Created container: {name}"));
        if let Some(ended) = after_exit {
            let next = Backoff::next(self.backoffs.get(name), &shared.crash_backoff, ended, now);
            self.backoffs.insert(name.into(), next);
        }
        if let Err(error) = shared.runtime.start_container(&id).await {
            let message = error.to_string();
            warn(message.clone());
            return Ok(self.fail(name, Reason::new("RunContainerError", message), shared.crash_backoff.first));
        }
        shared.container_event(pod, name, EventType::Normal, "Started", format!("Started container {name}"));
        self.reasons.remove(name);
        self.hold.remove(name);
        if shared.probing(runtime)
            && let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
            && let Err(error) = hooks::run(&shared, container, &id, hook, &runtime.ips).await
        {
            shared.container_event(pod, name, EventType::Warning, "FailedPostStartHook", format!("PostStartHook failed: {error}"));
            shared.container_event(pod, name, EventType::Normal, "Killing", "FailedPostStartHook".into());
            shared.runtime.stop_container(&id, pod::grace(pod)).await?;
        }
        self.forget_dead(pod, container, runtime).await;
        Ok(Step::Done)
    }

    /// Removes instances that are neither the newest nor the one before it. `runtime` is from before the start.
    async fn forget_dead(&mut self, pod: &Pod, container: &Container, runtime: &PodRuntime) {
        let dead = runtime
            .containers
            .iter()
            .filter(|c| c.container.metadata.name == container.name && c.container.state == ContainerState::Exited);
        for old in dead.skip(DEAD_KEPT) {
            self.messages.remove(&old.container.id);
            if let Err(error) = self.shared.runtime.remove_container(&old.container.id).await {
                tracing::debug!(pod = %pod::full_name(pod), "a dead container stays: {error}");
                continue;
            }
            if self.shared.volumes {
                crate::logs::remove(&old.log_path).await;
            }
        }
    }
}

/// What became of an action.
enum Step {
    Done,
    /// It could not be done now; others may go on.
    Later(Duration),
    /// It could not be done now, and what follows stands on it.
    Blocked(Duration),
}
