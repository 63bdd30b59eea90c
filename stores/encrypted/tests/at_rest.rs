//! What is below, what cannot be read, and rotation.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Change, Expect, Key, ListOptions, MAX_VALUE, ObjectStore, Op, ResourceId, Revision, Scope, SharedStore, StoreError, StoreResult,
    Transaction, WatchItem, WatchStream,
};
use wharf_store_encrypted::{EncryptedStore, EncryptionError, KeyRing, PREFIX, Rewritten, secrets};
use wharf_store_memory::MemoryStore;

const SECRET: &str = "correct horse battery staple";

fn secret(name: &str) -> Key {
    Key::new(secrets(), "default", name)
}
fn config_map(name: &str) -> Key {
    Key::new(ResourceId::new("", "configmaps"), "default", name)
}
fn ring(keys: &[(&str, u8)]) -> KeyRing {
    let keys: Vec<(&str, [u8; 32])> = keys.iter().map(|(id, byte)| (*id, [*byte; 32])).collect();
    KeyRing::new(keys.iter().map(|(id, key)| (*id, key.as_slice()))).unwrap()
}
fn over(inner: &SharedStore, keys: &[(&str, u8)]) -> EncryptedStore {
    EncryptedStore::secrets(inner.clone(), ring(keys))
}
fn memory() -> SharedStore {
    Arc::new(MemoryStore::new())
}
async fn put(store: &dyn ObjectStore, key: Key, value: impl Into<Bytes>) -> Revision {
    store.commit(Transaction::new(vec![Op::Put { key, value: value.into(), expect: Expect::Any }])).await.unwrap()
}
async fn value(store: &dyn ObjectStore, key: &Key) -> Bytes {
    store.get(key).await.unwrap().unwrap().value
}
fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle.as_bytes())
}
fn cause<T: std::fmt::Debug>(result: StoreResult<T>) -> EncryptionError {
    match result {
        Err(StoreError::Backend { retry: Retry::Permanent, source, .. }) => source.downcast_ref::<EncryptionError>().unwrap().clone(),
        other => panic!("{other:?}"),
    }
}
/// The next commit, past progress.
async fn next(watch: &mut WatchStream) -> StoreResult<Arc<[Change]>> {
    loop {
        match watch.next().await.unwrap()? {
            WatchItem::Commit { changes, .. } => return Ok(changes),
            WatchItem::Progress(_) => {}
        }
    }
}
async fn rewrite(store: &EncryptedStore) -> Rewritten {
    store.rewrite(&CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn no_plaintext_reaches_the_store_below() {
    let inner = memory();
    let store = over(&inner, &[("a", 1)]);
    let start = inner.revision().await.unwrap();
    let created = put(&store, secret("s"), SECRET).await;
    store.commit(Transaction::update(secret("s"), format!("{SECRET} again").into(), created)).await.unwrap();
    let ops = vec![
        Op::Put { key: secret("t"), value: SECRET.into(), expect: Expect::Absent },
        Op::Put { key: config_map("c"), value: "open to all".into(), expect: Expect::Absent },
        Op::Delete { key: secret("s"), expect: Expect::Present },
    ];
    let end = store.commit(Transaction::new(ops)).await.unwrap();

    let mut below = inner.watch(&Scope::All, start).await.unwrap();
    let mut values = Vec::new();
    for _ in 0..3 {
        for change in next(&mut below).await.unwrap().iter() {
            match change {
                Change::Put { record, previous } => values.extend([Some(record), previous.as_ref()].into_iter().flatten().cloned()),
                Change::Delete { previous } => values.push(previous.clone()),
            }
        }
    }
    values.extend(inner.list(&Scope::All, &ListOptions::default()).await.unwrap().records);
    assert_eq!(values.len(), 8);
    for record in &values {
        let encrypted = record.key.resource == secrets();
        assert_eq!(record.value.starts_with(PREFIX.as_bytes()), encrypted, "{}", record.key);
        assert!(!contains(&record.value, "horse"), "{}", record.key);
    }
    assert_eq!(value(&store, &secret("t")).await, SECRET);
    assert_eq!(store.revision().await.unwrap(), end);
}

#[tokio::test]
async fn a_value_from_before_is_read_and_one_with_the_prefix_is_not_confused() {
    let inner = memory();
    put(&*inner, secret("before"), SECRET).await;
    let store = over(&inner, &[("a", 1)]);
    assert_eq!(value(&store, &secret("before")).await, SECRET);
    // Written now, it is encrypted like any other, also if it is a whole encrypted value itself.
    let nested = put_and_read_below(&store, "wharf:enc:v1:a:").await;
    let twice = put_and_read_below(&store, nested).await;
    assert_eq!(value(&over(&inner, &[("a", 1)]), &secret("s")).await, twice);
    // Stored below by somebody else, it is not taken for text.
    put(&*inner, secret("odd"), "wharf:enc: is how they begin").await;
    assert!(matches!(cause(store.get(&secret("odd")).await), EncryptionError::Damaged { .. }));
}

/// Puts a value to a secret; gives what is below, having seen that the value comes back.
async fn put_and_read_below(store: &EncryptedStore, put_value: impl Into<Bytes>) -> Bytes {
    let put_value = put_value.into();
    put(store, secret("s"), put_value.clone()).await;
    assert_eq!(value(store, &secret("s")).await, put_value);
    let below = value(&**store.inner(), &secret("s")).await;
    put(store, secret("s"), below.clone()).await;
    below
}

#[tokio::test]
async fn plaintext_is_refused_where_that_is_asked_for() {
    let inner = memory();
    put(&*inner, secret("planted"), SECRET).await;
    put(&*inner, config_map("c"), "open").await;
    let store = over(&inner, &[("a", 1)]).refuse_plaintext();
    assert_eq!(cause(store.get(&secret("planted")).await), EncryptionError::Plaintext { key: secret("planted") });
    assert_eq!(value(&store, &config_map("c")).await, "open");
}

#[tokio::test]
async fn wrong_unknown_and_damaged_are_told_apart_and_left_as_they_are() {
    let inner = memory();
    put(&over(&inner, &[("a", 1)]), secret("s"), SECRET).await;
    let before = inner.get(&secret("s")).await.unwrap();
    let error = cause(over(&inner, &[("b", 1)]).get(&secret("s")).await);
    assert!(matches!(&error, EncryptionError::UnknownKey { id, .. } if id == "a") && error.to_string().contains("key file"), "{error}");
    let error = cause(over(&inner, &[("a", 2)]).get(&secret("s")).await);
    assert!(matches!(&error, EncryptionError::WrongKey { id, .. } if id == "a") && error.to_string().contains("restore"), "{error}");
    // Moved to another object.
    put(&*inner, secret("copy"), before.clone().unwrap().value).await;
    let error = cause(over(&inner, &[("a", 1)]).get(&secret("copy")).await);
    assert!(matches!(error, EncryptionError::Damaged { .. }) && error.to_string().contains("copy"), "{error}");
    assert_eq!(inner.get(&secret("s")).await.unwrap(), before);
}

#[tokio::test]
async fn an_unreadable_object_fails_its_lists_and_watches_by_name() {
    let inner = memory();
    let store = over(&inner, &[("a", 1)]);
    put(&store, secret("good"), SECRET).await;
    let start = store.revision().await.unwrap();
    put(&*inner, secret("bad"), "wharf:enc:v1:lost:").await;
    let after = put(&store, config_map("c"), "open").await;
    let named =
        |error: EncryptionError| assert!(matches!(&error, EncryptionError::UnknownKey { key, .. } if *key == secret("bad")), "{error}");
    named(cause(store.list(&Scope::All, &ListOptions::default()).await));
    named(cause(store.list(&Scope::Resource(secrets()), &ListOptions::default()).await));
    let configs = Scope::Resource(ResourceId::new("", "configmaps"));
    assert_eq!(store.list(&configs, &ListOptions::default()).await.unwrap().records.len(), 1);
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    named(cause(next(&mut watch).await));
    assert!(watch.next().await.is_none(), "a watch ends with its error");
    assert!(next(&mut store.watch(&configs, start).await.unwrap()).await.is_ok());

    // A refused commit tells what is there, if it can.
    let refused = store.commit(Transaction::create(secret("good"), "x".into())).await;
    assert!(matches!(refused, Err(StoreError::Conflict { current: Some(current), .. }) if current.value == SECRET));
    named(cause(store.commit(Transaction::create(secret("bad"), "x".into())).await));

    // It can be removed; who watched from before lists again and gets past it.
    let deleted = store.commit(Transaction::new(vec![Op::Delete { key: secret("bad"), expect: Expect::Present }])).await.unwrap();
    let mut watch = store.watch(&Scope::All, after).await.unwrap();
    assert!(matches!(next(&mut watch).await, Err(StoreError::Expired { compacted }) if compacted == deleted));
    let listing = store.list(&Scope::All, &ListOptions::default()).await.unwrap();
    let mut watch = store.watch(&Scope::All, listing.revision).await.unwrap();
    put(&store, secret("good"), "new").await;
    assert!(
        matches!(&next(&mut watch).await.unwrap()[0], Change::Put { record, previous: Some(p) } if record.value == "new" && p.value == SECRET)
    );
}

#[tokio::test]
async fn rotation_brings_everything_under_the_newest_key_once() {
    let inner = memory();
    for n in 0..100 {
        put(&*inner, secret(&format!("plain{n}")), SECRET).await;
    }
    put(&over(&inner, &[("old", 1)]), secret("under-old"), SECRET).await;
    put(&*inner, config_map("c"), "open").await;
    let store = over(&inner, &[("new", 2), ("old", 1)]);
    put(&store, secret("under-new"), SECRET).await;
    put(&*inner, secret("lost"), "wharf:enc:v1:lost:").await;

    let stop = CancellationToken::new();
    stop.cancel();
    assert!(store.rewrite(&stop).await.unwrap().stopped);

    let done = rewrite(&store).await;
    assert_eq!((done.rewritten, done.current, done.failed, done.is_complete()), (101, 1, 1, false));
    assert_eq!(done.unreadable[0].0, secret("lost"));
    let revision = inner.revision().await.unwrap();
    let again = rewrite(&store).await;
    assert_eq!((again.rewritten, again.current), (0, 102));
    assert_eq!(inner.revision().await.unwrap(), revision, "nothing is written twice");
    store.commit(Transaction::new(vec![Op::Delete { key: secret("lost"), expect: Expect::Any }])).await.unwrap();

    let new_only = over(&inner, &[("new", 2)]).refuse_plaintext();
    let listing = new_only.list(&Scope::Resource(secrets()), &ListOptions::default()).await.unwrap();
    assert!(listing.records.len() == 102 && listing.records.iter().all(|r| r.value == SECRET));
    assert!(rewrite(&new_only).await.is_complete());
    assert_eq!(value(&*inner, &config_map("c")).await, "open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrite_beside_writers_loses_no_write() {
    const KEYS: usize = 20;
    let inner = memory();
    for n in 0..KEYS {
        put(&over(&inner, &[("old", 1)]), secret(&n.to_string()), "0").await;
    }
    let store = over(&inner, &[("new", 2), ("old", 1)]);
    let writer = {
        let old = over(&inner, &[("old", 1), ("new", 2)]);
        tokio::spawn(async move {
            for round in 1..=20u32 {
                for n in 0..KEYS {
                    put(&old, secret(&n.to_string()), round.to_string()).await;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    while !writer.is_finished() {
        rewrite(&store).await;
    }
    writer.await.unwrap();
    assert!(rewrite(&store).await.is_complete());
    for n in 0..KEYS {
        assert_eq!(value(&over(&inner, &[("new", 2)]), &secret(&n.to_string())).await, "20");
    }
}

#[tokio::test]
async fn the_largest_value_fits_and_one_more_byte_is_refused() {
    let inner = memory();
    let store = over(&inner, &[("an-id-as-long-as-an-id-may-be-32", 1)]);
    put(&store, secret("s"), vec![7; MAX_VALUE]).await;
    assert_eq!(value(&store, &secret("s")).await.len(), MAX_VALUE);
    let refused = store.commit(Transaction::create(secret("t"), vec![7; MAX_VALUE + 1].into())).await;
    assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_resource_that_is_left_out_again_is_still_read() {
    let inner = memory();
    let before = EncryptedStore::new(inner.clone(), ring(&[("a", 1)]), [secrets(), config_map("").resource]);
    let start = put(&before, config_map("c"), SECRET).await;
    let store = over(&inner, &[("a", 1)]);
    assert_eq!(value(&store, &config_map("c")).await, SECRET);
    let scope = Scope::Resource(config_map("").resource);
    assert_eq!(store.list(&scope, &ListOptions::default()).await.unwrap().records[0].value, SECRET);
    let refused = store.commit(Transaction::create(config_map("c"), "{}".into())).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { current: Some(current), .. } if current.value == SECRET));
    let mut watch = store.watch(&scope, start).await.unwrap();
    put(&store, config_map("c"), "new").await;
    let changes = next(&mut watch).await.unwrap();
    assert!(matches!(&changes[0], Change::Put { record, previous: Some(previous) } if record.value == "new" && previous.value == SECRET));
    assert_eq!(value(&*inner, &config_map("c")).await, "new", "what is written now is not encrypted");
    // What looks as if it were is encrypted, or it could not be told apart.
    put(&store, config_map("c"), format!("{PREFIX}v1:a:")).await;
    assert_ne!(value(&*inner, &config_map("c")).await, format!("{PREFIX}v1:a:"));
    assert_eq!(value(&store, &config_map("c")).await, format!("{PREFIX}v1:a:"));
}
