//! Faults that a harness can bring about.

use std::collections::BTreeMap;

use wharf_core::store::{Expect, Op, Revision, StoreError, Transaction};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail, skip};

/// A watch goes on, or fails and can be taken up where it was; either way nothing is missed.
pub(super) async fn disconnect_leaves_no_gap(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut position = revision(&*store).await?;
    let mut watch = Watched::start(&*store, &all_pods(), position).await?;
    let mut written: Vec<Revision> = Vec::new();
    let mut seen: Vec<Revision> = Vec::new();
    for n in 0..20 {
        if n % 5 == 2 && !h.disconnect(&store).await {
            return skip("the harness cannot disconnect this store");
        }
        // Not twice in one: a commit that may have happened is looked at before the next.
        let op = Op::Put { key: pod(&format!("p{n}")), value: bytes("x"), expect: Expect::Absent };
        match store.commit(Transaction::new(vec![op.clone()])).await {
            Ok(revision) => written.push(revision),
            Err(StoreError::OutcomeUnknown { .. } | StoreError::Backend { .. }) => match get(&*store, op.key()).await? {
                Some(record) => written.push(record.created),
                None => written.push(commit(&*store, vec![op]).await?),
            },
            Err(e) => return fail(format!("commit after a disconnect failed: {e}")),
        }
    }
    let end = *written.last().unwrap_or(&position);
    while position < end {
        match watch.step().await? {
            Ok(Some(commit)) => {
                position = commit.revision;
                seen.push(commit.revision);
            }
            Ok(None) => {}
            Err(_) => watch = Watched::start(&*store, &all_pods(), position).await?,
        }
    }
    ensure_eq!(seen, written, "commits seen across disconnects");
    Ok(())
}

pub(super) async fn restart_keeps_acknowledged(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    if !store.capabilities().durable {
        return skip("not declared durable");
    }
    for n in 0..20 {
        put(&*store, pod(&format!("p{n}")), &n.to_string()).await?;
    }
    delete(&*store, pod("p3")).await?;
    let before = list(&*store, &all_pods()).await?;
    let Some(store) = h.restart(store).await else { return fail("declared durable, but the harness cannot restart it") };
    ensure_eq!(list(&*store, &all_pods()).await?.records, before.records, "the records after a restart");
    Ok(())
}

/// Revisions from before a restart stay true or are refused; none is given twice.
pub(super) async fn restart_never_goes_back(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    if !store.capabilities().durable {
        return skip("not declared durable");
    }
    let first = put(&*store, pod("a"), "1").await?;
    let last = put(&*store, pod("a"), "2").await?;
    let Some(store) = h.restart(store).await else { return fail("declared durable, but the harness cannot restart it") };
    ensure!(revision(&*store).await? >= last, "the revision went back from {last} with a restart");
    let next = put(&*store, pod("a"), "3").await?;
    ensure!(next > last, "revision {next} was given again after a restart");
    match store.watch(&all_pods(), first).await {
        Err(StoreError::Expired { .. }) => Ok(()),
        Err(e) => fail(format!("a watch after a restart failed: {e}")),
        Ok(_) => {
            let mut watch = Watched::start(&*store, &all_pods(), first).await?;
            match watch.until_error(next).await? {
                (_, Some(StoreError::Expired { .. })) => Ok(()),
                (seen, None) => {
                    ensure_eq!(seen.iter().map(|s| s.revision).collect::<Vec<_>>(), [last, next], "commits seen across a restart");
                    Ok(())
                }
                (_, Some(e)) => fail(format!("a watch after a restart failed: {e}")),
            }
        }
    }
}

/// A crash in the midst of writers: every acknowledged commit is there, and no half one.
pub(super) async fn crash_beside_writers(h: &dyn StoreHarness) -> CaseResult {
    const WRITERS: usize = 4;
    const ACKNOWLEDGED: usize = 40;
    let mut store = h.store().await;
    if !store.capabilities().durable {
        return skip("not declared durable");
    }
    let mut next = 0;
    for round in 0..3 {
        let (told, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (store, told) = (store.clone(), told.clone());
                tokio::spawn(async move {
                    for n in next.. {
                        let name = format!("r{round}-w{w}-{n}");
                        let put = |side: &str| put_op(pod(&format!("{name}-{side}")), &name, Expect::Absent);
                        let revision = commit(&*store, vec![put("left"), put("right")]).await?;
                        if told.send((name, revision)).is_err() {
                            break;
                        }
                        // A store that never waits would not let it be ended.
                        tokio::task::yield_now().await;
                    }
                    Ok::<_, Stop>(())
                })
            })
            .collect();
        drop(told);
        let mut known = Vec::new();
        while known.len() < ACKNOWLEDGED {
            let Some(one) = acknowledged.recv().await else { break };
            known.push(one);
        }
        for writer in &writers {
            writer.abort();
        }
        for writer in writers {
            // A writer that was not aborted has failed.
            if let Ok(result) = writer.await {
                result?;
            }
        }
        while let Some(one) = acknowledged.recv().await {
            known.push(one);
        }
        let Some(again) = h.restart(store).await else { return fail("declared durable, but the harness cannot restart it") };
        store = again;
        let listing = list(&*store, &all_pods()).await?;
        let there: BTreeMap<String, Revision> = listing.records.iter().map(|r| (r.key.name.to_string(), r.modified)).collect();
        for (name, revision) in &known {
            for side in ["left", "right"] {
                let found = there.get(&format!("{name}-{side}"));
                ensure_eq!(found, Some(revision), "an acknowledged commit after a crash: the revision of {name}-{side}");
            }
        }
        for (name, revision) in &there {
            let twin = match name.strip_suffix("-left") {
                Some(name) => format!("{name}-right"),
                None => name.replace("-right", "-left"),
            };
            ensure_eq!(there.get(&twin), Some(revision), "the other half of {name} after a crash");
        }
        next += known.len();
    }
    Ok(())
}

/// What could not be brought to the disk is never acknowledged, nor is anything after it: only opening the store again tells what is there.
pub(super) async fn failed_sync_stops(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    if !store.capabilities().durable {
        return skip("not declared durable");
    }
    put(&*store, pod("before"), "1").await?;
    if !h.fail_sync(&store).await {
        return skip("the harness cannot make a sync fail");
    }
    for n in 0..5 {
        let ops = ["left", "right"].map(|side| put_op(pod(&format!("{n}-{side}")), "x", Expect::Any));
        if let Ok(revision) = store.commit(Transaction::new(ops.into())).await {
            return fail(format!("commit {n} after a failed sync was acknowledged at {revision}"));
        }
    }
    let Some(store) = h.restart(store).await else { return fail("declared durable, but the harness cannot restart it") };
    ensure!(get(&*store, &pod("before")).await?.is_some(), "what was acknowledged before a failed sync is gone");
    for n in 0..5 {
        let half = |side: &str| pod(&format!("{n}-{side}"));
        let (left, right) = (get(&*store, &half("left")).await?, get(&*store, &half("right")).await?);
        ensure_eq!(left.is_some(), right.is_some(), "whether both halves of commit {n}, which failed, are there");
    }
    put(&*store, pod("after"), "1").await?;
    Ok(())
}
