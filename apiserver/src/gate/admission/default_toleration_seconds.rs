//! Pods stay on a node that is lost for five minutes, unless they say otherwise.

use async_trait::async_trait;
use serde_json::{Value, json};
use wharf_core::api::ApiError;

use super::creates_pod;
use crate::rest::admission::{Admission, AdmissionRequest, Warnings};

/// How long, in seconds.
const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Adds tolerations of the taints of lost nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultTolerationSeconds;

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |name: &str| toleration[name].as_str().unwrap_or_default();
    let key = text("key");
    (key == taint || (key.is_empty() && text("operator") == "Exists")) && matches!(text("effect"), "" | "NoExecute")
}

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        creates_pod(request)
    }
    async fn admit(&self, _: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(Warnings::new()) };
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Value::Array(tolerations) = tolerations {
            for taint in TAINTS {
                if !tolerations.iter().any(|t| tolerates(t, taint)) {
                    tolerations.push(json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
                }
            }
        }
        Ok(Warnings::new())
    }
    async fn validate(&self, _: &AdmissionRequest, _: &Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
}
