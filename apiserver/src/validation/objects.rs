//! Everything that is not a pod and makes none.

use std::collections::HashSet;
use std::net::IpAddr;

use base64::Engine;
use serde_json::Value;

use super::pod::{port_name, port_number};
use super::{Causes, duplicate, forbidden, immutable, invalid, one_of, required};
use crate::resources::value::{at, items, text};

/// Most bytes in a ConfigMap or a Secret; Kubernetes' own.
const MAX_DATA: usize = 1 << 20;
pub(super) const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

pub(super) fn config_key(key: &str) -> bool {
    let letters = !key.is_empty() && key.len() <= 253 && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    letters && key != "." && !key.starts_with("..")
}

fn data(v: &Value, members: &[&str], causes: &mut Causes) {
    let mut size = 0;
    for member in members {
        for (key, value) in at(v, &[member]).and_then(Value::as_object).into_iter().flatten() {
            if !config_key(key) {
                invalid(causes, &format!("{member}[{key}]"), &key.as_str().into(), KEY);
            }
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > MAX_DATA * 4 / 3 {
        let message = format!("Too long: may not be more than {MAX_DATA} bytes");
        causes.push(crate::rest::status::cause("FieldValueTooLong", message, members.first().copied().unwrap_or_default()));
    }
}

fn unchanged_if_immutable(new: &Value, old: Option<&Value>, members: &[&str], causes: &mut Causes) {
    let Some(old) = old.filter(|o| at(o, &["immutable"]) == Some(&Value::Bool(true))) else { return };
    if at(new, &["immutable"]) != Some(&Value::Bool(true)) {
        forbidden(causes, "immutable", "field is immutable when `immutable` is set");
    }
    for member in members {
        if at(new, &[member]) != at(old, &[member]) {
            forbidden(causes, member, "field is immutable when `immutable` is set");
        }
    }
}

/// Config maps.
pub(crate) fn config_map(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    data(new, &["data", "binaryData"], causes);
    unchanged_if_immutable(new, old, &["data", "binaryData"], causes);
}

/// Secrets.
pub(crate) fn secret(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    data(new, &["data"], causes);
    unchanged_if_immutable(new, old, &["data"], causes);
    if let Some(old) = old {
        immutable(causes, "type", at(new, &["type"]), at(old, &["type"]));
    }
    let has = |key: &str| at(new, &["data", key]).is_some();
    let needs: &[&str] = match text(new, &["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needs.iter().filter(|k| !has(k)) {
        required(causes, &format!("data[{key}]"), "");
    }
    if text(new, &["type"]) == "kubernetes.io/dockerconfigjson" && has(".dockerconfigjson") {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text(new, &["data", ".dockerconfigjson"])).unwrap_or_default();
        if serde_json::from_slice::<Value>(&bytes).is_err() {
            invalid(causes, "data[.dockerconfigjson]", &"<secret contents redacted>".into(), "not valid JSON");
        }
    }
    if text(new, &["type"]) == "kubernetes.io/service-account-token"
        && text(new, &["metadata", "annotations", "kubernetes.io/service-account.name"]).is_empty()
    {
        required(causes, "metadata.annotations[kubernetes.io/service-account.name]", "");
    }
}

/// Services.
pub(crate) fn service(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let kind = text(new, &["spec", "type"]);
    one_of(causes, "spec.type", at(new, &["spec", "type"]), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    one_of(causes, "spec.sessionAffinity", at(new, &["spec", "sessionAffinity"]), &["ClientIP", "None"]);
    one_of(causes, "spec.internalTrafficPolicy", at(new, &["spec", "internalTrafficPolicy"]), &["Cluster", "Local"]);
    one_of(causes, "spec.externalTrafficPolicy", at(new, &["spec", "externalTrafficPolicy"]), &["Cluster", "Local"]);
    super::metadata::labels(at(new, &["spec", "selector"]), "spec.selector", causes);
    let ports = items(new, &["spec", "ports"]);
    let headless = text(new, &["spec", "clusterIP"]) == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        required(causes, "spec.ports", "");
    }
    if kind == "ExternalName" && text(new, &["spec", "externalName"]).is_empty() {
        required(causes, "spec.externalName", "");
    }
    if matches!(kind, "NodePort" | "LoadBalancer") && headless {
        invalid(causes, "spec.clusterIPs[0]", &"None".into(), "may not be set to 'None' for LoadBalancer and NodePort services");
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        let here = format!("spec.ports[{i}]");
        let name = text(port, &["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                required(causes, &format!("{here}.name"), "");
            }
        } else if let Some(why) = super::metadata::label_1123(name) {
            invalid(causes, &format!("{here}.name"), &name.into(), why);
        } else if !names.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
        port_number(port.get("port"), &format!("{here}.port"), causes);
        one_of(causes, &format!("{here}.protocol"), port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                if let Some(why) = port_name(name) {
                    invalid(causes, &format!("{here}.targetPort"), &name.as_str().into(), why);
                }
            }
            Some(target) => port_number(Some(target), &format!("{here}.targetPort"), causes),
            None => {}
        }
        if !numbers.insert((port.get("port").and_then(Value::as_i64), text(port, &["protocol"]))) {
            let shown = serde_json::json!({"port": port.get("port"), "protocol": port.get("protocol")});
            duplicate(causes, &here, &shown);
        }
        let node_port = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        if node_port != 0 && kind == "ClusterIP" {
            forbidden(causes, &format!("{here}.nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    for (i, ip) in items(new, &["spec", "externalIPs"]).iter().enumerate() {
        // An external IP on the node itself would take over the node's own traffic.
        if let Some(why) = super::endpoints::not_special(ip.as_str().unwrap_or_default()) {
            invalid(causes, &format!("spec.externalIPs[{i}]"), ip, &why);
        }
    }
    if let Some(old) = old {
        let (was, is) = (text(old, &["spec", "clusterIP"]), text(new, &["spec", "clusterIP"]));
        if !was.is_empty() && text(old, &["spec", "type"]) != "ExternalName" && kind != "ExternalName" && was != is {
            invalid(causes, "spec.clusterIPs[0]", &serde_json::json!([is]), "may not change once set");
        }
    }
}

/// Endpoint slices.
pub(crate) fn endpoint_slice(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    const MAX_ENDPOINTS: usize = 1000;
    const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
    let kind = at(new, &["addressType"]).filter(|k| *k != "");
    match kind {
        None => required(causes, "addressType", ""),
        kind => one_of(causes, "addressType", kind, TYPES),
    }
    let endpoints = items(new, &["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        causes.push(crate::rest::status::cause(
            "FieldValueTooMany",
            format!("Too many: {}: must have at most {MAX_ENDPOINTS} items", endpoints.len()),
            "endpoints",
        ));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let addresses = items(endpoint, &["addresses"]);
        if addresses.is_empty() {
            required(causes, &format!("endpoints[{i}].addresses"), "must contain at least 1 address");
        }
        for (j, address) in addresses.iter().enumerate() {
            let parsed: Option<IpAddr> = address.as_str().and_then(|a| a.parse().ok());
            let good = match text(new, &["addressType"]) {
                "IPv4" => parsed.is_some_and(|a| a.is_ipv4()),
                "IPv6" => parsed.is_some_and(|a| a.is_ipv6()),
                _ => true,
            };
            if !good {
                invalid(
                    causes,
                    &format!("endpoints[{i}].addresses[{j}]"),
                    address,
                    "must be a valid IP address of the slice's addressType",
                );
            }
        }
    }
    if let Some(old) = old {
        immutable(causes, "addressType", at(new, &["addressType"]), at(old, &["addressType"]));
    }
}

/// Runtime classes.
pub(crate) fn runtime_class(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let handler = text(new, &["handler"]);
    if let Some(why) = super::metadata::label_1123(handler) {
        invalid(causes, "handler", &handler.into(), why);
    }
    super::pod::amounts(at(new, &["overhead", "podFixed"]), "overhead.limits", causes);
    super::metadata::labels(at(new, &["scheduling", "nodeSelector"]), "scheduling.nodeSelector", causes);
    super::pod::tolerations(new.get("scheduling").unwrap_or(&Value::Null), "scheduling.tolerations", causes);
    if let Some(old) = old {
        immutable(causes, "handler", at(new, &["handler"]), at(old, &["handler"]));
    }
}
