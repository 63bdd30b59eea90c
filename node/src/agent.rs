//! The node agent: registers the node and gives every pod on it a worker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OnceCell, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_core::api::{Query, SharedApi};
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::events::EventRecorder;
use wharf_core::informer::{Informers, ObjectChange, Reader};
use wharf_core::runtime::{ContainerFilter, PodSandboxFilter, RuntimeError, RuntimeService, SharedRuntime, StringMap};

use crate::backoff::BackoffPolicy;
use crate::connector::AgentHandle;
use crate::dns::ClusterDns;
use crate::handlers::RuntimeHandlers;
use crate::labels;
use crate::machine::Machine;
use crate::pod;
use crate::registration::{self, Registration, STATUS_UPDATE_PERIOD};
use crate::shared::{Recorder, Shared};
use crate::worker::{self, Desired, Handle};

/// How often all containers are listed when the runtime sends no events.
const RELIST: Duration = Duration::from_secs(1);
/// The same when it does: events are hints and may be lost.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(5);
/// The same on a hollow node, of which there may be thousands.
const RELIST_HOLLOW: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// Most processes in one container unless said otherwise; 0 would be no limit.
const DEFAULT_PIDS_LIMIT: i64 = 4096;

/// Builds a [`NodeAgent`].
#[derive(Debug)]
pub struct NodeAgentBuilder {
    name: String,
    api: SharedApi,
    runtime: RuntimeHandlers,
    clock: Arc<dyn Clock>,
    root_dir: PathBuf,
    log_dir: PathBuf,
    node_ip: IpAddr,
    labels: BTreeMap<String, String>,
    cluster_dns: Option<ClusterDns>,
    capacity: BTreeMap<String, Quantity>,
    volumes: bool,
    informers: Option<Informers>,
    crash_backoff: BackoffPolicy,
    pull_backoff: BackoffPolicy,
    pids_limit: i64,
}

impl NodeAgentBuilder {
    /// A further runtime, for pods whose RuntimeClass has this handler.
    pub fn runtime_handler(mut self, handler: impl Into<String>, runtime: SharedRuntime) -> Self {
        self.runtime = self.runtime.with(handler, runtime);
        self
    }
    /// The time to go by; the system's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
    /// Where pods' volumes are kept; `/var/lib/wharf` by default.
    pub fn root_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.root_dir = path.into();
        self
    }
    /// Where containers' logs are kept; `/var/log/pods` by default.
    pub fn log_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.log_dir = path.into();
        self
    }
    /// The node's address; loopback by default.
    pub fn node_ip(mut self, ip: IpAddr) -> Self {
        self.node_ip = ip;
        self
    }
    /// Labels of the node, over the well-known ones.
    pub fn labels(mut self, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        self.labels = labels.into_iter().collect();
        self
    }
    /// The cluster's DNS for pods; without it pods get the host's.
    pub fn cluster_dns(mut self, dns: Option<ClusterDns>) -> Self {
        self.cluster_dns = dns;
        self
    }
    /// Capacity over what the machine has (`cpu`, `memory`, `pods`, ...).
    pub fn capacity(mut self, capacity: impl IntoIterator<Item = (String, Quantity)>) -> Self {
        self.capacity = capacity.into_iter().collect();
        self
    }
    /// For a runtime without real processes: volumes, `/etc/hosts` and logs are not made on disk.
    pub fn without_volumes(mut self) -> Self {
        self.volumes = false;
        self
    }
    /// Informers to share for what is not the node's own (Services). By default the agent has its own.
    pub fn informers(mut self, informers: Informers) -> Self {
        self.informers = Some(informers);
        self
    }
    /// The back-off of containers that end.
    pub fn crash_backoff(mut self, policy: BackoffPolicy) -> Self {
        self.crash_backoff = policy;
        self
    }
    /// The back-off of images that cannot be pulled.
    pub fn pull_backoff(mut self, policy: BackoffPolicy) -> Self {
        self.pull_backoff = policy;
        self
    }
    /// Most processes in one container; 0 for no limit, 4096 by default.
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.pids_limit = limit;
        self
    }
    /// The agent. It does nothing before [`NodeAgent::run`].
    pub fn build(self) -> NodeAgent {
        NodeAgent {
            labels: registration::labels(&self.name, &self.labels),
            informers: self.informers,
            shared: Arc::new(Shared {
                name: self.name.into(),
                api: self.api,
                runtime: Arc::new(self.runtime),
                clock: self.clock,
                events: Recorder::default(),
                root_dir: self.root_dir,
                log_dir: self.log_dir,
                node_ip: self.node_ip,
                cluster_dns: self.cluster_dns,
                volumes: self.volumes,
                crash_backoff: self.crash_backoff,
                pull_backoff: self.pull_backoff,
                pids_limit: self.pids_limit,
                machine: Machine::read(self.capacity),
                images: Default::default(),
                tokens: Default::default(),
                services: OnceCell::new(),
                pods: OnceCell::new(),
                runtime_names: OnceCell::new(),
                workers: Default::default(),
            }),
        }
    }
}

/// Does the kubelet's job for one node, over any runtime.
///
/// Containers outlive it: when it stops they go on, and an agent of the same name adopts them.
#[derive(Debug)]
pub struct NodeAgent {
    shared: Arc<Shared>,
    labels: BTreeMap<String, String>,
    informers: Option<Informers>,
}

impl NodeAgent {
    /// An agent for the node `name`.
    pub fn builder(name: impl Into<String>, api: SharedApi, runtime: SharedRuntime) -> NodeAgentBuilder {
        NodeAgentBuilder {
            name: name.into(),
            api,
            runtime: RuntimeHandlers::new(runtime),
            clock: SystemClock::shared(),
            root_dir: "/var/lib/wharf".into(),
            log_dir: "/var/log/pods".into(),
            node_ip: Ipv4Addr::LOCALHOST.into(),
            labels: BTreeMap::new(),
            cluster_dns: None,
            capacity: BTreeMap::new(),
            volumes: true,
            informers: None,
            crash_backoff: BackoffPolicy::default(),
            pull_backoff: BackoffPolicy::default(),
            pids_limit: DEFAULT_PIDS_LIMIT,
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// For an [`AgentConnector`](crate::AgentConnector).
    pub fn handle(&self) -> AgentHandle {
        AgentHandle::new(self.shared.clone())
    }

    /// Runs until `stop` is cancelled; then returns soon, with every container left running.
    ///
    /// # Cancellation
    /// Dropping it does the same as `stop`, except that workers may still be ending.
    pub async fn run(self, stop: CancellationToken) {
        let stop = stop.child_token();
        let _ended = stop.clone().drop_guard();
        let shared = self.shared.clone();
        let tasks = TaskTracker::new();
        shared.events.set_with(|| EventRecorder::new(shared.api.clone(), shared.clock.clone(), "kubelet", &shared.name));
        let own = Informers::new(shared.api.clone(), shared.clock.clone(), stop.clone());
        if shared.volumes {
            let services: Reader<Service> = self.informers.as_ref().unwrap_or(&own).of();
            // Set once: nobody else does.
            let _ = shared.services.set(services);
        }
        let query = Query { field_selector: Some(format!("spec.nodeName={}", shared.name)), ..Query::default() };
        let pods: Reader<Pod> = own.scoped(query);
        let _ = shared.pods.set(pods.clone());
        let _ = shared.runtime_names.set(runtime_names(&shared.runtime).await);
        tasks.spawn(heartbeat(shared.clone(), self.labels, stop.clone()));
        if shared.runtime.any_events() {
            tasks.spawn(runtime_events(shared.clone(), stop.clone()));
        }
        let dispatcher = Dispatcher { shared: shared.clone(), tasks: tasks.clone(), stop: stop.clone() };
        tasks.spawn(crate::logs::rotate::run(shared.clone(), stop.clone()));
        tokio::select! {
            () = stop.cancelled() => {}
            () = Box::pin(dispatcher.run(pods)) => {}
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        shared.workers.lock().clear();
    }
}

async fn runtime_names(runtimes: &RuntimeHandlers) -> HashMap<String, String> {
    let mut names = HashMap::new();
    for handler in runtimes.names() {
        let version = match runtimes.get(handler) {
            Ok(runtime) => runtime.version().await,
            Err(error) => Err(error),
        };
        match version {
            Ok(version) => drop(names.insert(handler.to_owned(), version.runtime_name)),
            Err(error) => tracing::warn!("the runtime of handler {handler:?} does not tell its name: {error}"),
        }
    }
    names
}

/// Registers the node, then keeps its lease and status fresh.
async fn heartbeat(shared: Arc<Shared>, labels: BTreeMap<String, String>, stop: CancellationToken) {
    let work = async {
        let mut registration = Registration::default();
        let mut delay = RETRY_FIRST;
        while let Err(error) = registration.register(&shared, &labels).await {
            tracing::warn!(node = %shared.name, "the node is not registered yet: {error}");
            shared.clock.sleep(delay).await;
            delay = (delay * 2).min(RETRY_MOST);
        }
        tracing::debug!(node = %shared.name, "registered");
        loop {
            if let Err(error) = registration.renew(&shared).await {
                tracing::warn!(node = %shared.name, "the lease was not renewed: {error}");
            }
            // Jitter keeps a thousand nodes apart.
            let jitter = STATUS_UPDATE_PERIOD.mul_f64(rand::random::<f64>() * 0.04);
            shared.clock.sleep(STATUS_UPDATE_PERIOD - jitter).await;
            if let Err(error) = registration.report(&shared).await {
                tracing::warn!(node = %shared.name, "the node's status was not written: {error}");
                if error.is_not_found()
                    && let Err(error) = registration.register(&shared, &labels).await
                {
                    tracing::warn!(node = %shared.name, "the node is not registered again: {error}");
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Wakes workers as the runtime tells of changes.
async fn runtime_events(shared: Arc<Shared>, stop: CancellationToken) {
    let work = async {
        loop {
            match shared.runtime.events().await {
                Ok(mut events) => {
                    while let Some(event) = events.next().await {
                        if let Some(worker) = shared.workers.lock().get(&event.pod_uid) {
                            worker.wake.notify_one();
                        }
                    }
                }
                Err(error) => tracing::debug!("no runtime events: {error}"),
            }
            shared.clock.sleep(RELIST).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

struct Dispatcher {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a relist shows of one pod: ids and whether they are up.
type Fingerprint = Vec<(String, String)>;

impl Dispatcher {
    async fn run(&self, pods: Reader<Pod>) {
        let shared = &self.shared;
        pods.synced().await;
        let (mut now, mut changes) = pods.informer().subscribe();
        let mut seen: HashMap<String, Fingerprint> = HashMap::new();
        let period = match (shared.volumes, shared.runtime.capabilities().events) {
            (false, true) => RELIST_HOLLOW,
            (_, true) => RELIST_WITH_EVENTS,
            (_, false) => RELIST,
        };
        let mut relist = Box::pin(std::future::ready(())) as futures::future::BoxFuture<'static, ()>;
        loop {
            for object in now.drain(..) {
                self.changed(ObjectChange { old: None, new: Some(object) });
            }
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => self.changed(change),
                    Err(RecvError::Lagged(_)) => {
                        (now, changes) = pods.informer().subscribe();
                        self.sweep(&pods);
                    }
                    Err(RecvError::Closed) => return,
                },
                () = &mut relist => {
                    if let Err(error) = self.relist(&mut seen).await {
                        tracing::warn!("the runtime was not listed: {error}");
                    }
                    relist = shared.clock.sleep(period);
                }
            }
        }
    }

    fn changed(&self, change: ObjectChange) {
        let decode = |o: &Option<Arc<wharf_core::object::Object>>| o.as_ref().and_then(|o| o.decode::<Pod>().ok());
        let (old, new) = (decode(&change.old), decode(&change.new));
        if let Some(old) = old
            && new.as_ref().is_none_or(|n| pod::uid(n) != pod::uid(&old))
        {
            self.gone(&old);
        }
        if let Some(new) = new {
            self.want(Desired { pod: new, gone: false }, true);
        }
    }

    /// The object is no longer there; what runs of it must go.
    fn gone(&self, pod: &Arc<Pod>) {
        self.want(Desired { pod: pod.clone(), gone: true }, false);
    }

    /// After missed changes: workers whose pods are no longer in the API.
    fn sweep(&self, pods: &Reader<Pod>) {
        let known: HashSet<String> = pods.list().iter().map(|p| pod::uid(p).to_string()).collect();
        let stale: Vec<Arc<Pod>> = {
            let workers = self.shared.workers.lock();
            workers.iter().filter(|(uid, _)| !known.contains(*uid)).map(|(_, h)| h.desired.borrow().pod.clone()).collect()
        };
        for pod in stale {
            self.gone(&pod);
        }
    }

    fn want(&self, desired: Desired, may_start: bool) {
        let uid = pod::uid(&desired.pod).to_string();
        let mut workers = self.shared.workers.lock();
        if let Some(handle) = workers.get(&uid)
            && !handle.desired.is_closed()
        {
            handle.desired.send_replace(desired);
            return;
        }
        if !may_start {
            return;
        }
        let (send, receive) = watch::channel(desired);
        let wake = Arc::new(Notify::new());
        let handle = Handle { desired: Arc::new(send), wake: wake.clone() };
        workers.insert(uid.clone(), handle.clone());
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            worker::run(shared.clone(), receive, wake, stop).await;
            let mut workers = shared.workers.lock();
            if workers.get(&uid).is_some_and(|h| Arc::ptr_eq(&h.desired, &handle.desired)) {
                workers.remove(&uid);
            }
        });
    }

    /// Lists the runtime once for all pods: wakes workers of what changed, finds what belongs to no pod any more.
    async fn relist(&self, seen: &mut HashMap<String, Fingerprint>) -> Result<(), RuntimeError> {
        let shared = &self.shared;
        let mine = StringMap::from([(labels::NODE.to_string(), shared.name.to_string())]);
        let sandboxes =
            shared.runtime.list_pod_sandbox(&PodSandboxFilter { label_selector: mine.clone(), ..PodSandboxFilter::default() }).await?;
        let containers = shared.runtime.list_containers(&ContainerFilter { label_selector: mine, ..ContainerFilter::default() }).await?;
        let mut fresh: HashMap<String, Fingerprint> = HashMap::new();
        for sandbox in &sandboxes {
            fresh.entry(sandbox.metadata.uid.clone()).or_default().push((sandbox.id.clone(), format!("{:?}", sandbox.state)));
        }
        for container in containers {
            if let Some(uid) = container.labels.get(labels::POD_UID) {
                fresh.entry(uid.clone()).or_default().push((container.id, format!("{:?}", container.state)));
            }
        }
        for fingerprint in fresh.values_mut() {
            fingerprint.sort();
        }
        for (uid, fingerprint) in &fresh {
            if seen.get(uid) != Some(fingerprint)
                && let Some(worker) = shared.workers.lock().get(uid)
            {
                worker.wake.notify_one();
            }
        }
        for uid in seen.keys().filter(|uid| !fresh.contains_key(*uid)) {
            if let Some(worker) = shared.workers.lock().get(uid) {
                worker.wake.notify_one();
            }
        }
        *seen = fresh;
        for sandbox in sandboxes {
            let (uid, meta) = (&sandbox.metadata.uid, &sandbox.metadata);
            if shared.workers.lock().contains_key(uid) {
                continue;
            }
            // Deleted while no agent was here to see.
            let pod = Pod {
                metadata: ObjectMeta {
                    name: Some(meta.name.clone()),
                    namespace: Some(meta.namespace.clone()),
                    uid: Some(uid.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(PodSpec::default()),
                ..Pod::default()
            };
            self.want(Desired { pod: Arc::new(pod), gone: true }, true);
        }
        Ok(())
    }
}
