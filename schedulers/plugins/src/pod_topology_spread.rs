//! Pods that belong together are spread over hosts and zones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_core::selector::{Operator, Requirement, Selector, SelectorError};
use wharf_scheduler_framework::{CycleState, Filter, MAX_SCORE, PreFilter, PreFilterOutcome, PreScore, PreScoreOutcome, Rejection, Score};

use crate::node_affinity::Required;
use crate::taint_toleration::tolerates_node;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
const DEFAULT_HOST_SKEW: i64 = 3;
const DEFAULT_ZONE_SKEW: i64 = 5;

/// DoNotSchedule constraints must hold; ScheduleAnyway constraints are preferred. A pod without constraints that has a
/// controlling owner prefers hosts and zones with fewer pods of that owner.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodTopologySpread;

/// Which pods count.
#[derive(Debug)]
enum Counted {
    /// Of the pod's namespace, with these labels.
    Labels(Selector),
    /// With this controlling owner.
    Owner(String),
}

impl Counted {
    fn on(&self, node: &NodeInfo, namespace: &str) -> i64 {
        let count = match self {
            Self::Owner(uid) => return i64::from(node.owners.get(uid).copied().unwrap_or(0)),
            Self::Labels(selector) => {
                let is = |p: &&Arc<PodInfo>| {
                    !p.is_terminating() && p.namespace() == namespace && selector.matches_opt(p.pod.metadata.labels.as_ref())
                };
                node.pods.iter().filter(is).count()
            }
        };
        i64::try_from(count).unwrap_or(i64::MAX)
    }
}

#[derive(Debug)]
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    counted: Counted,
    /// Nodes that the pod's affinity rules out do not count.
    honor_affinity: bool,
    /// Nodes whose taints the pod does not tolerate do not count.
    honor_taints: bool,
}

impl Constraint {
    fn new(c: &TopologySpreadConstraint, pod: &Pod) -> Result<Self, SelectorError> {
        let mut selector = Selector::from_optional(c.label_selector.as_ref())?;
        for key in c.match_label_keys.iter().flatten() {
            if let Some(value) = pod.metadata.labels.as_ref().and_then(|l| l.get(key)) {
                selector.push(Requirement::new(key.as_str(), Operator::In, vec![value.clone()])?);
            }
        }
        Ok(Self {
            key: c.topology_key.clone(),
            max_skew: i64::from(c.max_skew),
            min_domains: i64::from(c.min_domains.unwrap_or(1)),
            counted: Counted::Labels(selector),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        })
    }
    fn by_owner(key: &str, max_skew: i64, owner: &str) -> Self {
        let counted = Counted::Owner(owner.to_owned());
        Self { key: key.to_owned(), max_skew, min_domains: 1, counted, honor_affinity: true, honor_taints: false }
    }
    fn counts_node(&self, pod: &Pod, required: &Required, node: &NodeInfo) -> bool {
        (!self.honor_affinity || required.matches(node)) && (!self.honor_taints || tolerates_node(pod, node))
    }
}

fn constraints(pod: &PodInfo, when: &str) -> Result<Vec<Constraint>, Rejection> {
    let all = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
    let some = all.iter().filter(|c| c.when_unsatisfiable == when);
    some.map(|c| Constraint::new(c, &pod.pod)).collect::<Result<_, _>>().map_err(Rejection::error)
}

fn has_constraints(pod: &PodInfo) -> bool {
    pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref()).is_some_and(|c| !c.is_empty())
}

fn required(pod: &PodInfo) -> Result<Required, Rejection> {
    Required::new(&pod.pod).map_err(Rejection::error)
}

/// A DoNotSchedule constraint with the pods of each domain counted.
struct Hard {
    constraint: Constraint,
    domains: HashMap<String, i64>,
    least: i64,
    /// The pod itself counts.
    own: i64,
}
struct HardState(Vec<Hard>);

impl PreFilter for PodTopologySpread {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<PreFilterOutcome, Rejection> {
        let constraints = constraints(pod, "DoNotSchedule")?;
        if constraints.is_empty() {
            return Ok(PreFilterOutcome::Skip);
        }
        let required = required(pod)?;
        // Only nodes that have all the labels count for any of the constraints.
        let has_all = |n: &&Arc<NodeInfo>| constraints.iter().all(|c| n.label(&c.key).is_some());
        let nodes: Vec<_> = snapshot.nodes().iter().filter(has_all).collect();
        let mut counts: Vec<HashMap<String, i64>> = Vec::with_capacity(constraints.len());
        for constraint in &constraints {
            let mut domains: HashMap<String, i64> = HashMap::new();
            for node in nodes.iter().filter(|n| constraint.counts_node(&pod.pod, &required, n)) {
                let Some(value) = node.label(&constraint.key) else { continue };
                let count = constraint.counted.on(node, pod.namespace());
                match domains.get_mut(value) {
                    Some(sum) => *sum += count,
                    None => {
                        domains.insert(value.to_owned(), count);
                    }
                }
            }
            counts.push(domains);
        }
        let hard = constraints.into_iter().zip(counts).map(|(constraint, domains)| {
            let few = i64::try_from(domains.len()).unwrap_or(i64::MAX) < constraint.min_domains;
            let least = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
            let own = match &constraint.counted {
                Counted::Labels(selector) => selector.matches_opt(pod.pod.metadata.labels.as_ref()),
                Counted::Owner(_) => true,
            };
            Hard { constraint, domains, least, own: i64::from(own) }
        });
        state.set(HardState(hard.collect()));
        Ok(PreFilterOutcome::Continue)
    }
}

impl Filter for PodTopologySpread {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(HardState(all)) = state.get() else { return Err(Rejection::error("PreFilter did not run")) };
        for hard in all {
            let Some(value) = node.label(&hard.constraint.key) else {
                return Err(Rejection::unresolvable("node(s) didn't match pod topology spread constraints (missing required label)"));
            };
            let there = hard.domains.get(value).copied().unwrap_or(0);
            if there + hard.own - hard.least > hard.constraint.max_skew {
                return Err(Rejection::unschedulable("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }
}

/// A ScheduleAnyway constraint with the pods of each domain counted.
struct Soft {
    constraint: Constraint,
    /// By the label's value; not used for hosts, whose pods are counted one by one.
    domains: HashMap<String, i64>,
    weight: f64,
}
struct SoftState {
    all: Vec<Soft>,
    /// Nodes that lack a label of an explicit constraint.
    ignored: HashSet<Arc<str>>,
}

impl PreScore for PodTopologySpread {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<PreScoreOutcome, Rejection> {
        let explicit = has_constraints(pod);
        let constraints = match pod.owner() {
            Some(owner) if !explicit => {
                vec![Constraint::by_owner(HOSTNAME, DEFAULT_HOST_SKEW, owner), Constraint::by_owner(ZONE, DEFAULT_ZONE_SKEW, owner)]
            }
            _ => constraints(pod, "ScheduleAnyway")?,
        };
        if constraints.is_empty() {
            return Ok(PreScoreOutcome::Skip);
        }
        let required = required(pod)?;
        let lacks = |n: &NodeInfo| explicit && constraints.iter().any(|c| n.label(&c.key).is_none());
        let ignored: HashSet<_> = nodes.iter().filter(|n| lacks(n)).map(|n| n.name.clone()).collect();
        let mut counts: Vec<HashMap<String, i64>> = Vec::with_capacity(constraints.len());
        for constraint in &constraints {
            let mut domains: HashMap<String, i64> = HashMap::new();
            if constraint.key != HOSTNAME {
                for node in nodes.iter().filter(|n| !ignored.contains(&n.name)) {
                    if let Some(value) = node.label(&constraint.key).filter(|v| !domains.contains_key(*v)) {
                        domains.insert(value.to_owned(), 0);
                    }
                }
                for node in snapshot.nodes() {
                    if let Some(sum) = node.label(&constraint.key).and_then(|v| domains.get_mut(v))
                        && !lacks(node)
                        && constraint.counts_node(&pod.pod, &required, node)
                    {
                        *sum += constraint.counted.on(node, pod.namespace());
                    }
                }
            }
            counts.push(domains);
        }
        let hosts = nodes.len() - ignored.len();
        let all = constraints.into_iter().zip(counts).map(|(constraint, domains)| {
            let size = if constraint.key == HOSTNAME { hosts } else { domains.len() };
            // The more domains there are, the fewer pods are in each, and the more one pod weighs.
            Soft { constraint, domains, weight: (size as f64 + 2.0).ln() }
        });
        let all = all.collect();
        state.set(SoftState { all, ignored });
        Ok(PreScoreOutcome::Continue)
    }
}

impl Score for PodTopologySpread {
    /// The lower the better, until it is normalized.
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let Some(SoftState { all, ignored }) = state.get() else { return Ok(0) };
        if ignored.contains(&node.name) {
            return Ok(0);
        }
        let mut sum = 0.0;
        for soft in all {
            let Some(value) = node.label(&soft.constraint.key) else { continue };
            let count = match soft.constraint.key.as_str() {
                HOSTNAME => soft.constraint.counted.on(node, pod.namespace()),
                _ => soft.domains.get(value).copied().unwrap_or(0),
            };
            sum += count as f64 * soft.weight + (soft.constraint.max_skew - 1) as f64;
        }
        Ok(sum.round() as i64)
    }
    fn normalize(&self, state: &CycleState, _: &PodInfo, nodes: &[Arc<NodeInfo>], scores: &mut [i64]) -> Result<(), Rejection> {
        let Some(SoftState { ignored, .. }) = state.get() else { return Ok(()) };
        let counted = || nodes.iter().zip(scores.iter()).filter(|(n, _)| !ignored.contains(&n.name)).map(|(_, s)| *s);
        let (least, most) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
        for (score, node) in scores.iter_mut().zip(nodes) {
            *score = match (ignored.contains(&node.name), most) {
                (true, _) => 0,
                (false, 0) => MAX_SCORE,
                (false, _) => MAX_SCORE * (most + least - *score) / most,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{alone, cluster, node, pod};
    use serde_json::{Value, json};
    use wharf_core::scheduler::Snapshot;

    fn constraint(key: &str, skew: i32, when: &str, more: Value) -> Value {
        let mut c = json!({"topologyKey":key,"maxSkew":skew,"whenUnsatisfiable":when,"labelSelector":{"matchLabels":{"app":"a"}}});
        for (k, v) in more.as_object().unwrap() {
            c[k] = v.clone();
        }
        json!({"topologySpreadConstraints":[c]})
    }
    fn app() -> Value {
        json!({"labels":{"app":"a"}})
    }
    /// Zone x: two nodes and two pods; zone y: one node and one pod; one node without a zone.
    fn zones() -> Snapshot {
        let zone = |z: &str| json!({"zone":z});
        let nodes = [
            node("a", zone("x"), json!({})),
            node("b", zone("x"), json!({})),
            node("c", zone("y"), json!({})),
            node("d", json!({}), json!({})),
        ];
        let one = |name: &str| pod(name, app(), json!({}));
        let foreign = pod("f", json!({"labels":{"app":"a"},"namespace":"other"}), json!({}));
        cluster(&nodes, &[("a", one("1")), ("b", one("2")), ("c", one("3")), ("c", foreign)])
    }

    #[test]
    fn hard_constraints_bound_the_skew() {
        const SKEW: &str = "node(s) didn't match pod topology spread constraints";
        const LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
        let hard = |skew, more| constraint("zone", skew, "DoNotSchedule", more);
        assert_eq!(alone("PodTopologySpread", &pod("p", app(), hard(1, json!({}))), &zones()), Ok("c".into()));
        let refused = alone("PodTopologySpread", &pod("p", app(), hard(1, json!({"minDomains":3}))), &zones()).unwrap_err();
        let expected = [("a", SKEW, true), ("b", SKEW, true), ("c", SKEW, true), ("d", LABEL, false)];
        assert_eq!(refused, expected.map(|(n, r, b)| (n.to_string(), r.to_string(), b)));
        // A pod that is not counted itself, and one with a wider bound, fit in zone x too.
        let other = pod(
            "p",
            json!({}),
            json!({"nodeSelector":{"zone":"x"},"topologySpreadConstraints":hard(1, json!({"nodeAffinityPolicy":"Ignore"}))["topologySpreadConstraints"]}),
        );
        assert!(alone("PodTopologySpread", &other, &zones()).is_ok());
    }

    #[test]
    fn soft_constraints_prefer_the_emptier_domain() {
        let soft = constraint("zone", 1, "ScheduleAnyway", json!({}));
        assert_eq!(alone("PodTopologySpread", &pod("p", app(), soft), &zones()), Ok("c".into()));
    }

    #[test]
    fn keys_of_the_pod_narrow_what_counts() {
        let hard = constraint("zone", 1, "DoNotSchedule", json!({"matchLabelKeys":["rev"]}));
        let metadata = json!({"labels":{"app":"a","rev":"2"}});
        let all: std::collections::BTreeSet<_> =
            (0..1).filter_map(|_| alone("PodTopologySpread", &pod("p", metadata.clone(), hard.clone()), &zones()).ok()).collect();
        assert_eq!(all.len(), 1, "no pod of this revision is there, so any zone will do");
    }
}
