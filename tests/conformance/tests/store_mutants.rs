//! The store kit against stores that break the contract in one way each: a named case must notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use wharf_conformance::store::{StoreHarness, cases, model};
use wharf_conformance::{Harness, Outcome, run_case};
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Expect, Key, ListOptions, Listing, ObjectStore, Op, Record, Revision, Scope, SharedStore, StoreCapabilities, StoreError, StoreResult,
    Transaction, WatchItem, WatchStream,
};
use wharf_store_memory::MemoryStore;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Every fourth commit is not yielded.
    LosesEvents,
    RepeatsEvents,
    /// `after` is taken as "from".
    ResumesInclusively,
    SplitsCommits,
    /// A watch of the future is begun in the past.
    GoesBack,
    /// Where history is gone, the watch goes on with what is left.
    SilentGap,
    EarlyProgress,
    /// A watch of a namespace yields the whole resource.
    LeaksScope,
    /// A watch goes on after its error.
    OutlivesError,
    IgnoresPreconditions,
    /// Steps are commits of their own, as far as they get.
    PartialCommits,
    PanicsOnInput,
    /// Pages show the newest state.
    IgnoresRevision,
    /// Lists lag one commit behind.
    StaleLists,
    /// A record of a page is left out when there are more pages.
    SkipsBetweenPages,
    CompactsCurrent,
    ClaimsDurable,
    DeniesHistory,
    /// A commit waits until no watch has anything left to read.
    StallsForWatchers,
    /// After some commits a watch begins again a little earlier.
    Rewinds,
    /// The newest commits are acknowledged and not yet written down.
    AcknowledgesEarly,
    /// A crash leaves the first half of the newest commit.
    TearsCommits,
    /// After a failed sync the next one is believed.
    RetriesSync,
    /// A list leaves out what a get finds.
    IndexLags,
    IgnoresTtl,
    /// Deletes at half the time.
    ExpiresEarly,
    /// The time to live of what was written first counts.
    IgnoresRewrites,
    /// Only the first of a transaction's keys expires.
    ExpiresOne,
    ForgetsTtl,
    KeepsEverything,
    /// Compaction is told to watches of some resources only.
    ForgetsToExpire,
}

impl Fault {
    fn expiry(self) -> bool {
        matches!(self, Self::ExpiresEarly | Self::IgnoresRewrites | Self::ExpiresOne | Self::ForgetsTtl)
    }
    fn durable(self) -> bool {
        matches!(self, Self::ClaimsDurable | Self::AcknowledgesEarly | Self::TearsCommits | Self::RetriesSync)
    }
}

/// What a store writes down, and whether its disk fails.
#[derive(Debug, Default)]
struct Disk {
    log: Vec<Transaction>,
    fail_next: bool,
    failed: bool,
}

#[derive(Debug, Clone)]
struct Mutant {
    inner: MemoryStore,
    fault: Fault,
    stalled: Arc<AtomicBool>,
    /// Of one that says it is durable.
    disk: Option<Arc<Mutex<Disk>>>,
    /// Says that what has a time to live expires.
    expiry: bool,
    bytes: Arc<AtomicU64>,
}

impl Mutant {
    fn new(inner: MemoryStore, fault: Fault, durable: bool, expiry: bool) -> Self {
        let disk = durable.then(Arc::default);
        Self { inner, fault, stalled: Arc::default(), disk, expiry, bytes: Arc::default() }
    }

    /// What is written down, carried out again.
    async fn reopen(&self) -> Option<Self> {
        let mut log = std::mem::take(&mut self.disk.as_ref()?.lock().log);
        match self.fault {
            Fault::AcknowledgesEarly => log.truncate(log.len().saturating_sub(2)),
            Fault::TearsCommits => {
                if let Some(last) = log.last_mut() {
                    last.ops.truncate(last.ops.len().div_ceil(2));
                }
            }
            _ => {}
        }
        let again = Self::new(MemoryStore::new(), self.fault, true, self.expiry);
        for transaction in log {
            again.inner.commit(transaction.clone()).await.ok()?;
            again.disk.as_ref()?.lock().log.push(transaction);
        }
        Some(again)
    }

    /// Writes down what has been carried out; the two are one step here, whoever else commits.
    async fn commit_durably(&self, disk: &Mutex<Disk>, transaction: Transaction) -> StoreResult<Revision> {
        let failed = || StoreError::Backend { op: "sync", retry: Retry::Permanent, source: "the disk fails".into() };
        let mut disk = disk.lock();
        if disk.fail_next || disk.failed {
            disk.failed = self.fault != Fault::RetriesSync;
            disk.fail_next = false;
            return Err(failed());
        }
        // The memory store never waits.
        let revision = self.inner.commit(transaction.clone()).now_or_never().expect("a commit in memory is made at once")?;
        disk.log.push(transaction);
        Ok(revision)
    }

    async fn commit_expiring(&self, transaction: Transaction, ttl: Duration) -> StoreResult<Revision> {
        let mut keys: Vec<Key> = transaction.ops.iter().filter(|op| matches!(op, Op::Put { .. })).map(|op| op.key().clone()).collect();
        let revision = self.inner.commit(Transaction { ttl: None, ..transaction }).await?;
        match self.fault {
            Fault::ForgetsTtl => return Ok(revision),
            Fault::ExpiresOne => keys.truncate(1),
            _ => {}
        }
        let (inner, ignores) = (self.inner.clone(), self.is(Fault::IgnoresRewrites));
        let ttl = if self.is(Fault::ExpiresEarly) { ttl / 2 } else { ttl };
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            for key in keys {
                let expect = if ignores { Expect::Any } else { Expect::Revision(revision) };
                // It has been written again, and is another's business.
                let _ = inner.commit(Transaction::new(vec![Op::Delete { key, expect }])).await;
            }
        });
        Ok(revision)
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

#[async_trait]
impl ObjectStore for Mutant {
    fn capabilities(&self) -> StoreCapabilities {
        let durable = self.disk.is_some() || self.is(Fault::ClaimsDurable);
        StoreCapabilities::with(durable, !self.is(Fault::DeniesHistory)).expiry(self.expiry)
    }

    async fn revision(&self) -> StoreResult<Revision> {
        self.inner.revision().await
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.inner.get(key).await
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        let mut options = options.clone();
        match self.fault {
            Fault::IgnoresRevision => options.at = None,
            Fault::StaleLists if options.at.is_none() => options.at = Some(Revision(self.inner.revision().await?.0.max(2) - 1)),
            _ => {}
        }
        let mut listing = self.inner.list(scope, &options).await?;
        if self.is(Fault::SkipsBetweenPages) && listing.more && listing.records.len() > 1 {
            let last = listing.records.len() - 2;
            listing.records.remove(last);
        }
        if self.is(Fault::IndexLags) && options.at.is_none() {
            // An index that is written after the data.
            let newest = listing.revision;
            listing.records.retain(|r| r.modified < newest);
        }
        Ok(listing)
    }

    async fn commit(&self, mut transaction: Transaction) -> StoreResult<Revision> {
        if self.is(Fault::IgnoresTtl) {
            transaction.ttl = None;
        }
        if transaction.ttl.is_some() {
            transaction.validate(&self.capabilities())?;
        }
        self.bytes.fetch_add(transaction.ops.len() as u64 * 1024, Ordering::Relaxed);
        if let Some(disk) = &self.disk {
            return self.commit_durably(disk, transaction).await;
        }
        if let Some(ttl) = transaction.ttl {
            return self.commit_expiring(transaction, ttl).await;
        }
        match self.fault {
            Fault::IgnoresPreconditions => {
                for op in &mut transaction.ops {
                    match op {
                        Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. } => *expect = Expect::Any,
                    }
                }
                self.inner.commit(transaction).await
            }
            Fault::PartialCommits => {
                let mut revision = self.inner.revision().await?;
                for op in transaction.ops {
                    revision = self.inner.commit(Transaction::new(vec![op])).await?;
                }
                Ok(revision)
            }
            Fault::PanicsOnInput => {
                let result = self.inner.commit(transaction).await;
                assert!(!matches!(result, Err(StoreError::Invalid { .. })), "{result:?}");
                result
            }
            Fault::StallsForWatchers if self.stalled.load(Ordering::Relaxed) => std::future::pending().await,
            _ => self.inner.commit(transaction).await,
        }
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        let store = self.inner.clone();
        let current = store.revision().await?;
        let after = match self.fault {
            Fault::ResumesInclusively => Revision(after.0.saturating_sub(1)),
            Fault::GoesBack if after > current => Revision(current.0 - 1),
            _ => after,
        };
        let scope = match scope {
            Scope::Namespace(resource, _) if self.is(Fault::LeaksScope) => Scope::Resource(resource.clone()),
            other => other.clone(),
        };
        let watch = match store.watch(&scope, after).await {
            Err(StoreError::Expired { .. }) if self.is(Fault::SilentGap) => store.watch(&scope, current).await?,
            Err(StoreError::Expired { .. })
                if self.is(Fault::ForgetsToExpire) && matches!(&scope, Scope::Resource(r) if &*r.resource == "events") =>
            {
                store.watch(&scope, current).await?
            }
            watch => watch?,
        };
        Ok(match self.fault {
            Fault::LosesEvents => {
                let mut count = 0;
                let lost = move |item: &StoreResult<WatchItem>| {
                    count += usize::from(matches!(item, Ok(WatchItem::Commit { .. })));
                    std::future::ready(!matches!(item, Ok(WatchItem::Commit { .. })) || count % 4 != 0)
                };
                watch.filter(lost).boxed()
            }
            Fault::RepeatsEvents => watch
                .flat_map(|item| match item {
                    Ok(item) => stream::iter(vec![Ok(item.clone()), Ok(item)]),
                    Err(e) => stream::iter(vec![Err(e)]),
                })
                .boxed(),
            Fault::SplitsCommits => watch
                .flat_map(|item| match item {
                    Ok(WatchItem::Commit { revision, changes }) => {
                        let part = |change| Ok(WatchItem::Commit { revision, changes: Arc::from(vec![change]) });
                        stream::iter(changes.iter().cloned().map(part).collect::<Vec<_>>())
                    }
                    other => stream::iter(vec![other]),
                })
                .boxed(),
            Fault::EarlyProgress => watch
                .flat_map(|item| match item {
                    Ok(WatchItem::Commit { revision, .. }) => stream::iter(vec![Ok(WatchItem::Progress(revision)), item]),
                    other => stream::iter(vec![other]),
                })
                .boxed(),
            Fault::SilentGap => stream::unfold((watch, store, scope), |(mut watch, store, scope)| async move {
                loop {
                    match watch.next().await? {
                        Err(StoreError::Expired { .. }) => {
                            let current = store.revision().await.ok()?;
                            watch = store.watch(&scope, Revision(current.0 - 1)).await.ok()?;
                        }
                        item => return Some((item, (watch, store, scope))),
                    }
                }
            })
            .boxed(),
            Fault::Rewinds => {
                let earlier =
                    store.watch(&scope, after).await?.filter(|item| std::future::ready(matches!(item, Ok(WatchItem::Commit { .. }))));
                // The first three, and then all of them again but the first.
                watch.filter(|item| std::future::ready(matches!(item, Ok(WatchItem::Commit { .. })))).take(3).chain(earlier.skip(1)).boxed()
            }
            Fault::OutlivesError => watch.chain(stream::iter([Ok(WatchItem::Progress(current))])).boxed(),
            Fault::StallsForWatchers => {
                // Stands for a bounded channel that fills up.
                let read = self.stalled.clone();
                self.stalled.store(true, Ordering::Relaxed);
                watch.inspect(move |_| read.store(false, Ordering::Relaxed)).boxed()
            }
            _ => watch,
        })
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.inner.compact(upto).await?;
        if self.is(Fault::CompactsCurrent) {
            let old = self.inner.list(&Scope::All, &ListOptions::default()).await?.records.into_iter().find(|r| r.modified <= upto);
            if let Some(old) = old {
                self.inner.commit(Transaction::delete(old.key, old.modified)).await?;
            }
        }
        Ok(())
    }
}

struct Mutants {
    fault: Fault,
    durable: bool,
    expiry: bool,
    /// What was made, by address: a case hands back the store alone.
    made: Mutex<Vec<(usize, Mutant)>>,
}

fn address(store: &SharedStore) -> usize {
    Arc::as_ptr(store).cast::<()>() as usize
}

impl Mutants {
    fn of(fault: Fault) -> Self {
        let durable = fault.durable() && fault != Fault::ClaimsDurable;
        Self { fault, durable, expiry: fault.expiry(), made: Mutex::default() }
    }
    /// Without a fault, with everything that a store may offer.
    fn whole() -> Self {
        Self { durable: true, ..Self::of(Fault::None) }
    }
    fn expiring() -> Self {
        Self { expiry: true, ..Self::of(Fault::None) }
    }
    fn keep(&self, mutant: Mutant) -> SharedStore {
        let store: SharedStore = Arc::new(mutant.clone());
        self.made.lock().push((address(&store), mutant));
        store
    }
    fn find(&self, store: &SharedStore) -> Option<Mutant> {
        self.made.lock().iter().rev().find(|(at, _)| *at == address(store)).map(|(_, mutant)| mutant.clone())
    }
}

impl Harness for Mutants {
    fn patience(&self) -> Duration {
        // Some mutants make a case hang, which is how it notices.
        match self.fault {
            Fault::StallsForWatchers => Duration::from_millis(500),
            Fault::None => Duration::from_secs(60),
            _ => Duration::from_secs(5),
        }
    }
}

#[async_trait]
impl StoreHarness for Mutants {
    async fn store(&self) -> SharedStore {
        self.keep(Mutant::new(MemoryStore::new(), self.fault, self.durable, self.expiry))
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        let inner = MemoryStore::builder().history(commits).build();
        Some(self.keep(Mutant::new(inner, self.fault, false, false)))
    }
    async fn restart(&self, store: SharedStore) -> Option<SharedStore> {
        let again = self.find(&store)?.reopen().await?;
        Some(self.keep(again))
    }
    async fn fail_sync(&self, store: &SharedStore) -> bool {
        let disk = self.find(store).and_then(|mutant| mutant.disk);
        disk.inspect(|disk| disk.lock().fail_next = true).is_some()
    }
    async fn size(&self, store: &SharedStore) -> Option<u64> {
        let written = self.find(store)?.bytes.load(Ordering::Relaxed);
        Some(if self.fault == Fault::KeepsEverything { written * 8 } else { 1 << 20 })
    }
    fn shortest_ttl(&self) -> Duration {
        Duration::from_millis(200)
    }
}

struct Memory;

impl Harness for Memory {}

#[async_trait]
impl StoreHarness for Memory {
    async fn store(&self) -> SharedStore {
        Arc::new(MemoryStore::new())
    }
}

const CAUGHT: &[(Fault, &[&str])] = &[
    (Fault::LosesEvents, &["store.watch.order", "store.watch.list_then_watch", "store.watch.dropped_next"]),
    (Fault::RepeatsEvents, &["store.watch.order"]),
    (Fault::ResumesInclusively, &["store.watch.resume_exclusive"]),
    (Fault::SplitsCommits, &["store.watch.whole_commit"]),
    (Fault::GoesBack, &["store.watch.future_revision"]),
    (Fault::SilentGap, &["store.watch.slow_is_told", "store.watch.expired_start"]),
    (Fault::EarlyProgress, &["store.watch.progress_not_early"]),
    (Fault::LeaksScope, &["store.watch.only_scope"]),
    (Fault::OutlivesError, &["store.watch.error_ends_it"]),
    (Fault::IgnoresPreconditions, &["store.commit.expect_absent", "store.commit.expect_present", "store.commit.expect_revision"]),
    (Fault::PartialCommits, &["store.commit.all_or_nothing", "store.commit.one_revision_for_all"]),
    (Fault::PanicsOnInput, &["store.commit.duplicate_key"]),
    (Fault::IgnoresRevision, &["store.list.pages_show_one_revision", "store.list.past"]),
    (Fault::StaleLists, &["store.list.acknowledged_is_visible"]),
    (Fault::SkipsBetweenPages, &["store.list.pages"]),
    (Fault::CompactsCurrent, &["store.compact.keeps_current"]),
    (Fault::ClaimsDurable, &["store.fault.restart_keeps_acknowledged"]),
    (Fault::DeniesHistory, &["store.list.past"]),
    (Fault::StallsForWatchers, &["store.watch.slow_stalls_nobody"]),
    (Fault::Rewinds, &["store.watch.order", "store.watch.starved_loses_nothing"]),
    (Fault::SilentGap, &["store.watch.expired_on_every_path", "store.cache.lost_delete_heals"]),
    (Fault::ForgetsToExpire, &["store.watch.expired_on_every_path"]),
    (Fault::IgnoresPreconditions, &["store.commit.fence"]),
    (Fault::LosesEvents, &["store.watch.starved_loses_nothing"]),
    (Fault::IndexLags, &["store.list.index_and_data_agree", "store.list.acknowledged_is_visible"]),
    (Fault::AcknowledgesEarly, &["store.fault.restart_keeps_acknowledged", "store.fault.crash_beside_writers"]),
    (Fault::TearsCommits, &["store.fault.crash_beside_writers"]),
    (Fault::RetriesSync, &["store.fault.failed_sync_stops"]),
    (Fault::IgnoresTtl, &["store.expiry.undeclared"]),
    (Fault::ExpiresEarly, &["store.expiry.not_before_its_time", "store.expiry.rewrite_renews"]),
    (Fault::IgnoresRewrites, &["store.expiry.rewrite_without_keeps", "store.expiry.rewrite_renews"]),
    (Fault::ExpiresOne, &["store.expiry.whole_transaction"]),
    (Fault::ForgetsTtl, &["store.expiry.deletes_by_a_commit"]),
    (Fault::KeepsEverything, &["store.expiry.renewals_take_no_room"]),
];

/// What the model test must catch, on one of its seeds.
const LEFT_THE_MODEL: &[Fault] = &[
    Fault::LosesEvents,
    Fault::RepeatsEvents,
    Fault::Rewinds,
    Fault::IgnoresPreconditions,
    Fault::AcknowledgesEarly,
    Fault::TearsCommits,
    Fault::SplitsCommits,
    Fault::PartialCommits,
    Fault::EarlyProgress,
    Fault::SilentGap,
    Fault::GoesBack,
    Fault::ResumesInclusively,
    Fault::LeaksScope,
    Fault::IgnoresRevision,
    Fault::SkipsBetweenPages,
    Fault::StaleLists,
    Fault::CompactsCurrent,
];

#[test]
fn the_model_test_catches_them_in_a_few_steps() {
    for fault in LEFT_THE_MODEL {
        match model::check(&Mutants::of(*fault), &Memory, 0..200) {
            Ok(()) => panic!("{fault:?} was not caught by the model test"),
            Err(found) => {
                println!("{fault:?}: {found}");
                assert!(found.steps.len() <= 20, "{fault:?} was shrunk to {} steps only:\n{found}", found.steps.len());
                // The seed alone makes the same steps again.
                model::check(&Mutants::of(*fault), &Memory, [found.seed]).expect_err("the seed fails again");
            }
        }
    }
}

#[test]
fn the_model_test_agrees_with_a_store_that_restarts() {
    model::model(&Mutants::whole(), &Memory, model::SEEDS);
}

async fn outcome(fault: Fault, id: &str) -> Outcome {
    let cases = cases();
    let case = cases.iter().find(|c| c.id == id).unwrap_or_else(|| panic!("no case {id}"));
    run_case(case, &Mutants::of(fault)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutant_fails_its_cases() {
    for (fault, ids) in CAUGHT {
        for id in *ids {
            match outcome(*fault, id).await {
                Outcome::Failed(message) => println!("{fault:?} fails {id}: {message}"),
                other => panic!("{fault:?} was not caught by {id}: {other}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_without_a_fault_fails_nothing() {
    for harness in [Mutants::of(Fault::None), Mutants::whole(), Mutants::expiring()] {
        let report = wharf_conformance::run_all(&cases(), &harness).await;
        assert!(report.is_ok(), "{:?}", report.failed().collect::<Vec<_>>());
    }
}
