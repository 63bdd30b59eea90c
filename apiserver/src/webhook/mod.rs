//! Calls to the webhooks that people put beside the API server: what converts custom resources, what admits.

mod connect;
mod hook;
mod trust;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::Value;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;

use self::connect::Connector;
pub(crate) use self::hook::Hook;
use crate::stream::proxy::Dialer;

/// Largest answer of a webhook, in bytes.
pub const MAX_ANSWER: usize = 64 << 20;
/// Most webhooks whose connections are kept for the next call.
pub const MAX_KEPT: usize = 256;
/// Connections to one webhook that wait for the next call.
const IDLE_CONNECTIONS: usize = 4;
/// Longest part of an answer that an error quotes, in bytes.
const QUOTED: usize = 256;

/// Versions of reviews that this server speaks, of conversion and of admission alike.
pub(crate) const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The first of some versions that this server speaks.
pub(crate) fn spoken(versions: &[Value]) -> Option<&str> {
    versions.iter().filter_map(Value::as_str).find(|version| REVIEWS.contains(version))
}

/// Why a webhook gave no answer. The text is for the client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// Not in time.
    #[error("Post \"{url}\": context deadline exceeded")]
    Timeout { url: String },
    /// It was not reached, or the connection broke.
    #[error("Post \"{url}\": {why}")]
    Unreachable { url: String, why: String },
    /// It refused.
    #[error("an error on the server (\"{text}\") has prevented the request from succeeding: status code {code}")]
    Refused { code: StatusCode, text: String },
    /// The answer makes no sense.
    #[error("the answer does not decode: {0}")]
    Malformed(String),
}

type Kept = Client<Connector, Full<Bytes>>;

/// Calls webhooks, and keeps the connections to them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Webhooks(Arc<Inner>);

struct Inner {
    api: SharedApi,
    dialer: Arc<dyn Dialer>,
    clock: Arc<dyn Clock>,
    clients: Mutex<HashMap<Hook, Kept>>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhooks")
    }
}

/// The text of an error with its causes, without repeating them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

impl Webhooks {
    /// Services are looked up in `api`, which answers without authorization, and reached through `dialer`.
    pub(crate) fn new(api: SharedApi, dialer: Arc<dyn Dialer>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { api, dialer, clock, clients: Mutex::default() }))
    }

    fn client(&self, hook: &Hook) -> Result<Kept, String> {
        if let Some(known) = self.0.clients.lock().get(hook) {
            return Ok(known.clone());
        }
        let tls = trust::config(hook.bundle())?;
        let connector = Connector::new(hook.clone(), self.0.api.clone(), self.0.dialer.clone(), tls);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(IDLE_CONNECTIONS).build(connector);
        let mut clients = self.0.clients.lock();
        if clients.len() >= MAX_KEPT {
            clients.clear();
        }
        clients.insert(hook.clone(), client.clone());
        Ok(client)
    }

    /// Posts a review and reads the answer.
    ///
    /// # Cancellation
    /// A dropped call ends the request; what the webhook did meanwhile stays done.
    pub(crate) async fn call(&self, hook: &Hook, review: &Value, timeout: Duration) -> Result<Value, HookError> {
        let url = hook.url(timeout);
        tokio::select! {
            answer = Box::pin(self.post(hook, &url, review)) => answer,
            () = self.0.clock.sleep(timeout) => Err(HookError::Timeout { url }),
        }
    }

    async fn post(&self, hook: &Hook, url: &str, review: &Value) -> Result<Value, HookError> {
        let unreachable = |why: String| HookError::Unreachable { url: url.to_owned(), why };
        let client = self.client(hook).map_err(&unreachable)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, concat!("wharf-apiserver/", env!("CARGO_PKG_VERSION")))
            .body(Full::from(review.to_string()))
            .map_err(|e| unreachable(e.to_string()))?;
        let answer = client.request(request).await.map_err(|e| unreachable(chain(&e)))?;
        let (head, body) = answer.into_parts();
        let bytes = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| unreachable(chain(&*e)))?.to_bytes();
        if !head.status.is_success() {
            let quoted = bytes.get(..QUOTED.min(bytes.len())).unwrap_or_default();
            let text = String::from_utf8_lossy(quoted).trim().to_owned();
            return Err(HookError::Refused { code: head.status, text });
        }
        serde_json::from_slice(&bytes).map_err(|e| HookError::Malformed(e.to_string()))
    }
}
