//! What a `Lease` says about an election.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::object::ObjectRef;

/// The seconds that a released lease holds, as client-go writes them.
const RELEASED_SECONDS: i32 = 1;

/// What a `Lease` says, whatever its metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseRecord {
    spec: LeaseSpec,
}

impl LeaseRecord {
    /// What is in a `Lease`.
    pub fn of(lease: &Lease) -> Self {
        Self { spec: lease.spec.clone().unwrap_or_default() }
    }
    /// Who holds it; empty if nobody does.
    pub fn holder(&self) -> &str {
        self.spec.holder_identity.as_deref().unwrap_or_default()
    }
    /// How often it has changed hands.
    pub fn transitions(&self) -> i32 {
        self.spec.lease_transitions.unwrap_or(0)
    }
    /// How long it holds after it was renewed, as its holder says.
    pub fn duration(&self) -> Option<Duration> {
        self.spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs)
    }
}

/// The `Lease` as its new holder writes it.
pub(super) fn acquired(found: Option<&Lease>, at: &ObjectRef, identity: &str, duration: Duration, now: Timestamp) -> Lease {
    let mut lease = found.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { namespace: Some(at.namespace.to_string()), name: Some(at.name.to_string()), ..ObjectMeta::default() },
        ..Lease::default()
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    // It counts holders: the first makes it 0, and who comes back after a loss is another, for what it wrote before must not count.
    spec.lease_transitions = Some(if found.is_some() { spec.lease_transitions.unwrap_or(0).saturating_add(1) } else { 0 });
    spec.holder_identity = Some(identity.to_owned());
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    spec.acquire_time = Some(MicroTime(now));
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// The same, renewed.
pub(super) fn renewed(lease: &Lease, duration: Duration, now: Timestamp) -> Lease {
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// The same, free for the next.
pub(super) fn released(lease: &Lease, now: Timestamp) -> Lease {
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(RELEASED_SECONDS);
    spec.acquire_time = Some(MicroTime(now));
    spec.renew_time = Some(MicroTime(now));
    lease
}
