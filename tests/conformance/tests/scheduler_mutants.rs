//! The scheduler kit against schedulers that break one promise each: a named case must notice.
//!
//! A mutant is the default scheduler that is shown another pod or another cluster than there is, or whose answer is bent.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_conformance::scheduler::{SchedulerCapabilities, SchedulerHarness, cases};
use wharf_conformance::{Harness, Outcome, run_case};
use wharf_core::scheduler::{Decision, PodInfo, Scheduler, Snapshot};
use wharf_scheduler_plugins::default_scheduler;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    IgnoresCpu,
    IgnoresMemory,
    CountsLimits,
    OneMorePod,
    OnePodLess,
    NeedsSomeSpare,
    IgnoresExtended,
    AddsInitContainers,
    IgnoresSidecars,
    IgnoresOverhead,
    IgnoresPods,
    IgnoresPorts,
    IgnoresProtocols,
    IgnoresHostAddresses,
    IgnoresNodeName,
    IgnoresUnschedulable,
    IgnoresNodeSelector,
    IgnoresNodeAffinity,
    NodeSelectorReplacesAffinity,
    IgnoresFields,
    OnlyFirstTerm,
    IgnoresPreferences,
    IgnoresTaints,
    NoExecuteIsSoft,
    PreferIsHard,
    TolerationsIgnoreValues,
    TolerationsIgnoreEffects,
    IgnoresPodAffinity,
    IgnoresAntiAffinity,
    NotSymmetric,
    IgnoresNamespaces,
    SpreadsSoftly,
    SpreadsHard,
    IgnoresMinDomains,
    CountsTerminating,
    PacksTight,
    OwnWords,
    HidesNodes,
    PreemptsEquals,
    PreemptsForThePatient,
    PreemptsEverybody,
    NeverPreempts,
    IgnoresGates,
    PicksAGhost,
    Remembers,
    Whimsical,
    IgnoresItsSeed,
    GuessesRequests,
    Panics,
    GivesUpAtTimes,
    ForgetsToLookAtTimes,
}

/// Which case must catch which mutant.
const CAUGHT_BY: &[(Fault, &str)] = &[
    (Fault::IgnoresCpu, "scheduler.fit.cpu"),
    (Fault::IgnoresMemory, "scheduler.fit.exactly"),
    (Fault::CountsLimits, "scheduler.fit.memory_requests_only"),
    (Fault::OneMorePod, "scheduler.fit.pod_count"),
    (Fault::OnePodLess, "scheduler.fit.pod_count"),
    (Fault::NeedsSomeSpare, "scheduler.fit.exactly"),
    (Fault::IgnoresExtended, "scheduler.fit.ephemeral_and_extended"),
    (Fault::AddsInitContainers, "scheduler.fit.init_containers"),
    (Fault::IgnoresSidecars, "scheduler.fit.sidecars"),
    (Fault::IgnoresOverhead, "scheduler.fit.overhead"),
    (Fault::IgnoresPods, "scheduler.fit.assumed_pods_count"),
    (Fault::IgnoresPorts, "scheduler.port.same_port"),
    (Fault::IgnoresProtocols, "scheduler.port.protocols_differ"),
    (Fault::IgnoresHostAddresses, "scheduler.port.addresses_differ"),
    (Fault::IgnoresNodeName, "scheduler.node.named"),
    (Fault::IgnoresUnschedulable, "scheduler.node.unschedulable"),
    (Fault::IgnoresNodeSelector, "scheduler.node.selector"),
    (Fault::IgnoresNodeAffinity, "scheduler.affinity.operators"),
    (Fault::IgnoresFields, "scheduler.affinity.match_fields"),
    (Fault::OnlyFirstTerm, "scheduler.affinity.terms_and_expressions"),
    (Fault::NodeSelectorReplacesAffinity, "scheduler.affinity.with_selector"),
    (Fault::IgnoresPreferences, "scheduler.affinity.preferred"),
    (Fault::IgnoresPreferences, "scheduler.inter_pod.preferred"),
    (Fault::IgnoresTaints, "scheduler.taint.no_schedule"),
    (Fault::NoExecuteIsSoft, "scheduler.taint.no_execute"),
    (Fault::PreferIsHard, "scheduler.taint.prefer_no_schedule"),
    (Fault::TolerationsIgnoreValues, "scheduler.taint.tolerations"),
    (Fault::TolerationsIgnoreEffects, "scheduler.taint.tolerations"),
    (Fault::IgnoresPodAffinity, "scheduler.inter_pod.near"),
    (Fault::IgnoresPodAffinity, "scheduler.inter_pod.first_of_its_kind"),
    (Fault::IgnoresAntiAffinity, "scheduler.inter_pod.apart"),
    (Fault::NotSymmetric, "scheduler.inter_pod.symmetry"),
    (Fault::IgnoresNamespaces, "scheduler.inter_pod.namespaces"),
    (Fault::IgnoresNamespaces, "scheduler.spread.counts_by_label_and_namespace"),
    (Fault::SpreadsSoftly, "scheduler.spread.max_skew"),
    (Fault::SpreadsSoftly, "scheduler.spread.missing_label"),
    (Fault::SpreadsHard, "scheduler.spread.schedule_anyway"),
    (Fault::IgnoresMinDomains, "scheduler.spread.min_domains"),
    (Fault::CountsTerminating, "scheduler.spread.terminating_do_not_count"),
    (Fault::PacksTight, "scheduler.score.least_allocated"),
    (Fault::PacksTight, "scheduler.score.equal_pods_spread"),
    (Fault::OwnWords, "scheduler.reason.counts_nodes"),
    (Fault::OwnWords, "scheduler.reason.all_of_a_node"),
    (Fault::HidesNodes, "scheduler.reason.names_every_node"),
    (Fault::PreemptsEquals, "scheduler.preempt.not_the_equal"),
    (Fault::PreemptsForThePatient, "scheduler.preempt.policy_never"),
    (Fault::PreemptsEverybody, "scheduler.preempt.no_more_than_needed"),
    (Fault::NeverPreempts, "scheduler.preempt.lower_priority"),
    (Fault::IgnoresGates, "scheduler.gate.waits"),
    (Fault::PicksAGhost, "scheduler.node.deleted_is_never_chosen"),
    (Fault::Remembers, "scheduler.pure.no_memory"),
    (Fault::Whimsical, "scheduler.pure.same_answer"),
    (Fault::IgnoresItsSeed, "scheduler.pure.same_seed"),
    (Fault::GuessesRequests, "scheduler.malformed.request"),
    (Fault::Panics, "scheduler.malformed.empty"),
    (Fault::GivesUpAtTimes, "scheduler.sequence.room_is_found"),
    (Fault::ForgetsToLookAtTimes, "scheduler.sequence.capacity_holds"),
];

#[derive(Debug)]
struct Mutant {
    fault: Fault,
    inner: Arc<dyn Scheduler>,
    calls: AtomicU64,
    ghost: Mutex<Option<Arc<str>>>,
    remembered: Mutex<Vec<(Arc<str>, Arc<Pod>)>>,
}

fn remove(value: &mut Value, path: &str, field: &str) {
    if let Some(object) = value.pointer_mut(path).and_then(Value::as_object_mut) {
        object.remove(field);
    }
}

fn containers(pod: &mut Value) -> Vec<&mut Value> {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Vec::new() };
    let lists = spec.iter_mut().filter(|(name, _)| matches!(name.as_str(), "containers" | "initContainers"));
    lists.filter_map(|(_, list)| list.as_array_mut()).flatten().collect()
}

impl Mutant {
    /// The pod as the mutant sees it. `there`: it is on a node already.
    fn bend_pod(&self, pod: &Pod, there: bool) -> Arc<Pod> {
        let mut v = serde_json::to_value(pod).unwrap();
        const NODE_TERMS: &str = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        match self.fault {
            Fault::IgnoresCpu => containers(&mut v).into_iter().for_each(|c| remove(c, "/resources/requests", "cpu")),
            Fault::IgnoresMemory => containers(&mut v).into_iter().for_each(|c| remove(c, "/resources/requests", "memory")),
            Fault::IgnoresExtended => containers(&mut v).into_iter().for_each(|c| {
                remove(c, "/resources/requests", "example.com/gpu");
                remove(c, "/resources/requests", "ephemeral-storage");
            }),
            Fault::CountsLimits => containers(&mut v).into_iter().for_each(|c| {
                if let Some(limits) = c.pointer("/resources/limits").cloned() {
                    c["resources"]["requests"] = limits;
                }
            }),
            Fault::AddsInitContainers | Fault::IgnoresSidecars => {
                let init = v["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
                remove(&mut v, "/spec", "initContainers");
                if self.fault == Fault::AddsInitContainers {
                    v["spec"]["containers"].as_array_mut().unwrap().extend(init);
                }
            }
            Fault::IgnoresOverhead => remove(&mut v, "/spec", "overhead"),
            Fault::IgnoresPorts => containers(&mut v).into_iter().for_each(|c| remove(c, "", "ports")),
            Fault::IgnoresProtocols | Fault::IgnoresHostAddresses => containers(&mut v).into_iter().for_each(|c| {
                let field = if self.fault == Fault::IgnoresProtocols { "protocol" } else { "hostIP" };
                remove(c, "/ports/0", field);
            }),
            Fault::IgnoresNodeName if !there => remove(&mut v, "/spec", "nodeName"),
            Fault::IgnoresNodeSelector => remove(&mut v, "/spec", "nodeSelector"),
            Fault::IgnoresNodeAffinity => remove(&mut v, "/spec/affinity", "nodeAffinity"),
            Fault::NodeSelectorReplacesAffinity if v["spec"]["nodeSelector"].is_object() => {
                remove(&mut v, "/spec/affinity", "nodeAffinity");
            }
            Fault::IgnoresFields => {
                let terms = v.pointer_mut(NODE_TERMS).and_then(Value::as_array_mut);
                terms
                    .into_iter()
                    .flatten()
                    .for_each(|t| *t = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}));
            }
            Fault::OnlyFirstTerm => {
                if let Some(terms) = v.pointer_mut(NODE_TERMS).and_then(Value::as_array_mut) {
                    terms.truncate(1);
                }
            }
            Fault::IgnoresPreferences => {
                for kind in ["nodeAffinity", "podAffinity", "podAntiAffinity"] {
                    remove(&mut v, &format!("/spec/affinity/{kind}"), "preferredDuringSchedulingIgnoredDuringExecution");
                }
            }
            Fault::TolerationsIgnoreValues | Fault::TolerationsIgnoreEffects => {
                for toleration in v["spec"]["tolerations"].as_array_mut().into_iter().flatten() {
                    if self.fault == Fault::TolerationsIgnoreEffects {
                        remove(toleration, "", "effect");
                    } else {
                        remove(toleration, "", "value");
                        toleration["operator"] = json!("Exists");
                    }
                }
            }
            Fault::IgnoresPodAffinity => remove(&mut v, "/spec/affinity", "podAffinity"),
            Fault::IgnoresAntiAffinity => remove(&mut v, "/spec/affinity", "podAntiAffinity"),
            Fault::NotSymmetric if there => remove(&mut v, "/spec", "affinity"),
            Fault::IgnoresNamespaces => v["metadata"]["namespace"] = json!("ns"),
            Fault::SpreadsSoftly | Fault::SpreadsHard => {
                let when = if self.fault == Fault::SpreadsHard { "DoNotSchedule" } else { "ScheduleAnyway" };
                let all = v["spec"]["topologySpreadConstraints"].as_array_mut();
                all.into_iter().flatten().for_each(|c| c["whenUnsatisfiable"] = json!(when));
            }
            Fault::IgnoresMinDomains => remove(&mut v, "/spec/topologySpreadConstraints/0", "minDomains"),
            Fault::CountsTerminating => remove(&mut v, "/metadata", "deletionTimestamp"),
            Fault::PreemptsEquals if there => v["spec"]["priority"] = json!(-1),
            Fault::PreemptsForThePatient => remove(&mut v, "/spec", "preemptionPolicy"),
            Fault::IgnoresGates => remove(&mut v, "/spec", "schedulingGates"),
            Fault::GuessesRequests => containers(&mut v).into_iter().for_each(|c| remove(c, "", "resources")),
            _ => {}
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn bend_node(&self, node: &Node) -> Arc<Node> {
        let mut v = serde_json::to_value(node).unwrap();
        let more = |v: &mut Value, by: i64| {
            let pods = v.pointer("/status/allocatable/pods").and_then(Value::as_str).and_then(|p| p.parse::<i64>().ok());
            if let Some(pods) = pods {
                v["status"]["allocatable"]["pods"] = json!((pods + by).to_string());
            }
        };
        let effect = |v: &mut Value, from: &str, to: &str| {
            let taints = v.pointer_mut("/spec/taints").and_then(Value::as_array_mut);
            taints.into_iter().flatten().filter(|t| t["effect"] == from).for_each(|t| t["effect"] = json!(to));
        };
        match self.fault {
            Fault::OneMorePod => more(&mut v, 1),
            Fault::OnePodLess => more(&mut v, -1),
            Fault::NeedsSomeSpare if v.pointer("/status/allocatable/cpu") == Some(&json!("2")) => {
                v["status"]["allocatable"]["cpu"] = json!("1999m");
            }
            Fault::IgnoresUnschedulable => remove(&mut v, "/spec", "unschedulable"),
            Fault::IgnoresTaints => remove(&mut v, "/spec", "taints"),
            Fault::NoExecuteIsSoft => effect(&mut v, "NoExecute", "PreferNoSchedule"),
            Fault::PreferIsHard => effect(&mut v, "PreferNoSchedule", "NoSchedule"),
            _ => {}
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn bend(&self, snapshot: &Snapshot) -> Snapshot {
        let mut bent = Snapshot::new(snapshot.nodes().iter().map(|n| self.bend_node(&n.node)), []);
        for node in snapshot.nodes().iter().filter(|_| self.fault != Fault::IgnoresPods) {
            for pod in &node.pods {
                bent.add_pod(&node.name, Arc::new(PodInfo::new(self.bend_pod(&pod.pod, true))));
            }
        }
        for (node, pod) in self.remembered.lock().iter() {
            bent.add_pod(node, Arc::new(PodInfo::new(pod.clone())));
        }
        bent
    }
}

impl Scheduler for Mutant {
    fn schedule(&self, pod: &Arc<Pod>, snapshot: &Snapshot) -> Decision {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let unschedulable = || Decision::Unschedulable(Box::default());
        let fits = self.inner.schedule(&self.bend_pod(pod, false), &self.bend(snapshot));
        let fullest = || snapshot.nodes().iter().filter(|n| n.requested.pods < 10).max_by_key(|n| (n.requested.milli_cpu, n.name.clone()));
        match (self.fault, fits) {
            (Fault::Panics, _) if pod.metadata.name.is_none() => panic!("a pod has a name"),
            (Fault::PicksAGhost, Decision::Bind { node }) => Decision::Bind { node: self.ghost.lock().get_or_insert(node).clone() },
            (Fault::Remembers, Decision::Bind { node }) => {
                self.remembered.lock().push((node.clone(), pod.clone()));
                Decision::Bind { node }
            }
            (Fault::Whimsical | Fault::GivesUpAtTimes, Decision::Bind { .. }) if call % 7 == 6 => unschedulable(),
            (Fault::ForgetsToLookAtTimes, Decision::Unschedulable(_)) if call.is_multiple_of(3) && !snapshot.nodes().is_empty() => {
                Decision::Bind { node: snapshot.nodes()[0].name.clone() }
            }
            (Fault::PacksTight, Decision::Bind { node }) => Decision::Bind { node: fullest().map_or(node, |n| n.name.clone()) },
            (Fault::OwnWords, Decision::Unschedulable(mut diagnosis)) => {
                diagnosis.refusals.values_mut().for_each(|r| r.reasons = vec!["no".into()]);
                Decision::Unschedulable(diagnosis)
            }
            (Fault::HidesNodes, Decision::Unschedulable(mut diagnosis)) => {
                diagnosis.refusals.pop_last();
                Decision::Unschedulable(diagnosis)
            }
            (Fault::PreemptsEverybody, Decision::Nominate { node, diagnosis, .. }) => {
                let victims = snapshot.get(&node).map(|n| n.pods.iter().map(|p| p.pod.clone()).collect()).unwrap_or_default();
                Decision::Nominate { node, victims, diagnosis }
            }
            (Fault::NeverPreempts, Decision::Nominate { diagnosis, .. }) => Decision::Unschedulable(diagnosis),
            (_, decision) => decision,
        }
    }
}

struct Mutants(Fault);

impl Harness for Mutants {}

static INSTANCES: AtomicU64 = AtomicU64::new(0);

impl SchedulerHarness for Mutants {
    fn scheduler(&self, seed: u64) -> Arc<dyn Scheduler> {
        let other = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let seed = if self.0 == Fault::IgnoresItsSeed { seed + other } else { seed };
        Arc::new(Mutant {
            fault: self.0,
            inner: Arc::new(default_scheduler(seed).unwrap()),
            calls: AtomicU64::new(0),
            ghost: Mutex::new(None),
            remembered: Mutex::default(),
        })
    }
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities::all()
    }
}

#[tokio::test]
async fn every_fault_is_caught_by_its_case() {
    let cases = cases();
    let mut missed = Vec::new();
    for (fault, id) in CAUGHT_BY {
        let case = cases.iter().find(|c| c.id == *id).unwrap_or_else(|| panic!("no case {id}"));
        let outcome = run_case(case, &Mutants(*fault) as &dyn SchedulerHarness).await;
        if !matches!(outcome, Outcome::Failed(_)) {
            missed.push(format!("{id} must catch {fault:?}, but: {outcome}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[tokio::test]
async fn without_a_fault_every_case_passes() {
    for case in cases() {
        let outcome = run_case(&case, &Mutants(Fault::None) as &dyn SchedulerHarness).await;
        assert_eq!(outcome, Outcome::Passed, "{}", case.id);
    }
}

/// Who knows nothing of something and places such pods all the same is caught without having declared it.
#[tokio::test]
async fn what_is_not_declared_may_not_be_ignored() {
    struct Silent(Fault);
    impl Harness for Silent {}
    impl SchedulerHarness for Silent {
        fn scheduler(&self, seed: u64) -> Arc<dyn Scheduler> {
            Mutants(self.0).scheduler(seed)
        }
    }
    let cases = cases();
    for (fault, id) in [
        (Fault::IgnoresTaints, "scheduler.taint.no_schedule"),
        (Fault::IgnoresPorts, "scheduler.port.same_port"),
        (Fault::IgnoresNodeSelector, "scheduler.node.selector"),
        (Fault::NotSymmetric, "scheduler.inter_pod.symmetry"),
        (Fault::SpreadsSoftly, "scheduler.spread.max_skew"),
        (Fault::IgnoresGates, "scheduler.gate.waits"),
    ] {
        let case = cases.iter().find(|c| c.id == id).unwrap();
        let outcome = run_case(case, &Silent(fault) as &dyn SchedulerHarness).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{id} must catch {fault:?}, but: {outcome}");
    }
}
