//! Logs, exec, attach and port-forward: from the client's connection to the pod's node. And `proxy`, to whatever listens there.

mod container;
mod exec;
mod logs;
mod port_forward;
pub mod proxy;
mod spdy;
mod tunnel;
mod websocket;

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Response};
use hyper::upgrade::OnUpgrade;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio_util::sync::CancellationToken;
use wharf_core::api::{SharedApi, Target};
use wharf_core::clock::Clock;
use wharf_core::node::NodeConnector;
use wharf_core::object::ObjectRef;

use crate::request::{RequestInfo, User};
use crate::rest::path::query_pairs;
use crate::server::Body;
use crate::server::body::{failure, status_of};

/// Serves the subresources of pods that are streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodStreams {
    api: SharedApi,
    nodes: Arc<dyn NodeConnector>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

/// The pod that a request is about, and what it says in its query.
#[derive(Debug)]
struct Asked {
    pod: Arc<Pod>,
    object: ObjectRef,
    uid: String,
    node: String,
    query: Query,
}

/// Parameters of a query.
#[derive(Debug)]
struct Query(Vec<(String, String)>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    /// As Kubernetes converts query values: present and neither `0` nor `false` is true.
    fn flag(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "0" | "false"))
    }
    fn number(&self, name: &str) -> Result<Option<i64>, Box<Status>> {
        let number = |v: &str| v.parse().map_err(|_| bad_request(format!("{name} must be a number, not {v:?}")));
        self.get(name).map(number).transpose()
    }
}

fn bad_request(message: impl Into<String>) -> Box<Status> {
    Box::new(failure(400, "BadRequest", message))
}

impl PodStreams {
    /// Pods are looked up in `api`, which answers without authorization, and reached through `nodes`. Streams end with
    /// `stop`.
    pub fn new(api: SharedApi, nodes: Arc<dyn NodeConnector>, clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        Self { api, nodes, clock, stop }
    }

    /// Whether a request for a pod is for one of these streams.
    pub fn serves(info: &RequestInfo) -> bool {
        !info.name.is_empty() && matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward")
    }

    /// Serves a request that has been authorized.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn serve(
        &self,
        user: &User,
        info: &RequestInfo,
        parts: &Parts,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Response<Body>, Box<Status>> {
        if !matches!(parts.method, Method::GET | Method::POST) {
            return Err(Box::new(failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")));
        }
        let object = ObjectRef::new(info.namespace.as_str(), info.name.as_str());
        let found = self.api.get(&Target::of::<Pod>(object.clone())).await.map_err(|e| Box::new(status_of(e)))?;
        let pod = found.decode::<Pod>().map_err(|e| Box::new(status_of(e.into())))?;
        let asked = Asked {
            object,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
            pod,
            query: Query(query_pairs(&parts.uri)),
        };
        tracing::debug!(user = %user.name, pod = %asked.object, subresource = %info.subresource, "reaching into a pod");
        match info.subresource.as_str() {
            "log" => logs::serve(self, &asked).await,
            "portforward" => port_forward::serve(self, asked, parts, upgrade),
            "exec" => exec::serve(self, asked, parts, upgrade, exec::What::Exec),
            _ => exec::serve(self, asked, parts, upgrade, exec::What::Attach),
        }
    }
}
