//! networking.k8s.io: policies, and what routes by host and path.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::metadata::{label_1035, label_1123, path_segment, subdomain};
use super::pod::{port_name, port_number};
use super::selector::label_selector;
use super::{ADDRESS, Causes, forbidden, immutable, invalid, required, too_long, unsupported};
use crate::resources::value::{at, items, number, text};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Longest name of a controller, in bytes.
const MAX_CONTROLLER: usize = 250;
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const HTTP_PATH: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";

/// Network policies.
pub(crate) fn network_policy(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    // What an older server let in may stay.
    let known: HashSet<&str> = old.into_iter().flat_map(ranges).collect();
    label_selector(at(new, &["spec", "podSelector"]), "spec.podSelector", causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(new, &["spec", direction]).iter().enumerate() {
            let here = format!("spec.{direction}[{i}]");
            for (j, port) in items(rule, &["ports"]).iter().enumerate() {
                policy_port(port, &format!("{here}.ports[{j}]"), causes);
            }
            for (j, peer) in items(rule, &[peers]).iter().enumerate() {
                policy_peer(peer, &format!("{here}.{peers}[{j}]"), &known, causes);
            }
        }
    }
    let types = items(new, &["spec", "policyTypes"]);
    if types.len() > 2 {
        return invalid(causes, "spec.policyTypes", &types.into(), "may not specify more than two policyTypes");
    }
    for (i, kind) in types.iter().enumerate().filter(|(_, kind)| *kind != "Ingress" && *kind != "Egress") {
        unsupported(causes, &format!("spec.policyTypes[{i}]"), kind, &["Ingress", "Egress"]);
    }
}

fn number_in_range(port: &Value, field: &str, causes: &mut Causes) {
    if !port.as_i64().is_some_and(|n| (1..=65_535).contains(&n)) {
        invalid(causes, field, port, "must be between 1 and 65535, inclusive");
    }
}

fn policy_port(port: &Value, here: &str, causes: &mut Causes) {
    const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
    if let Some(protocol) = at(port, &["protocol"]).filter(|p| !p.as_str().is_some_and(|p| PROTOCOLS.contains(&p))) {
        unsupported(causes, &format!("{here}.protocol"), protocol, PROTOCOLS);
    }
    let end = at(port, &["endPort"]);
    let mut end_is_wrong = |why: &str| {
        if let Some(end) = end {
            invalid(causes, &format!("{here}.endPort"), end, why);
        }
    };
    match at(port, &["port"]) {
        None => end_is_wrong("may not be specified when `port` is not specified"),
        Some(Value::String(name)) => {
            end_is_wrong("may not be specified when `port` is non-numeric");
            if let Some(why) = port_name(name) {
                invalid(causes, &format!("{here}.port"), &name.as_str().into(), why);
            }
        }
        Some(first) => {
            if end.and_then(Value::as_i64) < first.as_i64() {
                end_is_wrong("must be greater than or equal to `port`");
            }
            number_in_range(first, &format!("{here}.port"), causes);
            if let Some(end) = end {
                number_in_range(end, &format!("{here}.endPort"), causes);
            }
        }
    }
}

/// The ranges of addresses that a policy names.
fn ranges(policy: &Value) -> impl Iterator<Item = &str> {
    let rules = |direction| items(policy, &["spec", direction]);
    let (from, to) = (rules("ingress").iter().flat_map(|r| items(r, &["from"])), rules("egress").iter().flat_map(|r| items(r, &["to"])));
    from.chain(to).filter_map(|peer| at(peer, &["ipBlock"])).flat_map(|block| {
        let except = items(block, &["except"]).iter().filter_map(Value::as_str);
        at(block, &["cidr"]).and_then(Value::as_str).into_iter().chain(except)
    })
}

fn policy_peer(peer: &Value, here: &str, known: &HashSet<&str>, causes: &mut Causes) {
    let selectors = ["podSelector", "namespaceSelector"];
    for name in selectors {
        label_selector(at(peer, &[name]), &format!("{here}.{name}"), causes);
    }
    let selects = selectors.iter().any(|name| at(peer, &[name]).is_some());
    match at(peer, &["ipBlock"]) {
        None if !selects => required(causes, here, "must specify a peer"),
        None => {}
        Some(block) => {
            ip_block(block, &format!("{here}.ipBlock"), known, causes);
            if selects {
                forbidden(causes, here, "may not specify both ipBlock and another peer");
            }
        }
    }
}

fn ip_block(block: &Value, here: &str, known: &HashSet<&str>, causes: &mut Causes) {
    let cidr = text(block, &["cidr"]);
    if cidr.is_empty() {
        return required(causes, &format!("{here}.cidr"), "");
    }
    let Ok(net) = cidr.parse::<IpNet>() else {
        if !known.contains(cidr) {
            invalid(causes, &format!("{here}.cidr"), &cidr.into(), CIDR);
        }
        return;
    };
    for (i, except) in items(block, &["except"]).iter().enumerate() {
        match except.as_str().and_then(|e| e.parse::<IpNet>().ok()) {
            None if except.as_str().is_some_and(|e| known.contains(e)) => {}
            None => invalid(causes, &format!("{here}.except[{i}]"), except, CIDR),
            Some(inner) if net.contains(&inner.addr()) && net.prefix_len() < inner.prefix_len() => {}
            Some(_) => invalid(causes, &format!("{here}.except[{i}]"), except, "must be a strict subset of `cidr`"),
        }
    }
}

/// Ingresses.
pub(crate) fn ingress(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let (rules, default) = (items(new, &["spec", "rules"]), at(new, &["spec", "defaultBackend"]));
    if rules.is_empty() && default.is_none() {
        invalid(causes, "spec", &Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = default {
        backend(default, "spec.defaultBackend", causes);
    }
    for (i, rule) in rules.iter().enumerate() {
        ingress_rule(rule, &format!("spec.rules[{i}]"), causes);
    }
    for (i, tls) in items(new, &["spec", "tls"]).iter().enumerate() {
        for (j, name) in items(tls, &["hosts"]).iter().enumerate() {
            host(name, &format!("spec.tls[{i}].hosts[{j}]"), causes);
        }
        let secret = text(tls, &["secretName"]);
        if let Some(why) = subdomain(secret).filter(|_| !secret.is_empty()) {
            invalid(causes, &format!("spec.tls[{i}].secretName"), &secret.into(), why);
        }
    }
    let class = at(new, &["spec", "ingressClassName"]);
    if let Some(why) = class.and_then(|c| subdomain(c.as_str().unwrap_or_default())) {
        invalid(causes, "spec.ingressClassName", class.unwrap_or(&Value::Null), why);
    }
    let annotation = at(new, &["metadata", "annotations", CLASS_ANNOTATION]);
    if let (None, Some(annotation), Some(class)) = (old, annotation, class)
        && annotation != class
    {
        let why = "must match `ingressClassName` when both are specified";
        invalid(causes, &format!("annotations.{CLASS_ANNOTATION}"), annotation, why);
    }
}

/// Where an ingress is reached.
pub(crate) fn ingress_status(new: &Value, _old: &Value, causes: &mut Causes) {
    for (i, address) in items(new, &["status", "loadBalancer", "ingress"]).iter().enumerate() {
        let here = format!("status.loadBalancer.ingress[{i}]");
        let (ip, name) = (text(address, &["ip"]), text(address, &["hostname"]));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            invalid(causes, &format!("{here}.ip"), &ip.into(), ADDRESS);
        }
        if !name.is_empty() {
            if let Some(why) = subdomain(name) {
                invalid(causes, &format!("{here}.hostname"), &name.into(), why);
            }
            no_address(name, &format!("{here}.hostname"), causes);
        }
    }
}

fn no_address(name: &str, field: &str, causes: &mut Causes) {
    if name.parse::<IpAddr>().is_ok() {
        invalid(causes, field, &name.into(), "must be a DNS name, not an IP address");
    }
}

/// A host, or with a star any host below one.
fn host(host: &Value, field: &str, causes: &mut Causes) {
    let name = host.as_str().unwrap_or_default();
    let wrong = match name.contains('*') {
        true => name.strip_prefix("*.").and_then(|rest| subdomain(rest).is_none().then_some(())).is_none().then_some(WILDCARD),
        false => subdomain(name),
    };
    if let Some(why) = wrong {
        invalid(causes, field, host, why);
    }
}

fn ingress_rule(rule: &Value, here: &str, causes: &mut Causes) {
    if let Some(found) = at(rule, &["host"]).filter(|h| *h != "") {
        let field = format!("{here}.host");
        no_address(found.as_str().unwrap_or_default(), &field, causes);
        host(found, &field, causes);
    }
    let Some(http) = at(rule, &["http"]) else { return };
    let paths = items(http, &["paths"]);
    if paths.is_empty() {
        required(causes, &format!("{here}.http.paths"), "");
    }
    for (i, path) in paths.iter().enumerate() {
        ingress_path(path, &format!("{here}.http.paths[{i}]"), causes);
    }
}

fn ingress_path(entry: &Value, here: &str, causes: &mut Causes) {
    let (path, field) = (text(entry, &["path"]), format!("{here}.path"));
    let mut wrong = |why: &str| invalid(causes, &field, &path.into(), why);
    match at(entry, &["pathType"]) {
        None => return required(causes, &format!("{here}.pathType"), "pathType must be specified"),
        Some(kind) if kind == "Exact" || kind == "Prefix" => {
            if !path.starts_with('/') {
                wrong("must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| path.contains(**part)) {
                wrong(&format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| path.ends_with(**end)) {
                wrong(&format!("cannot end with '{end}'"));
            }
        }
        Some(kind) if kind == "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                wrong("must be an absolute path");
            }
        }
        Some(kind) => unsupported(causes, &format!("{here}.pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(entry.get("backend").unwrap_or(&Value::Null), &format!("{here}.backend"), causes);
}

fn backend(backend: &Value, here: &str, causes: &mut Causes) {
    let (resource, service) = (at(backend, &["resource"]), at(backend, &["service"]));
    let mut wrong = |why: &str| invalid(causes, here, &"".into(), why);
    let service = match (resource, service) {
        (Some(_), Some(_)) => return wrong("cannot set both resource and service backends"),
        (None, None) => return wrong("resource or service backend is required"),
        (Some(resource), None) => return reference(resource, &format!("{here}.resource"), causes),
        (None, Some(service)) => service,
    };
    let name = text(service, &["name"]);
    if name.is_empty() {
        required(causes, &format!("{here}.service.name"), "");
    } else if let Some(why) = label_1035(name) {
        invalid(causes, &format!("{here}.service.name"), &name.into(), why);
    }
    let (name, port) = (text(service, &["port", "name"]), number(service, &["port", "number"]).unwrap_or(0));
    match (name.is_empty(), port) {
        (true, 0) => required(causes, here, "port name or number is required"),
        (true, _) => port_number(at(service, &["port", "number"]), &format!("{here}.service.port.number"), causes),
        (false, 0) => {
            if let Some(why) = port_name(name) {
                invalid(causes, &format!("{here}.service.port.name"), &name.into(), why);
            }
        }
        (false, _) => invalid(causes, here, &"".into(), "cannot set both port name & port number"),
    }
}

/// What another object is named by: group, kind and name.
fn reference(reference: &Value, here: &str, causes: &mut Causes) {
    if let Some(group) = at(reference, &["apiGroup"])
        && let Some(why) = subdomain(group.as_str().unwrap_or_default())
    {
        invalid(causes, &format!("{here}.apiGroup"), group, why);
    }
    for part in ["kind", "name"] {
        let value = text(reference, &[part]);
        if value.is_empty() {
            required(causes, &format!("{here}.{part}"), "");
        } else if let Some(why) = path_segment(value) {
            invalid(causes, &format!("{here}.{part}"), &value.into(), why);
        }
    }
}

/// Ingress classes.
pub(crate) fn ingress_class(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    if let Some(old) = old {
        immutable(causes, "spec.controller", at(new, &["spec", "controller"]), at(old, &["spec", "controller"]));
    }
    let controller = text(new, &["spec", "controller"]);
    if controller.is_empty() {
        required(causes, "spec.controller", "");
    } else {
        if controller.len() > MAX_CONTROLLER {
            too_long(causes, "spec.controller", MAX_CONTROLLER);
        }
        prefixed_path(controller, "spec.controller", causes);
    }
    let Some(parameters) = at(new, &["spec", "parameters"]) else { return };
    let here = "spec.parameters";
    reference(parameters, here, causes);
    let namespace = at(parameters, &["namespace"]);
    let field = format!("{here}.namespace");
    match (at(parameters, &["scope"]).map(|s| s.as_str().unwrap_or_default()), namespace) {
        (None, _) => required(causes, &format!("{here}.scope"), ""),
        (Some("Namespace"), None) => required(causes, &field, "`parameters.scope` is set to 'Namespace'"),
        (Some("Namespace"), Some(namespace)) => {
            if let Some(why) = label_1123(namespace.as_str().unwrap_or_default()) {
                invalid(causes, &field, namespace, why);
            }
        }
        (Some("Cluster"), Some(_)) => forbidden(causes, &field, "`parameters.scope` is set to 'Cluster'"),
        (Some("Cluster"), None) => {}
        (Some(scope), _) => unsupported(causes, &format!("{here}.scope"), &scope.into(), &["Cluster", "Namespace"]),
    }
}

/// A path below a domain.
fn prefixed_path(path: &str, field: &str, causes: &mut Causes) {
    let Some((host, path)) = path.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        return invalid(causes, field, &path.into(), "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    if let Some(why) = subdomain(host) {
        invalid(causes, field, &host.into(), why);
    }
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        invalid(causes, field, &path.into(), HTTP_PATH);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Rule = fn(&Value, Option<&Value>, &mut Causes);

    fn found(rule: Rule, object: &Value) -> Vec<String> {
        crate::validation::testing::found(rule, object, None)
    }

    #[test]
    fn policies() {
        let ingress = |rule: Value| json!({"spec":{"podSelector":{},"ingress":[rule],"policyTypes":["Ingress"]}});
        for good in [
            json!({}),
            json!({"ports":[{"port":80,"endPort":90,"protocol":"TCP"},{"port":"http"}],"from":[{"podSelector":{},"namespaceSelector":{}}]}),
            json!({"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}]}),
        ] {
            assert_eq!(found(network_policy, &ingress(good)), Vec::<String>::new());
        }
        for (rule, wanted) in [
            (
                json!({"ports":[{"endPort":1}]}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 1: may not be specified when `port` is not specified",
            ),
            (
                json!({"ports":[{"port":"http","endPort":1}]}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
            ),
            (
                json!({"ports":[{"port":5,"endPort":4}]}),
                "spec.ingress[0].ports[0].endPort: Invalid value: 4: must be greater than or equal to `port`",
            ),
            (json!({"ports":[{"port":0}]}), "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
            (
                json!({"ports":[{"protocol":"ICMP"}]}),
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ),
            (json!({"from":[{}]}), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                json!({"from":[{"podSelector":{},"ipBlock":{"cidr":"10.0.0.0/8"}}]}),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (json!({"from":[{"ipBlock":{}}]}), "spec.ingress[0].from[0].ipBlock.cidr: Required value"),
            (
                json!({"from":[{"ipBlock":{"cidr":"10.0.0.0"}}]}),
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.0.0.0/8"]}}]}),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
        ] {
            assert_eq!(found(network_policy, &ingress(rule)), [wanted]);
        }
        let of = |cidr: &str| ingress(json!({"from":[{"ipBlock":{"cidr":cidr}}]}));
        let update = |new: &str| crate::validation::testing::found(network_policy, &of(new), Some(&of("10.0.0/8"))).len();
        assert_eq!((update("10.0.0/8"), update("11.0.0/8")), (0, 1), "what was there stays");
        assert_eq!(
            found(network_policy, &json!({"spec":{"policyTypes":["In"]}})),
            ["spec.policyTypes[0]: Unsupported value: \"In\": supported values: \"Ingress\", \"Egress\""]
        );
    }

    #[test]
    fn routes() {
        let service = json!({"service":{"name":"a","port":{"number":80}}});
        let path = |path: &str, kind: &str| json!({"spec":{"rules":[{"host":"a.b","http":{"paths":[{"path":path,"pathType":kind,"backend":service}]}}]}});
        for good in [path("/", "Prefix"), path("", "ImplementationSpecific"), json!({"spec":{"defaultBackend":service}})] {
            assert_eq!(found(ingress, &good), Vec::<String>::new());
        }
        let at_path = |why: &str| format!("spec.rules[0].http.paths[0].path: Invalid value: {why}");
        assert_eq!(found(ingress, &path("a", "Exact")), [at_path("\"a\": must be an absolute path")]);
        assert_eq!(
            found(ingress, &path("/a//b/.", "Prefix")),
            [at_path("\"/a//b/.\": must not contain '//'"), at_path("\"/a//b/.\": cannot end with '/.'")]
        );
        assert_eq!(
            found(ingress, &path("/", "Glob")),
            [
                "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Glob\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
            ]
        );
        assert_eq!(
            found(ingress, &json!({"spec":{}})),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
        for (default, wanted) in [
            (json!({}), "spec.defaultBackend: Invalid value: \"\": resource or service backend is required"),
            (json!({"service":{"name":"a"}}), "spec.defaultBackend: Required value: port name or number is required"),
            (
                json!({"service":{"name":"a","port":{"name":"x","number":1}}}),
                "spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number",
            ),
            (
                json!({"service":{"name":"a","port":{"number":1}},"resource":{"kind":"A","name":"b"}}),
                "spec.defaultBackend: Invalid value: \"\": cannot set both resource and service backends",
            ),
            (json!({"resource":{"name":"b"}}), "spec.defaultBackend.resource.kind: Required value"),
        ] {
            assert_eq!(found(ingress, &json!({"spec":{"defaultBackend":default}})), [wanted]);
        }
        for (host, good) in [("a.b", true), ("*.a.b", true), ("*", false), ("a.*.b", false), ("A", false), ("10.0.0.1", false)] {
            let found = found(ingress, &json!({"spec":{"defaultBackend":service,"rules":[{"host":host}]}}));
            assert_eq!(found.is_empty(), good, "{host}: {found:?}");
        }
    }

    #[test]
    fn classes() {
        let class = |controller: &str, parameters: Value| json!({"spec":{"controller":controller,"parameters":parameters}});
        assert_eq!(found(ingress_class, &class("a.b/c", Value::Null)), Vec::<String>::new());
        assert_eq!(found(ingress_class, &class("a.b/c", json!({"kind":"A","name":"b","scope":"Cluster"}))), Vec::<String>::new());
        assert_eq!(
            found(ingress_class, &class("a", Value::Null)),
            ["spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")"]
        );
        assert_eq!(found(ingress_class, &class("a.b/ ", Value::Null)).len(), 1);
        assert_eq!(
            found(ingress_class, &class(&format!("a.b/{}", "c".repeat(250)), Value::Null)),
            ["spec.controller: Too long: may not be more than 250 bytes"]
        );
        for (scope, namespace, wanted) in [
            (None, None, "spec.parameters.scope: Required value"),
            (Some("Namespace"), None, "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"),
            (Some("Cluster"), Some("a"), "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"),
            (Some("World"), None, "spec.parameters.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespace\""),
        ] {
            let parameters = json!({"kind":"A","name":"b","scope":scope,"namespace":namespace});
            assert_eq!(found(ingress_class, &class("a.b/c", parameters)), [wanted]);
        }
    }
}
