//! Commit: atomic, checked, numbered.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::FutureExt;
use wharf_core::store::{Expect, Key, MAX_OPS, MAX_VALUE, MAX_VALUE_OVERHEAD, Op, ResourceId, Revision, Scope, StoreError, Transaction};

use super::StoreHarness;
use super::kit::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail};

pub(super) async fn reads_back(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    ensure_eq!(get(&*store, &pod("a")).await?, None, "a key of an empty store");
    let revision = put(&*store, pod("a"), "one").await?;
    let Some(record) = get(&*store, &pod("a")).await? else { return fail("an acknowledged record is not there") };
    ensure_eq!((record.key, record.value), (pod("a"), bytes("one")), "key and value");
    ensure_eq!((record.created, record.modified), (revision, revision), "created and modified of a new record");
    Ok(())
}

pub(super) async fn bytes_are_opaque(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for (name, value) in [("all", (0..=255u8).collect::<Vec<_>>()), ("empty", Vec::new()), ("zeros", vec![0; 100])] {
        let ops = vec![Op::Put { key: pod(name), value: Bytes::from(value.clone()), expect: Expect::Absent }];
        commit(&*store, ops).await?;
        let record = get(&*store, &pod(name)).await?;
        ensure_eq!(record.map(|r| r.value.to_vec()), Some(value), "the value of {name}");
    }
    Ok(())
}

/// Names that are easily taken for one another by a store that joins or prefixes them.
pub(super) async fn keys_do_not_mix(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let keys = [
        Key::new(ResourceId::new("", "pods"), "a", "b"),
        Key::new(ResourceId::new("", "pods"), "ab", ""),
        Key::new(ResourceId::new("", "pods"), "", "ab"),
        Key::new(ResourceId::new("", "pods"), "a", "b.c"),
        Key::new(ResourceId::new("pods", ""), "a", "b"),
        Key::new(ResourceId::new("apps", "pods"), "a", "b"),
        Key::new(ResourceId::new("", "pods.apps"), "a", "b"),
        Key::new(ResourceId::new("", "podsa"), "", "b"),
        Key::new(ResourceId::new("", "pods"), "a", "system:b"),
        Key::new(ResourceId::new("", "pods"), "a", "ü-漢"),
    ];
    for (n, key) in keys.iter().enumerate() {
        commit(&*store, vec![put_op(key.clone(), &n.to_string(), Expect::Absent)]).await?;
    }
    for (n, key) in keys.iter().enumerate() {
        let record = get(&*store, key).await?;
        ensure_eq!(record.map(|r| (r.key, r.value)), Some((key.clone(), bytes(&n.to_string()))), "{key:?}");
    }
    let listed: BTreeSet<Key> = list(&*store, &Scope::Namespace(pods(), "a".into())).await?.records.into_iter().map(|r| r.key).collect();
    let expected: BTreeSet<Key> = [0, 3, 8, 9].map(|n: usize| keys[n].clone()).into();
    ensure_eq!(listed, expected, "the pods of namespace a");
    Ok(())
}

pub(super) async fn revisions_increase(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let mut last = revision(&*store).await?;
    for n in 0..20 {
        let key = if n % 2 == 0 { pod("a") } else { node("n") };
        let committed = put(&*store, key, &n.to_string()).await?;
        ensure!(committed > last, "a commit at {committed} came after {last}");
        ensure_eq!(revision(&*store).await?, committed, "the revision after a commit");
        last = committed;
    }
    Ok(())
}

pub(super) async fn one_revision_for_all(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let revision = commit(&*store, vec![put_op(pod("a"), "1", Expect::Any), put_op(node("n"), "2", Expect::Any)]).await?;
    for key in [pod("a"), node("n")] {
        let record = get(&*store, &key).await?;
        ensure_eq!(record.map(|r| r.modified), Some(revision), "the revision of {key}");
    }
    Ok(())
}

pub(super) async fn update_keeps_created(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let created = put(&*store, pod("a"), "1").await?;
    let modified = ok(store.commit(Transaction::update(pod("a"), bytes("2"), created)).await, "update")?;
    let record = get(&*store, &pod("a")).await?;
    ensure_eq!(record.map(|r| (r.value, r.created, r.modified)), Some((bytes("2"), created, modified)), "an updated record");
    Ok(())
}

pub(super) async fn delete_then_create(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let first = put(&*store, pod("a"), "1").await?;
    let deleted = ok(store.commit(Transaction::delete(pod("a"), first)).await, "delete")?;
    ensure!(deleted > first, "a delete at {deleted} came after {first}");
    ensure_eq!(get(&*store, &pod("a")).await?, None, "a deleted record");
    let second = ok(store.commit(Transaction::create(pod("a"), bytes("2"))).await, "create")?;
    let record = get(&*store, &pod("a")).await?;
    ensure_eq!(record.map(|r| (r.created, r.modified)), Some((second, second)), "a record created again");
    Ok(())
}

pub(super) async fn same_value_is_a_change(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let first = put(&*store, pod("a"), "1").await?;
    let second = put(&*store, pod("a"), "1").await?;
    ensure!(second > first, "writing the same value again took no revision");
    ensure_eq!(get(&*store, &pod("a")).await?.map(|r| r.modified), Some(second), "modified");
    Ok(())
}

pub(super) async fn nothing_to_change(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let current = put(&*store, pod("a"), "1").await?;
    let nothing = [
        vec![],
        vec![Op::Check { key: pod("a"), expect: Expect::Revision(current) }],
        vec![Op::Delete { key: pod("b"), expect: Expect::Any }, Op::Check { key: pod("a"), expect: Expect::Present }],
    ];
    for ops in nothing {
        let what = format!("{ops:?}");
        ensure_eq!(commit(&*store, ops).await?, current, "the revision of a commit that changes nothing: {what}");
    }
    ensure_eq!(revision(&*store).await?, current, "the store's revision");
    Ok(())
}

pub(super) async fn expect_absent(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    ok(store.commit(Transaction::create(pod("a"), bytes("1"))).await, "create")?;
    let there = get(&*store, &pod("a")).await?;
    let current = conflict(store.commit(Transaction::create(pod("a"), bytes("2"))).await, &pod("a"))?;
    ensure_eq!(current.map(|c| *c), there, "what the conflict says is there");
    ensure_eq!(get(&*store, &pod("a")).await?, there, "the record after a conflict");
    Ok(())
}

pub(super) async fn expect_present(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let update = || Transaction::new(vec![put_op(pod("a"), "1", Expect::Present)]);
    ensure_eq!(conflict(store.commit(update()).await, &pod("a"))?, None, "what is there");
    ensure_eq!(get(&*store, &pod("a")).await?, None, "the record after a conflict");
    let remove = || Transaction::new(vec![Op::Delete { key: pod("a"), expect: Expect::Present }]);
    conflict(store.commit(remove()).await, &pod("a"))?;
    put(&*store, pod("a"), "0").await?;
    ok(store.commit(update()).await, "update of a present key")?;
    ok(store.commit(remove()).await, "delete of a present key")?;
    Ok(())
}

pub(super) async fn expect_revision(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let first = put(&*store, pod("a"), "1").await?;
    let second = ok(store.commit(Transaction::update(pod("a"), bytes("2"), first)).await, "update")?;
    let there = get(&*store, &pod("a")).await?;
    let stale = [Transaction::update(pod("a"), bytes("3"), first), Transaction::delete(pod("a"), first)];
    for transaction in stale {
        let current = conflict(store.commit(transaction).await, &pod("a"))?;
        ensure_eq!(current.map(|c| *c), there, "what the conflict says is there");
    }
    ensure_eq!(get(&*store, &pod("a")).await?, there, "the record after conflicts");
    // The store has moved on, the key has not.
    put(&*store, pod("b"), "x").await?;
    ok(store.commit(Transaction::delete(pod("a"), second)).await, "delete at its revision")?;
    // A revision of an earlier life is not this one's.
    put(&*store, pod("a"), "4").await?;
    conflict(store.commit(Transaction::update(pod("a"), bytes("5"), second)).await, &pod("a"))?;
    conflict(store.commit(Transaction::update(pod("never"), bytes("5"), second)).await, &pod("never"))?;
    Ok(())
}

pub(super) async fn conflict_tells_first(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    put(&*store, pod("b"), "1").await?;
    put(&*store, pod("a"), "1").await?;
    let ops = vec![put_op(pod("c"), "2", Expect::Absent), put_op(pod("b"), "2", Expect::Absent), put_op(pod("a"), "2", Expect::Absent)];
    match store.commit(Transaction::new(ops)).await {
        Err(StoreError::Conflict { key, expect, .. }) => {
            ensure_eq!((key, expect), (pod("b"), Expect::Absent), "the first key at fault, in the order of the transaction");
            Ok(())
        }
        other => fail(format!("expected a conflict, got {other:?}")),
    }
}

pub(super) async fn all_or_nothing(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let before = put(&*store, pod("last"), "1").await?;
    let ops = vec![
        put_op(pod("first"), "x", Expect::Absent),
        Op::Delete { key: pod("last"), expect: Expect::Any },
        Op::Check { key: pod("missing"), expect: Expect::Present },
    ];
    conflict(store.commit(Transaction::new(ops)).await, &pod("missing"))?;
    ensure_eq!(get(&*store, &pod("first")).await?, None, "the first step of a refused transaction");
    ensure!(get(&*store, &pod("last")).await?.is_some(), "the second step of a refused transaction was carried out");
    ensure_eq!(revision(&*store).await?, before, "the revision after a refused transaction");
    Ok(())
}

pub(super) async fn judged_on_the_state_before(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let before = put(&*store, pod("a"), "1").await?;
    // Were the steps judged one by one, the second would see a newer store; nothing but its own key may count.
    let ops = vec![
        put_op(pod("new"), "x", Expect::Absent),
        put_op(pod("a"), "2", Expect::Revision(before)),
        Op::Check { key: pod("b"), expect: Expect::Absent },
    ];
    let revision = commit(&*store, ops).await?;
    let listed = list(&*store, &all_pods()).await?;
    ensure_eq!(contents(&listed.records), [("a".into(), "2".into()), ("new".into(), "x".into())], "the pods");
    ensure!(listed.records.iter().all(|r| r.modified == revision), "not every record is of revision {revision}");
    Ok(())
}

pub(super) async fn duplicate_key(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let ops = vec![put_op(pod("a"), "1", Expect::Any), Op::Delete { key: pod("a"), expect: Expect::Any }];
    invalid(store.commit(Transaction::new(ops)).await, "a key that appears twice")?;
    ensure_eq!(get(&*store, &pod("a")).await?, None, "the record after an invalid transaction");
    Ok(())
}

pub(super) async fn operation_limit(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let ops = |count: usize| (0..count).map(|n| put_op(pod(&format!("p{n}")), "x", Expect::Any)).collect::<Vec<_>>();
    invalid(store.commit(Transaction::new(ops(MAX_OPS + 1))).await, "one operation too many")?;
    ensure!(list(&*store, &all_pods()).await?.records.is_empty(), "an invalid transaction left records");
    commit(&*store, ops(MAX_OPS)).await?;
    ensure_eq!(list(&*store, &all_pods()).await?.records.len(), MAX_OPS, "records of the largest transaction");
    Ok(())
}

pub(super) async fn value_limit(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let of = |len: usize| Bytes::from((0..len).map(|n| n as u8).collect::<Vec<_>>());
    // What a decorator may add is the store's own business.
    invalid(store.commit(Transaction::create(pod("a"), of(MAX_VALUE + MAX_VALUE_OVERHEAD + 1))).await, "one byte too many")?;
    ensure_eq!(get(&*store, &pod("a")).await?, None, "what an invalid transaction wrote");
    ok(store.commit(Transaction::create(pod("a"), of(MAX_VALUE))).await, "commit of the largest value")?;
    let value = get(&*store, &pod("a")).await?.map(|r| r.value);
    ensure!(value == Some(of(MAX_VALUE)), "the largest value did not come back as it was");
    Ok(())
}

/// A lock alone does not protect: who held it once is kept out by the revision of the acquisition.
pub(super) async fn fence(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    let lock = node("lock");
    let write = |fence: Revision, value: &str| {
        let check = Op::Check { key: node("lock"), expect: Expect::Revision(fence) };
        Transaction::new(vec![put_op(pod("a"), value, Expect::Any), check])
    };
    let first = put(&*store, lock.clone(), "first").await?;
    let written = ok(store.commit(write(first, "first")).await, "a write of who holds the lock")?;
    let second = put(&*store, lock.clone(), "second").await?;
    // The first wakes up late.
    conflict(store.commit(write(first, "late")).await, &lock)?;
    ensure_eq!(get(&*store, &pod("a")).await?.map(|r| r.modified), Some(written), "the revision after a late write");
    ok(store.commit(write(second, "second")).await, "a write of who holds the lock now")?;
    // Taken, left and taken again under the same name is another acquisition.
    delete(&*store, lock.clone()).await?;
    conflict(store.commit(write(second, "late")).await, &lock)?;
    put(&*store, lock.clone(), "second").await?;
    conflict(store.commit(write(second, "late")).await, &lock)?;
    Ok(())
}

pub(super) async fn concurrent_creates(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for round in 0..10 {
        let key = pod(&format!("round{round}"));
        let tasks: Vec<_> = (0..8)
            .map(|n: u32| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move { store.commit(Transaction::create(key, bytes(&n.to_string()))).await.map(|r| (n, r)) })
            })
            .collect();
        let mut won = Vec::new();
        for task in tasks {
            match task.await.map_err(|e| Stop::Fail(e.to_string()))? {
                Ok(winner) => won.push(winner),
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return fail(format!("a create failed: {e}")),
            }
        }
        ensure_eq!(won.len(), 1, "how many of 8 creates of one key succeeded");
        let record = get(&*store, &key).await?;
        ensure_eq!(record.map(|r| (r.value, r.created)), Some((bytes(&won[0].0.to_string()), won[0].1)), "the winner's record");
    }
    Ok(())
}

/// Every acknowledged increment of a counter counts.
pub(super) async fn concurrent_updates(h: &dyn StoreHarness) -> CaseResult {
    const TASKS: usize = 4;
    const EACH: usize = 25;
    let store = h.store().await;
    put(&*store, pod("counter"), "0").await?;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < EACH {
                    let Some(record) = get(&*store, &pod("counter")).await? else { return fail("the counter is gone") };
                    let count: usize = String::from_utf8_lossy(&record.value).parse().unwrap_or(usize::MAX);
                    let next = bytes(&count.saturating_add(1).to_string());
                    match store.commit(Transaction::update(pod("counter"), next, record.modified)).await {
                        Ok(_) => done += 1,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(e) => return fail(format!("an update failed: {e}")),
                    }
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| Stop::Fail(e.to_string()))??;
    }
    let record = get(&*store, &pod("counter")).await?;
    ensure_eq!(record.map(|r| r.value), Some(bytes(&(TASKS * EACH).to_string())), "the counter");
    Ok(())
}

pub(super) async fn dropped(h: &dyn StoreHarness) -> CaseResult {
    let store = h.store().await;
    for n in 0..20 {
        let (a, b) = (format!("a{n}"), format!("b{n}"));
        let ops = vec![put_op(pod(&a), "x", Expect::Absent), put_op(pod(&b), "x", Expect::Absent)];
        // Polled once, then dropped.
        let _ = store.commit(Transaction::new(ops)).now_or_never();
        // A commit that is acknowledged afterwards settles the order.
        put(&*store, pod("other"), "x").await?;
        let (a, b) = (get(&*store, &pod(&a)).await?, get(&*store, &pod(&b)).await?);
        ensure_eq!(a.is_some(), b.is_some(), "whether both halves of a dropped commit are there");
    }
    Ok(())
}
