//! The store kit against stores that break the contract in one way each: a named case must notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use wharf_conformance::store::{StoreHarness, cases};
use wharf_conformance::{Harness, Outcome, run_case};
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
}

#[derive(Debug, Clone)]
struct Mutant {
    inner: MemoryStore,
    fault: Fault,
    stalled: Arc<AtomicBool>,
}

impl Mutant {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

#[async_trait]
impl ObjectStore for Mutant {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::with(self.is(Fault::ClaimsDurable), !self.is(Fault::DeniesHistory))
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
        Ok(listing)
    }

    async fn commit(&self, mut transaction: Transaction) -> StoreResult<Revision> {
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

struct Mutants(Fault);

impl Harness for Mutants {
    fn patience(&self) -> Duration {
        // Some mutants make a case hang, which is how it notices.
        if self.0 == Fault::StallsForWatchers { Duration::from_millis(500) } else { Duration::from_secs(30) }
    }
}

#[async_trait]
impl StoreHarness for Mutants {
    async fn store(&self) -> SharedStore {
        Arc::new(Mutant { inner: MemoryStore::new(), fault: self.0, stalled: Arc::default() })
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        let inner = MemoryStore::builder().history(commits).build();
        Some(Arc::new(Mutant { inner, fault: self.0, stalled: Arc::default() }))
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
];

async fn outcome(fault: Fault, id: &str) -> Outcome {
    let cases = cases();
    let case = cases.iter().find(|c| c.id == id).unwrap_or_else(|| panic!("no case {id}"));
    run_case(case, &Mutants(fault)).await
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
    let report = wharf_conformance::run_all(&cases(), &Mutants(Fault::None)).await;
    assert!(report.is_ok(), "{:?}", report.failed().collect::<Vec<_>>());
}
