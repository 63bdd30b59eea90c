//! Binding through the API's binding subresource.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use wharf_core::api::{Target, Verb, Write};
use wharf_core::controller::Context;
use wharf_core::scheduler::PodInfo;

use crate::plugin::{Bind, BindOutcome, Plugin};
use crate::status::Rejection;

/// Posts a Binding, as Kubernetes' plugin of the same name.
#[derive(Debug, Default, Clone, Copy)]
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
}

#[async_trait]
impl Bind for DefaultBinder {
    async fn bind(&self, ctx: &Context, pod: &PodInfo, node: &str) -> Result<BindOutcome, Rejection> {
        let meta = &pod.pod.metadata;
        let binding = Binding {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                // The server refuses if the name was taken by another pod meanwhile.
                uid: meta.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..ObjectReference::default() },
        };
        let body = serde_json::to_vec(&binding).map_err(Rejection::error)?;
        let target = Target::of::<Pod>(pod.object_ref()).sub("binding");
        let write = Write { target, verb: Verb::Create(body.into()), field_manager: String::new() };
        ctx.api.write(write).await.map_err(Rejection::error)?;
        Ok(BindOutcome::Bound)
    }
}
