//! The cluster as the loop sees it: what informers told, and pods assumed on their nodes before the API says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use wharf_core::api::ref_of;
use wharf_core::object::ObjectRef;
use wharf_core::scheduler::{PodInfo, Snapshot};

#[derive(Debug)]
struct Held {
    info: Arc<PodInfo>,
    node: Arc<str>,
    assumed: bool,
}

/// Its size is bounded by the numbers of nodes and pods.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    snapshot: Snapshot,
    pods: HashMap<ObjectRef, Held>,
    /// Pods whose node is not known (any more), by node, so that they count again when it is.
    homeless: HashMap<Arc<str>, BTreeMap<ObjectRef, Arc<PodInfo>>>,
}

impl Cache {
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns whether the change can make room for a pod. A heartbeat does not.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) -> bool {
        let Some(name) = node.metadata.name.clone() else { return false };
        let matters = self.snapshot.get(&name).is_none_or(|known| {
            let (old, new) = (&known.node, &node);
            let room = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone().or_else(|| s.capacity.clone()));
            old.spec != new.spec || old.metadata.labels != new.metadata.labels || room(old) != room(new)
        });
        self.snapshot.set_node(node);
        for (_, info) in self.homeless.remove(name.as_str()).into_iter().flatten() {
            self.snapshot.add_pod(&name, info);
        }
        matters
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(gone) = self.snapshot.remove_node(name)
            && !gone.pods.is_empty()
        {
            let pods = gone.pods.iter().map(|p| (p.object_ref(), p.clone())).collect();
            self.homeless.insert(gone.name.clone(), pods);
        }
    }

    /// Names of the nodes known.
    pub(crate) fn node_names(&self) -> Vec<Arc<str>> {
        self.snapshot.nodes().iter().map(|n| n.name.clone()).collect()
    }

    /// Pods that the API says are bound; assumed ones are left out.
    pub(crate) fn confirmed(&self) -> Vec<ObjectRef> {
        self.pods.iter().filter(|(_, held)| !held.assumed).map(|(key, _)| key.clone()).collect()
    }

    fn place(&mut self, key: ObjectRef, info: Arc<PodInfo>, node: Arc<str>, assumed: bool) {
        if !self.snapshot.add_pod(&node, info.clone()) {
            self.homeless.entry(node.clone()).or_default().insert(key.clone(), info.clone());
        }
        self.pods.insert(key, Held { info, node, assumed });
    }

    /// A pod that the API says is on a node. Returns whether it is news, and not what was assumed.
    pub(crate) fn set_pod(&mut self, pod: Arc<Pod>, node: &str) -> bool {
        let key = ref_of(&*pod);
        let expected = match self.pods.get(&key) {
            Some(held) if Arc::ptr_eq(&held.info.pod, &pod) && !held.assumed => return false,
            Some(held) => {
                let (old, new) = (&held.info.pod.metadata, &pod.metadata);
                &*held.node == node && old.uid == new.uid && old.labels == new.labels
            }
            None => false,
        };
        self.remove_pod(&key);
        self.place(key, Arc::new(PodInfo::new(pod)), node.into(), false);
        !expected
    }

    /// A pod that is about to be bound.
    pub(crate) fn assume(&mut self, info: Arc<PodInfo>, node: Arc<str>) {
        let key = info.object_ref();
        self.remove_pod(&key);
        self.place(key, info, node, true);
    }

    /// Takes back what was assumed; not what the API has confirmed meanwhile.
    pub(crate) fn forget(&mut self, key: &ObjectRef) {
        if self.pods.get(key).is_some_and(|held| held.assumed) {
            self.remove_pod(key);
        }
    }

    /// Whether this very pod is assumed.
    pub(crate) fn is_assumed(&self, key: &ObjectRef, uid: Option<&String>) -> bool {
        self.pods.get(key).is_some_and(|held| held.assumed && held.info.pod.metadata.uid.as_ref() == uid)
    }

    /// Returns whether it was there.
    pub(crate) fn remove_pod(&mut self, key: &ObjectRef) -> bool {
        let Some(held) = self.pods.remove(key) else { return false };
        if self.snapshot.remove_pod(&held.node, key).is_none()
            && let Some(waiting) = self.homeless.get_mut(&held.node)
        {
            waiting.remove(key);
            if waiting.is_empty() {
                self.homeless.remove(&held.node);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, cpu: &str, beat: &str) -> Arc<Node> {
        let conditions = json!([{"type":"Ready","status":"True","lastHeartbeatTime":beat}]);
        Arc::new(
            serde_json::from_value(json!({"metadata":{"name":name},"status":{"allocatable":{"cpu":cpu},"conditions":conditions}})).unwrap(),
        )
    }
    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let containers = json!([{"name":"a","resources":{"requests":{"cpu":"1"}}}]);
        Arc::new(
            serde_json::from_value(json!({"metadata":{"name":name,"namespace":"ns","uid":uid},"spec":{"containers":containers}})).unwrap(),
        )
    }
    fn used(cache: &Cache, node: &str) -> i64 {
        cache.snapshot().get(node).unwrap().requested.milli_cpu
    }

    #[test]
    fn an_assumed_pod_is_confirmed_once_and_forgotten_only_while_assumed() {
        let mut cache = Cache::default();
        assert!(cache.set_node(node("n", "4", "2026-01-01T00:00:00Z")));
        cache.assume(Arc::new(PodInfo::new(pod("p", "u"))), "n".into());
        assert!(cache.is_assumed(&ObjectRef::new("ns", "p"), Some(&"u".into())));
        assert_eq!(used(&cache, "n"), 1000);
        assert!(!cache.set_pod(pod("p", "u"), "n"), "expected");
        cache.forget(&ObjectRef::new("ns", "p"));
        assert_eq!(used(&cache, "n"), 1000);
        cache.assume(Arc::new(PodInfo::new(pod("q", "u"))), "n".into());
        cache.forget(&ObjectRef::new("ns", "q"));
        assert_eq!(used(&cache, "n"), 1000);
        assert!(cache.remove_pod(&ObjectRef::new("ns", "p")));
        assert_eq!(used(&cache, "n"), 0);
    }

    #[test]
    fn pods_of_an_unknown_node_count_when_it_comes() {
        let mut cache = Cache::default();
        cache.set_pod(pod("p", "u"), "n");
        cache.set_pod(pod("q", "v"), "n");
        cache.remove_pod(&ObjectRef::new("ns", "q"));
        cache.set_node(node("n", "4", "2026-01-01T00:00:00Z"));
        assert_eq!(used(&cache, "n"), 1000);
        cache.remove_node("n");
        cache.set_node(node("n", "4", "2026-01-01T00:00:00Z"));
        assert_eq!(used(&cache, "n"), 1000);
    }

    #[test]
    fn a_heartbeat_moves_no_pods() {
        let mut cache = Cache::default();
        cache.set_node(node("n", "4", "2026-01-01T00:00:00Z"));
        assert!(!cache.set_node(node("n", "4", "2026-01-01T00:00:10Z")));
        assert!(cache.set_node(node("n", "5", "2026-01-01T00:00:10Z")));
    }
}
