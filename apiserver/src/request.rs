//! What every layer of a request knows about it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User name; `system:anonymous` without credentials.
    pub name: String,
    /// Uid, when the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { name: name.into(), uid: String::new(), groups: groups.into_iter().map(Into::into).collect(), extra: BTreeMap::new() }
    }
    /// A member of `system:masters`, whom RBAC lets do everything.
    pub fn master(name: impl Into<String>) -> Self {
        Self::new(name, ["system:masters", "system:authenticated"])
    }
}

/// A request as authorization sees it; Kubernetes' RequestInfo.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// Whether the path is that of a resource.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method in lower case.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// The path as asked for.
    pub path: String,
}

/// The user of a request, as an extension of the `http::Request`.
#[derive(Debug, Clone)]
pub struct RequestUser(pub Arc<User>);
