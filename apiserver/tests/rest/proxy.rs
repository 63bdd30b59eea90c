//! Requests that are passed on to pods, services and nodes; the backends are in memory, behind a dialer that notes what it is asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::Service;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::{RequestUser, User};
use wharf_apiserver::stream::proxy::Dialer;
use wharf_core::clock::ManualClock;
use wharf_core::runtime::Duplex;
use wharf_store_memory::MemoryStore;

const PODS: &str = "/api/v1/namespaces/default/pods";
const PIPE: usize = 64 << 10;

/// Answers with what it was asked; says `echo` back on an upgraded connection.
async fn backend(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    let answer = Response::builder();
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        let answer = answer.status(101).header("connection", "Upgrade").header("upgrade", "websocket").header("sec-websocket-accept", "x");
        return Ok(answer.body(Full::default()).unwrap());
    }
    if request.uri().path() == "/away" {
        let answer = answer.status(302).header("location", "/login?x=1").header("access-control-allow-origin", "*");
        return Ok(answer.body(Full::default()).unwrap());
    }
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = json!({"method": head.method.as_str(), "uri": head.uri.to_string(), "host": header("host"), "forwarded": header("x-forwarded-uri"),
        "authorization": header("authorization"), "own": header("x-own"), "body": body.len()});
    Ok(answer.status(if head.uri.path() == "/teapot" { 418 } else { 200 }).body(Full::from(seen.to_string())).unwrap())
}

#[derive(Debug, Default)]
struct Backends {
    dialed: Mutex<Vec<String>>,
}

#[async_trait]
impl Dialer for Backends {
    async fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn Duplex>> {
        self.dialed.lock().unwrap().push(address.to_string());
        if address.port() == 9 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = tokio::io::duplex(PIPE);
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service_fn(backend)).with_upgrades();
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(Box::new(near))
    }
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "good.example" => Ok(vec!["10.9.9.9".parse().unwrap()]),
            "trap.example" => Ok(vec!["10.9.9.9".parse().unwrap(), "127.0.0.1".parse().unwrap()]),
            _ => Err(io::Error::other("no such host")),
        }
    }
}

struct World {
    server: ApiServer,
    backends: Arc<Backends>,
}

impl World {
    async fn new() -> Self {
        let backends = Arc::new(Backends::default());
        let store = Arc::new(MemoryStore::new());
        let server = ApiServer::builder(store, Arc::new(ManualClock::default())).dialer(backends.clone()).build().await.unwrap();
        server.ready().await;
        let world = Self { server, backends };
        world
            .make(
                "/api/v1/namespaces/default/services",
                json!({"metadata": {"name": "s"},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}, {"name": "other", "port": 81}]}}),
            )
            .await;
        world.pod("p", "10.0.0.5").await;
        world
    }
    /// A connection to the server, as a user.
    async fn connect(&self, user: User) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(PIPE);
        let (service, user) = (self.server.service().clone(), Arc::new(user));
        let serve = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(RequestUser(user.clone()));
            service.clone().call(request)
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), serve).with_upgrades();
        tokio::spawn(connection);
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }
    async fn as_user(&self, user: User, request: http::request::Builder, body: impl Into<Bytes>) -> (StatusCode, HeaderMap, Value) {
        let request = request.header("host", "api.example").body(Full::new(body.into())).unwrap();
        let (head, body) = self.connect(user).await.send_request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap_or_default())
    }
    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> (u16, HeaderMap, Value) {
        let (code, headers, value) = self.as_user(User::master("admin"), request, body).await;
        (code.as_u16(), headers, value)
    }
    async fn get(&self, uri: &str) -> (u16, Value) {
        let (code, _, value) = self.send(Request::get(uri), "").await;
        (code, value)
    }
    async fn make(&self, uri: &str, object: Value) {
        let (code, _, made) = self.send(Request::post(uri).header("content-type", "application/json"), object.to_string()).await;
        assert_eq!(code, 201, "{made}");
    }
    async fn status(&self, uri: &str, status: Value) {
        let patch = Request::patch(format!("{uri}/status")).header("content-type", "application/merge-patch+json");
        let (code, _, made) = self.send(patch, json!({"status": status}).to_string()).await;
        assert_eq!(code, 200, "{made}");
    }
    async fn pod(&self, name: &str, ip: &str) {
        self.make(
            PODS,
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 8080}]}]}}),
        )
        .await;
        self.status(&format!("{PODS}/{name}"), json!({"podIP": ip, "podIPs": [{"ip": ip}]})).await;
    }
    async fn slice(&self, name: &str, pod: &str, ip: &str) {
        self.make("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}}]})).await;
    }
    fn dialed(&self) -> Vec<String> {
        std::mem::take(&mut self.backends.dialed.lock().unwrap())
    }
}

#[tokio::test]
async fn a_request_reaches_a_pod_as_it_is() {
    let w = World::new().await;
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let request = Request::builder().method(method.clone()).uri(format!("{PODS}/p/proxy/a//b%2Fc/?x=1&y=%20")).header("x-own", "1");
        let (code, _, seen) = w.send(request.header("authorization", "Bearer secret"), "body").await;
        let forwarded = format!("{PODS}/p/proxy/a/b%2Fc/");
        let want = json!({"method": method.as_str(), "uri": "/a//b%2Fc/?x=1&y=%20", "host": "api.example", "forwarded": forwarded,
            "authorization": null, "own": "1", "body": 4});
        assert_eq!((code, seen), (200, want));
    }
    assert_eq!(w.dialed(), vec!["10.0.0.5:8080"; 5]);
    assert_eq!(w.get(&format!("{PODS}/p:81/proxy/teapot")).await.0, 418);
    assert_eq!(w.get(&format!("{PODS}/http:p:82/proxy/")).await.0, 200);
    assert_eq!(w.dialed(), ["10.0.0.5:81", "10.0.0.5:82"]);
    // A body larger than any object passes.
    let (code, _, seen) = w.send(Request::post(format!("{PODS}/p/proxy/big")), vec![0; 4 << 20]).await;
    assert_eq!((code, &seen["body"]), (200, &json!(4 << 20)));
}

#[tokio::test]
async fn redirects_are_told_and_not_followed() {
    let w = World::new().await;
    let (code, headers, _) = w.send(Request::get(format!("{PODS}/p/proxy/away")), "").await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (302, &*format!("{PODS}/p/proxy/login?x=1")));
    assert!(!headers.contains_key("access-control-allow-origin"));
    assert_eq!(w.dialed().len(), 1);
    // The root is one with a slash, so that relative links work.
    let (code, headers, _) = w.send(Request::get(format!("{PODS}/p/proxy?x=1")), "").await;
    assert_eq!((code, headers["location"].to_str().unwrap()), (301, &*format!("{PODS}/p/proxy/?x=1")));
    assert_eq!(w.dialed(), Vec::<String>::new());
}

#[tokio::test]
async fn only_addresses_of_pods_and_nodes_are_reached() {
    let w = World::new().await;
    w.pod("inside", "127.0.0.1").await;
    for (name, code, message) in [
        ("inside", 400, "address not allowed"),
        ("none", 404, "pods \"none\" not found"),
        ("ftp:p:21", 400, "invalid pod request \"ftp:p:21\""),
        ("p:9", 503, "error trying to reach service: dial tcp 10.0.0.5:9: connect: connection refused"),
        ("p:web", 503, "error trying to reach service: dial tcp: lookup tcp/web: unknown port"),
    ] {
        let (found, refused) = w.get(&format!("{PODS}/{name}/proxy/")).await;
        assert_eq!((found, &refused["message"]), (code, &json!(message)));
    }
    let node = async |name: &str, kind: &str, address: &str| {
        w.make("/api/v1/nodes", json!({"metadata": {"name": name}})).await;
        w.status(&format!("/api/v1/nodes/{name}"), json!({"addresses": [{"type": kind, "address": address}]})).await;
    };
    node("n", "InternalIP", "10.1.1.1").await;
    node("named", "Hostname", "good.example").await;
    node("trap", "Hostname", "trap.example").await;
    w.dialed();
    assert_eq!(w.get("/api/v1/nodes/n:10250/proxy/metrics").await.1["uri"], "/metrics");
    assert_eq!(w.get("/api/v1/nodes/named:80/proxy/").await.0, 200);
    assert_eq!(w.dialed(), ["10.1.1.1:10250", "10.9.9.9:80"]);
    assert_eq!(w.get("/api/v1/nodes/trap:80/proxy/").await.1["message"], "address not allowed");
    assert_eq!(w.get("/api/v1/nodes/n/proxy/").await.0, 503);
    assert_eq!(w.dialed(), Vec::<String>::new());
}

#[tokio::test]
async fn a_service_leads_to_pods_that_are_really_there() {
    let w = World::new().await;
    const S: &str = "/api/v1/namespaces/default/services";
    let message = async |name: &str| w.get(&format!("{S}/{name}/proxy/")).await.1["message"].clone();
    assert_eq!(message("s:80").await, "no endpoints available for service \"s\"");
    // Names an address that its pod does not have.
    w.slice("false", "p", "10.0.0.66").await;
    assert_eq!(message("s:80").await, "no endpoints available for service \"s:80\"");
    w.slice("true", "p", "10.0.0.5").await;
    for name in ["s:80", "s:web", "http:s:web"] {
        let (code, seen) = w.get(&format!("{S}/{name}/proxy/x")).await;
        assert_eq!((code, &seen["uri"]), (200, &json!("/x")), "{seen}");
    }
    assert_eq!(w.dialed(), vec!["10.0.0.5:8080"; 3]);
    assert_eq!(message("s:82").await, "no service port 82 found for service \"s\"");
    assert_eq!(message("s:81").await, "no endpoints available for service \"s:81\"");
    assert_eq!(message("x").await, "endpoints \"x\" not found");
    assert_eq!(message("x:80").await, "services \"x\" not found");
}

#[tokio::test]
async fn upgrades_become_connections() {
    let w = World::new().await;
    let request = Request::get(format!("{PODS}/p/proxy/ws")).header("host", "api.example").header("connection", "Upgrade");
    let request = request.header("upgrade", "websocket").header("sec-websocket-key", "k").body(Full::default()).unwrap();
    let response = w.connect(User::master("admin")).await.send_request(request).await.unwrap();
    assert_eq!((response.status(), response.headers()["sec-websocket-accept"].as_bytes()), (StatusCode::SWITCHING_PROTOCOLS, &b"x"[..]));
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"echo").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"echo");
}

#[tokio::test]
async fn the_method_is_the_verb_that_is_asked_for() {
    let w = World::new().await;
    w.make(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
        json!({"metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]}]}),
    )
    .await;
    w.make(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
        json!({"metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "jane"}]}),
    )
    .await;
    let jane = || User::new("jane", ["system:authenticated"]);
    let uri = format!("{PODS}/p/proxy/");
    // The role is seen as soon as the authorizer's informers are.
    while w.as_user(jane(), Request::get(&uri), "").await.0 == StatusCode::FORBIDDEN {
        tokio::task::yield_now().await;
    }
    let (code, _, refused) = w.as_user(jane(), Request::post(&uri), "").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let want =
        "pods \"p\" is forbidden: User \"jane\" cannot create resource \"pods/proxy\" in API group \"\" in the namespace \"default\"";
    assert_eq!(refused["message"], want);
    assert_eq!(w.as_user(jane(), Request::get("/api/v1/namespaces/default/services/s/proxy/"), "").await.0, StatusCode::FORBIDDEN);
}
