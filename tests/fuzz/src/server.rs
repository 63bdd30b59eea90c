//! A whole API server over the memory store, whose answers are held against what every answer must be.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::Service;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;
use wharf_apiserver::server::ApiServerService;
use wharf_core::clock::ManualClock;
use wharf_store_memory::MemoryStore;

use crate::seeds;

/// What a client may be told. 500 is not among them: no input is the server's fault. 403 is what admission says of a pod whose service
/// account is not there.
const CODES: &[u16] = &[200, 201, 202, 400, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429, 504];

/// How often the server's clock goes on, and by how much: a wait for a revision that is yet to come is short.
const TICK: Duration = Duration::from_millis(1);
const TICK_ADVANCES: Duration = Duration::from_millis(500);
const TOKEN: &str = "fuzz";

struct World {
    runtime: Runtime,
    server: ApiServerService,
}

struct Answer {
    code: u16,
    body: Bytes,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// The server, with an object of each sort that is patched. Writes are dry runs, so that it stays as it is.
fn world() -> &'static World {
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let clock = ManualClock::default();
        let builder = ApiServer::builder(Arc::new(MemoryStore::new()), Arc::new(clock.clone())).token(TOKEN, User::master("fuzz"));
        let server = runtime.block_on(builder.build()).expect("a server").service().clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TICK);
                clock.advance(TICK_ADVANCES);
            }
        });
        let world = World { runtime, server };
        for object in seeds::objects() {
            let uri = uri_of(&object, false).expect("seeds have a place");
            let answer = world.ask(Method::POST, &uri, "application/json", object.to_string().into());
            assert!(matches!(answer.code, 201 | 409), "{uri}: {} {}", answer.code, String::from_utf8_lossy(&answer.body));
        }
        world
    })
}

/// Where an object is created, by its own words; with its name, where it is written over. `None` if it has no known kind.
fn uri_of(object: &Value, named: bool) -> Option<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (version, kind) = (text(&object["apiVersion"])?, text(&object["kind"])?);
    let plural = seeds::KINDS.iter().find(|k| k.version == version && k.kind == kind)?;
    let prefix = if version.contains('/') { "apis" } else { "api" };
    let namespace = if plural.namespaced { "/namespaces/default" } else { "" };
    let name = if named { format!("/{}", plural.stored?) } else { String::new() };
    Some(format!("/{prefix}/{version}{namespace}/{}{name}", plural.plural))
}

impl World {
    fn ask(&self, method: Method, uri: &str, content_type: &str, body: Bytes) -> Answer {
        let request = Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, content_type);
        let request = request.header(header::ACCEPT, "application/json").header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        let Ok(request) = request.body(Full::new(body)) else { return Answer { code: 400, body: Bytes::new() } };
        let watches = path::parse(request.method(), request.uri()).verb == "watch";
        self.runtime.block_on(async {
            let Ok(response) = self.server.clone().call(request).await;
            let (parts, body) = response.into_parts();
            let code = parts.status.as_u16();
            // A watch that begins does not end.
            let body = if watches && code == 200 { Bytes::new() } else { body.collect().await.map(|b| b.to_bytes()).unwrap_or_default() };
            Answer { code, body }
        })
    }

    /// Asks, and holds the answer against what every answer is.
    fn check(&self, method: Method, uri: &str, content_type: &str, body: Bytes) -> Option<Value> {
        let answer = self.ask(method, uri, content_type, body);
        if answer.body.is_empty() {
            return None;
        }
        let text = || String::from_utf8_lossy(&answer.body).into_owned();
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{uri}: {e}: {}", text()));
        // Some directives of a strategic merge are refused so by Kubernetes, too, and what an apply says of one item twice. What is ours to
        // blame has a reason.
        let refused = ["application/strategic", "application/apply"].iter().any(|kind| content_type.starts_with(kind));
        if refused && answer.code == 500 && value["reason"] == "" {
            return None;
        }
        assert!(CODES.contains(&answer.code), "{uri}: {} {}", answer.code, text());
        if answer.code < 300 {
            return Some(value);
        }
        assert_eq!(value["kind"], "Status", "{}", text());
        assert_eq!(value["status"], "Failure", "{}", text());
        assert_eq!(value["code"], answer.code, "{}", text());
        assert!(value["reason"].as_str().is_some_and(|r| !r.is_empty()), "{}", text());
        assert!(value["message"].as_str().is_some_and(|m| !m.is_empty()), "{}", text());
        None
    }
}

/// Sends JSON and holds the answer against what every answer is; an answer of success.
pub(crate) fn check(method: Method, uri: &str, body: &Value) -> Option<Value> {
    world().check(method, uri, "application/json", body.to_string().into())
}

/// What the server sets anew with every write.
fn without_own(mut object: Value) -> Value {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in ["uid", "creationTimestamp", "resourceVersion", "generation", "managedFields", "name"] {
            meta.remove(name);
        }
    }
    object
}

fn write(object: &Value, content_type: &str, body: Bytes) {
    let world = world();
    let uri = uri_of(object, false).unwrap_or_else(|| "/api/v1/namespaces/default/configmaps".into());
    let created = world.check(Method::POST, &format!("{uri}?dryRun=All&fieldValidation=Strict"), content_type, body.clone());
    let created = created.or_else(|| world.check(Method::POST, &format!("{uri}?dryRun=All"), content_type, body.clone()));
    if let Some(created) = created
        && created["kind"] != "Status"
        // Reviews are answers.
        && created["metadata"]["uid"].is_string()
    {
        // What was accepted is accepted again as it was answered, and nothing is left to default.
        let mut again = created.clone();
        if let Some(meta) = again["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        let given = Bytes::from(again.to_string());
        let answer = world.check(Method::POST, &format!("{uri}?dryRun=All&fieldValidation=Strict"), "application/json", given);
        assert_eq!(answer.map(without_own), Some(without_own(created)), "{uri}: {again}");
    }
    if let Some(uri) = uri_of(object, true) {
        world.check(Method::PUT, &format!("{uri}?dryRun=All"), content_type, body);
    }
}

/// Objects as JSON.
pub(crate) fn json(input: &[u8]) {
    let object: Value = serde_json::from_slice(input).unwrap_or_default();
    write(&object, "application/json", Bytes::copy_from_slice(input));
}

/// Objects as YAML.
pub(crate) fn yaml(input: &[u8]) {
    // Where it goes is read from its lines, since reading YAML is what is tried.
    let text = String::from_utf8_lossy(input);
    let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(|rest| Value::from(rest.trim()));
    let object = Value::from_iter([("apiVersion", line("apiVersion:").unwrap_or_default()), ("kind", line("kind:").unwrap_or_default())]);
    write(&object, "application/yaml", Bytes::copy_from_slice(input));
}

/// Kubernetes' protobuf. The first byte says of which kind.
pub(crate) fn protobuf(input: &[u8]) {
    let Some((first, body)) = input.split_first() else { return };
    let kind = &seeds::KINDS[usize::from(*first) % seeds::KINDS.len()];
    let object = Value::from_iter([("apiVersion", kind.version), ("kind", kind.kind)]);
    write(&object, "application/vnd.kubernetes.protobuf", Bytes::copy_from_slice(body));
}

/// A patch. The first byte says of which kind, and on what.
pub(crate) fn patch(input: &[u8]) {
    const TYPES: [&str; 4] = [
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ];
    let Some((first, body)) = input.split_first() else { return };
    let objects = seeds::objects();
    let (first, body) = (usize::from(*first), Bytes::copy_from_slice(body));
    let Some(uri) = uri_of(&objects[first / TYPES.len() % objects.len()], true) else { return };
    let (world, content_type) = (world(), TYPES[first % TYPES.len()]);
    let force = if first >= 128 { "&force=true" } else { "" };
    let apply = if first % TYPES.len() == 3 { force } else { "" };
    let patched = world.check(Method::PATCH, &format!("{uri}?dryRun=All&fieldManager=fuzz{apply}"), content_type, body);
    if let Some(patched) = patched {
        // What a patch makes is an object like others.
        let written = world.check(Method::PUT, &format!("{uri}?dryRun=All"), "application/json", patched.to_string().into());
        assert!(written.is_some(), "{uri}: a patch made what cannot be written: {patched}");
    }
}

/// The query of a list, of a get, of a delete of a collection or of a watch, which the first byte says.
pub(crate) fn query(input: &[u8]) {
    const LISTS: [&str; 5] =
        ["/api/v1/pods", "/api/v1/namespaces/default/configmaps", "/api/v1/events", "/apis/apps/v1/deployments", "/api/v1/nodes"];
    let Some((first, query)) = input.split_first() else { return };
    let allowed: BTreeSet<u8> = (b'!'..=b'~').filter(|b| !b"\"<>`#".contains(b)).collect();
    let query: String = query.iter().map(|b| if allowed.contains(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect();
    let (world, uri) = (world(), LISTS[usize::from(*first) % LISTS.len()]);
    match first / 64 {
        0 => drop(world.check(Method::GET, &format!("{uri}?watch=1&{query}"), "", Bytes::new())),
        1 => drop(world.check(Method::DELETE, &format!("/api/v1/namespaces/default/secrets?dryRun=All&{query}"), "", Bytes::new())),
        2 => drop(world.check(Method::GET, &format!("/api/v1/namespaces/default?{query}"), "", Bytes::new())),
        _ => {
            let Some(list) = world.check(Method::GET, &format!("{uri}?{query}"), "", Bytes::new()) else { return };
            assert!(list["kind"].as_str().is_some_and(|kind| kind.ends_with("List") || kind == "Table"), "{uri}?{query}: {list}");
        }
    }
}
