//! Watches that end in every way, and what an informer makes of it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_client::{RemoteApi, WATCH_IDLE};
use wharf_core::api::{ApiError, ApiEvent, ApiExt, ApiWatch, DeleteParams, Query, SharedApi};
use wharf_core::clock::SystemClock;
use wharf_core::informer::{Informers, ObjectChange, Reader};
use wharf_core::object::{ObjectRef, resource_of};
use wharf_core::store::Revision;
use wharf_store_memory::MemoryStore;

use crate::server::{HANGS, Script, Sender, bookmark, event, expired, list, map, settle};

async fn watch(script: &mut Script) -> (ApiWatch, Sender) {
    let api = script.api.clone();
    let opened = tokio::spawn(async move { api.watch(&resource_of::<ConfigMap>(), &Query::default(), Revision(5)).await });
    let asked = script.asked().await;
    assert!(asked.is_watch());
    assert_eq!((asked.param("allowWatchBookmarks"), asked.param("resourceVersion")), (Some("true"), Some("5")));
    let body = asked.stream();
    (opened.await.unwrap().unwrap(), body)
}

#[tokio::test]
async fn a_silent_watch_ends() {
    let mut script = Script::new();
    let (mut events, body) = watch(&mut script).await;
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push(event);
        }
        seen
    });
    // Each event, and a bookmark is one, makes the wait begin again; a part of one does not.
    for revision in 6..9 {
        settle().await;
        script.clock.advance(WATCH_IDLE - Duration::from_millis(1));
        body.send(bookmark(revision)).unwrap();
    }
    settle().await;
    body.send(Ok("{\"type\":".into())).unwrap();
    settle().await;
    script.clock.advance(WATCH_IDLE - Duration::from_millis(1));
    settle().await;
    assert!(!reading.is_finished());
    script.clock.advance(Duration::from_millis(1));
    let seen = tokio::time::timeout(HANGS, reading).await.unwrap().unwrap();
    assert_eq!(seen.len(), 4);
    assert!(seen[..3].iter().all(|e| matches!(e, Ok(ApiEvent::Bookmark(_)))));
    assert!(matches!(seen[3], Err(ApiError::Transport(_))), "then nothing more");
    assert!(body.is_closed(), "the connection is given up");
}

#[tokio::test]
async fn a_watch_that_breaks_is_told_from_one_that_ends() {
    let mut script = Script::new();
    // In the middle of an event.
    let (mut events, body) = watch(&mut script).await;
    body.send(event("ADDED", &map("a", 6))).unwrap();
    body.send(Ok("{\"type\":\"ADDED\",\"obj".into())).unwrap();
    drop(body);
    assert!(matches!(events.next().await, Some(Ok(ApiEvent::Added(_)))));
    assert!(matches!(events.next().await, Some(Err(ApiError::Transport(_)))));
    assert!(events.next().await.is_none());
    // Between two, but by a broken connection.
    let (mut events, body) = watch(&mut script).await;
    body.send(Err("connection reset".into())).unwrap();
    assert!(matches!(events.next().await, Some(Err(ApiError::Transport(_)))));
    assert!(events.next().await.is_none());
    // In good order.
    let (mut events, body) = watch(&mut script).await;
    body.send(bookmark(6)).unwrap();
    drop(body);
    assert!(matches!(events.next().await, Some(Ok(ApiEvent::Bookmark(Revision(6))))));
    assert!(events.next().await.is_none());
    // With what is no event.
    let (mut events, body) = watch(&mut script).await;
    body.send(Ok("<html>\n".into())).unwrap();
    assert!(matches!(events.next().await, Some(Err(ApiError::Transport(_)))));
    assert!(events.next().await.is_none());
}

/// What was told of, as `+new`, `~changed` and `-gone`.
fn told(changes: &mut Receiver<ObjectChange>) -> Vec<String> {
    let mut out = Vec::new();
    while let Ok(change) = changes.try_recv() {
        let sign = match (&change.old, &change.new) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        out.push(format!("{sign}{}", change.latest().key().name));
    }
    out
}

/// An informer that has listed `a` and `b` at 5 and now watches.
async fn informer(script: &mut Script, stop: &CancellationToken) -> (Reader<ConfigMap>, Receiver<ObjectChange>, Sender) {
    let reader = Informers::new(script.api.clone(), Arc::new(script.clock.clone()), stop.clone()).of::<ConfigMap>();
    let (_, mut changes) = reader.informer().subscribe();
    script.asked().await.json(200, &list(5, &[map("a", 1), map("b", 2)]));
    let asked = script.asked().await;
    assert_eq!((asked.is_watch(), asked.param("resourceVersion")), (true, Some("5")));
    assert_eq!(told(&mut changes), ["+a", "+b"]);
    (reader, changes, asked.stream())
}

#[tokio::test]
async fn an_informer_goes_on_where_a_watch_ended_in_good_order() {
    let (mut script, stop) = (Script::new(), CancellationToken::new());
    let (reader, mut changes, body) = informer(&mut script, &stop).await;
    body.send(event("ADDED", &map("c", 6))).unwrap();
    body.send(bookmark(8)).unwrap();
    drop(body);
    let asked = script.asked_later().await;
    assert_eq!((asked.is_watch(), asked.param("resourceVersion")), (true, Some("8")), "after the bookmark, without a list");
    let body = asked.stream();
    body.send(event("MODIFIED", &map("a", 9))).unwrap();
    body.send(event("DELETED", &map("b", 10))).unwrap();
    drop(body);
    let asked = script.asked_later().await;
    assert_eq!((asked.is_watch(), asked.param("resourceVersion")), (true, Some("10")));
    assert_eq!(told(&mut changes), ["+c", "~a", "-b"], "no gap, nothing twice");
    assert_eq!(reader.list().len(), 2);
    stop.cancel();
}

#[tokio::test]
async fn a_410_in_a_watch_makes_an_informer_list_again_and_tell_of_deletes() {
    let (mut script, stop) = (Script::new(), CancellationToken::new());
    let (reader, mut changes, body) = informer(&mut script, &stop).await;
    body.send(event("MODIFIED", &map("a", 6))).unwrap();
    body.send(event("ERROR", &expired())).unwrap();
    let asked = script.asked_later().await;
    assert!(!asked.is_watch());
    assert_eq!(asked.param("resourceVersion"), None, "the newest");
    asked.json(200, &list(20, &[map("a", 6), map("d", 19)]));
    let asked = script.asked_later().await;
    assert_eq!((asked.is_watch(), asked.param("resourceVersion")), (true, Some("20")));
    assert_eq!(told(&mut changes), ["~a", "-b", "+d"]);
    assert!(reader.get(&ObjectRef::new("ns", "b")).is_none());
    // The same where the server refuses before the watch begins.
    asked.json(410, &expired());
    let asked = script.asked_later().await;
    assert!(!asked.is_watch());
    asked.json(200, &list(30, &[]));
    assert!(script.asked_later().await.is_watch());
    assert_eq!(told(&mut changes), ["-a", "-d"]);
    stop.cancel();
}

#[tokio::test]
async fn an_informer_lives_through_an_outage() {
    let (mut script, stop) = (Script::new(), CancellationToken::new());
    let (reader, mut changes, body) = informer(&mut script, &stop).await;
    body.send(Err("connection reset".into())).unwrap();
    script.asked_later().await.refuse();
    script.asked_later().await.refuse();
    script.asked_later().await.text(503, &[], "starting");
    assert_eq!(reader.list().len(), 2, "what was known stays");
    script.asked_later().await.json(200, &list(9, &[map("b", 2)]));
    assert!(script.asked_later().await.is_watch());
    assert_eq!(told(&mut changes), ["-a"]);
    stop.cancel();
}

#[tokio::test]
async fn an_informer_outlives_the_api_server() {
    let (clock, stop) = (SystemClock::shared(), CancellationToken::new());
    let store = Arc::new(MemoryStore::default());
    let start = async || {
        let server = ApiServer::builder(store.clone(), clock.clone()).build().await.unwrap();
        server.ready().await;
        server
    };
    let first = start().await;
    // The server that is reached is whichever runs; none refuses the connection.
    let running = Arc::new(Mutex::new(Some(first.kube_client(User::master("admin"), "default"))));
    let service = tower::service_fn({
        let running = running.clone();
        move |request: Request<kube::client::Body>| {
            let client = running.lock().clone();
            async move {
                match client {
                    Some(client) => client.send(request).await,
                    None => Err(kube::Error::Service("connection refused".into())),
                }
            }
        }
    });
    let api: SharedApi = Arc::new(RemoteApi::new(kube::Client::new(service, "default"), clock.clone()));
    let namespace = |name: &str| serde_json::from_value::<Namespace>(json!({"metadata": {"name": name}})).unwrap();
    let config = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name, "namespace": "ns"}})).unwrap();
    api.create(&namespace("ns")).await.unwrap();
    api.create(&config("goes")).await.unwrap();
    api.create(&config("stays")).await.unwrap();
    let reader = Informers::new(api.clone(), clock.clone(), stop.clone()).of::<ConfigMap>();
    reader.synced().await;
    let (_, mut changes) = reader.informer().subscribe();

    *running.lock() = None;
    first.stop().cancel();
    assert!(matches!(api.create(&config("lost")).await, Err(ApiError::Transport(_))));
    let second = start().await;
    // What happens while the informer is away.
    let user = second.local(User::master("admin"));
    user.delete::<ConfigMap>(&ObjectRef::new("ns", "goes"), DeleteParams::default()).await.unwrap();
    user.create(&config("comes")).await.unwrap();
    *running.lock() = Some(second.kube_client(User::master("admin"), "default"));
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let change = tokio::time::timeout(HANGS, changes.recv()).await.unwrap().unwrap();
        seen.push((change.latest().key().name.to_string(), change.old.is_some(), change.new.is_some()));
    }
    seen.sort();
    assert_eq!(seen, [("comes".to_owned(), false, true), ("goes".to_owned(), true, false)], "each once, and what stayed not at all");
    stop.cancel();
    second.stop().cancel();
}
