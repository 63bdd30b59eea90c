//! Whether an informer has caught up with what a controller wrote itself.
//!
//! A decision made from a cache that does not yet show the controller's own creations would create them again.
//! Revisions are store-wide and a watch is in order, so the cache shows a write once it has shown anything as new.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::Resource;
use parking_lot::Mutex;
use wharf_core::clock::Clock;
use wharf_core::informer::ObjectChange;
use wharf_core::object::ObjectRef;

/// How long a write may stay unseen before the controller goes on without having seen it.
pub const EXPECTATION_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How soon to look again at a key whose writes are not seen yet, should the change itself not trigger it.
pub const EXPECTATION_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Expected {
    revision: u64,
    since: Duration,
}

/// What was written per key, and how far the informer of the written resource has come. One per controller and resource.
#[derive(Debug, Default)]
pub struct Freshness {
    seen: AtomicU64,
    expected: Mutex<HashMap<ObjectRef, Expected>>,
}

impl Freshness {
    /// Shared, for the closure that observes and the reconcile that asks.
    pub fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// A change that the informer told of; its cache shows it already.
    pub fn observe(&self, change: &ObjectChange) {
        self.seen.fetch_max(change.latest().revision().0, Ordering::AcqRel);
    }

    /// An object was written on behalf of a key.
    pub fn wrote<K: Resource>(&self, clock: &dyn Clock, key: &ObjectRef, object: &K) {
        let Some(revision) = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()) else { return };
        if revision <= self.seen.load(Ordering::Acquire) {
            return;
        }
        let since = clock.monotonic();
        let mut expected = self.expected.lock();
        let entry = expected.entry(key.clone()).or_insert(Expected { revision, since });
        entry.revision = entry.revision.max(revision);
        entry.since = since;
    }

    /// Whether the cache shows everything that was written on behalf of a key.
    pub fn is_fresh(&self, clock: &dyn Clock, key: &ObjectRef) -> bool {
        let mut expected = self.expected.lock();
        let Some(entry) = expected.get(key) else { return true };
        let seen = entry.revision <= self.seen.load(Ordering::Acquire);
        let late = clock.monotonic().saturating_sub(entry.since) > EXPECTATION_TIMEOUT;
        if late && !seen {
            tracing::warn!(%key, "a write was not seen in time; going on without");
        }
        if seen || late {
            expected.remove(key);
        }
        seen || late
    }

    /// The key is gone.
    pub fn forget(&self, key: &ObjectRef) {
        self.expected.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use wharf_core::clock::ManualClock;
    use wharf_core::object::Object;
    use wharf_core::store::{Key, ResourceId, Revision};

    fn change(revision: u64) -> ObjectChange {
        let key = Key::new(ResourceId::new("", "pods"), "ns", "other");
        let object = Object::from_served(key, Revision(revision), "{}".into());
        ObjectChange { old: None, new: Some(Arc::new(object)) }
    }

    fn written(revision: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.resource_version = Some(revision.into());
        pod
    }

    #[test]
    fn a_write_is_awaited_until_the_informer_passed_it() {
        let (clock, freshness, key) = (ManualClock::default(), Freshness::default(), ObjectRef::new("ns", "a"));
        freshness.wrote(&clock, &key, &written("7"));
        assert!(!freshness.is_fresh(&clock, &key));
        freshness.observe(&change(6));
        assert!(!freshness.is_fresh(&clock, &key));
        freshness.observe(&change(9));
        assert!(freshness.is_fresh(&clock, &key));
        freshness.wrote(&clock, &key, &written("8"));
        assert!(freshness.is_fresh(&clock, &key), "an event that came before the answer counts");
    }

    #[test]
    fn a_write_that_is_never_seen_blocks_for_a_bounded_time() {
        let (clock, freshness, key) = (ManualClock::default(), Freshness::default(), ObjectRef::new("ns", "a"));
        freshness.wrote(&clock, &key, &written("7"));
        clock.advance(EXPECTATION_TIMEOUT + Duration::from_secs(1));
        assert!(freshness.is_fresh(&clock, &key));
    }
}
