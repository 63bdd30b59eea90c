//! A server whose answers a test gives one by one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use wharf_client::RemoteApi;
use wharf_core::api::SharedApi;
use wharf_core::clock::ManualClock;
use wharf_core::runtime::BoxError;

/// After which a test is taken to hang.
pub const HANGS: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Answer = Result<Response<Body>, BoxError>;

/// A body as it is sent; ends in good order when dropped.
pub type Sender = mpsc::UnboundedSender<Result<Bytes, BoxError>>;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: String,
    answer: oneshot::Sender<Answer>,
}

impl Asked {
    fn send(self, code: u16, headers: &[(&str, &str)]) -> Sender {
        let (send, receive) = mpsc::unbounded_channel::<Result<Bytes, BoxError>>();
        let frames = futures::stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?.map(Frame::data), receive)) });
        let mut response = Response::builder().status(code);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.answer.send(Ok(response.body(StreamBody::new(frames.boxed()).boxed_unsync()).unwrap())).unwrap();
        send
    }
    /// Answers with a text.
    pub fn text(self, code: u16, headers: &[(&str, &str)], text: &str) {
        self.send(code, headers).send(Ok(Bytes::from(text.to_owned()))).unwrap();
    }
    pub fn json(self, code: u16, body: &Value) {
        self.text(code, &[], &body.to_string());
    }
    /// Answers, and sends the body by and by.
    pub fn stream(self) -> Sender {
        self.send(200, &[])
    }
    /// There is no answer: the connection is refused or broken.
    pub fn refuse(self) {
        self.answer.send(Err("connection refused".into())).unwrap();
    }
    /// A parameter of the query.
    pub fn param(&self, name: &str) -> Option<&str> {
        let query = self.uri.split_once('?').map_or("", |(_, query)| query);
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name)).map(|(_, value)| value)
    }
    pub fn is_watch(&self) -> bool {
        self.param("watch") == Some("true")
    }
}

#[derive(Debug)]
pub struct Script {
    pub api: SharedApi,
    pub clock: ManualClock,
    asked: mpsc::UnboundedReceiver<Asked>,
}

impl Script {
    pub fn new() -> Self {
        let (send, asked) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (answer, answered) = oneshot::channel();
            let (method, uri) = (request.method().clone(), request.uri().to_string());
            // A test that is over asks no more.
            let _ = send.send(Asked { method, uri, answer });
            async move { answered.await.unwrap_or_else(|_| Err("the test is over".into())) }
        });
        let clock = ManualClock::default();
        let api: SharedApi = Arc::new(RemoteApi::new(kube::Client::new(service, "default"), Arc::new(clock.clone())));
        Self { api, clock, asked }
    }
    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        tokio::time::timeout(HANGS, self.asked.recv()).await.expect("nothing is asked").unwrap()
    }
    /// The next request, after as long a wait as it takes.
    pub async fn asked_later(&mut self) -> Asked {
        for _ in 0..10_000 {
            if let Some(asked) = self.asked_already().await {
                return asked;
            }
            self.clock.advance(Duration::from_millis(50));
        }
        panic!("nothing is asked");
    }
    /// The next request, if there is one once everything has gone as far as it goes without time.
    pub async fn asked_already(&mut self) -> Option<Asked> {
        settle().await;
        self.asked.try_recv().ok()
    }
}

/// Lets every task go on until all wait.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

pub fn map(name: &str, revision: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": revision.to_string()}})
}

pub fn list(revision: u64, items: &[Value]) -> Value {
    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": revision.to_string()}, "items": items})
}

pub fn event(kind: &str, object: &Value) -> Result<Bytes, BoxError> {
    Ok(Bytes::from(format!("{}\n", json!({"type": kind, "object": object}))))
}

pub fn bookmark(revision: u64) -> Result<Bytes, BoxError> {
    event("BOOKMARK", &json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": revision.to_string()}}))
}

pub fn expired() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version: 5 (9)"})
}
