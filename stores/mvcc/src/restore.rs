//! A state from what a store has kept elsewhere.

use std::collections::HashMap;

use wharf_core::store::{Change, Key, Record, Revision};

use crate::history::{Commit, HistoryBound, Ring};
use crate::records::Records;
use crate::state::{Collection, FIRST_REVISION, State};

/// What cannot be the state of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A record of a revision that is yet to come.
    #[error("{key} was changed at revision {modified}, but the state is that of {revision}")]
    RecordFromFuture {
        /// Which.
        key: Key,
        /// When it says it was changed.
        modified: Revision,
        /// The state's revision.
        revision: Revision,
    },
    /// A commit that is compacted, out of order, or yet to come.
    #[error("commit {commit} is not after {after} and up to {revision}")]
    CommitOutOfOrder {
        /// Which.
        commit: Revision,
        /// The commit before it, or what is compacted.
        after: Revision,
        /// The state's revision.
        revision: Revision,
    },
    /// History begins after the state, or the state before every store.
    #[error("a state at revision {revision} cannot be compacted at {compacted}")]
    Revisions {
        /// The state's revision.
        revision: Revision,
        /// What is compacted.
        compacted: Revision,
    },
}

impl State {
    /// A state as it was: `records` are all that there were at `revision`; `commits` are those that can still
    /// be watched, in order, each after `compacted` and none after `revision`. What is over the bound is forgotten.
    ///
    /// The same version of an object is in memory once, however often it was read: as a record, in the commit that wrote it and
    /// in the one that replaced it.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(
        bound: HistoryBound,
        revision: Revision,
        compacted: Revision,
        records: Records,
        commits: impl IntoIterator<Item = Commit>,
    ) -> Result<Self, RestoreError> {
        if revision < FIRST_REVISION || compacted > revision {
            return Err(RestoreError::Revisions { revision, compacted });
        }
        let mut state = Self::new(bound);
        (state.revision, state.compacted, state.history) = (revision, compacted, Ring::forgotten(compacted));
        if let Some(record) = records.newer_than(revision) {
            return Err(RestoreError::RecordFromFuture { key: record.key.clone(), modified: record.modified, revision });
        }
        for (resource, records) in records.packed() {
            state.collections.insert(resource, Collection { records, history: Ring::forgotten(compacted) });
        }
        let mut after = compacted;
        // The newest version of each key that history has told of so far.
        let mut versions: HashMap<Key, Record> = HashMap::new();
        for commit in commits {
            if commit.revision <= after || commit.revision > revision {
                return Err(RestoreError::CommitOutOfOrder { commit: commit.revision, after, revision });
            }
            after = commit.revision;
            let changes = commit.changes.iter().cloned().map(|change| state.shared(&mut versions, change)).collect();
            for change in commit.changes.iter() {
                // Its last record may be gone, but it has a history.
                state
                    .collections
                    .entry(change.key().resource.clone())
                    .or_insert_with(|| Collection { history: Ring::forgotten(compacted), ..Collection::default() });
            }
            state.remember(Commit { revision: commit.revision, changes });
        }
        state.trim();
        Ok(state)
    }

    /// The change with the versions that are in memory already.
    fn shared(&self, versions: &mut HashMap<Key, Record>, change: Change) -> Change {
        let known = |versions: &HashMap<Key, Record>, record: Record| {
            let same = |known: &&Record| known.modified == record.modified && known.value == record.value;
            let known = versions.get(&record.key).filter(same).or_else(|| self.get(&record.key).filter(same));
            known.cloned().unwrap_or(record)
        };
        match change {
            Change::Put { record, previous } => {
                let previous = previous.map(|previous| known(versions, previous));
                let record = known(versions, record);
                versions.insert(record.key.clone(), record.clone());
                Change::Put { record, previous }
            }
            Change::Delete { previous } => {
                let previous = known(versions, previous);
                versions.remove(&previous.key);
                Change::Delete { previous }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wharf_core::store::{Expect, Op, ResourceId, Scope, Transaction};

    use super::*;

    fn key(resource: &str, name: &str) -> Key {
        Key::new(ResourceId::new("", resource), "default", name)
    }
    fn bound() -> HistoryBound {
        HistoryBound::default()
    }
    /// Two resources, of which one has lost its last record; three versions of one object.
    fn original() -> State {
        let mut state = State::new(bound());
        let put = |resource, name, value: &'static str| Op::Put { key: key(resource, name), value: value.into(), expect: Expect::Any };
        let delete = |resource, name| Op::Delete { key: key(resource, name), expect: Expect::Any };
        for ops in [
            vec![put("pods", "a", "1"), put("nodes", "n", "1")],
            vec![put("pods", "a", "2")],
            vec![put("pods", "b", "1"), delete("nodes", "n")],
            vec![put("pods", "a", "3")],
        ] {
            state.commit(Transaction::new(ops)).unwrap();
        }
        state
    }
    /// As a decoder would: nothing is shared.
    fn copied(record: &Record) -> Record {
        let key = Key::new(
            ResourceId::new(&*record.key.resource.group, &*record.key.resource.resource),
            &*record.key.namespace,
            &*record.key.name,
        );
        Record { key, value: Bytes::copy_from_slice(&record.value), ..record.clone() }
    }
    fn listed(state: &State) -> Vec<Record> {
        state.records(&Scope::All, None).map(copied).collect()
    }
    fn records(state: &State) -> Records {
        listed(state).into_iter().collect()
    }
    fn commits(state: &State, after: u64) -> Vec<Commit> {
        let copied = |change: &Change| match change {
            Change::Put { record, previous } => Change::Put { record: copied(record), previous: previous.as_ref().map(copied) },
            Change::Delete { previous } => Change::Delete { previous: copied(previous) },
        };
        let commits = state.commits_after(Revision(after)).unwrap();
        commits.map(|c| Commit { revision: c.revision, changes: c.changes.iter().map(copied).collect() }).collect()
    }

    #[test]
    fn it_is_as_it_was() {
        let mut original = original();
        let mut state = State::restore(bound(), Revision(5), Revision(0), records(&original), commits(&original, 0)).unwrap();
        let pods = Scope::Resource(ResourceId::new("", "pods"));
        let nodes = Scope::Resource(ResourceId::new("", "nodes"));
        for _ in 0..2 {
            assert_eq!(listed(&state), listed(&original));
            assert_eq!(commits(&state, 0), commits(&original, 0));
            assert_eq!(
                (state.revision(), state.compacted(), state.history_bytes),
                (original.revision(), Revision(0), original.history_bytes)
            );
            for scope in [&pods, &nodes] {
                assert_eq!(state.history(scope).len(), original.history(scope).len());
            }
            // And it goes on alike.
            for state in [&mut state, &mut original] {
                let op = Op::Put { key: key("nodes", "n"), value: "2".into(), expect: Expect::Any };
                state.commit(Transaction::new(vec![op])).unwrap();
            }
        }
    }

    #[test]
    fn what_is_compacted_stays_so_in_every_resource() {
        let original = original();
        let state = State::restore(bound(), Revision(5), Revision(3), records(&original), commits(&original, 3)).unwrap();
        assert_eq!(state.compacted(), Revision(3));
        for scope in [Scope::All, Scope::Resource(ResourceId::new("", "pods")), Scope::Resource(ResourceId::new("", "nodes"))] {
            assert!(state.history(&scope).after(Revision(2)).is_none(), "{scope:?}");
            assert!(state.history(&scope).after(Revision(3)).is_some(), "{scope:?}");
        }
    }

    #[test]
    fn a_version_is_in_memory_once() {
        let original = original();
        let state = State::restore(bound(), Revision(5), Revision(0), records(&original), commits(&original, 0)).unwrap();
        let pods = Scope::Resource(ResourceId::new("", "pods"));
        let mut values: HashMap<(Key, Revision), Vec<*const u8>> = HashMap::new();
        let mut see = |r: &Record| values.entry((r.key.clone(), r.modified)).or_default().push(r.value.as_ptr());
        state.records(&pods, None).for_each(&mut see);
        for change in state.commits_after(Revision(0)).unwrap().flat_map(|c| c.changes.iter()) {
            match change {
                Change::Put { record, previous } => {
                    see(record);
                    previous.iter().for_each(&mut see);
                }
                Change::Delete { previous } => see(previous),
            }
        }
        assert_eq!(values.len(), 5);
        assert!(values.values().all(|v| v.windows(2).all(|w| w[0] == w[1])), "{values:?}");
        let records: Vec<&Record> = state.records(&pods, None).collect();
        assert!(std::sync::Arc::ptr_eq(&records[0].key.namespace, &records[1].key.namespace));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let original = original();
        let restore = |revision, compacted, commits| {
            State::restore(bound(), Revision(revision), Revision(compacted), records(&original), commits).unwrap_err()
        };
        assert!(matches!(restore(4, 0, vec![]), RestoreError::RecordFromFuture { modified: Revision(5), .. }));
        assert!(matches!(restore(5, 6, vec![]), RestoreError::Revisions { .. }));
        assert!(matches!(restore(0, 0, vec![]), RestoreError::Revisions { .. }));
        let mut late = commits(&original, 0);
        assert!(matches!(restore(5, 2, late.clone()), RestoreError::CommitOutOfOrder { commit: Revision(2), .. }));
        late.swap(0, 1);
        assert!(matches!(restore(5, 0, late), RestoreError::CommitOutOfOrder { commit: Revision(2), after: Revision(3), .. }));
    }

    #[test]
    fn a_smaller_bound_forgets_more() {
        let original = original();
        let bound = HistoryBound { commits: 1, bytes: usize::MAX };
        let state = State::restore(bound, Revision(5), Revision(0), records(&original), commits(&original, 0)).unwrap();
        assert_eq!((state.compacted(), state.commits_after(Revision(4)).unwrap().count()), (Revision(4), 1));
    }
}
