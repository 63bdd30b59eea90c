//! Records, history, and how a commit changes them. No lock, no runtime.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use wharf_core::object::ObjectRef;
use wharf_core::store::{Change, Expect, Key, Op, Record, ResourceId, Revision, Scope, StoreError, StoreResult, Transaction};

use crate::history::{Commit, HistoryBound, Ring};
use crate::plan::{self, Pending, Planned};

/// Where an empty store stands, as etcd does.
pub const FIRST_REVISION: Revision = Revision(1);

/// The records of one resource and the commits about it.
///
/// It stays when its last record is deleted, to know what its ring has forgotten; there are only as many as
/// resources were ever served.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    pub(crate) records: BTreeMap<ObjectRef, Record>,
    pub(crate) history: Ring,
}

/// The records of a store, and the commits that can still be watched and read back.
///
/// # Panics
/// Never.
#[derive(Debug)]
pub struct State {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) collections: BTreeMap<ResourceId, Collection>,
    pub(crate) history: Ring,
    pub(crate) history_bytes: usize,
    bound: HistoryBound,
    /// What a resource that was never written has for history.
    nothing: Ring,
}

pub(crate) fn name_of(key: &Key) -> ObjectRef {
    ObjectRef { namespace: key.namespace.clone(), name: key.name.clone() }
}

impl State {
    /// An empty one, at [`FIRST_REVISION`].
    pub fn new(bound: HistoryBound) -> Self {
        Self {
            revision: FIRST_REVISION,
            compacted: Revision(0),
            collections: BTreeMap::new(),
            history: Ring::default(),
            history_bytes: 0,
            bound: HistoryBound { commits: bound.commits.max(1), ..bound },
            nothing: Ring::default(),
        }
    }

    /// The newest commit's revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// History up to here is gone.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.collections.values().map(|c| c.records.len()).sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.collections.values().all(|c| c.records.is_empty())
    }

    /// One record.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.collections.get(&key.resource)?.records.get(&name_of(key))
    }

    /// The commits after a revision, oldest first; `None` if one of those is forgotten.
    pub fn commits_after(&self, revision: Revision) -> Option<impl Iterator<Item = &Commit>> {
        if revision < self.compacted { None } else { self.history.after(revision) }
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

    /// The records in scope after a key, in key order.
    pub fn records<'a>(&'a self, scope: &'a Scope, after: Option<&'a Key>) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
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

    /// A key of which only the name has a string of its own: its resource and namespace are those of its neighbours.
    pub(crate) fn shared_key(&self, key: Key) -> Key {
        let Some((resource, collection)) = self.collections.get_key_value(&key.resource) else { return key };
        let name = name_of(&key);
        let before = collection.records.range(..&name).next_back();
        let namespace = match before {
            Some((before, _)) if before.namespace == key.namespace => before.namespace.clone(),
            _ => match collection.records.range(&name..).next() {
                Some((next, _)) if next.namespace == key.namespace => next.namespace.clone(),
                _ => key.namespace,
            },
        };
        Key { resource: resource.clone(), namespace, name: key.name }
    }

    /// What a transaction comes to on this state and the commits that are pending, to which its commit is added. The state
    /// stays as it is. The transaction must be [valid](Transaction::validate); its time to live is the caller's business.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for the first precondition that does not hold.
    pub fn plan(&self, pending: &mut Pending, transaction: Transaction) -> StoreResult<Planned> {
        plan::over(self, pending, transaction)
    }

    /// Plans a transaction and applies it at once: for a store that is not durable, and to repeat operations from a log.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] for the first precondition that does not hold.
    pub fn commit(&mut self, mut transaction: Transaction) -> StoreResult<Planned> {
        if let [Op::Put { key, value, expect }] = transaction.ops.as_mut_slice()
            && let Some(commit) = self.update(key, value, *expect)
        {
            return Ok(Planned::Commit(commit));
        }
        let planned = plan::alone(self, transaction)?;
        if let Planned::Commit(commit) = &planned {
            self.apply(commit.clone());
        }
        Ok(planned)
    }

    /// Writes over a record that is there and as expected, which is found once; nothing is done otherwise.
    fn update(&mut self, key: &Key, value: &mut Bytes, expect: Expect) -> Option<Commit> {
        let record = self.collections.get_mut(&key.resource)?.records.get_mut(&name_of(key))?;
        if !expect.holds(Some(record)) {
            return None;
        }
        let revision = Revision(self.revision.0 + 1);
        let change = plan::replacement(record, std::mem::take(value), revision);
        if let Change::Put { record: new, .. } = &change {
            *record = new.clone();
        }
        self.revision = revision;
        let commit = Commit { revision, changes: Arc::new([change]) };
        self.remember(commit.clone());
        self.trim();
        Some(commit)
    }

    /// Makes a planned commit visible, and forgets history that is over the bound. Commits are applied in the order of their
    /// plans; one at or before [`State::revision`] has been applied already and changes nothing.
    pub fn apply(&mut self, commit: Commit) {
        if commit.revision <= self.revision {
            return;
        }
        for change in commit.changes.iter() {
            let resource = &change.key().resource;
            if !self.collections.contains_key(resource) {
                self.collections.insert(resource.clone(), Collection::default());
            }
            let Some(collection) = self.collections.get_mut(resource) else { continue };
            match change {
                Change::Put { record, .. } => drop(collection.records.insert(name_of(&record.key), record.clone())),
                Change::Delete { previous } => drop(collection.records.remove(&name_of(&previous.key))),
            }
        }
        self.revision = commit.revision;
        self.remember(commit);
        self.trim();
    }

    /// Adds a commit to the history of the store and of each resource it touched.
    pub(crate) fn remember(&mut self, commit: Commit) {
        let Some(first) = commit.changes.first().map(|c| &c.key().resource) else { return };
        if commit.changes.iter().all(|c| c.key().resource == *first) {
            if let Some(collection) = self.collections.get_mut(first) {
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
    }

    /// Forgets what is over the bound.
    pub(crate) fn trim(&mut self) {
        while self.history.len() > self.bound.commits || (self.history_bytes > self.bound.bytes && self.history.len() > 1) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> Option<Commit> {
        let commit = self.history.forget_oldest()?;
        self.history_bytes -= commit.bytes();
        self.compacted = self.compacted.max(commit.revision);
        for change in commit.changes.iter() {
            if let Some(collection) = self.collections.get_mut(&change.key().resource) {
                collection.history.forget(commit.revision);
            }
        }
        Some(commit)
    }

    /// Forgets history up to and including a revision. Current records stay.
    ///
    /// # Errors
    /// [`StoreError::Future`] for a revision that is yet to come.
    pub fn compact(&mut self, upto: Revision) -> StoreResult<()> {
        self.compact_some(upto, usize::MAX).map(drop)
    }

    /// Forgets at most so many commits, which the caller drops where it holds nobody up. Fewer are all that were left. Nobody
    /// begins to read below the revision from the first call on.
    pub(crate) fn compact_some(&mut self, upto: Revision, most: usize) -> StoreResult<Vec<Commit>> {
        if upto > self.revision {
            return Err(StoreError::Future { asked: upto, current: self.revision });
        }
        self.compacted = self.compacted.max(upto);
        let mut forgotten = Vec::new();
        while forgotten.len() < most && self.history.oldest().is_some_and(|c| c.revision <= upto) {
            forgotten.extend(self.forget_oldest());
        }
        Ok(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(resource: &str, name: &str) -> Key {
        Key::new(ResourceId::new("", resource), "default", name)
    }
    fn put(key: Key, len: usize) -> Op {
        Op::Put { key, value: Bytes::from(vec![0; len]), expect: Expect::Any }
    }
    fn state(commits: usize, bytes: usize) -> State {
        State::new(HistoryBound { commits, bytes })
    }
    fn commit(state: &mut State, ops: Vec<Op>) -> Commit {
        match state.commit(Transaction::new(ops)).unwrap() {
            Planned::Commit(commit) => commit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn history_is_bounded_by_commits() {
        let mut state = state(2, usize::MAX);
        for name in ["a", "b", "c"] {
            commit(&mut state, vec![put(key("pods", name), 1)]);
        }
        assert_eq!((state.revision(), state.compacted(), state.len()), (Revision(4), Revision(2), 3));
        assert_eq!(state.history(&Scope::All).len(), 2);
        assert_eq!(state.history(&Scope::Resource(ResourceId::new("", "pods"))).len(), 2);
        assert!(state.commits_after(Revision(1)).is_none());
        assert_eq!(state.commits_after(Revision(2)).unwrap().count(), 2);
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

    #[test]
    fn neighbours_share_their_resource_and_namespace() {
        let mut state = state(10, usize::MAX);
        // The third has a neighbour only after it, the fourth in another namespace only.
        for name in ["b", "c", "a"] {
            commit(&mut state, vec![put(key("pods", name), 1)]);
        }
        commit(&mut state, vec![put(Key::new(ResourceId::new("", "pods"), "other", "a"), 1)]);
        let records: Vec<&Record> = state.records(&Scope::All, None).collect();
        assert!(records.windows(2).all(|w| Arc::ptr_eq(&w[0].key.resource.resource, &w[1].key.resource.resource)));
        let shared: Vec<bool> = records.windows(2).map(|w| Arc::ptr_eq(&w[0].key.namespace, &w[1].key.namespace)).collect();
        assert_eq!(shared, [true, true, false]);
    }

    #[test]
    fn a_commit_is_applied_once() {
        let mut state = state(10, usize::MAX);
        let first = commit(&mut state, vec![put(key("pods", "a"), 1)]);
        commit(&mut state, vec![Op::Delete { key: key("pods", "a"), expect: Expect::Any }]);
        state.apply(first);
        assert_eq!((state.get(&key("pods", "a")), state.revision(), state.history(&Scope::All).len()), (None, Revision(3), 2));
    }

    #[test]
    fn a_commit_is_what_its_plan_and_apply_would_be() {
        let (mut one, mut two) = (state(10, usize::MAX), state(10, usize::MAX));
        for expect in [Expect::Revision(Revision(1)), Expect::Any, Expect::Absent, Expect::Present, Expect::Revision(Revision(3))] {
            let op = Op::Put { key: key("pods", "a"), value: Bytes::from(format!("{expect:?}")), expect };
            let planned = two.plan(&mut Pending::new(), Transaction::new(vec![op.clone()]));
            if let Ok(Planned::Commit(commit)) = &planned {
                two.apply(commit.clone());
            }
            match (one.commit(Transaction::new(vec![op])), planned) {
                (Ok(one), Ok(two)) => assert_eq!(one, two),
                (Err(one), Err(two)) => assert_eq!(format!("{one:?}"), format!("{two:?}")),
                other => panic!("{other:?}"),
            }
            assert_eq!(one.get(&key("pods", "a")), two.get(&key("pods", "a")));
            assert_eq!((one.revision(), one.history_bytes), (two.revision(), two.history_bytes));
        }
        assert_eq!(one.revision(), Revision(4));
    }

    #[test]
    fn compaction_in_steps_is_seen_at_once() {
        let mut state = state(10, usize::MAX);
        for _ in 0..5 {
            commit(&mut state, vec![put(key("pods", "a"), 1)]);
        }
        assert_eq!(state.compact_some(Revision(5), 3).unwrap().len(), 3);
        assert_eq!(state.compacted(), Revision(5));
        assert!(state.commits_after(Revision(4)).is_none());
        assert_eq!(state.compact_some(Revision(5), 3).unwrap().len(), 1);
        state.compact(Revision(2)).unwrap();
        assert_eq!((state.compacted(), state.commits_after(Revision(5)).unwrap().count()), (Revision(5), 1));
        assert!(matches!(state.compact(Revision(7)), Err(StoreError::Future { .. })));
    }
}
