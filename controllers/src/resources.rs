//! The built-in resources whose objects controllers delete, whatever they are. The API server serves them all.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch,
    certificates::v1 as certificates, core::v1 as core, discovery::v1 as discovery, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::core::ApiResource;
use wharf_core::object::resource_of;

/// Resources with a namespace; what owns others comes first, so that nothing is made anew while it is deleted.
pub fn namespaced() -> Vec<ApiResource> {
    vec![
        resource_of::<apps::Deployment>(),
        resource_of::<apps::DaemonSet>(),
        resource_of::<apps::StatefulSet>(),
        resource_of::<batch::CronJob>(),
        resource_of::<batch::Job>(),
        resource_of::<autoscaling::HorizontalPodAutoscaler>(),
        resource_of::<apps::ReplicaSet>(),
        resource_of::<apps::ControllerRevision>(),
        resource_of::<core::ReplicationController>(),
        resource_of::<core::Service>(),
        resource_of::<discovery::EndpointSlice>(),
        resource_of::<core::Endpoints>(),
        resource_of::<core::Pod>(),
        resource_of::<networking::Ingress>(),
        resource_of::<networking::NetworkPolicy>(),
        resource_of::<policy::PodDisruptionBudget>(),
        resource_of::<core::PodTemplate>(),
        resource_of::<resource::ResourceClaimTemplate>(),
        resource_of::<resource::ResourceClaim>(),
        resource_of::<storage::CSIStorageCapacity>(),
        resource_of::<core::ConfigMap>(),
        resource_of::<core::Secret>(),
        resource_of::<core::PersistentVolumeClaim>(),
        resource_of::<core::ResourceQuota>(),
        resource_of::<core::LimitRange>(),
        resource_of::<rbac::RoleBinding>(),
        resource_of::<rbac::Role>(),
        resource_of::<core::ServiceAccount>(),
        resource_of::<k8s_openapi::api::coordination::v1::Lease>(),
        resource_of::<core::Event>(),
    ]
}

/// Resources without a namespace.
pub fn cluster_scoped() -> Vec<ApiResource> {
    vec![
        resource_of::<admission::MutatingAdmissionPolicy>(),
        resource_of::<admission::MutatingAdmissionPolicyBinding>(),
        resource_of::<admission::MutatingWebhookConfiguration>(),
        resource_of::<admission::ValidatingAdmissionPolicy>(),
        resource_of::<admission::ValidatingAdmissionPolicyBinding>(),
        resource_of::<admission::ValidatingWebhookConfiguration>(),
        resource_of::<CustomResourceDefinition>(),
        resource_of::<APIService>(),
        resource_of::<certificates::CertificateSigningRequest>(),
        resource_of::<core::Namespace>(),
        resource_of::<core::Node>(),
        resource_of::<core::PersistentVolume>(),
        resource_of::<flowcontrol::FlowSchema>(),
        resource_of::<flowcontrol::PriorityLevelConfiguration>(),
        resource_of::<networking::IPAddress>(),
        resource_of::<networking::IngressClass>(),
        resource_of::<networking::ServiceCIDR>(),
        resource_of::<node::RuntimeClass>(),
        resource_of::<rbac::ClusterRole>(),
        resource_of::<rbac::ClusterRoleBinding>(),
        resource_of::<resource::DeviceClass>(),
        resource_of::<resource::ResourceSlice>(),
        resource_of::<scheduling::PriorityClass>(),
        resource_of::<storage::CSIDriver>(),
        resource_of::<storage::CSINode>(),
        resource_of::<storage::StorageClass>(),
        resource_of::<storage::VolumeAttachment>(),
        resource_of::<storage::VolumeAttributesClass>(),
    ]
}
