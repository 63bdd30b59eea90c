//! A cluster in one process.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_apiserver::request::User;
use wharf_apiserver::server::TlsOptions;
use wharf_apiserver::{ApiServer, pki};
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::controller::election::ElectionMetrics;
use wharf_core::informer::Informers;
use wharf_core::metrics::{ControllerMetrics, Metrics};
use wharf_core::proxy::NodeInfo;
use wharf_core::proxy_driver::ProxyDriver;
use wharf_core::scheduler::Scheduler;
use wharf_node::{AgentConnector, NodeAgent};
use wharf_runtime_hollow::HollowRuntime;
use wharf_scheduler_framework::{FrameworkScheduler, Profile};

use crate::builder::{ClusterBuilder, ClusterError};
use crate::keys;
use crate::node::NodeSpec;
use crate::once::{Controllers, Election, Role, Stage, schedule};
use crate::storage::{self, Opened};

/// How long a shutdown waits for each task that runs.
pub const DRAIN: Duration = Duration::from_secs(10);

struct Running {
    spec: NodeSpec,
    /// Ends the agent in good order; `None` while it is killed.
    agent: Option<(CancellationToken, JoinHandle<()>)>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    server: ApiServer,
    opened: Opened,
    pki: Option<Arc<pki::Pki>>,
    address: Option<SocketAddr>,
    connector: Arc<AgentConnector>,
    stage: Stage,
    /// What all agents read alike: Services.
    node_informers: Informers,
    nodes: Mutex<BTreeMap<String, Running>>,
    /// Ends what works through the API; then `stop` ends the API, too.
    work: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    workers: TaskTracker,
}

/// A cluster in one process. Cheap to clone; it runs until [`Cluster::shutdown`].
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("address", &self.shared.address).field("nodes", &self.nodes()).finish_non_exhaustive()
    }
}

/// Who the other parts of a cluster are; RBAC has a role for each.
fn component(name: &str) -> User {
    User::new(name, ["system:authenticated"])
}

/// Who a node's agent is: the Node authorizer lets it do what concerns its own pods.
fn node_agent(node: &str) -> User {
    User::new(format!("system:node:{node}"), ["system:nodes", "system:authenticated"])
}

impl Cluster {
    /// Begins a cluster. Nothing is started that is not asked for.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    pub(crate) async fn start(mut builder: ClusterBuilder) -> Result<Self, ClusterError> {
        let (stop, tasks, workers) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
        let work = stop.child_token();
        // Whatever goes wrong below, what was started ends.
        let guard = stop.clone().drop_guard();
        let clock = builder.clock.clone();
        let metrics = Metrics::default();
        let connector = Arc::new(AgentConnector::new());
        let listener = match builder.listen {
            None => None,
            Some(address) => Some(TcpListener::bind(address).await.map_err(|source| ClusterError::Listen { address, source })?),
        };
        let address = listener.as_ref().and_then(|l| l.local_addr().ok());
        // Keys cost time, so a cluster that nobody calls from outside has none: no socket, and no pods that hold tokens.
        let called = address.is_some() || builder.nodes.iter().any(|node| !node.hollow);
        let opened = storage::open(&builder.storage, &clock).await?;
        let store = opened.store.clone();
        let several = builder.leader_election.unwrap_or(store.capabilities().shared);
        let folder = builder.storage.data.as_ref().map(|data| data.join("pki"));
        let keys = match several {
            _ if !called && folder.is_none() => None,
            true => Some(Arc::new(keys::of_several(folder.as_deref(), &store, &*clock).await?)),
            false => Some(Arc::new(keys::of_one(folder.as_deref(), &*clock)?)),
        };
        let mut server = ApiServer::builder(store, clock.clone()).nodes(connector.clone()).metrics(metrics.clone()).stop(stop.clone());
        if let Some(keys) = &keys {
            server = server.pki(keys.clone()).token(keys.admin_token(), admin());
        }
        let server = Box::pin(server.build()).await?;
        if let (Some(keys), Some(listener), Some(address)) = (&keys, listener, address) {
            let options = TlsOptions { identity: keys.serving(&[], &[address.ip()])?, client_ca: keys.ca_certificate().to_owned() };
            let service = server.service().clone();
            tasks.spawn(async move {
                if let Err(error) = service.serve(listener, &options).await {
                    tracing::error!("the listener ended: {error}");
                }
            });
        }
        let identity = || format!("{}_{}", builder.identity.clone().unwrap_or_else(machine), uuid());
        let election = several.then(|| Election { identity: identity(), timing: builder.timing, metrics: ElectionMetrics::new(&metrics) });
        let stage = Stage { server: server.clone(), clock: clock.clone(), election };
        let node_informers = Informers::new(server.local(component("system:kube-proxy")), clock.clone(), stop.clone());
        let cluster = Self {
            shared: Arc::new(Shared {
                clock,
                server,
                opened,
                pki: keys,
                address,
                connector,
                stage,
                node_informers,
                nodes: Mutex::default(),
                work,
                stop,
                tasks,
                workers,
            }),
        };
        cluster.run_controllers(&builder, &metrics)?;
        cluster.run_scheduler(builder.scheduler.take(), builder.profile.take())?;
        for node in std::mem::take(&mut builder.nodes) {
            cluster.add_node(node).await?;
        }
        for index in 0..builder.hollow {
            cluster.add_node(NodeSpec::hollow(format!("hollow-{index}"), Arc::new(HollowRuntime::new()))).await?;
        }
        guard.disarm();
        Ok(cluster)
    }

    fn run_controllers(&self, builder: &ClusterBuilder, metrics: &Metrics) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let controllers = Controllers {
            own: builder.controllers.clone(),
            built_in: builder.built_in_controllers,
            ca: shared.pki.as_ref().map(|keys| keys.ca_certificate().to_owned()),
            metrics: ControllerMetrics::new(metrics),
        };
        // Kubernetes gives each its own account; here they share one that may do everything.
        let user = User::master("system:kube-controller-manager");
        let role = Role { lease: "kube-controller-manager", component: "kube-controller-manager", user };
        shared.workers.spawn(shared.stage.play(role, shared.work.clone(), move |context, stop| controllers.run(context, stop))?);
        Ok(())
    }

    fn run_scheduler(&self, custom: Option<Arc<dyn Scheduler>>, profile: Option<Arc<Profile>>) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let default = || wharf_scheduler_plugins::default_profile().build(&wharf_scheduler_plugins::registry()).map(Arc::new);
        let profile = match profile.map_or_else(default, Ok) {
            Ok(profile) => profile,
            // The default profile names only plugins of the registry beside it; a test of that crate holds it to this.
            Err(error) => {
                tracing::error!("no scheduler runs: {error}");
                return Ok(());
            }
        };
        let scheduler = custom.unwrap_or_else(|| Arc::new(FrameworkScheduler::new(profile.clone(), rand::random())));
        let role = Role { lease: "kube-scheduler", component: "default-scheduler", user: component("system:kube-scheduler") };
        shared.workers.spawn(shared.stage.play(role, shared.work.clone(), schedule(scheduler, profile))?);
        Ok(())
    }

    /// A `kube::Client` over the API server in this process, as the cluster's administrator. No socket, but the same
    /// authorization and admission.
    pub fn client(&self) -> kube::Client {
        self.client_as(admin())
    }

    /// The same as another user.
    pub fn client_as(&self, user: User) -> kube::Client {
        self.shared.server.kube_client(user, "default")
    }

    /// The API for code in this process, as the cluster's administrator: no HTTP, and objects are shared, not copied.
    pub fn api(&self) -> SharedApi {
        self.shared.server.local(admin())
    }

    /// The API server, to serve it in another way.
    pub fn api_server(&self) -> &ApiServer {
        &self.shared.server
    }

    /// Where the API is served with TLS; `None` when it is not.
    pub fn address(&self) -> Option<SocketAddr> {
        self.shared.address
    }

    /// A kubeconfig for the administrator, with a context that uses a client certificate and one that uses a token. It
    /// holds secrets.
    ///
    /// # Errors
    /// When no address is listened on, or the certificate cannot be made.
    pub fn kubeconfig(&self) -> Result<String, ClusterError> {
        let shared = &self.shared;
        let (Some(keys), Some(address)) = (&shared.pki, shared.address) else {
            return Err(ClusterError::NotListening);
        };
        let host = if address.ip().is_unspecified() { SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port()) } else { address };
        let contexts = [
            ("wharf", pki::Credential::Certificate(keys.admin()?)),
            ("wharf-token", pki::Credential::Token(keys.admin_token().to_owned())),
        ];
        Ok(pki::kubeconfig("wharf", &format!("https://{host}"), keys.ca_certificate(), &contexts))
    }

    /// The names of the nodes that run in this process.
    pub fn nodes(&self) -> Vec<String> {
        self.shared.nodes.lock().keys().cloned().collect()
    }

    /// Adds a node and starts its agent and its proxy.
    ///
    /// # Errors
    /// When a node of this name is there already.
    pub async fn add_node(&self, spec: NodeSpec) -> Result<(), ClusterError> {
        let name = spec.name.clone();
        if self.shared.pki.is_none() && !spec.hollow {
            let message =
                "has pods that hold tokens and the cluster has no keys: build the cluster with `listen`, `data` or a node of this kind";
            return Err(ClusterError::Node { name, message });
        }
        {
            let mut nodes = self.shared.nodes.lock();
            if nodes.contains_key(&name) {
                return Err(ClusterError::Node { name, message: "is in the cluster already" });
            }
            nodes.insert(name.clone(), Running { spec: spec.clone(), agent: None });
        }
        if let Some(proxy) = &spec.proxy {
            let api = self.shared.server.local(component("system:kube-proxy"));
            let informers = Informers::new(api, self.shared.clock.clone(), self.shared.work.clone());
            let node = NodeInfo { name: name.clone(), addresses: spec.addresses.clone() };
            let driver = ProxyDriver::new(proxy.clone(), informers, self.shared.clock.clone(), node, spec.pod_cidrs.clone());
            let stop = self.shared.work.clone();
            self.shared.workers.spawn(async move { driver.run(stop).await });
        }
        self.start_node(&name)
    }

    /// Starts the agent of a node that was killed; it adopts the containers that it finds.
    ///
    /// # Errors
    /// When there is no such node, or its agent runs.
    pub fn start_node(&self, name: &str) -> Result<(), ClusterError> {
        let shared = &self.shared;
        let mut nodes = shared.nodes.lock();
        let unknown = || ClusterError::Node { name: name.to_owned(), message: "is not in this cluster" };
        let running = nodes.get_mut(name).ok_or_else(unknown)?;
        if running.agent.is_some() {
            return Err(ClusterError::Node { name: name.to_owned(), message: "runs already" });
        }
        let spec = &running.spec;
        let api = shared.server.local(node_agent(name));
        let mut builder =
            NodeAgent::builder(name, api, spec.runtime.clone()).clock(shared.clock.clone()).informers(shared.node_informers.clone());
        builder = builder.labels(spec.labels.clone());
        for (handler, runtime) in &spec.handlers {
            builder = builder.runtime_handler(handler, runtime.clone());
        }
        if let Some(path) = &spec.root_dir {
            builder = builder.root_dir(path);
        }
        if let Some(path) = &spec.log_dir {
            builder = builder.log_dir(path);
        }
        if let Some(ip) = spec.addresses.first() {
            builder = builder.node_ip(*ip);
        }
        if spec.hollow {
            builder = builder.without_volumes();
        }
        let agent = builder.build();
        shared.connector.register(name, agent.handle());
        let stop = shared.work.child_token();
        let task = tokio::spawn(agent.run(stop.clone()));
        running.agent = Some((stop, task));
        Ok(())
    }

    /// Kills the agent of a node as a crash would: at once, nothing is put in order. Its containers go on.
    ///
    /// # Errors
    /// When there is no such node, or its agent does not run.
    pub fn kill_node(&self, name: &str) -> Result<(), ClusterError> {
        let mut nodes = self.shared.nodes.lock();
        let running = nodes.get_mut(name).and_then(|n| n.agent.take());
        let Some((_, task)) = running else {
            return Err(ClusterError::Node { name: name.to_owned(), message: "does not run in this cluster" });
        };
        task.abort();
        self.shared.connector.unregister(name);
        Ok(())
    }

    /// Ends everything that runs in this process, in good order: first what works through the API, which gives its leases back so that
    /// another process takes over at once, then the API. Containers and what a proxy installed stay.
    ///
    /// # Cancellation
    /// A dropped shutdown ends everything at once.
    pub async fn shutdown(&self) {
        let _whatever_happens = self.shared.stop.clone().drop_guard();
        self.shared.work.cancel();
        self.shared.tasks.close();
        self.shared.workers.close();
        let agents: Vec<_> = self.shared.nodes.lock().values_mut().filter_map(|n| n.agent.take()).collect();
        let all = async {
            for (_, task) in agents {
                // An agent that panicked has ended too.
                let _ = task.await;
            }
            self.shared.workers.wait().await;
            self.shared.stop.cancel();
            self.shared.tasks.wait().await;
        };
        tokio::select! {
            () = all => {}
            () = self.shared.clock.sleep(DRAIN) => tracing::warn!("some tasks had not ended after {} s", DRAIN.as_secs()),
        }
        self.shared.opened.close().await;
    }
}

fn admin() -> User {
    User::new("kubernetes-admin", [pki::ADMIN_GROUP, "system:authenticated"])
}

/// What this machine is called.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "wharf".into() } else { name.trim().to_owned() }
}

/// What nobody else is called.
fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}
