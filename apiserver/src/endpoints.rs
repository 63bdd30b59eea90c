//! What stands behind a Service.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use wharf_core::api::{ApiError, Query, SharedApi};
use wharf_core::object::resource_of;

/// One that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its first address.
    pub(crate) address: String,
    /// The port that it listens on.
    pub(crate) port: u16,
    /// The pod that its slice says it is, in the Service's namespace.
    pub(crate) pod: Option<String>,
}

/// Those of one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Those that are ready.
    pub(crate) candidates: Vec<Endpoint>,
    /// That there are none at all, ready or not.
    pub(crate) none: bool,
}

/// The endpoints of a Service's port that are ready, as its slices tell.
///
/// # Errors
/// What listing the slices fails with.
pub(crate) async fn ready(api: &SharedApi, namespace: &str, service: &str, port_name: &str) -> Result<Endpoints, ApiError> {
    let query = Query {
        namespace: Some(namespace.into()),
        label_selector: Some(format!("kubernetes.io/service-name={service}")),
        ..Query::default()
    };
    let listed = api.list(&resource_of::<EndpointSlice>(), &query).await?.items;
    let mut found = Endpoints { candidates: Vec::new(), none: true };
    for slice in listed.iter().filter_map(|object| object.decode::<EndpointSlice>().ok()) {
        found.none &= slice.endpoints.iter().flatten().next().is_none();
        let wanted = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = wanted.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let pod = endpoint.target_ref.as_ref().filter(|target| target.namespace.as_deref() == Some(namespace));
            if let (true, Some(address)) = (ready, endpoint.addresses.first()) {
                found.candidates.push(Endpoint { address: address.clone(), port, pod: pod.and_then(|p| p.name.clone()) });
            }
        }
    }
    Ok(found)
}
