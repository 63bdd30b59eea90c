//! Taints keep pods away that do not tolerate them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_scheduler_framework::{CycleState, Filter, PreScore, PreScoreOutcome, Rejection, Score};

use crate::normalize::by_largest;

/// NoSchedule and NoExecute taints must be tolerated; the fewer PreferNoSchedule taints are not, the better.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaintToleration;

pub(crate) fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    let (value, is) = (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
    let numbers = || Some((is.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => value == is && !key.is_empty(),
        "Lt" => numbers().is_some_and(|(taint, bound)| taint < bound),
        "Gt" => numbers().is_some_and(|(taint, bound)| taint > bound),
        _ => false,
    }
}

/// Whether a pod tolerates every taint of a node that keeps pods away.
pub(crate) fn tolerates_node(pod: &Pod, node: &NodeInfo) -> bool {
    let hard = node.taints().iter().filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.into_iter().all(|taint| tolerations(pod).iter().any(|t| tolerates(t, taint)))
}

impl Filter for TaintToleration {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if tolerates_node(&pod.pod, node) { Ok(()) } else { Err(Rejection::unresolvable("node(s) had untolerated taint(s)")) }
    }
}

impl PreScore for TaintToleration {
    fn pre_score(&self, _: &mut CycleState, _: &PodInfo, nodes: &[Arc<NodeInfo>], _: &Snapshot) -> Result<PreScoreOutcome, Rejection> {
        let any = nodes.iter().any(|n| n.taints().iter().any(|t| t.effect == "PreferNoSchedule"));
        Ok(if any { PreScoreOutcome::Continue } else { PreScoreOutcome::Skip })
    }
}

impl Score for TaintToleration {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let soft = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
        let intolerable = soft.filter(|taint| !tolerations(&pod.pod).iter().any(|t| tolerates(t, taint))).count();
        Ok(i64::try_from(intolerable).unwrap_or(i64::MAX))
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) -> Result<(), Rejection> {
        by_largest(scores, true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{alone, cluster, node, pod, single};
    use serde_json::json;

    #[test]
    fn hard_taints_must_be_tolerated() {
        for (taint, toleration, fits) in [
            (json!({"key":"k","value":"v","effect":"NoSchedule"}), json!({"key":"x","operator":"Exists"}), false),
            (json!({"key":"k","value":"v","effect":"NoSchedule"}), json!({"key":"k","value":"v","effect":"NoSchedule"}), true),
            (json!({"key":"k","value":"v","effect":"NoSchedule"}), json!({"key":"k","value":"v"}), true),
            (json!({"key":"k","value":"v","effect":"NoSchedule"}), json!({"key":"k","value":"w"}), false),
            (json!({"key":"k","value":"v","effect":"NoExecute"}), json!({"key":"k","operator":"Exists","effect":"NoSchedule"}), false),
            (json!({"key":"k","value":"v","effect":"NoExecute"}), json!({"operator":"Exists"}), true),
            (json!({"key":"k","effect":"PreferNoSchedule"}), json!({"key":"x","operator":"Exists"}), true),
            (json!({"key":"k","value":"3","effect":"NoSchedule"}), json!({"key":"k","operator":"Gt","value":"2"}), true),
            (json!({"key":"k","value":"3","effect":"NoSchedule"}), json!({"key":"k","operator":"Lt","value":"2"}), false),
        ] {
            let nodes = cluster(&[node("n", json!({}), json!({"taints":[taint]}))], &[]);
            let expected = if fits { Ok(()) } else { Err(("node(s) had untolerated taint(s)".into(), false)) };
            let pod = pod("p", json!({}), json!({"tolerations":[toleration]}));
            assert_eq!(single("TaintToleration", &pod, &nodes), expected, "{taint} {toleration}");
        }
    }

    #[test]
    fn soft_taints_are_avoided() {
        let soft = json!({"taints":[{"key":"k","effect":"PreferNoSchedule"}]});
        let nodes = cluster(&[node("a", json!({}), soft.clone()), node("b", json!({}), json!({})), node("c", json!({}), soft)], &[]);
        assert_eq!(alone("TaintToleration", &pod("p", json!({}), json!({})), &nodes), Ok("b".into()));
    }
}
