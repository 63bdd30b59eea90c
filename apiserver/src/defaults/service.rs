//! Defaults of Services and of what lies behind them.

use serde_json::{Value, json};

use crate::resources::value::{as_map, at, default, default_text, each_in, items, object, text};

const STICKY_SECONDS: i64 = 10_800;

/// Services.
pub(crate) fn service(v: &mut Value) {
    default_text(object(v, &["spec"]), "type", "ClusterIP");
    let kind = text(v, &["spec", "type"]).to_owned();
    let affinity = text(v, &["spec", "sessionAffinity"]) == "ClientIP";
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || !items(v, &["spec", "externalIPs"]).is_empty();
    let headless = text(v, &["spec", "clusterIP"]) == "None";
    let spec = object(v, &["spec"]);
    default_text(spec, "sessionAffinity", "None");
    if affinity {
        let config = as_map(spec.entry("sessionAffinityConfig").or_insert_with(|| json!({})));
        let client = as_map(config.entry("clientIP").or_insert_with(|| json!({})));
        default(client, "timeoutSeconds", STICKY_SECONDS);
    }
    each_in(spec, "ports", |port| {
        default_text(port, "protocol", "TCP");
        if !headless || port.get("port").is_some() {
            let number = port.get("port").cloned().unwrap_or_default();
            if port.get("targetPort").is_none_or(|t| t.is_null() || t == 0 || t == "") {
                port.insert("targetPort".into(), number);
            }
        }
    });
    if kind != "ExternalName" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
        default_text(spec, "ipFamilyPolicy", "SingleStack");
        default(spec, "ipFamilies", json!(["IPv4"]));
    }
    if external {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    } else {
        spec.remove("externalTrafficPolicy");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if at(v, &["status", "loadBalancer"]).is_none() {
        object(v, &["status"]).insert("loadBalancer".into(), json!({}));
    }
}

/// Endpoints.
pub(crate) fn endpoints(v: &mut Value) {
    each_in(as_map(v), "subsets", |subset| each_in(subset, "ports", |port| default_text(port, "protocol", "TCP")));
}

/// Endpoint slices.
pub(crate) fn endpoint_slice(v: &mut Value) {
    each_in(as_map(v), "ports", |port| {
        default_text(port, "protocol", "TCP");
        default(port, "name", "");
    });
}
