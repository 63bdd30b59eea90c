//! A container's environment: services, envFrom, env, and `$(VAR)`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};
use wharf_core::api::{Api, ApiError, ApiExt};
use wharf_core::object::ObjectRef;

use crate::fieldref::{self, Facts};
use crate::pod;

/// Why a container's configuration cannot be made; in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { key: String, kind: &'static str, namespace: String, name: String },
    #[error("unsupported fieldPath: {path}")]
    FieldPath { path: String },
    #[error("unsupported environment source of {name}")]
    Source { name: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageRunsAsRoot { pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    UserIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    UserUnknown { user: String, pod: String, container: String },
    #[error("{0}")]
    Volume(#[from] crate::volumes::VolumeError),
    #[error("{0}")]
    Api(#[from] ApiError),
}

/// The ConfigMap, or an error in the kubelet's words; `None` if it is optional and absent.
pub(crate) async fn config_map(api: &dyn Api, namespace: &str, name: &str, optional: bool) -> Result<Option<Arc<ConfigMap>>, ConfigError> {
    match api.get_opt(&ObjectRef::new(namespace, name)).await? {
        None if !optional => Err(ConfigError::NotFound { kind: "configmap", name: name.into() }),
        found => Ok(found),
    }
}

/// The Secret, likewise.
pub(crate) async fn secret(api: &dyn Api, namespace: &str, name: &str, optional: bool) -> Result<Option<Arc<Secret>>, ConfigError> {
    match api.get_opt(&ObjectRef::new(namespace, name)).await? {
        None if !optional => Err(ConfigError::NotFound { kind: "secret", name: name.into() }),
        found => Ok(found),
    }
}

/// A variable of a finished environment.
pub(crate) fn lookup(envs: &[(String, String)], name: &str) -> Option<String> {
    envs.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
}

/// Replaces `$(NAME)`; `$$` is a dollar, an unknown name stays as written.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that tell of Services, as the kubelet makes them.
pub(crate) fn service_variables(namespace: &str, links: bool, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let (name, home) =
            (service.metadata.name.as_deref().unwrap_or_default(), service.metadata.namespace.as_deref().unwrap_or_default());
        let is_master = home == "default" && name == "kubernetes";
        if !(is_master || (links && home == namespace)) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let prefix = name.to_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.into());
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.insert(format!("{prefix}_SERVICE_PORT_{}", name.to_uppercase().replace('-', "_")), port.port.to_string());
            }
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(format!("{base}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{base}_PORT"), port.port.to_string());
            out.insert(format!("{base}_ADDR"), ip.into());
            out.insert(base, url);
        }
    }
    out
}

/// Makes the environment.
pub(crate) async fn make(
    api: &dyn Api,
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    services: BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let namespace = pod::namespace(pod);
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            let map = config_map(api, namespace, &source.name, source.optional == Some(true)).await?;
            for (key, value) in map.iter().filter_map(|m| m.data.as_ref()).flatten() {
                made.insert(format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(source) = &from.secret_ref {
            let secret = secret(api, namespace, &source.name, source.optional == Some(true)).await?;
            for (key, value) in secret.iter().filter_map(|s| s.data.as_ref()).flatten() {
                made.insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(api, pod, container, facts, variable, &made, &services).await? {
            made.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        made.entry(name).or_insert(value);
    }
    Ok(made.into_iter().collect())
}

async fn value_of(
    api: &dyn Api,
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    variable: &EnvVar,
    made: &BTreeMap<String, String>,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, ConfigError> {
    let Some(from) = &variable.value_from else {
        let text = variable.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(text, |name| made.get(name).or_else(|| services.get(name)).cloned())));
    };
    let namespace = pod::namespace(pod);
    if let Some(field) = &from.field_ref {
        return fieldref::field(pod, facts, &field.field_path).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let other = selector.container_name.as_deref().and_then(|n| pod.spec.as_ref().and_then(|s| pod::find(s, n)));
        return fieldref::resource(other.as_ref().map_or(container, |(c, _)| c), facts, selector).map(Some);
    }
    if let Some(source) = &from.config_map_key_ref {
        let optional = source.optional == Some(true);
        let Some(map) = config_map(api, namespace, &source.name, optional).await? else { return Ok(None) };
        return match map.data.as_ref().and_then(|d| d.get(&source.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(no_key("ConfigMap", &source.key, namespace, &source.name)),
        };
    }
    if let Some(source) = &from.secret_key_ref {
        let optional = source.optional == Some(true);
        let Some(secret) = secret(api, namespace, &source.name, optional).await? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|d| d.get(&source.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(no_key("Secret", &source.key, namespace, &source.name)),
        };
    }
    Err(ConfigError::Source { name: variable.name.clone() })
}

fn no_key(kind: &'static str, key: &str, namespace: &str, name: &str) -> ConfigError {
    ConfigError::NoKey { kind, key: key.into(), namespace: namespace.into(), name: name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expands_as_kubernetes_does() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_string());
        for (text, want) in [
            ("x", "x"),
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("a$(A)b$(A", "a1b$(A"),
            ("$", "$"),
            ("$(", "$("),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }

    #[test]
    fn services_of_the_namespace_and_the_master_become_variables() {
        let service = |ns: &str, name: &str, ip: &str| {
            let value = json!({"metadata":{"name":name,"namespace":ns},"spec":{"clusterIP":ip,"ports":[{"name":"http","port":80,"protocol":"TCP"}]}});
            Arc::new(serde_json::from_value::<Service>(value).unwrap())
        };
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("a", "my-web", "10.0.0.2"),
            service("b", "x", "10.0.0.3"),
            service("a", "h", "None"),
        ];
        let env = service_variables("a", true, &all);
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(env["MY_WEB_PORT_80_TCP"], "tcp://10.0.0.2:80");
        assert_eq!(env["MY_WEB_SERVICE_PORT_HTTP"], "80");
        assert!(!env.contains_key("X_SERVICE_HOST") && !env.contains_key("H_SERVICE_HOST"));
        assert!(!service_variables("a", false, &all).contains_key("MY_WEB_SERVICE_HOST"));
    }
}
