//! Leader election by `coordination.k8s.io/v1` `Lease`, as client-go's `leaderelection` does it, and with a fence.
//!
//! What to do is decided by [`decide`], a pure function of what was seen and when; [`LeaderElector`] carries it out; what leads works
//! under a [`Leadership`], whose [`Leadership::guard`] refuses every write once leadership is lost.
//!
//! Time is this process's own: a lease counts from when a change of it was seen here, never by the timestamps in it.

mod decide;
mod elector;
mod guard;
mod leadership;
mod metrics;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use decide::{Lost, Seen, Step, Term, decide};
pub use elector::LeaderElector;
pub use leadership::Leadership;
pub use metrics::ElectionMetrics;
pub use record::LeaseRecord;

use crate::events::EventRecorder;
use crate::object::ObjectRef;

/// How much longer than the retry period a candidate may wait, as a factor of it; client-go's `JitterFactor`.
pub const JITTER_FACTOR: f64 = 1.2;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease holds after its last renewal was seen. Whole seconds, as a `Lease` has them.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up. Its work has ended before others may take over.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
}

impl Default for Timing {
    /// Those of Kubernetes' components: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self { lease_duration: Duration::from_secs(15), renew_deadline: Duration::from_secs(10), retry_period: Duration::from_secs(2) }
    }
}

impl Timing {
    /// Longest that one request may take: two fit into the renew deadline.
    pub fn request(&self) -> Duration {
        self.renew_deadline / 2
    }

    fn validate(&self) -> Result<(), ElectionError> {
        let refuse = |message| Err(ElectionError::Timing { message });
        if self.retry_period.is_zero() {
            return refuse("the retry period must be greater than zero");
        }
        if self.renew_deadline <= self.retry_period.mul_f64(JITTER_FACTOR) {
            return refuse("the renew deadline must be greater than 1.2 times the retry period");
        }
        if self.lease_duration <= self.renew_deadline {
            return refuse("the lease duration must be greater than the renew deadline");
        }
        if self.lease_duration.subsec_nanos() != 0 || self.lease_duration.as_secs() > i32::MAX as u64 {
            return refuse("the lease duration must be whole seconds, and fit into 32 bits");
        }
        Ok(())
    }
}

/// Why an elector cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElectionError {
    /// Its times do not go together.
    #[error("leader election cannot work with these times: {message}")]
    Timing {
        /// What would have to hold.
        message: &'static str,
    },
    /// It has no name.
    #[error("a candidate needs an identity that no other has")]
    Identity,
}

/// What an elector competes for, and as whom.
#[derive(Clone)]
pub struct ElectionOptions {
    /// The `Lease`; its namespace must exist.
    pub lease: ObjectRef,
    /// Who competes. No other candidate may have this identity, not even an earlier process on this machine.
    pub identity: String,
    /// How long things may take.
    pub timing: Timing,
    /// Who tells people that the leader changes.
    pub events: Option<EventRecorder>,
    /// What is measured.
    pub metrics: Option<ElectionMetrics>,
    /// Where jitter comes from: answers a number in 0..1.
    pub random: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl ElectionOptions {
    /// The lease and who competes for it, with Kubernetes' times.
    pub fn new(lease: ObjectRef, identity: impl Into<String>) -> Self {
        let random = Arc::new(rand::random::<f64>);
        Self { lease, identity: identity.into(), timing: Timing::default(), events: None, metrics: None, random }
    }
}

impl fmt::Debug for ElectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ElectionOptions")
            .field("lease", &self.lease)
            .field("identity", &self.identity)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
