//! One pod's scheduling cycle.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use wharf_core::scheduler::{Decision, Diagnosis, NodeInfo, PodInfo, Refusal, Scheduler, Snapshot};

use crate::cycle::CycleState;
use crate::plugin::{Filter, MAX_SCORE, PostFilterOutcome, PreFilterOutcome, PreScoreOutcome, Refilter};
use crate::profile::Profile;
use crate::status::{Reason, Rejection};

/// With at most this many nodes, all of them are looked at.
pub const MIN_FEASIBLE: usize = 100;
const MIN_PERCENT: usize = 5;

/// How many nodes that can take a pod are enough, so that not every node of a large cluster is looked at: Kubernetes'
/// formula.
pub fn nodes_to_find(nodes: usize) -> usize {
    if nodes <= MIN_FEASIBLE {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(MIN_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// Runs a profile's plugins.
///
/// Deterministic under its seed: the seed decides where to begin looking, and between nodes that score the same.
pub struct FrameworkScheduler {
    profile: Arc<Profile>,
    rng: Mutex<Xoshiro256PlusPlus>,
}

impl fmt::Debug for FrameworkScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameworkScheduler").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// Why a cycle ended early.
enum Stop {
    /// One plugin ruled out every node.
    Everything { message: String, refusal: Refusal },
    /// A plugin failed.
    Failed(String),
}

fn failed(point: &str, plugin: &str, rejection: &Rejection) -> String {
    format!("running {point} plugin {plugin:?}: {rejection}")
}

fn refusal(point: &str, plugin: &'static str, rejection: Rejection) -> Result<Refusal, String> {
    match rejection {
        Rejection::Unschedulable(reasons) => Ok(Refusal { reasons, resolvable: true, plugin }),
        Rejection::UnschedulableAndUnresolvable(reasons) => Ok(Refusal { reasons, resolvable: false, plugin }),
        Rejection::Error(_) => Err(failed(point, plugin, &rejection)),
    }
}

/// The filters of a cycle that have something to do.
struct Filters<'a> {
    state: CycleState,
    active: Vec<&'a dyn Filter>,
    /// Only these nodes, as asked for by these plugins.
    only: Option<(BTreeSet<Arc<str>>, Vec<&'static str>)>,
}

impl Filters<'_> {
    fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), (&'static str, Rejection)> {
        if let Some((only, plugins)) = &self.only
            && !only.contains(&node.name)
        {
            let reason: Reason = format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" ")).into();
            return Err((plugins.first().copied().unwrap_or_default(), Rejection::unresolvable(reason)));
        }
        self.active.iter().try_for_each(|f| f.filter(&self.state, pod, node).map_err(|r| (f.name(), r)))
    }
}

impl FrameworkScheduler {
    /// A scheduler that runs `profile`; `seed` decides ties.
    pub fn new(profile: Arc<Profile>, seed: u64) -> Self {
        Self { profile, rng: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(seed)) }
    }
    /// Its profile.
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    fn pre_filter(&self, pod: &PodInfo, snapshot: &Snapshot) -> Result<Filters<'_>, Stop> {
        let mut state = CycleState::default();
        let mut skipped: Vec<&'static str> = Vec::new();
        let mut only: Option<(BTreeSet<Arc<str>>, Vec<&'static str>)> = None;
        for plugin in &self.profile.pre_filter {
            match plugin.pre_filter(&mut state, pod, snapshot) {
                Ok(PreFilterOutcome::Continue) => {}
                Ok(PreFilterOutcome::Skip) => skipped.push(plugin.name()),
                Ok(PreFilterOutcome::Nodes(nodes)) => {
                    only = Some(match only {
                        None => (nodes, vec![plugin.name()]),
                        Some((before, mut plugins)) => {
                            plugins.push(plugin.name());
                            (before.intersection(&nodes).cloned().collect(), plugins)
                        }
                    });
                }
                Err(rejection) => {
                    let message = rejection.to_string();
                    let refusal = refusal("PreFilter", plugin.name(), rejection).map_err(Stop::Failed)?;
                    return Err(Stop::Everything { message, refusal });
                }
            }
        }
        let active = self.profile.filter.iter().filter(|f| !skipped.contains(&f.name())).map(|f| &**f).collect();
        Ok(Filters { state, active, only })
    }

    fn filter(
        &self,
        filters: &Filters<'_>,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<Arc<NodeInfo>>, String> {
        let nodes = snapshot.nodes();
        let enough = nodes_to_find(nodes.len());
        // Not always from the first node, so that a large cluster is filled evenly.
        let start = if enough < nodes.len() { self.rng.lock().random_range(0..nodes.len()) } else { 0 };
        let mut feasible = Vec::with_capacity(enough);
        for node in nodes[start..].iter().chain(&nodes[..start]) {
            match filters.check(pod, node) {
                Ok(()) => {
                    feasible.push(node.clone());
                    if feasible.len() >= enough {
                        break;
                    }
                }
                Err((plugin, rejection)) => {
                    let refusal = refusal("Filter", plugin, rejection)?;
                    diagnosis.plugins.insert(plugin);
                    diagnosis.refusals.insert(node.name.clone(), refusal);
                }
            }
        }
        Ok(feasible)
    }

    fn score(&self, state: &mut CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>], snapshot: &Snapshot) -> Result<Vec<i64>, String> {
        let mut skipped: Vec<&'static str> = Vec::new();
        for plugin in &self.profile.pre_score {
            match plugin.pre_score(state, pod, nodes, snapshot) {
                Ok(PreScoreOutcome::Continue) => {}
                Ok(PreScoreOutcome::Skip) => skipped.push(plugin.name()),
                Err(rejection) => return Err(failed("PreScore", plugin.name(), &rejection)),
            }
        }
        let mut totals = vec![0i64; nodes.len()];
        let mut scores = vec![0i64; nodes.len()];
        for (plugin, weight) in self.profile.score.iter().filter(|(p, _)| !skipped.contains(&p.name())) {
            let name = plugin.name();
            for (score, node) in scores.iter_mut().zip(nodes) {
                *score = plugin.score(state, pod, node).map_err(|r| failed("Score", name, &r))?;
            }
            plugin.normalize(state, pod, nodes, &mut scores).map_err(|r| failed("Score", name, &r))?;
            for (total, score) in totals.iter_mut().zip(&scores) {
                if !(0..=MAX_SCORE).contains(score) {
                    return Err(format!(
                        "plugin {name:?} returns an invalid score {score}, it should in the range of [0, {MAX_SCORE}] after normalizing"
                    ));
                }
                *total += score * weight;
            }
        }
        Ok(totals)
    }

    /// One of the best, each with the same chance.
    fn select(&self, nodes: &[Arc<NodeInfo>], scores: &[i64]) -> Option<Arc<str>> {
        let best = scores.iter().max()?;
        let mut best = nodes.iter().zip(scores).filter(|(_, s)| *s == best).map(|(n, _)| n);
        let count = best.clone().count();
        let at = if count > 1 { self.rng.lock().random_range(0..count) } else { 0 };
        best.nth(at).map(|n| n.name.clone())
    }

    fn post_filter(&self, pod: &PodInfo, snapshot: &Snapshot, mut diagnosis: Diagnosis) -> Decision {
        for plugin in &self.profile.post_filter {
            match plugin.post_filter(pod, snapshot, &diagnosis, self) {
                Ok(PostFilterOutcome::Nominate { node, victims }) => {
                    return Decision::Nominate { node, victims, diagnosis: Box::new(diagnosis) };
                }
                Ok(PostFilterOutcome::Nothing(message)) => diagnosis.post_filter = message.or(diagnosis.post_filter),
                Err(rejection @ Rejection::Error(_)) => {
                    return Decision::Failed { message: failed("PostFilter", plugin.name(), &rejection) };
                }
                Err(rejection) => diagnosis.post_filter = Some(rejection.to_string()),
            }
        }
        Decision::Unschedulable(Box::new(diagnosis))
    }

    fn decide(&self, pod: &PodInfo, snapshot: &Snapshot) -> Decision {
        let mut diagnosis = Diagnosis { nodes: snapshot.nodes().len(), ..Diagnosis::default() };
        if snapshot.nodes().is_empty() {
            return Decision::Unschedulable(Box::new(diagnosis));
        }
        let mut filters = match self.pre_filter(pod, snapshot) {
            Ok(filters) => filters,
            Err(Stop::Failed(message)) => return Decision::Failed { message },
            Err(Stop::Everything { message, refusal }) => {
                diagnosis.pre_filter = Some(message);
                diagnosis.plugins.insert(refusal.plugin);
                diagnosis.refusals = snapshot.nodes().iter().map(|n| (n.name.clone(), refusal.clone())).collect();
                return self.post_filter(pod, snapshot, diagnosis);
            }
        };
        let feasible = match self.filter(&filters, pod, snapshot, &mut diagnosis) {
            Ok(feasible) => feasible,
            Err(message) => return Decision::Failed { message },
        };
        match feasible.as_slice() {
            [] => return self.post_filter(pod, snapshot, diagnosis),
            [only] => return Decision::Bind { node: only.name.clone() },
            _ => {}
        }
        match self.score(&mut filters.state, pod, &feasible, snapshot) {
            Err(message) => Decision::Failed { message },
            Ok(scores) => match self.select(&feasible, &scores) {
                Some(node) => Decision::Bind { node },
                None => Decision::Failed { message: "no node was scored".into() },
            },
        }
    }
}

impl Refilter for FrameworkScheduler {
    fn fits(&self, pod: &PodInfo, snapshot: &Snapshot, node: &str) -> Result<(), Rejection> {
        let filters = self.pre_filter(pod, snapshot).map_err(|stop| match stop {
            Stop::Failed(message) => Rejection::error(message),
            Stop::Everything { refusal, .. } if refusal.resolvable => Rejection::Unschedulable(refusal.reasons),
            Stop::Everything { refusal, .. } => Rejection::UnschedulableAndUnresolvable(refusal.reasons),
        })?;
        let Some(node) = snapshot.get(node) else { return Err(Rejection::unresolvable("node(s) not found")) };
        filters.check(pod, node).map_err(|(_, rejection)| rejection)
    }
}

impl Scheduler for FrameworkScheduler {
    fn schedule(&self, pod: &Arc<Pod>, snapshot: &Snapshot) -> Decision {
        for plugin in &self.profile.pre_enqueue {
            match plugin.pre_enqueue(pod) {
                Ok(()) => {}
                Err(rejection @ Rejection::Error(_)) => {
                    return Decision::Failed { message: failed("PreEnqueue", plugin.name(), &rejection) };
                }
                Err(rejection) => return Decision::Wait { reason: rejection.to_string().into() },
            }
        }
        self.decide(&PodInfo::new(pod.clone()), snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Plugin, Score};
    use crate::profile::{Registration, Registry};
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    fn snapshot(nodes: usize) -> Snapshot {
        let node = |i| serde_json::from_value::<Node>(json!({"metadata":{"name":format!("n{i}")}})).unwrap();
        Snapshot::new((0..nodes).map(|i| Arc::new(node(i))), [])
    }
    fn pod() -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata":{"name":"p","namespace":"ns"},"spec":{"containers":[]}})).unwrap())
    }
    fn scheduler(registration: crate::profile::Points, name: &str, seed: u64) -> FrameworkScheduler {
        let profile = Profile::builder().plugin(name).build(&Registry::default().register(registration)).unwrap();
        FrameworkScheduler::new(Arc::new(profile), seed)
    }

    #[derive(Debug)]
    struct Picky;
    impl Plugin for Picky {
        fn name(&self) -> &'static str {
            "Picky"
        }
    }
    impl Filter for Picky {
        fn filter(&self, _: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
            match &*node.name {
                "n0" => Err(Rejection::unschedulable("node(s) were dull")),
                "n1" => Err(Rejection::unresolvable("node(s) were duller")),
                "n2" => Err(Rejection::error("broken")),
                _ => Ok(()),
            }
        }
    }
    impl Score for Picky {
        fn score(&self, _: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
            Ok(if &*node.name == "n3" { 101 } else { 1 })
        }
        fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], _: &mut [i64]) -> Result<(), Rejection> {
            Ok(())
        }
    }

    #[test]
    fn a_failing_filter_fails_closed_even_where_other_nodes_fit() {
        let scheduler = scheduler(Registration::new(Picky).filter().points(), "Picky", 1);
        assert!(
            matches!(scheduler.schedule(&pod(), &snapshot(5)), Decision::Failed { message } if message == "running Filter plugin \"Picky\": broken")
        );
    }

    #[test]
    fn a_score_out_of_range_fails_closed() {
        let scheduler = scheduler(Registration::new(Picky).score().points(), "Picky", 1);
        assert!(matches!(scheduler.schedule(&pod(), &snapshot(4)), Decision::Failed { message } if message.contains("invalid score 101")));
    }

    #[test]
    fn refusals_say_which_can_be_resolved() {
        let scheduler = scheduler(Registration::new(Picky).filter().points(), "Picky", 1);
        let Decision::Unschedulable(diagnosis) = scheduler.schedule(&pod(), &snapshot(2)) else { panic!("it must not fit") };
        assert_eq!(diagnosis.to_string(), "0/2 nodes are available: 1 node(s) were dull, 1 node(s) were duller.");
        assert!(diagnosis.refusals["n0"].resolvable && !diagnosis.refusals["n1"].resolvable);
        assert!(diagnosis.plugins.contains("Picky"));
    }

    #[test]
    fn ties_follow_the_seed_and_reach_every_node() {
        let empty = || Arc::new(Profile::default());
        let run = |seed| {
            let scheduler = FrameworkScheduler::new(empty(), seed);
            let snapshot = snapshot(3);
            (0..40)
                .map(|_| match scheduler.schedule(&pod(), &snapshot) {
                    Decision::Bind { node } => node.to_string(),
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert_eq!(run(7).into_iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn a_large_cluster_is_sampled() {
        assert_eq!((nodes_to_find(0), nodes_to_find(100), nodes_to_find(1000), nodes_to_find(6000)), (0, 100, 420, 300));
    }
}
