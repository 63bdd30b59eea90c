//! `Impersonate-*` headers: acting as somebody else, if one may.

use std::sync::Arc;

use http::HeaderMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use super::authentication::anonymous::ANONYMOUS;
use super::authentication::{AUTHENTICATED, UNAUTHENTICATED};
use super::{Authorizer, Decision, forbidden};
use crate::request::{RequestInfo, User};
use crate::rest::path::percent_decode;
use crate::server::body::failure;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Most groups and extra values that one request may ask for.
pub const MAX_VALUES: usize = 256;

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty())
}

/// Takes the impersonation headers out of a request and answers the user to act as: `None` without such headers.
///
/// # Errors
/// 403 when `user` may not impersonate every part of what is asked for; 500, as Kubernetes answers, for groups, uid or extra
/// without a user name.
pub async fn impersonate(headers: &mut HeaderMap, user: &User, authorizer: &dyn Authorizer) -> Result<Option<Arc<User>>, Box<Status>> {
    let name = values(headers, USER).next().map(str::to_owned);
    let groups: Vec<String> = values(headers, GROUP).map(str::to_owned).collect();
    let uid = values(headers, UID).next().map(str::to_owned);
    let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
    for key in headers.keys() {
        if let Some(name) = key.as_str().strip_prefix(EXTRA) {
            extra.entry(percent_decode(name, false)).or_default().extend(values(headers, key.as_str()).map(str::to_owned));
        }
    }
    let asked: Vec<_> = headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    if asked.is_empty() {
        return Ok(None);
    }
    for key in asked {
        headers.remove(key);
    }
    let Some(name) = name else {
        let message = "Internal error occurred: requested impersonation without impersonating a user";
        return Err(Box::new(failure(500, "InternalError", message)));
    };
    if groups.len() + extra.values().map(Vec::len).sum::<usize>() > MAX_VALUES {
        return Err(Box::new(failure(400, "BadRequest", format!("at most {MAX_VALUES} impersonation values are allowed"))));
    }
    let may = async |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let info = RequestInfo {
            is_resource: true,
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: String::new(),
        };
        match authorizer.authorize(user, &info).await {
            Decision::Allow => Ok(()),
            Decision::Deny { reason } => Err(Box::new(forbidden(user, &info, &reason))),
            Decision::NoOpinion => Err(Box::new(forbidden(user, &info, ""))),
        }
    };
    let mut acting = User::new(name.clone(), groups.iter().map(String::as_str));
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            may("", "serviceaccounts", "", namespace, account).await?;
            if groups.is_empty() {
                acting.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => may("", "users", "", "", &name).await?,
    }
    for group in &groups {
        may("", "groups", "", "", group).await?;
    }
    if let Some(uid) = uid {
        may("authentication.k8s.io", "uids", "", "", &uid).await?;
        acting.uid = uid;
    }
    for (key, values) in &extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value).await?;
        }
    }
    acting.extra = extra;
    let everyone = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !acting.groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
        acting.groups.push(everyone.into());
    }
    Ok(Some(Arc::new(acting)))
}
