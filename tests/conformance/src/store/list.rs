//! List: in order, in pages, of one revision.

use std::collections::BTreeMap;

use wharf_core::store::{Key, ListOptions, ObjectStore, Op, ResourceId, Revision, Scope, StoreError};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail};

pub(super) async fn empty(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let listing = list(&*store, &Scope::All).await?;
    ensure!(listing.records.is_empty() && !listing.more, "an empty store lists records");
    ensure_eq!(listing.revision, revision(&*store).await?, "the revision of an empty list");
    // It is a revision like any other: a watch can begin there.
    let mut watch = Watched::start(&*store, &Scope::All, listing.revision).await?;
    let first = put(&*store, pod("a"), "1").await?;
    ensure_eq!(watch.until(first).await?.len(), 1, "commits after the empty list");
    Ok(())
}

pub(super) async fn key_order(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut keys = Vec::new();
    for (group, resource) in [("", "pods"), ("apps", "deployments"), ("", "nodes"), ("apps", "daemonsets")] {
        for namespace in ["b", "a", "a-b", ""] {
            for name in ["z", "a", "a.b", "a-b", "ab"] {
                keys.push(Key::new(ResourceId::new(group, resource), namespace, name));
            }
        }
    }
    for key in &keys {
        put(&*store, key.clone(), "x").await?;
    }
    keys.sort();
    let listed: Vec<Key> = list(&*store, &Scope::All).await?.records.into_iter().map(|r| r.key).collect();
    ensure_eq!(listed, keys, "all keys");
    Ok(())
}

pub(super) async fn scopes(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for key in [pod("a"), Key::new(pods(), "other", "b"), Key::new(pods(), "default-2", "c"), node("n")] {
        put(&*store, key, "x").await?;
    }
    for (scope, expected) in [
        (Scope::All, vec!["n", "a", "c", "b"]),
        (all_pods(), vec!["a", "c", "b"]),
        (Scope::Namespace(pods(), NAMESPACE.into()), vec!["a"]),
        (Scope::Namespace(pods(), "none".into()), vec![]),
        (Scope::Namespace(nodes(), "".into()), vec!["n"]),
        (Scope::Resource(ResourceId::new("apps", "pods")), vec![]),
    ] {
        ensure_eq!(names(&list(&*store, &scope).await?), expected, "the names in {scope:?}");
    }
    Ok(())
}

async fn paged(store: &dyn ObjectStore, limit: usize, at: Option<Revision>) -> CaseResult<Vec<String>> {
    let mut options = ListOptions { limit: Some(limit), after: None, at };
    let mut all = Vec::new();
    loop {
        let page = ok(store.list(&all_pods(), &options).await, "list")?;
        ensure!(page.records.len() <= limit, "a page of at most {limit} has {} records", page.records.len());
        all.extend(names(&page));
        options.after = page.records.last().map(|r| r.key.clone());
        if !page.more {
            return Ok(all);
        }
        ensure!(!page.records.is_empty(), "an empty page says that there are more");
    }
}

pub(super) async fn pages(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut expected: Vec<String> = (0..25).map(|n| format!("p{n}")).collect();
    for name in &expected {
        put(&*store, pod(name), "x").await?;
    }
    put(&*store, node("n"), "x").await?;
    put(&*store, Key::new(ResourceId::new("", "services"), NAMESPACE, "s"), "x").await?;
    expected.sort();
    for limit in [1, 2, 7, 24, 25, 26] {
        ensure_eq!(paged(&*store, limit, None).await?, expected, "all pages of {limit}");
    }
    Ok(())
}

pub(super) async fn pages_show_one_revision(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for name in ["b", "d", "f", "h"] {
        put(&*store, pod(name), "old").await?;
    }
    let options = ListOptions { limit: Some(1), ..ListOptions::default() };
    let first = ok(store.list(&all_pods(), &options).await, "list")?;
    put(&*store, pod("a"), "new").await?;
    put(&*store, pod("c"), "new").await?;
    put(&*store, pod("f"), "new").await?;
    delete(&*store, pod("d")).await?;
    let options = ListOptions { limit: None, after: Some(pod("b")), at: Some(first.revision) };
    match store.list(&all_pods(), &options).await {
        Ok(rest) if store.capabilities().history => {
            ensure_eq!(rest.revision, first.revision, "the revision of the second page");
            let old = |name: &str| (name.to_string(), "old".to_string());
            ensure_eq!(contents(&rest.records), [old("d"), old("f"), old("h")], "the second page, after writes");
            Ok(())
        }
        Err(StoreError::Unsupported { .. }) if !store.capabilities().history => Ok(()),
        other => fail(format!("history is {}, and a second page gave {other:?}", store.capabilities().history)),
    }
}

pub(super) async fn exact_limit(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for name in ["a", "b", "c"] {
        put(&*store, pod(name), "x").await?;
    }
    for (limit, more) in [(2, true), (3, false), (4, false)] {
        let options = ListOptions { limit: Some(limit), ..ListOptions::default() };
        let page = ok(store.list(&all_pods(), &options).await, "list")?;
        ensure_eq!((page.records.len(), page.more), (limit.min(3), more), "records and more of a page of {limit}");
    }
    Ok(())
}

pub(super) async fn after_absent_key(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for name in ["a", "c", "d"] {
        put(&*store, pod(name), "x").await?;
    }
    for (after, expected) in [("b", vec!["c", "d"]), ("c", vec!["d"]), ("d", vec![]), ("z", vec![])] {
        let options = ListOptions { after: Some(pod(after)), ..ListOptions::default() };
        let page = ok(store.list(&all_pods(), &options).await, "list")?;
        ensure_eq!(names(&page), expected, "pods after {after}");
    }
    Ok(())
}

pub(super) async fn acknowledged_is_visible(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for n in 0..50 {
        let value = n.to_string();
        let committed = put(&*store, pod("a"), &value).await?;
        ensure!(revision(&*store).await? >= committed, "the revision is behind an acknowledged commit");
        let listing = list(&*store, &all_pods()).await?;
        ensure!(listing.revision >= committed, "a list at {} is behind an acknowledged commit at {committed}", listing.revision);
        ensure_eq!(contents(&listing.records), [("a".to_string(), value.clone())], "the list after a commit");
        ensure_eq!(get(&*store, &pod("a")).await?.map(|r| r.value), Some(bytes(&value)), "the value after a commit");
    }
    Ok(())
}

/// Reads beside a writer see a state that only grows, each consistent in itself.
pub(super) async fn never_back(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 200;
    let store = h.store().await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..WRITES {
                let value = n.to_string();
                let ops = ["x", "y"].map(|name| put_op(pod(name), &value, wharf_core::store::Expect::Any));
                commit(&*store, ops.into()).await?;
            }
            Ok::<_, Stop>(())
        })
    };
    let mut last = (Revision(0), Revision(0));
    while !writer.is_finished() {
        let listing = list(&*store, &all_pods()).await?;
        ensure!(listing.revision >= last.0, "a list went back from {} to {}", last.0, listing.revision);
        let values: Vec<_> = listing.records.iter().map(|r| (&r.value, r.modified)).collect();
        ensure!(values.windows(2).all(|w| w[0] == w[1]), "a list shows half of a commit: {values:?}");
        let newest = listing.records.iter().map(|r| r.modified).max().unwrap_or_default();
        ensure!(newest <= listing.revision, "a list at {} shows a record of {newest}", listing.revision);
        ensure!(newest >= last.1, "a list shows {newest} after one that showed {}", last.1);
        last = (listing.revision, newest);
        tokio::task::yield_now().await;
    }
    writer.await.map_err(|e| Stop::Fail(e.to_string()))?
}

pub(super) async fn past(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let start = revision(&*store).await?;
    if !store.capabilities().history {
        put(&*store, pod("a"), "1").await?;
        return match list_at(&*store, &all_pods(), start).await {
            Err(StoreError::Unsupported { .. }) => Ok(()),
            other => fail(format!("history is not declared, yet a list of the past gave {other:?}")),
        };
    }
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    let mut states = vec![(start, model.clone())];
    for n in 0..40 {
        let name = format!("p{}", n * 7 % 10);
        let revision = if n % 4 == 3 && model.remove(&name).is_some() {
            commit(&*store, vec![Op::Delete { key: pod(&name), expect: wharf_core::store::Expect::Present }]).await?
        } else {
            model.insert(name.clone(), n.to_string());
            put(&*store, pod(&name), &n.to_string()).await?
        };
        states.push((revision, model.clone()));
        put(&*store, node("noise"), &n.to_string()).await?;
    }
    for (at, expected) in states {
        let listing = ok(list_at(&*store, &all_pods(), at).await, "list of the past")?;
        ensure_eq!(listing.revision, at, "the revision of a list of the past");
        ensure_eq!(contents(&listing.records), expected.into_iter().collect::<Vec<_>>(), "the pods at {at}");
        ensure!(listing.records.iter().all(|r| r.modified <= at), "a list at {at} shows a later record");
    }
    Ok(())
}

pub(super) async fn future(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let current = put(&*store, pod("a"), "1").await?;
    match list_at(&*store, &all_pods(), Revision(current.0 + 1000)).await {
        Err(StoreError::Future { asked, current: told }) if store.capabilities().history => {
            ensure_eq!((asked.0, told), (current.0 + 1000, current), "what was asked for and what is current");
        }
        Err(StoreError::Unsupported { .. }) if !store.capabilities().history => {}
        other => return fail(format!("a list of the future gave {other:?}")),
    }
    // Nothing is wedged by having asked.
    list(&*store, &all_pods()).await?;
    put(&*store, pod("a"), "2").await?;
    Ok(())
}

pub(super) async fn compacted(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let first = put(&*store, pod("a"), "1").await?;
    let second = put(&*store, pod("a"), "2").await?;
    let third = put(&*store, pod("a"), "3").await?;
    ok(store.compact(second).await, "compact")?;
    if !store.capabilities().history {
        return match list_at(&*store, &all_pods(), first).await {
            Err(StoreError::Unsupported { .. }) => Ok(()),
            other => fail(format!("history is not declared, yet a list of the past gave {other:?}")),
        };
    }
    match list_at(&*store, &all_pods(), first).await {
        Err(StoreError::Expired { compacted }) => ensure_eq!(compacted, second, "where the history begins"),
        other => return fail(format!("a list below the compaction gave {other:?}")),
    }
    for (at, value) in [(second, "2"), (third, "3")] {
        let listing = ok(list_at(&*store, &all_pods(), at).await, "list at or above the compaction")?;
        ensure_eq!(contents(&listing.records), [("a".to_string(), value.to_string())], "the pods at {at}");
    }
    Ok(())
}

/// What lists show and what gets read is one state: neither has what the other misses.
pub(super) async fn index_and_data_agree(h: &dyn StoreHarness) -> CaseResult {
    const WRITES: usize = 200;
    const NAMES: usize = 4;
    let store = h.store().await;
    let other = |name: &str| Key::new(pods(), "other", name);
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..WRITES {
                let name = format!("p{}", n % NAMES);
                let keys = [pod(&name), Key::new(pods(), "other", name.as_str())];
                let ops = keys.map(|key| match n % 3 {
                    2 => Op::Delete { key, expect: wharf_core::store::Expect::Any },
                    _ => put_op(key, &n.to_string(), wharf_core::store::Expect::Any),
                });
                commit(&*store, ops.into()).await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, Stop>(())
        })
    };
    let mut finished = false;
    while !finished {
        // Once more after the last write.
        finished = writer.is_finished();
        let listing = list(&*store, &all_pods()).await?;
        let at = listing.revision;
        let listed: BTreeMap<Key, _> = listing.records.into_iter().map(|r| (r.key.clone(), r)).collect();
        for name in (0..NAMES).map(|n| format!("p{n}")) {
            let pair = [listed.get(&pod(&name)), listed.get(&other(&name))];
            ensure_eq!(
                pair[0].map(|r| r.modified),
                pair[1].map(|r| r.modified),
                "the revisions of two that are written together, listed at {at}"
            );
            let got = get(&*store, &pod(&name)).await?;
            match (&got, pair[0]) {
                (Some(got), _) if got.modified > at => {}
                (Some(got), listed) => ensure_eq!(Some(got), listed, "a record got that is not later than the list at {at}, in that list"),
                (None, None) => {}
                (None, Some(_)) => ensure!(revision(&*store).await? > at, "{name} is in a list at {at}, and a get finds nothing"),
            }
        }
        if store.capabilities().history {
            match list_at(&*store, &Scope::Namespace(pods(), "other".into()), at).await {
                Err(StoreError::Expired { .. }) => {}
                page => {
                    let inside: Vec<_> = listed.into_values().filter(|r| &*r.key.namespace == "other").collect();
                    ensure_eq!(ok(page, "list of the past")?.records, inside, "a namespace and its resource, both at {at}");
                }
            }
        }
        tokio::task::yield_now().await;
    }
    writer.await.map_err(|e| Stop::Fail(e.to_string()))?
}
