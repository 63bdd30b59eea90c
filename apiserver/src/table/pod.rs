//! The columns of pods: what kubectl users read a pod's state from.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::{age, since};
use super::{AGE, Column, Columns, NAME, col, wide};
use crate::resources::value::{at, items, number, text};

const COLUMNS: &[Column] =
    &[NAME, col("Ready"), col("Status"), col("Restarts"), AGE, wide("IP"), wide("Node"), wide("Nominated Node"), wide("Readiness Gates")];

/// Pods.
pub(crate) static PODS: Columns = Columns { columns: COLUMNS, cells };

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    items(pod, &["status", "conditions"]).iter().any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
}

/// An init container that runs as long as the pod.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    items(pod, &["spec", "initContainers"]).iter().any(|c| text(c, &["name"]) == name && text(c, &["restartPolicy"]) == "Always")
}

struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, &["restartCount"]).unwrap_or(0);
        let finished = text(status, &["lastState", "terminated", "finishedAt"]).parse().ok();
        self.last = self.last.max(finished);
    }
}

/// Why a container is not running.
fn terminated_reason(status: &Value, prefix: &str) -> String {
    let why = text(status, &["state", "terminated", "reason"]);
    if !why.is_empty() {
        return format!("{prefix}{why}");
    }
    match number(status, &["state", "terminated", "signal"]).filter(|s| *s != 0) {
        Some(signal) => format!("{prefix}Signal:{signal}"),
        None => format!("{prefix}ExitCode:{}", number(status, &["state", "terminated", "exitCode"]).unwrap_or(0)),
    }
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let mut total = items(pod, &["spec", "containers"]).len();
    total += items(pod, &["spec", "initContainers"]).iter().filter(|c| text(c, &["restartPolicy"]) == "Always").count();
    let mut ready = 0;
    let phase = text(pod, &["status", "phase"]);
    let mut reason = phase.to_owned();
    if !text(pod, &["status", "reason"]).is_empty() {
        text(pod, &["status", "reason"]).clone_into(&mut reason);
    }
    if items(pod, &["status", "conditions"])
        .iter()
        .any(|c| text(c, &["type"]) == "PodScheduled" && text(c, &["reason"]) == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let mut restarts = Restarts { count: 0, last: None };
    let mut sidecar_restarts = Restarts { count: 0, last: None };
    let init_total = items(pod, &["spec", "initContainers"]).len();
    let mut initializing = false;
    for (i, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        restarts.add(status);
        let sidecar = is_sidecar(pod, text(status, &["name"]));
        if sidecar {
            sidecar_restarts.add(status);
        }
        let ended = at(status, &["state", "terminated"]).is_some();
        if ended && number(status, &["state", "terminated", "exitCode"]) == Some(0) {
            continue;
        }
        if sidecar && at(status, &["started"]) == Some(&Value::Bool(true)) {
            if at(status, &["ready"]) == Some(&Value::Bool(true)) {
                ready += 1;
            }
            continue;
        }
        let waiting = text(status, &["state", "waiting", "reason"]);
        reason = if ended {
            terminated_reason(status, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{init_total}")
        };
        initializing = true;
        break;
    }
    if !initializing || has_condition(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let waiting = text(status, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if at(status, &["state", "terminated"]).is_some() {
                reason = terminated_reason(status, "");
            } else if at(status, &["ready"]) == Some(&Value::Bool(true)) && at(status, &["state", "running"]).is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        if text(pod, &["status", "reason"]) == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    let count = match restarts.last {
        Some(last) if restarts.count > 0 => format!("{} ({} ago)", restarts.count, since(&last.to_string(), now)),
        _ => restarts.count.to_string(),
    };
    let ip = items(pod, &["status", "podIPs"]).first().map_or_else(|| text(pod, &["status", "podIP"]), |p| text(p, &["ip"]));
    let gates = items(pod, &["spec", "readinessGates"]);
    let open = gates.iter().filter(|g| has_condition(pod, text(g, &["conditionType"]))).count();
    let gates = if gates.is_empty() { "<none>".to_owned() } else { format!("{open}/{}", gates.len()) };
    vec![
        text(pod, &["metadata", "name"]).into(),
        format!("{ready}/{total}").into(),
        reason.into(),
        count.into(),
        age(pod, now),
        or_none(ip).into(),
        or_none(text(pod, &["spec", "nodeName"])).into(),
        or_none(text(pod, &["status", "nominatedNodeName"])).into(),
        json!(gates),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pod: Value) -> (String, String, String) {
        let cells = cells(&pod, "2026-01-01T00:10:00Z".parse().unwrap());
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn states_as_kubectl_shows_them() {
        let spec = json!({"containers":[{"name":"a"}]});
        let with = |status: Value| json!({"metadata":{},"spec":spec,"status":status});
        assert_eq!(state(with(json!({"phase":"Pending"}))).1, "Pending");
        let crash = with(
            json!({"phase":"Running","containerStatuses":[{"restartCount":3,"ready":false,"state":{"waiting":{"reason":"CrashLoopBackOff"}},
            "lastState":{"terminated":{"finishedAt":"2026-01-01T00:09:00Z"}}}]}),
        );
        assert_eq!(state(crash), ("0/1".into(), "CrashLoopBackOff".into(), "3 (60s ago)".into()));
        let done = with(
            json!({"phase":"Succeeded","containerStatuses":[{"restartCount":0,"state":{"terminated":{"reason":"Completed","exitCode":0}}}]}),
        );
        assert_eq!(state(done).1, "Completed");
        let mut running = with(json!({"phase":"Running","containerStatuses":[{"restartCount":0,"ready":true,"state":{"running":{}}}]}));
        assert_eq!(state(running.clone()), ("1/1".into(), "Running".into(), "0".into()));
        running["metadata"]["deletionTimestamp"] = "2026-01-01T00:10:00Z".into();
        assert_eq!(state(running).1, "Terminating");
    }

    #[test]
    fn init_containers() {
        let pod = json!({"spec":{"initContainers":[{"name":"i"},{"name":"j"}],"containers":[{"name":"a"}]},
            "status":{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":0}}},{"name":"j","state":{"running":{}}}]}});
        assert_eq!(state(pod).1, "Init:1/2");
    }
}
