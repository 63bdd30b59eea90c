//! Pods that want to be near other pods, or far from them.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, WeightedPodAffinityTerm};
use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_core::selector::{Operator, Requirement, Selector, SelectorError};
use wharf_scheduler_framework::{CycleState, Filter, PreFilter, PreFilterOutcome, PreScore, PreScoreOutcome, Rejection, Score};

use crate::normalize::by_range;

/// What a required affinity of a pod that is there already counts for in scores.
const HARD_WEIGHT: i64 = 1;
/// The one namespace label that is known from the name alone.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Required affinity and anti-affinity must hold, also the anti-affinity of pods that are there; preferred ones add up,
/// in both directions.
///
/// A `namespaceSelector` is evaluated on `kubernetes.io/metadata.name`. Other labels of namespaces are not in the
/// snapshot: a pod that requires them is not scheduled, and the anti-affinity of one that is there counts as if it
/// matched.
#[derive(Debug, Clone, Copy, Default)]
pub struct InterPodAffinity;

#[derive(Debug)]
struct Term {
    key: String,
    selector: Selector,
    /// These, and those that the selector matches.
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    Unknown,
}

impl Term {
    fn new(term: &PodAffinityTerm, owner: &PodInfo) -> Result<Self, SelectorError> {
        let mut selector = Selector::from_optional(term.label_selector.as_ref())?;
        let label = |key: &String| owner.pod.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned();
        for (keys, operator) in [(&term.match_label_keys, Operator::In), (&term.mismatch_label_keys, Operator::NotIn)] {
            for key in keys.iter().flatten() {
                if let Some(value) = label(key) {
                    selector.push(Requirement::new(key.as_str(), operator, vec![value])?);
                }
            }
        }
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(owner.namespace().to_owned());
        }
        let namespace_selector = term.namespace_selector.as_ref().map(Selector::from_object).transpose()?;
        Ok(Self { key: term.topology_key.clone(), selector, namespaces, namespace_selector })
    }

    fn namespace(&self, namespace: &str) -> Answer {
        if self.namespaces.iter().any(|n| n == namespace) {
            return Answer::Yes;
        }
        let Some(selector) = &self.namespace_selector else { return Answer::No };
        let (mut unknown, mut all) = (false, true);
        for requirement in selector.requirements() {
            if requirement.key() == NAMESPACE_NAME {
                all &= requirement.matches_value(Some(namespace));
            } else {
                unknown = true;
            }
        }
        match (all, unknown) {
            (false, _) => Answer::No,
            (true, true) => Answer::Unknown,
            (true, false) => Answer::Yes,
        }
    }

    fn matches(&self, pod: &PodInfo) -> Answer {
        if self.selector.matches_opt(pod.pod.metadata.labels.as_ref()) { self.namespace(pod.namespace()) } else { Answer::No }
    }
    /// For the pod being scheduled, what is unknown is a failure.
    fn certainly(&self, pod: &PodInfo) -> Result<bool, Rejection> {
        match self.matches(pod) {
            Answer::Yes => Ok(true),
            Answer::No => Ok(false),
            Answer::Unknown => {
                Err(Rejection::error(format!("a namespaceSelector on labels other than {NAMESPACE_NAME} cannot be evaluated")))
            }
        }
    }
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.pod.spec.as_ref()?.affinity.as_ref()
}
fn terms(terms: Option<&Vec<PodAffinityTerm>>, pod: &PodInfo) -> Result<Vec<Term>, SelectorError> {
    terms.into_iter().flatten().map(|t| Term::new(t, pod)).collect()
}
fn weighted(terms: Option<&Vec<WeightedPodAffinityTerm>>, pod: &PodInfo, sign: i64) -> Result<Vec<(Term, i64)>, SelectorError> {
    terms.into_iter().flatten().map(|t| Ok((Term::new(&t.pod_affinity_term, pod)?, i64::from(t.weight) * sign))).collect()
}

fn required_affinity(pod: &PodInfo) -> Result<Vec<Term>, SelectorError> {
    let required = affinity(pod).and_then(|a| a.pod_affinity.as_ref());
    terms(required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()), pod)
}
fn required_anti_affinity(pod: &PodInfo) -> Result<Vec<Term>, SelectorError> {
    let required = affinity(pod).and_then(|a| a.pod_anti_affinity.as_ref());
    terms(required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()), pod)
}
fn preferred(pod: &PodInfo) -> Result<Vec<(Term, i64)>, SelectorError> {
    let (near, far) = affinity(pod).map_or((None, None), |a| (a.pod_affinity.as_ref(), a.pod_anti_affinity.as_ref()));
    let mut all = weighted(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), pod, 1)?;
    all.extend(weighted(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), pod, -1)?);
    Ok(all)
}

/// Topology key to its values to a number.
#[derive(Debug, Default)]
struct Topology(HashMap<String, HashMap<String, i64>>);

impl Topology {
    fn add(&mut self, node: &NodeInfo, key: &str, amount: i64) {
        let Some(value) = node.label(key) else { return };
        if !self.0.contains_key(key) {
            self.0.insert(key.to_owned(), HashMap::new());
        }
        if let Some(values) = self.0.get_mut(key) {
            match values.get_mut(value) {
                Some(sum) => *sum += amount,
                None => {
                    values.insert(value.to_owned(), amount);
                }
            }
        }
    }
    fn get(&self, node: &NodeInfo, key: &str) -> i64 {
        node.label(key).and_then(|value| self.0.get(key)?.get(value)).copied().unwrap_or(0)
    }
    fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Required {
    near: Vec<Term>,
    far: Vec<Term>,
    /// Pods that match all terms of `near`, by topology.
    near_counts: Topology,
    far_counts: Topology,
    /// Pods that are there and want to be far from this one.
    existing: Topology,
    /// It would match its own affinity, so that it can be the first of its group.
    own: bool,
}

impl PreFilter for InterPodAffinity {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<PreFilterOutcome, Rejection> {
        let near = required_affinity(pod).map_err(Rejection::error)?;
        let far = required_anti_affinity(pod).map_err(Rejection::error)?;
        let (mut near_counts, mut far_counts, mut existing) = (Topology::default(), Topology::default(), Topology::default());
        for node in snapshot.nodes() {
            if node.with_required_anti_affinity > 0 {
                for other in node.pods.iter().filter(|p| p.has_required_anti_affinity()) {
                    for term in required_anti_affinity(other).map_err(Rejection::error)? {
                        if term.matches(pod) != Answer::No {
                            existing.add(node, &term.key, 1);
                        }
                    }
                }
            }
            if near.is_empty() && far.is_empty() {
                continue;
            }
            for other in &node.pods {
                let mut all = !near.is_empty();
                for term in &near {
                    all = all && term.certainly(other)?;
                }
                if all {
                    near.iter().for_each(|term| near_counts.add(node, &term.key, 1));
                }
                for term in &far {
                    if term.certainly(other)? {
                        far_counts.add(node, &term.key, 1);
                    }
                }
            }
        }
        if near.is_empty() && far.is_empty() && existing.is_empty() {
            return Ok(PreFilterOutcome::Skip);
        }
        let mut own = true;
        for term in &near {
            own = own && term.certainly(pod)?;
        }
        state.set(Required { near, far, near_counts, far_counts, existing, own });
        Ok(PreFilterOutcome::Continue)
    }
}

impl Filter for InterPodAffinity {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let Some(s) = state.get::<Required>() else { return Err(Rejection::error("PreFilter did not run")) };
        let labelled = s.near.iter().all(|t| node.label(&t.key).is_some());
        let near = s.near.iter().all(|t| s.near_counts.get(node, &t.key) > 0);
        let first = s.near_counts.is_empty() && s.own;
        if !(labelled && (near || first)) {
            return Err(Rejection::unresolvable("node(s) didn't match pod affinity rules"));
        }
        if s.far.iter().any(|t| s.far_counts.get(node, &t.key) > 0) {
            return Err(Rejection::unschedulable("node(s) didn't match pod anti-affinity rules"));
        }
        if s.existing.keys().any(|key| s.existing.get(node, key) > 0) {
            return Err(Rejection::unschedulable("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }
}

struct Preferences(Topology);

impl PreScore for InterPodAffinity {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<PreScoreOutcome, Rejection> {
        let mine = preferred(pod).map_err(Rejection::error)?;
        let mut sums = Topology::default();
        for node in snapshot.nodes() {
            if mine.is_empty() && node.with_pod_affinity == 0 {
                continue;
            }
            for other in &node.pods {
                // What is unknown is no preference.
                for (term, weight) in mine.iter().filter(|(term, _)| term.matches(other) == Answer::Yes) {
                    sums.add(node, &term.key, *weight);
                }
                if node.with_pod_affinity == 0 || !other.has_pod_affinity() {
                    continue;
                }
                let hard = required_affinity(other).map_err(Rejection::error)?.into_iter().map(|t| (t, HARD_WEIGHT));
                for (term, weight) in preferred(other).map_err(Rejection::error)?.into_iter().chain(hard) {
                    if term.matches(pod) == Answer::Yes {
                        sums.add(node, &term.key, weight);
                    }
                }
            }
        }
        if sums.is_empty() {
            return Ok(PreScoreOutcome::Skip);
        }
        state.set(Preferences(sums));
        Ok(PreScoreOutcome::Continue)
    }
}

impl Score for InterPodAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let Some(Preferences(sums)) = state.get() else { return Ok(0) };
        Ok(sums.keys().map(|key| sums.get(node, key)).sum())
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) -> Result<(), Rejection> {
        by_range(scores);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{alone, cluster, node, pod};
    use serde_json::{Value, json};
    use wharf_core::scheduler::Snapshot;

    const NEAR: &str = "node(s) didn't match pod affinity rules";
    const FAR: &str = "node(s) didn't match pod anti-affinity rules";
    const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

    fn term(app: &str, more: Value) -> Value {
        let mut t = json!({"topologyKey":"zone","labelSelector":{"matchLabels":{"app":app}}});
        for (k, v) in more.as_object().unwrap() {
            t[k] = v.clone();
        }
        t
    }
    fn required(kind: &str, term: Value) -> Value {
        json!({"affinity":{kind:{"requiredDuringSchedulingIgnoredDuringExecution":[term]}}})
    }
    fn preferred(kind: &str, term: Value) -> Value {
        json!({"affinity":{kind:{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":10,"podAffinityTerm":term}]}}})
    }
    fn labels(app: &str) -> Value {
        json!({"labels":{"app":app}})
    }
    fn zones(there: Value) -> Snapshot {
        let nodes = [node("a", json!({"zone":"x"}), json!({})), node("b", json!({"zone":"y"}), json!({}))];
        cluster(&nodes, &[("a", pod("w", labels("web"), there))])
    }
    fn reasons(refused: Vec<(String, String, bool)>) -> Vec<(String, bool)> {
        refused.into_iter().map(|(_, reason, resolvable)| (reason, resolvable)).collect()
    }

    #[test]
    fn required_rules_hold_in_both_directions() {
        let own = |kind, t| (json!({}), required(kind, t));
        let other = json!({"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"other"}}});
        let mine = json!({"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ns"}}});
        for (name, (there, spec), app, expected) in [
            ("near", own("podAffinity", term("web", json!({}))), "x", Ok("a")),
            ("near nothing", own("podAffinity", term("db", json!({}))), "x", Err((NEAR, false))),
            ("the first of its group", own("podAffinity", term("x", json!({}))), "x", Ok("")),
            ("far", own("podAntiAffinity", term("web", json!({}))), "x", Ok("b")),
            ("far, another namespace", own("podAntiAffinity", term("web", other.clone())), "x", Ok("")),
            ("near, another namespace", own("podAffinity", term("web", other)), "x", Err((NEAR, false))),
            ("near, by namespace selector", own("podAffinity", term("web", mine)), "x", Ok("a")),
            ("existing", (required("podAntiAffinity", term("x", json!({}))), json!({})), "x", Ok("b")),
            ("existing, another app", (required("podAntiAffinity", term("x", json!({}))), json!({})), "y", Ok("")),
        ] {
            let got = alone("InterPodAffinity", &pod("p", labels(app), spec), &zones(there));
            match expected {
                Ok("") => assert!(got.is_ok(), "{name}: {got:?}"),
                Ok(node) => assert_eq!(got, Ok(node.into()), "{name}"),
                Err((reason, resolvable)) => assert_eq!(reasons(got.unwrap_err()), vec![(reason.to_string(), resolvable); 2], "{name}"),
            }
        }
    }

    #[test]
    fn refusals_say_whose_rule_it_is() {
        let nodes = [node("a", json!({"zone":"x"}), json!({}))];
        let there = |spec| cluster(&nodes, &[("a", pod("w", labels("web"), spec))]);
        let far = alone("InterPodAffinity", &pod("p", labels("x"), required("podAntiAffinity", term("web", json!({})))), &there(json!({})));
        assert_eq!(reasons(far.unwrap_err()), [(FAR.to_string(), true)]);
        let existing = there(required("podAntiAffinity", term("x", json!({}))));
        assert_eq!(
            reasons(alone("InterPodAffinity", &pod("p", labels("x"), json!({})), &existing).unwrap_err()),
            [(EXISTING.to_string(), true)]
        );
    }

    #[test]
    fn preferences_add_up_in_both_directions() {
        for (there, spec, expected) in [
            (json!({}), preferred("podAffinity", term("web", json!({}))), "a"),
            (json!({}), preferred("podAntiAffinity", term("web", json!({}))), "b"),
            (preferred("podAffinity", term("x", json!({}))), json!({}), "a"),
            (preferred("podAntiAffinity", term("x", json!({}))), json!({}), "b"),
            (required("podAffinity", term("x", json!({}))), json!({}), "a"),
        ] {
            assert_eq!(
                alone("InterPodAffinity", &pod("p", labels("x"), spec.clone()), &zones(there.clone())),
                Ok(expected.into()),
                "{there} {spec}"
            );
        }
    }
}
