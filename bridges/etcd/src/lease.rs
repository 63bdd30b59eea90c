//! Leases. A lease is a record of the store from its grant to its end, so that it survives the bridge; how long it still has is kept in
//! memory alone, as in etcd: keeping one alive writes nothing, and a bridge that starts gives every lease its whole time again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;
use wharf_core::clock::Clock;
use wharf_core::store::{Expect, ListOptions, MAX_OPS, Op, Record, Revision, StoreError, Transaction};

use crate::entry::signed;
use crate::locks::Touches;
use crate::{Shared, fault};

/// Shortest time to live, in seconds; etcd's with its default election timeout.
pub const MIN_TTL: i64 = 2;
/// Longest time to live that is granted, in seconds; etcd's.
pub const MAX_TTL: i64 = 9_000_000_000;
/// Most leases.
pub const MAX_LEASES: usize = 1 << 20;
/// Between two attempts to end a lease whose time is over.
const RETRY: Duration = Duration::from_secs(1);
/// How often the end of a lease is tried because another writer came between.
const ATTEMPTS: usize = 16;
/// How often an unused number is looked for.
const NUMBERS: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: i64,
    /// On the clock's monotonic time.
    ends: Duration,
}

/// What is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remaining {
    pub(crate) granted: i64,
    pub(crate) left: i64,
}

pub(crate) struct Leases {
    clock: Arc<dyn Clock>,
    held: Mutex<BTreeMap<i64, Lease>>,
    changed: Notify,
}

impl Leases {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, held: Mutex::default(), changed: Notify::new() }
    }

    pub(crate) fn is_held(&self, id: i64) -> bool {
        self.held.lock().contains_key(&id)
    }

    pub(crate) fn all(&self) -> Vec<i64> {
        self.held.lock().keys().copied().collect()
    }

    fn set(&self, id: i64, ttl: i64) {
        let ends = self.clock.monotonic().saturating_add(seconds(ttl));
        self.held.lock().insert(id, Lease { ttl, ends });
        self.changed.notify_one();
    }

    fn forget(&self, id: i64) {
        self.held.lock().remove(&id);
    }

    /// Gives a lease its whole time again; `None` if its time is over, or it is not known.
    pub(crate) fn keep_alive(&self, id: i64) -> Option<i64> {
        let now = self.clock.monotonic();
        let mut held = self.held.lock();
        let lease = held.get_mut(&id).filter(|lease| lease.ends > now)?;
        lease.ends = now.saturating_add(seconds(lease.ttl));
        Some(lease.ttl)
    }

    pub(crate) fn remaining(&self, id: i64) -> Option<Remaining> {
        let now = self.clock.monotonic();
        let lease = *self.held.lock().get(&id)?;
        let left = lease.ends.saturating_sub(now).as_secs();
        Some(Remaining { granted: lease.ttl, left: i64::try_from(left).unwrap_or(i64::MAX) })
    }

    fn is_over(&self, id: i64) -> bool {
        let now = self.clock.monotonic();
        self.held.lock().get(&id).is_some_and(|lease| lease.ends <= now)
    }

    /// The leases whose time is over, and when the next one's is.
    fn over(&self) -> (Vec<i64>, Option<Duration>) {
        let now = self.clock.monotonic();
        let held = self.held.lock();
        let over = held.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        let next = held.values().map(|lease| lease.ends).filter(|ends| *ends > now).min();
        (over, next.map(|ends| ends.saturating_sub(now)))
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

/// Takes up the leases that the store has, each with its whole time.
pub(crate) async fn load(shared: &Shared) -> Result<(), Status> {
    let mut options = ListOptions::default();
    loop {
        let listing = shared.store.list(&shared.layout.leases(), &options).await.map_err(fault::of)?;
        for record in &listing.records {
            let (id, ttl) = read(shared, record)?;
            shared.leases.set(id, ttl);
        }
        match listing.records.last() {
            Some(last) if listing.more => options.after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

/// The number of a lease, and its time to live in seconds.
pub(crate) fn read(shared: &Shared, record: &Record) -> Result<(i64, i64), Status> {
    let ttl = <[u8; 8]>::try_from(record.value.as_ref()).ok().map(i64::from_be_bytes);
    let lease = shared.layout.lease_id(&record.key).zip(ttl.filter(|ttl| *ttl > 0));
    lease.ok_or_else(|| fault::foreign_record(&record.key.name))
}

/// What was granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted {
    pub(crate) id: i64,
    pub(crate) ttl: i64,
    pub(crate) revision: i64,
}

/// Grants a lease: of this number, or of any if it is 0.
pub(crate) async fn grant(shared: &Shared, id: i64, ttl: i64) -> Result<Granted, Status> {
    if ttl > MAX_TTL {
        return Err(fault::lease_ttl_too_large());
    }
    let ttl = ttl.max(MIN_TTL);
    if shared.leases.held.lock().len() >= MAX_LEASES {
        return Err(fault::too_many_requests());
    }
    for _ in 0..NUMBERS {
        let number = if id == 0 { rand::random_range(1..i64::MAX) } else { id };
        let value = Bytes::copy_from_slice(&ttl.to_be_bytes());
        match shared.store.commit(Transaction::create(shared.layout.lease(number), value)).await {
            Ok(revision) => {
                shared.leases.set(number, ttl);
                return Ok(Granted { id: number, ttl, revision: signed(revision) });
            }
            Err(StoreError::Conflict { .. }) if id == 0 => {}
            Err(StoreError::Conflict { .. }) => return Err(fault::lease_exists()),
            Err(error) => return Err(fault::of(error)),
        }
    }
    Err(fault::too_many_requests())
}

/// Ends a lease and deletes its keys: in one commit, or in several if one does not hold them, the lease itself in the last.
pub(crate) async fn revoke(shared: &Shared, id: i64) -> Result<i64, Status> {
    let _held = shared.locks.hold(&Touches::Ranges).await;
    if !shared.leases.is_held(id) {
        return Err(fault::lease_not_found());
    }
    end(shared, id).await
}

async fn end(shared: &Shared, id: i64) -> Result<i64, Status> {
    for _ in 0..ATTEMPTS {
        let current = shared.store.revision().await.map_err(fault::of)?;
        shared.hub.reached(shared, signed(current)).await?;
        let attached = shared.hub.attached(id);
        let deletes = attached.into_iter().map(|(key, modified)| Op::Delete {
            key: shared.layout.key(&key),
            expect: Expect::Revision(Revision(modified.unsigned_abs())),
        });
        let mut ops: Vec<Op> = deletes.collect();
        ops.push(Op::Delete { key: shared.layout.lease(id), expect: Expect::Any });
        let mut outcome = Ok(current);
        for part in ops.chunks(MAX_OPS) {
            outcome = shared.store.commit(Transaction::new(part.to_vec())).await;
            if outcome.is_err() {
                break;
            }
        }
        match outcome {
            Ok(revision) => {
                shared.leases.forget(id);
                return Ok(signed(revision));
            }
            // Somebody else writes to the bridge's resource.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(fault::of(error)),
        }
    }
    Err(fault::too_many_requests())
}

/// Ends leases whose time is over, for as long as the bridge is there.
pub(crate) async fn expire(shared: Arc<Shared>) {
    loop {
        let (over, next) = shared.leases.over();
        let mut failed = false;
        for id in over {
            let _held = shared.locks.hold(&Touches::Ranges).await;
            // It may have been kept alive, or revoked, while this waited.
            if shared.leases.is_over(id)
                && let Err(status) = end(&shared, id).await
            {
                tracing::warn!("lease {id:x} is over and cannot be ended yet: {status}");
                failed = true;
            }
        }
        let pause = if failed { Some(next.map_or(RETRY, |next| next.min(RETRY))) } else { next };
        let sleep = async {
            match pause {
                Some(pause) => shared.clock.sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = shared.leases.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wharf_core::clock::ManualClock;

    use super::*;

    #[test]
    fn a_lease_ends_after_its_time_and_not_before() {
        let clock = ManualClock::default();
        let leases = Leases::new(Arc::new(clock.clone()));
        leases.set(5, 10);
        leases.set(6, 30);
        assert_eq!(leases.over(), (vec![], Some(Duration::from_secs(10))));
        clock.advance(Duration::from_millis(9_999));
        assert_eq!(leases.over().0, [] as [i64; 0]);
        assert_eq!(leases.remaining(5), Some(Remaining { granted: 10, left: 0 }));
        assert_eq!(leases.keep_alive(5), Some(10));
        clock.advance(Duration::from_secs(10));
        assert_eq!(leases.over().0, [5]);
        // Too late, although nobody has ended it yet.
        assert_eq!(leases.keep_alive(5), None);
        assert!(leases.is_held(5));
        leases.forget(5);
        assert_eq!((leases.keep_alive(5), leases.remaining(5), leases.all()), (None, None, vec![6]));
    }
}
