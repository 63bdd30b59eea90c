//! Expiry: what has a time to live is deleted by a commit like any other, not before its time.

use std::time::Duration;

use wharf_core::store::{Change, Expect, Key, Op, Revision, SharedStore, StoreError, Transaction};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, ensure, ensure_eq, fail, skip};

/// Each case over a store that declares expiry.
async fn expiring(h: &dyn StoreHarness) -> CaseResult<SharedStore> {
    let store = h.store().await;
    if store.capabilities().expiry { Ok(store) } else { skip("not declared to expire") }
}

async fn put_for(store: &SharedStore, key: Key, value: &str, ttl: Duration) -> CaseResult<Revision> {
    ok(store.commit(Transaction::new(vec![put_op(key, value, Expect::Any)]).with_ttl(ttl)).await, "a commit with a time to live")
}

/// How long it is since it was made: by the store's time, or by the machine's.
struct Since {
    begin: std::time::Instant,
    passed: Duration,
}

impl Since {
    fn now() -> Self {
        Self { begin: std::time::Instant::now(), passed: Duration::ZERO }
    }
    fn is(&self) -> Duration {
        self.begin.elapsed().max(self.passed)
    }
}

/// Lets time pass until a watch tells of the delete of a key; the deleted, and every commit until then.
async fn deleted(
    h: &dyn StoreHarness,
    store: &SharedStore,
    watch: &mut Watched,
    key: &Key,
    since: &mut Since,
) -> CaseResult<(Seen, Vec<Seen>)> {
    let step = h.shortest_ttl() / 8;
    let mut before = Vec::new();
    loop {
        let item = tokio::select! {
            biased;
            item = watch.step() => item?,
            () = h.pass_time(store, step) => {
                since.passed += step;
                continue;
            }
        };
        match item {
            Ok(Some(seen)) if seen.changes.iter().any(|c| matches!(c, Change::Delete { previous } if previous.key == *key)) => {
                return Ok((seen, before));
            }
            Ok(Some(seen)) => before.push(seen),
            Ok(None) => {}
            Err(e) => return fail(format!("the watch failed: {e}")),
        }
    }
}

pub(super) async fn undeclared(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    if store.capabilities().expiry {
        return skip("declared to expire");
    }
    let before = revision(&*store).await?;
    let put = Transaction::new(vec![put_op(pod("a"), "x", Expect::Any)]).with_ttl(Duration::from_secs(3600));
    match store.commit(put).await {
        Err(StoreError::Unsupported { .. }) => {}
        other => return fail(format!("expiry is not declared, yet a time to live gave {other:?}")),
    }
    ensure_eq!(get(&*store, &pod("a")).await?, None, "what a refused commit wrote");
    ensure_eq!(revision(&*store).await?, before, "the revision after a refused commit");
    Ok(())
}

pub(super) async fn deletes_by_a_commit(h: &dyn StoreHarness) -> CaseResult {
    let store = expiring(h).await?;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    put(&*store, pod("stays"), "x").await?;
    let written = put_for(&store, pod("a"), "1", h.shortest_ttl()).await?;
    let there = get(&*store, &pod("a")).await?;
    ensure_eq!(there.as_ref().map(|r| r.modified), Some(written), "what has a time to live is there until then, at revision");
    let (seen, before) = deleted(h, &store, &mut watch, &pod("a"), &mut Since::now()).await?;
    ensure_eq!(before.len(), 2, "commits before the delete");
    ensure!(seen.revision > written, "the delete has revision {}, the write {written}", seen.revision);
    let expected: Vec<Change> = there.into_iter().map(|previous| Change::Delete { previous }).collect();
    ensure_eq!(seen.changes, expected, "the delete as a watch tells it");
    ensure_eq!(get(&*store, &pod("a")).await?, None, "what has expired");
    ensure!(revision(&*store).await? >= seen.revision, "the store is behind what its watch has told");
    ensure_eq!(names(&list(&*store, &all_pods()).await?), ["stays"], "what is left");
    // It is gone as after any delete.
    ok(store.commit(Transaction::create(pod("a"), bytes("2"))).await, "create of what has expired")?;
    Ok(())
}

pub(super) async fn not_before_its_time(h: &dyn StoreHarness) -> CaseResult {
    let store = expiring(h).await?;
    let ttl = h.shortest_ttl() * 2;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    let mut since = Since::now();
    put_for(&store, pod("a"), "1", ttl).await?;
    deleted(h, &store, &mut watch, &pod("a"), &mut since).await?;
    ensure!(since.is() >= ttl, "it was to live for {ttl:?} and was deleted after {:?}", since.is());
    Ok(())
}

pub(super) async fn rewrite_renews(h: &dyn StoreHarness) -> CaseResult {
    let store = expiring(h).await?;
    let ttl = h.shortest_ttl() * 2;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    let written = put_for(&store, pod("a"), "1", ttl).await?;
    h.pass_time(&store, ttl / 2).await;
    let mut since = Since::now();
    let update = Transaction::update(pod("a"), bytes("2"), written).with_ttl(ttl);
    ok(store.commit(update).await, "a renewal within the time to live")?;
    deleted(h, &store, &mut watch, &pod("a"), &mut since).await?;
    ensure!(since.is() >= ttl, "it was renewed for {ttl:?} and was deleted after {:?}", since.is());
    Ok(())
}

pub(super) async fn rewrite_without_keeps(h: &dyn StoreHarness) -> CaseResult {
    let store = expiring(h).await?;
    let ttl = h.shortest_ttl();
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    put_for(&store, pod("a"), "1", ttl).await?;
    put(&*store, pod("a"), "2").await?;
    // Deleted and made again it is another.
    put_for(&store, pod("b"), "1", ttl).await?;
    delete(&*store, pod("b")).await?;
    put(&*store, pod("b"), "2").await?;
    // Once a later one has expired, the time of these has come.
    put_for(&store, pod("witness"), "1", ttl).await?;
    let (_, before) = deleted(h, &store, &mut watch, &pod("witness"), &mut Since::now()).await?;
    ensure_eq!(before.len(), 6, "commits before the delete of a later one");
    h.pass_time(&store, ttl).await;
    let end = put(&*store, pod("end"), "x").await?;
    ensure_eq!(watch.until(end).await?.len(), 1, "commits after it");
    let left = contents(&list(&*store, &all_pods()).await?.records);
    let kept = |name: &str, value: &str| (name.to_string(), value.to_string());
    ensure_eq!(left, [kept("a", "2"), kept("b", "2"), kept("end", "x")], "what was written again without a time to live");
    Ok(())
}

pub(super) async fn whole_transaction(h: &dyn StoreHarness) -> CaseResult {
    let store = expiring(h).await?;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    put(&*store, pod("old"), "x").await?;
    let ops = vec![
        put_op(pod("a"), "1", Expect::Absent),
        put_op(pod("b"), "1", Expect::Absent),
        Op::Check { key: pod("old"), expect: Expect::Present },
    ];
    ok(store.commit(Transaction::new(ops).with_ttl(h.shortest_ttl())).await, "commit")?;
    let mut since = Since::now();
    let (first, before) = deleted(h, &store, &mut watch, &pod("a"), &mut since).await?;
    let with_it = |name: &str| {
        before
            .iter()
            .chain([&first])
            .any(|s| s.changes.iter().any(|c| matches!(c, Change::Delete { previous } if &*previous.key.name == name)))
    };
    if !with_it("b") {
        deleted(h, &store, &mut watch, &pod("b"), &mut since).await?;
    }
    ensure_eq!(names(&list(&*store, &all_pods()).await?), ["old"], "what was only looked at stays");
    Ok(())
}

pub(super) async fn survives_restart(h: &dyn StoreHarness) -> CaseResult {
    let store = expiring(h).await?;
    if !store.capabilities().durable {
        return skip("not declared durable");
    }
    let ttl = h.shortest_ttl() * 2;
    let mut since = Since::now();
    put(&*store, pod("stays"), "x").await?;
    put_for(&store, pod("a"), "1", ttl).await?;
    let Some(store) = h.restart(store).await else { return fail("declared durable, but the harness cannot restart it") };
    let listing = list(&*store, &all_pods()).await?;
    if names(&listing).contains(&"a".to_string()) {
        let mut watch = Watched::start(&*store, &all_pods(), listing.revision).await?;
        deleted(h, &store, &mut watch, &pod("a"), &mut since).await?;
    }
    ensure!(since.is() >= ttl, "it was to live for {ttl:?} and was deleted after {:?}", since.is());
    ensure_eq!(names(&list(&*store, &all_pods()).await?), ["stays"], "what is left after a restart");
    Ok(())
}

/// A record that is renewed for ever takes no more room than one.
pub(super) async fn renewals_take_no_room(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 1_000;
    const SLACK: u64 = 4 << 20;
    let store = h.store().await;
    let ttl = store.capabilities().expiry.then_some(Duration::from_secs(3600));
    let value = "x".repeat(1024);
    let mut sizes = Vec::new();
    for _ in 0..5 {
        let mut last = Revision(0);
        for _ in 0..WRITES {
            let transaction = Transaction { ttl, ..Transaction::new(vec![put_op(pod("lease"), &value, Expect::Any)]) };
            last = ok(store.commit(transaction).await, "commit")?;
        }
        ok(store.compact(last).await, "compact")?;
        let Some(size) = h.size(&store).await else { return skip("the harness does not know what the store takes") };
        sizes.push(size);
    }
    ensure!(
        sizes[4] <= sizes[0] * 2 + SLACK,
        "a record that was written 1,000 times took {} bytes, after 5,000 times {}",
        sizes[0],
        sizes[4]
    );
    Ok(())
}
