//! The cache above a store that forgets, and under watchers that lag.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_core::cache::{CacheError, Caches};
use wharf_core::clock::{Clock, ManualClock};
use wharf_core::object::encode_stored;
use wharf_core::store::{Expect, Key, Op, ResourceId, Revision, SharedStore, Transaction};
use wharf_store_memory::MemoryStore;

fn maps() -> ResourceId {
    ResourceId::new("", "configmaps")
}

fn put(resource: ResourceId, name: &str, value: u32) -> Op {
    let object =
        serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"namespace":"n"},"data":{"v":value.to_string()}});
    Op::Put { key: Key::new(resource, "n", name), value: encode_stored(&object).unwrap(), expect: Expect::Any }
}

async fn commit(store: &SharedStore, ops: Vec<Op>) -> Revision {
    store.commit(Transaction::new(ops)).await.unwrap()
}

async fn over(store: MemoryStore) -> (SharedStore, Caches, ManualClock) {
    let store: SharedStore = Arc::new(store);
    let clock = ManualClock::default();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    (store.clone(), Caches::start(store, shared, CancellationToken::new()).await.unwrap(), clock)
}

#[tokio::test]
async fn list_then_watch_misses_and_repeats_nothing() {
    let (store, caches, _) = over(MemoryStore::new()).await;
    commit(&store, vec![put(maps(), "a", 1)]).await;
    let cache = caches.of(&maps()).await.unwrap();
    cache.consistent().await.unwrap();
    let page = cache.list(Some("n"));
    let mut watcher = cache.watch(page.revision).unwrap();
    let other = commit(&store, vec![put(ResourceId::new("", "secrets"), "x", 1)]).await;
    let last = commit(&store, vec![put(maps(), "a", 2), put(maps(), "b", 1)]).await;
    let events = watcher.next().await.unwrap();
    assert_eq!(events.len(), 2, "a commit is not split");
    assert!(events.iter().all(|e| e.revision == last) && other < last);
    assert_eq!(events.iter().filter(|e| e.previous.is_none()).count(), 1);
    cache.consistent().await.unwrap();
    assert_eq!(watcher.caught_up(), Some(last));
    // What is read and what is watched is one object.
    assert!(Arc::ptr_eq(&cache.get("n", "b").unwrap(), &events.iter().find(|e| &*e.object.key().name == "b").unwrap().object));
}

#[tokio::test]
async fn a_commit_elsewhere_moves_a_consistent_read_along() {
    let (store, caches, _) = over(MemoryStore::new()).await;
    let cache = caches.of(&maps()).await.unwrap();
    let revision = commit(&store, vec![put(ResourceId::new("", "secrets"), "x", 1)]).await;
    cache.consistent().await.unwrap();
    assert_eq!(cache.list(None).revision, revision);
}

#[tokio::test]
async fn a_gap_in_the_stores_watch_heals_and_ends_watchers() {
    let (store, caches, _) = over(MemoryStore::builder().history(2).build()).await;
    commit(&store, vec![put(maps(), "gone", 1)]).await;
    let cache = caches.of(&maps()).await.unwrap();
    cache.consistent().await.unwrap();
    let mut watcher = cache.watch(cache.list(None).revision).unwrap();
    // The pump does not run in between: no await here yields to it.
    let key = Key::new(maps(), "n", "gone");
    commit(&store, vec![Op::Delete { key, expect: Expect::Any }]).await;
    for i in 0..10 {
        commit(&store, vec![put(maps(), "a", i)]).await;
    }
    cache.consistent().await.unwrap();
    assert!(cache.get("n", "gone").is_none(), "a delete that was never told of is noticed");
    assert!(cache.get("n", "a").is_some());
    assert!(matches!(watcher.next().await, Err(CacheError::Expired { .. })), "never a silent gap");
}

#[tokio::test]
async fn a_watcher_that_lags_is_told_and_stalls_nobody() {
    let (store, caches, clock) = over(MemoryStore::new()).await;
    let cache = caches.of(&maps()).await.unwrap();
    let start = cache.list(None).revision;
    let (mut slow, mut quick) = (cache.watch(start).unwrap(), cache.watch(start).unwrap());
    commit(&store, vec![put(maps(), "a", 0)]).await;
    cache.consistent().await.unwrap();
    clock.advance(Duration::from_secs(3600));
    for i in 0..600 {
        commit(&store, vec![put(maps(), "a", i)]).await;
        cache.consistent().await.unwrap();
        assert!(!quick.next().await.unwrap().is_empty());
    }
    assert!(matches!(slow.next().await, Err(CacheError::Expired { .. })));
    assert!(matches!(cache.watch(start), Err(CacheError::Expired { .. })));
}

#[tokio::test]
async fn the_future_gets_no_old_events_and_wedges_nobody() {
    let (store, caches, clock) = over(MemoryStore::new()).await;
    let cache = caches.of(&maps()).await.unwrap();
    let now = commit(&store, vec![put(maps(), "a", 1)]).await;
    let ahead = Revision(now.0 + 1);
    let mut watcher = cache.watch(ahead).unwrap();
    commit(&store, vec![put(maps(), "a", 2)]).await;
    let third = commit(&store, vec![put(maps(), "a", 3)]).await;
    let events = watcher.next().await.unwrap();
    assert_eq!(events.iter().map(|e| e.revision).collect::<Vec<_>>(), [third]);

    let waiting = tokio::spawn(async move { cache.reach(Revision(1_000_000)).await });
    while clock.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(4));
    assert!(matches!(waiting.await.unwrap(), Err(CacheError::Behind { .. })));
}
