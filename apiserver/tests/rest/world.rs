//! An API server over the memory store, asked through the trait and through HTTP requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;
use wharf_core::api::{Api, Kind};
use wharf_core::clock::{Clock, ManualClock};
use wharf_core::object::ObjectRef;
use wharf_core::store::SharedStore;
use wharf_store_memory::MemoryStore;

pub struct World {
    pub server: ApiServer,
    pub api: Arc<dyn Api>,
    pub store: SharedStore,
    pub clock: ManualClock,
}

pub async fn world_over(store: SharedStore) -> World {
    let clock = ManualClock::default();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let server = ApiServer::builder(store.clone(), shared).build().await.unwrap();
    let api = server.local(User::master("admin"));
    World { server, api, store, clock }
}

pub async fn world() -> World {
    world_over(Arc::new(MemoryStore::new())).await
}

pub fn typed<K: Kind>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub fn pod(name: &str) -> Pod {
    typed(json!({"metadata":{"name":name,"namespace":"default","labels":{"app":name}},"spec":{"containers":[{"name":"a","image":"x:1"}]}}))
}

pub fn deployment(name: &str) -> Value {
    json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":name},
        "spec":{"selector":{"matchLabels":{"app":name}},"template":{"metadata":{"labels":{"app":name}},"spec":{"containers":[{"name":"a","image":"x:1"}]}}}})
}

pub fn at(name: &str) -> ObjectRef {
    ObjectRef::new("default", name)
}

impl World {
    pub async fn http(&self, method: Method, uri: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value, http::HeaderMap) {
        self.http_accepting(method, uri, content_type, "application/json", body).await
    }
    pub async fn http_accepting(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        accept: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Value, http::HeaderMap) {
        let request = Request::builder().method(method).uri(uri).header("content-type", content_type).header("accept", accept);
        let request = request.body(body.into()).unwrap();
        let info = path::parse(request.method(), request.uri());
        let response = self.server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null), parts.headers)
    }
    pub async fn get(&self, uri: &str) -> (u16, Value) {
        let (code, value, _) = self.http(Method::GET, uri, "", "").await;
        (code, value)
    }
    pub async fn post(&self, uri: &str, body: &Value) -> (u16, Value) {
        let (code, value, _) = self.http(Method::POST, uri, "application/json", body.to_string()).await;
        (code, value)
    }
}

impl World {
    pub async fn patch(&self, uri: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let (code, value, _) = self.http(Method::PATCH, uri, content_type, body.to_string()).await;
        (code, value)
    }
}
