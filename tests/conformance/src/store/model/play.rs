//! Carries steps out on both stores and compares.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Change, Expect, ListOptions, Listing, Op, Record, Revision, Scope, SharedStore, StoreError, StoreResult, Transaction, WatchItem,
    WatchStream,
};

use super::step::{Action, If, SLOTS, Step, What, When, key, scope};
use crate::store::StoreHarness;

/// How often a call is made again after a lost connection, and the pause between.
const RETRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

type Outcome<T = ()> = Result<T, String>;

/// A commit that both stores have.
struct Commit {
    spec: Revision,
    sut: Revision,
    /// Its changes as the store under test must tell them, in key order.
    changes: Vec<Change>,
}

/// An open watch of the store under test.
struct Watch {
    stream: WatchStream,
    scope: Scope,
    /// Commits in the log that it has passed.
    passed: usize,
    /// Nothing at or before this may come.
    position: Revision,
}

struct Play<'a> {
    harness: &'a dyn StoreHarness,
    /// The store under test; `None` only while it restarts.
    sut: Option<SharedStore>,
    spec: SharedStore,
    /// What the specification says happens.
    told: WatchStream,
    /// The revisions of the empty stores.
    start: (Revision, Revision),
    log: Vec<Commit>,
    /// The first so many commits are compacted.
    compacted: usize,
    /// Of those, so many are compacted since the last restart: a compaction itself need not survive one.
    surely: usize,
    /// A store need not remember its history before this many commits: it has restarted since.
    forgotten: usize,
    /// Where the store under test was after its last restart.
    reopened: Revision,
    watches: [Option<Watch>; SLOTS],
    /// Connections have been lost: calls may fail and be made again.
    flaky: bool,
    patience: Duration,
}

/// Plays a sequence on fresh stores; what went wrong, if something did.
pub(super) async fn play(harness: &dyn StoreHarness, spec: &dyn StoreHarness, steps: &[Step], patience: Duration) -> Outcome {
    let (sut, spec) = (harness.store().await, spec.store().await);
    let revision = |e: StoreError| format!("revision failed: {e}");
    let start = (spec.revision().await.map_err(revision)?, sut.revision().await.map_err(revision)?);
    let told = spec.watch(&Scope::All, start.0).await.map_err(|e| format!("the specification's watch failed: {e}"))?;
    let mut play = Play {
        harness,
        sut: Some(sut),
        spec,
        told,
        start,
        log: Vec::new(),
        compacted: 0,
        surely: 0,
        forgotten: 0,
        reopened: start.1,
        watches: Default::default(),
        flaky: false,
        patience,
    };
    for (n, step) in steps.iter().enumerate() {
        play.step(step).await.map_err(|e| format!("step {}: {e}", n + 1))?;
    }
    play.end().await.map_err(|e| format!("at the end: {e}"))
}

fn transient(error: &StoreError) -> bool {
    matches!(error, StoreError::OutcomeUnknown { .. } | StoreError::Backend { retry: Retry::Transient, .. })
}

fn sorted(changes: &[Change]) -> Vec<Change> {
    let mut changes = changes.to_vec();
    changes.sort_by(|a, b| a.key().cmp(b.key()));
    changes
}

impl Play<'_> {
    fn sut(&self) -> SharedStore {
        self.sut.clone().expect("a store that restarts is put back before the next step")
    }

    /// What the specification calls `revision`, as the store under test numbers it.
    fn translate(&self, revision: Revision) -> Revision {
        let passed = self.log.partition_point(|c| c.spec <= revision);
        self.revisions(passed).1
    }
    /// Both stores' revisions after so many commits.
    fn revisions(&self, passed: usize) -> (Revision, Revision) {
        if passed == 0 { self.start } else { (self.log[passed - 1].spec, self.log[passed - 1].sut) }
    }
    /// Where the store under test must say that it is.
    fn current(&self) -> Revision {
        self.revisions(self.log.len()).1.max(self.reopened)
    }
    /// The commits that a point has passed, and both stores' revisions there.
    fn point(&self, when: When) -> (usize, Revision, Revision) {
        match when {
            When::Back(0) => (self.log.len(), self.revisions(self.log.len()).0, self.current()),
            When::Back(n) => {
                let passed = self.log.len().saturating_sub(n);
                let (spec, sut) = self.revisions(passed);
                (passed, spec, sut)
            }
            When::Ahead(n) => (self.log.len(), Revision(self.revisions(self.log.len()).0.0 + n), Revision(self.current().0 + n)),
        }
    }
    fn record(&self, record: &Record) -> Record {
        Record { created: self.translate(record.created), modified: self.translate(record.modified), ..record.clone() }
    }
    fn change(&self, change: &Change) -> Change {
        match change {
            Change::Put { record, previous } => {
                Change::Put { record: self.record(record), previous: previous.as_ref().map(|p| self.record(p)) }
            }
            Change::Delete { previous } => Change::Delete { previous: self.record(previous) },
        }
    }

    /// A read, made again while lost connections may be to blame.
    async fn read<T, F: Future<Output = StoreResult<T>>>(&self, call: impl Fn(SharedStore) -> F) -> StoreResult<T> {
        for _ in 0..RETRIES {
            match call(self.sut()).await {
                Err(e) if self.flaky && transient(&e) => tokio::time::sleep(PAUSE).await,
                other => return other,
            }
        }
        call(self.sut()).await
    }

    async fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Commit(actions) => self.commit(actions).await,
            Step::Get(index) => self.get(*index).await,
            Step::List { scope: of, limit, after, at } => self.list(&scope(*of), *limit, after.map(key), *at).await.map(drop),
            Step::Pages { scope: of, limit, at } => self.pages(&scope(*of), *limit, *at).await,
            Step::Watch { slot, scope: of, after } => self.watch(*slot, scope(*of), *after).await,
            Step::Read { slot, most } => self.take(*slot, *most).await,
            Step::Glance { slot } => self.glance(*slot).await,
            Step::Close { slot } => {
                self.watches[*slot] = None;
                Ok(())
            }
            Step::Compact(upto) => self.compact(*upto).await,
            Step::Disconnect => {
                self.flaky |= self.harness.disconnect(&self.sut()).await;
                Ok(())
            }
            Step::Restart => self.restart().await,
        }
    }

    /// One more commit that every watch must tell of, so that what was lost shows; then everything there is.
    async fn end(&mut self) -> Outcome {
        let put = |key| Action { key, what: What::Put, expect: If::Any };
        self.commit(&[put(0), put(3), put(4)]).await?;
        for slot in 0..SLOTS {
            self.take(slot, usize::MAX).await?;
        }
        self.pages(&Scope::All, 2, None).await?;
        self.list(&Scope::All, None, None, None).await.map(drop)
    }

    /// The transaction for each store: they differ in revisions only.
    async fn transactions(&self, actions: &[Action]) -> Outcome<(Transaction, Transaction)> {
        let mut both = (Vec::new(), Vec::new());
        for (n, action) in actions.iter().enumerate() {
            let key = key(action.key);
            let (spec, sut) = match action.expect {
                If::Any => (Expect::Any, Expect::Any),
                If::Absent => (Expect::Absent, Expect::Absent),
                If::Present => (Expect::Present, Expect::Present),
                If::Current => {
                    let there = self.spec.get(&key).await.map_err(|e| format!("the specification's get failed: {e}"))?;
                    let spec = there.map_or(self.revisions(self.log.len()).0, |r| r.modified);
                    (Expect::Revision(spec), Expect::Revision(self.translate(spec)))
                }
                If::Of(n) => {
                    let (spec, sut) = self.revisions(self.log.len().saturating_sub(n));
                    (Expect::Revision(spec), Expect::Revision(sut))
                }
            };
            let value = match action.what {
                What::PutSame => Bytes::from_static(b"same"),
                _ => Bytes::from(format!("commit {} op {n}", self.log.len())),
            };
            let op = |expect| match action.what {
                What::Put | What::PutSame => Op::Put { key: key.clone(), value: value.clone(), expect },
                What::Delete => Op::Delete { key: key.clone(), expect },
                What::Check => Op::Check { key: key.clone(), expect },
            };
            both.0.push(op(spec));
            both.1.push(op(sut));
        }
        Ok((Transaction::new(both.0), Transaction::new(both.1)))
    }

    /// A commit whose outcome a lost connection hid is looked for before it is tried again.
    async fn commit_once(&self, transaction: &Transaction) -> StoreResult<Revision> {
        for _ in 0..RETRIES {
            match self.sut().commit(transaction.clone()).await {
                Err(e) if self.flaky && transient(&e) => {
                    let now = self.read(|s| async move { s.revision().await }).await?;
                    if now > self.current() {
                        return Ok(now);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
        self.sut().commit(transaction.clone()).await
    }

    async fn commit(&mut self, actions: &[Action]) -> Outcome {
        let (for_spec, for_sut) = self.transactions(actions).await?;
        let before = self.current();
        let got = self.commit_once(&for_sut).await;
        let expected = self.spec.commit(for_spec).await;
        match (expected, got) {
            (Ok(spec), Ok(sut)) if spec == self.revisions(self.log.len()).0 => {
                if sut != before {
                    return Err(format!("a commit that changes nothing returned {sut}: the store was at {before}"));
                }
                Ok(())
            }
            (Ok(spec), Ok(sut)) => {
                if sut <= before {
                    return Err(format!("a commit returned revision {sut}: the store was at {before} already"));
                }
                let changes = loop {
                    match self.told.next().await {
                        Some(Ok(WatchItem::Commit { revision, changes })) if revision == spec => break changes,
                        Some(Ok(WatchItem::Progress(_))) => {}
                        other => return Err(format!("the specification's watch yielded {other:?} for commit {spec}")),
                    }
                };
                self.log.push(Commit { spec, sut, changes: Vec::new() });
                let changes = sorted(&changes.iter().map(|c| self.change(c)).collect::<Vec<_>>());
                if let Some(commit) = self.log.last_mut() {
                    commit.changes = changes;
                }
                Ok(())
            }
            (
                Err(StoreError::Conflict { key, current, .. }),
                Err(StoreError::Conflict { key: got_key, current: got_current, expect: got_expect }),
            ) => {
                let (current, expect) =
                    (current.map(|c| self.record(&c)), for_sut.ops.iter().find(|op| *op.key() == key).map_or(Expect::Any, Op::expect));
                if (&got_key, &got_expect, got_current.as_deref()) != (&key, &expect, current.as_ref()) {
                    return Err(format!(
                        "the conflict is told as {got_expect:?} on {got_key} where {got_current:?} is: expected {expect:?} on {key} where {current:?} is"
                    ));
                }
                Ok(())
            }
            (Err(StoreError::Invalid { .. }), Err(StoreError::Invalid { .. })) => Ok(()),
            (Ok(_), Err(e)) => Err(format!("a commit that must succeed failed: {e}")),
            (Err(expected), Ok(sut)) => Err(format!("was committed at {sut}, but must fail: {expected}")),
            (Err(expected), Err(got)) => Err(format!("the commit failed with: {got}; it must fail with: {expected}")),
        }
    }

    async fn get(&self, index: usize) -> Outcome {
        let key = key(index);
        let expected = self.spec.get(&key).await.map_err(|e| format!("the specification's get failed: {e}"))?.map(|r| self.record(&r));
        let got = self.read(|s| async move { s.get(&super::step::key(index)).await }).await.map_err(|e| format!("get failed: {e}"))?;
        if got != expected {
            return Err(format!("get {key} gave {got:?}: expected {expected:?}"));
        }
        let revision = self.read(|s| async move { s.revision().await }).await.map_err(|e| format!("revision failed: {e}"))?;
        if revision != self.current() {
            return Err(format!("the store says that it is at {revision}: expected {}", self.current()));
        }
        Ok(())
    }

    /// Compares a page; the two pages, if there is one.
    async fn list(
        &self,
        of: &Scope,
        limit: Option<usize>,
        after: Option<wharf_core::store::Key>,
        at: Option<When>,
    ) -> Outcome<Option<(Listing, Listing)>> {
        let point = at.map(|at| self.point(at));
        let spec = ListOptions { limit, after: after.clone(), at: point.map(|p| p.1) };
        let sut = ListOptions { limit, after, at: point.map(|p| p.2) };
        self.list_with(of, &spec, &sut, point.map(|p| p.0)).await
    }

    async fn list_with(
        &self,
        of: &Scope,
        spec: &ListOptions,
        sut: &ListOptions,
        passed: Option<usize>,
    ) -> Outcome<Option<(Listing, Listing)>> {
        let expected = self.spec.list(of, spec).await;
        let got = self.read(|s| async move { s.list(of, sut).await }).await;
        if sut.at.is_some() && !self.sut().capabilities().history {
            return match got {
                Err(StoreError::Unsupported { .. }) => Ok(None),
                other => Err(format!("history is not declared, yet a list of the past gave {other:?}")),
            };
        }
        match (expected, got) {
            (Ok(expected), Ok(got)) => {
                // The page of a revision is told as of it; otherwise of the newest.
                let at = sut.at.unwrap_or_else(|| self.current());
                let records: Vec<Record> = expected.records.iter().map(|r| self.record(r)).collect();
                if got.revision != at || got.more != expected.more || got.records != records {
                    return Err(format!(
                        "list {of:?} {sut:?} gave {:?} at {}, more: {}; expected {records:?} at {at}, more: {}",
                        got.records, got.revision, got.more, expected.more
                    ));
                }
                Ok(Some((expected, got)))
            }
            (_, Err(StoreError::Expired { .. })) if passed.is_some_and(|passed| passed < self.forgotten) => Ok(None),
            (Err(StoreError::Expired { .. }), Err(StoreError::Expired { .. }))
            | (Err(StoreError::Future { .. }), Err(StoreError::Future { .. })) => Ok(None),
            (Err(StoreError::Expired { .. }), Ok(_)) if passed.is_some_and(|passed| passed >= self.surely) => Ok(None),
            (Ok(_), Err(e)) => Err(format!("list {of:?} {sut:?} failed: {e}")),
            (Err(expected), got) => Err(format!("list {of:?} {sut:?} gave {got:?}: it must fail with: {expected}")),
        }
    }

    async fn pages(&self, of: &Scope, limit: usize, at: Option<When>) -> Outcome {
        let point = at.map(|at| self.point(at));
        let mut spec = ListOptions { limit: Some(limit), after: None, at: point.map(|p| p.1) };
        let mut sut = ListOptions { at: point.map(|p| p.2), ..spec.clone() };
        let mut passed = point.map(|p| p.0);
        while let Some((expected, got)) = self.list_with(of, &spec, &sut, passed).await? {
            let Some(last) = got.records.last().filter(|_| got.more) else { break };
            spec.after = Some(last.key.clone());
            sut.after = spec.after.clone();
            if self.sut().capabilities().history {
                (spec.at, sut.at) = (Some(expected.revision), Some(got.revision));
                passed = passed.or(Some(self.log.len()));
            }
        }
        Ok(())
    }

    async fn open(&mut self, slot: usize, of: Scope, passed: usize, after: Revision) -> Outcome {
        let (scope, must_expire) = (of, passed < self.surely);
        let may_expire = passed < self.compacted.max(self.forgotten);
        let mut stream = match self
            .read(|s| {
                let scope = scope.clone();
                async move { s.watch(&scope, after).await }
            })
            .await
        {
            Ok(stream) => stream,
            Err(StoreError::Expired { .. }) if may_expire => return Ok(()),
            Err(e) => return Err(format!("watch {scope:?} after {after} failed: {e}")),
        };
        if must_expire {
            return match tokio::time::timeout(self.patience, stream.next()).await {
                Ok(Some(Err(StoreError::Expired { .. }))) => Ok(()),
                Ok(item) => Err(format!(
                    "a watch after {after}, which is compacted (up to {}), yielded {item:?}: expected Expired",
                    self.revisions(self.compacted).1
                )),
                Err(_) => Err(format!("a watch after {after}, which is compacted, said nothing within {:?}", self.patience)),
            };
        }
        self.watches[slot] = Some(Watch { stream, scope, passed, position: after });
        Ok(())
    }

    async fn watch(&mut self, slot: usize, of: Scope, after: When) -> Outcome {
        let (passed, _, after) = self.point(after);
        self.watches[slot] = None;
        self.open(slot, of, passed, after).await
    }

    /// The commits that a watch must yield yet: index, and what is in scope.
    fn due(&self, watch: &Watch) -> Vec<(usize, Vec<Change>)> {
        let log = self.log.iter().enumerate().skip(watch.passed).filter(|(_, c)| c.sut > watch.position);
        log.filter_map(|(n, c)| {
            let inside: Vec<Change> = c.changes.iter().filter(|c| watch.scope.contains(c.key())).cloned().collect();
            (!inside.is_empty()).then_some((n, inside))
        })
        .collect()
    }

    async fn take(&mut self, slot: usize, most: usize) -> Outcome {
        let Some(mut watch) = self.watches[slot].take() else { return Ok(()) };
        let count = self.due(&watch).len().min(most);
        let mut taken = 0;
        while taken < count {
            let what = format!("watch #{slot} of {:?}", watch.scope);
            let Ok(item) = tokio::time::timeout(self.patience, watch.stream.next()).await else {
                let due = self.due(&watch);
                let next = due.first().map(|(n, changes)| (self.log[*n].sut, changes));
                return Err(format!("{what} said nothing within {:?}: expected {next:?}", self.patience));
            };
            match item {
                Some(Ok(item)) => taken += usize::from(self.check(&what, &mut watch, item)?),
                Some(Err(error)) => {
                    let Some(again) = self.ended(&what, watch, error).await? else { return Ok(()) };
                    // It goes on where it was; nothing may be missing or come twice.
                    self.open(slot, again.scope, again.passed, again.position).await?;
                    let Some(reopened) = self.watches[slot].take() else { return Ok(()) };
                    watch = reopened;
                }
                None => return Err(format!("{what} ended without an error")),
            }
        }
        self.watches[slot] = Some(watch);
        Ok(())
    }

    async fn glance(&mut self, slot: usize) -> Outcome {
        let Some(mut watch) = self.watches[slot].take() else { return Ok(()) };
        let what = format!("watch #{slot} of {:?}", watch.scope);
        match watch.stream.next().now_or_never() {
            None => {}
            Some(Some(Ok(item))) => {
                self.check(&what, &mut watch, item)?;
            }
            Some(Some(Err(error))) => {
                if let Some(again) = self.ended(&what, watch, error).await? {
                    self.open(slot, again.scope, again.passed, again.position).await?;
                }
                return Ok(());
            }
            Some(None) => return Err(format!("{what} ended without an error")),
        }
        self.watches[slot] = Some(watch);
        Ok(())
    }

    /// Whether a watch may have ended so; what is to be taken up again, if that makes sense.
    async fn ended(&self, what: &str, mut watch: Watch, error: StoreError) -> Outcome<Option<Watch>> {
        match &error {
            StoreError::Expired { .. } if watch.passed < self.compacted.max(self.forgotten) => {}
            e if self.flaky && transient(e) => {}
            e => return Err(format!("{what} failed: {e}")),
        }
        match tokio::time::timeout(self.patience, watch.stream.next()).await {
            Ok(None) => Ok((!matches!(error, StoreError::Expired { .. })).then_some(watch)),
            Ok(Some(item)) => Err(format!("{what} yielded {item:?} after its error")),
            Err(_) => Err(format!("{what} did not end after its error")),
        }
    }

    /// Whether it is a commit, which then is the next that is due.
    fn check(&self, what: &str, watch: &mut Watch, item: WatchItem) -> Outcome<bool> {
        let due = self.due(watch);
        let next = due.first().map(|(n, changes)| (self.log[*n].sut, *n, changes));
        match item {
            WatchItem::Progress(revision) => {
                if revision < watch.position {
                    return Err(format!("{what} told progress {revision} after {}", watch.position));
                }
                if let Some((untold, _, _)) = next.filter(|(untold, ..)| *untold <= revision) {
                    return Err(format!("{what} told progress {revision} before commit {untold}"));
                }
                watch.position = revision;
                watch.passed = watch.passed.max(self.log.partition_point(|c| c.sut <= revision));
                Ok(false)
            }
            WatchItem::Commit { revision, changes } => match next {
                Some((expected, n, inside)) if expected == revision && *inside == sorted(&changes) => {
                    watch.position = revision;
                    watch.passed = n + 1;
                    Ok(true)
                }
                Some((expected, _, inside)) => {
                    Err(format!("{what} yielded commit {revision} with {changes:?}: expected commit {expected} with {inside:?}"))
                }
                None => Err(format!("{what} yielded commit {revision} with {changes:?}: expected none after {}", watch.position)),
            },
        }
    }

    async fn compact(&mut self, upto: When) -> Outcome {
        let (passed, spec, sut) = self.point(upto);
        let got = self.read(|s| async move { s.compact(sut).await }).await;
        match (self.spec.compact(spec).await, got) {
            (Ok(()), Ok(())) => {
                self.compacted = self.compacted.max(passed);
                self.surely = self.surely.max(passed);
                Ok(())
            }
            (Err(StoreError::Future { .. }), Err(StoreError::Future { .. })) => Ok(()),
            (expected, got) => Err(format!("compact at {sut} gave {got:?}: expected {expected:?}")),
        }
    }

    async fn restart(&mut self) -> Outcome {
        if !self.sut().capabilities().durable {
            return Ok(());
        }
        let open: Vec<_> = self.watches.iter_mut().map(|w| w.take().map(|w| (w.scope, w.passed, w.position))).collect();
        let Some(store) = self.sut.take() else { return Ok(()) };
        let Some(store) = self.harness.restart(store).await else {
            return Err("declared durable, but the harness cannot restart it".into());
        };
        self.sut = Some(store);
        let revision = self.read(|s| async move { s.revision().await }).await.map_err(|e| format!("revision failed: {e}"))?;
        if revision < self.current() {
            return Err(format!("the store was at {} and is at {revision} after a restart", self.current()));
        }
        self.reopened = revision;
        self.forgotten = self.log.len();
        self.surely = 0;
        self.list(&Scope::All, None, None, None).await.map_err(|e| format!("after a restart: {e}"))?;
        for (slot, watch) in open.into_iter().enumerate() {
            if let Some((scope, passed, position)) = watch {
                self.open(slot, scope, passed, position).await?;
            }
        }
        Ok(())
    }
}
