//! Answers reviews: who a token is, who one is oneself, and what somebody may do.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderValue;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview, UserInfo};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule, SelfSubjectAccessReview,
    SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_core::api::ApiError;

use super::Decision;
use super::authentication::service_account::ServiceAccountTokens;
use super::authorization::MASTERS;
use super::late::LateLayers;
use crate::request::{RequestInfo, User};
use crate::rest::admission::Reviews;

/// Answers the reviews of `authentication.k8s.io` and `authorization.k8s.io`, and `serviceaccounts/token`.
#[derive(Debug, Clone)]
pub struct GateReviews {
    layers: LateLayers,
    tokens: ServiceAccountTokens,
}

fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::status(400, "BadRequest", message)
}

fn decode<T: DeserializeOwned>(body: Value) -> Result<T, ApiError> {
    serde_json::from_value(body).map_err(|e| bad_request(format!("the review does not decode: {e}")))
}

fn encode(review: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(review).map_err(|e| ApiError::Encode(Box::new(e)))
}

fn user_info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

fn info_of(resource: Option<&ResourceAttributes>, path: Option<&NonResourceAttributes>) -> Result<RequestInfo, ApiError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    match (resource, path) {
        (Some(r), None) => Ok(RequestInfo {
            is_resource: true,
            verb: text(&r.verb),
            group: text(&r.group),
            version: text(&r.version),
            resource: text(&r.resource),
            subresource: text(&r.subresource),
            namespace: text(&r.namespace),
            name: text(&r.name),
            path: String::new(),
        }),
        (None, Some(p)) => Ok(RequestInfo { verb: text(&p.verb), path: text(&p.path), ..RequestInfo::default() }),
        _ => Err(bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")),
    }
}

impl GateReviews {
    /// Asks the layers, once they are given, and issues tokens.
    pub fn new(layers: LateLayers, tokens: ServiceAccountTokens) -> Self {
        Self { layers, tokens }
    }

    async fn access(&self, user: &User, info: &RequestInfo) -> Result<SubjectAccessReviewStatus, ApiError> {
        let decision = self.layers.layers()?.authorizer.authorize(user, info).await;
        Ok(match decision {
            Decision::Allow => SubjectAccessReviewStatus { allowed: true, ..SubjectAccessReviewStatus::default() },
            Decision::Deny { reason } => {
                SubjectAccessReviewStatus { denied: Some(true), reason: Some(reason), ..SubjectAccessReviewStatus::default() }
            }
            Decision::NoOpinion => SubjectAccessReviewStatus::default(),
        })
    }

    async fn access_of(&self, spec: &SubjectAccessReviewSpec) -> Result<SubjectAccessReviewStatus, ApiError> {
        let info = info_of(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref())?;
        let (name, groups) = (spec.user.clone().unwrap_or_default(), spec.groups.clone().unwrap_or_default());
        if name.is_empty() && groups.is_empty() {
            return Err(bad_request("at least one of user or group must be specified"));
        }
        let extra: BTreeMap<String, Vec<String>> = spec.extra.clone().unwrap_or_default();
        let user = User { name, uid: spec.uid.clone().unwrap_or_default(), groups, extra };
        self.access(&user, &info).await
    }

    async fn token_review(&self, mut review: TokenReview) -> Result<Value, ApiError> {
        let token = review.spec.token.clone();
        if token.is_empty() {
            return Err(bad_request("token is required for TokenReview in authentication"));
        }
        let asked = review.spec.audiences.clone().unwrap_or_default();
        let wanted = if asked.is_empty() { self.tokens.audiences().to_vec() } else { asked.clone() };
        let ours = self.tokens.check(&token, &wanted).await;
        let found = match ours {
            // A token of another kind is good for this server's own audiences only.
            Ok(None) if wanted.iter().any(|a| self.tokens.audiences().contains(a)) => self.authenticate(&token).await,
            Ok(found) => Ok(found),
            Err(error) => Err(error.to_string()),
        };
        let mut status = k8s_openapi::api::authentication::v1::TokenReviewStatus::default();
        match found {
            Ok(Some((user, audiences))) => {
                status.authenticated = Some(true);
                status.user = Some(user_info(&user));
                status.audiences = Some(audiences).filter(|a| !a.is_empty());
            }
            Ok(None) => {}
            Err(error) => status.error = Some(format!("[invalid bearer token, {error}]")),
        }
        review.status = Some(status);
        encode(&review)
    }

    async fn authenticate(&self, token: &str) -> Result<Option<(User, Vec<String>)>, String> {
        let mut request = http::Request::new(()).into_parts().0;
        let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| e.to_string())?;
        request.headers.insert(http::header::AUTHORIZATION, value);
        let layers = self.layers.layers().map_err(|e| e.to_string())?;
        let user = layers.authenticator.authenticate(&request).await.map_err(|e| e.to_string())?;
        Ok(user.map(|user| (user, self.tokens.audiences().to_vec())))
    }

    fn rules(&self, user: &User, namespace: &str) -> Result<(Vec<ResourceRule>, Vec<NonResourceRule>), ApiError> {
        let mut rules = self.layers.layers()?.rbac.rules_for(user, namespace);
        if user.groups.iter().any(|g| g == MASTERS) {
            let all = || Some(vec!["*".to_owned()]);
            let every = |api_groups, resources, non_resource_urls| k8s_openapi::api::rbac::v1::PolicyRule {
                verbs: vec!["*".into()],
                api_groups,
                resources,
                non_resource_urls,
                resource_names: None,
            };
            rules.extend([every(all(), all(), None), every(None, None, all())]);
        }
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in rules {
            if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
                resources.push(ResourceRule {
                    api_groups: rule.api_groups,
                    resource_names: rule.resource_names,
                    resources: rule.resources,
                    verbs: rule.verbs.clone(),
                });
            }
            if rule.non_resource_urls.as_ref().is_some_and(|u| !u.is_empty()) {
                paths.push(NonResourceRule { non_resource_urls: rule.non_resource_urls, verbs: rule.verbs });
            }
        }
        Ok((resources, paths))
    }
}

#[async_trait]
impl Reviews for GateReviews {
    async fn review(
        &self,
        user: &Arc<User>,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        body: Value,
    ) -> Result<Value, ApiError> {
        match (group, resource) {
            ("", "serviceaccounts/token") => self.tokens.request(namespace, name, body).await,
            ("authentication.k8s.io", "tokenreviews") => self.token_review(decode(body)?).await,
            ("authentication.k8s.io", "selfsubjectreviews") => {
                let mut review: SelfSubjectReview = decode(body)?;
                review.status.get_or_insert_default().user_info = Some(user_info(user));
                encode(&review)
            }
            ("authorization.k8s.io", "selfsubjectaccessreviews") => {
                let mut review: SelfSubjectAccessReview = decode(body)?;
                let info = info_of(review.spec.resource_attributes.as_ref(), review.spec.non_resource_attributes.as_ref())?;
                review.status = Some(self.access(user, &info).await?);
                encode(&review)
            }
            ("authorization.k8s.io", "subjectaccessreviews") => {
                let mut review: SubjectAccessReview = decode(body)?;
                review.status = Some(self.access_of(&review.spec).await?);
                encode(&review)
            }
            ("authorization.k8s.io", "localsubjectaccessreviews") => {
                let mut review: LocalSubjectAccessReview = decode(body)?;
                let asked = review.spec.resource_attributes.as_ref().and_then(|r| r.namespace.as_deref());
                if asked != Some(namespace) {
                    return Err(bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
                }
                review.status = Some(self.access_of(&review.spec).await?);
                encode(&review)
            }
            ("authorization.k8s.io", "selfsubjectrulesreviews") => {
                let mut review: SelfSubjectRulesReview = decode(body)?;
                let namespace = review.spec.namespace.clone().unwrap_or_default();
                if namespace.is_empty() {
                    return Err(bad_request("no namespace on request"));
                }
                let (resource_rules, non_resource_rules) = self.rules(user, &namespace)?;
                review.status = Some(k8s_openapi::api::authorization::v1::SubjectRulesReviewStatus {
                    resource_rules,
                    non_resource_rules,
                    incomplete: false,
                    evaluation_error: None,
                });
                encode(&review)
            }
            _ => Err(ApiError::status(404, "NotFound", "the server could not find the requested resource")),
        }
    }
}
