//! Who depends on whom, by uid.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use wharf_core::object::{Object, ObjectRef};

/// Finalizer: dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer: dependents are let go of first.
pub const ORPHAN: &str = "orphan";

/// An object: which of the collector's resources, and its key there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Index of the resource.
    pub resource: usize,
    /// Namespace and name.
    pub object: ObjectRef,
}

impl Node {
    /// As a key of a work queue.
    pub fn to_key(&self) -> ObjectRef {
        ObjectRef::new(self.object.namespace.clone(), format!("{}/{}", self.resource, self.object.name))
    }
    /// From a key of a work queue.
    pub fn from_key(key: &ObjectRef) -> Option<Self> {
        let (resource, name) = key.name.split_once('/')?;
        Some(Self { resource: resource.parse().ok()?, object: ObjectRef::new(key.namespace.clone(), name) })
    }
}

/// The edges from owners to dependents, and where the owners are. Its size is that of the informers it is fed from.
#[derive(Debug, Default)]
pub struct Graph {
    dependents: HashMap<String, BTreeSet<Node>>,
    nodes: HashMap<String, Node>,
}

fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    meta.owner_references.iter().flatten()
}

/// Whether an object has a finalizer.
pub fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == name)
}

/// Whether an object is being deleted and waits for its dependents.
pub fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

impl Graph {
    /// Takes a change in; answers whom it concerns.
    pub fn observe(&mut self, resource: usize, old: Option<&Object>, new: Option<&Object>) -> BTreeSet<Node> {
        let mut concerned = BTreeSet::new();
        let Some(latest) = new.or(old) else { return concerned };
        let node = Node { resource, object: latest.object_ref() };
        let uid = latest.meta().uid.clone().unwrap_or_default();
        let replaced = old.filter(|o| o.meta().uid.as_deref() != Some(&uid));
        if let Some(old) = old {
            let old_uid = old.meta().uid.clone().unwrap_or_default();
            for owner in owners(old.meta()) {
                if let Some(set) = self.dependents.get_mut(&owner.uid) {
                    set.remove(&node);
                    if set.is_empty() {
                        self.dependents.remove(&owner.uid);
                    }
                }
                if new.is_none() || replaced.is_some() {
                    // It may have been the last that the owner waited for.
                    concerned.extend(self.nodes.get(&owner.uid).cloned());
                }
            }
            if new.is_none() || replaced.is_some() {
                self.nodes.remove(&old_uid);
                concerned.extend(self.dependents.get(&old_uid).into_iter().flatten().cloned());
            }
        }
        if let Some(new) = new {
            let meta = new.meta();
            self.nodes.insert(uid.clone(), node.clone());
            for owner in owners(meta) {
                self.dependents.entry(owner.uid.clone()).or_default().insert(node.clone());
            }
            let going = meta.deletion_timestamp.is_some();
            if meta.owner_references.as_ref().is_some_and(|o| !o.is_empty()) || (going && meta.finalizers.is_some()) {
                concerned.insert(node);
            }
            if is_waiting(meta) {
                concerned.extend(self.dependents(&uid));
            }
            // An owner that waits looks again when what blocked it no longer does.
            concerned.extend(old.into_iter().flat_map(|o| owners(o.meta())).filter_map(|o| self.nodes.get(&o.uid)).cloned());
        }
        concerned
    }

    /// The dependents of an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists.
    Solid,
    /// It does not exist.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// It is of a kind that is not served, so that nothing can be said of it.
    Unknown,
}

/// What to do about a dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Some owners are gone or going, others stay: let go of the former.
    Release,
    /// No owner stays.
    Delete {
        /// Its own dependents go first.
        foreground: bool,
    },
}

/// Decides about an object by its owners.
pub fn verdict(owners: &[OwnerState], has_dependents: bool) -> Verdict {
    let any = |state| owners.contains(&state);
    match (any(OwnerState::Solid) || any(OwnerState::Unknown), any(OwnerState::Dangling) || any(OwnerState::Waiting)) {
        (_, false) => Verdict::Keep,
        (true, true) => Verdict::Release,
        (false, true) => Verdict::Delete { foreground: any(OwnerState::Waiting) && has_dependents },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OwnerState::{Dangling, Solid, Unknown, Waiting};
    use serde_json::{Value, json};
    use wharf_core::store::{Key, ResourceId, Revision};

    fn object(name: &str, uid: &str, owner: Option<&str>, extra: Value) -> Object {
        let mut meta = json!({"name":name,"namespace":"ns","uid":uid});
        if let Some(owner) = owner {
            meta["ownerReferences"] = json!([{"apiVersion":"v1","kind":"X","name":owner,"uid":owner}]);
        }
        for (k, v) in extra.as_object().into_iter().flatten() {
            meta[k] = v.clone();
        }
        let bytes = serde_json::to_vec(&json!({"metadata": meta})).unwrap();
        Object::from_served(Key::new(ResourceId::new("", "x"), "ns", name), Revision(1), bytes.into())
    }

    fn names(nodes: &BTreeSet<Node>) -> Vec<&str> {
        nodes.iter().map(|n| &*n.object.name).collect()
    }

    #[test]
    fn verdicts() {
        for (owners, dependents, want) in [
            (&[][..], false, Verdict::Keep),
            (&[Solid], false, Verdict::Keep),
            (&[Unknown], false, Verdict::Keep),
            (&[Unknown, Dangling], false, Verdict::Release),
            (&[Solid, Dangling], false, Verdict::Release),
            (&[Solid, Waiting], true, Verdict::Release),
            (&[Dangling], true, Verdict::Delete { foreground: false }),
            (&[Waiting], true, Verdict::Delete { foreground: true }),
            (&[Waiting, Dangling], false, Verdict::Delete { foreground: false }),
        ] {
            assert_eq!(verdict(owners, dependents), want, "{owners:?}");
        }
    }

    #[test]
    fn a_change_concerns_both_ends_of_an_edge() {
        let mut graph = Graph::default();
        let (owner, child) = (object("o", "uo", None, json!({})), object("c", "uc", Some("uo"), json!({})));
        assert!(graph.observe(0, None, Some(&owner)).is_empty());
        assert_eq!(names(&graph.observe(1, None, Some(&child))), ["c"]);
        let going = object("o", "uo", None, json!({"deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":[FOREGROUND]}));
        assert_eq!(names(&graph.observe(0, Some(&owner), Some(&going))), ["o", "c"]);
        assert_eq!(names(&graph.observe(1, Some(&child), None)), ["o"], "the owner may be done waiting");
        assert_eq!(graph.dependents("uo"), []);
        graph.observe(1, None, Some(&child));
        assert_eq!(names(&graph.observe(0, Some(&going), None)), ["c"], "the dependents of what is gone");
    }

    #[test]
    fn a_namesake_is_another_object() {
        let mut graph = Graph::default();
        let (first, second) = (object("o", "u1", None, json!({})), object("o", "u2", None, json!({})));
        graph.observe(0, None, Some(&first));
        graph.observe(1, None, Some(&object("c", "uc", Some("u1"), json!({}))));
        assert_eq!(names(&graph.observe(0, Some(&first), Some(&second))), ["c"]);
    }

    #[test]
    fn keys_come_back() {
        let node = Node { resource: 3, object: ObjectRef::new("ns", "a.b") };
        assert_eq!(Node::from_key(&node.to_key()), Some(node));
        assert_eq!(Node::from_key(&ObjectRef::new("ns", "a")), None);
    }
}
