//! Admission plugins.

mod conditions;
mod configured;
mod default_toleration_seconds;
mod matching;
mod node_restriction;
mod priority;
mod rbac_escalation;
mod runtime_class;
mod service_account;
mod webhook;

use std::sync::Arc;

use wharf_core::api::SharedApi;

pub use default_toleration_seconds::DefaultTolerationSeconds;
pub use node_restriction::NodeRestriction;
pub use priority::{Priority, priority_classes};
pub use rbac_escalation::RbacEscalation;
pub use runtime_class::RuntimeClassPlugin;
pub use service_account::ServiceAccountPlugin;
pub(crate) use webhook::{MutatingWebhooks, ValidatingWebhooks};

use super::late::LateLayers;
use crate::rest::admission::{Admission, AdmissionRequest, Operation};

/// The plugins that are on by default, in Kubernetes' order. `api` reads without authorization and may be given late.
pub fn default_plugins(api: SharedApi, layers: LateLayers) -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(NodeRestriction::new(api.clone())),
        Arc::new(ServiceAccountPlugin::new(api.clone())),
        Arc::new(Priority::new(api.clone())),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(RuntimeClassPlugin::new(api)),
        Arc::new(RbacEscalation::new(layers)),
    ]
}

/// Whether a request creates a pod.
fn creates_pod(request: &AdmissionRequest) -> bool {
    request.operation == Operation::Create && request.group.is_empty() && request.resource == "pods" && request.subresource.is_empty()
}
