//! Pages of records, now or in the past.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use wharf_core::store::{Change, Key, ListOptions, Listing, MAX_PAGE, Record, Revision, Scope, StoreError, StoreResult};

use crate::serving::Shared;
use crate::state::State;

/// Records, or commits of the past, looked at under one hold of the lock.
const CHUNK: usize = 1024;
/// After so many it is looked whether a writer waits.
const GIVE_WAY: usize = 64;

/// One page. It is read in chunks that show one revision: the first fixes it, later ones undo what came since.
pub(crate) async fn list(shared: &Shared, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
    match in_chunks(shared, scope, options, CHUNK).await {
        // Between two chunks more was committed than history holds: once more, without letting go.
        Err(StoreError::Expired { .. }) if options.at.is_none() => {
            let state = shared.read();
            let mut reader = Reader::begin(&state, scope, options)?;
            let wanted = wanted(options);
            let mut records = Vec::new();
            while !reader.step(&state, wanted, &|| false, &mut records)? && records.len() < wanted {}
            Ok(listing(reader.at, records, wanted))
        }
        listing => listing,
    }
}

/// One more than the page, to know whether there is more.
fn wanted(options: &ListOptions) -> usize {
    options.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE) + 1
}

fn listing(revision: Revision, mut records: Vec<Record>, wanted: usize) -> Listing {
    let more = records.len() >= wanted;
    records.truncate(wanted - 1);
    Listing { records, revision, more }
}

async fn in_chunks(shared: &Shared, scope: &Scope, options: &ListOptions, most: usize) -> StoreResult<Listing> {
    let wanted = wanted(options);
    let mut reader = Reader::begin(&shared.read(), scope, options)?;
    let mut records = Vec::new();
    // Apart from the rest, which is not to be moved to a larger place under the lock.
    let mut chunk = Vec::with_capacity(most.min(wanted));
    loop {
        let done = {
            let state = shared.read();
            reader.step(&state, most.min(wanted - records.len()), &|| shared.a_writer_waits(), &mut chunk)?
        };
        records.append(&mut chunk);
        if done || records.len() >= wanted {
            return Ok(listing(reader.at, records, wanted));
        }
        // Others on this executor thread go first.
        tokio::task::yield_now().await;
    }
}

/// A position in the records as they were at a revision.
struct Reader<'a> {
    scope: &'a Scope,
    after: Option<Key>,
    at: Revision,
    /// Up to where `undone` knows what came after `at`.
    seen: Revision,
    /// What each key ahead that has changed since `at` was then; `None` for absent.
    undone: BTreeMap<Key, Option<Record>>,
}

impl<'a> Reader<'a> {
    fn begin(state: &State, scope: &'a Scope, options: &ListOptions) -> StoreResult<Self> {
        let at = options.at.unwrap_or(state.revision());
        if at > state.revision() {
            return Err(StoreError::Future { asked: at, current: state.revision() });
        }
        if at < state.compacted() {
            return Err(StoreError::Expired { compacted: state.compacted() });
        }
        Ok(Self { scope, after: options.after.clone(), at, seen: at, undone: BTreeMap::new() })
    }

    /// Learns what has changed since; false if that was not all of it.
    fn catch_up(&mut self, state: &State, give_way: &dyn Fn() -> bool) -> StoreResult<bool> {
        let expired = StoreError::Expired { compacted: state.compacted() };
        let mut commits = state.history(self.scope).after(self.seen).ok_or(expired)?;
        for (n, commit) in commits.by_ref().take(CHUNK).enumerate() {
            for change in commit.changes.iter() {
                let key = change.key();
                if self.scope.contains(key) && self.after.as_ref().is_none_or(|after| key > after) && !self.undone.contains_key(key) {
                    // The first change since tells what was there before.
                    let before = match change {
                        Change::Put { previous, .. } => previous.clone(),
                        Change::Delete { previous } => Some(previous.clone()),
                    };
                    self.undone.insert(key.clone(), before);
                }
            }
            self.seen = commit.revision;
            if n % GIVE_WAY == GIVE_WAY - 1 && give_way() {
                break;
            }
        }
        if commits.next().is_some() {
            return Ok(false);
        }
        self.seen = state.revision();
        Ok(true)
    }

    /// Reads on, up to `most` records and not long after a writer waits; true once there are no more.
    fn step(&mut self, state: &State, most: usize, give_way: &dyn Fn() -> bool, into: &mut Vec<Record>) -> StoreResult<bool> {
        if !self.catch_up(state, give_way)? {
            return Ok(false);
        }
        let start = self.after.as_ref().map_or(Unbounded, Excluded);
        let mut now = state.records(self.scope, self.after.as_ref()).peekable();
        let mut then = self.undone.range::<Key, _>((start, Unbounded)).peekable();
        let mut last = None;
        let mut looked_at = 0;
        let done = loop {
            if into.len() >= most || (looked_at > 0 && looked_at % GIVE_WAY == 0 && give_way()) {
                break false;
            }
            looked_at += 1;
            let from_then = match (now.peek(), then.peek()) {
                (Some(current), Some((key, _))) if current.key == **key => {
                    now.next();
                    true
                }
                (Some(current), Some((key, _))) => current.key > **key,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let (key, record) = if from_then {
                let Some((key, record)) = then.next() else { break true };
                (key, record.as_ref())
            } else {
                let Some(record) = now.next() else { break true };
                (&record.key, Some(record))
            };
            into.extend(record.cloned());
            last = Some(key);
        };
        if let Some(last) = last.cloned() {
            drop((now, then));
            self.after = Some(last);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use wharf_core::store::{Expect, Op, ResourceId, Transaction};

    use super::*;
    use crate::{HistoryBound, Serving};

    fn key(name: &str) -> Key {
        Key::new(ResourceId::new("", "pods"), "default", name)
    }
    fn serving(commits: usize) -> Serving {
        Serving::new(State::new(HistoryBound { commits, bytes: usize::MAX }))
    }
    fn put(serving: &Serving, name: &str) {
        let op = Op::Put { key: key(name), value: Bytes::new(), expect: Expect::Any };
        serving.commit(Transaction::new(vec![op])).unwrap();
    }
    fn delete(serving: &Serving, name: &str) {
        serving.commit(Transaction::new(vec![Op::Delete { key: key(name), expect: Expect::Any }])).unwrap();
    }
    fn names(listing: &Listing) -> String {
        listing.records.iter().map(|r| &*r.key.name).collect()
    }

    #[tokio::test]
    async fn a_list_in_chunks_shows_one_revision() {
        let serving = serving(100);
        for name in ["b", "d", "f"] {
            put(&serving, name);
        }
        let (options, scope) = (ListOptions { limit: Some(10), ..ListOptions::default() }, Scope::All);
        let reading = in_chunks(serving.shared(), &scope, &options, 1);
        let writing = async {
            for name in ["a", "c", "e", "g"] {
                put(&serving, name);
                delete(&serving, "d");
                tokio::task::yield_now().await;
            }
        };
        let (listing, ()) = tokio::join!(reading, writing);
        let listing = listing.unwrap();
        assert_eq!((names(&listing).as_str(), listing.revision, listing.more), ("bdf", Revision(4), false));
    }

    #[tokio::test]
    async fn a_list_outlives_the_history_that_it_has_read() {
        // Two commits of history, three between two chunks would be too many, but two each are not.
        let serving = serving(2);
        for name in ["b", "d", "f", "h"] {
            put(&serving, name);
        }
        let (options, scope) = (ListOptions::default(), Scope::All);
        let reading = in_chunks(serving.shared(), &scope, &options, 1);
        let writing = async {
            for name in ["h", "f", "a", "z"] {
                delete(&serving, name);
                put(&serving, name);
                tokio::task::yield_now().await;
            }
        };
        let (listing, ()) = tokio::join!(biased; reading, writing);
        let listing = listing.unwrap();
        assert_eq!((names(&listing).as_str(), listing.revision), ("bdfh", Revision(5)));
        assert!(listing.records.iter().all(|r| r.modified <= Revision(5)));
    }

    #[tokio::test]
    async fn a_list_that_history_overtakes_starts_over() {
        let serving = serving(1);
        for n in 0..CHUNK + 1 {
            put(&serving, &format!("{n:05}"));
        }
        let (options, scope) = (ListOptions::default(), Scope::All);
        let writing = async {
            for name in ["x", "y", "z"] {
                put(&serving, name);
            }
        };
        let (listing, ()) = tokio::join!(list(serving.shared(), &scope, &options), writing);
        let listing = listing.unwrap();
        assert_eq!(listing.records.len(), CHUNK + 4);
        assert_eq!(listing.revision, serving.revision().unwrap());
    }

    #[tokio::test]
    async fn a_page_ends_where_it_was_asked_to() {
        let serving = serving(100);
        for name in ["a", "b", "c"] {
            put(&serving, name);
        }
        for (limit, expected, more) in [(0, "", true), (2, "ab", true), (3, "abc", false), (4, "abc", false)] {
            let options = ListOptions { limit: Some(limit), ..ListOptions::default() };
            let listing = list(serving.shared(), &Scope::All, &options).await.unwrap();
            assert_eq!((names(&listing).as_str(), listing.more), (expected, more), "limit {limit}");
        }
    }

    #[test]
    fn a_reader_gives_way_and_takes_up_where_it_was() {
        let serving = serving(100);
        for n in 0..GIVE_WAY * 2 + 1 {
            put(&serving, &format!("{n:05}"));
        }
        let (scope, options) = (Scope::Namespace(ResourceId::new("", "pods"), "default".into()), ListOptions::default());
        let mut records = Vec::new();
        let mut reader = Reader::begin(&serving.shared().read(), &scope, &options).unwrap();
        let mut read = || {
            let done = reader.step(&serving.shared().read(), usize::MAX, &|| true, &mut records).unwrap();
            (done, records.len())
        };
        assert_eq!([read(), read(), read()], [(false, GIVE_WAY), (false, GIVE_WAY * 2), (true, GIVE_WAY * 2 + 1)]);
        assert!(records.windows(2).all(|w| w[0].key < w[1].key && !Arc::ptr_eq(&w[0].key.name, &w[1].key.name)));
    }

    #[tokio::test]
    async fn a_long_past_is_undone_in_steps() {
        let serving = serving(CHUNK * 4);
        put(&serving, "a");
        for n in 0..CHUNK * 2 + 5 {
            put(&serving, &format!("b{n}"));
        }
        delete(&serving, "a");
        let options = ListOptions { at: Some(Revision(2)), ..ListOptions::default() };
        let listing = list(serving.shared(), &Scope::All, &options).await.unwrap();
        assert_eq!(names(&listing), "a");
    }
}
