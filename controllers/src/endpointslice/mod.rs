//! EndpointSlices: which pods stand behind a Service, and in what condition they are.

mod decide;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use wharf_core::api::{ApiExt, DeleteParams, ref_of};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::informer::ObjectChange;
use wharf_core::object::ObjectRef;
use wharf_core::proxy::SERVICE_NAME_LABEL;
use wharf_core::selector::Selector;

pub use self::decide::{MANAGED_BY, MANAGED_BY_LABEL, MAX_ENDPOINTS, Step, decide, is_selected};
use crate::freshness::{EXPECTATION_RETRY, Freshness};

/// The endpointslice controller.
#[derive(Debug, Default)]
pub struct EndpointSliceController {
    written: Arc<Freshness>,
}

impl EndpointSliceController {
    /// One of its own.
    pub fn new() -> Self {
        Self::default()
    }
}

fn selector(service: &Service) -> Option<Selector> {
    is_selected(service).then(|| service.spec.as_ref()?.selector.as_ref().map(Selector::from_map)).flatten()
}

/// The Services that select a pod, as it was or as it is.
fn selecting(ctx: &Context, change: &ObjectChange) -> Vec<ObjectRef> {
    let sides: Vec<_> = change.old.iter().chain(change.new.iter()).collect();
    let services = ctx.informers.of::<Service>().list_in(&change.latest().key().namespace);
    let selects = |service: &Service| selector(service).is_some_and(|s| sides.iter().any(|o| s.matches_opt(o.meta().labels.as_ref())));
    services.iter().filter(|s| selects(s)).map(|s| ref_of(&**s)).collect()
}

fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let is = |name: &str, value: &str| labels.and_then(|l| l.get(name)).is_some_and(|v| v == value);
    is(SERVICE_NAME_LABEL, service) && is(MANAGED_BY_LABEL, MANAGED_BY)
}

#[async_trait]
impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn watches(&self) -> Vec<Watch> {
        let written = self.written.clone();
        let slices = Watch::mapped::<EndpointSlice>(move |_, change| {
            written.observe(change);
            let service = |o: &Arc<wharf_core::object::Object>| o.meta().labels.as_ref()?.get(SERVICE_NAME_LABEL).cloned();
            let sides = change.old.iter().chain(change.new.iter());
            let mut keys: Vec<_> = sides.filter_map(|o| Some(ObjectRef::new(o.key().namespace.clone(), service(o)?))).collect();
            keys.dedup();
            keys
        });
        vec![Watch::primary::<Service>(), Watch::mapped::<Pod>(selecting), slices]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        if !self.written.is_fresh(&*ctx.clock, key) {
            return Ok(Action::RequeueAfter(EXPECTATION_RETRY));
        }
        let service = ctx.informers.of::<Service>().get(key);
        let mut slices = ctx.informers.of::<EndpointSlice>().list_in(&key.namespace);
        slices.retain(|s| is_ours(s, &key.name));
        let steps = match service.as_ref().and_then(|s| Some((s, selector(s)?))) {
            Some((service, _)) if service.metadata.deletion_timestamp.is_some() => Vec::new(),
            Some((service, selector)) => {
                let mut pods = ctx.informers.of::<Pod>().list_in(&key.namespace);
                pods.retain(|p| selector.matches_opt(p.metadata.labels.as_ref()));
                decide(service, &pods, &slices)
            }
            // Gone, or no longer ours to keep slices for.
            None => slices.iter().map(|s| Step::Delete(Box::new((**s).clone()))).collect(),
        };
        for step in steps {
            match step {
                Step::Create(slice) => match ctx.api.create(&*slice).await {
                    Ok(created) => self.written.wrote(&*ctx.clock, key, &*created),
                    Err(error) if error.is_namespace_terminating() => return Ok(Action::Done),
                    Err(error) => return Err(error.into()),
                },
                Step::Update(slice) => {
                    let updated = ctx.api.update(&*slice).await?;
                    self.written.wrote(&*ctx.clock, key, &*updated);
                }
                Step::Delete(slice) => {
                    let params = DeleteParams { uid: slice.metadata.uid.clone(), ..DeleteParams::default() };
                    match ctx.api.delete::<EndpointSlice>(&ref_of(&*slice), params).await {
                        Err(error) if error.is_conflict() => {}
                        other => other?,
                    }
                }
            }
        }
        if service.is_none() {
            self.written.forget(key);
        }
        Ok(Action::Done)
    }
}
