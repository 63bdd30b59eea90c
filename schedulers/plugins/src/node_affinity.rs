//! Nodes that the pod asks for, by label or name.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};
use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_core::selector::{Operator, Requirement, Selector, SelectorError};
use wharf_scheduler_framework::{CycleState, Filter, PreFilter, PreFilterOutcome, PreScore, PreScoreOutcome, Rejection, Score};

use crate::normalize::by_largest;

/// `spec.nodeSelector` and required node affinity must match; preferred node affinity adds up.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeAffinity;

/// One term: all of it must match; a term without conditions matches nothing.
#[derive(Debug)]
struct Term {
    labels: Vec<Requirement>,
    names: Vec<Requirement>,
}

fn requirement(r: &NodeSelectorRequirement) -> Result<Requirement, SelectorError> {
    Requirement::new(r.key.as_str(), Operator::parse(&r.operator)?, r.values.clone().unwrap_or_default())
}

fn name_requirement(r: &NodeSelectorRequirement) -> Result<Requirement, SelectorError> {
    let operator = Operator::parse(&r.operator)?;
    if r.key != "metadata.name" {
        return Err(SelectorError::Field(r.key.clone()));
    }
    if !matches!(operator, Operator::In | Operator::NotIn) {
        return Err(SelectorError::Operator(r.operator.clone()));
    }
    Requirement::new(r.key.as_str(), operator, r.values.clone().unwrap_or_default())
}

impl Term {
    fn new(term: &NodeSelectorTerm) -> Result<Self, SelectorError> {
        Ok(Self {
            labels: term.match_expressions.iter().flatten().map(requirement).collect::<Result<_, _>>()?,
            names: term.match_fields.iter().flatten().map(name_requirement).collect::<Result<_, _>>()?,
        })
    }
    fn matches(&self, node: &NodeInfo) -> bool {
        !(self.labels.is_empty() && self.names.is_empty())
            && self.labels.iter().all(|r| r.matches_value(node.label(r.key())))
            && self.names.iter().all(|r| r.matches_value(Some(&node.name)))
    }
    /// The only nodes that can match, where it names them.
    fn only(&self) -> Option<BTreeSet<&str>> {
        let named = self.names.iter().find(|r| r.operator() == Operator::In)?;
        Some(named.values().iter().map(String::as_str).collect())
    }
}

/// What a pod requires of its node.
#[derive(Debug)]
pub(crate) struct Required {
    selector: Option<Selector>,
    /// One of these.
    terms: Option<Vec<Term>>,
}

impl Required {
    pub(crate) fn new(pod: &Pod) -> Result<Self, SelectorError> {
        let Some(spec) = &pod.spec else { return Ok(Self { selector: None, terms: None }) };
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Ok(Self {
            selector: spec.node_selector.as_ref().filter(|s| !s.is_empty()).map(Selector::from_map),
            terms: required.map(|r| r.node_selector_terms.iter().map(Term::new).collect::<Result<_, _>>()).transpose()?,
        })
    }
    pub(crate) fn matches(&self, node: &NodeInfo) -> bool {
        self.selector.as_ref().is_none_or(|s| s.matches_opt(node.node.metadata.labels.as_ref()))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }
    fn is_empty(&self) -> bool {
        self.selector.is_none() && self.terms.is_none()
    }
}

struct Preferred(Vec<(Term, i64)>);

impl PreFilter for NodeAffinity {
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<PreFilterOutcome, Rejection> {
        let required = Required::new(&pod.pod).map_err(|e| Rejection::unresolvable(e.to_string()))?;
        if required.is_empty() {
            return Ok(PreFilterOutcome::Skip);
        }
        let terms = required.terms.as_deref().unwrap_or_default();
        let only: Option<BTreeSet<&str>> = terms.iter().map(Term::only).try_fold(BTreeSet::new(), |mut all, one| {
            all.extend(one?);
            Some(all)
        });
        let outcome = match only.filter(|_| !terms.is_empty()) {
            Some(names) => PreFilterOutcome::Nodes(names.into_iter().map(Arc::from).collect()),
            None => PreFilterOutcome::Continue,
        };
        state.set(required);
        Ok(outcome)
    }
}

impl Filter for NodeAffinity {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let fits = match state.get::<Required>() {
            Some(required) => required.matches(node),
            None => Required::new(&pod.pod).map_err(Rejection::error)?.matches(node),
        };
        if fits { Ok(()) } else { Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector")) }
    }
}

impl PreScore for NodeAffinity {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Snapshot) -> Result<PreScoreOutcome, Rejection> {
        let affinity = pod.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
        let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default();
        if preferred.is_empty() {
            return Ok(PreScoreOutcome::Skip);
        }
        let terms = preferred.iter().map(|p| Ok((Term::new(&p.preference)?, i64::from(p.weight))));
        state.set(Preferred(terms.collect::<Result<_, SelectorError>>().map_err(Rejection::error)?));
        Ok(PreScoreOutcome::Continue)
    }
}

impl Score for NodeAffinity {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let preferred = state.get::<Preferred>().map_or(&[][..], |p| &p.0);
        Ok(preferred.iter().filter(|(term, _)| term.matches(node)).map(|(_, weight)| weight).sum())
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], scores: &mut [i64]) -> Result<(), Rejection> {
        by_largest(scores, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{alone, cluster, node, pod, single};
    use serde_json::{Value, json};

    fn required(terms: Value) -> Value {
        json!({"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":terms}}}})
    }
    fn expressions(key: &str, operator: &str, values: Value) -> Value {
        required(json!([{"matchExpressions":[{"key":key,"operator":operator,"values":values}]}]))
    }

    #[test]
    fn required_labels_must_match() {
        let nodes = cluster(&[node("n", json!({"zone":"a","size":"5"}), json!({}))], &[]);
        for (spec, fits) in [
            (json!({}), true),
            (json!({"nodeSelector":{"zone":"a"}}), true),
            (json!({"nodeSelector":{"zone":"b"}}), false),
            (expressions("zone", "In", json!(["a", "b"])), true),
            (expressions("zone", "NotIn", json!(["a"])), false),
            (expressions("missing", "NotIn", json!(["a"])), true),
            (expressions("zone", "Exists", json!([])), true),
            (expressions("zone", "DoesNotExist", json!([])), false),
            (expressions("size", "Gt", json!(["4"])), true),
            (expressions("size", "Gt", json!(["5"])), false),
            (expressions("size", "Lt", json!(["6"])), true),
            (required(json!([])), false),
            (required(json!([{}])), false),
            (
                required(
                    json!([{"matchExpressions":[{"key":"zone","operator":"In","values":["b"]}]},{"matchExpressions":[{"key":"size","operator":"Exists"}]}]),
                ),
                true,
            ),
            (required(json!([{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":["m"]}]}])), true),
        ] {
            let expected = if fits { Ok(()) } else { Err(("node(s) didn't match Pod's node affinity/selector".into(), false)) };
            assert_eq!(single("NodeAffinity", &pod("p", json!({}), spec.clone()), &nodes), expected, "{spec}");
        }
    }

    #[test]
    fn a_named_node_rules_the_others_out() {
        let named = |name: &str| required(json!([{"matchFields":[{"key":"metadata.name","operator":"In","values":[name]}]}]));
        let nodes = cluster(&[node("a", json!({}), json!({})), node("b", json!({}), json!({}))], &[]);
        assert_eq!(alone("NodeAffinity", &pod("p", json!({}), named("b")), &nodes), Ok("b".into()));
        let refused = alone("NodeAffinity", &pod("p", json!({}), named("c")), &nodes).unwrap_err();
        assert!(refused.iter().all(|(_, reason, _)| reason == "node(s) didn't satisfy plugin(s) [NodeAffinity]"));
    }

    #[test]
    fn a_malformed_term_fits_nowhere() {
        let nodes = cluster(&[node("n", json!({"size":"5"}), json!({}))], &[]);
        for spec in
            [expressions("size", "Near", json!(["4"])), expressions("size", "Gt", json!(["x"])), expressions("-", "Exists", json!([]))]
        {
            assert!(single("NodeAffinity", &pod("p", json!({}), spec.clone()), &nodes).is_err(), "{spec}");
        }
    }

    #[test]
    fn preferred_labels_add_up() {
        let prefer = |weight: i32, key: &str| json!({"weight":weight,"preference":{"matchExpressions":[{"key":key,"operator":"Exists"}]}});
        let spec = json!({"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[prefer(3, "x"), prefer(2, "y"), prefer(2, "z")]}}});
        let nodes = cluster(&[node("a", json!({"x":""}), json!({})), node("b", json!({"y":"","z":""}), json!({}))], &[]);
        assert_eq!(alone("NodeAffinity", &pod("p", json!({}), spec), &nodes), Ok("b".into()));
    }
}
