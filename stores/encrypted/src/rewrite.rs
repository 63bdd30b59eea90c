//! Brings every value under the newest key.

use tokio_util::sync::CancellationToken;
use wharf_core::store::{Key, ListOptions, Record, Scope, StoreError, StoreResult, Transaction};

use crate::envelope::{self, Kind};
use crate::error::EncryptionError;
use crate::store::EncryptedStore;

/// Most objects that [`Rewritten::unreadable`] names.
pub const MAX_NAMED: usize = 100;
/// Objects that are read at a time.
const PAGE: usize = 64;
/// How often an object is looked at again that is being written at the same time.
const ATTEMPTS: usize = 16;

/// What a rewrite did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Values that are under the newest key now and were not before.
    pub rewritten: usize,
    /// Values that were under the newest key already.
    pub current: usize,
    /// Objects that were deleted meanwhile.
    pub gone: usize,
    /// Objects that were written again and again meanwhile; a second rewrite finds them.
    pub busy: usize,
    /// Values that cannot be read, and stay as they are.
    pub failed: usize,
    /// The first [`MAX_NAMED`] of them, and why.
    pub unreadable: Vec<(Key, EncryptionError)>,
    /// It was stopped before the end; a second rewrite goes on.
    pub stopped: bool,
}

impl Rewritten {
    /// Whether every value is under the newest key, so that older keys may go. Servers that share the store must have it first too.
    pub fn is_complete(&self) -> bool {
        self.busy == 0 && self.failed == 0 && !self.stopped
    }
}

enum Outcome {
    Rewritten,
    Current,
    Gone,
    Busy,
    Unreadable(EncryptionError),
}

impl EncryptedStore {
    /// Encrypts everything under the newest key: values from before encryption, and those under older keys.
    ///
    /// Each object is a transaction of its own that expects the revision that was read, so nobody's write is lost; its revision changes, as
    /// with any write. What is under the newest key already is left alone, so that it can be done again at any time. A value that was
    /// stored with a time to live is kept for ever by this: do not name resources that expire.
    ///
    /// # Cancellation
    /// Ends after the object at hand when `stop` is cancelled; dropping it is safe too, and loses the counts.
    ///
    /// # Errors
    /// The store's own. A value that cannot be read is counted, named and skipped.
    pub async fn rewrite(&self, stop: &CancellationToken) -> StoreResult<Rewritten> {
        let mut done = Rewritten::default();
        let mut resources: Vec<_> = self.shared.resources.iter().cloned().collect();
        resources.sort();
        for resource in resources {
            let scope = Scope::Resource(resource);
            // Each page is of the newest state: what is created behind it is under the newest key already.
            let mut options = ListOptions { limit: Some(PAGE), ..ListOptions::default() };
            loop {
                let page = self.shared.inner.list(&scope, &options).await?;
                options.after = page.records.last().map(|r| r.key.clone());
                for record in page.records {
                    if stop.is_cancelled() {
                        done.stopped = true;
                        return Ok(done);
                    }
                    let key = record.key.clone();
                    match self.rewrite_one(record).await? {
                        Outcome::Rewritten => done.rewritten += 1,
                        Outcome::Current => done.current += 1,
                        Outcome::Gone => done.gone += 1,
                        Outcome::Busy => done.busy += 1,
                        Outcome::Unreadable(error) => {
                            done.failed += 1;
                            if done.unreadable.len() < MAX_NAMED {
                                done.unreadable.push((key, error));
                            }
                        }
                    }
                }
                if !page.more || options.after.is_none() {
                    break;
                }
            }
        }
        Ok(done)
    }

    async fn rewrite_one(&self, mut record: Record) -> StoreResult<Outcome> {
        let (inner, keys) = (&self.shared.inner, &self.shared.keys);
        let newest = keys.newest();
        for _ in 0..ATTEMPTS {
            // Opened even if it is current: damage is to be found while older backups are still at hand.
            let opened = match envelope::open(keys, &record.key, &record.value) {
                Ok(opened) => opened,
                Err(error) => return Ok(Outcome::Unreadable(error)),
            };
            if envelope::kind(&record.value) == Kind::Under(&newest.id) {
                return Ok(Outcome::Current);
            }
            let value = opened.unwrap_or(record.value);
            let sealed = match envelope::seal(keys, &record.key, &value) {
                Ok(sealed) => sealed,
                Err(error) => return Ok(Outcome::Unreadable(error)),
            };
            match inner.commit(Transaction::update(record.key.clone(), sealed, record.modified)).await {
                Ok(_) => return Ok(Outcome::Rewritten),
                Err(StoreError::Conflict { current: Some(current), .. }) => record = *current,
                Err(StoreError::Conflict { current: None, .. }) => return Ok(Outcome::Gone),
                // It may be there or not: the same check on what is there decides.
                Err(StoreError::OutcomeUnknown { .. }) => match inner.get(&record.key).await? {
                    Some(current) => record = current,
                    None => return Ok(Outcome::Gone),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Busy)
    }
}
