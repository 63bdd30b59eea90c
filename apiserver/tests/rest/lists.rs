//! Lists, their pages, collections that are deleted, and watches: where they start and what they refuse.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use wharf_store_memory::MemoryStore;

use crate::world::{World, world, world_over};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn make(w: &World, names: &[&str]) {
    for name in names {
        assert_eq!(
            w.post(MAPS, &json!({"metadata": {"name": name, "labels": {"on": if *name < "c" { "yes" } else { "no" }}}})).await.0,
            201
        );
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn left(w: &World) -> Vec<String> {
    let (_, list) = w.get(&format!("{MAPS}?labelSelector=on")).await;
    names(&list).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_collection_is_deleted_by_pages_and_selectors() {
    let w = world().await;
    make(&w, &["a", "b", "c", "d", "e"]).await;
    let delete = async |query: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (code, value, _) = w.http(Method::DELETE, &format!("{MAPS}?{query}"), "application/json", body).await;
        (code, value)
    };
    let (code, tried) = delete("labelSelector=on&dryRun=All", Value::Null).await;
    assert_eq!((code, names(&tried)), (200, vec!["a", "b", "c", "d", "e"]));
    assert_eq!(delete("labelSelector=on", json!({"dryRun": ["All"]})).await.0, 200);
    assert_eq!(left(&w).await.len(), 5);
    let (_, gone) = delete("labelSelector=on%3Dyes&fieldSelector=metadata.name!%3Da", Value::Null).await;
    assert_eq!((names(&gone), gone["kind"].as_str()), (vec!["b"], Some("ConfigMapList")));
    // A page, and the next by its token.
    let (_, page) = delete("labelSelector=on&limit=2", Value::Null).await;
    assert_eq!(names(&page), ["a", "c"]);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (_, page) = delete(&format!("labelSelector=on&limit=1&continue={token}"), Value::Null).await;
    assert_eq!(names(&page), ["d"]);
    assert_eq!(left(&w).await, ["e"]);
    // Propagation and preconditions are those of each delete.
    let (code, _) = delete("labelSelector=on", json!({"propagationPolicy": "Foreground"})).await;
    let (_, held) = w.get(&format!("{MAPS}/e")).await;
    assert_eq!((code, &held["metadata"]["finalizers"]), (200, &json!(["foregroundDeletion"])));
    let (code, refused) = delete("labelSelector=on", json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    assert_eq!(delete("labelSelector=a+in+b", Value::Null).await.0, 400);
    assert_eq!(delete("resourceVersionMatch=Exact", Value::Null).await.0, 422);
}

#[tokio::test]
async fn a_page_of_a_forgotten_state_is_gone_and_goes_on_in_the_newest() {
    let w = world_over(Arc::new(MemoryStore::builder().history(2).build())).await;
    make(&w, &["a", "b", "d"]).await;
    let (_, page) = w.get(&format!("{MAPS}?labelSelector=on&limit=1")).await;
    assert_eq!((names(&page), page["metadata"].get("remainingItemCount")), (vec!["a"], None));
    let (token, revision) = (page["metadata"]["continue"].as_str().unwrap().to_owned(), page["metadata"]["resourceVersion"].clone());
    make(&w, &["c", "x", "y", "z"]).await;
    let (code, gone) = w.get(&format!("{MAPS}?labelSelector=on&limit=2&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let want = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
        continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the \
        provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first \
        chunk was returned and now may show up in the list.";
    assert_eq!(gone["message"], want);
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    let (_, page) = w.get(&format!("{MAPS}?labelSelector=on&limit=2&continue={fresh}")).await;
    assert_eq!((names(&page), page["metadata"]["resourceVersion"] != revision), (vec!["b", "c"], true));
    // A list of exactly that state is gone too, and a watch from it.
    let revision = revision.as_str().unwrap();
    let (code, gone) = w.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await;
    assert_eq!((code, &gone["message"]), (410, &json!("The resourceVersion for the provided list is too old.")));
}

#[tokio::test]
async fn lists_of_the_future_wait_and_are_refused() {
    let w = world().await;
    make(&w, &["a"]).await;
    let (_, list) = w.get(MAPS).await;
    let now: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let future = now + 1000;
    for query in [
        format!("{MAPS}?resourceVersion={future}"),
        format!("{MAPS}/a?resourceVersion={future}"),
        format!("{MAPS}?resourceVersion={future}&resourceVersionMatch=Exact"),
        format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={future}"),
    ] {
        let asked = w.http(Method::GET, &query, "", "");
        let clock = w.clock.clone();
        let pass = async {
            loop {
                tokio::task::yield_now().await;
                clock.advance(std::time::Duration::from_millis(100));
            }
        };
        let (code, refused, headers) = tokio::select! {
            answer = asked => answer,
            () = pass => unreachable!(),
        };
        assert_eq!((code, &refused["reason"]), (504, &json!("Timeout")), "{query} {refused}");
        let told = refused["message"].as_str().unwrap();
        assert!(told.starts_with(&format!("Timeout: Too large resource version: {future}, current: ")), "{told}");
        assert_eq!(refused["details"]["causes"], json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]));
        assert_eq!((&refused["details"]["retryAfterSeconds"], &headers["retry-after"]), (&json!(1), &"1".parse().unwrap()));
    }
}

#[tokio::test]
async fn what_watches_and_lists_may_not_be_asked() {
    let w = world().await;
    let initial = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list";
    let requires = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let unless = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
    let only = |found: &str| format!("resourceVersionMatch: Unsupported value: \"{found}\": supported values: \"NotOlderThan\"");
    for (query, want) in [
        ("sendInitialEvents=true".to_owned(), initial.to_owned()),
        ("sendInitialEvents=false".to_owned(), initial.to_owned()),
        ("watch=1&sendInitialEvents=true".to_owned(), requires.to_owned()),
        ("watch=1&sendInitialEvents=false&resourceVersionMatch=Exact".to_owned(), format!("[{requires}, {}]", only("Exact"))),
        ("watch=1&resourceVersion=1&resourceVersionMatch=NotOlderThan".to_owned(), unless.to_owned()),
        ("watch=1&resourceVersion=1&resourceVersionMatch=x".to_owned(), format!("[{unless}, {}]", only("x"))),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x".to_owned(),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided".to_owned(),
        ),
    ] {
        let (code, refused) = w.get(&format!("{PODS}?{query}")).await;
        assert_eq!((code, &refused["message"]), (422, &json!(format!("ListOptions.meta.k8s.io \"\" is invalid: {want}"))), "{query}");
    }
}
