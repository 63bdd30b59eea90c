//! From a pod's `runtimeClassName` to the handler that the runtime knows.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use wharf_core::api::{Api, ApiError, ApiExt};
use wharf_core::object::ObjectRef;

/// Why a pod's handler is not known, in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlerError {
    #[error("runtimeclass.node.k8s.io {0:?} not found")]
    NotFound(String),
    #[error("failed to lookup RuntimeClass {class}: {source}")]
    Lookup {
        class: String,
        #[source]
        source: ApiError,
    },
}

/// The handler of a pod that has no sandbox yet. One that has is asked of its sandbox: the class may be gone by then.
pub(crate) async fn handler(api: &dyn Api, pod: &Pod) -> Result<String, HandlerError> {
    let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.clone()).unwrap_or_default();
    if class.is_empty() {
        return Ok(String::new());
    }
    match api.get_opt::<RuntimeClass>(&ObjectRef::new("", class.as_str())).await {
        Ok(Some(found)) => Ok(found.handler.clone()),
        Ok(None) => Err(HandlerError::NotFound(class)),
        Err(source) => Err(HandlerError::Lookup { class, source }),
    }
}
