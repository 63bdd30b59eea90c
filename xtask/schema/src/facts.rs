//! What neither crate says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::openapi::{Type, Types};

/// Types that JSON writes as one value, though they are messages on the wire: their definition, and their word in the table.
pub(crate) const SCALARS: &[(&str, &str)] = &[
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "JSON"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "SchemaOrArray"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "SchemaOrBool"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "SchemaOrStrings"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "Quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "FieldsV1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "MicroTime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "Time"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "RawExtension"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "IntOrString"),
];

/// Definitions that are not wanted: nothing refers to them, and clients never send them.
pub(crate) const LEFT_OUT: &[&str] = &["io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "io.k8s.apimachinery.pkg.version.Info"];

/// Fields of features that are alpha in 1.36 and that k8s-pb does not know yet: JSON has them, the wire does not.
pub(crate) const NOT_ON_THE_WIRE: &[&str] = &[
    "core.v1.PodSpec.schedulingGroup",
    "core.v1.PodStatus.nodeAllocatableResourceClaimStatuses",
    "core.v1.ResourceHealth.message",
    "core.v1.VolumeMountStatus.volumeStatus",
    "meta.v1.ListMeta.shardInfo",
    "resource.v1.Device.nodeAllocatableResourceMappings",
    "resource.v1.DeviceAttribute.bools",
    "resource.v1.DeviceAttribute.ints",
    "resource.v1.DeviceAttribute.strings",
    "resource.v1.DeviceAttribute.versions",
    "storage.v1.CSIDriverSpec.preventPodSchedulingIfMissing",
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Types that the server speaks and k8s-openapi lacks: they are in no OpenAPI document.
pub(crate) fn add_types(types: &mut Types) {
    let string = || json!({"type": "string"});
    let strings = || json!({"type": "array", "items": {"type": "string"}});
    let mut add = |kind: &str, fields: Value, required: &[&str]| {
        let mut properties = json!({"apiVersion": string(), "kind": string()});
        if let (Value::Object(all), Value::Object(fields)) = (&mut properties, fields) {
            all.extend(fields);
        }
        let schema = json!({"type": "object", "properties": properties, "required": required});
        let kind_of = Some(("meta.k8s.io".to_owned(), "v1".to_owned(), kind.to_owned()));
        types.insert(format!("{META}.{kind}"), Type { schema, kind: kind_of, list: None });
    };
    let partial = format!("{META}.PartialObjectMetadata");
    add("PartialObjectMetadata", json!({"metadata": {"$ref": format!("{META}.ObjectMeta")}}), &[]);
    let list = json!({"metadata": {"$ref": format!("{META}.ListMeta")}, "items": {"type": "array", "items": {"$ref": partial}}});
    add("PartialObjectMetadataList", list, &["items"]);
    add("CreateOptions", json!({"dryRun": strings(), "fieldManager": string(), "fieldValidation": string()}), &[]);
    add("UpdateOptions", json!({"dryRun": strings(), "fieldManager": string(), "fieldValidation": string()}), &[]);
    let patch = json!({"dryRun": strings(), "force": {"type": "boolean"}, "fieldManager": string(), "fieldValidation": string()});
    add("PatchOptions", patch, &[]);
    lists(types);
}

/// The lists of all kinds, which k8s-openapi has as one generic type.
fn lists(types: &mut Types) {
    let mut found = BTreeMap::new();
    for (name, item) in types.iter() {
        let (Some(list), Some((group, version, _))) = (&item.list, &item.kind) else { continue };
        let Some((package, _)) = name.rsplit_once('.') else { continue };
        let schema = json!({
            "type": "object",
            "properties": {
                "apiVersion": item.schema["properties"]["apiVersion"],
                "kind": item.schema["properties"]["kind"],
                "metadata": {"$ref": format!("{META}.ListMeta")},
                "items": {"type": "array", "items": {"$ref": name}},
            },
            "required": ["items"],
        });
        let kind = Some((group.clone(), version.clone(), list.clone()));
        found.insert(format!("{package}.{list}"), Type { schema, kind, list: None });
    }
    types.extend(found);
}

/// Optional booleans, numbers and strings that are pointers in Kubernetes' types: their zero is a value, and JSON made from protobuf keeps
/// it. The zeros of others are left out. A name goes for all types that have it, unless it comes with its type.
pub(crate) const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "adminAccess",
    "allNodes",
    "allocateLoadBalancerNodePorts",
    "allowMultipleAllocations",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "attachRequired",
    "automountServiceAccountToken",
    "averageUtilization",
    "AzureDiskVolumeSource.readOnly",
    "backoffLimit",
    "backoffLimitPerIndex",
    "bindsToNode",
    "blockOwnerDeletion",
    "bool",
    "borrowingLimitPercent",
    "ClientIPConfig.timeoutSeconds",
    "collisionCount",
    "completions",
    "CSIVolumeSource.readOnly",
    "currentCPUUtilizationPercentage",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "DeploymentSpec.replicas",
    "DeviceAttribute.string",
    "DeviceAttribute.version",
    "enableServiceLinks",
    "EndpointConditions.ready",
    "EndpointPort.appProtocol",
    "EndpointPort.name",
    "endPort",
    "errorCode",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "FCVolumeSource.lun",
    "force",
    "fsGroup",
    "gracePeriodSeconds",
    "holderIdentity",
    "hostnameOverride",
    "hostProcess",
    "hostUsers",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "immutable",
    "ingressClassName",
    "int",
    "JobStatus.ready",
    "leaseDurationSeconds",
    "LeaseSpec.strategy",
    "leaseTransitions",
    "lendablePercent",
    "loadBalancerClass",
    "manualSelector",
    "maxExpirationSeconds",
    "maxFailedIndexes",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maxSurge",
    "maxUnavailable",
    "minAvailable",
    "minDomains",
    "minimum",
    "minItems",
    "minLength",
    "minProperties",
    "minReplicas",
    "mode",
    "multipleOf",
    "MutatingWebhook.timeoutSeconds",
    "nodeAllocatableUpdatePeriodSeconds",
    "NodeFeatures.supplementalGroupsPolicy",
    "NodeSwapStatus.capacity",
    "nominalConcurrencyShares",
    "optional",
    "optionalOldSelf",
    "orphanDependents",
    "OwnerReference.controller",
    "parallelism",
    "perDeviceNodeSelection",
    "PersistentVolumeClaimSpec.storageClassName",
    "podInfoOnMount",
    "PodSpec.priority",
    "port",
    "preferredHolder",
    "PriorityClass.value",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "recursiveReadOnlyMounts",
    "remainingItemCount",
    "ReplicaSetSpec.replicas",
    "ReplicationControllerSpec.replicas",
    "requiresRepublish",
    "revisionHistoryLimit",
    "RollingUpdateStatefulSetStrategy.partition",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "runtimeClassName",
    "ScaleSpec.replicas",
    "seLinuxMount",
    "serviceAccountTokenInSecrets",
    "ServicePort.appProtocol",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "stabilizationWindowSeconds",
    "started",
    "startingDeadlineSeconds",
    "StatefulSetSpec.replicas",
    "storageCapacity",
    "succeededCount",
    "successfulJobsHistoryLimit",
    "suspend",
    "targetCPUUtilizationPercentage",
    "terminating",
    "terminatingReplicas",
    "terminationGracePeriodSeconds",
    "timeZone",
    "tolerationSeconds",
    "trafficDistribution",
    "ttlSecondsAfterFinished",
    "TypedLocalObjectReference.apiGroup",
    "TypedObjectReference.apiGroup",
    "userNamespaces",
    "ValidatingWebhook.timeoutSeconds",
    "volumeAttributesClassName",
    "VolumeNodeResources.count",
    "x-kubernetes-preserve-unknown-fields",
];
