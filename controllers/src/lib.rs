//! The built-in controllers of Kubernetes, one module each, and the set of all.
//!
//! Each separates what to do, a pure function of what was read, from doing it, which may be repeated.

pub mod deployment;
pub mod endpointslice;
pub mod freshness;
pub mod garbage;
pub mod namespace;
pub mod node;
pub mod owner;
pub mod podgc;
pub mod pods;
pub mod replicaset;
pub mod resources;
pub mod serviceaccount;

use std::sync::Arc;

use wharf_core::controller::Controller;

/// Every controller that needs nothing but the API. [`serviceaccount::RootCaPublisher`] also needs a certificate.
///
/// Each call makes a new set; two sets must not run in one cluster without leader election.
pub fn all() -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(deployment::DeploymentController::new()),
        Arc::new(replicaset::ReplicaSetController::new()),
        Arc::new(endpointslice::EndpointSliceController::new()),
        Arc::new(namespace::NamespaceController::default()),
        Arc::new(serviceaccount::ServiceAccountController::new()),
        Arc::new(node::NodeLifecycleController::new()),
        Arc::new(podgc::PodGarbageCollector::default()),
        Arc::new(garbage::GarbageCollector::default()),
    ]
}
