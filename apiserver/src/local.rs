//! The API for code in this process: no socket, no HTTP, the same authorization and admission.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use kube::core::ApiResource;
use wharf_core::api::{Api, ApiError, ApiEvent, ApiWatch, ObjectList, Query, Target, Verb, Write};
use wharf_core::object::Object;
use wharf_core::store::{Fence, Revision};

use crate::gate::{Authorizer, Decision, forbidden};
use crate::request::{RequestInfo, User};
use crate::resources::Resource;
use crate::resources::value::text;
use crate::rest::body::read_local;
use crate::rest::read::{ListRequest, ReadAt, WatchEvent, WatchRequest};
use crate::rest::select::Selection;
use crate::rest::{MAX_BODY, Registry, WriteContext, status};

/// [`Api`] for one user, over a registry in this process.
#[derive(Debug, Clone)]
pub struct LocalApi {
    registry: Arc<Registry>,
    authorizer: Arc<dyn Authorizer>,
    user: Arc<User>,
    fence: Option<Fence>,
}

impl LocalApi {
    /// Whatever is asked for is asked for by `user`.
    pub fn new(registry: Arc<Registry>, authorizer: Arc<dyn Authorizer>, user: User) -> Self {
        Self { registry, authorizer, user: Arc::new(user), fence: None }
    }

    /// The same for one who leads: the store carries a write out only while `fence` is the newest acquisition of its lease. A write after
    /// that changes nothing and fails with [`ApiError::is_fenced`].
    pub fn fenced(self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self }
    }

    fn row(&self, resource: &ApiResource) -> Result<Arc<Resource>, ApiError> {
        self.registry.row(&resource.group, &resource.version, &resource.plural).ok_or_else(status::no_such_path)
    }

    async fn authorize(&self, verb: &str, row: &Resource, subresource: &str, namespace: &str, name: &str) -> Result<(), ApiError> {
        // As over HTTP: what is in no namespace is asked for in none, and a namespace is in itself.
        let namespace = if row.namespaced {
            namespace
        } else if row.group.is_empty() && row.plural == "namespaces" {
            name
        } else {
            ""
        };
        let info = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: row.group.to_string(),
            version: row.version.to_string(),
            resource: row.plural.to_string(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: String::new(),
        };
        let reason = match self.authorizer.authorize(&self.user, &info).await {
            Decision::Allow => return Ok(()),
            Decision::Deny { reason } => reason,
            Decision::NoOpinion => String::new(),
        };
        Err(ApiError::Status(Box::new(forbidden(&self.user, &info, &reason))))
    }

    fn selection(row: &Resource, query: &Query) -> Result<Selection, ApiError> {
        let labels = query.label_selector.as_deref().unwrap_or_default();
        Selection::parse(row, query.namespace.clone(), labels, query.field_selector.as_deref().unwrap_or_default())
    }
}

/// What a part that names no field manager is called: as the program that does its job in Kubernetes.
fn manager_of(user: &User) -> &'static str {
    match user.name.as_str() {
        "system:kube-scheduler" => "kube-scheduler",
        "system:kube-controller-manager" => "kube-controller-manager",
        name if name.starts_with("system:node:") => "kubelet",
        name if name.starts_with("system:serviceaccount:kube-system:") => "kube-controller-manager",
        _ => "wharf",
    }
}

#[async_trait]
impl Api for LocalApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        let row = &self.row(&target.resource)?;
        let (namespace, name) = (&target.object.namespace, &target.object.name);
        self.authorize("get", row, target.subresource, namespace, name).await?;
        match target.subresource {
            "" | "status" | "ephemeralcontainers" | "resize" => {
                self.registry.get(row, if row.namespaced { namespace } else { "" }, name, ReadAt::Newest).await
            }
            "scale" if row.subresources.contains(&"scale") => self.registry.get_scale(row, namespace, name).await,
            _ => Err(status::no_such_path()),
        }
    }

    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError> {
        let row = &self.row(resource)?;
        self.authorize("list", row, "", query.namespace.as_deref().unwrap_or_default(), "").await?;
        let request =
            ListRequest { selection: Self::selection(row, query)?, at: ReadAt::Newest, limit: None, continue_token: String::new() };
        let answer = self.registry.list(row, &request).await?;
        Ok(ObjectList { items: answer.items, revision: answer.revision })
    }

    async fn watch(&self, resource: &ApiResource, query: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        let row = &self.row(resource)?;
        self.authorize("watch", row, "", query.namespace.as_deref().unwrap_or_default(), "").await?;
        let selection = Self::selection(row, query)?;
        let request = WatchRequest { selection, after: Some(after), initial_events: Some(false), bookmarks: true, timeout: None };
        let watch = self.registry.watch(row, request).await?;
        Ok(Box::pin(watch.map(|event| {
            Ok(match event? {
                WatchEvent::Added(object) => ApiEvent::Added(object),
                WatchEvent::Modified(object) => ApiEvent::Modified(object),
                WatchEvent::Deleted(object) => ApiEvent::Deleted(object),
                WatchEvent::Bookmark { revision, .. } => ApiEvent::Bookmark(revision),
            })
        })))
    }

    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        let row = &self.row(&write.target.resource)?;
        let sub = write.target.subresource;
        let body_namespace;
        let (mut namespace, name) = (&*write.target.object.namespace, &*write.target.object.name);
        let mut parsed = None;
        if let Verb::Create(body) | Verb::Update(body) = &write.verb {
            let value = read_local(body, &row.kind)?;
            if row.namespaced && namespace.is_empty() {
                body_namespace = text(&value, &["metadata", "namespace"]).to_owned();
                namespace = &body_namespace;
            }
            parsed = Some(value);
        }
        if let Verb::Patch { body, .. } = &write.verb
            && body.len() > MAX_BODY
        {
            return Err(status::too_large(MAX_BODY));
        }
        if row.namespaced && namespace.is_empty() {
            return Err(status::bad_request("an empty namespace may not be set during creation or change"));
        }
        let stored_namespace = if row.namespaced { namespace } else { "" };
        if !sub.is_empty() && !row.subresources.contains(&sub) {
            return Err(status::no_such_path());
        }
        let verb = match &write.verb {
            Verb::Create(_) => "create",
            Verb::Update(_) => "update",
            Verb::Patch { .. } => "patch",
            Verb::Delete(_) => "delete",
        };
        self.authorize(verb, row, sub, namespace, if verb == "create" && sub.is_empty() { "" } else { name }).await?;
        let mut ctx = WriteContext::new(self.user.clone());
        ctx.field_manager = if write.field_manager.is_empty() { manager_of(&self.user).into() } else { write.field_manager };
        ctx.fence.clone_from(&self.fence);
        // Boxed: these futures are large, and every caller holds them.
        Box::pin(self.registry.carry_out(&ctx, row, sub, stored_namespace, name, write.verb, parsed)).await
    }
}
