//! Nobody grants what they do not have: Kubernetes' checks for `escalate` and `bind`.

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;
use wharf_core::api::ApiError;

use crate::gate::Decision;
use crate::gate::authorization::MASTERS;
use crate::gate::authorization::rules::uncovered;
use crate::gate::late::LateLayers;
use crate::request::RequestInfo;
use crate::rest::admission::{Admission, AdmissionRequest, Operation, Warnings};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses roles and bindings that grant more than their writer has.
#[derive(Debug, Clone)]
pub struct RbacEscalation {
    layers: LateLayers,
}

impl RbacEscalation {
    /// Asks the layers, once they are given.
    pub fn new(layers: LateLayers) -> Self {
        Self { layers }
    }

    async fn may(&self, request: &AdmissionRequest, verb: &str, resource: &str, name: &str) -> Result<bool, ApiError> {
        let info = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: request.namespace.clone(),
            name: name.into(),
            ..RequestInfo::default()
        };
        Ok(self.layers.layers()?.authorizer.authorize(&request.user, &info).await == Decision::Allow)
    }

    fn check(&self, request: &AdmissionRequest, rules: &[PolicyRule]) -> Result<(), ApiError> {
        let owned = self.layers.layers()?.rbac.rules_for(&request.user, &request.namespace);
        let Some(missing) = uncovered(&owned.iter().collect::<Vec<_>>(), rules) else { return Ok(()) };
        let (user, groups) = (&request.user.name, &request.user.groups);
        let message = format!(
            "{}.{GROUP} {:?} is forbidden: user {user:?} (groups={groups:?}) is attempting to grant RBAC permissions not currently held:\n{missing}",
            request.resource, request.name
        );
        Err(ApiError::status(403, "Forbidden", message))
    }
}

fn field<T: serde::de::DeserializeOwned + Default>(object: &Value, name: &str) -> Result<T, ApiError> {
    match &object[name] {
        Value::Null => Ok(T::default()),
        value => serde_json::from_value(value.clone()).map_err(|e| ApiError::status(400, "BadRequest", format!("{name}: {e}"))),
    }
}

#[async_trait]
impl Admission for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.group == GROUP && matches!(request.operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, _: &AdmissionRequest, _: &mut Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
    async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError> {
        let passed = Ok(Warnings::new());
        if request.user.groups.iter().any(|g| g == MASTERS) {
            return passed;
        }
        let old = request.old.as_deref();
        let unchanged = |name: &str| old.is_some_and(|old| old[name] == object[name]);
        match request.resource.as_str() {
            "roles" | "clusterroles" => {
                if unchanged("rules") && unchanged("aggregationRule") {
                    return passed;
                }
                if self.may(request, "escalate", &request.resource, &request.name).await? {
                    return passed;
                }
                let mut rules: Vec<PolicyRule> = field(object, "rules")?;
                if !object["aggregationRule"].is_null() {
                    // Whatever it will aggregate one day is not known: only who has everything may write it.
                    let all = || Some(vec!["*".to_owned()]);
                    let every = PolicyRule { verbs: vec!["*".into()], ..PolicyRule::default() };
                    rules.push(PolicyRule { api_groups: all(), resources: all(), ..every.clone() });
                    rules.push(PolicyRule { non_resource_urls: all(), ..every });
                }
                self.check(request, &rules)?;
            }
            "rolebindings" | "clusterrolebindings" => {
                if unchanged("roleRef") && unchanged("subjects") {
                    return passed;
                }
                let role: RoleRef = field(object, "roleRef")?;
                let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
                if self.may(request, "bind", resource, &role.name).await? {
                    return passed;
                }
                let rules = self
                    .layers
                    .layers()?
                    .rbac
                    .rules_of(&role, &request.namespace)
                    .ok_or_else(|| ApiError::status(404, "NotFound", format!("{resource}.{GROUP} {:?} not found", role.name)))?;
                self.check(request, &rules)?;
            }
            _ => {}
        }
        passed
    }
}
