//! An [`ObjectStore`] over etcd v3: 3.4, 3.5 and later.
//!
//! Building it needs `protoc` and the files of `google/protobuf`, because its client compiles etcd's protocol: Debian's
//! `protobuf-compiler` and `libprotobuf-dev`. `PROTOC_INCLUDE` names them elsewhere.
//!
//! A [`Revision`] is etcd's own: a record's `modified` is its `mod_revision`. Transactions, lists in the past, watches and
//! compaction are etcd's. What the store adds:
//! - **Keys** order as the contract asks, which `/` between their parts could not do (`a-b` sorts before `a/`): an object is
//!   `PREFIX!GROUP!RESOURCE!NAMESPACE!NAME`, readable with etcdctl. See [`EtcdOptions::prefix`]. Other keys are left alone.
//! - **Watches** go on when etcd or the connection goes away: they are taken up where they were, without a gap or a repeat.
//!   One that is not read holds at most [`EtcdOptions::watch_buffer`]; it is closed then, and taken up once it is read.
//! - **Going back is refused.** When etcd's revision is lower than one it has told before (its data was lost, or a backup was
//!   restored), or another cluster answers, every call fails with a permanent [`EtcdFault`] until this store is made anew.
//!
//! - **Expiry**: a time to live is a lease of etcd's, counted from the call. Writes of about the same time to live share one, for a
//!   tenth of it (at most a minute) and up to 1,000 keys, so what expires may stay that much longer. etcd counts whole seconds, keeps
//!   nothing shorter than about two, and begins to count again when its leader changes.
//! - **The newest revision** is read once for all who ask at the same time; an answer is never for who asked after it was asked for.
//!
//! # Progress
//! Progress is asked for once the store is known to have moved on. etcd before 3.4.31 and 3.5.13 answers too early, so that
//! its answer cannot be used, as Kubernetes does not use it: there progress comes only as often as etcd says it by itself.
//! When others write to such an etcd as well, start it with `--experimental-watch-progress-notify-interval=1s`.
//!
//! # Settings of etcd
//! A value of [`MAX_VALUE`](wharf_core::store::MAX_VALUE) needs `--max-request-bytes=4194304`; stock etcd takes 1.5 MiB and
//! the rest is [`StoreError::Invalid`]. Compaction is for the whole of etcd, not for a prefix.

mod commit;
mod connect;
mod endpoints;
mod fault;
mod feed;
mod keys;
mod lease;
mod list;
mod newest;
mod options;
mod record;
mod watch;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use wharf_core::clock::Clock;
use wharf_core::store::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, StoreCapabilities, StoreError, StoreResult, Transaction, WatchStream,
};

use crate::endpoints::Endpoints;
use crate::keys::Keys;
use crate::lease::Leases;
use crate::newest::Newest;

pub use crate::connect::EtcdConnectError;
pub use crate::fault::EtcdFault;
pub use crate::options::{
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_PREFIX, DEFAULT_REQUEST_TIMEOUT, DEFAULT_WATCH_BUFFER, EtcdOptions, EtcdTls, EtcdUser, MAX_ENDPOINTS,
};
pub use crate::watch::{RECONNECT_MOST, RECONNECT_PATIENCE};

pub(crate) const CAPABILITIES: StoreCapabilities = StoreCapabilities::with(true, true).shared(true).expiry(true);

/// A store over etcd. Clones share it; watches end when the last clone is dropped.
///
/// # Cancellation
/// A dropped read has no effect. A dropped commit may or may not take place, as one that ends with
/// [`StoreError::OutcomeUnknown`]: read before trying again.
///
/// # Errors
/// [`StoreError::Backend`] and [`StoreError::OutcomeUnknown`] hold an [`EtcdFault`]. A call ends within
/// [`EtcdOptions::request_timeout`] for each endpoint and once more; [`EtcdStore::revision`](ObjectStore::revision), which shares
/// its requests, and a commit with a time to live, which may need a lease first, within twice that.
#[derive(Clone)]
pub struct EtcdStore {
    handle: Arc<Handle>,
}

/// What the store's users hold and its watches do not.
struct Handle {
    shared: Arc<Shared>,
    newest: Newest,
    /// Dropped with the last user; watches end then.
    open: tokio::sync::watch::Sender<()>,
}

/// What users and watches share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) etcd: Endpoints,
    pub(crate) keys: Keys,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) leases: Leases,
    pub(crate) watch_buffer: usize,
}

impl EtcdStore {
    /// Connects, and reads once to see that etcd answers, has a leader and lets us in. One endpoint that answers is enough;
    /// the others are tried again when they are needed. Call it inside a tokio runtime.
    ///
    /// ```no_run
    /// use wharf_core::clock::SystemClock;
    /// use wharf_store_etcd::{EtcdOptions, EtcdStore};
    /// # async fn f() -> Result<(), wharf_store_etcd::EtcdConnectError> {
    /// let options = EtcdOptions { prefix: "/my-cluster".into(), ..EtcdOptions::new(["http://127.0.0.1:2379"]) };
    /// let store = EtcdStore::connect(options, SystemClock::shared()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`EtcdConnectError`], within about [`EtcdOptions::connect_timeout`].
    pub async fn connect(options: EtcdOptions, clock: Arc<dyn Clock>) -> Result<Self, EtcdConnectError> {
        let shared = Arc::new(connect::connect(options, clock).await?);
        Ok(Self { handle: Arc::new(Handle { shared, newest: Newest::default(), open: tokio::sync::watch::Sender::new(()) }) })
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("etcd", &self.shared().etcd).field("keys", &self.shared().keys).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for EtcdStore {
    fn capabilities(&self) -> StoreCapabilities {
        CAPABILITIES
    }

    async fn revision(&self) -> StoreResult<Revision> {
        let shared = self.handle.shared.clone();
        let request = move || async move { shared.etcd.revision(&shared.keys).await };
        self.handle.newest.read(request).await.map(Revision).map_err(|fault| fault.failed("revision"))
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        list::get(self.shared(), key).await
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        list::list(self.shared(), scope, options).await
    }

    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        commit::commit(self.shared(), transaction).await
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        watch::start(self.handle.shared.clone(), self.handle.open.subscribe(), scope, after).await
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        let shared = self.shared();
        let Ok(revision) = i64::try_from(upto.0) else {
            return Err(StoreError::Future { asked: upto, current: self.revision().await? });
        };
        if revision == 0 {
            return Ok(());
        }
        match shared.etcd.compact(revision).await {
            Ok(()) => Ok(()),
            Err(fault) if fault.is_compacted() => Ok(()),
            Err(fault) if fault.is_future() => Err(StoreError::Future { asked: upto, current: self.revision().await? }),
            Err(fault) => Err(fault.failed("compact")),
        }
    }
}
