//! Leases: what puts are attached to that shall expire. As Kubernetes does, writes of about the same time to live share one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::Shared;
use crate::fault::EtcdFault;

/// Share of a time to live that a lease lasts longer, to be used by later writes too. Kubernetes uses the same.
const REUSE_SHARE: u32 = 10;
/// Longest that it lasts longer. Kubernetes uses the same.
pub(crate) const REUSE_MOST: Duration = Duration::from_secs(60);
/// Most puts of one lease, all deleted in one commit when it ends. Kubernetes uses the same.
pub(crate) const MAX_ATTACHED: usize = 1_000;
/// Most different times to live whose leases are remembered; more only share less.
const MAX_KINDS: usize = 16;
/// etcd's longest, in seconds: some 285 years.
const MAX_SECONDS: u64 = 9_000_000_000;

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    id: i64,
    /// etcd keeps it at least until then, by the monotonic clock.
    until: Duration,
    attached: usize,
}

/// The leases that later writes may still share, by the seconds that they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    kinds: Mutex<BTreeMap<u64, Lease>>,
}

/// Seconds to ask for: never less than the time to live, and some to share.
fn seconds(ttl: Duration) -> u64 {
    let shared = ttl.saturating_add((ttl / REUSE_SHARE).min(REUSE_MOST));
    shared.as_secs().saturating_add(u64::from(shared.subsec_nanos() > 0)).clamp(1, MAX_SECONDS)
}

fn usable(lease: &Lease, now: Duration, ttl: Duration, puts: usize) -> bool {
    // Longer than etcd grants cannot be had.
    let wanted = ttl.min(Duration::from_secs(MAX_SECONDS) / 2);
    lease.until.saturating_sub(now) >= wanted && lease.attached + puts <= MAX_ATTACHED
}

/// A lease for this many puts that ends no sooner than a time to live from now.
pub(crate) async fn lease(shared: &Shared, ttl: Duration, puts: usize) -> Result<i64, EtcdFault> {
    let timeout = shared.etcd.timeout();
    // Who waits here waits for another's grant, of which there is one at a time.
    let mut kinds = tokio::select! {
        kinds = shared.leases.kinds.lock() => kinds,
        () = shared.clock.sleep(timeout) => {
            return Err(EtcdFault::Silent { endpoint: format!("{:?}", shared.etcd), within: timeout });
        }
    };
    let seconds = seconds(ttl);
    let now = shared.clock.monotonic();
    if let Some(lease) = kinds.get_mut(&seconds).filter(|lease| usable(lease, now, ttl, puts)) {
        lease.attached += puts;
        return Ok(lease.id);
    }
    let (id, granted) = shared.etcd.grant(seconds.cast_signed()).await?;
    kinds.insert(seconds, Lease { id, until: now.saturating_add(granted), attached: puts });
    if kinds.len() > MAX_KINDS
        && let Some(first) = kinds.iter().min_by_key(|(_, lease)| lease.until).map(|(kind, _)| *kind)
    {
        kinds.remove(&first);
    }
    Ok(id)
}

/// Forgets a lease that etcd does not know any more.
pub(crate) async fn forget(shared: &Shared, id: i64) {
    shared.leases.kinds.lock().await.retain(|_, lease| lease.id != id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_the_time_to_live_by_a_share_of_it() {
        let second = Duration::from_secs(1);
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(second), 2);
        assert_eq!(seconds(second * 100), 110);
        assert_eq!(seconds(Duration::from_millis(100_001)), 111);
        assert_eq!(seconds(second * 3600), 3660);
        assert_eq!(seconds(Duration::MAX), MAX_SECONDS);
    }

    #[test]
    fn a_lease_is_shared_as_long_as_it_lasts_long_enough_and_is_not_full() {
        let second = Duration::from_secs(1);
        let lease = Lease { id: 1, until: second * 110, attached: 990 };
        assert!(usable(&lease, second * 10, second * 100, 10));
        assert!(!usable(&lease, second * 11, second * 100, 10), "it would end too soon");
        assert!(!usable(&lease, second * 10, second * 100, 11), "it would have too many");
        assert!(!usable(&lease, second * 200, second, 1));
    }
}
