//! The decorators that change nothing pass the kit; those that fail do so as they are told.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use wharf_conformance::store::{Call, Faulty, Odds, StoreFault, StoreHarness, cases};
use wharf_conformance::{Harness, run_all};
use wharf_core::clock::{ManualClock, SystemClock};
use wharf_core::metrics::Metrics;
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Expect, Key, Metered, ObjectStore, Op, ResourceId, Revision, Scope, SharedStore, StoreError, StoreMetrics, Transaction, WatchItem,
};
use wharf_store_memory::MemoryStore;

struct Decorated<F>(F);

impl<F: Send + Sync> Harness for Decorated<F> {}

#[async_trait]
impl<F: Fn(SharedStore) -> SharedStore + Send + Sync> StoreHarness for Decorated<F> {
    async fn store(&self) -> SharedStore {
        self.0(Arc::new(MemoryStore::new()))
    }
    async fn bounded(&self, commits: usize) -> Option<SharedStore> {
        Some(self.0(Arc::new(MemoryStore::builder().history(commits).build())))
    }
}

fn pod(name: &str) -> Key {
    Key::new(ResourceId::new("", "pods"), "default", name)
}
fn put(name: &str) -> Transaction {
    Transaction::new(vec![Op::Put { key: pod(name), value: Bytes::from_static(b"x"), expect: Expect::Any }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metered_and_faulty_change_nothing() {
    let metrics = StoreMetrics::new(&Metrics::default());
    let metered = Decorated(move |store| Arc::new(Metered::new(store, metrics.clone(), SystemClock::shared())) as SharedStore);
    let report = run_all(&cases(), &metered).await;
    assert!(report.is_ok(), "{:?}", report.failed().collect::<Vec<_>>());
    let faulty = Decorated(|store| Arc::new(Faulty::new(store, SystemClock::shared())) as SharedStore);
    let report = run_all(&cases(), &faulty).await;
    assert!(report.is_ok(), "{:?}", report.failed().collect::<Vec<_>>());
}

#[tokio::test]
async fn calls_are_counted_by_result_and_timed_by_the_clock() {
    let (metrics, clock) = (Metrics::default(), ManualClock::default());
    let faulty = Faulty::new(Arc::new(MemoryStore::new()), Arc::new(clock.clone()));
    let store = Metered::new(Arc::new(faulty.clone()), StoreMetrics::new(&metrics), Arc::new(clock.clone()));
    let has = |line: &str| {
        let text = metrics.encode();
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    };
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    store.commit(put("a")).await.unwrap();
    store.commit(Transaction::create(pod("a"), Bytes::new())).await.unwrap_err();
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Commit { .. }))));
    has(r#"wharf_store_requests_total{operation="commit",result="ok"} 1"#);
    has(r#"wharf_store_requests_total{operation="commit",result="conflict"} 1"#);
    has("wharf_store_watches 1");
    has("wharf_store_watch_commits_total 1");
    faulty.expire_watches();
    assert!(matches!(watch.next().await, Some(Err(StoreError::Expired { .. }))));
    drop(watch);
    has("wharf_store_watches 0");
    has(r#"wharf_store_watch_ends_total{result="expired"} 1"#);

    faulty.script([(Call::Get, StoreFault::Late(Duration::from_secs(5)))]);
    let key = pod("a");
    let mut get = std::pin::pin!(store.get(&key));
    assert!(get.as_mut().now_or_never().is_none());
    clock.advance(Duration::from_secs(5));
    get.await.unwrap();
    has(r#"wharf_store_request_duration_seconds_sum{operation="get"} 5.0"#);
    faulty.script([(Call::Get, StoreFault::Late(Duration::from_secs(5)))]);
    assert!(store.get(&key).now_or_never().is_none());
    has(r#"wharf_store_requests_total{operation="get",result="dropped"} 1"#);
}

#[tokio::test]
async fn a_script_meets_the_calls_it_names_in_order() {
    let faulty = Faulty::new(Arc::new(MemoryStore::new()), SystemClock::shared());
    faulty.script([
        (Call::Commit, StoreFault::DoneUnknown),
        (Call::Commit, StoreFault::NotDoneUnknown),
        (Call::Commit, StoreFault::FailsForGood),
        (Call::Get, StoreFault::Fails),
        (Call::Watch, StoreFault::BreaksAfter(1)),
        (Call::Watch, StoreFault::ExpiresAfter(0)),
    ]);
    assert!(matches!(faulty.commit(put("done")).await, Err(StoreError::OutcomeUnknown { .. })));
    assert!(matches!(faulty.commit(put("lost")).await, Err(StoreError::OutcomeUnknown { .. })));
    assert!(matches!(faulty.commit(put("refused")).await, Err(StoreError::Backend { retry: Retry::Permanent, .. })));
    assert!(matches!(faulty.get(&pod("done")).await, Err(StoreError::Backend { retry: Retry::Transient, .. })));
    assert!(faulty.get(&pod("done")).await.unwrap().is_some());
    assert!(faulty.get(&pod("lost")).await.unwrap().is_none());
    assert!(faulty.get(&pod("refused")).await.unwrap().is_none());
    let mut breaks = faulty.watch(&Scope::All, Revision(1)).await.unwrap();
    assert!(matches!(breaks.next().await, Some(Ok(WatchItem::Commit { .. }))));
    assert!(matches!(breaks.next().await, Some(Err(StoreError::Backend { .. }))));
    assert!(breaks.next().await.is_none());
    let mut expires = faulty.watch(&Scope::All, Revision(1)).await.unwrap();
    assert!(matches!(expires.next().await, Some(Err(StoreError::Expired { .. }))));
    assert_eq!(faulty.made(), 6);
}

#[tokio::test]
async fn a_disconnected_store_fails_every_call_and_watch_until_it_is_back() {
    let faulty = Faulty::new(Arc::new(MemoryStore::new()), SystemClock::shared());
    let mut watch = faulty.watch(&Scope::All, Revision(1)).await.unwrap();
    faulty.disconnect();
    assert!(matches!(watch.next().await, Some(Err(StoreError::Backend { retry: Retry::Transient, .. }))));
    assert!(watch.next().await.is_none());
    assert!(faulty.commit(put("a")).await.is_err() && faulty.revision().await.is_err());
    assert!(faulty.watch(&Scope::All, Revision(1)).await.is_err());
    faulty.reconnect();
    assert!(faulty.get(&pod("a")).await.unwrap().is_none());
    faulty.commit(put("a")).await.unwrap();
}

#[tokio::test]
async fn chance_is_the_same_under_the_same_seed() {
    async fn faults(seed: u64) -> Vec<bool> {
        let faulty = Faulty::new(Arc::new(MemoryStore::new()), SystemClock::shared());
        faulty.by_chance(seed, Odds { fails: 100, done_unknown: 100, not_done_unknown: 100, ..Odds::default() });
        let mut failed = Vec::new();
        for _ in 0..200 {
            failed.push(faulty.commit(put("a")).await.is_err());
        }
        failed
    }
    let one = faults(1).await;
    assert_eq!(one, faults(1).await);
    assert_ne!(one, faults(2).await);
    let count = one.iter().filter(|failed| **failed).count();
    assert!((20..=120).contains(&count), "{count} of 200 calls failed at odds of 300 in 1,000");
}
