//! What core's cache makes of a store: the lessons that show only above it. The connection between the two is cut by the kit.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_core::cache::{Cache, CacheError, Caches, Page};
use wharf_core::clock::ManualClock;
use wharf_core::store::{Expect, Op, Revision, SharedStore};

use super::StoreHarness;
use super::faulty::Faulty;
use super::kit::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail};

/// What passes on the cache's clock while the case looks.
const TICK: Duration = Duration::from_millis(50);

/// An API server's cache of pods, over a connection that can be cut.
struct Server {
    line: Faulty,
    clock: ManualClock,
    cache: Arc<Cache>,
    caches: Caches,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    async fn start(store: &SharedStore) -> CaseResult<Self> {
        let (clock, stop) = (ManualClock::default(), CancellationToken::new());
        let line = Faulty::new(store.clone(), Arc::new(clock.clone()));
        let started = Caches::start(Arc::new(line.clone()), Arc::new(clock.clone()), stop.clone()).await;
        let caches = started.map_err(|e| Stop::Fail(format!("the cache does not start: {e}")))?;
        let cache = caches.of(&pods()).await.map_err(|e| Stop::Fail(format!("the cache is not read: {e}")))?;
        Ok(Self { line, clock, cache, caches, stop })
    }

    /// What a call comes to while the clock goes on.
    async fn timed<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = std::pin::pin!(call);
        loop {
            tokio::select! {
                biased;
                result = &mut call => return result,
                () = tokio::time::sleep(Duration::from_millis(1)) => self.clock.advance(TICK),
            }
        }
    }

    /// Waits, as long as the case may, until the cache is as far as a revision.
    async fn reaches(&self, revision: Revision) -> CaseResult<Page> {
        loop {
            match self.timed(self.cache.reach(revision)).await {
                Ok(()) => return Ok(self.cache.list(None)),
                Err(CacheError::Behind { .. }) => {}
                Err(e) => return fail(format!("the cache does not reach {revision}: {e}")),
            }
        }
    }
}

fn of(page: &Page) -> Vec<String> {
    page.items.iter().map(|o| o.object_ref().name.to_string()).collect()
}

async fn put_pod(store: &SharedStore, name: &str) -> CaseResult<Revision> {
    let value = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"{NAMESPACE}"}}}}"#);
    put(&**store, pod(name), &value).await
}

/// A client that has seen a revision is never served an older one: not by the same server after a cut, nor by another that lags.
pub(super) async fn never_back_after_reconnect(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let (first, second) = (Server::start(&store).await?, Server::start(&store).await?);
    let old = put_pod(&store, "old").await?;
    second.reaches(old).await?;
    // The second server stands still while the pod moves.
    second.line.disconnect();
    delete(&*store, pod("old")).await?;
    let moved = put_pod(&store, "new").await?;
    let seen = first.reaches(moved).await?;
    ensure_eq!(of(&seen), ["new"], "the pods that the first server shows");
    let page = second.cache.list(None);
    ensure_eq!(of(&page), ["old"], "the pods that the second server shows, cut off");
    ensure!(page.revision < moved, "a server that has not seen {moved} calls its list one of {}", page.revision);
    match second.timed(second.cache.reach(seen.revision)).await {
        Err(CacheError::Behind { .. }) => {}
        other => return fail(format!("a server that is behind answers who has seen {}: {other:?}", seen.revision)),
    }
    match second.timed(second.cache.consistent()).await {
        Err(_) => {}
        Ok(()) => return fail("a server that is cut off calls its list consistent"),
    }
    second.line.reconnect();
    let page = second.reaches(seen.revision).await?;
    ensure!(page.revision >= seen.revision, "after {} a list is of {}", seen.revision, page.revision);
    ensure_eq!(of(&page), ["new"], "the pods that the second server shows in the end");
    // The same server, cut again and again.
    let mut last = page.revision;
    for n in 0..5 {
        first.line.cut_watches();
        let written = put_pod(&store, &format!("p{n}")).await?;
        let page = first.reaches(written).await?;
        ensure!(page.revision >= last, "a list went back from {last} to {}", page.revision);
        ensure_eq!(page.items.len(), n + 2, "pods after a cut");
        last = page.revision;
    }
    Ok(())
}

/// A delete that a cache could not see, because its history was gone, is noticed, and its watchers are told.
pub(super) async fn lost_delete_heals(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let server = Server::start(&store).await?;
    put_pod(&store, "lost").await?;
    let begin = put_pod(&store, "kept").await?;
    let page = server.reaches(begin).await?;
    let mut watcher = server.cache.watch(page.revision).map_err(|e| Stop::Fail(e.to_string()))?;
    server.line.disconnect();
    delete(&*store, pod("lost")).await?;
    let end = put_pod(&store, "later").await?;
    ok(store.compact(end).await, "compact")?;
    server.line.reconnect();
    let page = server.reaches(end).await?;
    ensure_eq!(of(&page), ["kept", "later"], "the pods in the cache after a delete that it could not see");
    ensure!(server.cache.get(NAMESPACE, "lost").is_none(), "a pod that is gone is still in the cache");
    match server.timed(watcher.next()).await {
        Err(CacheError::Expired { .. }) => {}
        // A store that serves its watches from further back than it was compacted: then the delete must be told.
        Ok(events) if events.iter().any(|e| e.deleted && &*e.object.key().name == "lost") => {}
        other => return fail(format!("a watcher that missed a delete was told {other:?}")),
    }
    // And so when only the store's watch gives up.
    delete(&*store, pod("kept")).await?;
    server.line.expire_watches();
    let end = put_pod(&store, "last").await?;
    ensure_eq!(of(&server.reaches(end).await?), ["last", "later"], "the pods in the cache after a watch that expired");
    Ok(())
}

/// Asking for a revision that nobody has fails in time, and harms nothing.
pub(super) async fn too_large_revision_does_not_wedge(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let server = Server::start(&store).await?;
    let current = put_pod(&store, "a").await?;
    server.reaches(current).await?;
    let far = Revision(current.0 + 1_000_000);
    match server.timed(server.cache.reach(far)).await {
        Err(CacheError::Behind { asked, current: told }) => {
            ensure!(asked == far && told >= current && told < far, "asked {asked}, told that the cache is at {told}");
        }
        other => return fail(format!("a read at {far} of a store at {current} gave {other:?}")),
    }
    let mut watcher = server.cache.watch(far).map_err(|e| Stop::Fail(format!("a watch after {far}: {e}")))?;
    let next = put_pod(&store, "b").await?;
    ensure_eq!(of(&server.reaches(next).await?), ["a", "b"], "the pods after a read of the far future");
    server.timed(server.cache.consistent()).await.map_err(|e| Stop::Fail(format!("a consistent read after it: {e}")))?;
    // A watch from the future gets no old events.
    let nothing = tokio::select! {
        biased;
        batch = watcher.next() => Some(batch),
        () = tokio::task::yield_now() => None,
    };
    ensure!(nothing.is_none(), "a watch after {far} yielded {nothing:?}");
    Ok(())
}

/// A cache that is read for the first time while others write misses nothing between its list and its watch.
pub(super) async fn starts_beside_writers(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 150;
    let store = h.store().await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut last = Revision(0);
            for n in 0..WRITES {
                let name = format!("p{}", n % 10);
                last = match n % 4 {
                    3 => commit(&*store, vec![Op::Delete { key: pod(&name), expect: Expect::Any }]).await?,
                    _ => put_pod(&store, &name).await?,
                };
                tokio::task::yield_now().await;
            }
            Ok::<_, Stop>(last)
        })
    };
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(Server::start(&store).await?);
        tokio::task::yield_now().await;
    }
    let last = writer.await.map_err(|e| Stop::Fail(e.to_string()))??;
    let expected: Vec<_> = list(&*store, &all_pods()).await?.records.into_iter().map(|r| (r.key.name.to_string(), r.modified)).collect();
    for server in servers {
        let page = server.reaches(last).await?;
        let shown: Vec<_> = page.items.iter().map(|o| (o.object_ref().name.to_string(), o.revision())).collect();
        ensure_eq!(shown, expected, "the pods of a cache that was started beside a writer");
        ensure!(server.caches.applied() >= last, "the cache has shown {last} without saying so");
    }
    Ok(())
}
