//! What may not be stored, in Kubernetes' words.

mod addresses;
mod admission;
mod admission_policy;
mod affinity;
mod api_service;
mod autoscaling;
mod coordination;
mod cron_job;
mod endpoints;
mod env;
mod ephemeral;
mod flow_control;
mod job;
mod metadata;
mod namespace;
mod networking;
mod objects;
mod pod;
mod policy;
mod quota;
mod rbac;
mod resize;
mod revision;
mod schedule;
mod scheduling;
mod security;
mod selector;
mod share;
mod storage;
mod volume;
mod webhook;
mod workload;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;

use crate::resources::value::number;
use crate::rest::status::cause;

pub(crate) use addresses::{ip_address, service_cidr};
pub(crate) use admission::{mutating_webhooks, validating_webhooks};
pub(crate) use admission_policy::{mutating_policy, mutating_policy_binding, validating_policy, validating_policy_binding};
pub(crate) use api_service::api_service;
pub(crate) use autoscaling::{horizontal_pod_autoscaler, horizontal_pod_autoscaler_status, horizontal_pod_autoscaler_v1};
pub(crate) use coordination::lease;
pub(crate) use cron_job::cron_job;
pub(crate) use endpoints::endpoints;
pub(crate) use ephemeral::ephemeral_containers;
pub(crate) use flow_control::{flow_schema, flow_schema_status, priority_level, priority_level_status};
pub(crate) use job::job;
pub(crate) use metadata::{annotations, label_1035, labels, metadata, subdomain};
pub(crate) use namespace::{namespace, namespace_finalizers, namespace_status};
pub(crate) use networking::{ingress, ingress_class, ingress_status, network_policy};
pub(crate) use objects::{config_map, endpoint_slice, runtime_class, secret, service};
pub(crate) use pod::pod;
pub(crate) use policy::{disruption_budget, disruption_budget_status};
pub(crate) use quota::{limit_range, resource_quota, resource_quota_status};
pub(crate) use rbac::{cluster_role, cluster_role_binding, role, role_binding};
pub(crate) use resize::resize;
pub(crate) use revision::controller_revision;
pub(crate) use scheduling::priority_class;
pub(crate) use storage::{
    csi_driver, csi_node, csi_storage_capacity, persistent_volume, persistent_volume_claim, storage_class, volume_attachment,
    volume_attributes_class,
};
pub(crate) use webhook::{bundle, client_config, review_versions};
pub(crate) use workload::{
    daemon_set, daemon_set_status, deployment, deployment_status, pod_template, replica_set, replicas_status, replication_controller,
    stateful_set, stateful_set_status,
};

/// What an address must be.
const ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Collects what is wrong.
type Causes = Vec<StatusCause>;

/// Finds what is wrong with an object of which a part was written: new, old.
pub(crate) type PartRule = fn(&Value, &Value, &mut Vec<StatusCause>);

/// A value as messages show it.
fn shown(value: &Value) -> String {
    value.to_string()
}

fn required(causes: &mut Causes, field: &str, why: &str) {
    let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
    causes.push(cause("FieldValueRequired", message, field));
}

fn invalid(causes: &mut Causes, field: &str, value: &Value, why: &str) {
    causes.push(cause("FieldValueInvalid", format!("Invalid value: {}: {why}", shown(value)), field));
}

fn duplicate(causes: &mut Causes, field: &str, value: &Value) {
    causes.push(cause("FieldValueDuplicate", format!("Duplicate value: {}", shown(value)), field));
}

fn unsupported(causes: &mut Causes, field: &str, value: &Value, supported: &[&str]) {
    let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
    causes.push(cause(
        "FieldValueNotSupported",
        format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", ")),
        field,
    ));
}

fn too_long(causes: &mut Causes, field: &str, most: usize) {
    causes.push(cause("FieldValueTooLong", format!("Too long: may not be more than {most} bytes"), field));
}

fn forbidden(causes: &mut Causes, field: &str, why: &str) {
    causes.push(cause("FieldValueForbidden", format!("Forbidden: {why}"), field));
}

fn too_many(causes: &mut Causes, field: &str, count: usize, most: usize) {
    if count > most {
        causes.push(cause("FieldValueTooMany", format!("Too many: {count}: must have at most {most} items"), field));
    }
}

/// A number of a part that is none or more.
fn not_negative(part: &Value, here: &str, field: &str, causes: &mut Causes) {
    if let Some(n) = number(part, &[field]).filter(|n| *n < 0) {
        invalid(causes, &format!("{here}.{field}"), &n.into(), "must be greater than or equal to 0");
    }
}

fn immutable(causes: &mut Causes, field: &str, new: Option<&Value>, old: Option<&Value>) {
    if new != old {
        invalid(causes, field, new.unwrap_or(&Value::Null), "field is immutable");
    }
}

/// A list of something, or only a star.
fn star_alone(list: &[Value], field: &str, missing: &str, what: &str, causes: &mut Causes) {
    if list.is_empty() {
        required(causes, field, missing);
    } else if list.len() > 1 && list.iter().any(|v| v == "*") {
        invalid(causes, field, &list.into(), &format!("if '*' is present, must not specify other {what}"));
    }
}

/// A value that must be one of a few.
fn one_of(causes: &mut Causes, field: &str, value: Option<&Value>, supported: &[&str]) {
    if let Some(found) = value.filter(|v| !v.is_null())
        && !found.as_str().is_some_and(|v| supported.contains(&v))
    {
        unsupported(causes, field, found, supported);
    }
}

#[cfg(test)]
mod testing {
    use serde_json::Value;

    use super::Causes;

    /// What a rule finds, a line each: field and message.
    pub(super) fn found(rule: fn(&Value, Option<&Value>, &mut Causes), new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = Vec::new();
        rule(new, old, &mut causes);
        lines(causes)
    }

    /// What was found, a line each: field and message.
    pub(super) fn lines(causes: Causes) -> Vec<String> {
        causes.into_iter().map(|c| format!("{}: {}", c.field.unwrap_or_default(), c.message.unwrap_or_default())).collect()
    }

    /// An object with members set, each by a pointer; `null` takes one away.
    pub(super) fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
        for (path, value) in changes {
            let (parent, name) = path.rsplit_once('/').unwrap();
            match object.pointer_mut(parent).unwrap() {
                Value::Object(map) => map.insert(name.to_owned(), value.clone()),
                other => panic!("{other}"),
            };
        }
        object
    }
}
