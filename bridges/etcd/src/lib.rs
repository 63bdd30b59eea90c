//! Any [`ObjectStore`](wharf_core::store::ObjectStore) served as etcd v3 over gRPC; building it needs protoc.
//!
//! etcdctl, etcd's clients and a stock kube-apiserver speak to it as to an etcd of one member without authentication by password.
//! The messages are etcd's own, from its definitions; so are codes and texts of errors, which clients compare.
//!
//! ```no_run
//! # async fn f(store: wharf_core::store::SharedStore) -> Result<(), Box<dyn std::error::Error>> {
//! use wharf_bridge_etcd::{BridgeTls, EtcdBridge};
//! use wharf_core::clock::SystemClock;
//!
//! let bridge = EtcdBridge::builder(store, SystemClock::shared()).build().await?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:2379").await?;
//! let tls = BridgeTls { certificate: std::fs::read("server.pem")?, key: std::fs::read("server.key")?, client_ca: std::fs::read("ca.pem")? };
//! bridge.serve(listener, tls, async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is as in etcd
//! Revisions are the store's. A transaction is one revision, its events in order of keys. `version` counts puts since creation. A watch
//! from a compacted revision is cancelled with the revision of the compaction; progress is told on request once every event up to it
//! was sent on all watches of the stream. A watch that falls behind reads on from the store's history and stalls nobody.
//!
//! # What differs
//! - Granting a lease, and ending one without keys, is a commit of the store and takes a revision. A lease lives in the store until it ends;
//!   keeping it alive writes nothing. A bridge that starts gives every lease its whole time again, as etcd does after an election.
//! - A transaction of more than 128 written, read and compared keys is refused (`too many operations in txn request`). A delete of a range
//!   outside of a transaction, and the end of a lease, may have more keys: they take one revision per 128.
//! - A transaction that puts a key and deletes it too, which etcd allows in some nestings, is refused as a duplicate key.
//! - A value has at most [`MAX_KEY_VALUE`] bytes, whatever requests are allowed.
//! - Compaction tells where history is gone only as far as the store keeps history: reading the past needs a store with
//!   [`history`](wharf_core::store::StoreCapabilities::history).
//! - A snapshot is the file of an etcd that was compacted at its revision: it has what is there then, and nothing of the time before. Hashes
//!   are those of such an etcd, which may differ from one that has the same keys and was compacted earlier.
//! - Defragmentation, and the size that the status tells, are up to [`Maintenance`]; without it there is nothing to do, and the size is that
//!   of keys and values.
//! - Refused with `Unimplemented` and a text: users and roles, changes of members, downgrades.
//!
//! # Who else may write
//! Everything is kept under one resource of the store, that only one bridge at a time is to write to. See [`EtcdBridgeBuilder::resource`].

mod authority;
mod backend;
mod backup;
mod bolt;
mod check;
mod connection;
mod entry;
mod fault;
mod hub;
mod index;
mod keys;
mod lease;
mod locks;
mod maintenance;
mod range;
mod serve;
mod services;
mod snapshot;
mod txn;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbResponseHeader;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use wharf_core::clock::Clock;
use wharf_core::store::{MAX_OPS, SharedStore};

pub use crate::entry::MAX_KEY_VALUE;
use crate::hub::{Hub, RingBound};
use crate::keys::Layout;
pub use crate::keys::{DEFAULT_RESOURCE, GROUP};
use crate::lease::Leases;
pub use crate::lease::{MAX_LEASES, MAX_TTL, MIN_TTL};
use crate::locks::Locks;
pub use crate::maintenance::Maintenance;
pub use crate::serve::{BridgeTls, MAX_STREAMS, ServeError};
pub use crate::snapshot::MAX_ANSWER_BYTES;
pub use crate::watch::MAX_WATCHES;

/// The version of etcd whose ways the bridge has; Kubernetes asks for progress of watches from 3.5.13 on.
pub const ETCD_VERSION: &str = "3.6.0";
/// Largest request that writes, in bytes, unless the builder says otherwise; etcd's default.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 3 << 19;
/// Time between two notifications that nothing has happened, for watches that want them; etcd's default.
pub const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// Commits that are held for watches unless the builder says otherwise. Older ones are read from the store's history.
pub const DEFAULT_WATCH_COMMITS: usize = 16_384;
/// Bytes of keys and values that are held for watches unless the builder says otherwise.
pub const DEFAULT_WATCH_BYTES: usize = 64 << 20;
/// The name and number of a cluster unless the builder says otherwise: "wharf", as bytes.
pub const DEFAULT_CLUSTER_ID: u64 = 0x77_68_61_72_66;

/// Most requests at once that look at every key: snapshots and hashes.
pub const MAX_PASSES: usize = 4;

/// Why there is no bridge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The store could not be read, or has something in the bridge's resource that the bridge has not written.
    #[error("the store's etcd keys cannot be read: {message}")]
    Unreadable {
        /// Why, and what to do.
        message: String,
    },
}

#[derive(Debug, Clone)]
struct Limits {
    max_request_bytes: usize,
    max_txn_ops: usize,
    progress_interval: Duration,
}

/// How an [`EtcdBridge`] is made.
#[derive(Debug, Clone)]
pub struct EtcdBridgeBuilder {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    resource: String,
    cluster_id: u64,
    name: String,
    client_urls: Vec<String>,
    limits: Limits,
    ring: RingBound,
    maintenance: Option<Arc<dyn Maintenance>>,
}

impl EtcdBridgeBuilder {
    /// The resource of the store, in the group [`GROUP`], that everything is kept under. Bridges with different resources do not see each
    /// other's keys; over one resource there is to be one bridge at a time. A second one would miss that leases are kept alive by the first;
    /// transactions of both would still be correct, but for a new key of the other's in a range.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = resource.into();
        self
    }
    /// The number by which clients know the cluster again: another for other data.
    pub fn cluster_id(mut self, id: u64) -> Self {
        self.cluster_id = id.max(1);
        self
    }
    /// The name of the one member.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// The URLs that clients are told to use; those that are served are added by themselves if none is named.
    pub fn client_urls(mut self, urls: impl IntoIterator<Item = String>) -> Self {
        self.client_urls = urls.into_iter().collect();
        self
    }
    /// Largest request that writes, in bytes.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_request_bytes = bytes;
        self
    }
    /// Most operations, and comparisons, of a transaction; at most the store's [`MAX_OPS`].
    pub fn max_txn_ops(mut self, ops: usize) -> Self {
        self.limits.max_txn_ops = ops.min(MAX_OPS);
        self
    }
    /// Time between two notifications that nothing has happened.
    pub fn progress_interval(mut self, interval: Duration) -> Self {
        self.limits.progress_interval = interval.max(Duration::from_millis(100));
        self
    }
    /// How many commits, and bytes of them, are held for watches.
    pub fn watch_history(mut self, commits: usize, bytes: usize) -> Self {
        self.ring = RingBound { commits, bytes };
        self
    }
    /// Who sees to the store's files when clients ask for it.
    pub fn maintenance(mut self, maintenance: Arc<dyn Maintenance>) -> Self {
        self.maintenance = Some(maintenance);
        self
    }

    /// Reads what the store has, and begins to follow it.
    ///
    /// # Errors
    /// [`BuildError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn build(self) -> Result<EtcdBridge, BuildError> {
        let shared = Arc::new(Shared {
            history: self.store.capabilities().history,
            layout: Layout::new(&self.resource),
            locks: Locks::new(),
            hub: Hub::new(self.ring),
            leases: Leases::new(self.clock.clone()),
            store: self.store,
            clock: self.clock,
            cluster_id: self.cluster_id,
            name: self.name,
            limits: self.limits,
            passes: Arc::new(Semaphore::new(MAX_PASSES)),
            maintenance: self.maintenance,
            stopped: CancellationToken::new(),
        });
        let unreadable = |status: Status| BuildError::Unreadable { message: status.message().to_owned() };
        hub::load(&shared).await.map_err(unreadable)?;
        lease::load(&shared).await.map_err(unreadable)?;
        let stopped = shared.stopped.clone();
        tokio::spawn(stopped.clone().run_until_cancelled_owned(hub::follow(shared.clone())));
        tokio::spawn(stopped.clone().run_until_cancelled_owned(lease::expire(shared.clone())));
        Ok(EtcdBridge { shared, client_urls: self.client_urls, _stop: Arc::new(stopped.drop_guard()) })
    }
}

/// A store behind etcd's protocol. Clones share it; it stops when the last is dropped, also for who is being served.
#[derive(Clone)]
pub struct EtcdBridge {
    shared: Arc<Shared>,
    client_urls: Vec<String>,
    _stop: Arc<DropGuard>,
}

impl fmt::Debug for EtcdBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdBridge").field("store", &self.shared.store).finish_non_exhaustive()
    }
}

impl EtcdBridge {
    /// A bridge to a store, with the defaults.
    pub fn builder(store: SharedStore, clock: Arc<dyn Clock>) -> EtcdBridgeBuilder {
        EtcdBridgeBuilder {
            store,
            clock,
            resource: DEFAULT_RESOURCE.into(),
            cluster_id: DEFAULT_CLUSTER_ID,
            name: "wharf".into(),
            client_urls: Vec::new(),
            limits: Limits {
                max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
                max_txn_ops: MAX_OPS,
                progress_interval: DEFAULT_PROGRESS_INTERVAL,
            },
            ring: RingBound { commits: DEFAULT_WATCH_COMMITS, bytes: DEFAULT_WATCH_BYTES },
            maintenance: None,
        }
    }
}

/// What all requests share.
struct Shared {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    layout: Layout,
    /// Whether the store reads the past.
    history: bool,
    locks: Locks,
    hub: Hub,
    leases: Leases,
    cluster_id: u64,
    name: String,
    limits: Limits,
    /// For those who look at every key.
    passes: Arc<Semaphore>,
    maintenance: Option<Arc<dyn Maintenance>>,
    stopped: CancellationToken,
}

impl Shared {
    fn header(&self, revision: i64) -> PbResponseHeader {
        PbResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id(), revision, raft_term: RAFT_TERM }
    }

    /// There is one member, as old as the cluster.
    fn member_id(&self) -> u64 {
        self.cluster_id
    }
}

/// There was one election, which the only member won.
const RAFT_TERM: u64 = 1;
