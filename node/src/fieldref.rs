//! The downward API: fields and resources of the pod as text.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use wharf_core::quantity::Quantity;

use crate::env::ConfigError;

/// What the pod object does not say yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ip: String,
    /// Allocatable CPU in thousandths and memory in bytes: the default of an unset limit.
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
}

fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a field.
pub(crate) fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, ConfigError> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(ConfigError::FieldPath { path: path.into() }),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => formatted(meta.labels.as_ref()),
        "metadata.annotations" => formatted(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        _ => return Err(ConfigError::FieldPath { path: path.into() }),
    })
}

/// The value of a resource field.
pub(crate) fn resource(container: &Container, facts: &Facts, selector: &ResourceFieldSelector) -> Result<String, ConfigError> {
    let bad = || ConfigError::FieldPath { path: selector.resource.clone() };
    let (side, resource) = selector.resource.split_once('.').ok_or_else(bad)?;
    let resources = container.resources.as_ref();
    let map = match side {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(bad()),
    };
    let amount = map.and_then(|m| m.get(resource)).and_then(|q| Quantity::try_from(q).ok());
    let amount = amount.unwrap_or_else(|| match (side, resource) {
        ("limits", "cpu") => Quantity::from_milli(facts.cpu_milli),
        ("limits", "memory") => Quantity::from_units(facts.memory, wharf_core::quantity::Format::Binary),
        _ => Quantity::ZERO,
    });
    let divisor = selector.divisor.as_ref().and_then(|d| Quantity::try_from(d).ok()).filter(|d| !d.is_zero());
    let divisor = divisor.map_or(1_000_000_000, |d| d.nano());
    let quotient = amount.nano() / divisor;
    Ok((quotient + i128::from(amount.nano() % divisor > 0)).to_string())
}
