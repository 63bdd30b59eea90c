//! Kubernetes' extension points, one small trait each.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use wharf_core::controller::Context;
use wharf_core::scheduler::{Diagnosis, NodeInfo, PodInfo, Snapshot};

use crate::cycle::CycleState;
use crate::queue::QueuedPod;
use crate::status::Rejection;

/// The best score of a node; the worst is 0.
pub const MAX_SCORE: i64 = 100;

/// What all plugins have.
///
/// Plugins are pure up to and including [`Permit`]'s start: functions of what they are given. They hold configuration,
/// no state. They must not panic, however malformed a pod or node is; what they cannot check they report as
/// [`Rejection::Error`], so that the pod is not scheduled.
pub trait Plugin: Send + Sync + Debug + 'static {
    /// Its name in profiles and messages.
    fn name(&self) -> &'static str;
}

/// Says whether a pod may enter the queue at all.
pub trait PreEnqueue: Plugin {
    /// `Err` keeps the pod out until it changes.
    fn pre_enqueue(&self, pod: &Pod) -> Result<(), Rejection>;
}

/// Orders the queue. A profile has one at most; without, the order is by priority, then by time.
pub trait QueueSort: Plugin {
    /// `Less` comes first. Must be a total order.
    fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering;
}

/// How to go on after [`PreFilter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreFilterOutcome {
    /// Filter the nodes.
    Continue,
    /// This plugin has nothing to filter for this pod.
    Skip,
    /// Only these nodes need to be looked at.
    Nodes(BTreeSet<Arc<str>>),
}

/// Looks at the pod once, before its nodes are filtered.
pub trait PreFilter: Plugin {
    /// What it finds goes into `state`. `Err` rules out every node.
    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<PreFilterOutcome, Rejection>;
}

/// Says whether a node can take the pod.
pub trait Filter: Plugin {
    /// `Err` rules the node out.
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection>;
}

/// Runs PreFilter and Filter again, on a changed snapshot.
pub trait Refilter: Sync {
    /// Whether `node` can take the pod.
    fn fits(&self, pod: &PodInfo, snapshot: &Snapshot, node: &str) -> Result<(), Rejection>;
}

/// What a last resort found.
#[derive(Debug, Clone)]
pub enum PostFilterOutcome {
    /// Once these pods are gone, the pod fits on this node.
    Nominate {
        /// The node's name.
        node: Arc<str>,
        /// The pods to delete.
        victims: Vec<Arc<Pod>>,
    },
    /// Nothing; the message is appended to the pod's.
    Nothing(Option<String>),
}

/// Looks for a way when no node can take the pod, such as preemption.
pub trait PostFilter: Plugin {
    /// `diagnosis` says why each node was ruled out.
    fn post_filter(
        &self,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
        refilter: &dyn Refilter,
    ) -> Result<PostFilterOutcome, Rejection>;
}

/// How to go on after [`PreScore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreScoreOutcome {
    /// Score the nodes.
    Continue,
    /// This plugin has no preference for this pod.
    Skip,
}

/// Looks at the pod and the nodes that can take it once, before they are scored.
pub trait PreScore: Plugin {
    /// What it finds goes into `state`.
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<PreScoreOutcome, Rejection>;
}

/// Prefers some nodes over others.
pub trait Score: Plugin {
    /// How good a node is; any number, as long as [`Score::normalize`] brings it to 0 up to [`MAX_SCORE`].
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection>;
    /// Brings the scores of all nodes to 0 up to [`MAX_SCORE`]. `scores[i]` belongs to `nodes[i]`.
    fn normalize(&self, state: &CycleState, pod: &PodInfo, nodes: &[Arc<NodeInfo>], scores: &mut [i64]) -> Result<(), Rejection>;
}

/// Keeps something outside of the snapshot for the pod while it is being bound.
pub trait Reserve: Plugin {
    /// Keeps it.
    fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), Rejection>;
    /// Gives it back; called for every plugin after any refusal up to Bind, also when its `reserve` was not called.
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

/// Lets a pod wait before it is bound.
#[async_trait]
pub trait Permit: Plugin {
    /// The longest wait.
    fn timeout(&self) -> Duration;
    /// Completes when the pod may be bound. Dropped after the timeout, which counts as a refusal.
    async fn permit(&self, pod: &PodInfo, node: &str) -> Result<(), Rejection>;
}

/// Prepares what the pod needs on its node, such as a volume.
#[async_trait]
pub trait PreBind: Plugin {
    /// `Err` ends the attempt. Must be idempotent.
    async fn pre_bind(&self, ctx: &Context, pod: &PodInfo, node: &str) -> Result<(), Rejection>;
}

/// What a [`Bind`] plugin did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindOutcome {
    /// The pod is bound.
    Bound,
    /// Not this plugin's: the next is asked.
    Skip,
}

/// Binds the pod to its node.
#[async_trait]
pub trait Bind: Plugin {
    /// `Err` ends the attempt.
    async fn bind(&self, ctx: &Context, pod: &PodInfo, node: &str) -> Result<BindOutcome, Rejection>;
}

/// Is told of a pod that was bound.
pub trait PostBind: Plugin {
    /// Cannot refuse any more.
    fn post_bind(&self, pod: &PodInfo, node: &str);
}
