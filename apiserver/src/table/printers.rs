//! The columns of every kind but pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::{age, human, since};
pub(crate) use super::pod::PODS;
use super::{AGE, Column, Columns, NAME, col, int, wide};
use crate::resources::value::{at, items, number, text};
use wharf_core::selector::Selector;

/// Most items of a list that one cell shows.
const MAX_SHOWN: usize = 3;

pub(super) fn name(v: &Value) -> Value {
    text(v, &["metadata", "name"]).into()
}
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}
fn count(v: &Value, path: &[&str]) -> Value {
    number(v, path).unwrap_or(0).into()
}
pub(super) fn entries(v: &Value, path: &[&str]) -> usize {
    at(v, path).map_or(0, |v| v.as_object().map_or_else(|| v.as_array().map_or(0, Vec::len), serde_json::Map::len))
}
/// The first few of many.
fn few(list: Vec<String>, none: &str) -> Value {
    match list.len() {
        0 => none.into(),
        n if n > MAX_SHOWN => format!("{} + {} more...", list[..MAX_SHOWN].join(","), n - MAX_SHOWN).into(),
        _ => list.join(",").into(),
    }
}
fn containers(v: &Value) -> [Value; 2] {
    let list = items(v, &["spec", "template", "spec", "containers"]);
    let names = |field: &str| list.iter().map(|c| text(c, &[field])).collect::<Vec<_>>().join(",");
    [names("name").into(), names("image").into()]
}
pub(super) fn selector(v: &Value, path: &[&str]) -> Value {
    let found = at(v, path).and_then(|s| serde_json::from_value(s.clone()).ok()).and_then(|s| Selector::from_object(&s).ok());
    found.map_or_else(|| "<none>".into(), |s| or_none(&s.to_string()))
}
fn pairs(v: &Value, path: &[&str]) -> Value {
    let Some(Value::Object(map)) = at(v, path) else { return "<none>".into() };
    or_none(&map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(","))
}
fn with(mut first: Vec<Value>, more: impl IntoIterator<Item = Value>) -> Vec<Value> {
    first.extend(more);
    first
}

macro_rules! printer {
    ($(#[$doc:meta])* $name:ident, [$($column:expr),* $(,)?], |$v:ident, $now:ident| $cells:expr) => {
        $(#[$doc])*
        pub(crate) static $name: Columns = {
            const COLUMNS: &[Column] = &[$($column),*];
            fn cells($v: &Value, $now: Timestamp) -> Vec<Value> {
                $cells
            }
            Columns { columns: COLUMNS, cells }
        };
    };
}

pub(super) use printer;

printer!(NAME_AND_AGE, [NAME, AGE], |v, now| vec![name(v), age(v, now)]);
printer!(NAME_AND_CREATED, [NAME, col("Created At")], |v, _now| vec![name(v), text(v, &["metadata", "creationTimestamp"]).into()]);

printer!(
    DEPLOYMENTS,
    [NAME, col("Ready"), int("Up-to-date"), int("Available"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    |v, now| with(
        vec![
            name(v),
            format!("{}/{}", number(v, &["status", "readyReplicas"]).unwrap_or(0), number(v, &["spec", "replicas"]).unwrap_or(0)).into(),
            count(v, &["status", "updatedReplicas"]),
            count(v, &["status", "availableReplicas"]),
            age(v, now),
        ],
        with(containers(v).to_vec(), [selector(v, &["spec", "selector"])])
    )
);
printer!(
    REPLICA_SETS,
    [NAME, int("Desired"), int("Current"), int("Ready"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    |v, now| with(
        vec![
            name(v),
            count(v, &["spec", "replicas"]),
            count(v, &["status", "replicas"]),
            count(v, &["status", "readyReplicas"]),
            age(v, now)
        ],
        with(containers(v).to_vec(), [selector(v, &["spec", "selector"])])
    )
);
printer!(
    REPLICATION_CONTROLLERS,
    [NAME, int("Desired"), int("Current"), int("Ready"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    |v, now| with(
        vec![
            name(v),
            count(v, &["spec", "replicas"]),
            count(v, &["status", "replicas"]),
            count(v, &["status", "readyReplicas"]),
            age(v, now)
        ],
        with(containers(v).to_vec(), [pairs(v, &["spec", "selector"])])
    )
);
printer!(STATEFUL_SETS, [NAME, col("Ready"), AGE, wide("Containers"), wide("Images")], |v, now| with(
    vec![
        name(v),
        format!("{}/{}", number(v, &["status", "readyReplicas"]).unwrap_or(0), number(v, &["spec", "replicas"]).unwrap_or(0)).into(),
        age(v, now),
    ],
    containers(v)
));
printer!(
    DAEMON_SETS,
    [
        NAME,
        int("Desired"),
        int("Current"),
        int("Ready"),
        int("Up-to-date"),
        int("Available"),
        col("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector")
    ],
    |v, now| with(
        vec![
            name(v),
            count(v, &["status", "desiredNumberScheduled"]),
            count(v, &["status", "currentNumberScheduled"]),
            count(v, &["status", "numberReady"]),
            count(v, &["status", "updatedNumberScheduled"]),
            count(v, &["status", "numberAvailable"]),
            pairs(v, &["spec", "template", "spec", "nodeSelector"]),
            age(v, now),
        ],
        with(containers(v).to_vec(), [selector(v, &["spec", "selector"])])
    )
);
printer!(CONTROLLER_REVISIONS, [NAME, col("Controller"), int("Revision"), AGE], |v, now| {
    let owner = items(v, &["metadata", "ownerReferences"]).iter().find(|o| at(o, &["controller"]) == Some(&Value::Bool(true)));
    let controller = owner.map(|o| {
        let group = text(o, &["apiVersion"]).split_once('/').map(|(g, _)| format!(".{g}")).unwrap_or_default();
        format!("{}{group}/{}", text(o, &["kind"]).to_lowercase(), text(o, &["name"]))
    });
    vec![name(v), or_none(&controller.unwrap_or_default()), count(v, &["revision"]), age(v, now)]
});

fn service_ports(v: &Value) -> String {
    let one = |p: &Value| {
        let (port, protocol) = (number(p, &["port"]).unwrap_or(0), text(p, &["protocol"]));
        match number(p, &["nodePort"]).filter(|n| *n > 0) {
            Some(node) => format!("{port}:{node}/{protocol}"),
            None => format!("{port}/{protocol}"),
        }
    };
    items(v, &["spec", "ports"]).iter().map(one).collect::<Vec<_>>().join(",")
}
fn external_ip(v: &Value) -> Value {
    let extra: Vec<String> = items(v, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match text(v, &["spec", "type"]) {
        "ExternalName" => text(v, &["spec", "externalName"]).into(),
        "LoadBalancer" => {
            let ingress = items(v, &["status", "loadBalancer", "ingress"]).iter();
            let mut list: Vec<String> =
                ingress.map(|i| if text(i, &["ip"]).is_empty() { text(i, &["hostname"]) } else { text(i, &["ip"]) }.to_owned()).collect();
            list.extend(extra);
            if list.is_empty() { "<pending>".into() } else { list.join(",").into() }
        }
        _ => or_none(&extra.join(",")),
    }
}
printer!(SERVICES, [NAME, col("Type"), col("Cluster-IP"), col("External-IP"), col("Port(s)"), AGE, wide("Selector")], |v, now| vec![
    name(v),
    text(v, &["spec", "type"]).into(),
    or_none(text(v, &["spec", "clusterIP"])),
    external_ip(v),
    or_none(&service_ports(v)),
    age(v, now),
    pairs(v, &["spec", "selector"]),
]);
printer!(ENDPOINTS, [NAME, col("Endpoints"), AGE], |v, now| {
    let mut list = Vec::new();
    for subset in items(v, &["subsets"]) {
        for address in items(subset, &["addresses"]) {
            let ports = items(subset, &["ports"]);
            let ip = text(address, &["ip"]);
            if ports.is_empty() {
                list.push(ip.to_owned());
            }
            list.extend(ports.iter().map(|p| format!("{ip}:{}", number(p, &["port"]).unwrap_or(0))));
        }
    }
    vec![name(v), few(list, "<none>"), age(v, now)]
});
printer!(ENDPOINT_SLICES, [NAME, col("AddressType"), col("Ports"), col("Endpoints"), AGE], |v, now| {
    let ports = items(v, &["ports"]).iter().map(|p| number(p, &["port"]).map_or_else(|| "*".to_owned(), |n| n.to_string())).collect();
    let addresses = items(v, &["endpoints"]).iter().flat_map(|e| items(e, &["addresses"])).filter_map(Value::as_str).map(str::to_owned);
    vec![name(v), text(v, &["addressType"]).into(), few(ports, "<unset>"), few(addresses.collect(), "<unset>"), age(v, now)]
});

const ROLE: &str = "node-role.kubernetes.io/";
fn node_status(v: &Value) -> String {
    let ready = items(v, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Ready");
    let mut out = match ready.map(|c| text(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(v, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        out.push_str(",SchedulingDisabled");
    }
    out
}
fn node_address(v: &Value, kind: &str) -> Value {
    let found = items(v, &["status", "addresses"]).iter().find(|a| text(a, &["type"]) == kind);
    or_none(found.map(|a| text(a, &["address"])).unwrap_or_default())
}
printer!(
    NODES,
    [
        NAME,
        col("Status"),
        col("Roles"),
        AGE,
        col("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime")
    ],
    |v, now| {
        let labels = at(v, &["metadata", "labels"]).and_then(Value::as_object);
        let mut roles: Vec<&str> =
            labels.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix(ROLE)).filter(|r| !r.is_empty()).collect();
        roles.sort_unstable();
        let info = |field: &str| -> Value {
            let found = text(v, &["status", "nodeInfo", field]);
            if found.is_empty() { "<unknown>".into() } else { found.into() }
        };
        vec![
            name(v),
            node_status(v).into(),
            or_none(&roles.join(",")),
            age(v, now),
            text(v, &["status", "nodeInfo", "kubeletVersion"]).into(),
            node_address(v, "InternalIP"),
            node_address(v, "ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }
);
printer!(NAMESPACES, [NAME, col("Status"), AGE], |v, now| vec![name(v), text(v, &["status", "phase"]).into(), age(v, now)]);
printer!(CONFIG_MAPS, [NAME, int("Data"), AGE], |v, now| vec![
    name(v),
    (entries(v, &["data"]) + entries(v, &["binaryData"])).into(),
    age(v, now)
]);
printer!(SECRETS, [NAME, col("Type"), int("Data"), AGE], |v, now| vec![
    name(v),
    text(v, &["type"]).into(),
    entries(v, &["data"]).into(),
    age(v, now)
]);
printer!(SERVICE_ACCOUNTS, [NAME, int("Secrets"), AGE], |v, now| vec![name(v), entries(v, &["secrets"]).into(), age(v, now)]);

fn first_of<'a>(v: &'a Value, paths: &[&[&str]]) -> &'a str {
    paths.iter().map(|p| text(v, p)).find(|t| !t.is_empty()).unwrap_or_default()
}
fn event_object(v: &Value, field: &str) -> String {
    format!("{}/{}", text(v, &[field, "kind"]).to_lowercase(), text(v, &[field, "name"]))
}
printer!(
    EVENTS,
    [
        col("Last Seen"),
        col("Type"),
        col("Reason"),
        col("Object"),
        wide("Subobject"),
        wide("Source"),
        col("Message"),
        wide("First Seen"),
        wide("Count"),
        Column { priority: 1, ..NAME }
    ],
    |v, now| {
        let first = first_of(v, &[&["firstTimestamp"], &["eventTime"], &["metadata", "creationTimestamp"]]);
        let last = first_of(v, &[&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"], &["metadata", "creationTimestamp"]]);
        let source = match (text(v, &["source", "component"]), text(v, &["source", "host"])) {
            ("", _) => text(v, &["reportingComponent"]).to_owned(),
            (component, "") => component.to_owned(),
            (component, host) => format!("{component}, {host}"),
        };
        let times = number(v, &["series", "count"]).or_else(|| number(v, &["count"])).unwrap_or(1).max(1);
        vec![
            since(last, now).into(),
            text(v, &["type"]).into(),
            text(v, &["reason"]).into(),
            event_object(v, "involvedObject").into(),
            text(v, &["involvedObject", "fieldPath"]).into(),
            source.into(),
            text(v, &["message"]).trim().into(),
            since(first, now).into(),
            times.into(),
            name(v),
        ]
    }
);

fn access_modes(v: &Value, path: &[&str]) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    items(v, path).iter().map(short).collect::<Vec<_>>().join(",")
}
printer!(
    PERSISTENT_VOLUMES,
    [
        NAME,
        col("Capacity"),
        col("Access Modes"),
        col("Reclaim Policy"),
        col("Status"),
        col("Claim"),
        col("StorageClass"),
        col("VolumeAttributesClass"),
        col("Reason"),
        AGE,
        wide("VolumeMode")
    ],
    |v, now| {
        let claim = match text(v, &["spec", "claimRef", "name"]) {
            "" => String::new(),
            name => format!("{}/{name}", text(v, &["spec", "claimRef", "namespace"])),
        };
        let phase = if at(v, &["metadata", "deletionTimestamp"]).is_some() { "Terminating" } else { text(v, &["status", "phase"]) };
        vec![
            name(v),
            text(v, &["spec", "capacity", "storage"]).into(),
            access_modes(v, &["spec", "accessModes"]).into(),
            text(v, &["spec", "persistentVolumeReclaimPolicy"]).into(),
            phase.into(),
            claim.into(),
            text(v, &["spec", "storageClassName"]).into(),
            or_unset(text(v, &["spec", "volumeAttributesClassName"])),
            text(v, &["status", "reason"]).into(),
            age(v, now),
            or_unset(text(v, &["spec", "volumeMode"])),
        ]
    }
);
fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}
printer!(
    PERSISTENT_VOLUME_CLAIMS,
    [
        NAME,
        col("Status"),
        col("Volume"),
        col("Capacity"),
        col("Access Modes"),
        col("StorageClass"),
        col("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode")
    ],
    |v, now| {
        let phase = if at(v, &["metadata", "deletionTimestamp"]).is_some() { "Terminating" } else { text(v, &["status", "phase"]) };
        let bound = !text(v, &["spec", "volumeName"]).is_empty();
        vec![
            name(v),
            phase.into(),
            text(v, &["spec", "volumeName"]).into(),
            if bound { text(v, &["status", "capacity", "storage"]).into() } else { "".into() },
            if bound { access_modes(v, &["status", "accessModes"]).into() } else { "".into() },
            text(v, &["spec", "storageClassName"]).into(),
            or_unset(text(v, &["spec", "volumeAttributesClassName"])),
            age(v, now),
            or_unset(text(v, &["spec", "volumeMode"])),
        ]
    }
);
printer!(LIMIT_RANGES, [NAME, col("Created At")], |v, _now| vec![name(v), text(v, &["metadata", "creationTimestamp"]).into()]);
printer!(RESOURCE_QUOTAS, [NAME, col("Request"), col("Limit"), AGE], |v, now| {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let hard = at(v, &["status", "hard"]).or_else(|| at(v, &["spec", "hard"])).and_then(Value::as_object);
    for (resource, amount) in hard.into_iter().flatten() {
        let used = text(v, &["status", "used", resource]);
        let cell = format!("{resource}: {}/{}", if used.is_empty() { "0" } else { used }, amount.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(v), requests.join(", ").into(), limits.join(", ").into(), age(v, now)]
});
printer!(POD_TEMPLATES, [NAME, col("Containers"), col("Images"), col("Pod Labels")], |v, _now| {
    let list = items(v, &["template", "spec", "containers"]);
    let names = |field: &str| list.iter().map(|c| text(c, &[field])).collect::<Vec<_>>().join(",");
    vec![name(v), names("name").into(), names("image").into(), pairs(v, &["template", "metadata", "labels"])]
});

fn job_duration(v: &Value, now: Timestamp) -> String {
    let Ok(start) = text(v, &["status", "startTime"]).parse::<Timestamp>() else { return String::new() };
    let end = text(v, &["status", "completionTime"]).parse::<Timestamp>().unwrap_or(now);
    human(end.duration_since(start).as_secs())
}
fn job_status(v: &Value) -> &'static str {
    let is = |kind: &str| items(v, &["status", "conditions"]).iter().any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if at(v, &["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}
printer!(
    JOBS,
    [NAME, col("Status"), col("Completions"), col("Duration"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    |v, now| {
        let succeeded = number(v, &["status", "succeeded"]).unwrap_or(0);
        let completions = match (number(v, &["spec", "completions"]), number(v, &["spec", "parallelism"]).unwrap_or(0)) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            (None, _) => format!("{succeeded}/1"),
        };
        with(
            vec![name(v), job_status(v).into(), completions.into(), job_duration(v, now).into(), age(v, now)],
            with(containers(v).to_vec(), [selector(v, &["spec", "selector"])]),
        )
    }
);
printer!(
    CRON_JOBS,
    [
        NAME,
        col("Schedule"),
        col("Timezone"),
        col("Suspend"),
        int("Active"),
        col("Last Schedule"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector")
    ],
    |v, now| {
        let last = text(v, &["status", "lastScheduleTime"]);
        let empty = json!({});
        let job = at(v, &["spec", "jobTemplate"]).unwrap_or(&empty);
        let suspended = at(v, &["spec", "suspend"]) == Some(&Value::Bool(true));
        with(
            vec![
                name(v),
                text(v, &["spec", "schedule"]).into(),
                or_none(text(v, &["spec", "timeZone"])),
                if suspended { "True" } else { "False" }.into(),
                items(v, &["status", "active"]).len().into(),
                if last.is_empty() { "<none>".into() } else { since(last, now).into() },
                age(v, now),
            ],
            with(containers(job).to_vec(), [selector(job, &["spec", "selector"])]),
        )
    }
);
/// One metric of an autoscaler: what is, and what is wanted.
fn metric(spec: &Value, status: Option<&Value>) -> String {
    let source = match text(spec, &["type"]) {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        _ => return "<unknown type>".into(),
    };
    let wanted = |name: &str| at(spec, &[source, "target", name]);
    let current = |name: &str| status.and_then(|s| at(s, &[source, "current", name]));
    let quantity = |found: Option<&Value>| found.and_then(Value::as_str).unwrap_or("<unknown>").to_owned();
    let share = |found: Option<&Value>, none: &str| found.map_or_else(|| none.to_owned(), |n| format!("{n}%"));
    let average = wanted("averageValue").is_some();
    let [is, target] = match (source, average) {
        ("resource" | "containerResource", false) => {
            [share(current("averageUtilization"), "<unknown>"), share(wanted("averageUtilization"), "<auto>")]
        }
        ("external" | "object", false) => [quantity(current("value")), quantity(wanted("value"))],
        _ => [quantity(current("averageValue")), quantity(wanted("averageValue"))],
    };
    match source {
        "resource" | "containerResource" => format!("{}: {is}/{target}", text(spec, &[source, "name"])),
        "external" | "object" if average => format!("{is}/{target} (avg)"),
        _ => format!("{is}/{target}"),
    }
}
fn metrics(v: &Value) -> String {
    const MOST: usize = 2;
    let current = items(v, &["status", "currentMetrics"]);
    let all: Vec<String> = items(v, &["spec", "metrics"]).iter().enumerate().map(|(i, spec)| metric(spec, current.get(i))).collect();
    match all.len() {
        0 => "<none>".into(),
        n if n > MOST => format!("{} + {} more...", all[..MOST].join(", "), n - MOST),
        _ => all.join(", "),
    }
}
fn autoscaler(v: &Value, now: Timestamp) -> Vec<Value> {
    let reference = format!("{}/{}", text(v, &["spec", "scaleTargetRef", "kind"]), text(v, &["spec", "scaleTargetRef", "name"]));
    vec![
        name(v),
        reference.into(),
        metrics(v).into(),
        number(v, &["spec", "minReplicas"]).map_or_else(|| "<unset>".into(), Value::from),
        count(v, &["spec", "maxReplicas"]),
        count(v, &["status", "currentReplicas"]),
        age(v, now),
    ]
}
printer!(
    HORIZONTAL_POD_AUTOSCALERS,
    [NAME, col("Reference"), col("Targets"), int("MinPods"), int("MaxPods"), int("Replicas"), AGE],
    |v, now| autoscaler(v, now)
);
printer!(
    /// Of the older version: the same columns.
    HORIZONTAL_POD_AUTOSCALERS_V1,
    [NAME, col("Reference"), col("Targets"), int("MinPods"), int("MaxPods"), int("Replicas"), AGE],
    |v, now| autoscaler(&crate::resources::autoscaling::store(v.clone()), now)
);
printer!(INGRESSES, [NAME, col("Class"), col("Hosts"), col("Address"), col("Ports"), AGE], |v, now| {
    let hosts = items(v, &["spec", "rules"]).iter().map(|r| text(r, &["host"])).filter(|h| !h.is_empty()).map(str::to_owned).collect();
    let ingress = items(v, &["status", "loadBalancer", "ingress"]).iter();
    let addresses: Vec<&str> =
        ingress.map(|i| if text(i, &["ip"]).is_empty() { text(i, &["hostname"]) } else { text(i, &["ip"]) }).collect();
    let ports = if items(v, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![name(v), or_none(text(v, &["spec", "ingressClassName"])), few(hosts, "*"), addresses.join(",").into(), ports.into(), age(v, now)]
});
printer!(INGRESS_CLASSES, [NAME, col("Controller"), col("Parameters"), AGE], |v, now| {
    let parameters = match text(v, &["spec", "parameters", "name"]) {
        "" => String::new(),
        name => {
            let group = text(v, &["spec", "parameters", "apiGroup"]);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{name}", text(v, &["spec", "parameters", "kind"]))
        }
    };
    vec![name(v), text(v, &["spec", "controller"]).into(), or_none(&parameters), age(v, now)]
});
printer!(NETWORK_POLICIES, [NAME, col("Pod-Selector"), AGE], |v, now| vec![name(v), selector(v, &["spec", "podSelector"]), age(v, now)]);
printer!(POD_DISRUPTION_BUDGETS, [NAME, col("Min Available"), col("Max Unavailable"), int("Allowed Disruptions"), AGE], |v, now| {
    let amount = |field: &str| -> Value {
        match at(v, &["spec", field]) {
            Some(Value::String(text)) => text.as_str().into(),
            Some(other) => other.to_string().into(),
            None => "N/A".into(),
        }
    };
    vec![name(v), amount("minAvailable"), amount("maxUnavailable"), count(v, &["status", "disruptionsAllowed"]), age(v, now)]
});
fn subjects(v: &Value, kind: &str) -> Value {
    let of = items(v, &["subjects"]).iter().filter(|s| text(s, &["kind"]) == kind);
    let names: Vec<String> = of
        .map(|s| match text(s, &["namespace"]) {
            "" => text(s, &["name"]).to_owned(),
            namespace => format!("{namespace}/{}", text(s, &["name"])),
        })
        .collect();
    names.join(", ").into()
}
printer!(ROLE_BINDINGS, [NAME, col("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")], |v, now| vec![
    name(v),
    format!("{}/{}", text(v, &["roleRef", "kind"]), text(v, &["roleRef", "name"])).into(),
    age(v, now),
    subjects(v, "User"),
    subjects(v, "Group"),
    subjects(v, "ServiceAccount"),
]);
printer!(LEASES, [NAME, col("Holder"), AGE], |v, now| vec![name(v), text(v, &["spec", "holderIdentity"]).into(), age(v, now)]);
printer!(PRIORITY_CLASSES, [NAME, int("Value"), col("Global-Default"), AGE, col("PreemptionPolicy")], |v, now| vec![
    name(v),
    count(v, &["value"]),
    at(v, &["globalDefault"]).and_then(Value::as_bool).unwrap_or(false).to_string().into(),
    age(v, now),
    text(v, &["preemptionPolicy"]).into(),
]);
printer!(
    STORAGE_CLASSES,
    [NAME, col("Provisioner"), col("ReclaimPolicy"), col("VolumeBindingMode"), col("AllowVolumeExpansion"), AGE],
    |v, now| {
        let default = text(v, &["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"]) == "true";
        let shown = format!("{}{}", text(v, &["metadata", "name"]), if default { " (default)" } else { "" });
        vec![
            shown.into(),
            text(v, &["provisioner"]).into(),
            text(v, &["reclaimPolicy"]).into(),
            text(v, &["volumeBindingMode"]).into(),
            at(v, &["allowVolumeExpansion"]).and_then(Value::as_bool).unwrap_or(false).to_string().into(),
            age(v, now),
        ]
    }
);
printer!(RUNTIME_CLASSES, [NAME, col("Handler"), AGE], |v, now| vec![name(v), text(v, &["handler"]).into(), age(v, now)]);
printer!(
    CERTIFICATE_SIGNING_REQUESTS,
    [NAME, AGE, col("SignerName"), col("Requestor"), col("RequestedDuration"), col("Condition")],
    |v, now| {
        let mut conditions: Vec<&str> = items(v, &["status", "conditions"]).iter().map(|c| text(c, &["type"])).collect();
        if conditions.is_empty() {
            conditions.push("Pending");
        }
        if !text(v, &["status", "certificate"]).is_empty() {
            conditions.push("Issued");
        }
        vec![
            name(v),
            age(v, now),
            or_none(text(v, &["spec", "signerName"])),
            text(v, &["spec", "username"]).into(),
            number(v, &["spec", "expirationSeconds"]).map_or_else(|| "<none>".into(), |s| human(s).into()),
            conditions.join(",").into(),
        ]
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_autoscalers() {
        let cpu = json!({"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}});
        let pods = json!({"type":"Pods","pods":{"metric":{"name":"qps"},"target":{"averageValue":"1k"}}});
        let queue = json!({"type":"External","external":{"target":{"averageValue":"30"}}});
        let current = json!([{"resource":{"current":{"averageUtilization":12}}}]);
        let shown = |specs: Value| metrics(&json!({"spec":{"metrics":specs},"status":{"currentMetrics":current}}));
        assert_eq!(shown(json!([cpu])), "cpu: 12%/80%");
        assert_eq!(shown(json!([cpu, queue])), "cpu: 12%/80%, <unknown>/30 (avg)");
        assert_eq!(shown(json!([cpu, pods, queue])), "cpu: 12%/80%, <unknown>/1k + 1 more...");
        assert_eq!(shown(json!([])), "<none>");
    }
}
