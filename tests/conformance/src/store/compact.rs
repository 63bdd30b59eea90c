//! Compaction: of history, never of what is current.

use wharf_core::store::{Revision, StoreError};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, ensure, ensure_eq, fail};

pub(super) async fn keeps_current(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    put(&*store, pod("old"), "untouched").await?;
    for n in 0..10 {
        put(&*store, pod("a"), &n.to_string()).await?;
    }
    put(&*store, pod("gone"), "x").await?;
    let end = delete(&*store, pod("gone")).await?;
    let before = list(&*store, &all_pods()).await?;
    ok(store.compact(end).await, "compact")?;
    ensure_eq!(list(&*store, &all_pods()).await?, before, "the pods after compaction");
    ensure_eq!(revision(&*store).await?, end, "the revision after compaction");
    ensure!(get(&*store, &pod("old")).await?.is_some(), "an old record is gone after compaction");
    Ok(())
}

pub(super) async fn lower_changes_nothing(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let first = put(&*store, pod("a"), "1").await?;
    let second = put(&*store, pod("a"), "2").await?;
    put(&*store, pod("a"), "3").await?;
    for upto in [second, second, first, Revision(0)] {
        ok(store.compact(upto).await, "compact at or below an earlier compaction")?;
    }
    match watch_error(&*store, &all_pods(), first).await? {
        StoreError::Expired { compacted } => ensure_eq!(compacted, second, "where the history begins"),
        other => return fail(format!("expected Expired, got: {other}")),
    }
    Watched::start(&*store, &all_pods(), second).await?;
    Ok(())
}

pub(super) async fn future(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let current = put(&*store, pod("a"), "1").await?;
    match store.compact(Revision(current.0 + 1000)).await {
        Err(StoreError::Future { .. }) => {}
        other => return fail(format!("a compaction of the future gave {other:?}")),
    }
    // It has forgotten nothing.
    let mut watch = Watched::start(&*store, &all_pods(), current).await?;
    let next = put(&*store, pod("a"), "2").await?;
    ensure_eq!(watch.until(next).await?.len(), 1, "commits after a refused compaction");
    Ok(())
}

pub(super) async fn running_watch_goes_on(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut watch = Watched::start(&*store, &all_pods(), revision(&*store).await?).await?;
    for n in 0..10 {
        let revision = put(&*store, pod("a"), &n.to_string()).await?;
        ensure_eq!(watch.until(revision).await?.len(), 1, "commits seen");
        ok(store.compact(revision).await, "compact")?;
    }
    Ok(())
}
