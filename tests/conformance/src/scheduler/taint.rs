//! Taints and tolerations.

use serde_json::{Value, json};

use super::SchedulerHarness;
use super::kit::{cluster, declared, needs, node, pod, tainted};
use crate::CaseResult;

fn keeps_away(harness: &dyn SchedulerHarness, effect: &str) -> CaseResult {
    let rig = declared!(harness, taints);
    let taint = tainted(node("a"), "k", "v", effect);
    rig.goes("b has no taint", &cluster(&[taint.clone(), node("b")], &[])?, &pod(json!({})), &["b"])?;
    rig.goes("every node has one", &cluster(&[taint], &[])?, &pod(json!({})), &[])?;
    rig.end()
}

/// NoSchedule keeps pods away.
pub(super) async fn no_schedule(harness: &dyn SchedulerHarness) -> CaseResult {
    keeps_away(harness, "NoSchedule")
}

/// So does NoExecute.
pub(super) async fn no_execute(harness: &dyn SchedulerHarness) -> CaseResult {
    keeps_away(harness, "NoExecute")
}

/// PreferNoSchedule keeps pods away while there is another node.
pub(super) async fn prefer_no_schedule(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, preferences);
    let rig = declared!(harness, taints);
    let taint = tainted(node("a"), "k", "v", "PreferNoSchedule");
    rig.goes("b is better", &cluster(&[taint.clone(), node("b")], &[])?, &pod(json!({})), &["b"])?;
    rig.goes("but a will do", &cluster(&[taint], &[])?, &pod(json!({})), &["a"])?;
    rig.end()
}

/// Exists and Equal; an empty key with Exists is every taint, an empty effect every effect.
pub(super) async fn tolerations(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, taints);
    let now = cluster(&[tainted(node("a"), "k", "v", "NoSchedule")], &[])?;
    let rows: [(Value, bool); 9] = [
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"key": "k", "operator": "Equal", "value": "v"}), true),
        (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
        (json!({"key": "l", "operator": "Exists"}), false),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"key": "k"}), false),
    ];
    for (toleration, fits) in rows {
        let to: &[&str] = if fits { &["a"] } else { &[] };
        rig.goes(&toleration.to_string(), &now, &pod(json!({"tolerations": [toleration]})), to)?;
    }
    let mut two = node("a");
    two["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "NoExecute"}]);
    let one = pod(json!({"tolerations": [{"key": "k", "operator": "Exists"}]}));
    rig.goes("each taint must be tolerated", &cluster(&[two], &[])?, &one, &[])?;
    rig.end()
}
