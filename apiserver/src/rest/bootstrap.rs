//! What every cluster has from the start.

use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::encode_stored;
use wharf_core::store::{Expect, Key, ListOptions, Op, ResourceId, Scope, StoreError, Transaction};

use super::{Registry, parse_stored, status};

/// Namespaces that Kubernetes makes itself.
pub const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

impl Registry {
    /// Learns which addresses are taken, and creates what every cluster has.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn bootstrap(&self) -> Result<(), ApiError> {
        self.learn_services().await?;
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
        self.absent(Key::new(ResourceId::new("", "services"), "default", "kubernetes"), &service, &mut ops).await?;
        self.services.learn(&service);
        if ops.is_empty() {
            return Ok(());
        }
        match self.store().commit(Transaction::new(ops)).await {
            // Another API server over the same store was faster.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(status::of_store(error)),
        }
    }

    async fn absent(&self, key: Key, value: &Value, ops: &mut Vec<Op>) -> Result<(), ApiError> {
        if self.store().get(&key).await.map_err(status::of_store)?.is_none() {
            let value = encode_stored(value).map_err(status::internal)?;
            ops.push(Op::Put { key, value, expect: Expect::Absent });
        }
        Ok(())
    }

    async fn learn_services(&self) -> Result<(), ApiError> {
        let scope = Scope::Resource(ResourceId::new("", "services"));
        let mut options = ListOptions::default();
        loop {
            let page = self.store().list(&scope, &options).await.map_err(status::of_store)?;
            for record in &page.records {
                self.services.learn(&parse_stored(&record.value)?);
            }
            options.after = page.records.last().map(|r| r.key.clone());
            if !page.more || options.after.is_none() {
                return Ok(());
            }
        }
    }
}
