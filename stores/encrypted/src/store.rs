//! The decorator.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Change, Key, ListOptions, Listing, MAX_VALUE, ObjectStore, Op, Record, ResourceId, Revision, Scope, SharedStore, StoreCapabilities,
    StoreError, StoreResult, Transaction, WatchItem, WatchStream,
};

use crate::envelope;
use crate::error::EncryptionError;
use crate::key_ring::KeyRing;

/// The resource of Secrets.
pub fn secrets() -> ResourceId {
    ResourceId::new("", "secrets")
}

/// What the store and its watches share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inner: SharedStore,
    pub(crate) keys: KeyRing,
    pub(crate) resources: HashSet<ResourceId>,
    refuse_plaintext: bool,
}

/// A store whose values of some resources are encrypted below. Clones share it.
///
/// It is a store like the one below in every other way: same revisions, same capabilities, same cancellation.
///
/// # Errors
/// What the store below returns; for a value that cannot be read, a permanent [`StoreError::Backend`] with an [`EncryptionError`] for a
/// source. See the [crate's page](crate) for lists and watches.
#[derive(Debug, Clone)]
pub struct EncryptedStore {
    pub(crate) shared: Arc<Shared>,
}

impl EncryptedStore {
    /// Encrypts the values of `resources` in `inner`. See [`EncryptedStore::secrets`] for Secrets alone.
    ///
    /// A resource may be left out again: its values are still read, and each is stored in plain text when it is next written.
    pub fn new(inner: SharedStore, keys: KeyRing, resources: impl IntoIterator<Item = ResourceId>) -> Self {
        let shared = Shared { inner, keys, resources: resources.into_iter().collect(), refuse_plaintext: false };
        Self { shared: Arc::new(shared) }
    }
    /// Encrypts the values of Secrets.
    pub fn secrets(inner: SharedStore, keys: KeyRing) -> Self {
        Self::new(inner, keys, [secrets()])
    }
    /// The same over values that are all encrypted: one that is not is an error, not a value from before. For a store that was
    /// encrypted from its first start, or has been [rewritten](EncryptedStore::rewrite).
    pub fn refuse_plaintext(self) -> Self {
        let Shared { inner, keys, resources, .. } = &*self.shared;
        let shared = Shared { inner: inner.clone(), keys: keys.clone(), resources: resources.clone(), refuse_plaintext: true };
        Self { shared: Arc::new(shared) }
    }
    /// The store below.
    pub fn inner(&self) -> &SharedStore {
        &self.shared.inner
    }
    /// The resources whose values are encrypted.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceId> {
        self.shared.resources.iter()
    }
}

/// The error of a call that met a value that cannot be read.
pub(crate) fn unreadable(op: &'static str, error: EncryptionError) -> StoreError {
    StoreError::Backend { op, retry: Retry::Permanent, source: Box::new(error) }
}

impl Shared {
    /// Whether this value of a key is encrypted below, or must be: the resource is named, or it looks as what was when it was.
    fn concerns(&self, key: &Key, value: &[u8]) -> bool {
        self.resources.contains(&key.resource) || value.starts_with(envelope::PREFIX.as_bytes())
    }

    fn concerns_change(&self, change: &Change) -> bool {
        let concerns = |record: &Record| self.concerns(&record.key, &record.value);
        match change {
            Change::Put { record, previous } => concerns(record) || previous.as_ref().is_some_and(concerns),
            Change::Delete { previous } => concerns(previous),
        }
    }

    /// The record with its value as it was written.
    pub(crate) fn open(&self, record: Record) -> Result<Record, EncryptionError> {
        if !self.concerns(&record.key, &record.value) {
            return Ok(record);
        }
        match envelope::open(&self.keys, &record.key, &record.value)? {
            Some(value) => Ok(Record { value, ..record }),
            None if self.refuse_plaintext => Err(EncryptionError::Plaintext { key: record.key }),
            None => Ok(record),
        }
    }

    fn open_change(&self, change: &Change) -> Result<Change, EncryptionError> {
        Ok(match change {
            Change::Put { record, previous } => {
                let previous = previous.clone().map(|p| self.open(p)).transpose()?;
                Change::Put { record: self.open(record.clone())?, previous }
            }
            Change::Delete { previous } => Change::Delete { previous: self.open(previous.clone())? },
        })
    }

    /// A commit's changes, readable; the very same ones where there is nothing to do.
    async fn open_item(&self, item: WatchItem) -> StoreResult<WatchItem> {
        let WatchItem::Commit { revision, changes } = item else { return Ok(item) };
        if !changes.iter().any(|c| self.concerns_change(c)) {
            return Ok(WatchItem::Commit { revision, changes });
        }
        let mut opened = Vec::with_capacity(changes.len());
        for change in changes.iter() {
            match self.open_change(change) {
                Ok(change) => opened.push(change),
                Err(error) => return Err(self.broken(revision, change.key(), error).await),
            }
        }
        Ok(WatchItem::Commit { revision, changes: opened.into() })
    }

    /// What ends a watch that met a value that cannot be read: the error if a list would meet it too. Otherwise the value is history:
    /// the watch is too old for it, and a new list gets past.
    async fn broken(&self, revision: Revision, key: &Key, error: EncryptionError) -> StoreError {
        match self.inner.get(key).await {
            Ok(Some(record)) if self.open(record.clone()).is_err() => unreadable("watch", error),
            Ok(_) => {
                tracing::warn!(%key, %revision, "a watch is told to list again, because a value of the past cannot be read: {error}");
                StoreError::Expired { compacted: revision }
            }
            Err(error) => error,
        }
    }
}

#[async_trait]
impl ObjectStore for EncryptedStore {
    fn capabilities(&self) -> StoreCapabilities {
        self.shared.inner.capabilities()
    }

    async fn revision(&self) -> StoreResult<Revision> {
        self.shared.inner.revision().await
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        let record = self.shared.inner.get(key).await?;
        record.map(|record| self.shared.open(record)).transpose().map_err(|e| unreadable("get", e))
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        let mut listing = self.shared.inner.list(scope, options).await?;
        for record in &mut listing.records {
            if self.shared.concerns(&record.key, &record.value) {
                *record = self.shared.open(record.clone()).map_err(|e| unreadable("list", e))?;
            }
        }
        Ok(listing)
    }

    async fn commit(&self, mut transaction: Transaction) -> StoreResult<Revision> {
        transaction.validate(&self.capabilities())?;
        for op in &mut transaction.ops {
            let Op::Put { key, value, .. } = op else { continue };
            if !self.shared.concerns(key, value) {
                continue;
            }
            if value.len() > MAX_VALUE {
                let message = format!("the value of {key} has {} bytes: at most {MAX_VALUE} are allowed", value.len());
                return Err(StoreError::Invalid { message });
            }
            *value = envelope::seal(&self.shared.keys, key, value).map_err(|e| unreadable("commit", e))?;
        }
        match self.shared.inner.commit(transaction).await {
            Err(StoreError::Conflict { key, expect, current: Some(current) }) => match self.shared.open(*current) {
                Ok(current) => Err(StoreError::Conflict { key, expect, current: Some(Box::new(current)) }),
                // Nothing was changed, and what is there cannot be told.
                Err(error) => Err(unreadable("commit", error)),
            },
            other => other,
        }
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        let stream = self.shared.inner.watch(scope, after).await?;
        // What is being looked at is kept by the stream, so that a dropped `next` loses nothing. After an error it holds nothing.
        let begun = Some((stream, self.shared.clone()));
        Ok(futures::stream::unfold(begun, |running| async move {
            let (mut stream, shared) = running?;
            let item = match stream.next().await? {
                Ok(item) => shared.open_item(item).await,
                Err(error) => Err(error),
            };
            let ended = item.is_err();
            Some((item, (!ended).then_some((stream, shared))))
        })
        .boxed())
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.shared.inner.compact(upto).await
    }
}
