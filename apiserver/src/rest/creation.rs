//! Updates that create what is not there: Kubernetes' `AllowCreateOnUpdate`.

use crate::request::RequestInfo;

/// Says of a request, as an extension, that its user may create what it would update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MayCreate;

/// Whether a kind is created by an update of what is not there.
pub(crate) fn is_allowed(info: &RequestInfo) -> bool {
    info.is_resource
        && info.subresource.is_empty()
        && match info.group.as_str() {
            "" => matches!(info.resource.as_str(), "endpoints" | "events" | "limitranges" | "services"),
            "coordination.k8s.io" => info.resource == "leases",
            "events.k8s.io" | "rbac.authorization.k8s.io" => true,
            _ => false,
        }
}
