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
use wharf_controllers::serviceaccount::RootCaPublisher;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::controller::{Context, Controller, Driver, DriverOptions};
use wharf_core::events::EventRecorder;
use wharf_core::informer::Informers;
use wharf_core::metrics::{ControllerMetrics, Metrics};
use wharf_core::proxy::NodeInfo;
use wharf_core::proxy_driver::ProxyDriver;
use wharf_core::scheduler::Scheduler;
use wharf_node::{AgentConnector, NodeAgent};
use wharf_runtime_hollow::HollowRuntime;
use wharf_scheduler_framework::{FrameworkScheduler, LoopOptions, Profile, SchedulerLoop};

use crate::builder::{ClusterBuilder, ClusterError};
use crate::node::NodeSpec;

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
    pki: Option<Arc<pki::Pki>>,
    token: Option<String>,
    address: Option<SocketAddr>,
    connector: Arc<AgentConnector>,
    context: Context,
    /// What all agents read alike: Services.
    node_informers: Informers,
    nodes: Mutex<BTreeMap<String, Running>>,
    stop: CancellationToken,
    tasks: TaskTracker,
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

/// Who the controllers are. Kubernetes gives each its own account; here they share one that may do everything.
fn controllers() -> User {
    User::master("system:kube-controller-manager")
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
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
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
        let keys = match &builder.data {
            Some(folder) => Some(Arc::new(pki::Pki::load_or_generate(&folder.join("pki"), &*clock)?)),
            None if called => Some(Arc::new(pki::Pki::generate(&*clock)?)),
            None => None,
        };
        let token = keys.as_ref().map(|_| format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()));
        let mut server =
            ApiServer::builder(builder.take_store(), clock.clone()).nodes(connector.clone()).metrics(metrics.clone()).stop(stop.clone());
        if let Some(keys) = &keys {
            server = server.pki(keys.clone());
        }
        if let Some(token) = &token {
            server = server.token(token, admin());
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
        let context = context(&server, &clock, &stop, controllers(), "kube-controller-manager");
        let node_informers = Informers::new(server.local(component("system:kube-proxy")), clock.clone(), stop.clone());
        let cluster = Self {
            shared: Arc::new(Shared {
                clock,
                server,
                pki: keys,
                token,
                address,
                connector,
                context,
                node_informers,
                nodes: Mutex::default(),
                stop,
                tasks,
            }),
        };
        cluster.run_controllers(&builder, &metrics);
        cluster.run_scheduler(builder.scheduler.take(), builder.profile.take());
        for node in std::mem::take(&mut builder.nodes) {
            cluster.add_node(node).await?;
        }
        for index in 0..builder.hollow {
            cluster.add_node(NodeSpec::hollow(format!("hollow-{index}"), Arc::new(HollowRuntime::new()))).await?;
        }
        guard.disarm();
        Ok(cluster)
    }

    fn run_controllers(&self, builder: &ClusterBuilder, metrics: &Metrics) {
        let shared = &self.shared;
        let driver = Driver::new(shared.context.clone(), ControllerMetrics::new(metrics), DriverOptions::default());
        let mut controllers: Vec<Arc<dyn Controller>> = builder.controllers.clone();
        if builder.built_in_controllers {
            controllers.extend(wharf_controllers::all());
            if let Some(keys) = &shared.pki {
                controllers.push(Arc::new(RootCaPublisher::new(keys.ca_certificate())));
            }
        }
        for controller in controllers {
            let (driver, stop) = (driver.clone(), shared.stop.clone());
            shared.tasks.spawn(async move { driver.run(controller, stop).await });
        }
    }

    fn run_scheduler(&self, custom: Option<Arc<dyn Scheduler>>, profile: Option<Arc<Profile>>) {
        let shared = &self.shared;
        let default = || wharf_scheduler_plugins::default_profile().build(&wharf_scheduler_plugins::registry()).map(Arc::new);
        let profile = match profile.map_or_else(default, Ok) {
            Ok(profile) => profile,
            // The default profile names only plugins of the registry beside it; a test of that crate holds it to this.
            Err(error) => {
                tracing::error!("no scheduler runs: {error}");
                return;
            }
        };
        let scheduler = custom.unwrap_or_else(|| Arc::new(FrameworkScheduler::new(profile.clone(), rand::random())));
        let context = context(&shared.server, &shared.clock, &shared.stop, component("system:kube-scheduler"), "default-scheduler");
        let run = SchedulerLoop::new(context, scheduler, profile, LoopOptions::default());
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move { run.run(stop).await });
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
        let (Some(keys), Some(address), Some(token)) = (&shared.pki, shared.address, &shared.token) else {
            return Err(ClusterError::NotListening);
        };
        let host = if address.ip().is_unspecified() { SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port()) } else { address };
        let contexts = [("wharf", pki::Credential::Certificate(keys.admin()?)), ("wharf-token", pki::Credential::Token(token.clone()))];
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
            let context = context(&self.shared.server, &self.shared.clock, &self.shared.stop, component("system:kube-proxy"), "kube-proxy");
            let node = NodeInfo { name: name.clone(), addresses: spec.addresses.clone() };
            let driver = ProxyDriver::new(proxy.clone(), context.informers, self.shared.clock.clone(), node, spec.pod_cidrs.clone());
            let stop = self.shared.stop.clone();
            self.shared.tasks.spawn(async move { driver.run(stop).await });
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
        let stop = shared.stop.child_token();
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

    /// Ends everything that runs in this process, in good order. Containers and what a proxy installed stay.
    ///
    /// # Cancellation
    /// Everything was told to end when this is first polled.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let agents: Vec<_> = self.shared.nodes.lock().values_mut().filter_map(|n| n.agent.take()).collect();
        let all = async {
            for (_, task) in agents {
                // An agent that panicked has ended too.
                let _ = task.await;
            }
            self.shared.tasks.wait().await;
        };
        tokio::select! {
            () = all => {}
            () = self.shared.clock.sleep(DRAIN) => tracing::warn!("some tasks had not ended after {} s", DRAIN.as_secs()),
        }
    }
}

fn admin() -> User {
    User::new("kubernetes-admin", [pki::ADMIN_GROUP, "system:authenticated"])
}

fn context(server: &ApiServer, clock: &Arc<dyn Clock>, stop: &CancellationToken, user: User, name: &str) -> Context {
    let api = server.local(user);
    Context {
        informers: Informers::new(api.clone(), clock.clone(), stop.clone()),
        events: EventRecorder::new(api.clone(), clock.clone(), name, ""),
        api,
        clock: clock.clone(),
    }
}
