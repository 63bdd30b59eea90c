//! What every namespace is given: the `default` ServiceAccount and the cluster's root certificate.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use wharf_core::api::{ApiError, ApiExt};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::object::ObjectRef;

/// The ServiceAccount of pods that name none.
pub const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap with the root certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// The key in it.
pub const CA_KEY: &str = "ca.crt";

fn namespace_of(name: &'static str) -> impl Fn(&Context, &wharf_core::informer::ObjectChange) -> Vec<ObjectRef> {
    move |_, change| {
        let key = change.latest().key();
        if &*key.name == name { vec![ObjectRef::new("", key.namespace.clone())] } else { Vec::new() }
    }
}

/// The namespace, if things may be made in it.
fn living(ctx: &Context, key: &ObjectRef) -> Option<Arc<Namespace>> {
    ctx.informers.of::<Namespace>().get(key).filter(|n| n.metadata.deletion_timestamp.is_none())
}

fn made(result: Result<(), ApiError>) -> Result<Action, ReconcileError> {
    match result {
        // The cache is behind, or the namespace is going.
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(Action::Done),
        other => Ok(other.map(|()| Action::Done)?),
    }
}

/// Keeps a `default` ServiceAccount in every namespace.
#[derive(Debug, Default)]
pub struct ServiceAccountController;

impl ServiceAccountController {
    /// One of its own.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::primary::<Namespace>(), Watch::mapped::<ServiceAccount>(namespace_of(DEFAULT_ACCOUNT))]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let account = ObjectRef::new(key.name.clone(), DEFAULT_ACCOUNT);
        if living(ctx, key).is_none() || ctx.informers.of::<ServiceAccount>().get(&account).is_some() {
            return Ok(Action::Done);
        }
        let metadata = ObjectMeta { name: Some(DEFAULT_ACCOUNT.into()), namespace: Some(key.name.to_string()), ..ObjectMeta::default() };
        made(ctx.api.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await.map(drop))
    }
}

/// Keeps the root certificate in every namespace.
#[derive(Debug)]
pub struct RootCaPublisher {
    pem: String,
}

impl RootCaPublisher {
    /// Publishes this certificate, in PEM.
    pub fn new(ca_pem: impl Into<String>) -> Self {
        Self { pem: ca_pem.into() }
    }
}

#[async_trait]
impl Controller for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::primary::<Namespace>(), Watch::mapped::<ConfigMap>(namespace_of(ROOT_CA))]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        if living(ctx, key).is_none() {
            return Ok(Action::Done);
        }
        let data = [(CA_KEY.to_string(), self.pem.clone())].into();
        match ctx.informers.of::<ConfigMap>().get(&ObjectRef::new(key.name.clone(), ROOT_CA)) {
            Some(known) if known.data.as_ref() == Some(&data) => Ok(Action::Done),
            Some(known) => {
                let changed = ConfigMap { data: Some(data), binary_data: None, ..(*known).clone() };
                Ok(ctx.api.update(&changed).await.map(|_| Action::Done)?)
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(ROOT_CA.into()),
                    namespace: Some(key.name.to_string()),
                    annotations: Some([("kubernetes.io/description".to_string(), DESCRIPTION.to_string())].into()),
                    ..ObjectMeta::default()
                };
                made(ctx.api.create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }).await.map(drop))
            }
        }
    }
}

const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc.";
