//! How a cluster is put together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use wharf_apiserver::pki::PkiError;
use wharf_core::api::ApiError;
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::controller::Controller;
use wharf_core::controller::election::{ElectionError, Timing};
use wharf_core::scheduler::Scheduler;
use wharf_core::store::{SharedStore, StoreError};
use wharf_scheduler_framework::Profile;

use crate::cluster::Cluster;
use crate::node::NodeSpec;
use crate::storage::Storage;

/// Why a cluster could not be started, or a node not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; choose another address")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// Keys and certificates could not be made, read or written.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store failed while the first objects were written.
    #[error("the store failed at start: {0}")]
    Store(#[from] StoreError),
    /// The API refused what the cluster itself needs.
    #[error("the API server could not be started: {0}")]
    Api(#[from] ApiError),
    /// A kubeconfig was asked for, but the API is not served on an address.
    #[error("the API is not served on an address: build the cluster with `listen`")]
    NotListening,
    /// The store in the data folder could not be opened.
    #[cfg(feature = "redb")]
    #[error(transparent)]
    OpenStore(#[from] wharf_store_redb::RedbOpenError),
    /// The keys that Secrets are encrypted with could not be had.
    #[error(transparent)]
    EncryptionKeys(#[from] wharf_store_encrypted::KeyError),
    /// The store outlives the process, and there is no place for the keys that Secrets are encrypted with.
    #[error(
        "the store is durable and there is no key to encrypt Secrets with: build the cluster with `data` or `encryption_key_file`, or, if plain text is right, with `secrets_in_plain_text`"
    )]
    NoEncryptionKey,
    /// The times of the leader election do not go together.
    #[error(transparent)]
    Election(#[from] ElectionError),
    /// No node of this name is in the cluster, or it is already.
    #[error("node {name:?}: {message}")]
    Node {
        /// The node.
        name: String,
        /// What is wrong.
        message: &'static str,
    },
}

/// Assembles a [`Cluster`]. Everything has a default; what is not asked for is not started.
#[derive(Clone)]
#[must_use = "a builder does nothing until `start`"]
pub struct ClusterBuilder {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Storage,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) hollow: usize,
    pub(crate) controllers: Vec<Arc<dyn Controller>>,
    pub(crate) built_in_controllers: bool,
    pub(crate) scheduler: Option<Arc<dyn Scheduler>>,
    pub(crate) profile: Option<Arc<Profile>>,
    pub(crate) leader_election: Option<bool>,
    pub(crate) timing: Timing,
    pub(crate) identity: Option<String>,
}

impl std::fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("listen", &self.listen)
            .field("data", &self.storage.data)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            storage: Storage::default(),
            listen: None,
            nodes: Vec::new(),
            hollow: 0,
            controllers: Vec::new(),
            built_in_controllers: true,
            scheduler: None,
            profile: None,
            leader_election: None,
            timing: Timing::default(),
            identity: None,
        }
    }
}

impl ClusterBuilder {
    /// Where objects are kept. If nothing is said: in the folder of [`data`](Self::data), or in memory where there is none.
    pub fn store(mut self, store: SharedStore) -> Self {
        self.storage.given = Some(store);
        self
    }
    /// The time that everything in the cluster goes by.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
    /// A folder for what outlives the process: objects (`store`, with the feature `redb`, unless [`store`](Self::store) names another
    /// place), the key that Secrets are encrypted with (`encryption-key`), keys and certificates (`pki`), so that kubeconfigs stay good
    /// over restarts. Without one, keys are kept in memory, and made only for a cluster that needs them: one that listens, or has nodes
    /// that are not hollow. Where several processes may share the store, keys are taken from the store unless the folder has some.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.storage.data = Some(folder.into());
        self
    }
    /// The file with the keys that Secrets are encrypted with in the store, which is made if it is not there; `encryption-key` in the
    /// data folder if nothing is said. Processes that share a store need the same keys. Objects in memory alone are not encrypted unless
    /// this is called.
    pub fn encryption_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.storage.key_file = Some(path.into());
        self
    }
    /// Stores Secrets as they are, for who reads the store to read. What has been encrypted before cannot be read then.
    pub fn secrets_in_plain_text(mut self) -> Self {
        self.storage.plain = true;
        self
    }
    /// Serves the API with TLS on an address; port 0 takes a free one. Without this no socket is opened.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }
    /// A node.
    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }
    /// Nodes whose containers only pretend: `hollow-0`, `hollow-1` and so on.
    pub fn hollow_nodes(mut self, count: usize) -> Self {
        self.hollow = count;
        self
    }
    /// Whether controllers and scheduler compete with other processes for leases, `kube-system/kube-controller-manager` and
    /// `kube-system/kube-scheduler`, before they work. If nothing is said the store decides: one that other processes may use at the same
    /// time ([`StoreCapabilities::shared`](wharf_core::store::StoreCapabilities::shared)) needs it, and any other would only make a process
    /// that was killed wait for its own lease.
    pub fn leader_election(mut self, yes: bool) -> Self {
        self.leader_election = Some(yes);
        self
    }
    /// How long leases hold, and how they are renewed; Kubernetes' times if nothing is said.
    pub fn leader_election_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }
    /// How this process is called among those that share the cluster; the machine's name if nothing is said. A lease's holder is this with
    /// something random behind it.
    pub fn identity(mut self, name: impl Into<String>) -> Self {
        self.identity = Some(name.into());
        self
    }
    /// A controller beside the built-in ones. Under leader election it may run for several terms, one after another.
    pub fn controller(mut self, controller: Arc<dyn Controller>) -> Self {
        self.controllers.push(controller);
        self
    }
    /// Starts without the built-in controllers.
    pub fn without_built_in_controllers(mut self) -> Self {
        self.built_in_controllers = false;
        self
    }
    /// The plugins that pick nodes and bind, such as Kubernetes' default profile with one of your own.
    pub fn scheduler_profile(mut self, profile: Profile) -> Self {
        self.profile = Some(Arc::new(profile));
        self
    }
    /// What picks nodes instead of the profile's plugins, which still bind.
    pub fn scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// Starts the cluster: on return the API serves requests. Must be called inside a multi-threaded or current-thread tokio runtime.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing keeps running then.
    ///
    /// # Cancellation
    /// A dropped start leaves nothing running.
    pub async fn start(self) -> Result<Cluster, ClusterError> {
        Box::pin(Cluster::start(self)).await
    }
}
