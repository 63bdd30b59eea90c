//! Taints: which a node shall have, and what they mean for a pod that runs on it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The node says that it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node says nothing any more.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Somebody closed the node to new pods.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// How long a pod that says nothing about it stays on a node that is not ready or unreachable.
pub const DEFAULT_TOLERATION: Duration = Duration::from_secs(300);

/// Conditions that taint a node when they hold.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

fn status<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == name).map(|c| c.status.as_str())
}

fn is_managed(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, name)| *name == key)
}

/// The taints of a node: those that its conditions ask for, and those of others untouched. `None` if it has them already.
pub fn wanted(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    match status(node, "Ready") {
        Some("True") => {}
        Some("Unknown") => keys.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => keys.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    keys.extend(PRESSURES.iter().filter(|(condition, _)| status(node, condition) == Some("True")).map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        keys.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let have = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut taints: Vec<Taint> = have.iter().filter(|t| !is_managed(t) || keys.iter().any(|k| is(t, k))).cloned().collect();
    for key in &keys {
        if !taints.iter().any(|t| is(t, key)) {
            taints.push(Taint { key: key.0.into(), effect: key.1.into(), value: None, time_added: Some(Time(now)) });
        }
    }
    (taints != have).then_some(taints)
}

/// The taints of a node that drive pods away.
pub fn no_execute(node: &Node) -> Vec<&Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute").collect()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}

/// How long a pod may stay among these taints: `None` for ever, zero not at all.
pub fn may_stay(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut soonest: Option<Duration> = None;
    for taint in taints {
        let mut tolerating = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        let allowed = if tolerating.peek().is_some() {
            // One without a limit does not lift the limit of another.
            let Some(seconds) = tolerating.filter_map(|t| t.toleration_seconds).min() else { continue };
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        } else if [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) {
            // What admission gives to every pod that does not say otherwise.
            DEFAULT_TOLERATION
        } else {
            Duration::ZERO
        };
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let left = allowed.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default());
        soonest = Some(soonest.map_or(left, |s| s.min(left)));
    }
    soonest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(ready: &str, unschedulable: bool, taints: Value) -> Node {
        serde_json::from_value(json!({"metadata":{"name":"n"},"spec":{"unschedulable":unschedulable,"taints":taints},
            "status":{"conditions":[{"type":"Ready","status":ready},{"type":"DiskPressure","status":"True"}]}}))
        .unwrap()
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let now = Timestamp::UNIX_EPOCH;
        let keys = |taints: Option<Vec<Taint>>| -> Vec<String> {
            taints.unwrap().iter().map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect()
        };
        let own = json!([{"key":"mine","effect":"NoExecute"}, {"key":NOT_READY,"effect":"NoExecute"}]);
        assert_eq!(
            keys(wanted(&node("Unknown", true, own.clone()), now)),
            ["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute", "disk-pressure:NoSchedule", "unschedulable:NoSchedule"]
        );
        assert_eq!(keys(wanted(&node("True", false, own.clone()), now)), ["mine:NoExecute", "disk-pressure:NoSchedule"]);
        let mut settled = node("False", false, own);
        settled.spec.as_mut().unwrap().taints = wanted(&settled, now);
        assert_eq!(wanted(&settled, Timestamp::constant(99, 0)), None);
    }

    #[test]
    fn how_long_a_pod_may_stay() {
        let now = Timestamp::constant(1000, 0);
        let taint = |key: &str| Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            value: None,
            time_added: Some(Time(Timestamp::constant(940, 0))),
        };
        for (tolerations, key, want) in [
            (json!([]), "mine", Some(0)),
            (json!([]), UNREACHABLE, Some(240)),
            (json!([{"operator":"Exists"}]), "mine", None),
            (json!([{"key":"mine","operator":"Exists","tolerationSeconds":70}]), "mine", Some(10)),
            (json!([{"key":"mine","operator":"Exists","tolerationSeconds":30}]), "mine", Some(0)),
            (json!([{"key":"mine","effect":"NoSchedule"}]), "mine", Some(0)),
            (json!([{"key":"mine","effect":"NoExecute"}]), "mine", None),
            (json!([{"key":UNREACHABLE,"operator":"Exists","effect":"NoExecute","tolerationSeconds":0}]), UNREACHABLE, Some(0)),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata":{},"spec":{"containers":[],"tolerations":tolerations}})).unwrap();
            assert_eq!(may_stay(&pod, &[&taint(key)], now), want.map(Duration::from_secs), "{pod:?}");
        }
    }
}
