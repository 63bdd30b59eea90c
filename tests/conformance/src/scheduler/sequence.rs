//! Many pods one after the other, under a seed.

use std::sync::Arc;

use serde_json::json;
use wharf_core::scheduler::{Decision, PodInfo, Resources, Snapshot};

use super::SchedulerHarness;
use super::kit::{ask, cluster, having, named, node, requesting, typed};
use crate::{CaseResult, ensure, fail};

const NODES: usize = 8;
const PODS: usize = 200;

/// Numbers that look random and are the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn fits(asked: &Resources, has: &Resources, used: &Resources) -> bool {
    asked.milli_cpu <= has.milli_cpu - used.milli_cpu && asked.memory <= has.memory - used.memory && used.pods < has.pods
}

/// Plays one sequence; `check` is asked about every decision.
fn play(harness: &dyn SchedulerHarness, seed: u64, check: impl Fn(&Snapshot, &Resources, Option<&str>) -> CaseResult) -> CaseResult {
    let mut numbers = Numbers(seed);
    let nodes: Vec<_> = (0..NODES)
        .map(|i| {
            let node = having(node(&format!("n{i}")), "cpu", &format!("{}m", 500 + numbers.below(4000)));
            having(node, "memory", &format!("{}Mi", 512 + numbers.below(4096)))
        })
        .collect();
    let mut now = cluster(&nodes, &[])?;
    let mut placed: Vec<(String, wharf_core::object::ObjectRef)> = Vec::new();
    let scheduler = harness.scheduler(seed);
    for i in 0..PODS {
        let requests = json!({"cpu": format!("{}m", numbers.below(900)), "memory": format!("{}Mi", numbers.below(900))});
        let info = Arc::new(PodInfo::new(typed(&named(&format!("p{i}"), requesting(requests)))?));
        let decision = ask(&*scheduler, &info.pod, &now)?;
        match decision {
            Decision::Bind { node } => {
                check(&now, &info.requests, Some(&node))?;
                placed.push((node.to_string(), info.object_ref()));
                now.add_pod(&node, info);
            }
            Decision::Unschedulable(_) => check(&now, &info.requests, None)?,
            other => return fail(format!("pod {i}: {other:?}")),
        }
        // Pods also go, so that room comes and goes.
        if numbers.below(3) == 0 && !placed.is_empty() {
            let at = usize::try_from(numbers.below(placed.len() as u64)).unwrap_or(0);
            let (node, pod) = placed.swap_remove(at);
            now.remove_pod(&node, &pod);
        }
    }
    Ok(())
}

/// No node is ever given more than it has.
pub(super) async fn capacity_holds(harness: &dyn SchedulerHarness) -> CaseResult {
    for seed in 1..=4 {
        play(harness, seed, |now, asked, node| {
            let Some(info) = node.and_then(|n| now.get(n)) else { return Ok(()) };
            ensure!(fits(asked, &info.allocatable, &info.requested), "seed {seed}: {} was given more than it has: {asked:?}", info.name);
            Ok(())
        })?;
    }
    Ok(())
}

/// A pod is called unschedulable only if it fits nowhere.
pub(super) async fn room_is_found(harness: &dyn SchedulerHarness) -> CaseResult {
    for seed in 1..=4 {
        play(harness, seed, |now, asked, node| {
            let room = now.nodes().iter().find(|n| fits(asked, &n.allocatable, &n.requested));
            ensure!(node.is_some() || room.is_none(), "seed {seed}: {:?} has room for {asked:?}", room.map(|n| &n.name));
            Ok(())
        })?;
    }
    Ok(())
}
