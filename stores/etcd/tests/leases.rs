//! What expires: on a real etcd, whose leases count whole seconds.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use wharf_conformance::system::etcd::Etcd;
use wharf_core::clock::SystemClock;
use wharf_core::store::{
    Change, Expect, Key, ObjectStore, Op, ResourceId, Revision, Scope, StoreError, Transaction, WatchItem, WatchStream,
};
use wharf_store_etcd::{EtcdOptions, EtcdStore};

const HOUR: Duration = Duration::from_secs(3600);

fn key(name: &str) -> Key {
    Key::new(ResourceId::new("", "events"), "default", name)
}
fn put(name: &str) -> Transaction {
    Transaction::new(vec![Op::Put { key: key(name), value: Bytes::from_static(b"x"), expect: Expect::Any }])
}
async fn connect(etcd: &Etcd) -> EtcdStore {
    EtcdStore::connect(EtcdOptions::new([etcd.endpoint()]), SystemClock::shared()).await.unwrap()
}
async fn admin(etcd: &Etcd) -> etcd_client::Client {
    etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap()
}
async fn leases(admin: &etcd_client::Client) -> Vec<i64> {
    admin.lease_client().leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect()
}
async fn commit(watch: &mut WatchStream) -> (Revision, Vec<Change>) {
    loop {
        if let WatchItem::Commit { revision, changes } = watch.next().await.unwrap().unwrap() {
            return (revision, changes.to_vec());
        }
    }
}

#[tokio::test]
async fn an_end_is_a_delete_that_a_watch_sees_not_before_its_time() {
    let Some(etcd) = Etcd::start_or_omit("etcd.expires").await else { return };
    let store = connect(&etcd).await;
    let ttl = Duration::from_secs(2);
    let mut watch = store.watch(&Scope::All, store.revision().await.unwrap()).await.unwrap();
    let since = std::time::Instant::now();
    let revision = store.commit(put("a").with_ttl(ttl)).await.unwrap();
    store.commit(put("b").with_ttl(ttl)).await.unwrap();
    let kept = store.commit(put("b")).await.unwrap();
    while commit(&mut watch).await.0 < kept {}
    let (deleted, changes) = commit(&mut watch).await;
    assert!(since.elapsed() >= ttl, "{:?}", since.elapsed());
    assert!(deleted > kept);
    assert!(
        matches!(&changes[..], [Change::Delete { previous }] if previous.key == key("a") && previous.modified == revision),
        "{changes:?}"
    );
    // The later write without a time to live is none of the lease's.
    assert!(store.get(&key("a")).await.unwrap().is_none());
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap().modified, kept);
}

#[tokio::test]
async fn writes_of_about_the_same_time_to_live_share_a_lease() {
    let Some(etcd) = Etcd::start_or_omit("etcd.leases").await else { return };
    let (store, admin) = (connect(&etcd).await, admin(&etcd).await);
    for n in 0..50 {
        store.commit(put(&format!("e{n}")).with_ttl(HOUR)).await.unwrap();
    }
    assert_eq!(leases(&admin).await.len(), 1);
    for committed in futures::future::join_all((0..50).map(|n| store.commit(put(&format!("f{n}")).with_ttl(HOUR)))).await {
        committed.unwrap();
    }
    assert_eq!(leases(&admin).await.len(), 1);
    // Another time, another lease, both of which go on being shared.
    for n in 0..10 {
        store.commit(put(&format!("e{n}")).with_ttl(HOUR / 2)).await.unwrap();
        store.commit(put(&format!("e{n}")).with_ttl(HOUR)).await.unwrap();
    }
    assert_eq!(leases(&admin).await.len(), 2);
    // What puts nothing needs none.
    let check = Transaction::new(vec![Op::Check { key: key("e1"), expect: Expect::Present }]).with_ttl(HOUR * 9);
    store.commit(check).await.unwrap();
    assert_eq!(leases(&admin).await.len(), 2);
    // A full one is not shared any further: 120 are attached to the first, 100 more at a time.
    for round in 0..9 {
        let ops = (0..100).map(|n| Op::Put { key: key(&format!("g{round}-{n}")), value: Bytes::new(), expect: Expect::Any }).collect();
        store.commit(Transaction::new(ops).with_ttl(HOUR)).await.unwrap();
    }
    assert_eq!(leases(&admin).await.len(), 3);
}

#[tokio::test]
async fn a_lease_that_is_gone_is_replaced() {
    let Some(etcd) = Etcd::start_or_omit("etcd.revoked").await else { return };
    let (store, admin) = (connect(&etcd).await, admin(&etcd).await);
    store.commit(put("a").with_ttl(HOUR)).await.unwrap();
    let first = leases(&admin).await[0];
    admin.lease_client().revoke(first).await.unwrap();
    assert!(store.get(&key("a")).await.unwrap().is_none());
    store.commit(put("b").with_ttl(HOUR)).await.unwrap();
    let second = leases(&admin).await;
    assert!(second.len() == 1 && second[0] != first, "{second:?}");
    // A refusal stays one.
    let error = store.commit(Transaction::create(key("b"), Bytes::new()).with_ttl(HOUR)).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn no_time_is_too_short_or_too_long() {
    let Some(etcd) = Etcd::start_or_omit("etcd.times").await else { return };
    let store = connect(&etcd).await;
    for (name, ttl) in [("none", Duration::ZERO), ("short", Duration::from_nanos(1)), ("ever", Duration::MAX)] {
        store.commit(put(name).with_ttl(ttl)).await.unwrap();
    }
    assert!(store.get(&key("ever")).await.unwrap().is_some());
}
