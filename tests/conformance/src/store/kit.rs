//! What the cases share: short ways to write, and a watch that checks what holds of every watch.

use bytes::Bytes;
use futures::StreamExt;
use wharf_core::store::{
    Change, Expect, Key, ListOptions, Listing, ObjectStore, Op, Record, ResourceId, Revision, Scope, StoreError, StoreResult, Transaction,
    WatchItem, WatchStream,
};

use crate::{CaseResult, Stop, ensure, fail};

pub(super) const NAMESPACE: &str = "default";

pub(super) fn pods() -> ResourceId {
    ResourceId::new("", "pods")
}

pub(super) fn nodes() -> ResourceId {
    ResourceId::new("", "nodes")
}

/// A pod's key in the default namespace.
pub(super) fn pod(name: &str) -> Key {
    Key::new(pods(), NAMESPACE, name)
}

pub(super) fn node(name: &str) -> Key {
    Key::new(nodes(), "", name)
}

pub(super) fn all_pods() -> Scope {
    Scope::Resource(pods())
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Fails the case with the call's name when a call failed.
pub(super) fn ok<T>(result: StoreResult<T>, call: &str) -> CaseResult<T> {
    result.map_err(|e| Stop::Fail(format!("{call} failed: {e}")))
}

pub(super) fn put_op(key: Key, value: &str, expect: Expect) -> Op {
    Op::Put { key, value: bytes(value), expect }
}

pub(super) async fn commit(store: &dyn ObjectStore, ops: Vec<Op>) -> CaseResult<Revision> {
    ok(store.commit(Transaction::new(ops)).await, "commit")
}

/// Writes whatever is there.
pub(super) async fn put(store: &dyn ObjectStore, key: Key, value: &str) -> CaseResult<Revision> {
    commit(store, vec![put_op(key, value, Expect::Any)]).await
}

pub(super) async fn delete(store: &dyn ObjectStore, key: Key) -> CaseResult<Revision> {
    commit(store, vec![Op::Delete { key, expect: Expect::Present }]).await
}

pub(super) async fn get(store: &dyn ObjectStore, key: &Key) -> CaseResult<Option<Record>> {
    ok(store.get(key).await, "get")
}

pub(super) async fn revision(store: &dyn ObjectStore) -> CaseResult<Revision> {
    ok(store.revision().await, "revision")
}

pub(super) async fn list(store: &dyn ObjectStore, scope: &Scope) -> CaseResult<Listing> {
    ok(store.list(scope, &ListOptions::default()).await, "list")
}

pub(super) async fn list_at(store: &dyn ObjectStore, scope: &Scope, at: Revision) -> StoreResult<Listing> {
    store.list(scope, &ListOptions { at: Some(at), ..ListOptions::default() }).await
}

/// Names and values, in the order given.
pub(super) fn contents<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<(String, String)> {
    records.into_iter().map(|r| (r.key.name.to_string(), String::from_utf8_lossy(&r.value).into_owned())).collect()
}

pub(super) fn names(listing: &Listing) -> Vec<String> {
    listing.records.iter().map(|r| r.key.name.to_string()).collect()
}

/// Fails unless the commit was refused as a conflict on this key; returns what is there.
pub(super) fn conflict(result: StoreResult<Revision>, on: &Key) -> CaseResult<Option<Box<Record>>> {
    match result {
        Err(StoreError::Conflict { key, current, .. }) if key == *on => Ok(current),
        Err(other) => fail(format!("expected a conflict on {on}, got: {other}")),
        Ok(revision) => fail(format!("expected a conflict on {on}, but it was committed at {revision}")),
    }
}

/// Fails unless the call was refused as invalid.
pub(super) fn invalid<T>(result: StoreResult<T>, what: &str) -> CaseResult {
    match result {
        Err(StoreError::Invalid { .. }) => Ok(()),
        Err(other) => fail(format!("{what}: expected Invalid, got: {other}")),
        Ok(_) => fail(format!("{what} was accepted")),
    }
}

/// A commit that a watch yielded.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) revision: Revision,
    pub(super) changes: Vec<Change>,
}

impl Seen {
    /// Names of the keys, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.changes.iter().map(|c| c.key().name.to_string()).collect();
        names.sort();
        names
    }
}

/// A watch that fails the case when commits are out of order, repeated, empty, out of scope, or after their progress.
pub(super) struct Watched {
    stream: WatchStream,
    scope: Scope,
    /// Nothing at or before this may come any more.
    position: Revision,
}

impl Watched {
    pub(super) async fn start(store: &dyn ObjectStore, scope: &Scope, after: Revision) -> CaseResult<Self> {
        let stream = ok(store.watch(scope, after).await, "watch")?;
        Ok(Self { stream, scope: scope.clone(), position: after })
    }

    /// The next item, or the error that ended the watch. `Ok(None)` is progress.
    pub(super) async fn step(&mut self) -> CaseResult<Result<Option<Seen>, StoreError>> {
        let item = match self.stream.next().await {
            Some(Ok(item)) => item,
            Some(Err(e)) => return Ok(Err(e)),
            None => return fail("the watch ended without an error"),
        };
        self.check(item).map(Ok)
    }

    /// Takes one item if there is one now, dropping the call if not.
    pub(super) fn step_now(&mut self) -> CaseResult<Option<Seen>> {
        match futures::FutureExt::now_or_never(self.stream.next()) {
            None => Ok(None),
            Some(None) => fail("the watch ended without an error"),
            Some(Some(Err(e))) => fail(format!("the watch failed: {e}")),
            Some(Some(Ok(item))) => self.check(item),
        }
    }

    fn check(&mut self, item: WatchItem) -> CaseResult<Option<Seen>> {
        match item {
            WatchItem::Progress(revision) => {
                ensure!(revision >= self.position, "progress went back from {} to {revision}", self.position);
                self.position = revision;
                Ok(None)
            }
            WatchItem::Commit { revision, changes } => {
                ensure!(
                    revision > self.position,
                    "commit {revision} was yielded, but the watch had already told, or was to start after, {}",
                    self.position
                );
                ensure!(!changes.is_empty(), "commit {revision} has no change in scope");
                for change in changes.iter() {
                    ensure!(self.scope.contains(change.key()), "{} is not in scope {:?}", change.key(), self.scope);
                }
                self.position = revision;
                Ok(Some(Seen { revision, changes: changes.to_vec() }))
            }
        }
    }

    /// Commits up to a revision that is in scope, or that progress has reached.
    pub(super) async fn until(&mut self, revision: Revision) -> CaseResult<Vec<Seen>> {
        let mut seen = Vec::new();
        while self.position < revision {
            match self.step().await? {
                Ok(item) => seen.extend(item),
                Err(e) => return fail(format!("the watch failed: {e}")),
            }
        }
        Ok(seen)
    }

    /// Reads until the watch fails or has reached a revision; what it yielded, and the error.
    pub(super) async fn until_error(&mut self, end: Revision) -> CaseResult<(Vec<Seen>, Option<StoreError>)> {
        let mut seen = Vec::new();
        while self.position < end {
            match self.step().await? {
                Ok(item) => seen.extend(item),
                Err(e) => return Ok((seen, Some(e))),
            }
        }
        Ok((seen, None))
    }

    /// Fails unless the stream has ended.
    pub(super) async fn ended(&mut self) -> CaseResult {
        match self.stream.next().await {
            None => Ok(()),
            Some(item) => fail(format!("after its error the watch yielded {item:?}")),
        }
    }
}

/// What a watch after a revision came to at once: an error from the call or as the first item. Writes a pod and a node,
/// so that a watch that goes on instead has something to yield.
pub(super) async fn watch_error(store: &dyn ObjectStore, scope: &Scope, after: Revision) -> CaseResult<StoreError> {
    match store.watch(scope, after).await {
        Err(e) => Ok(e),
        Ok(mut stream) => {
            commit(store, vec![put_op(pod("next"), "x", Expect::Any), put_op(node("next"), "x", Expect::Any)]).await?;
            match stream.next().await {
                Some(Err(e)) => Ok(e),
                other => fail(format!("a watch after {after} yielded {other:?}")),
            }
        }
    }
}
