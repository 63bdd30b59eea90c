//! What a transaction comes to, decided without changing anything.

use std::collections::HashMap;

use bytes::Bytes;
use wharf_core::store::{Change, Key, Op, Record, Revision, StoreError, StoreResult, Transaction};

use crate::history::Commit;
use crate::state::State;

/// What a transaction comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// Nothing changes: it only checks, or deletes what is absent. It is answered with this revision, which may be that of a
    /// commit that is still pending: answer once that one is durable.
    Nothing(Revision),
    /// This commit.
    Commit(Commit),
}

/// Commits that are planned and not applied yet, for the transactions that come after them.
#[derive(Debug, Default)]
pub struct Pending {
    newest: Revision,
    /// What each key will be, and by which commit.
    keys: HashMap<Key, (Revision, Option<Record>)>,
}

impl Pending {
    /// No commits.
    pub fn new() -> Self {
        Self::default()
    }
    /// Whether every planned commit has been applied.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
    /// Forgets a commit that has been applied.
    pub fn applied(&mut self, commit: &Commit) {
        for change in commit.changes.iter() {
            // A later commit may have changed the key again.
            if self.keys.get(change.key()).is_some_and(|(revision, _)| *revision <= commit.revision) {
                self.keys.remove(change.key());
            }
        }
    }
    fn add(&mut self, commit: &Commit) {
        self.newest = commit.revision;
        for change in commit.changes.iter() {
            let now = match change {
                Change::Put { record, .. } => Some(record.clone()),
                Change::Delete { .. } => None,
            };
            self.keys.insert(change.key().clone(), (commit.revision, now));
        }
    }
}

/// Plans over the commits that are pending, and adds the plan to them.
pub(crate) fn over(state: &State, pending: &mut Pending, transaction: Transaction) -> StoreResult<Planned> {
    let at = state.revision().max(pending.newest);
    let planned = decide(state, at, transaction, |key| match pending.keys.get(key) {
        Some((_, record)) => record.as_ref(),
        None => state.get(key),
    })?;
    if let Planned::Commit(commit) = &planned {
        pending.add(commit);
    }
    Ok(planned)
}

/// Plans over a state alone.
pub(crate) fn alone(state: &State, transaction: Transaction) -> StoreResult<Planned> {
    decide(state, state.revision(), transaction, |key| state.get(key))
}

fn decide<'a>(state: &State, at: Revision, transaction: Transaction, current: impl Fn(&Key) -> Option<&'a Record>) -> StoreResult<Planned> {
    let mut before = Vec::with_capacity(transaction.ops.len());
    for op in &transaction.ops {
        let current = current(op.key());
        if !op.expect().holds(current) {
            return Err(StoreError::Conflict { key: op.key().clone(), expect: op.expect(), current: current.cloned().map(Box::new) });
        }
        before.push(current);
    }
    let revision = Revision(at.0 + 1);
    let changes: Vec<Change> =
        transaction.ops.into_iter().zip(before).filter_map(|(op, previous)| change(state, revision, op, previous)).collect();
    if changes.is_empty() {
        return Ok(Planned::Nothing(at));
    }
    Ok(Planned::Commit(Commit { revision, changes: changes.into() }))
}

fn change(state: &State, revision: Revision, op: Op, previous: Option<&Record>) -> Option<Change> {
    match op {
        Op::Check { .. } => None,
        Op::Delete { .. } => previous.map(|previous| Change::Delete { previous: previous.clone() }),
        Op::Put { key, value, .. } => Some(match previous {
            Some(previous) => replacement(previous, value, revision),
            None => {
                Change::Put { record: Record { key: state.shared_key(key), value, created: revision, modified: revision }, previous: None }
            }
        }),
    }
}

/// The change that writes a value over a record.
pub(crate) fn replacement(previous: &Record, value: Bytes, revision: Revision) -> Change {
    // The key that is stored already, so that all versions of an object share its strings.
    let record = Record { key: previous.key.clone(), value, created: previous.created, modified: revision };
    Change::Put { record, previous: Some(previous.clone()) }
}

#[cfg(test)]
mod tests {
    use wharf_core::store::{Expect, ResourceId};

    use super::*;
    use crate::HistoryBound;

    fn key(name: &str) -> Key {
        Key::new(ResourceId::new("", "pods"), "default", name)
    }
    fn put(name: &str, value: &'static str, expect: Expect) -> Transaction {
        Transaction::new(vec![Op::Put { key: key(name), value: Bytes::from_static(value.as_bytes()), expect }])
    }
    fn delete(name: &str) -> Transaction {
        Transaction::new(vec![Op::Delete { key: key(name), expect: Expect::Any }])
    }
    fn commit(planned: StoreResult<Planned>) -> Commit {
        match planned.unwrap() {
            Planned::Commit(commit) => commit,
            Planned::Nothing(revision) => panic!("nothing changed, at {revision}"),
        }
    }

    #[test]
    fn a_plan_changes_nothing_until_it_is_applied() {
        let (mut state, mut pending) = (State::new(HistoryBound::default()), Pending::new());
        let planned = commit(state.plan(&mut pending, put("a", "1", Expect::Absent)));
        assert_eq!((state.get(&key("a")), state.revision(), pending.is_empty()), (None, Revision(1), false));
        pending.applied(&planned);
        state.apply(planned);
        assert_eq!(state.get(&key("a")).unwrap().value, "1");
        assert!(pending.is_empty());
    }

    #[test]
    fn conflicts_are_judged_on_what_is_pending_too() {
        let (mut state, mut pending) = (State::new(HistoryBound::default()), Pending::new());
        state.apply(commit(state.plan(&mut Pending::new(), put("a", "0", Expect::Absent))));
        let first = commit(state.plan(&mut pending, put("a", "1", Expect::Revision(Revision(2)))));
        assert_eq!(first.revision, Revision(3));
        // The state still has revision 2, and only the pending commit says that this is too late.
        match state.plan(&mut pending, put("a", "2", Expect::Revision(Revision(2)))) {
            Err(StoreError::Conflict { current: Some(current), .. }) => assert_eq!(current.modified, Revision(3)),
            other => panic!("{other:?}"),
        }
        let second = commit(state.plan(&mut pending, put("a", "2", Expect::Revision(Revision(3)))));
        assert!(matches!(&second.changes[0], Change::Put { record, previous: Some(p) }
            if p.modified == Revision(3) && p.value == "1" && record.created == Revision(2)));
        let third = commit(state.plan(&mut pending, delete("a")));
        assert_eq!(state.plan(&mut pending, delete("a")).unwrap(), Planned::Nothing(Revision(4 + 1)));
        let fourth = commit(state.plan(&mut pending, put("a", "3", Expect::Absent)));
        for planned in [first, second, third, fourth] {
            pending.applied(&planned);
            state.apply(planned);
        }
        assert!(pending.is_empty());
        let record = state.get(&key("a")).unwrap();
        assert_eq!((record.created, record.modified, state.revision()), (Revision(6), Revision(6), Revision(6)));
    }

    #[test]
    fn a_key_that_is_pending_twice_stays_until_the_second_is_applied() {
        let (mut state, mut pending) = (State::new(HistoryBound::default()), Pending::new());
        let first = commit(state.plan(&mut pending, put("a", "1", Expect::Any)));
        let second = commit(state.plan(&mut pending, put("a", "2", Expect::Any)));
        pending.applied(&first);
        state.apply(first);
        assert!(state.plan(&mut pending, put("a", "x", Expect::Revision(Revision(2)))).is_err());
        pending.applied(&second);
        state.apply(second);
        assert!(pending.is_empty());
        assert_eq!(commit(state.plan(&mut pending, put("a", "3", Expect::Any))).revision, Revision(4));
    }

    #[test]
    fn one_precondition_that_fails_refuses_all_and_leaves_nothing_pending() {
        let (state, mut pending) = (State::new(HistoryBound::default()), Pending::new());
        let mut both = put("a", "1", Expect::Absent);
        both.ops.extend(put("b", "1", Expect::Present).ops);
        assert!(matches!(state.plan(&mut pending, both), Err(StoreError::Conflict { key, .. }) if &*key.name == "b"));
        assert!(pending.is_empty());
        assert_eq!(commit(state.plan(&mut pending, put("a", "1", Expect::Absent))).revision, Revision(2));
    }
}
