//! Who leads, as Kubernetes' components measure it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: String,
}

/// `leader_election_master_status`, for all elections of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ElectionMetrics {
    status: Family<Name, Gauge>,
}

impl ElectionMetrics {
    /// Registered in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self { status: Family::default() };
        metrics.register(|registry| {
            let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease";
            registry.register("leader_election_master_status", help, this.status.clone());
        });
        this
    }

    pub(super) fn set(&self, lease: &str, leads: bool) {
        self.status.get_or_create(&Name { name: lease.to_owned() }).set(leads.into());
    }
}
