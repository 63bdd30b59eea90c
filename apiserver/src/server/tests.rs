//! Every layer between a connection and a handler.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::core::ApiResource;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tower::Service;
use wharf_core::api::{Api, ApiError, ApiWatch, ObjectList, Query, SharedApi, Target, Write};
use wharf_core::clock::{Clock, ManualClock, SystemClock};
use wharf_core::informer::Informers;
use wharf_core::metrics::Metrics;
use wharf_core::node::{LogOptions, NodeConnector};
use wharf_core::object::{Object, ObjectRef, resource_id, resource_of};
use wharf_core::runtime::{AttachRequest, Duplex, ExecRequest, Session};
use wharf_core::store::{Key, Revision};

use super::*;
use crate::gate::authentication::service_account::{Claims, DEFAULT_ISSUER};
use crate::gate::authentication::{Anonymous, ClientCertificates, StaticTokens, TokenKey};
use crate::gate::authorization::{Masters, Rbac};
use crate::gate::late::{LateLayers, Layers};
use crate::gate::{GateReviews, authentication, authorization};
use crate::pki::{Identity, Pki};
use crate::rest::admission::Reviews;
use crate::stream::proxy::NetworkDialer;

/// A fixed set of objects.
#[derive(Debug, Default)]
struct FakeApi(parking_lot::Mutex<BTreeMap<(String, ObjectRef), Arc<Object>>>);

impl FakeApi {
    fn put<K: wharf_core::api::Kind>(&self, object: Value) {
        let (namespace, name) =
            (object["metadata"]["namespace"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap());
        let resource = resource_of::<K>();
        let reference = ObjectRef::new(namespace, name);
        let key = Key::new(resource_id(&resource), namespace, name);
        let object = Object::from_served(key, Revision(1), serde_json::to_vec(&object).unwrap().into());
        self.0.lock().insert((resource.plural, reference), Arc::new(object));
    }
}

#[async_trait]
impl Api for FakeApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let found = self.0.lock().get(&(target.resource.plural.clone(), target.object.clone())).cloned();
        found.ok_or_else(|| ApiError::status(404, "NotFound", format!("{} {:?} not found", target.resource.plural, &*target.object.name)))
    }
    async fn list(&self, resource: &ApiResource, _: &Query) -> Result<ObjectList, ApiError> {
        let objects = self.0.lock();
        let items = objects.iter().filter(|((plural, _), _)| *plural == resource.plural).map(|(_, o)| o.clone()).collect();
        Ok(ObjectList { items, revision: Revision(1) })
    }
    async fn watch(&self, _: &ApiResource, _: &Query, _: Revision) -> Result<ApiWatch, ApiError> {
        Ok(futures::stream::pending().boxed())
    }
    async fn write(&self, _: Write) -> Result<Arc<Object>, ApiError> {
        Err(ApiError::status(405, "MethodNotAllowed", "read only"))
    }
}

/// Answers with what it was asked; waits for `gate` if `waits`.
#[derive(Debug)]
struct Echo {
    waits: AtomicBool,
    entered: Semaphore,
    gate: Semaphore,
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, user: &Arc<User>, info: &RequestInfo, request: Request<Bytes>) -> Response<Body> {
        assert!(info.name != "panic", "as the test wants it");
        self.entered.add_permits(1);
        if self.waits.load(Ordering::SeqCst) {
            let _ = self.gate.acquire().await;
        }
        let seen = json!({"user": user.name, "groups": user.groups, "verb": info.verb, "body": request.body().len()});
        body::json(StatusCode::OK, &seen)
    }
}

/// A node on which every command is a cat that exits with 7 at the end of its input.
#[derive(Debug)]
struct Cat;

#[async_trait]
impl NodeConnector for Cat {
    async fn logs(
        &self,
        node: &str,
        pod: &ObjectRef,
        uid: &str,
        container: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let line = format!("{node} {pod} {uid} {container} {:?}\n", options.tail_lines);
        Ok(futures::stream::iter([Ok(Bytes::from(line))]).boxed())
    }
    async fn exec(&self, _: &str, _: &ObjectRef, _: &str, _: &str, request: &ExecRequest) -> Result<Session, ApiError> {
        if request.command == ["missing"] {
            return Err(ApiError::status(500, "InternalError", "no such file"));
        }
        let (stdin, mut input) = mpsc::channel::<Bytes>(16);
        let (output, stdout) = mpsc::channel(16);
        let (exit, exited) = oneshot::channel();
        tokio::spawn(async move {
            while let Some(data) = input.recv().await {
                let _ = output.send(data).await;
            }
            let _ = exit.send(Ok(7));
        });
        Ok(Session { stdin: Some(stdin), stdout: Some(stdout), stderr: None, resize: None, exit: exited })
    }
    async fn attach(&self, node: &str, pod: &ObjectRef, uid: &str, container: &str, _: &AttachRequest) -> Result<Session, ApiError> {
        self.exec(node, pod, uid, container, &ExecRequest::default()).await
    }
    async fn port_forward(&self, _: &str, _: &ObjectRef, _: &str, port: u16) -> Result<Box<dyn Duplex>, ApiError> {
        let (near, mut far) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let _ = far.write_all(format!("port {port}").as_bytes()).await;
        });
        Ok(Box::new(near))
    }
}

struct World {
    service: ApiServerService,
    api: Arc<FakeApi>,
    echo: Arc<Echo>,
    tokens: ServiceAccountTokens,
    reviews: GateReviews,
    pki: Pki,
    _stop: tokio_util::sync::DropGuard,
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}
fn bind(name: &str, kind: &str, subject: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": kind, "name": subject}]})
}

async fn world(clock: Arc<dyn Clock>) -> World {
    let pki = Pki::generate(&SystemClock::default()).unwrap();
    let api = Arc::new(FakeApi::default());
    api.put::<ServiceAccount>(json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1"}}));
    api.put::<Pod>(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pu"},
        "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [{"name": "c"}]}}));
    api.put::<ClusterRole>(role(
        "reader",
        json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/exec", "pods/log"]},
            {"verbs": ["create"], "apiGroups": [""], "resources": ["pods"]},
        ]),
    ));
    api.put::<ClusterRoleBinding>(bind("reader", "User", "jane"));
    api.put::<ClusterRole>(role(
        "actor",
        json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"]}]),
    ));
    api.put::<ClusterRoleBinding>(bind("actor", "User", "actor"));
    api.put::<ClusterRole>(role("open", json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz*", "/version"]}])));
    api.put::<ClusterRoleBinding>(bind("open", "Group", "system:unauthenticated"));
    let shared: SharedApi = api.clone();
    let stop = CancellationToken::new();
    let informers = Informers::new(shared.clone(), SystemClock::shared(), stop.clone());
    let rbac = Rbac::start(&informers, stop.clone());
    let tokens =
        ServiceAccountTokens::new(pki.token_key().clone(), DEFAULT_ISSUER, vec![DEFAULT_ISSUER.into()], shared.clone(), clock.clone());
    let static_tokens = StaticTokens::new([
        ("jane-token", User::new("jane", ["dev"])),
        ("actor-token", User::new("actor", ["dev"])),
        ("root-token", User::new("root", ["system:masters"])),
    ]);
    let authenticator: Arc<dyn Authenticator> = Arc::new(authentication::Union::new(vec![
        Arc::new(ClientCertificates),
        Arc::new(static_tokens),
        Arc::new(tokens.clone()),
        Arc::new(Anonymous),
    ]));
    let authorizer: Arc<dyn Authorizer> = Arc::new(authorization::Union::new(vec![Arc::new(Masters), Arc::new(rbac.clone())]));
    let layers = LateLayers::default();
    layers.bind(Layers { authenticator: authenticator.clone(), authorizer: authorizer.clone(), rbac });
    let echo = Arc::new(Echo { waits: AtomicBool::new(false), entered: Semaphore::new(0), gate: Semaphore::new(0) });
    let service = ApiServerService::new(ApiServerParts {
        handler: echo.clone(),
        authenticator,
        authorizer,
        proxy: Proxy::new(shared.clone(), Arc::new(NetworkDialer), clock.clone(), stop.clone()),
        streams: Some(PodStreams::new(shared, Arc::new(Cat), clock.clone(), stop.clone())),
        tokens: Some(tokens.clone()),
        checks: Checks::new(vec![Check::new("store", false, || Box::pin(async { Err("gone".into()) }))]),
        metrics: Metrics::default(),
        clock,
        stop: stop.clone(),
    });
    World { service, api, echo, reviews: GateReviews::new(layers, tokens.clone()), tokens, pki, _stop: stop.drop_guard() }
}

impl World {
    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> (StatusCode, http::HeaderMap, Value) {
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.service.clone().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        (parts.status, parts.headers, value)
    }
    async fn get(&self, uri: &str, token: &str) -> (StatusCode, Value) {
        let mut request = Request::get(uri);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (code, _, value) = self.send(request, "").await;
        (code, value)
    }
    async fn issue(&self, spec: Value) -> Value {
        self.tokens.request("ns", "sa", json!({"kind": "TokenRequest", "spec": spec})).await.unwrap()
    }
}

const SA: &str = "/apis/authentication.k8s.io/v1/whatever";

#[tokio::test]
async fn tokens_good_and_bad() {
    let clock = ManualClock::default();
    let world = world(Arc::new(clock.clone())).await;
    let issued = world.issue(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "pu"}})).await;
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let who = async |token: &str| world.tokens.check(token, world.tokens.audiences()).await;
    let (user, _) = who(&token).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:ns:sa", "u1"));
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    // Known, but not allowed: the gate's layers are apart.
    assert_eq!(world.get(SA, &token).await.0, StatusCode::FORBIDDEN);

    // Another key with the same claims.
    let foreign = Pki::generate(&SystemClock::default()).unwrap();
    let claims: Claims = serde_json::from_slice(&decode(token.split('.').nth(1).unwrap())).unwrap();
    assert!(who(&foreign.token_key().sign(&claims).unwrap()).await.is_err());
    // Changed claims under the old signature, and no algorithm at all.
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[1] = encode(&serde_json::to_vec(&Claims { sub: "system:serviceaccount:ns:admin".into(), ..claims.clone() }).unwrap());
    assert!(who(&parts.join(".")).await.is_err());
    let none = format!("{}.{}.", encode(br#"{"alg":"none","kid":""}"#), token.split('.').nth(1).unwrap());
    assert!(who(&none).await.is_err());
    // Another audience, another issuer, and nonsense.
    let other = world.issue(json!({"audiences": ["vault"]})).await["status"]["token"].as_str().unwrap().to_owned();
    assert!(who(&other).await.is_err());
    assert!(world.tokens.check(&other, &["vault".into()]).await.unwrap().is_some());
    let elsewhere = TokenKey::sign(world.tokens.key(), &Claims { iss: "https://elsewhere".into(), ..claims }).unwrap();
    assert!(who(&elsewhere).await.unwrap().is_none());
    for nonsense in ["", ".", "..", "a.b.c", "a.b.c.d", "\u{fffd}"] {
        assert!(who(nonsense).await.unwrap().is_none());
    }

    // What it is bound to is replaced, then the time is up.
    world.api.put::<Pod>(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pu2"}}));
    assert!(who(&token).await.is_err());
    let plain = world.issue(json!({"expirationSeconds": 600})).await["status"]["token"].as_str().unwrap().to_owned();
    assert!(who(&plain).await.is_ok());
    clock.advance(Duration::from_secs(600));
    assert!(who(&plain).await.is_err());
    assert_eq!(world.get("/healthz", &plain).await.0, StatusCode::UNAUTHORIZED);
    let short = world.tokens.request("ns", "sa", json!({"spec": {"expirationSeconds": 599}})).await.unwrap_err();
    assert_eq!(short.code(), Some(422));
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}
fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn who_may_do_what() {
    let world = world(SystemClock::shared()).await;
    let (code, seen) = world.get("/api/v1/namespaces/ns/pods", "jane-token").await;
    assert_eq!((code, seen["user"].as_str()), (StatusCode::OK, Some("jane")));
    let (code, status) = world.get("/api/v1/namespaces/ns/secrets", "jane-token").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        status["message"],
        r#"secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "ns""#
    );
    assert_eq!(status["kind"], "Status");
    // Anonymous: health only.
    assert_eq!(world.get("/healthz", "").await.0, StatusCode::INTERNAL_SERVER_ERROR, "the check fails");
    assert_eq!(world.get("/healthz/ping", "").await.0, StatusCode::FORBIDDEN, "not in the role");
    assert_eq!(world.get("/version", "").await.1["gitVersion"], "v1.36.0+wharf");
    assert_eq!(world.get("/api/v1/pods", "").await, (StatusCode::UNAUTHORIZED, unauthorized()));
    assert_eq!(world.get("/api/v1/pods", "wrong").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.get("/livez", "root-token").await.1, "ok");
    assert_eq!(world.get("/livez?verbose", "root-token").await.1, "[+]ping ok\nlivez check passed\n");
    assert!(world.get("/readyz", "root-token").await.1.as_str().unwrap().contains("[-]store failed"));
    assert!(world.get("/metrics", "root-token").await.1.as_str().unwrap().contains("apiserver_request_total{"));
    assert_eq!(world.get("/openid/v1/jwks", "root-token").await.1["keys"][0]["alg"], "ES256");
}

fn unauthorized() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401})
}

#[tokio::test]
async fn acting_as_somebody_else() {
    let world = world(SystemClock::shared()).await;
    let act = async |token: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get("/api/v1/pods").header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (code, _, value) = world.send(request, "").await;
        (code.as_u16(), value["user"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(act("actor-token", &[]).await.0, 403);
    assert_eq!(act("actor-token", &[("impersonate-user", "jane")]).await, (200, "jane".into()));
    assert_eq!(act("actor-token", &[("impersonate-user", "root")]).await.0, 403);
    assert_eq!(act("actor-token", &[("impersonate-user", "jane"), ("impersonate-group", "system:masters")]).await.0, 403);
    assert_eq!(act("actor-token", &[("impersonate-user", "jane"), ("impersonate-extra-scopes", "x")]).await.0, 403);
    assert_eq!(act("jane-token", &[("impersonate-user", "jane")]).await.0, 403);
    assert_eq!(act("root-token", &[("impersonate-group", "x")]).await.0, 500);
    assert_eq!(act("root-token", &[("impersonate-user", "nobody")]).await.0, 403, "acts as nobody, who may nothing");
}

#[tokio::test]
async fn reviews() {
    let world = world(SystemClock::shared()).await;
    let review = async |user: &str, resource: &str, spec: Value| {
        let group =
            if resource == "tokenreviews" || resource == "selfsubjectreviews" { "authentication.k8s.io" } else { "authorization.k8s.io" };
        let user = Arc::new(User::new(user, ["dev"]));
        world.reviews.review(&user, group, resource, "", "", json!({"spec": spec})).await.map(|r| r["status"].clone())
    };
    let pods = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "x"}});
    assert_eq!(review("jane", "selfsubjectaccessreviews", pods.clone()).await.unwrap()["allowed"], true);
    assert_eq!(review("joe", "selfsubjectaccessreviews", pods).await.unwrap()["allowed"], false);
    let of = json!({"user": "jane", "resourceAttributes": {"verb": "delete", "resource": "pods"}});
    assert_eq!(review("x", "subjectaccessreviews", of).await.unwrap()["allowed"], false);
    assert_eq!(review("x", "subjectaccessreviews", json!({"user": "jane"})).await.unwrap_err().code(), Some(400));
    let who = review("jane", "selfsubjectreviews", Value::Null).await.unwrap();
    assert_eq!(who["userInfo"]["username"], "jane");
    let rules = review("jane", "selfsubjectrulesreviews", json!({"namespace": "x"})).await.unwrap();
    assert_eq!(rules["resourceRules"][0]["resources"][0], "pods");
    let token = world.issue(json!({})).await["status"]["token"].clone();
    let known = review("x", "tokenreviews", json!({"token": token})).await.unwrap();
    assert_eq!((&known["authenticated"], &known["user"]["username"]), (&json!(true), &json!("system:serviceaccount:ns:sa")));
    assert_eq!(review("x", "tokenreviews", json!({"token": "jane-token"})).await.unwrap()["user"]["username"], "jane");
    let unknown = review("x", "tokenreviews", json!({"token": "nope"})).await.unwrap();
    assert_ne!(unknown["authenticated"], true);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let world = world(SystemClock::shared()).await;
    let post = || Request::post("/api/v1/namespaces/ns/pods").header("authorization", "Bearer jane-token");
    let (code, _, seen) = world.send(post(), vec![b' '; MAX_BODY]).await;
    assert_eq!((code, seen["body"].as_u64()), (StatusCode::OK, Some(MAX_BODY as u64)));
    let (code, _, status) = world.send(post(), vec![b' '; MAX_BODY + 1]).await;
    assert_eq!((code, status["reason"].as_str()), (StatusCode::PAYLOAD_TOO_LARGE, Some("RequestEntityTooLarge")));
    let (code, ..) = world.send(post().header("content-length", MAX_BODY + 1), "").await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_panic_is_a_status() {
    let world = world(SystemClock::shared()).await;
    let (code, status) = world.get("/api/v1/namespaces/ns/pods/panic", "jane-token").await;
    assert_eq!((code, status["reason"].as_str()), (StatusCode::INTERNAL_SERVER_ERROR, Some("InternalError")));
    assert_eq!(world.get("/api/v1/namespaces/ns/pods/p", "jane-token").await.0, StatusCode::OK);
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let world = Arc::new(world(SystemClock::shared()).await);
    world.echo.waits.store(true, Ordering::SeqCst);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..MAX_READS {
        let world = world.clone();
        waiting.spawn(async move { world.get("/api/v1/pods", "jane-token").await.0 });
    }
    let _ = world.echo.entered.acquire_many(MAX_READS as u32).await.unwrap();
    let (code, headers, _) = world.send(Request::get("/api/v1/pods").header("authorization", "Bearer jane-token"), "").await;
    assert_eq!(code, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(headers["retry-after"], "1");
    assert!(headers.contains_key("audit-id"));
    // Writes have room of their own, and watches need none.
    world.echo.waits.store(false, Ordering::SeqCst);
    assert_eq!(
        world.send(Request::post("/api/v1/namespaces/ns/pods").header("authorization", "Bearer jane-token"), "").await.0,
        StatusCode::OK
    );
    assert_eq!(world.get("/api/v1/pods", "root-token").await.0, StatusCode::OK);
    assert_eq!(world.get("/api/v1/pods?watch=1", "root-token").await.0, StatusCode::OK);
    world.echo.gate.add_permits(MAX_READS);
    while let Some(code) = waiting.join_next().await {
        assert_eq!(code.unwrap(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_told_so() {
    let clock = ManualClock::default();
    let world = Arc::new(world(Arc::new(clock.clone())).await);
    world.echo.waits.store(true, Ordering::SeqCst);
    let asked = tokio::spawn({
        let world = world.clone();
        async move { world.get("/api/v1/pods", "jane-token").await }
    });
    let _ = world.echo.entered.acquire().await.unwrap();
    while clock.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(REQUEST_TIMEOUT);
    let (code, status) = asked.await.unwrap();
    assert_eq!((code, status["reason"].as_str()), (StatusCode::GATEWAY_TIMEOUT, Some("Timeout")));
}

#[tokio::test]
async fn exec_and_logs_without_a_socket() {
    use tokio::io::AsyncReadExt;
    let world = world(SystemClock::shared()).await;
    let client = world.service.kube_client(User::master("root"), "ns");
    let pods: kube::Api<Pod> = kube::Api::namespaced(client, "ns");
    let params = kube::api::AttachParams::default().stdin(true).stderr(false);
    let mut attached = pods.exec("p", ["cat"], &params).await.unwrap();
    let (mut stdin, mut stdout) = (attached.stdin().unwrap(), attached.stdout().unwrap());
    let status = attached.take_status().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut out = String::new();
    stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "hello");
    let status = status.await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    assert_eq!(status.details.unwrap().causes.unwrap()[0].message.as_deref(), Some("7"));

    let mut failed = pods.exec("p", ["missing"], &params).await.unwrap();
    assert_eq!(failed.take_status().unwrap().await.unwrap().message.as_deref(), Some("no such file"));

    let lines = pods.logs("p", &kube::api::LogParams { tail_lines: Some(3), ..Default::default() }).await.unwrap();
    assert_eq!(lines, "n1 ns/p pu c Some(3)\n");
    let error = pods.logs("q", &kube::api::LogParams::default()).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 404));

    let mut forwarded = pods.portforward("p", &[8080]).await.unwrap();
    let mut said = String::new();
    forwarded.take_stream(8080).unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "port 8080");
}

#[tokio::test]
async fn exec_over_get_needs_create() {
    let world = world(SystemClock::shared()).await;
    let pods: kube::Api<Pod> = kube::Api::namespaced(world.service.kube_client(User::new("jane", ["dev"]), "ns"), "ns");
    let error = pods.exec("p", ["cat"], &kube::api::AttachParams::default().stderr(false)).await.err().unwrap();
    assert!(matches!(&error, kube::Error::Api(status) if status.message.contains("cannot create resource \"pods/exec\"")), "{error:?}");
}

type TlsStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn connect_tls(address: SocketAddr, ca: &str, client: Option<Identity>) -> Result<TlsStream, Box<dyn std::error::Error>> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(ca.as_bytes())?)?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match client {
        Some(identity) => {
            let (certificate, key) = identity.der()?;
            config.with_client_auth_cert(vec![certificate], key)?
        }
        None => config.with_no_client_auth(),
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(address).await?;
    Ok(connector.connect("localhost".try_into()?, stream).await?)
}

/// One request over TLS.
async fn over_tls(address: SocketAddr, ca: &str, client: Option<Identity>, path: &str) -> Result<(u16, Value), Box<dyn std::error::Error>> {
    let stream = connect_tls(address, ca, client).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Full::<Bytes>::default())?;
    let response = sender.send_request(request).await?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
}

#[tokio::test]
async fn certificates_over_tls() {
    let world = world(SystemClock::shared()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = TlsOptions { identity: world.pki.serving(&[], &[]).unwrap(), client_ca: world.pki.ca_certificate().to_owned() };
    let server = tokio::spawn({
        let service = world.service.clone();
        async move { service.serve(listener, &options).await }
    });
    let ca = world.pki.ca_certificate();
    let jane = world.pki.client("jane", Some("dev")).unwrap();
    let (code, seen) = over_tls(address, ca, Some(jane), "/api/v1/pods").await.unwrap();
    assert_eq!((code, seen["user"].as_str()), (200, Some("jane")));
    assert_eq!(over_tls(address, ca, None, "/api/v1/pods").await.unwrap().0, 401);
    assert_eq!(over_tls(address, ca, None, "/version").await.unwrap().0, 200);
    // Signed by somebody else; expired; and not for clients.
    let foreign = Pki::generate(&SystemClock::default()).unwrap().client("jane", Some("dev")).unwrap();
    assert!(over_tls(address, ca, Some(foreign), "/version").await.is_err());
    assert!(over_tls(address, ca, Some(world.pki.serving(&[], &[]).unwrap()), "/version").await.is_err());
    world.service.parts().stop.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn exec_over_tls_answers_each_line_before_the_next() {
    use futures::SinkExt;
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
    let world = world(SystemClock::shared()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = TlsOptions { identity: world.pki.serving(&[], &[]).unwrap(), client_ca: world.pki.ca_certificate().to_owned() };
    let service = world.service.clone();
    let server = tokio::spawn(async move { service.serve(listener, &options).await });
    let root = world.pki.client("root", Some("system:masters")).unwrap();
    let stream = connect_tls(address, world.pki.ca_certificate(), Some(root)).await.unwrap();
    let url = "wss://localhost/api/v1/namespaces/ns/pods/p/exec?command=cat&stdin=true&stdout=true";
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("v5.channel.k8s.io"));
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    // After an upgrade nobody gathers: what is written must go out by its own flush.
    for line in ["one", "two"] {
        socket.send(Message::Binary([&[0], line.as_bytes()].concat().into())).await.unwrap();
        let heard = loop {
            let data = socket.next().await.unwrap().unwrap().into_data();
            // The server may announce its streams by empty messages.
            if data.len() > 1 {
                break data;
            }
        };
        assert_eq!(heard, [&[1], line.as_bytes()].concat());
    }
    drop(socket);
    world.service.parts().stop.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_never_proves_itself_is_dropped() {
    let world = world(SystemClock::shared()).await;
    let connection = Connection::default();
    for n in 1..=MAX_UNAUTHENTICATED {
        assert!(!connection.drop.is_cancelled(), "after {n}");
        let mut request = Request::get("/api").body(Full::<Bytes>::default()).unwrap();
        request.extensions_mut().insert(connection.clone());
        world.service.clone().call(request).await.unwrap();
    }
    assert!(connection.drop.is_cancelled());
}
