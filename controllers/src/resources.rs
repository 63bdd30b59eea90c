//! The built-in resources whose objects controllers delete, whatever they are. The API server serves them all.

use k8s_openapi::api::{
    apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch, core::v1 as core, discovery::v1 as discovery,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource, storage::v1 as storage,
};
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

/// Resources whose objects may depend on others or be depended on: all but events, which are many and own nothing.
pub fn collected() -> Vec<ApiResource> {
    let mut resources = namespaced();
    resources.retain(|r| r.kind != "Event");
    resources.extend([
        resource_of::<core::Node>(),
        resource_of::<core::PersistentVolume>(),
        resource_of::<rbac::ClusterRole>(),
        resource_of::<rbac::ClusterRoleBinding>(),
    ]);
    resources
}
