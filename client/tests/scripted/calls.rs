//! One request and what may become of it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;
use tokio::task::JoinHandle;
use wharf_client::{MAX_ANSWER, MAX_ATTEMPTS, MAX_OBJECT, MAX_RETRY_AFTER, PAGE, REQUEST_TIMEOUT, SMALL_PAGE};
use wharf_core::api::{ApiError, ObjectList, Query, SharedApi, Target, Verb, Write};
use wharf_core::object::{Object, ObjectRef, resource_of};

use crate::server::{Script, expired, list, map, settle};

type Task<T> = JoinHandle<Result<T, ApiError>>;

fn get(api: &SharedApi) -> Task<Arc<Object>> {
    let api = api.clone();
    tokio::spawn(async move { api.get(&Target::of::<ConfigMap>(ObjectRef::new("ns", "a"))).await })
}

fn write(api: &SharedApi, target: Target, verb: Verb) -> Task<Arc<Object>> {
    let api = api.clone();
    tokio::spawn(async move { api.write(Write { target, verb, field_manager: String::new() }).await })
}

fn list_all(api: &SharedApi) -> Task<ObjectList> {
    let api = api.clone();
    tokio::spawn(async move { api.list(&resource_of::<ConfigMap>(), &Query::default()).await })
}

#[tokio::test]
async fn a_429_is_waited_for_as_long_as_it_says() {
    let mut script = Script::new();
    let target = Target::of::<ConfigMap>(ObjectRef::new("ns", "a"));
    let done = write(&script.api, target, Verb::Update(map("a", 1).to_string().into()));
    script.asked().await.text(429, &[("retry-after", "3")], "busy");
    assert!(script.asked_already().await.is_none());
    script.clock.advance(Duration::from_millis(2999));
    assert!(script.asked_already().await.is_none(), "not before it said");
    script.clock.advance(Duration::from_millis(601));
    let again = script.asked_already().await.unwrap();
    assert_eq!(again.method, http::Method::PUT);
    again.json(200, &map("a", 2));
    assert_eq!(done.await.unwrap().unwrap().revision().0, 2);
}

#[tokio::test]
async fn a_429_is_told_after_the_last_attempt_and_no_wait_is_endless() {
    let mut script = Script::new();
    let done = get(&script.api);
    for attempt in 1..=MAX_ATTEMPTS {
        script.asked().await.text(429, &[("retry-after", "86400")], "busy");
        assert!(script.asked_already().await.is_none());
        assert_eq!(script.clock.waiting(), usize::from(attempt < MAX_ATTEMPTS));
        script.clock.advance(MAX_RETRY_AFTER.mul_f64(1.2));
    }
    let error = done.await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(429), Some("TooManyRequests")));
}

#[tokio::test]
async fn a_429_that_is_an_answer_is_told_at_once() {
    let mut script = Script::new();
    let target = Target::of::<Pod>(ObjectRef::new("ns", "p")).sub("eviction");
    let done = write(&script.api, target, Verb::Create(json!({}).to_string().into()));
    let asked = script.asked().await;
    assert_eq!(asked.uri, "/api/v1/namespaces/ns/pods/p/eviction");
    asked.text(429, &[("retry-after", "10")], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(done.await.unwrap().unwrap_err().code(), Some(429));
    // Nor is one waited for that does not say for how long.
    let done = get(&script.api);
    script.asked().await.text(429, &[], "");
    assert_eq!(done.await.unwrap().unwrap_err().code(), Some(429));
}

#[tokio::test]
async fn no_answer_within_the_deadline_is_transport() {
    let mut script = Script::new();
    // Not even its head.
    let done = get(&script.api);
    let held = script.asked().await;
    settle().await;
    script.clock.advance(REQUEST_TIMEOUT - Duration::from_millis(1));
    settle().await;
    assert!(!done.is_finished());
    script.clock.advance(Duration::from_millis(1));
    assert!(matches!(done.await.unwrap(), Err(ApiError::Transport(_))));
    drop(held);
    // Its head, but never its end.
    let done = get(&script.api);
    let body = script.asked().await.stream();
    body.send(Ok("{".into())).unwrap();
    settle().await;
    script.clock.advance(REQUEST_TIMEOUT);
    assert!(matches!(done.await.unwrap(), Err(ApiError::Transport(_))));
    // No connection.
    let done = get(&script.api);
    script.asked().await.refuse();
    assert!(matches!(done.await.unwrap(), Err(ApiError::Transport(_))));
}

#[tokio::test]
async fn a_refusal_that_is_no_status_is_told_by_its_code() {
    let mut script = Script::new();
    for (code, body, reason) in [
        (502, "<html>Bad Gateway</html>", "Unknown"),
        (503, "no healthy upstream", "ServiceUnavailable"),
        (403, r#"{"error": "forbidden by the proxy"}"#, "Forbidden"),
        (404, "404 page not found", "NotFound"),
        (401, "", "Unauthorized"),
        (500, r#"["not", "a", "status"]"#, "InternalError"),
        (302, "moved", "Unknown"),
    ] {
        let done = get(&script.api);
        script.asked().await.text(code, &[], body);
        let error = done.await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.reason()), (Some(i32::from(code)), Some(reason)));
        assert_eq!(error.is_not_found(), code == 404);
        let ApiError::Status(status) = error else { panic!("a status") };
        assert_eq!(status.message.as_deref(), Some(body));
    }
    // Of a long page, the beginning is enough.
    let done = get(&script.api);
    script.asked().await.text(502, &[], &"ä".repeat(5000));
    let Err(ApiError::Status(status)) = done.await.unwrap() else { panic!("a status") };
    assert_eq!(status.message.unwrap().chars().count(), 1024);
}

#[tokio::test]
async fn an_answer_that_is_no_object_is_transport() {
    let mut script = Script::new();
    for body in ["", "<html>", r#"{"metadata": {"resourceVersion": "x"}}"#] {
        let done = get(&script.api);
        script.asked().await.text(200, &[], body);
        assert!(matches!(done.await.unwrap(), Err(ApiError::Transport(_))), "{body}");
    }
    let done = list_all(&script.api);
    script.asked().await.json(200, &json!({"kind": "ConfigMapList", "items": {}}));
    assert!(matches!(done.await.unwrap(), Err(ApiError::Transport(_))));
    let done = get(&script.api);
    script.asked().await.text(200, &[], &" ".repeat(MAX_OBJECT + 1));
    assert!(matches!(done.await.unwrap(), Err(ApiError::Transport(_))));
}

#[tokio::test]
async fn a_list_of_large_objects_comes_in_small_pages() {
    let mut script = Script::new();
    let done = list_all(&script.api);
    let asked = script.asked().await;
    assert_eq!(asked.param("limit"), Some(&*PAGE.to_string()));
    let body = asked.stream();
    let piece = bytes::Bytes::from(vec![b' '; MAX_ANSWER / 16]);
    for _ in 0..17 {
        body.send(Ok(piece.clone())).unwrap();
    }
    let asked = script.asked().await;
    assert_eq!((asked.param("limit"), asked.param("continue")), (Some(&*SMALL_PAGE.to_string()), None));
    let mut page = list(7, &[map("a", 1)]);
    page["metadata"]["continue"] = json!("on");
    asked.json(200, &page);
    let asked = script.asked().await;
    assert_eq!((asked.param("limit"), asked.param("continue")), (Some(&*SMALL_PAGE.to_string()), Some("on")));
    asked.json(200, &list(7, &[map("b", 2)]));
    let all = done.await.unwrap().unwrap();
    assert_eq!((all.items.len(), all.revision.0), (2, 7));
}

#[tokio::test]
async fn a_list_that_expires_between_pages_comes_at_once() {
    let mut script = Script::new();
    let done = list_all(&script.api);
    let mut page = list(7, &[map("a", 1)]);
    page["metadata"]["continue"] = json!("on");
    script.asked().await.json(200, &page);
    script.asked().await.json(410, &expired());
    let asked = script.asked().await;
    assert_eq!((asked.param("limit"), asked.param("continue")), (None, None));
    asked.json(200, &list(9, &[map("b", 8)]));
    let all = done.await.unwrap().unwrap();
    assert_eq!((all.items.len(), all.revision.0), (1, 9), "nothing of the first page is left");
}
