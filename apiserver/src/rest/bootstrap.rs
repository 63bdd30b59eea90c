//! What every cluster has from the start.

use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::encode_stored;
use wharf_core::store::{Expect, Key, Op, ResourceId, StoreError, Transaction};

use super::{Registry, service_claims, status};

/// Namespaces that Kubernetes makes itself.
pub const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// How often it is tried again when another API server over the same store does the same.
const ATTEMPTS: usize = 8;

impl Registry {
    /// Creates what every cluster has, and sees to it that what Services hold is claimed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn bootstrap(&self) -> Result<(), ApiError> {
        for attempt in 1.. {
            match self.create_missing().await? {
                // Some of it came into being meanwhile, and the rest was not written.
                Err(StoreError::Conflict { .. }) if attempt < ATTEMPTS => {}
                Err(error) => return Err(status::of_store(error)),
                Ok(()) => break,
            }
        }
        self.repair_claims().await
    }

    async fn create_missing(&self) -> Result<Result<(), StoreError>, ApiError> {
        let mut ops = Vec::new();
        let now = self.now();
        for name in NAMESPACES {
            let key = Key::new(ResourceId::new("", "namespaces"), "", name);
            let value = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            self.absent(key, &value, &mut ops).await?;
        }
        let ip = self.services.ranges().first().to_string();
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now,
                "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
            "status": {"loadBalancer": {}},
        });
        let key = Key::new(ResourceId::new("", "services"), "default", "kubernetes");
        let before = ops.len();
        self.absent(key.clone(), &service, &mut ops).await?;
        if ops.len() > before {
            ops.push(service_claims::take(service_claims::Given::Ip(self.services.ranges().first()), &key, Expect::Absent));
        }
        if ops.is_empty() {
            return Ok(Ok(()));
        }
        Ok(self.store().commit(Transaction::new(ops)).await.map(|_| ()))
    }

    async fn absent(&self, key: Key, value: &Value, ops: &mut Vec<Op>) -> Result<(), ApiError> {
        if self.store().get(&key).await.map_err(status::of_store)?.is_none() {
            let value = encode_stored(value).map_err(status::internal)?;
            ops.push(Op::Put { key, value, expect: Expect::Absent });
        }
        Ok(())
    }
}
