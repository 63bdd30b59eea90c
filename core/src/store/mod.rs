//! The storage seam: keys to opaque bytes, with revisions, transactions and watches.

mod fence;
mod metered;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use fence::{Fence, INTERNAL_GROUP};
pub use metered::{Metered, StoreMetrics};

use crate::runtime::{BoxError, Retry};

/// Largest value a store must accept, in bytes (etcd's own request limit is 1.5 MiB; the API's is 3 MiB).
pub const MAX_VALUE: usize = 3 << 20;
/// What a decorator may add to a value, as encryption does: every store also accepts [`MAX_VALUE`] and this many bytes together.
pub const MAX_VALUE_OVERHEAD: usize = 256;
/// Most operations in one transaction (etcd's default).
pub const MAX_OPS: usize = 128;
/// Largest page a store returns at once when the caller names no limit.
pub const MAX_PAGE: usize = 1 << 20;

/// A store-wide revision. Every commit has its own, strictly greater than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A group and a plural resource name; what a collection of objects is stored under.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// API group; empty for core.
    pub group: Arc<str>,
    /// Plural name, lower case.
    pub resource: Arc<str>,
}

impl ResourceId {
    /// A resource of a group.
    pub fn new(group: impl Into<Arc<str>>, resource: impl Into<Arc<str>>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.resource) } else { write!(f, "{}.{}", self.resource, self.group) }
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One object's key. Keys order by resource, then namespace, then name, as lists do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Which collection.
    pub resource: ResourceId,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// A key; `namespace` is empty for cluster-scoped objects.
    pub fn new(resource: ResourceId, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

/// Which keys a list or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Every key of the store.
    All,
    /// Every key of a resource.
    Resource(ResourceId),
    /// Every key of a resource in a namespace.
    Namespace(ResourceId, Arc<str>),
}

impl Scope {
    /// Whether a key is in this scope.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Resource(resource) => key.resource == *resource,
            Self::Namespace(resource, namespace) => key.namespace == *namespace && key.resource == *resource,
        }
    }
}

/// A stored value with its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Key,
    /// Its bytes, exactly as committed.
    pub value: Bytes,
    /// The commit that created it (again, after a delete).
    pub created: Revision,
    /// The commit that last changed it.
    pub modified: Revision,
}

/// What must hold of a key for a transaction to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last changed by this commit.
    Revision(Revision),
}

impl Expect {
    /// Whether it holds of what is there.
    pub fn holds(self, current: Option<&Record>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Revision(revision) => current.is_some_and(|record| record.modified == revision),
        }
    }
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a value.
    Put {
        /// Where.
        key: Key,
        /// What.
        value: Bytes,
        /// Precondition.
        expect: Expect,
    },
    /// Deletes a key. Deleting an absent key with [`Expect::Any`] changes nothing and is no event.
    Delete {
        /// Which.
        key: Key,
        /// Precondition.
        expect: Expect,
    },
    /// Only checks.
    Check {
        /// Which.
        key: Key,
        /// Precondition.
        expect: Expect,
    },
}

impl Op {
    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }
    /// Its precondition.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => *expect,
        }
    }
}

/// Steps that are carried out together or not at all. A key appears at most once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// The steps.
    pub ops: Vec<Op>,
    /// What it puts is deleted by the store after about this long, unless it is written again before; `None` keeps it. A store that
    /// does not declare [`StoreCapabilities::expiry`] refuses one with [`StoreError::Unsupported`].
    pub ttl: Option<Duration>,
}

impl Transaction {
    /// These steps.
    pub fn new(ops: Vec<Op>) -> Self {
        Self { ops, ttl: None }
    }
    /// Creates a key that must be absent.
    pub fn create(key: Key, value: Bytes) -> Self {
        Self::new(vec![Op::Put { key, value, expect: Expect::Absent }])
    }
    /// Replaces a key last changed at `revision`.
    pub fn update(key: Key, value: Bytes, revision: Revision) -> Self {
        Self::new(vec![Op::Put { key, value, expect: Expect::Revision(revision) }])
    }
    /// Deletes a key last changed at `revision`.
    pub fn delete(key: Key, revision: Revision) -> Self {
        Self::new(vec![Op::Delete { key, expect: Expect::Revision(revision) }])
    }
    /// What it puts expires after about this long.
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }
    /// Refuses what no state of a store could accept; for stores to call first.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for more than [`MAX_OPS`] steps, a value over [`MAX_VALUE`] by more than
    /// [`MAX_VALUE_OVERHEAD`], and a key that appears twice;
    /// [`StoreError::Unsupported`] for a time to live where expiry is not offered.
    pub fn validate(&self, capabilities: &StoreCapabilities) -> StoreResult<()> {
        let invalid = |message: String| Err(StoreError::Invalid { message });
        if self.ttl.is_some() && !capabilities.expiry {
            return Err(StoreError::Unsupported { capability: "expiry" });
        }
        if self.ops.len() > MAX_OPS {
            return invalid(format!("{} operations in one transaction: at most {MAX_OPS} are allowed", self.ops.len()));
        }
        for op in &self.ops {
            if let Op::Put { key, value, .. } = op
                && value.len() > MAX_VALUE + MAX_VALUE_OVERHEAD
            {
                return invalid(format!("the value of {key} has {} bytes: at most {MAX_VALUE} are allowed", value.len()));
            }
        }
        if self.ops.len() > 1 {
            let mut seen = HashSet::with_capacity(self.ops.len());
            if let Some(op) = self.ops.iter().find(|op| !seen.insert(op.key())) {
                return invalid(format!("{} appears twice: a key may appear once in a transaction", op.key()));
            }
        }
        Ok(())
    }
}

/// How to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Most records to return; `None` for [`MAX_PAGE`].
    pub limit: Option<usize>,
    /// Start after this key.
    pub after: Option<Key>,
    /// Read the state as of this revision; `None` for the newest.
    pub at: Option<Revision>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Records in key order.
    pub records: Vec<Record>,
    /// The revision that the page shows. Pages of one list share it: pass it as [`ListOptions::at`].
    pub revision: Revision,
    /// Whether records remain after the last.
    pub more: bool,
}

/// What happened to a key in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written. `record.created == record.modified` tells a creation.
    Put {
        /// As written.
        record: Record,
        /// What it replaced.
        previous: Option<Record>,
    },
    /// It was deleted.
    Delete {
        /// What was there.
        previous: Record,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { record, .. } => &record.key,
            Self::Delete { previous } => &previous.key,
        }
    }
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one commit that are in scope, never split.
    Commit {
        /// The commit.
        revision: Revision,
        /// Its changes in scope, at least one.
        changes: Arc<[Change]>,
    },
    /// Every event up to and including this revision has been yielded.
    Progress(Revision),
}

/// A watch. It ends only after an error item, or when the store closes.
pub type WatchStream = BoxStream<'static, Result<WatchItem, StoreError>>;

/// What a store offers beyond the required. The conformance kit holds it to what it declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// An acknowledged commit survives the machine.
    pub durable: bool,
    /// [`ListOptions::at`] reads the past, back to the compaction point.
    pub history: bool,
    /// [`Transaction::ttl`] is heeded: what expires is deleted by a commit of the store's own.
    pub expiry: bool,
    /// Other processes may use the same data at the same time. What must be done by one of them alone needs an election then.
    pub shared: bool,
}

impl StoreCapabilities {
    /// None of them.
    pub const fn none() -> Self {
        Self { durable: false, history: false, expiry: false, shared: false }
    }
    /// With these, and without expiry.
    pub const fn with(durable: bool, history: bool) -> Self {
        Self { durable, history, expiry: false, shared: false }
    }
    /// The same with expiry or without.
    pub const fn expiry(self, expiry: bool) -> Self {
        Self { expiry, ..self }
    }
    /// The same for a store that other processes may use too, or for one of this process alone.
    pub const fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }
}

/// What a store call can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A precondition did not hold; nothing was changed.
    #[error("precondition {expect:?} failed on {key}")]
    Conflict {
        /// The first key whose precondition failed, in the order of the transaction.
        key: Key,
        /// What was expected.
        expect: Expect,
        /// What is there.
        current: Option<Box<Record>>,
    },
    /// The revision asked for has been compacted, or the watcher fell behind; list again.
    #[error("revision is too old: compacted at {compacted}")]
    Expired {
        /// History up to here is gone.
        compacted: Revision,
    },
    /// The revision asked for is yet to come.
    #[error("revision {asked} is in the future: the store is at {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The transaction is malformed or too large; nothing was changed.
    #[error("invalid transaction: {message}")]
    Invalid {
        /// What is wrong and what is allowed.
        message: String,
    },
    /// Whether the commit took place is not known; read before trying again.
    #[error("the outcome of the commit is unknown: {source}")]
    OutcomeUnknown {
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The store does not offer this; see [`StoreCapabilities`].
    #[error("this store does not support {capability}")]
    Unsupported {
        /// The capability that is missing.
        capability: &'static str,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// Anything else.
    #[error("{op} failed: {source}")]
    Backend {
        /// The call that failed.
        op: &'static str,
        /// Whether trying again can help.
        retry: Retry,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

/// A store call's result.
pub type StoreResult<T> = Result<T, StoreError>;

/// Keys to opaque bytes with revisions, transactions and watches.
///
/// # Contract
/// - **Revisions** are store-wide and strictly increasing, one per commit that changed something. A commit
///   that changes nothing (only checks, or deletes of the absent) returns the current revision.
/// - **Commit** is atomic: every precondition is checked against the state before it, then every step is
///   carried out, or none. Acknowledged means durable for a store whose capabilities say so.
/// - **List then watch.** A list at R followed by a watch after R misses nothing and repeats nothing.
///   `after` is exclusive. Records are in key order.
/// - **Watch** yields commits in order of revision, never one twice, never one split. A watcher that is too
///   slow or starts too early gets [`StoreError::Expired`] and ends: never a silent gap. A watch after a revision
///   that is yet to come yields nothing at or before that revision. Progress is announced only once every event up
///   to it has been yielded. One slow watcher does not stall others, nor commits.
/// - **Expiry**, where declared, deletes as any other commit does: it has a revision of its own and is seen by watches. It comes
///   after the time named, never before; a store that is closed meanwhile expires what is overdue once it is open again.
/// - **Compaction** forgets history up to and including a revision, never a current value. Reading at or watching
///   after a revision below it is `Expired`. Compacting below an earlier compaction succeeds and changes nothing.
/// - **Meaning lives above**: labels, uids, finalizers and defaulting are not a store's business.
///
/// # Cancellation
/// A dropped read has no effect. A dropped commit may or may not take place: the caller reads to know.
///
/// # Errors
/// [`StoreError`]. A conflict is decided on the state before the transaction.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Run `wharf_conformance::store_suite!` over your harness. `wharf-store-memory` is the specification: where these
/// words leave room, it decides.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug + 'static {
    /// What this store offers.
    fn capabilities(&self) -> StoreCapabilities;
    /// The revision of the newest commit, linearizable with every commit that was acknowledged before the call.
    async fn revision(&self) -> StoreResult<Revision>;
    /// One record of the newest state.
    async fn get(&self, key: &Key) -> StoreResult<Option<Record>>;
    /// A page of the records in scope.
    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing>;
    /// Carries out a transaction; returns its revision.
    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision>;
    /// Everything in scope that is committed after a revision.
    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream>;
    /// Forgets history up to and including a revision.
    async fn compact(&self, upto: Revision) -> StoreResult<()>;
}

/// A shared store.
pub type SharedStore = Arc<dyn ObjectStore>;
