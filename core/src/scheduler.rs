//! The scheduling seam: a pod and a snapshot of the cluster to a decision.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::object::ObjectRef;
use crate::quantity::{Quantity, QuantityError};

/// CPU that a container without a request counts as when nodes are scored, in thousandths of a core.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory that a container without a request counts as when nodes are scored, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 << 20;
/// The scheduler that pods are handled by when they name none.
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";

/// Amounts of resources. Arithmetic saturates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Pods (of a pod: nothing; of a node: how many it can hold).
    pub pods: i64,
    /// Huge pages and extended resources, in their own units.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From a resource list such as a node's allocatable.
    ///
    /// # Errors
    /// At the first amount that is not a quantity.
    pub fn from_list(list: &BTreeMap<String, ApiQuantity>) -> Result<Self, QuantityError> {
        let mut out = Self::default();
        for (name, quantity) in list {
            out.put(name, Quantity::try_from(quantity)?);
        }
        Ok(out)
    }
    fn put(&mut self, name: &str, quantity: Quantity) {
        match name {
            "cpu" => self.milli_cpu = quantity.milli(),
            "memory" => self.memory = quantity.value(),
            "ephemeral-storage" => self.ephemeral_storage = quantity.value(),
            "pods" => self.pods = quantity.value(),
            _ => {
                self.scalar.insert(name.to_owned(), quantity.value());
            }
        }
    }
    /// One amount by its name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            _ => self.scalar.get(name).copied().unwrap_or(0),
        }
    }
    fn zip(&mut self, other: &Self, op: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = op(self.milli_cpu, other.milli_cpu);
        self.memory = op(self.memory, other.memory);
        self.ephemeral_storage = op(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = op(self.pods, other.pods);
        for (name, amount) in &other.scalar {
            match self.scalar.get_mut(name) {
                Some(mine) => *mine = op(*mine, *amount),
                None => {
                    self.scalar.insert(name.clone(), op(0, *amount));
                }
            }
        }
    }
    /// Adds amounts.
    pub fn add(&mut self, other: &Self) {
        self.zip(other, i64::saturating_add);
    }
    /// Takes amounts away.
    pub fn sub(&mut self, other: &Self) {
        self.zip(other, i64::saturating_sub);
    }
    /// Raises each amount to at least the other's.
    pub fn max(&mut self, other: &Self) {
        self.zip(other, i64::max);
    }
}

/// A port of a node that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The node's address; `0.0.0.0` for all.
    pub ip: String,
}

impl HostPort {
    /// Whether both cannot be taken on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

/// A pod, with what scheduling needs of it computed once.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it requests, as Kubernetes computes it.
    pub requests: Resources,
    /// The same, with [`DEFAULT_MILLI_CPU`] and [`DEFAULT_MEMORY`] for containers that request nothing.
    pub non_zero: Resources,
    /// Ports of the node that it takes.
    pub host_ports: Vec<HostPort>,
    /// A request that is not a quantity; such a pod fits nowhere.
    pub invalid: Option<QuantityError>,
}

impl PodInfo {
    /// Computes what scheduling needs.
    pub fn new(pod: Arc<Pod>) -> Self {
        let mut invalid = None;
        let (mut requests, mut non_zero) = (Resources::default(), Resources::default());
        match pod_requests(&pod, false).and_then(|r| Ok((r, pod_requests(&pod, true)?))) {
            Ok(both) => (requests, non_zero) = both,
            Err(error) => invalid = Some(error),
        }
        let host_ports = host_ports(&pod);
        Self { pod, requests, non_zero, host_ports, invalid }
    }
    /// Namespace and name.
    pub fn object_ref(&self) -> ObjectRef {
        crate::api::ref_of(&*self.pod)
    }
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
    /// Its priority; nothing where it has none.
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }
    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
    /// The uid of its controlling owner.
    pub fn owner(&self) -> Option<&str> {
        let owners = self.pod.metadata.owner_references.as_deref()?;
        owners.iter().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str())
    }
    /// Whether others must keep away from it.
    pub fn has_required_anti_affinity(&self) -> bool {
        let affinity = self.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.pod_anti_affinity.as_ref());
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()).is_some_and(|t| !t.is_empty())
    }
    /// Whether it has any affinity to pods, or anti-affinity.
    pub fn has_pod_affinity(&self) -> bool {
        let affinity = self.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
        affinity.is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some())
    }
}

fn container_requests(resources: Option<&ResourceRequirements>, defaults: bool) -> Result<Resources, QuantityError> {
    let mut out = Resources::default();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    // A limit without a request is a request, as the API's defaults have it.
    for (name, quantity) in limits.into_iter().flatten().chain(requests.into_iter().flatten()) {
        out.put(name, Quantity::try_from(quantity)?);
    }
    if defaults {
        let has = |name: &str| limits.is_some_and(|l| l.contains_key(name)) || requests.is_some_and(|r| r.contains_key(name));
        if !has("cpu") {
            out.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !has("memory") {
            out.memory = DEFAULT_MEMORY;
        }
    }
    Ok(out)
}

/// What a pod requests, as Kubernetes computes it: the containers and sidecars together, or the largest init container
/// with the sidecars started before it, whichever is more; the pod's own resources over that; and the overhead.
/// With `defaults`, containers that request nothing count as [`DEFAULT_MILLI_CPU`] and [`DEFAULT_MEMORY`].
///
/// # Errors
/// At the first amount that is not a quantity.
pub fn pod_requests(pod: &Pod, defaults: bool) -> Result<Resources, QuantityError> {
    let Some(spec) = &pod.spec else { return Ok(Resources::default()) };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&container_requests(container.resources.as_ref(), defaults)?);
    }
    let (mut sidecars, mut most) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut needed = container_requests(container.resources.as_ref(), defaults)?;
        if is_sidecar(container) {
            total.add(&needed);
            sidecars.add(&needed);
            needed = sidecars.clone();
        } else {
            needed.add(&sidecars);
        }
        most.max(&needed);
    }
    total.max(&most);
    if let Some(resources) = &spec.resources {
        let of_pod = [&resources.limits, &resources.requests];
        for (name, quantity) in of_pod.into_iter().flatten().flatten() {
            if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
                total.put(name, Quantity::try_from(quantity)?);
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead)?);
    }
    Ok(total)
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0").to_owned();
            Some(HostPort { port, protocol: p.protocol.as_deref().unwrap_or("TCP").to_owned(), ip })
        })
        .collect()
}

/// Whether a pod has come to its end, so that it takes nothing from its node any more.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// A node with the pods on it, summed up.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The node.
    pub node: Arc<Node>,
    /// The pods on it, and those about to be.
    pub pods: Vec<Arc<PodInfo>>,
    /// What they request together; `pods` counts them.
    pub requested: Resources,
    /// The same with defaults for what requests nothing; for scores.
    pub non_zero_requested: Resources,
    /// What the node has for pods.
    pub allocatable: Resources,
    /// Ports that are taken, with how many pods take each.
    pub used_ports: BTreeMap<HostPort, u32>,
    /// Images on the node: name to size in bytes.
    pub images: Arc<HashMap<String, i64>>,
    /// How many pods that are not terminating each controlling owner has here, by its uid.
    pub owners: HashMap<String, u32>,
    /// How many pods here have affinity to other pods, or anti-affinity.
    pub with_pod_affinity: u32,
    /// How many pods here have required anti-affinity.
    pub with_required_anti_affinity: u32,
}

impl NodeInfo {
    /// A node without pods. An allocatable amount that is not a quantity counts as nothing.
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            node: node.clone(),
            pods: Vec::new(),
            requested: Resources::default(),
            non_zero_requested: Resources::default(),
            allocatable: Resources::default(),
            used_ports: BTreeMap::new(),
            images: Arc::default(),
            owners: HashMap::new(),
            with_pod_affinity: 0,
            with_required_anti_affinity: 0,
        };
        info.set_node(node);
        info
    }

    /// Takes over a newer state of the node; the pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = list
            .and_then(|list| {
                Resources::from_list(list).inspect_err(|e| tracing::warn!(node = %self.name, "allocatable counts as nothing: {e}")).ok()
            })
            .unwrap_or_default();
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default().iter();
        self.images = Arc::new(
            images.flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0)))).collect::<HashMap<_, _>>(),
        );
        self.node = node;
    }

    /// Adds a pod.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.requested.pods += 1;
        self.non_zero_requested.add(&pod.non_zero);
        for port in &pod.host_ports {
            *self.used_ports.entry(port.clone()).or_default() += 1;
        }
        if let Some(owner) = pod.owner().filter(|_| !pod.is_terminating()) {
            match self.owners.get_mut(owner) {
                Some(count) => *count += 1,
                None => {
                    self.owners.insert(owner.to_owned(), 1);
                }
            }
        }
        self.with_pod_affinity += u32::from(pod.has_pod_affinity());
        self.with_required_anti_affinity += u32::from(pod.has_required_anti_affinity());
        self.pods.push(pod);
    }

    /// Takes a pod away, by namespace and name. Returns it, or `None` if it was not here.
    pub fn remove_pod(&mut self, pod: &ObjectRef) -> Option<Arc<PodInfo>> {
        let is = |p: &Arc<PodInfo>| p.pod.metadata.name.as_deref().unwrap_or_default() == &*pod.name && p.namespace() == &*pod.namespace;
        let at = self.pods.iter().position(is)?;
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.requested.pods -= 1;
        self.non_zero_requested.sub(&pod.non_zero);
        for port in &pod.host_ports {
            if let Some(count) = self.used_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.used_ports.remove(port);
                }
            }
        }
        if let Some(owner) = pod.owner().filter(|_| !pod.is_terminating())
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
        self.with_pod_affinity -= u32::from(pod.has_pod_affinity());
        self.with_required_anti_affinity -= u32::from(pod.has_required_anti_affinity());
        Some(pod)
    }

    /// The node's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.node.metadata.labels.as_ref().unwrap_or(&NONE)
    }
    /// One label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }
    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }
}

/// The nodes of a cluster with their pods, at one moment. A clone is cheap and never changes with the original.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Arc<Vec<Arc<NodeInfo>>>,
    index: Arc<HashMap<Arc<str>, usize>>,
    generation: u64,
}

impl Snapshot {
    /// A snapshot of nodes, and of pods that are bound to them. Pods that are unbound or terminal, or whose node is
    /// missing, are left out.
    pub fn new(nodes: impl IntoIterator<Item = Arc<Node>>, pods: impl IntoIterator<Item = Arc<Pod>>) -> Self {
        let mut this = Self::default();
        for node in nodes {
            this.set_node(node);
        }
        for pod in pods {
            if let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.clone())
                && !is_terminal(&pod)
            {
                this.add_pod(&node, Arc::new(PodInfo::new(pod)));
            }
        }
        this
    }
    /// The nodes, in the order in which they were added, as long as none was removed.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }
    /// A node by its name.
    pub fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes.get(*self.index.get(name)?)
    }
    /// Counts up with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }
    /// Adds a node, or takes over its newer state. In place unless a clone of the snapshot is alive.
    pub fn set_node(&mut self, node: Arc<Node>) {
        self.generation += 1;
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let nodes = Arc::make_mut(&mut self.nodes);
        match self.index.get(&name) {
            Some(at) => Arc::make_mut(&mut nodes[*at]).set_node(node),
            None => {
                Arc::make_mut(&mut self.index).insert(name, nodes.len());
                nodes.push(Arc::new(NodeInfo::new(node)));
            }
        }
    }
    /// Removes a node with its pods, and returns it.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<NodeInfo>> {
        let index = Arc::make_mut(&mut self.index);
        let at = index.remove(name)?;
        self.generation += 1;
        let nodes = Arc::make_mut(&mut self.nodes);
        let gone = nodes.swap_remove(at);
        if let Some(moved) = nodes.get(at) {
            index.insert(moved.name.clone(), at);
        }
        Some(gone)
    }
    /// Adds a pod to a node; `false` if there is no such node.
    pub fn add_pod(&mut self, node: &str, pod: Arc<PodInfo>) -> bool {
        let Some(at) = self.index.get(node).copied() else { return false };
        self.generation += 1;
        Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[at]).add_pod(pod);
        true
    }
    /// Takes a pod off a node; `None` if it was not there.
    pub fn remove_pod(&mut self, node: &str, pod: &ObjectRef) -> Option<Arc<PodInfo>> {
        let at = self.index.get(node).copied()?;
        self.generation += 1;
        Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[at]).remove_pod(pod)
    }
}

/// Why a pod fits nowhere. Printed as kubectl's users know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// Why each node was refused, by its name.
    pub refusals: BTreeMap<Arc<str>, Refusal>,
    /// What ruled out all nodes at once, instead of reasons for each.
    pub pre_filter: Option<String>,
    /// What came of looking for pods to preempt, or of another last resort.
    pub post_filter: Option<String>,
    /// The plugins that refused; a change that concerns none of them cannot help.
    pub plugins: BTreeSet<&'static str>,
}

/// Why one node was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kubernetes' own words.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods from the node could help.
    pub resolvable: bool,
    /// The plugin that refused.
    pub plugin: &'static str,
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.` from one refusal's reasons each.
pub fn availability_message<'a>(nodes: usize, reasons: impl IntoIterator<Item = &'a str>) -> String {
    let mut histogram: HashMap<&str, usize> = HashMap::new();
    for reason in reasons {
        *histogram.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = histogram.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort_unstable();
    let mut out = format!("0/{nodes} nodes are available:");
    if !parts.is_empty() {
        out.push_str(&format!(" {}.", parts.join(", ")));
    }
    out
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        match &self.pre_filter {
            Some(message) => write!(f, "0/{} nodes are available: {message}.", self.nodes)?,
            None => {
                let reasons = self.refusals.values().flat_map(|r| r.reasons.iter().map(AsRef::as_ref));
                f.write_str(&availability_message(self.nodes, reasons))?;
            }
        }
        match &self.post_filter {
            Some(message) => write!(f, " {message}"),
            None => Ok(()),
        }
    }
}

/// What becomes of a pod.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Decision {
    /// It goes to this node.
    Bind {
        /// The node's name.
        node: Arc<str>,
    },
    /// It fits on this node once these pods are gone; ask again then.
    Nominate {
        /// The node's name.
        node: Arc<str>,
        /// The pods to delete, all on that node.
        victims: Vec<Arc<Pod>>,
        /// Why it did not fit as things are.
        diagnosis: Box<Diagnosis>,
    },
    /// It fits nowhere as things are.
    Unschedulable(Box<Diagnosis>),
    /// It is not to be scheduled yet, such as while it has scheduling gates.
    Wait {
        /// What it waits for.
        reason: Cow<'static, str>,
    },
    /// The scheduler failed; nothing is known about the pod. Ask again, after a back-off.
    Failed {
        /// What failed.
        message: String,
    },
}

/// Decides where pods go.
///
/// # Contract
/// `schedule` is a pure function of its arguments and of the scheduler's own configuration and random source: no I/O, no
/// clock, no memory of earlier calls; under the same seed the same calls give the same decisions. A node that it names
/// is in the snapshot. It does not change the snapshot: the caller adds the pod (it is assumed on its node
/// before the binding is confirmed) and asks for the next. It never decides for a pod by leaving a check out: what
/// cannot be checked is [`Decision::Failed`].
///
/// # Cancellation
/// Synchronous: it cannot be cancelled. It is called on the caller's thread and must be quick: about a millisecond for
/// 1,000 nodes.
///
/// # Errors
/// A pod that does not fit is no error but [`Decision::Unschedulable`], whose [`Diagnosis`] says why for each node.
///
/// # Panics
/// Never on input, however malformed a pod or node is.
///
/// # Implementing
/// Use `wharf-scheduler-framework` for Kubernetes' extension points, or implement this directly for a policy of your own.
pub trait Scheduler: Send + Sync + fmt::Debug + 'static {
    /// Decides for one pod that has no node yet.
    fn schedule(&self, pod: &Arc<Pod>, snapshot: &Snapshot) -> Decision;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata":{"name":"p","namespace":"ns"},"spec":spec})).unwrap())
    }
    fn node(name: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({"metadata":{"name":name},"status":{"allocatable":{"cpu":"2","memory":"1Gi","pods":"10"}}}))
                .unwrap(),
        )
    }
    fn cpu(amount: &str) -> Value {
        json!({"requests":{"cpu":amount}})
    }

    #[test]
    fn requests_are_the_larger_of_running_and_starting() {
        for (name, spec, expected) in [
            ("sum", json!({"containers":[{"name":"a","resources":cpu("1")},{"name":"b","resources":cpu("500m")}]}), 1500),
            ("init", json!({"initContainers":[{"name":"i","resources":cpu("3")}],"containers":[{"name":"a","resources":cpu("1")}]}), 3000),
            (
                "a sidecar counts beside containers and later init containers, not earlier ones",
                json!({"initContainers":[
                    {"name":"i","resources":cpu("3")},
                    {"name":"s","restartPolicy":"Always","resources":cpu("1")},
                    {"name":"j","resources":cpu("2500m")}
                ],"containers":[{"name":"a","resources":cpu("1")}]}),
                3500,
            ),
            ("overhead", json!({"overhead":{"cpu":"250m"},"containers":[{"name":"a","resources":cpu("1")}]}), 1250),
            ("pod level", json!({"resources":cpu("2"),"containers":[{"name":"a","resources":cpu("5")}]}), 2000),
            ("limit", json!({"containers":[{"name":"a","resources":{"limits":{"cpu":"700m"}}}]}), 700),
        ] {
            assert_eq!(pod_requests(&pod(spec), false).unwrap().milli_cpu, expected, "{name}");
        }
        let bare = pod(json!({"containers":[{"name":"a"},{"name":"b"}]}));
        let info = PodInfo::new(bare);
        assert_eq!((info.requests.milli_cpu, info.non_zero.milli_cpu, info.non_zero.memory), (0, 200, 400 << 20));
        assert!(PodInfo::new(pod(json!({"containers":[{"name":"a","resources":cpu("x")}]}))).invalid.is_some());
    }

    #[test]
    fn adding_and_removing_a_pod_leaves_nothing_behind() {
        let mut snapshot = Snapshot::new([node("a"), node("b"), node("c")], []);
        let before = snapshot.clone();
        let info = Arc::new(PodInfo::new(pod(
            json!({"containers":[{"name":"a","resources":{"requests":{"cpu":"1","x.io/y":"2"}},"ports":[{"containerPort":1,"hostPort":80}]}]}),
        )));
        assert!(snapshot.add_pod("b", info.clone()));
        assert!(!snapshot.add_pod("missing", info.clone()));
        let with = snapshot.get("b").unwrap();
        assert_eq!((with.requested.milli_cpu, with.requested.pods, with.requested.get("x.io/y"), with.used_ports.len()), (1000, 1, 2, 1));
        assert_eq!(before.get("b").unwrap().requested.pods, 0, "a clone stands still");
        assert!(snapshot.remove_pod("b", &info.object_ref()).is_some());
        assert!(snapshot.remove_pod("b", &info.object_ref()).is_none());
        let after = snapshot.get("b").unwrap();
        assert_eq!((after.requested.milli_cpu, after.requested.pods, after.requested.get("x.io/y"), after.used_ports.len()), (0, 0, 0, 0));
        snapshot.remove_node("a");
        assert_eq!(&*snapshot.get("c").unwrap().name, "c");
        assert!(snapshot.get("a").is_none());
    }

    #[test]
    fn the_message_is_kubernetes_own() {
        let refusal = |reason: &'static str| Refusal { reasons: vec![reason.into()], resolvable: true, plugin: "X" };
        let mut diagnosis = Diagnosis {
            nodes: 3,
            refusals: [
                ("a".into(), refusal("node(s) had untolerated taint {key: value}")),
                ("b".into(), refusal("Insufficient cpu")),
                ("c".into(), refusal("node(s) had untolerated taint {key: value}")),
            ]
            .into(),
            post_filter: Some("preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.".into()),
            ..Diagnosis::default()
        };
        assert_eq!(
            diagnosis.to_string(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {key: value}. \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        );
        diagnosis.nodes = 0;
        assert_eq!(diagnosis.to_string(), "no nodes available to schedule pods");
    }
}
