//! Pods and pod templates.

use std::collections::HashSet;

use serde_json::{Value, json};
use wharf_core::quantity::Quantity;

use super::metadata::{label_1123, subdomain};
use super::volume::relative;
use super::{ADDRESS, Causes, duplicate, forbidden, invalid, one_of, required};
use crate::resources::value::{as_map, at, items, number, text};

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// Pods.
pub(crate) fn pod(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    spec(new.get("spec").unwrap_or(&Value::Null), "spec", causes);
    match old {
        Some(old) if !may_become(new, old) => forbidden(causes, "spec", UPDATE),
        Some(_) => {}
        None => {
            if !items(new, &["spec", "ephemeralContainers"]).is_empty() {
                forbidden(causes, "spec.ephemeralContainers", "cannot be set on create");
            }
            if !text(new, &["spec", "nodeName"]).is_empty() && !items(new, &["spec", "schedulingGates"]).is_empty() {
                forbidden(causes, "spec.nodeName", "cannot be set until all schedulingGates have been cleared");
            }
        }
    }
}

/// Whether a change of a pod's spec is one that a pod may undergo.
fn may_become(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.get("spec"), old.get("spec")) else { return true };
    if new == old {
        return true;
    }
    let mut same = new.clone();
    let map = as_map(&mut same);
    for name in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        match old.get(name) {
            Some(value) => map.insert(name.into(), value.clone()),
            None => map.remove(name),
        };
    }
    let gated = !items(old, &["schedulingGates"]).is_empty();
    if gated {
        for name in ["schedulingGates", "nodeSelector", "affinity"] {
            match old.get(name) {
                Some(value) => map.insert(name.into(), value.clone()),
                None => map.remove(name),
            };
        }
    }
    for list in ["containers", "initContainers"] {
        let before = items(old, &[list]);
        if let Some(Value::Array(now)) = map.get_mut(list) {
            for (i, container) in now.iter_mut().enumerate() {
                if let Some(image) = before.get(i).and_then(|c| c.get("image")) {
                    as_map(container).insert("image".into(), image.clone());
                }
            }
        }
    }
    let kept = items(old, &["tolerations"]).iter().all(|t| {
        items(new, &["tolerations"]).iter().any(|n| n == t || (n.get("key") == t.get("key") && n.get("effect") == t.get("effect")))
    });
    kept && same == *old
}

/// The spec of a pod at a field.
pub(super) fn spec(spec: &Value, field: &str, causes: &mut Causes) {
    let volumes = super::volume::volumes(spec, field, causes);
    let mut names = HashSet::new();
    let containers = items(spec, &["containers"]);
    if containers.is_empty() {
        required(causes, &format!("{field}.containers"), "");
    }
    let lists = [("initContainers", items(spec, &["initContainers"])), ("containers", containers)];
    for (list, containers) in lists {
        for (i, one) in containers.iter().enumerate() {
            let here = format!("{field}.{list}[{i}]");
            container(one, &here, &volumes, list == "initContainers", causes);
            let name = text(one, &["name"]);
            if !name.is_empty() && !names.insert(name) {
                duplicate(causes, &format!("{here}.name"), &name.into());
            }
        }
    }
    one_of(causes, &format!("{field}.restartPolicy"), spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    one_of(causes, &format!("{field}.dnsPolicy"), spec.get("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    if let Some(seconds) = number(spec, &["terminationGracePeriodSeconds"]).filter(|s| *s < 0) {
        invalid(causes, &format!("{field}.terminationGracePeriodSeconds"), &seconds.into(), "must be greater than or equal to 0");
    }
    if let Some(seconds) = number(spec, &["activeDeadlineSeconds"]).filter(|s| *s < 1) {
        invalid(causes, &format!("{field}.activeDeadlineSeconds"), &seconds.into(), "must be between 1 and 2147483647, inclusive");
    }
    for (name, rule) in [
        ("serviceAccountName", subdomain as fn(&str) -> Option<&'static str>),
        ("hostname", label_1123),
        ("subdomain", label_1123),
        ("nodeName", subdomain),
        ("runtimeClassName", subdomain),
    ] {
        let value = text(spec, &[name]);
        if !value.is_empty()
            && let Some(why) = rule(value)
        {
            invalid(causes, &format!("{field}.{name}"), &value.into(), why);
        }
    }
    super::metadata::labels(at(spec, &["nodeSelector"]), &format!("{field}.nodeSelector"), causes);
    tolerations(spec, &format!("{field}.tolerations"), causes);
    amounts(at(spec, &["overhead"]), &format!("{field}.overhead.limits"), causes);
    super::affinity::affinity(spec, field, causes);
    super::affinity::spread(spec, field, causes);
    super::affinity::gates(spec, field, causes);
    super::security::of_pod(spec, field, causes);
    network(spec, field, causes);
    sleeps(spec, field, causes);
    one_of(causes, &format!("{field}.os.name"), at(spec, &["os", "name"]), &["linux", "windows"]);
    one_of(causes, &format!("{field}.preemptionPolicy"), at(spec, &["preemptionPolicy"]), &["Never", "PreemptLowerPriority"]);
}

/// Hooks that sleep must be done within the pod's grace.
fn sleeps(spec: &Value, field: &str, causes: &mut Causes) {
    let grace = number(spec, &["terminationGracePeriodSeconds"]).unwrap_or(30);
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, &[list]).iter().enumerate() {
            for hook in ["postStart", "preStop"] {
                let seconds = number(container, &["lifecycle", hook, "sleep", "seconds"]);
                if let Some(seconds) = seconds.filter(|seconds| !(0..=grace).contains(seconds)) {
                    let here = format!("{field}.{list}[{i}].lifecycle.{hook}.sleep");
                    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    invalid(causes, &here, &seconds.into(), &why);
                }
            }
        }
    }
}

/// Names and addresses of a pod's network.
fn network(spec: &Value, field: &str, causes: &mut Causes) {
    if at(spec, &["hostNetwork"]) == Some(&Value::Bool(true)) {
        for (i, container) in items(spec, &["containers"]).iter().enumerate() {
            for (j, port) in items(container, &["ports"]).iter().enumerate() {
                let [inside, outside] = ["containerPort", "hostPort"].map(|name| number(port, &[name]).unwrap_or(0));
                if inside != outside {
                    let here = format!("{field}.containers[{i}].ports[{j}].hostPort");
                    invalid(causes, &here, &outside.into(), "must match `containerPort` when `hostNetwork` is true");
                }
            }
        }
    }
    let is_address = |ip: &Value| ip.as_str().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok());
    for (i, alias) in items(spec, &["hostAliases"]).iter().enumerate() {
        let here = format!("{field}.hostAliases[{i}]");
        if !alias.get("ip").is_some_and(is_address) {
            invalid(causes, &format!("{here}.ip"), alias.get("ip").unwrap_or(&json!("")), ADDRESS);
        }
        for (j, name) in items(alias, &["hostnames"]).iter().enumerate() {
            if let Some(why) = subdomain(name.as_str().unwrap_or_default()) {
                invalid(causes, &format!("{here}.hostnames[{j}]"), name, why);
            }
        }
    }
    let config = at(spec, &["dnsConfig"]);
    let here = format!("{field}.dnsConfig");
    let (servers, searches) = (items(spec, &["dnsConfig", "nameservers"]), items(spec, &["dnsConfig", "searches"]));
    if text(spec, &["dnsPolicy"]) == "None" {
        if config.is_none() {
            required(causes, &here, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.is_empty() {
            required(causes, &format!("{here}.nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        invalid(causes, &format!("{here}.nameservers"), &servers.into(), "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate().filter(|(_, server)| !is_address(server)) {
        invalid(causes, &format!("{here}.nameservers[{i}]"), server, ADDRESS);
    }
    if searches.len() > MAX_SEARCHES {
        invalid(causes, &format!("{here}.searches"), &searches.into(), "must not have more than 32 search paths");
    }
    for (i, option) in items(spec, &["dnsConfig", "options"]).iter().enumerate() {
        if text(option, &["name"]).is_empty() {
            required(causes, &format!("{here}.options[{i}]"), "must not be empty");
        }
    }
}

/// The tolerations of a pod or of what is merged into one.
pub(super) fn tolerations(parent: &Value, field: &str, causes: &mut Causes) {
    for (i, toleration) in items(parent, &["tolerations"]).iter().enumerate() {
        let here = format!("{field}[{i}]");
        one_of(
            causes,
            &format!("{here}.effect"),
            toleration.get("effect").filter(|e| *e != ""),
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
        let exists = text(toleration, &["operator"]) == "Exists";
        if exists && !text(toleration, &["value"]).is_empty() {
            invalid(causes, &format!("{here}.operator"), &json!("Exists"), "value must be empty when `operator` is 'Exists'");
        }
        if text(toleration, &["key"]).is_empty() && !exists {
            invalid(
                causes,
                &format!("{here}.operator"),
                &toleration.get("operator").cloned().unwrap_or_else(|| "".into()),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
    }
}

pub(super) fn container(c: &Value, field: &str, volumes: &HashSet<&str>, init: bool, causes: &mut Causes) {
    let name = text(c, &["name"]);
    if name.is_empty() {
        required(causes, &format!("{field}.name"), "");
    } else if let Some(why) = label_1123(name) {
        invalid(causes, &format!("{field}.name"), &name.into(), why);
    }
    let image = text(c, &["image"]);
    if image.is_empty() {
        required(causes, &format!("{field}.image"), "");
    } else if image.trim() != image {
        invalid(causes, &format!("{field}.image"), &image.into(), "must not have leading or trailing whitespace");
    }
    one_of(causes, &format!("{field}.imagePullPolicy"), c.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    let (mut port_names, mut host_ports) = (HashSet::new(), HashSet::new());
    for (i, port) in items(c, &["ports"]).iter().enumerate() {
        let here = format!("{field}.ports[{i}]");
        port_number(port.get("containerPort"), &format!("{here}.containerPort"), causes);
        one_of(causes, &format!("{here}.protocol"), port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        let name = text(port, &["name"]);
        if !name.is_empty() {
            if let Some(why) = port_name(name) {
                invalid(causes, &format!("{here}.name"), &name.into(), why);
            } else if !port_names.insert(name) {
                duplicate(causes, &format!("{here}.name"), &name.into());
            }
        }
        if let Some(host) = number(port, &["hostPort"]).filter(|p| *p != 0) {
            port_number(port.get("hostPort"), &format!("{here}.hostPort"), causes);
            if !host_ports.insert((host, text(port, &["protocol"]), text(port, &["hostIP"]))) {
                duplicate(causes, &format!("{here}.hostPort"), &host.into());
            }
        }
    }
    super::env::env(c, field, causes);
    super::security::of_container(c, field, causes);
    let policies = &["FallbackToLogsOnError", "File"];
    one_of(causes, &format!("{field}.terminationMessagePolicy"), c.get("terminationMessagePolicy"), policies);
    let mut paths = HashSet::new();
    for (i, mount) in items(c, &["volumeMounts"]).iter().enumerate() {
        let here = format!("{field}.volumeMounts[{i}]");
        let name = text(mount, &["name"]);
        if name.is_empty() {
            required(causes, &format!("{here}.name"), "");
        } else if !volumes.contains(name) {
            causes.push(crate::rest::status::cause("FieldValueNotFound", format!("Not found: \"{name}\""), &format!("{here}.name")));
        }
        let path = text(mount, &["mountPath"]);
        if path.is_empty() {
            required(causes, &format!("{here}.mountPath"), "");
        } else if !paths.insert(path) {
            invalid(causes, &format!("{here}.mountPath"), &path.into(), "must be unique");
        }
        let sub = text(mount, &["subPath"]);
        relative(sub, &format!("{here}.subPath"), causes);
    }
    resources(c, field, causes);
    let sidecar = text(c, &["restartPolicy"]) == "Always";
    if let Some(lifecycle) = at(c, &["lifecycle"]) {
        let here = format!("{field}.lifecycle");
        if init && !sidecar {
            forbidden(causes, &here, "may not be set for init containers without restartPolicy=Always");
        } else {
            for hook in ["postStart", "preStop"] {
                if let Some(hooked) = at(lifecycle, &[hook]) {
                    handler(hooked, &["exec", "httpGet", "tcpSocket", "sleep"], &format!("{here}.{hook}"), causes);
                }
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = at(c, &[name]) else { continue };
        let here = format!("{field}.{name}");
        if init && !sidecar {
            forbidden(causes, &here, "may not be set for init containers without restartPolicy=Always");
            continue;
        }
        handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], &here, causes);
        for part in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
            if let Some(value) = number(probe, &[part]).filter(|v| *v < 0) {
                invalid(causes, &format!("{here}.{part}"), &value.into(), "must be greater than or equal to 0");
            }
        }
        if name != "readinessProbe" && number(probe, &["successThreshold"]).is_some_and(|n| n != 1) {
            invalid(causes, &format!("{here}.successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
}

/// What is done to probe a container, or as a hook: one of a few.
fn handler(probe: &Value, known: &[&'static str], field: &str, causes: &mut Causes) {
    let kinds: Vec<&str> = known.iter().copied().filter(|k| at(probe, &[k]).is_some()).collect();
    match kinds.as_slice() {
        [] => required(causes, field, "must specify a handler type"),
        ["exec"] if items(probe, &["exec", "command"]).is_empty() => required(causes, &format!("{field}.exec.command"), ""),
        ["exec"] => {}
        // How long is judged with the pod's grace.
        ["sleep"] => {}
        ["grpc"] => port_number(at(probe, &["grpc", "port"]), &format!("{field}.grpc.port"), causes),
        [kind] => match at(probe, &[kind, "port"]) {
            Some(Value::String(name)) => {
                if let Some(why) = port_name(name) {
                    invalid(causes, &format!("{field}.{kind}.port"), &name.as_str().into(), why);
                }
            }
            port => port_number(port, &format!("{field}.{kind}.port"), causes),
        },
        [_, more, ..] => forbidden(causes, &format!("{field}.{more}"), "may not specify more than 1 handler type"),
    }
}

/// A port from 1 to 65535.
pub(super) fn port_number(port: Option<&Value>, field: &str, causes: &mut Causes) {
    match port.and_then(Value::as_i64) {
        None | Some(0) if port.is_none() || port.and_then(Value::as_i64) == Some(0) => required(causes, field, ""),
        Some(1..=65_535) => {}
        _ => invalid(causes, field, port.unwrap_or(&Value::Null), "must be between 1 and 65535, inclusive"),
    }
}

/// What is wrong with the name of a port.
pub(super) fn port_name(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        return Some("must be no more than 15 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        return Some("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        return Some("must not contain consecutive hyphens");
    }
    (name.starts_with('-') || name.ends_with('-')).then_some("must not begin or end with a hyphen")
}

pub(super) fn amount(value: &Value) -> Result<Quantity, String> {
    value.as_str().unwrap_or_default().parse::<Quantity>().map_err(|e| e.to_string())
}

/// A list of resources: amounts that are none or more.
pub(super) fn amounts(list: Option<&Value>, field: &str, causes: &mut Causes) {
    for (name, value) in list.and_then(Value::as_object).into_iter().flatten() {
        let here = format!("{field}[{name}]");
        match amount(value) {
            Err(why) => invalid(causes, &here, value, &why),
            Ok(quantity) if quantity.is_negative() => invalid(causes, &here, value, "must be greater than or equal to 0"),
            Ok(_) => {}
        }
    }
}

/// Amounts must be amounts, and requests within limits.
fn resources(c: &Value, field: &str, causes: &mut Causes) {
    for part in ["limits", "requests"] {
        amounts(at(c, &["resources", part]), &format!("{field}.resources.{part}"), causes);
    }
    for (name, value) in at(c, &["resources", "requests"]).and_then(Value::as_object).into_iter().flatten() {
        let Some(limit) = at(c, &["resources", "limits", name]) else { continue };
        if let (Ok(request), Ok(most)) = (amount(value), amount(limit))
            && request > most
        {
            let why = format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
            invalid(causes, &format!("{field}.resources.requests"), value, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pod_value: Value) -> Vec<String> {
        crate::validation::testing::found(pod, &pod_value, None)
    }

    #[test]
    fn finds_what_users_get_wrong() {
        assert_eq!(found(json!({"spec":{}})), ["spec.containers: Required value"]);
        let bad = json!({"spec":{"containers":[
            {"name":"A","image":"x","volumeMounts":[{"name":"v","mountPath":"/a"}]},
            {"name":"b","resources":{"requests":{"cpu":"2"},"limits":{"cpu":"1","memory":"1Qx"}},"ports":[{"containerPort":70000}]},
            {"name":"b","image":"y","livenessProbe":{}}]}});
        let found = found(bad).join("\n");
        for part in [
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[1].image: Required value",
            "spec.containers[1].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[1].resources.limits[memory]: Invalid value",
            "spec.containers[1].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[2].name: Duplicate value: \"b\"",
            "spec.containers[2].livenessProbe: Required value: must specify a handler type",
        ] {
            assert!(found.contains(part), "{part}\n--\n{found}");
        }
    }

    #[test]
    fn networks_and_hooks() {
        let with = |more: Value| {
            let mut spec = json!({"containers":[{"name":"a","image":"x"}],"restartPolicy":"Always"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            found(json!({"spec":spec}))
        };
        let ports = |ports: Value| with(json!({"hostNetwork":true,"containers":[{"name":"a","image":"x","ports":ports}]}));
        assert_eq!(ports(json!([{"containerPort":80,"hostPort":80}])), Vec::<String>::new());
        let other = "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true";
        assert_eq!(ports(json!([{"containerPort":80,"hostPort":81}])), [other]);
        let hooked = |hook: Value| with(json!({"containers":[{"name":"a","image":"x","lifecycle":{"preStop":hook}}]}));
        assert_eq!(hooked(json!({"sleep":{"seconds":30}})), Vec::<String>::new());
        for (hook, wanted) in [
            (json!({}), "preStop: Required value: must specify a handler type"),
            (json!({"exec":{"command":["a"]},"sleep":{"seconds":1}}), "preStop.sleep: Forbidden: may not specify more than 1 handler type"),
            (
                json!({"sleep":{"seconds":31}}),
                "preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ),
        ] {
            let all = hooked(hook);
            assert!(all.contains(&format!("spec.containers[0].lifecycle.{wanted}")), "{all:?}");
        }
        assert_eq!(
            with(json!({"dnsPolicy":"None"})),
            ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]
        );
        assert_eq!(
            with(json!({"dnsConfig":{"nameservers":["1.1.1.1","x"],"options":[{}]}})),
            [
                format!("spec.dnsConfig.nameservers[1]: Invalid value: \"x\": {ADDRESS}"),
                "spec.dnsConfig.options[0]: Required value: must not be empty".into()
            ]
        );
        assert_eq!(with(json!({"hostAliases":[{"ip":"a"}]})), [format!("spec.hostAliases[0].ip: Invalid value: \"a\": {ADDRESS}")]);
    }

    #[test]
    fn only_images_and_a_few_others_change() {
        let old = json!({"spec":{"containers":[{"name":"a","image":"x"}]}});
        let with = |spec: Value| json!({"spec": spec});
        assert!(may_become(&with(json!({"containers":[{"name":"a","image":"y"}]})), &old));
        assert!(!may_become(&with(json!({"nodeName":"n","containers":[{"name":"a","image":"x"}]})), &old));
        assert!(!may_become(&with(json!({"containers":[{"name":"b","image":"x"}]})), &old));
        let bound = with(json!({"nodeName":"n","containers":[{"name":"a","image":"x"}]}));
        assert!(!may_become(&with(json!({"nodeName":"m","containers":[{"name":"a","image":"x"}]})), &bound));
    }
}
