//! Bad endpoints, and an etcd that goes away, forgets, or is another.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

mod support;

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wharf_conformance::system::etcd::{Etcd, EtcdError};
use wharf_core::cache::Caches;
use wharf_core::clock::SystemClock;
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Expect, Key, ListOptions, ObjectStore, Op, ResourceId, Revision, Scope, StoreError, StoreResult, Transaction, WatchItem, WatchStream,
};
use wharf_store_etcd::{EtcdConnectError, EtcdFault, EtcdOptions, EtcdStore, EtcdUser};

use crate::support::Wire;

fn pods() -> ResourceId {
    ResourceId::new("", "pods")
}
fn put(name: &str) -> Transaction {
    let value = Bytes::from(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#));
    Transaction::new(vec![Op::Put { key: Key::new(pods(), "default", name), value, expect: Expect::Any }])
}
async fn try_connect(options: EtcdOptions) -> Result<EtcdStore, EtcdConnectError> {
    EtcdStore::connect(options, SystemClock::shared()).await
}
async fn connect(endpoint: String) -> EtcdStore {
    try_connect(EtcdOptions::new([endpoint])).await.unwrap()
}
/// With little patience, for what never answers.
fn impatient<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> EtcdOptions {
    let short = Duration::from_millis(300);
    EtcdOptions { connect_timeout: short, request_timeout: short, ..EtcdOptions::new(endpoints) }
}
fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
fn fault(error: &StoreError) -> &EtcdFault {
    let source = match error {
        StoreError::Backend { source, .. } | StoreError::OutcomeUnknown { source } => source,
        other => panic!("{other}"),
    };
    source.downcast_ref().unwrap()
}

/// A port where everyone who connects gets these bytes, if any, once they have said something, and then nothing.
async fn says(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if words.is_empty() {
                kept.push(stream);
                continue;
            }
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(words).await;
            });
        }
    });
    port
}

async fn refuses() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// The next commit of a watch, past progress.
async fn next(watch: &mut WatchStream) -> StoreResult<Revision> {
    loop {
        match watch.next().await.unwrap()? {
            WatchItem::Commit { revision, .. } => return Ok(revision),
            WatchItem::Progress(_) => {}
        }
    }
}

#[tokio::test]
async fn each_bad_endpoint_is_told_with_what_to_do() {
    let http1 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (refuses, hangs, http1) = (refuses().await, says(b"").await, says(http1).await);
    let Err(EtcdConnectError::Unreachable { faults }) = try_connect(impatient([refuses, hangs, http1].map(url))).await else { panic!() };
    assert!(matches!(&faults[0], EtcdFault::Unreachable { .. }), "{:?}", faults[0]);
    assert!(matches!(&faults[1], EtcdFault::Silent { .. }), "{:?}", faults[1]);
    assert!(matches!(&faults[2], EtcdFault::Lost { .. }), "{:?}", faults[2]);
    let text = EtcdConnectError::Unreachable { faults }.to_string();
    println!("{text}");
    for words in ["refused", "check that etcd runs", "did not answer within 300ms", "check its log", "did not answer as etcd", "client URL"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(text.lines().count(), 3);
}

#[tokio::test]
async fn tls_where_there_is_none_is_told() {
    let Some(etcd) = Etcd::start_or_omit("etcd.tls").await else { return };
    let tls = wharf_store_etcd::EtcdTls { ca: CA.into(), identity: None, server_name: None };
    let options = EtcdOptions { tls: Some(tls), ..impatient([format!("https://127.0.0.1:{}", etcd.port())]) };
    let text = try_connect(options).await.unwrap_err().to_string();
    println!("{text}");
    assert!(text.contains("http or https"), "{text}");
}

/// A certificate of nobody.
const CA: &str = include_str!("ca.pem");

#[tokio::test]
async fn one_endpoint_that_answers_is_enough() {
    let Some(etcd) = Etcd::start_or_omit("etcd.endpoints").await else { return };
    let store = try_connect(impatient([url(refuses().await), url(says(b"").await), etcd.endpoint()])).await.unwrap();
    let revision = store.commit(put("a")).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision);
    let mut watch = store.watch(&Scope::All, Revision(0)).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), revision);
}

#[tokio::test]
async fn a_silent_etcd_leaves_a_commit_unknown_and_a_read_failed() {
    let Some(etcd) = Etcd::start_or_omit("etcd.silent").await else { return };
    let wire = Wire::to(etcd.port()).await;
    let store = try_connect(impatient([wire.endpoint()])).await.unwrap();
    wire.cut(Some(says(b"").await));
    // The first may still find the broken connection.
    let _ = store.revision().await;
    let error = store.commit(put("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }) && matches!(fault(&error), EtcdFault::Silent { .. }), "{error}");
    let error = store.revision().await.unwrap_err();
    assert!(matches!(error, StoreError::Backend { retry: Retry::Transient, .. }), "{error}");
}

#[tokio::test]
async fn a_watch_outlives_a_restart_of_etcd() {
    let Some(etcd) = Etcd::start_or_omit("etcd.restart").await else { return };
    let store = connect(etcd.endpoint()).await;
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    let mut last = store.commit(put("a")).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), last);
    for round in 0..3 {
        etcd.kill();
        let error = store.commit(put("down")).await.unwrap_err();
        assert!(matches!(fault(&error), EtcdFault::Unreachable { .. } | EtcdFault::Lost { .. }), "{error}");
        assert!(store.get(&Key::new(pods(), "default", "a")).await.is_err());
        etcd.start_again().await.unwrap();
        // Another writer, before the watch is back.
        let other = connect(etcd.endpoint()).await;
        let revision = other.commit(put(&format!("r{round}"))).await.unwrap();
        assert_eq!(revision.0, last.0 + 1);
        last = revision;
        assert_eq!(next(&mut watch).await.unwrap(), revision);
    }
}

#[tokio::test]
async fn what_is_compacted_while_a_watch_is_away_is_told() {
    let Some(etcd) = Etcd::start_or_omit("etcd.compacted").await else { return };
    let options = EtcdOptions { watch_buffer: 8 << 10, ..EtcdOptions::new([etcd.endpoint()]) };
    let store = try_connect(options).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    let mut written = Vec::new();
    for n in 0..200 {
        written.push(store.commit(put(&format!("p{n}"))).await.unwrap());
    }
    let last = *written.last().unwrap();
    store.compact(last).await.unwrap();
    let mut seen = Vec::new();
    let error = loop {
        match next(&mut watch).await {
            Ok(revision) => seen.push(revision),
            Err(error) => break error,
        }
    };
    assert!(written.starts_with(&seen) && seen.len() < 200, "{seen:?}");
    assert!(matches!(error, StoreError::Expired { compacted } if compacted == last), "{error}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_that_was_not_read_misses_nothing() {
    let Some(etcd) = Etcd::start_or_omit("etcd.unread").await else { return };
    let options = EtcdOptions { watch_buffer: 8 << 10, ..EtcdOptions::new([etcd.endpoint()]) };
    let store = try_connect(options).await.unwrap();
    let mut watch = store.watch(&Scope::All, store.revision().await.unwrap()).await.unwrap();
    let mut written = Vec::new();
    for n in 0..300 {
        written.push(store.commit(put(&format!("p{n}"))).await.unwrap());
    }
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        seen.push(next(&mut watch).await.unwrap());
    }
    assert_eq!(seen, written);
}

#[tokio::test]
async fn a_watch_ends_with_its_store() {
    let Some(etcd) = Etcd::start_or_omit("etcd.closed").await else { return };
    let store = connect(etcd.endpoint()).await;
    let mut watch = store.clone().watch(&Scope::All, Revision(0)).await.unwrap();
    let revision = store.commit(put("a")).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), revision);
    drop(store);
    while let Some(item) = watch.next().await {
        assert!(matches!(item, Ok(WatchItem::Progress(_))), "{item:?}");
    }
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_refused() {
    let (Some(first), Some(empty)) = (Etcd::start_or_omit("etcd.lost").await, Etcd::start_or_omit("etcd.lost").await) else { return };
    let other = Etcd::start_with(&["--initial-cluster-token=another"]).await.unwrap();
    for (instead, is_other) in [(&empty, false), (&other, true)] {
        let wire = Wire::to(first.port()).await;
        let store = connect(wire.endpoint()).await;
        let mut watch = store.watch(&Scope::All, store.revision().await.unwrap()).await.unwrap();
        let committed = store.commit(put("a")).await.unwrap();
        assert_eq!(next(&mut watch).await.unwrap(), committed);
        wire.cut(Some(instead.port()));
        let told = [next(&mut watch).await.unwrap_err(), store.list(&Scope::All, &ListOptions::default()).await.unwrap_err()];
        for error in told {
            assert!(matches!(error, StoreError::Backend { retry: Retry::Permanent, .. }), "{error}");
            match fault(&error) {
                EtcdFault::WentBack { .. } if !is_other => {}
                EtcdFault::OtherCluster { .. } if is_other => {}
                fault => panic!("{fault}"),
            }
        }
    }
}

/// The cluster is the same, and its revisions are used a second time: etcd#20221, etcd#19179.
#[tokio::test]
async fn a_restored_backup_is_refused_until_the_store_is_made_anew() {
    let Some(etcd) = Etcd::start_or_omit("etcd.restored").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let store = connect(etcd.endpoint()).await;
    let start = store.commit(put("a")).await.unwrap();
    match etcd.save_snapshot(&backup) {
        Err(error @ EtcdError::Missing { .. }) => return wharf_core::testing::omit("etcd.restored", &error.to_string()),
        saved => saved.unwrap(),
    }
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    let mut last = start;
    for name in ["b", "c", "d"] {
        last = store.commit(put(name)).await.unwrap();
        assert_eq!(next(&mut watch).await.unwrap(), last);
    }
    etcd.restore_snapshot(&backup).unwrap();
    etcd.start_again().await.unwrap();
    let went_back = |error: StoreError| {
        assert!(matches!(error, StoreError::Backend { retry: Retry::Permanent, .. }), "{error}");
        assert!(matches!(fault(&error), EtcdFault::WentBack { was, is, .. } if *was == last.0 && *is == start.0), "{error}");
        assert!(error.to_string().contains("restored from a backup"), "{error}");
    };
    went_back(next(&mut watch).await.unwrap_err());
    assert!(watch.next().await.is_none());
    went_back(store.revision().await.unwrap_err());
    went_back(store.get(&Key::new(pods(), "default", "d")).await.unwrap_err());
    went_back(store.list(&Scope::All, &ListOptions::default()).await.unwrap_err());
    went_back(store.watch(&Scope::All, last).await.map(|_| ()).unwrap_err());
    // One made anew may use it, and a watch of what is now yet to come repeats nothing that was there.
    let anew = connect(etcd.endpoint()).await;
    assert_eq!(anew.revision().await.unwrap(), start);
    let mut watch = anew.watch(&Scope::All, last).await.unwrap();
    let mut reached = start;
    while reached <= last {
        reached = anew.commit(put("again")).await.unwrap();
    }
    assert_eq!(next(&mut watch).await.unwrap(), reached);
}

#[tokio::test]
async fn users_and_their_passwords() {
    let Some(etcd) = Etcd::start_or_omit("etcd.users").await else { return };
    let mut admin = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let user = |password: &str| Some(EtcdUser { name: "root".into(), password: password.into() });
    for user in [None, user("wrong")] {
        let error = try_connect(EtcdOptions { user, ..EtcdOptions::new([etcd.endpoint()]) }).await.unwrap_err();
        println!("{error}");
        assert!(matches!(error, EtcdConnectError::Denied { .. }), "{error}");
    }
    let store = try_connect(EtcdOptions { user: user("secret"), ..EtcdOptions::new([etcd.endpoint()]) }).await.unwrap();
    let revision = store.commit(put("a")).await.unwrap();
    let mut watch = store.watch(&Scope::All, Revision(revision.0 - 1)).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), revision);
    // Simple tokens do not survive; a new one is asked for.
    etcd.kill();
    etcd.start_again().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision);
}

#[tokio::test]
async fn a_value_that_stock_etcd_does_not_take_says_what_to_set() {
    let Ok(etcd) = Etcd::start_with(&["--max-request-bytes=1572864"]).await else {
        return wharf_core::testing::omit("etcd.value", "etcd is missing");
    };
    let store = connect(etcd.endpoint()).await;
    for bytes in [2 << 20, 3 << 20] {
        let large = Transaction::create(Key::new(pods(), "default", "a"), Bytes::from(vec![1; bytes]));
        let error = store.commit(large).await.unwrap_err();
        assert!(matches!(&error, StoreError::Invalid { message } if message.contains("--max-request-bytes")), "{error}");
    }
}

#[tokio::test]
async fn large_values_are_listed_and_watched() {
    let Some(etcd) = Etcd::start_or_omit("etcd.large").await else { return };
    let store = connect(etcd.endpoint()).await;
    let start = store.revision().await.unwrap();
    // 96 MiB, more than one answer may have.
    let value = Bytes::from(vec![7; 3 << 20]);
    for n in 0..32 {
        store.commit(Transaction::create(Key::new(pods(), "default", format!("p{n:02}")), value.clone())).await.unwrap();
    }
    let page = store.list(&Scope::All, &ListOptions::default()).await.unwrap();
    assert_eq!((page.records.len(), page.more), (32, false));
    assert!(page.records.iter().all(|r| r.value == value));
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    for n in 1..=32 {
        assert_eq!(next(&mut watch).await.unwrap(), Revision(start.0 + n));
    }
}

#[tokio::test]
async fn keys_of_others_are_left_alone() {
    let Some(etcd) = Etcd::start_or_omit("etcd.foreign").await else { return };
    let store = connect(etcd.endpoint()).await;
    let mut admin = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(&Scope::All, start).await.unwrap();
    for key in ["/wharf", "/wharf!stray", "/wharf!!pods!default!a!b", "/wharf/pods", "/other"] {
        admin.put(key, "x", None).await.unwrap();
    }
    let other = try_connect(EtcdOptions { prefix: "/wharf/other".into(), ..EtcdOptions::new([etcd.endpoint()]) }).await.unwrap();
    other.commit(put("theirs")).await.unwrap();
    let ours = store.commit(put("ours")).await.unwrap();
    let page = store.list(&Scope::All, &ListOptions::default()).await.unwrap();
    assert_eq!(page.records.iter().map(|r| &*r.key.name).collect::<Vec<_>>(), ["ours"]);
    assert_eq!(next(&mut watch).await.unwrap(), ours);
    assert_eq!(admin.get("/wharf!stray", None).await.unwrap().kvs().len(), 1);
}

/// Consistent reads wait for the store's revision, which others move as well: progress must come.
#[tokio::test]
async fn a_cache_keeps_up_beside_others_and_across_a_restart() {
    let Some(etcd) = Etcd::start_or_omit("etcd.cache").await else { return };
    let store = connect(etcd.endpoint()).await;
    let other = try_connect(EtcdOptions { prefix: "/other".into(), ..EtcdOptions::new([etcd.endpoint()]) }).await.unwrap();
    let caches = Caches::start(std::sync::Arc::new(store.clone()), SystemClock::shared(), CancellationToken::new()).await.unwrap();
    let cache = caches.of(&pods()).await.unwrap();
    for n in 0..5 {
        store.commit(put(&format!("p{n}"))).await.unwrap();
        other.commit(put("theirs")).await.unwrap();
        cache.consistent().await.unwrap();
        assert_eq!(cache.list(None).items.len(), n + 1);
    }
    let mut watcher = cache.watch(cache.list(None).revision).unwrap();
    etcd.kill();
    etcd.start_again().await.unwrap();
    let revision = store.commit(put("after")).await.unwrap();
    let events = watcher.next().await.unwrap();
    assert_eq!((events.len(), events[0].revision), (1, revision));
}
