//! Watch: everything after a revision, in order, once, whole; or an error.

use std::collections::BTreeMap;

use futures::StreamExt;
use wharf_core::store::{Change, Expect, Key, Op, ResourceId, Revision, Scope, StoreError};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail, skip};

pub(super) async fn resume_exclusive(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut revisions = Vec::new();
    for n in 0..4 {
        revisions.push(put(&*store, pod("a"), &n.to_string()).await?);
    }
    for (n, after) in revisions.iter().enumerate() {
        let mut watch = Watched::start(&*store, &all_pods(), *after).await?;
        let last = put(&*store, pod("a"), "last").await?;
        let seen: Vec<Revision> = watch.until(last).await?.iter().map(|s| s.revision).collect();
        let expected: Vec<Revision> = revisions[n + 1..].to_vec();
        ensure!(seen.starts_with(&expected), "a watch after {after} yielded {seen:?}, expected first {expected:?}");
        ensure_eq!(seen.last(), Some(&last), "the last that a watch yielded");
    }
    Ok(())
}

pub(super) async fn first_event_of_an_empty_store(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let start = revision(&*store).await?;
    let mut early = Watched::start(&*store, &all_pods(), start).await?;
    let first = put(&*store, pod("a"), "1").await?;
    let mut late = Watched::start(&*store, &all_pods(), start).await?;
    for watch in [&mut early, &mut late] {
        let seen = watch.until(first).await?;
        ensure_eq!(seen.iter().map(|s| s.revision).collect::<Vec<_>>(), [first], "the first event");
    }
    Ok(())
}

/// A list and the watch after it, beside writers, give exactly the final state and every commit.
pub(super) async fn list_then_watch(h: &dyn StoreHarness) -> CaseResult {
    const WRITERS: usize = 3;
    const EACH: usize = 60;
    let store = h.store().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let key = pod(&format!("w{w}-{}", n % 5));
                    let op = match n % 7 {
                        6 => Op::Delete { key, expect: Expect::Any },
                        _ => put_op(key, &n.to_string(), Expect::Any),
                    };
                    commit(&*store, vec![op]).await?;
                    tokio::task::yield_now().await;
                }
                Ok::<_, Stop>(())
            })
        })
        .collect();
    // Several begin while the writers run.
    let mut begun = Vec::new();
    for _ in 0..5 {
        let listing = list(&*store, &all_pods()).await?;
        let watch = Watched::start(&*store, &all_pods(), listing.revision).await?;
        let model: BTreeMap<Key, _> = listing.records.into_iter().map(|r| (r.key.clone(), r)).collect();
        begun.push((model, watch));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.map_err(|e| Stop::Fail(e.to_string()))??;
    }
    let end = put(&*store, pod("end"), "end").await?;
    let expected: BTreeMap<Key, _> = list(&*store, &all_pods()).await?.records.into_iter().map(|r| (r.key.clone(), r)).collect();
    for (mut model, mut watch) in begun {
        for change in watch.until(end).await?.into_iter().flat_map(|s| s.changes) {
            // Each event continues from exactly the state that the one before left.
            match change {
                Change::Put { record, previous } => {
                    let had = model.insert(record.key.clone(), record.clone());
                    ensure_eq!(had, previous, "what {} replaced, by the events before", record.key);
                }
                Change::Delete { previous } => {
                    let had = model.remove(&previous.key);
                    ensure_eq!(had.as_ref(), Some(&previous), "what the delete of {} removed, by the events before", previous.key);
                }
            }
        }
        ensure!(model == expected, "list and watch do not add up to the final list: {} and {} records", model.len(), expected.len());
    }
    Ok(())
}

pub(super) async fn order(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let start = revision(&*store).await?;
    let mut during = Watched::start(&*store, &Scope::All, start).await?;
    let mut expected = Vec::new();
    for n in 0..30 {
        let key = if n % 3 == 0 { node("n") } else { pod(&format!("p{}", n % 4)) };
        expected.push(put(&*store, key, &n.to_string()).await?);
    }
    let mut after = Watched::start(&*store, &Scope::All, start).await?;
    let end = *expected.last().unwrap_or(&start);
    for watch in [&mut during, &mut after] {
        let seen: Vec<Revision> = watch.until(end).await?.iter().map(|s| s.revision).collect();
        ensure_eq!(seen, expected, "the revisions that a watch yielded");
        // Twice the last would come now, before another.
        let more = put(&*store, pod("more"), "x").await?;
        let seen: Vec<Revision> = watch.until(more).await?.iter().map(|s| s.revision).collect();
        ensure_eq!(seen.last(), Some(&more), "the next that a watch yielded");
        ensure!(seen.len() <= 2, "after {end} a watch yielded {seen:?}");
    }
    Ok(())
}

pub(super) async fn tells_previous(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    put(&*store, pod("a"), "1").await?;
    let created = get(&*store, &pod("a")).await?;
    put(&*store, pod("a"), "2").await?;
    let updated = get(&*store, &pod("a")).await?;
    let end = delete(&*store, pod("a")).await?;
    let changes: Vec<Change> = watch.until(end).await?.into_iter().flat_map(|s| s.changes).collect();
    let (Some(created), Some(updated)) = (created, updated) else { return fail("an acknowledged record is not there") };
    let expected = [
        Change::Put { record: created.clone(), previous: None },
        Change::Put { record: updated.clone(), previous: Some(created) },
        Change::Delete { previous: updated },
    ];
    ensure_eq!(changes, expected, "create, update and delete as a watch tells them");
    Ok(())
}

pub(super) async fn whole_commit(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    put(&*store, pod("old"), "x").await?;
    let mut ops: Vec<Op> = (0..9).map(|n| put_op(pod(&format!("p{n}")), "x", Expect::Absent)).collect();
    ops.push(Op::Delete { key: pod("old"), expect: Expect::Present });
    let revision = commit(&*store, ops).await?;
    let end = put(&*store, pod("end"), "x").await?;
    let seen = watch.until(end).await?;
    let whole: Vec<_> = seen.iter().filter(|s| s.revision == revision).collect();
    ensure_eq!(whole.len(), 1, "items for one commit");
    ensure_eq!(whole[0].names(), ["old", "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"], "the keys of one commit");
    ensure_eq!(seen.len(), 3, "commits in all");
    Ok(())
}

pub(super) async fn only_scope(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let start = revision(&*store).await?;
    let scopes = [Scope::All, all_pods(), Scope::Namespace(pods(), NAMESPACE.into()), Scope::Resource(nodes())];
    let mut watches = Vec::new();
    for scope in &scopes {
        watches.push(Watched::start(&*store, scope, start).await?);
    }
    let other = Key::new(pods(), "default-2", "other");
    let mixed = commit(
        &*store,
        vec![put_op(pod("a"), "x", Expect::Any), put_op(node("n"), "x", Expect::Any), put_op(other.clone(), "x", Expect::Any)],
    )
    .await?;
    put(&*store, other, "y").await?;
    let end = commit(&*store, vec![put_op(pod("end"), "x", Expect::Any), put_op(node("end"), "x", Expect::Any)]).await?;
    let expected: [&[&[&str]]; 4] = [
        &[&["a", "n", "other"], &["other"], &["end", "end"]],
        &[&["a", "other"], &["other"], &["end"]],
        &[&["a"], &["end"]],
        &[&["n"], &["end"]],
    ];
    for ((watch, scope), expected) in watches.iter_mut().zip(&scopes).zip(expected) {
        let seen = watch.until(end).await?;
        ensure_eq!(seen.first().map(|s| s.revision), Some(mixed), "the first commit in {scope:?}");
        ensure_eq!(seen.iter().map(|s| s.names()).collect::<Vec<_>>(), expected, "the commits in {scope:?}");
    }
    Ok(())
}

pub(super) async fn no_event_for_nothing(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    put(&*store, pod("a"), "x").await?;
    let mut watch = Watched::start(&*store, &Scope::All, revision(&*store).await?).await?;
    commit(&*store, vec![Op::Delete { key: pod("absent"), expect: Expect::Any }]).await?;
    commit(&*store, vec![Op::Check { key: pod("a"), expect: Expect::Present }]).await?;
    let refused = store.commit(wharf_core::store::Transaction::new(vec![put_op(pod("a"), "y", Expect::Absent)])).await;
    conflict(refused, &pod("a"))?;
    let ops = vec![put_op(pod("a"), "z", Expect::Any), Op::Delete { key: pod("absent"), expect: Expect::Any }];
    let half = commit(&*store, ops).await?;
    let seen = watch.until(half).await?;
    ensure_eq!(seen.iter().map(|s| (s.revision, s.names())).collect::<Vec<_>>(), [(half, vec!["a".to_string()])], "all events");
    Ok(())
}

pub(super) async fn future_revision(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let current = put(&*store, pod("a"), "old").await?;
    let after = Revision(current.0 + 3);
    // The watch itself fails the case if it yields anything at or before `after`.
    let mut watch = match store.watch(&all_pods(), after).await {
        Ok(_) => Watched::start(&*store, &all_pods(), after).await?,
        Err(e) => return fail(format!("a watch after a revision to come failed: {e}")),
    };
    let mut end = current;
    let mut expected = Vec::new();
    while expected.len() < 3 {
        end = put(&*store, pod("a"), "new").await?;
        if end > after {
            expected.push(end);
        }
    }
    let seen: Vec<Revision> = watch.until(end).await?.iter().map(|s| s.revision).collect();
    ensure_eq!(seen, expected, "what a watch after {after} yielded");
    Ok(())
}

fn expired(error: &StoreError, what: &str) -> CaseResult<Revision> {
    match error {
        StoreError::Expired { compacted } => Ok(*compacted),
        other => fail(format!("{what}: expected Expired, got: {other}")),
    }
}

pub(super) async fn expired_start(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let first = put(&*store, pod("a"), "1").await?;
    put(&*store, pod("a"), "2").await?;
    let third = put(&*store, pod("a"), "3").await?;
    ok(store.compact(third).await, "compact")?;
    put(&*store, pod("a"), "4").await?;
    for scope in [all_pods(), Scope::All, Scope::Namespace(pods(), NAMESPACE.into()), Scope::Resource(nodes())] {
        let error = watch_error(&*store, &scope, first).await?;
        let compacted = expired(&error, "a watch below the compaction")?;
        ensure_eq!(compacted, third, "where the history begins");
    }
    Ok(())
}

pub(super) async fn compaction_edge(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    put(&*store, pod("a"), "1").await?;
    let second = put(&*store, pod("a"), "2").await?;
    let third = put(&*store, pod("a"), "3").await?;
    ok(store.compact(second).await, "compact")?;
    let mut watch = Watched::start(&*store, &all_pods(), second).await?;
    let seen: Vec<Revision> = watch.until(third).await?.iter().map(|s| s.revision).collect();
    ensure_eq!(seen, [third], "what a watch after the compaction point yielded");
    Ok(())
}

pub(super) async fn delete_survives_compaction(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let created = put(&*store, pod("a"), "1").await?;
    let deleted = delete(&*store, pod("a")).await?;
    ok(store.compact(created).await, "compact")?;
    let mut watch = Watched::start(&*store, &all_pods(), created).await?;
    let seen = watch.until(deleted).await?;
    ensure!(
        matches!(seen.as_slice(), [s] if matches!(s.changes.as_slice(), [Change::Delete { .. }])),
        "after a compaction below the delete a watch yielded {seen:?}"
    );
    ok(store.compact(deleted).await, "compact at the delete")?;
    ensure_eq!(get(&*store, &pod("a")).await?, None, "a deleted key after compaction");
    expired(&watch_error(&*store, &all_pods(), created).await?, "a watch that would have to tell of a compacted delete")?;
    Ok(())
}

/// A watcher that history leaves behind is told so, and has seen everything until then.
pub(super) async fn slow_is_told(h: &dyn StoreHarness) -> CaseResult {
    const KEPT: usize = 16;
    const WRITES: usize = 5_000;
    let Some(store) = h.bounded(KEPT).await else { return skip("the harness makes no store with a small history") };
    let start = revision(&*store).await?;
    let mut watch = Watched::start(&*store, &all_pods(), start).await?;
    let mut written = Vec::with_capacity(WRITES);
    for n in 0..WRITES {
        written.push(put(&*store, pod("a"), &n.to_string()).await?);
    }
    let (seen, error) = watch.until_error(*written.last().unwrap_or(&start)).await?;
    ensure!(seen.iter().map(|s| s.revision).eq(written.iter().copied().take(seen.len())), "a slow watch has a silent gap");
    match error {
        Some(error) => {
            expired(&error, "a watcher that fell behind")?;
            watch.ended().await?;
        }
        // A store may buffer more than it was asked to keep, as long as it loses nothing.
        None => ensure_eq!(seen.len(), WRITES, "commits seen by a watcher that was not told it is behind"),
    }
    Ok(())
}

pub(super) async fn slow_stalls_nobody(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 3_000;
    let store = h.store().await;
    let start = revision(&*store).await?;
    // Never read. Were commits or other watches to wait for it, the case would hang.
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(ok(store.watch(&all_pods(), start).await, "watch")?);
    }
    let mut live = Watched::start(&*store, &all_pods(), start).await?;
    for n in 0..WRITES {
        let revision = put(&*store, pod("a"), &n.to_string()).await?;
        ensure_eq!(live.until(revision).await?.len(), 1, "commits seen by the live watch for commit {n}");
    }
    Ok(())
}

/// Whatever progress says has been told, has been told: the watch fails the case otherwise. Here beside a writer whose
/// commits are in and out of scope.
pub(super) async fn progress_not_early(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 300;
    let store = h.store().await;
    let start = revision(&*store).await?;
    let mut watches = Vec::new();
    for scope in [all_pods(), Scope::Namespace(pods(), NAMESPACE.into())] {
        watches.push(Watched::start(&*store, &scope, start).await?);
    }
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut inside = Vec::new();
            for n in 0..WRITES {
                let value = n.to_string();
                match n % 3 {
                    0 => inside.push(put(&*store, pod("a"), &value).await?),
                    1 => drop(put(&*store, Key::new(pods(), "other", "b"), &value).await?),
                    _ => drop(put(&*store, node("n"), &value).await?),
                }
                if n % 5 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            inside.push(put(&*store, pod("end"), "x").await?);
            Ok::<_, Stop>(inside)
        })
    };
    // The end is not known yet: read until its key is seen.
    let mut seen_by = Vec::new();
    for watch in &mut watches {
        let mut seen = Vec::new();
        loop {
            match watch.step().await? {
                Ok(None) => {}
                Ok(Some(commit)) => {
                    let last = commit.names() == ["end"];
                    if commit.changes.iter().any(|c| &*c.key().namespace == NAMESPACE) {
                        seen.push(commit.revision);
                    }
                    if last {
                        break;
                    }
                }
                Err(e) => return fail(format!("the watch failed: {e}")),
            }
        }
        seen_by.push(seen);
    }
    let inside = writer.await.map_err(|e| Stop::Fail(e.to_string()))??;
    for seen in seen_by {
        ensure_eq!(seen, inside, "commits in scope, with progress between them");
    }
    Ok(())
}

/// A `next` that is dropped unfinished loses nothing.
pub(super) async fn dropped_next(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 200;
    let store = h.store().await;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    let mut seen = Vec::new();
    let mut written = Vec::new();
    for n in 0..WRITES {
        seen.extend(watch.step_now()?.map(|s| s.revision));
        written.push(put(&*store, pod("a"), &n.to_string()).await?);
        if n % 3 == 0 {
            seen.extend(watch.step_now()?.map(|s| s.revision));
            seen.extend(watch.step_now()?.map(|s| s.revision));
        }
    }
    let end = put(&*store, pod("a"), "end").await?;
    written.push(end);
    seen.extend(watch.until(end).await?.iter().map(|s| s.revision));
    ensure_eq!(seen, written, "commits seen by a reader that gives up and comes back");
    Ok(())
}

pub(super) async fn dropped_watch(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let start = revision(&*store).await?;
    let mut kept = Watched::start(&*store, &all_pods(), start).await?;
    for n in 0..20 {
        let mut dropped = Watched::start(&*store, &all_pods(), start).await?;
        let revision = put(&*store, pod("a"), &n.to_string()).await?;
        if n % 2 == 0 {
            dropped.until(revision).await?;
        }
        drop(dropped);
        ensure_eq!(kept.until(revision).await?.len(), 1, "commits seen by the watch that was kept");
    }
    Ok(())
}

pub(super) async fn error_ends_it(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let start = revision(&*store).await?;
    let mut watch = Watched::start(&*store, &all_pods(), start).await?;
    let mut end = start;
    for n in 0..500 {
        end = put(&*store, pod("a"), &n.to_string()).await?;
    }
    ok(store.compact(end).await, "compact")?;
    // It had not been read before history went away: all of it, or an error and then nothing.
    let (seen, error) = watch.until_error(end).await?;
    match error {
        Some(error) => {
            expired(&error, "a watcher whose history was compacted")?;
            watch.ended().await
        }
        None => {
            ensure_eq!(seen.len(), 500, "commits seen by a watcher that got no error");
            Ok(())
        }
    }
}

/// Too old is told as such whatever is asked for, events (which expire, and are many) included.
pub(super) async fn expired_on_every_path(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let events = ResourceId::new("", "events");
    let event = |name: &str| Key::new(ResourceId::new("", "events"), NAMESPACE, name);
    let everywhere = |value: &str| [pod("a"), node("n"), event("e")].map(|key| put_op(key, value, Expect::Any)).to_vec();
    let first = commit(&*store, everywhere("1")).await?;
    commit(&*store, everywhere("2")).await?;
    let last = commit(&*store, everywhere("3")).await?;
    ok(store.compact(last).await, "compact")?;
    for scope in [
        Scope::All,
        all_pods(),
        Scope::Namespace(pods(), NAMESPACE.into()),
        Scope::Resource(nodes()),
        Scope::Resource(events.clone()),
        Scope::Namespace(events, NAMESPACE.into()),
        // Nothing was ever there; what is asked for is too old all the same.
        Scope::Namespace(pods(), "empty".into()),
    ] {
        if store.capabilities().history {
            match list_at(&*store, &scope, first).await {
                Err(e) => drop(expired(&e, &format!("a list of {scope:?} at a compacted revision"))?),
                Ok(listing) => return fail(format!("a list of {scope:?} at a compacted revision gave {:?}", contents(&listing.records))),
            }
        }
        let error = match store.watch(&scope, first).await {
            Err(e) => e,
            Ok(mut stream) => {
                let mut ops = everywhere("more");
                ops.push(put_op(Key::new(pods(), "empty", "a"), "x", Expect::Any));
                commit(&*store, ops).await?;
                delete(&*store, Key::new(pods(), "empty", "a")).await?;
                match stream.next().await {
                    Some(Err(e)) => e,
                    other => return fail(format!("a watch of {scope:?} after a compacted revision yielded {other:?}")),
                }
            }
        };
        expired(&error, &format!("a watch of {scope:?} after a compacted revision"))?;
    }
    Ok(())
}

/// A watch that is not read for long has lost nothing, or says so.
pub(super) async fn starved_loses_nothing(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 1_500;
    let store = h.store().await;
    let start = revision(&*store).await?;
    let scopes = [Scope::All, all_pods(), Scope::Namespace(pods(), NAMESPACE.into()), Scope::Resource(nodes())];
    let mut watches = Vec::new();
    for scope in &scopes {
        watches.push(Watched::start(&*store, scope, start).await?);
    }
    let padding = "x".repeat(2048);
    let mut written = Vec::with_capacity(WRITES);
    for n in 0..WRITES {
        let key = match n % 3 {
            0 => node("n"),
            1 => pod("a"),
            _ => Key::new(pods(), "other", "b"),
        };
        let op = if n % 10 == 9 {
            Op::Delete { key: key.clone(), expect: Expect::Present }
        } else {
            put_op(key.clone(), &format!("{n} {padding}"), Expect::Any)
        };
        written.push((commit(&*store, vec![op]).await?, key));
    }
    let end = commit(&*store, vec![put_op(pod("end"), "x", Expect::Any), put_op(node("end"), "x", Expect::Any)]).await?;
    for (watch, scope) in watches.iter_mut().zip(&scopes) {
        let mut expected: Vec<Revision> = written.iter().filter(|(_, key)| scope.contains(key)).map(|(r, _)| *r).collect();
        expected.push(end);
        let (seen, error) = watch.until_error(end).await?;
        let seen: Vec<Revision> = seen.iter().map(|s| s.revision).collect();
        match error {
            None => ensure!(seen == expected, "a starved watch of {scope:?} yielded {} commits of {}", seen.len(), expected.len()),
            Some(error) => {
                expired(&error, "a starved watch")?;
                ensure!(expected.starts_with(&seen), "a starved watch of {scope:?} had a gap before it said so");
            }
        }
    }
    Ok(())
}
