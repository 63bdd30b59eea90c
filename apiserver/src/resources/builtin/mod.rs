//! A row for each kind of Kubernetes that is served.

mod admission;
mod aggregation;
mod devices;
mod flow_control;
mod network;
mod volumes;

use std::borrow::Cow;

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::authentication::v1 as authentication;
use k8s_openapi::api::authorization::v1 as authorization;
use k8s_openapi::api::autoscaling::{v1 as autoscaling_v1, v2 as autoscaling};
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::certificates::v1 as certificates;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::events::v1 as events;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::api::scheduling::v1 as scheduling;
use k8s_openapi::api::storage::v1 as storage;
use wharf_core::object::Object;
use wharf_core::store::ResourceId;

use super::{DeleteRule, REVIEW_VERBS, Resource, StatusRule, StoredAs};
use crate::{defaults, table, validation};

type Field<'a> = Option<Cow<'a, str>>;

/// A field of a decoded object; empty when the object does not decode, so that the field is known all the same.
fn read<'a, K>(object: &Object, read: impl Fn(&K) -> Option<String>) -> Field<'a>
where
    K: serde::de::DeserializeOwned + Send + Sync + 'static,
{
    Some(Cow::Owned(object.decode::<K>().ok().and_then(|o| read(&o)).unwrap_or_default()))
}

fn pod_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    let spec = |f: fn(&core::PodSpec) -> Option<String>| read::<core::Pod>(object, move |p| p.spec.as_ref().and_then(f));
    let status = |f: fn(&core::PodStatus) -> Option<String>| read::<core::Pod>(object, move |p| p.status.as_ref().and_then(f));
    match field {
        "spec.nodeName" => spec(|s| s.node_name.clone()),
        "spec.restartPolicy" => spec(|s| s.restart_policy.clone()),
        "spec.schedulerName" => spec(|s| s.scheduler_name.clone()),
        "spec.serviceAccountName" => spec(|s| s.service_account_name.clone()),
        "spec.hostNetwork" => spec(|s| Some(s.host_network.unwrap_or(false).to_string())),
        "status.phase" => status(|s| s.phase.clone()),
        "status.podIP" => status(|s| s.pod_ip.clone()),
        "status.nominatedNodeName" => status(|s| s.nominated_node_name.clone()),
        _ => None,
    }
}

fn event_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    let event = |f: fn(&core::Event) -> Option<String>| read::<core::Event>(object, f);
    match field {
        "involvedObject.kind" => event(|e| e.involved_object.kind.clone()),
        "involvedObject.namespace" => event(|e| e.involved_object.namespace.clone()),
        "involvedObject.name" => event(|e| e.involved_object.name.clone()),
        "involvedObject.uid" => event(|e| e.involved_object.uid.clone()),
        "involvedObject.apiVersion" => event(|e| e.involved_object.api_version.clone()),
        "involvedObject.resourceVersion" => event(|e| e.involved_object.resource_version.clone()),
        "involvedObject.fieldPath" => event(|e| e.involved_object.field_path.clone()),
        "reason" => event(|e| e.reason.clone()),
        "reportingComponent" => event(|e| e.reporting_component.clone()),
        "source" => event(|e| e.source.as_ref().and_then(|s| s.component.clone())),
        "type" => event(|e| e.type_.clone()),
        _ => None,
    }
}

/// Fields of the newer kind, read from the older one that is stored.
fn new_event_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field.strip_prefix("regarding.") {
        Some(rest) => event_fields(object, &format!("involvedObject.{rest}")),
        None if field == "reportingController" => event_fields(object, "reportingComponent"),
        None => event_fields(object, field).filter(|_| matches!(field, "reason" | "type")),
    }
}

fn node_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "spec.unschedulable" => {
            read::<core::Node>(object, |n| Some(n.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false).to_string()))
        }
        _ => None,
    }
}

fn namespace_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "status.phase" => read::<core::Namespace>(object, |n| n.status.as_ref().and_then(|s| s.phase.clone())),
        _ => None,
    }
}

fn secret_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "type" => read::<core::Secret>(object, |s| s.type_.clone()),
        _ => None,
    }
}

fn service_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "spec.clusterIP" => read::<core::Service>(object, |s| s.spec.as_ref().and_then(|s| s.cluster_ip.clone())),
        "spec.type" => read::<core::Service>(object, |s| s.spec.as_ref().and_then(|s| s.type_.clone())),
        _ => None,
    }
}

fn replica_set_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "status.replicas" => read::<apps::ReplicaSet>(object, |r| r.status.as_ref().map(|s| s.replicas.to_string())),
        _ => None,
    }
}

fn job_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "status.successful" => read::<batch::Job>(object, |j| Some(j.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0).to_string())),
        _ => None,
    }
}

fn csr_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "spec.signerName" => read::<certificates::CertificateSigningRequest>(object, |c| Some(c.spec.signer_name.clone())),
        _ => None,
    }
}

/// With a status apart from the rest, and no count of generations.
fn split(mut row: Resource) -> Resource {
    row.status = StatusRule::Split;
    row.subresources = &["status"];
    row
}

const ALL: &[&str] = &["all"];
const SCALED: &[&str] = &["scale", "status"];

pub(super) fn rows() -> Vec<Resource> {
    let mut rows = core_rows();
    rows.extend(workload_rows());
    rows.extend(other_rows());
    for family in [admission::rows, aggregation::rows, devices::rows, flow_control::rows, network::rows, volumes::rows] {
        rows.extend(family());
    }
    rows
}

fn core_rows() -> Vec<Resource> {
    let mut pods = Resource::of::<core::Pod>(true)
        .with_status()
        .with_generation()
        .short(&["po"])
        .category(ALL)
        .with_subresources(&[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
            "status",
        ])
        .defaults(defaults::pod)
        .validate(validation::pod)
        .fields(pod_fields)
        .columns(&table::PODS);
    pods.delete = DeleteRule::Graceful;
    let mut namespaces = Resource::of::<core::Namespace>(false)
        .short(&["ns"])
        .with_subresources(&["finalize", "status"])
        .defaults(defaults::namespace)
        .validate(validation::namespace)
        .validate_status(validation::namespace_status)
        .fields(namespace_fields)
        .columns(&table::NAMESPACES);
    namespaces.status = StatusRule::Split;
    namespaces.delete = DeleteRule::Namespace;
    // One by one, as in Kubernetes.
    namespaces.verbs = &["create", "delete", "get", "list", "patch", "update", "watch"];
    let mut nodes =
        Resource::of::<core::Node>(false).short(&["no"]).with_subresources(&["proxy", "status"]).fields(node_fields).columns(&table::NODES);
    nodes.status = StatusRule::Split;
    let mut services = Resource::of::<core::Service>(true)
        .short(&["svc"])
        .category(ALL)
        .with_subresources(&["proxy", "status"])
        .defaults(defaults::service)
        .validate(validation::service)
        .fields(service_fields)
        .columns(&table::SERVICES);
    services.status = StatusRule::Split;
    let mut volumes = split(
        Resource::of::<core::PersistentVolume>(false)
            .short(&["pv"])
            .defaults(defaults::persistent_volume)
            .columns(&table::PERSISTENT_VOLUMES),
    );
    volumes.validate = validation::persistent_volume;
    let mut bindings = Resource::of::<core::Binding>(true);
    bindings.verbs = REVIEW_VERBS;
    let mut component_statuses = Resource::of::<core::ComponentStatus>(false).short(&["cs"]).columns(&table::COMPONENT_STATUSES);
    component_statuses.verbs = &["get", "list"];
    vec![
        bindings,
        component_statuses,
        pods,
        namespaces,
        nodes,
        services,
        volumes,
        split(
            Resource::of::<core::PersistentVolumeClaim>(true)
                .short(&["pvc"])
                .defaults(defaults::persistent_volume_claim)
                .validate(validation::persistent_volume_claim)
                .columns(&table::PERSISTENT_VOLUME_CLAIMS),
        ),
        split(
            Resource::of::<core::ResourceQuota>(true)
                .short(&["quota"])
                .validate(validation::resource_quota)
                .validate_status(validation::resource_quota_status)
                .columns(&table::RESOURCE_QUOTAS),
        ),
        Resource::of::<core::ConfigMap>(true).short(&["cm"]).validate(validation::config_map).columns(&table::CONFIG_MAPS),
        Resource::of::<core::Secret>(true)
            .defaults(defaults::secret)
            .validate(validation::secret)
            .fields(secret_fields)
            .columns(&table::SECRETS),
        Resource::of::<core::ServiceAccount>(true).short(&["sa"]).with_subresources(&["token"]).columns(&table::SERVICE_ACCOUNTS),
        Resource::of::<core::Endpoints>(true)
            .short(&["ep"])
            .defaults(defaults::endpoints)
            .validate(validation::endpoints)
            .columns(&table::ENDPOINTS),
        Resource::of::<core::Event>(true).short(&["ev"]).fields(event_fields).columns(&table::EVENTS),
        Resource::of::<core::LimitRange>(true)
            .short(&["limits"])
            .defaults(defaults::limit_range)
            .validate(validation::limit_range)
            .columns(&table::LIMIT_RANGES),
        Resource::of::<core::PodTemplate>(true)
            .defaults(defaults::pod_template_kind)
            .validate(validation::pod_template)
            .columns(&table::POD_TEMPLATES),
        Resource::of::<core::ReplicationController>(true)
            .with_status()
            .short(&["rc"])
            .category(ALL)
            .with_subresources(SCALED)
            .defaults(defaults::replication_controller)
            .validate(validation::replication_controller)
            .validate_status(validation::replicas_status)
            .columns(&table::REPLICATION_CONTROLLERS),
    ]
}

fn workload_rows() -> Vec<Resource> {
    vec![
        Resource::of::<apps::Deployment>(true)
            .with_status()
            .short(&["deploy"])
            .category(ALL)
            .with_subresources(SCALED)
            .defaults(defaults::deployment)
            .validate(validation::deployment)
            .validate_status(validation::deployment_status)
            .columns(&table::DEPLOYMENTS),
        Resource::of::<apps::ReplicaSet>(true)
            .with_status()
            .short(&["rs"])
            .category(ALL)
            .with_subresources(SCALED)
            .defaults(defaults::replica_set)
            .validate(validation::replica_set)
            .validate_status(validation::replicas_status)
            .fields(replica_set_fields)
            .columns(&table::REPLICA_SETS),
        Resource::of::<apps::StatefulSet>(true)
            .with_status()
            .short(&["sts"])
            .category(ALL)
            .with_subresources(SCALED)
            .defaults(defaults::stateful_set)
            .validate(validation::stateful_set)
            .validate_status(validation::stateful_set_status)
            .columns(&table::STATEFUL_SETS),
        Resource::of::<apps::DaemonSet>(true)
            .with_status()
            .short(&["ds"])
            .category(ALL)
            .defaults(defaults::daemon_set)
            .validate(validation::daemon_set)
            .validate_status(validation::daemon_set_status)
            .columns(&table::DAEMON_SETS),
        Resource::of::<apps::ControllerRevision>(true).validate(validation::controller_revision).columns(&table::CONTROLLER_REVISIONS),
        Resource::of::<batch::Job>(true)
            .with_status()
            .category(ALL)
            .defaults(defaults::job)
            .validate(validation::job)
            .fields(job_fields)
            .columns(&table::JOBS),
        Resource::of::<batch::CronJob>(true)
            .with_status()
            .short(&["cj"])
            .category(ALL)
            .defaults(defaults::cron_job)
            .validate(validation::cron_job)
            .columns(&table::CRON_JOBS),
        Resource::of::<autoscaling::HorizontalPodAutoscaler>(true)
            .with_status()
            .short(&["hpa"])
            .category(ALL)
            .defaults(defaults::autoscaler)
            .validate(validation::horizontal_pod_autoscaler)
            .validate_status(validation::horizontal_pod_autoscaler_status)
            .columns(&table::HORIZONTAL_POD_AUTOSCALERS),
        {
            // The same autoscalers as older clients know them.
            let mut row = Resource::of::<autoscaling_v1::HorizontalPodAutoscaler>(true)
                .with_status()
                .short(&["hpa"])
                .category(ALL)
                .defaults(defaults::autoscaler_v1)
                .validate(validation::horizontal_pod_autoscaler_v1)
                .validate_status(validation::horizontal_pod_autoscaler_status)
                .columns(&table::HORIZONTAL_POD_AUTOSCALERS_V1);
            row.stored_as = Some(StoredAs { serve: super::autoscaling::serve, store: super::autoscaling::store });
            row
        },
    ]
}

fn other_rows() -> Vec<Resource> {
    vec![
        Resource::of::<networking::Ingress>(true)
            .with_status()
            .short(&["ing"])
            .defaults(defaults::ingress)
            .validate(validation::ingress)
            .validate_status(validation::ingress_status)
            .columns(&table::INGRESSES),
        Resource::of::<networking::IngressClass>(false)
            .with_generation()
            .defaults(defaults::ingress_class)
            .validate(validation::ingress_class)
            .columns(&table::INGRESS_CLASSES),
        Resource::of::<networking::NetworkPolicy>(true)
            .with_generation()
            .short(&["netpol"])
            .defaults(defaults::network_policy)
            .validate(validation::network_policy)
            .columns(&table::NETWORK_POLICIES),
        Resource::of::<discovery::EndpointSlice>(true)
            .with_generation()
            .defaults(defaults::endpoint_slice)
            .validate(validation::endpoint_slice)
            .columns(&table::ENDPOINT_SLICES),
        Resource::of::<policy::PodDisruptionBudget>(true)
            .with_status()
            .short(&["pdb"])
            .defaults(defaults::disruption_budget)
            .validate(validation::disruption_budget)
            .validate_status(validation::disruption_budget_status)
            .columns(&table::POD_DISRUPTION_BUDGETS),
        Resource::of::<rbac::Role>(true).validate(validation::role).columns(&table::NAME_AND_CREATED),
        Resource::of::<rbac::ClusterRole>(false).validate(validation::cluster_role).columns(&table::NAME_AND_CREATED),
        Resource::of::<rbac::RoleBinding>(true)
            .defaults(defaults::role_binding)
            .validate(validation::role_binding)
            .columns(&table::ROLE_BINDINGS),
        Resource::of::<rbac::ClusterRoleBinding>(false)
            .defaults(defaults::role_binding)
            .validate(validation::cluster_role_binding)
            .columns(&table::ROLE_BINDINGS),
        Resource::of::<coordination::Lease>(true).validate(validation::lease).columns(&table::LEASES),
        Resource::of::<scheduling::PriorityClass>(false)
            .with_generation()
            .short(&["pc"])
            .defaults(defaults::priority_class)
            .validate(validation::priority_class)
            .columns(&table::PRIORITY_CLASSES),
        Resource::of::<storage::StorageClass>(false)
            .short(&["sc"])
            .defaults(defaults::storage_class)
            .validate(validation::storage_class)
            .columns(&table::STORAGE_CLASSES),
        Resource::of::<node::RuntimeClass>(false).validate(validation::runtime_class).columns(&table::RUNTIME_CLASSES),
        {
            let mut row = Resource::of::<certificates::CertificateSigningRequest>(false)
                .short(&["csr"])
                .with_subresources(&["approval", "status"])
                .fields(csr_fields)
                .columns(&table::CERTIFICATE_SIGNING_REQUESTS);
            row.status = StatusRule::Split;
            row
        },
        {
            // The same events under a newer name: stored once, in the older form.
            let mut row = Resource::of::<events::Event>(true).short(&["ev"]).fields(new_event_fields).columns(&table::EVENTS);
            row.storage = ResourceId::new("", "events");
            row.stored_as = Some(StoredAs { serve: super::events::serve, store: super::events::store });
            row
        },
        Resource::of::<authentication::TokenReview>(false).review(),
        Resource::of::<authentication::SelfSubjectReview>(false).review(),
        Resource::of::<authorization::SubjectAccessReview>(false).review(),
        Resource::of::<authorization::SelfSubjectAccessReview>(false).review(),
        Resource::of::<authorization::SelfSubjectRulesReview>(false).review(),
        Resource::of::<authorization::LocalSubjectAccessReview>(true).review(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::resources::ResourceTable;

    /// What Kubernetes 1.36 serves by default with `v1` or `v2` in its name: group/version, plural, short names, namespaced.
    const SERVED: &str = "
        v1 bindings - ns
        v1 componentstatuses cs -
        v1 configmaps cm ns
        v1 endpoints ep ns
        v1 events ev ns
        v1 limitranges limits ns
        v1 namespaces ns -
        v1 nodes no -
        v1 persistentvolumeclaims pvc ns
        v1 persistentvolumes pv -
        v1 pods po ns
        v1 podtemplates - ns
        v1 replicationcontrollers rc ns
        v1 resourcequotas quota ns
        v1 secrets - ns
        v1 serviceaccounts sa ns
        v1 services svc ns
        admissionregistration.k8s.io/v1 mutatingadmissionpolicies - -
        admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings - -
        admissionregistration.k8s.io/v1 mutatingwebhookconfigurations - -
        admissionregistration.k8s.io/v1 validatingadmissionpolicies - -
        admissionregistration.k8s.io/v1 validatingadmissionpolicybindings - -
        admissionregistration.k8s.io/v1 validatingwebhookconfigurations - -
        apiextensions.k8s.io/v1 customresourcedefinitions crd,crds -
        apiregistration.k8s.io/v1 apiservices - -
        apps/v1 controllerrevisions - ns
        apps/v1 daemonsets ds ns
        apps/v1 deployments deploy ns
        apps/v1 replicasets rs ns
        apps/v1 statefulsets sts ns
        authentication.k8s.io/v1 selfsubjectreviews - -
        authentication.k8s.io/v1 tokenreviews - -
        authorization.k8s.io/v1 localsubjectaccessreviews - ns
        authorization.k8s.io/v1 selfsubjectaccessreviews - -
        authorization.k8s.io/v1 selfsubjectrulesreviews - -
        authorization.k8s.io/v1 subjectaccessreviews - -
        autoscaling/v1 horizontalpodautoscalers hpa ns
        autoscaling/v2 horizontalpodautoscalers hpa ns
        batch/v1 cronjobs cj ns
        batch/v1 jobs - ns
        certificates.k8s.io/v1 certificatesigningrequests csr -
        coordination.k8s.io/v1 leases - ns
        discovery.k8s.io/v1 endpointslices - ns
        events.k8s.io/v1 events ev ns
        flowcontrol.apiserver.k8s.io/v1 flowschemas - -
        flowcontrol.apiserver.k8s.io/v1 prioritylevelconfigurations - -
        networking.k8s.io/v1 ingressclasses - -
        networking.k8s.io/v1 ingresses ing ns
        networking.k8s.io/v1 ipaddresses ip -
        networking.k8s.io/v1 networkpolicies netpol ns
        networking.k8s.io/v1 servicecidrs - -
        node.k8s.io/v1 runtimeclasses - -
        policy/v1 poddisruptionbudgets pdb ns
        rbac.authorization.k8s.io/v1 clusterrolebindings - -
        rbac.authorization.k8s.io/v1 clusterroles - -
        rbac.authorization.k8s.io/v1 rolebindings - ns
        rbac.authorization.k8s.io/v1 roles - ns
        resource.k8s.io/v1 deviceclasses - -
        resource.k8s.io/v1 resourceclaims - ns
        resource.k8s.io/v1 resourceclaimtemplates - ns
        resource.k8s.io/v1 resourceslices - -
        scheduling.k8s.io/v1 priorityclasses pc -
        storage.k8s.io/v1 csidrivers - -
        storage.k8s.io/v1 csinodes - -
        storage.k8s.io/v1 csistoragecapacities - ns
        storage.k8s.io/v1 storageclasses sc -
        storage.k8s.io/v1 volumeattachments - -
        storage.k8s.io/v1 volumeattributesclasses vac -";

    #[test]
    fn every_generally_available_resource_is_served() {
        let wanted: BTreeSet<String> = SERVED.trim().lines().map(|line| line.trim().to_owned()).collect();
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let table = ResourceTable::builtin();
        let served: BTreeSet<String> = table
            .iter()
            .map(|r| {
                format!("{} {} {} {}", r.api_version(), r.plural, or_dash(r.short_names.join(",")), if r.namespaced { "ns" } else { "-" })
            })
            .collect();
        assert_eq!(wanted.difference(&served).collect::<Vec<_>>(), Vec::<&String>::new(), "missing");
        assert_eq!(served.difference(&wanted).collect::<Vec<_>>(), Vec::<&String>::new(), "more");
    }
}
