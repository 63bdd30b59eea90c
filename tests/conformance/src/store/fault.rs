//! Faults that a harness can bring about.

use wharf_core::store::{Op, Revision, StoreError};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, ensure, ensure_eq, fail, skip};

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
        let op = Op::Put { key: pod(&format!("p{n}")), value: bytes("x"), expect: wharf_core::store::Expect::Absent };
        match store.commit(wharf_core::store::Transaction::new(vec![op.clone()])).await {
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
