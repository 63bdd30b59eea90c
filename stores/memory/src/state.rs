//! Everything under the lock: records, history, and how a transaction changes them.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use wharf_core::object::ObjectRef;
use wharf_core::store::{Change, Expect, Key, Op, Record, ResourceId, Revision, Scope, StoreError, StoreResult, Transaction};

use crate::history::{Bound, Commit, Ring};

/// Where an empty store stands, as etcd does.
const FIRST_REVISION: Revision = Revision(1);

/// The records of one resource and the commits about it.
///
/// It stays when its last record is deleted, to know what its ring has forgotten; there are only as many as
/// resources were ever served.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    records: BTreeMap<ObjectRef, Record>,
    history: Ring,
}

/// The store's whole state.
#[derive(Debug)]
pub(crate) struct State {
    revision: Revision,
    compacted: Revision,
    collections: BTreeMap<ResourceId, Collection>,
    history: Ring,
    history_bytes: usize,
    bound: Bound,
    /// What a resource that was never written has for history.
    nothing: Ring,
}

fn name_of(key: &Key) -> ObjectRef {
    ObjectRef { namespace: key.namespace.clone(), name: key.name.clone() }
}

fn holds(expect: Expect, current: Option<&Record>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Present => current.is_some(),
        Expect::Revision(revision) => current.is_some_and(|r| r.modified == revision),
    }
}

impl State {
    pub(crate) fn new(bound: Bound) -> Self {
        Self {
            revision: FIRST_REVISION,
            compacted: Revision(0),
            collections: BTreeMap::new(),
            history: Ring::default(),
            history_bytes: 0,
            bound,
            nothing: Ring::default(),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Record> {
        self.collections.get(&key.resource)?.records.get(&name_of(key))
    }

    /// The history of a scope; for a namespace, that of its resource.
    pub(crate) fn history(&self, scope: &Scope) -> &Ring {
        match scope {
            Scope::Resource(resource) | Scope::Namespace(resource, _) => {
                self.collections.get(resource).map_or(&self.nothing, |c| &c.history)
            }
            _ => &self.history,
        }
    }

    /// The current records in scope after a key, in key order.
    pub(crate) fn records<'a>(&'a self, scope: &'a Scope, after: Option<&'a Key>) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
        match scope {
            Scope::Resource(resource) => self.collection(resource, after),
            Scope::Namespace(resource, namespace) => {
                // The empty name sorts before every other, so this is just before the namespace.
                let start = Key::new(resource.clone(), namespace.clone(), "");
                let records = match after {
                    Some(after) if *after >= start => self.collection(resource, Some(after)),
                    _ => self.collection_from(resource, name_of(&start)),
                };
                Box::new(records.take_while(move |r| r.key.namespace == *namespace))
            }
            _ => {
                let resources = match after {
                    Some(after) => self.collections.range(after.resource.clone()..),
                    None => self.collections.range::<ResourceId, _>(..),
                };
                Box::new(resources.flat_map(move |(resource, _)| self.collection(resource, after)))
            }
        }
    }

    fn collection_from<'a>(&'a self, resource: &ResourceId, start: ObjectRef) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
        match self.collections.get(resource) {
            Some(collection) => Box::new(collection.records.range(start..).map(|(_, r)| r)),
            None => Box::new(std::iter::empty()),
        }
    }

    fn collection<'a>(&'a self, resource: &ResourceId, after: Option<&Key>) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
        let Some(collection) = self.collections.get(resource) else { return Box::new(std::iter::empty()) };
        match after {
            Some(after) if after.resource == *resource => {
                Box::new(collection.records.range((Excluded(name_of(after)), Unbounded)).map(|(_, r)| r))
            }
            Some(after) if after.resource > *resource => Box::new(std::iter::empty()),
            _ => Box::new(collection.records.values()),
        }
    }

    /// Carries out a valid transaction, or nothing of it.
    pub(crate) fn commit(&mut self, transaction: Transaction) -> StoreResult<Revision> {
        for op in &transaction.ops {
            let current = self.get(op.key());
            if !holds(op.expect(), current) {
                let current = current.cloned().map(Box::new);
                return Err(StoreError::Conflict { key: op.key().clone(), expect: op.expect(), current });
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let changes: Vec<Change> = transaction.ops.into_iter().filter_map(|op| self.apply(op, revision)).collect();
        if changes.is_empty() {
            return Ok(self.revision);
        }
        self.revision = revision;
        self.remember(Commit { revision, changes: changes.into() });
        Ok(revision)
    }

    fn apply(&mut self, op: Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Check { .. } => None,
            Op::Delete { key, .. } => {
                let previous = self.collections.get_mut(&key.resource)?.records.remove(&name_of(&key))?;
                Some(Change::Delete { previous })
            }
            Op::Put { key, value, .. } => {
                if !self.collections.contains_key(&key.resource) {
                    self.collections.insert(key.resource.clone(), Collection::default());
                }
                let records = &mut self.collections.get_mut(&key.resource)?.records;
                let name = name_of(&key);
                if let Some(slot) = records.get_mut(&name) {
                    // The key that is stored already, so that all versions of an object share its strings.
                    let record = Record { key: slot.key.clone(), value, created: slot.created, modified: revision };
                    let previous = std::mem::replace(slot, record.clone());
                    return Some(Change::Put { record, previous: Some(previous) });
                }
                let record = Record { key, value, created: revision, modified: revision };
                records.insert(name, record.clone());
                Some(Change::Put { record, previous: None })
            }
        }
    }

    /// Adds a commit to the history of the store and of each resource it touched, and forgets what is over the bound.
    fn remember(&mut self, commit: Commit) {
        let first = commit.changes[0].key().resource.clone();
        if commit.changes.iter().all(|c| c.key().resource == first) {
            if let Some(collection) = self.collections.get_mut(&first) {
                collection.history.push(commit.clone());
            }
        } else {
            let mut parts: BTreeMap<&ResourceId, Vec<Change>> = BTreeMap::new();
            for change in commit.changes.iter() {
                parts.entry(&change.key().resource).or_default().push(change.clone());
            }
            for (resource, changes) in parts {
                if let Some(collection) = self.collections.get_mut(resource) {
                    collection.history.push(Commit { revision: commit.revision, changes: Arc::from(changes) });
                }
            }
        }
        self.history_bytes += commit.bytes();
        self.history.push(commit);
        while self.history.len() > self.bound.commits || (self.history_bytes > self.bound.bytes && self.history.len() > 1) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(commit) = self.history.forget_oldest() else { return };
        self.history_bytes -= commit.bytes();
        self.compacted = commit.revision;
        for change in commit.changes.iter() {
            if let Some(collection) = self.collections.get_mut(&change.key().resource) {
                collection.history.forget(commit.revision);
            }
        }
    }

    pub(crate) fn compact(&mut self, upto: Revision) -> StoreResult<()> {
        if upto > self.revision {
            return Err(StoreError::Future { asked: upto, current: self.revision });
        }
        while self.history.oldest().is_some_and(|c| c.revision <= upto) {
            self.forget_oldest();
        }
        self.compacted = self.compacted.max(upto);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key(resource: &str, name: &str) -> Key {
        Key::new(ResourceId::new("", resource), "default", name)
    }
    fn put(key: Key, len: usize) -> Op {
        Op::Put { key, value: Bytes::from(vec![0; len]), expect: Expect::Any }
    }
    fn state(commits: usize, bytes: usize) -> State {
        State::new(Bound { commits, bytes })
    }
    fn commit(state: &mut State, ops: Vec<Op>) -> Revision {
        state.commit(Transaction::new(ops)).unwrap()
    }

    #[test]
    fn history_is_bounded_by_commits() {
        let mut state = state(2, usize::MAX);
        for name in ["a", "b", "c"] {
            commit(&mut state, vec![put(key("pods", name), 1)]);
        }
        assert_eq!((state.revision(), state.compacted()), (Revision(4), Revision(2)));
        assert_eq!(state.history(&Scope::All).len(), 2);
        assert_eq!(state.history(&Scope::Resource(ResourceId::new("", "pods"))).len(), 2);
    }

    #[test]
    fn history_is_bounded_by_bytes_but_keeps_the_newest() {
        let mut state = state(100, 10);
        commit(&mut state, vec![put(key("pods", "a"), 4)]);
        // 4 + 4 for the old value + 4: over the bound.
        commit(&mut state, vec![put(key("pods", "a"), 4)]);
        assert_eq!(state.history(&Scope::All).len(), 1);
        assert_eq!(state.history_bytes, 8);
        commit(&mut state, vec![put(key("pods", "b"), 1000)]);
        assert_eq!((state.history(&Scope::All).len(), state.compacted()), (1, Revision(3)));
    }

    #[test]
    fn a_commit_over_resources_is_forgotten_in_each() {
        let mut state = state(1, usize::MAX);
        commit(&mut state, vec![put(key("pods", "a"), 1), put(key("nodes", "n"), 1), put(key("pods", "b"), 1)]);
        let pods = Scope::Resource(ResourceId::new("", "pods"));
        assert_eq!(state.history(&pods).oldest().unwrap().changes.len(), 2);
        commit(&mut state, vec![put(key("nodes", "n"), 1)]);
        assert_eq!(state.history(&pods).len(), 0);
        assert!(state.history(&pods).after(Revision(1)).is_none());
        assert!(state.history(&pods).after(Revision(2)).is_some());
    }

    #[test]
    fn versions_of_an_object_share_their_key() {
        let mut state = state(10, usize::MAX);
        commit(&mut state, vec![put(key("pods", "a"), 1)]);
        let name = state.get(&key("pods", "a")).unwrap().key.name.clone();
        commit(&mut state, vec![put(key("pods", "a"), 1)]);
        assert!(Arc::ptr_eq(&name, &state.get(&key("pods", "a")).unwrap().key.name));
    }
}
