//! Pages of records, now or in the past.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use wharf_core::store::{Change, Key, ListOptions, Listing, MAX_PAGE, Record, Revision, Scope, StoreError, StoreResult};

use crate::state::State;

/// Records copied under one hold of the lock, so that a long list does not hold up commits.
const CHUNK: usize = 1024;

/// One page. A long one is read in chunks of one revision: the first chunk fixes it, later ones look back.
pub(crate) async fn list(state: &RwLock<State>, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
    let limit = options.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    match in_chunks(state, scope, options, limit, CHUNK).await {
        // History moved on faster than the chunks were read: once more, without letting go.
        Err(StoreError::Expired { .. }) if options.at.is_none() => {
            let state = state.read();
            let (records, more) = page(&state, scope, options.after.as_ref(), limit, state.revision())?;
            Ok(Listing { records, revision: state.revision(), more })
        }
        listing => listing,
    }
}

async fn in_chunks(state: &RwLock<State>, scope: &Scope, options: &ListOptions, limit: usize, chunk: usize) -> StoreResult<Listing> {
    let mut listing = {
        let state = state.read();
        let revision = options.at.unwrap_or_else(|| state.revision());
        let (records, more) = page(&state, scope, options.after.as_ref(), limit.min(chunk), revision)?;
        Listing { records, revision, more }
    };
    while listing.more && listing.records.len() < limit {
        // Others on this executor thread go first.
        tokio::task::yield_now().await;
        let after = listing.records.last().map(|r| r.key.clone());
        let wanted = chunk.min(limit - listing.records.len());
        let (records, more) = page(&state.read(), scope, after.as_ref(), wanted, listing.revision)?;
        listing.records.extend(records);
        listing.more = more;
    }
    Ok(listing)
}

/// Up to `limit` records as of a revision, and whether there are more.
fn page(state: &State, scope: &Scope, after: Option<&Key>, limit: usize, at: Revision) -> StoreResult<(Vec<Record>, bool)> {
    if at > state.revision() {
        return Err(StoreError::Future { asked: at, current: state.revision() });
    }
    if at < state.compacted() {
        return Err(StoreError::Expired { compacted: state.compacted() });
    }
    let mut now = state.records(scope, after).peekable();
    let mut then = undone(state, scope, after, at)?.into_iter().peekable();
    let mut next = || loop {
        let from_now = match (now.peek(), then.peek()) {
            (Some(current), Some((key, _))) if current.key == **key => {
                now.next();
                false
            }
            (Some(current), Some((key, _))) => current.key < **key,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return None,
        };
        let record = if from_now { now.next() } else { then.next().and_then(|(_, record)| record) };
        if record.is_some() {
            return record;
        }
    };
    let mut records = Vec::new();
    while records.len() < limit {
        match next() {
            Some(record) => records.push(record.clone()),
            None => return Ok((records, false)),
        }
    }
    Ok((records, next().is_some()))
}

/// What each key in scope that has changed since `at` was then; `None` for absent.
fn undone<'a>(state: &'a State, scope: &Scope, after: Option<&Key>, at: Revision) -> StoreResult<BTreeMap<&'a Key, Option<&'a Record>>> {
    let commits = state.history(scope).after(at).ok_or(StoreError::Expired { compacted: state.compacted() })?;
    let mut undone = BTreeMap::new();
    for change in commits.flat_map(|c| c.changes.iter()) {
        let key = change.key();
        if scope.contains(key) && after.is_none_or(|after| key > after) {
            // The first change since tells what was there before.
            undone.entry(key).or_insert(match change {
                Change::Put { previous, .. } => previous.as_ref(),
                Change::Delete { previous } => Some(previous),
            });
        }
    }
    Ok(undone)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wharf_core::store::{Expect, Op, ResourceId, Transaction};

    use super::*;
    use crate::history::Bound;

    fn key(name: &str) -> Key {
        Key::new(ResourceId::new("", "pods"), "default", name)
    }
    fn put(state: &RwLock<State>, name: &str) {
        let op = Op::Put { key: key(name), value: Bytes::new(), expect: Expect::Any };
        state.write().commit(Transaction::new(vec![op])).unwrap();
    }
    fn names(listing: &Listing) -> String {
        listing.records.iter().map(|r| &*r.key.name).collect()
    }

    #[tokio::test]
    async fn a_list_in_chunks_shows_one_revision() {
        let state = RwLock::new(State::new(Bound { commits: 100, bytes: usize::MAX }));
        for name in ["b", "d", "f"] {
            put(&state, name);
        }
        let (options, scope) = (ListOptions::default(), Scope::All);
        let reading = in_chunks(&state, &scope, &options, 10, 1);
        let writing = async {
            for name in ["a", "c", "e", "g"] {
                put(&state, name);
                state.write().commit(Transaction::new(vec![Op::Delete { key: key("d"), expect: Expect::Any }])).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (listing, ()) = tokio::join!(reading, writing);
        let listing = listing.unwrap();
        assert_eq!((names(&listing).as_str(), listing.revision, listing.more), ("bdf", Revision(4), false));
    }

    #[tokio::test]
    async fn a_list_that_history_overtakes_starts_over() {
        let state = RwLock::new(State::new(Bound { commits: 1, bytes: usize::MAX }));
        for n in 0..CHUNK + 1 {
            put(&state, &format!("{n:05}"));
        }
        let (options, scope) = (ListOptions::default(), Scope::All);
        let writing = async {
            for name in ["x", "y", "z"] {
                put(&state, name);
            }
        };
        let (listing, ()) = tokio::join!(list(&state, &scope, &options), writing);
        let listing = listing.unwrap();
        assert_eq!(listing.records.len(), CHUNK + 4);
        assert_eq!(listing.revision, state.read().revision());
    }
}
