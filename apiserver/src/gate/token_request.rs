//! Issues service-account tokens: the subresource `serviceaccounts/token`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use wharf_core::api::{ApiError, Kind, Target};
use wharf_core::object::ObjectRef;

use super::authentication::service_account::{Bound, BoundRef, Claims, ServiceAccountTokens};

/// Shortest and longest life of a token, in seconds.
pub const EXPIRATION: std::ops::RangeInclusive<i64> = 600..=(1 << 32);
/// Life of a token whose request names none, in seconds.
pub const DEFAULT_EXPIRATION: i64 = 3600;

fn invalid(field: &str, why: &str) -> ApiError {
    ApiError::status(422, "Invalid", format!("TokenRequest.authentication.k8s.io \"\" is invalid: {field}: {why}"))
}

impl ServiceAccountTokens {
    /// Answers a TokenRequest for a service account. The caller has authorized it.
    ///
    /// # Errors
    /// 404 when the account or what the token is to be bound to does not exist, 409 when that has another uid, 422 for
    /// a request that makes no sense.
    pub async fn request(&self, namespace: &str, name: &str, body: Value) -> Result<Value, ApiError> {
        let mut request: TokenRequest =
            serde_json::from_value(body).map_err(|e| ApiError::status(400, "BadRequest", format!("TokenRequest does not decode: {e}")))?;
        let account = self.found::<ServiceAccount>(namespace, name).await?;
        let spec = request.spec.get_or_insert_default();
        let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION);
        if seconds < *EXPIRATION.start() {
            return Err(invalid(
                "spec.expirationSeconds",
                &format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes"),
            ));
        }
        if seconds > *EXPIRATION.end() {
            return Err(invalid("spec.expirationSeconds", "Too long: may not specify a duration larger than 2^32 seconds"));
        }
        spec.expiration_seconds = Some(seconds);
        let audiences = spec.audiences.get_or_insert_default();
        if audiences.is_empty() {
            audiences.extend_from_slice(self.audiences());
        }
        let audiences = audiences.clone();
        let mut bound = Bound { namespace: namespace.into(), serviceaccount: account, pod: None, secret: None, node: None };
        if let Some(to) = &spec.bound_object_ref {
            self.bind(&mut bound, namespace, name, to).await?;
        }
        let now = self.clock().now();
        let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        let claims = Claims {
            iss: self.issuer().to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            aud: audiences,
            iat: now.as_second(),
            nbf: now.as_second(),
            exp: expires.as_second(),
            jti: uuid::Uuid::new_v4().to_string(),
            bound,
        };
        let token = self.key().sign(&claims).ok_or_else(|| ApiError::status(500, "InternalError", "the token could not be signed"))?;
        request.metadata.name = Some(name.to_owned());
        request.metadata.namespace = Some(namespace.to_owned());
        request.metadata.creation_timestamp = Some(Time(whole_seconds(now)));
        request.status = Some(TokenRequestStatus { token: Some(token), expiration_timestamp: Some(Time(whole_seconds(expires))) });
        serde_json::to_value(&request).map_err(|e| ApiError::Encode(Box::new(e)))
    }

    async fn bind(&self, bound: &mut Bound, namespace: &str, account: &str, to: &BoundObjectReference) -> Result<(), ApiError> {
        let name = to.name.as_deref().unwrap_or_default();
        let target = match (to.api_version.as_deref(), to.kind.as_deref()) {
            (Some("v1"), Some("Pod")) => {
                let object = self.api().get(&Target::of::<Pod>(ObjectRef::new(namespace, name))).await?;
                let pod = object.decode::<Pod>()?;
                let spec = pod.spec.as_ref();
                if spec.and_then(|s| s.service_account_name.as_deref()).unwrap_or("default") != account {
                    return Err(invalid(
                        "spec.boundObjectRef",
                        &format!("cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."),
                    ));
                }
                if let Some(node) = spec.and_then(|s| s.node_name.as_deref()) {
                    // The node informs; a pod outlives no node for long.
                    bound.node = self.found::<Node>("", node).await.ok();
                }
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                bound.pod.insert(BoundRef { name: name.into(), uid })
            }
            (Some("v1"), Some("Secret")) => bound.secret.insert(self.found::<Secret>(namespace, name).await?),
            (Some("v1"), Some("Node")) => bound.node.insert(self.found::<Node>("", name).await?),
            (version, kind) => {
                let what = format!("{}.{}", version.unwrap_or_default(), kind.unwrap_or_default());
                return Err(ApiError::status(400, "BadRequest", format!("cannot bind token to object of type {what}")));
            }
        };
        match to.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != target.uid) {
            None => Ok(()),
            Some(uid) => {
                let (kind, real) = (to.kind.as_deref().unwrap_or_default(), &target.uid);
                let message = format!(
                    "Operation cannot be fulfilled on {kind} {name:?}: the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated ({real})"
                );
                Err(ApiError::status(409, "Conflict", message))
            }
        }
    }

    async fn found<K: Kind>(&self, namespace: &str, name: &str) -> Result<BoundRef, ApiError> {
        let object = self.api().get(&Target::of::<K>(ObjectRef::new(namespace, name))).await?;
        Ok(BoundRef { name: name.into(), uid: object.meta().uid.clone().unwrap_or_default() })
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
