//! May they: the [`Authorizer`] trait and its implementations.

mod bootstrap;
pub mod node;
mod policy;
pub mod rbac;
pub mod rules;
pub mod union;

use std::fmt;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};

use crate::request::{RequestInfo, User};

pub use bootstrap::{BootstrapError, bootstrap};
pub use node::NodeAuthorizer;
pub use rbac::Rbac;
pub use union::{Masters, Union};

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, whatever others say.
    Deny {
        /// Why, for the client to read; may be empty.
        reason: String,
    },
    /// Not this one; ask the next. If nobody allows, it is refused.
    NoOpinion,
}

/// Decides whether a user may do something.
///
/// # Contract
/// The answer depends on the user, the request and the policy alone. An authorizer that cannot read its policy
/// answers `NoOpinion` or waits; it never allows.
///
/// # Cancellation
/// Has no effect.
///
/// # Errors
/// None: what cannot be decided is not allowed.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// It runs for every request: answer from memory.
#[async_trait]
pub trait Authorizer: Send + Sync + fmt::Debug + 'static {
    /// Whether `user` may do what `request` asks for.
    async fn authorize(&self, user: &User, request: &RequestInfo) -> Decision;
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// The refusal, in Kubernetes' words.
pub fn forbidden(user: &User, info: &RequestInfo, reason: &str) -> Status {
    let name = &user.name;
    let mut message = if info.is_resource {
        let mut resource = info.resource.clone();
        if !info.subresource.is_empty() {
            resource = format!("{resource}/{}", info.subresource);
        }
        let place =
            if info.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {:?}", info.namespace) };
        let what = format!("User {name:?} cannot {} resource {resource:?} in API group {:?} {place}", info.verb, info.group);
        let kind = qualified(&info.resource, &info.group);
        if info.name.is_empty() { format!("{kind} is forbidden: {what}") } else { format!("{kind} {:?} is forbidden: {what}", info.name) }
    } else {
        format!("forbidden: User {name:?} cannot {} path {:?}", info.verb, info.path)
    };
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Status {
        status: Some("Failure".into()),
        code: Some(403),
        reason: Some("Forbidden".into()),
        message: Some(message),
        details: Some(StatusDetails {
            name: some(&info.name),
            group: some(&info.group),
            kind: some(&info.resource),
            ..StatusDetails::default()
        }),
        ..Status::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_kubernetes_words_them() {
        let user = User::new("x", ["dev"]);
        let mut info = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..RequestInfo::default()
        };
        let message = |info: &RequestInfo, reason| forbidden(&user, info, reason).message.unwrap();
        assert_eq!(
            message(&info, ""),
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        info.namespace.clear();
        (info.group, info.resource, info.name, info.subresource) = ("apps".into(), "deployments".into(), "d".into(), "scale".into());
        assert_eq!(
            message(&info, "not today"),
            r#"deployments.apps "d" is forbidden: User "x" cannot list resource "deployments/scale" in API group "apps" at the cluster scope: not today"#
        );
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        assert_eq!(message(&path, ""), r#"forbidden: User "x" cannot get path "/metrics""#);
    }
}
