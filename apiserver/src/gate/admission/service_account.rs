//! Every pod has a service account, and its token in the usual place.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::RngExt;
use serde_json::{Value, json};
use wharf_core::api::{ApiError, ApiExt, SharedApi, Target};
use wharf_core::object::ObjectRef;

use super::creates_pod;
use crate::rest::admission::{Admission, AdmissionRequest, Warnings};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Life of the token that is mounted, in seconds.
const TOKEN_SECONDS: i64 = 3607;
/// The account that every namespace has.
const DEFAULT: &str = "default";
/// A pod that a node reports of itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Sets `serviceAccountName`, checks that it exists and mounts its token, the CA and the namespace.
#[derive(Debug, Clone)]
pub struct ServiceAccountPlugin {
    api: SharedApi,
}

impl ServiceAccountPlugin {
    /// Reads service accounts from `api`.
    pub fn new(api: SharedApi) -> Self {
        Self { api }
    }

    /// The account. A namespace may be younger than its default account, which is made here if nobody else was faster: a pod
    /// need not wait for the controller that sees to it.
    async fn account(&self, namespace: &str, name: &str, dry_run: bool) -> Result<Arc<ServiceAccount>, ApiError> {
        let reference = ObjectRef::new(namespace, name);
        if let Some(account) = self.api.get_opt::<ServiceAccount>(&reference).await? {
            return Ok(account);
        }
        let metadata = ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() };
        let fresh = ServiceAccount { metadata, ..ServiceAccount::default() };
        if name == DEFAULT && dry_run {
            return Ok(Arc::new(fresh));
        }
        if name == DEFAULT {
            match self.api.create(&fresh).await {
                Err(error) if error.is_already_exists() => {}
                made => return made,
            }
        }
        Ok(self.api.get(&Target::of::<ServiceAccount>(reference)).await?.decode()?)
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Mounts the token into every container that mounts nothing there; true if any got it.
fn mount(spec: &mut serde_json::Map<String, Value>, volume: &str) -> bool {
    let mut any = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let Value::Array(mounts) = container.entry("volumeMounts").or_insert_with(|| json!([])) else { continue };
            if !mounts.iter().any(|m| m["mountPath"] == MOUNT_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                any = true;
            }
        }
    }
    any
}

#[async_trait]
impl Admission for ServiceAccountPlugin {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        creates_pod(request)
    }
    async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        if object["metadata"]["annotations"].get(MIRROR).is_some() {
            return Ok(Warnings::new());
        }
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(Warnings::new()) };
        let given = |name: &str| spec.get(name).and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned);
        let name = given("serviceAccountName").or_else(|| given("serviceAccount")).unwrap_or_else(|| DEFAULT.into());
        spec.insert("serviceAccountName".into(), name.as_str().into());
        spec.insert("serviceAccount".into(), name.as_str().into());
        let account = match self.account(&request.namespace, &name, request.dry_run).await {
            Ok(account) => account,
            Err(error) if error.is_not_found() => {
                let why = format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", request.namespace);
                return Err(ApiError::status(403, "Forbidden", format!("pods {:?} is forbidden: {why}", request.name)));
            }
            Err(error) => return Err(error),
        };
        let automount =
            spec.get("automountServiceAccountToken").and_then(Value::as_bool).or(account.automount_service_account_token).unwrap_or(true);
        if automount {
            let suffix: String = (0..5).map(|_| char::from(SUFFIX[rand::rng().random_range(0..SUFFIX.len())])).collect();
            let name = format!("kube-api-access-{suffix}");
            if mount(spec, &name)
                && let Value::Array(volumes) = spec.entry("volumes").or_insert_with(|| json!([]))
            {
                volumes.push(volume(&name));
            }
        }
        if spec.get("imagePullSecrets").is_none_or(|s| s.as_array().is_some_and(Vec::is_empty))
            && let Some(secrets) = account.image_pull_secrets.as_ref().filter(|s| !s.is_empty())
        {
            let secrets: Vec<Value> = secrets.iter().map(|s| json!({"name": s.name})).collect();
            spec.insert("imagePullSecrets".into(), secrets.into());
        }
        Ok(Warnings::new())
    }
    async fn validate(&self, _: &AdmissionRequest, _: &Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_mounts_something_there_keeps_it() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]});
        let spec = spec.as_object_mut().unwrap();
        assert!(mount(spec, "v"));
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "v");
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert!(!mount(spec, "v"), "once is enough");
    }
}
