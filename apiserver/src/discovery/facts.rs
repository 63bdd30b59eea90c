//! What Kubernetes 1.36 says of its generally available resources: facts, gathered from its own discovery documents.

use std::collections::BTreeMap;

use serde_json::Value;

use super::resource_list;
use crate::resources::ResourceTable;

/// Plural, kind, short names, categories, then subresources. One that is not `name=kind:verbs` is of the resource's kind and got,
/// patched and updated; `scale` is a Scale. Verbs are all eight, singular names the kind in small letters, unless a line below says so.
const FACTS: &str = "
v1 bindings Binding - -
v1 componentstatuses ComponentStatus cs -
v1 configmaps ConfigMap cm -
v1 endpoints Endpoints ep -
v1 events Event ev -
v1 limitranges LimitRange limits -
v1 namespaces Namespace ns - finalize=Namespace:update status
v1 nodes Node no - proxy=NodeProxyOptions:create,delete,get,patch,update status
v1 persistentvolumeclaims PersistentVolumeClaim pvc - status
v1 persistentvolumes PersistentVolume pv - status
v1 pods Pod po all attach=PodAttachOptions:create,get binding=Binding:create ephemeralcontainers eviction=Eviction:create \
 exec=PodExecOptions:create,get log=Pod:get portforward=PodPortForwardOptions:create,get \
 proxy=PodProxyOptions:create,delete,get,patch,update resize status
v1 podtemplates PodTemplate - -
v1 replicationcontrollers ReplicationController rc all scale status
v1 resourcequotas ResourceQuota quota - status
v1 secrets Secret - -
v1 serviceaccounts ServiceAccount sa - token=TokenRequest:create
v1 services Service svc all proxy=ServiceProxyOptions:create,delete,get,patch,update status
admissionregistration.k8s.io/v1 mutatingadmissionpolicies MutatingAdmissionPolicy - api-extensions
admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding - api-extensions
admissionregistration.k8s.io/v1 mutatingwebhookconfigurations MutatingWebhookConfiguration - api-extensions
admissionregistration.k8s.io/v1 validatingadmissionpolicies ValidatingAdmissionPolicy - api-extensions status
admissionregistration.k8s.io/v1 validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding - api-extensions
admissionregistration.k8s.io/v1 validatingwebhookconfigurations ValidatingWebhookConfiguration - api-extensions
apiextensions.k8s.io/v1 customresourcedefinitions CustomResourceDefinition crd,crds api-extensions status
apiregistration.k8s.io/v1 apiservices APIService - api-extensions status
apps/v1 controllerrevisions ControllerRevision - -
apps/v1 daemonsets DaemonSet ds all status
apps/v1 deployments Deployment deploy all scale status
apps/v1 replicasets ReplicaSet rs all scale status
apps/v1 statefulsets StatefulSet sts all scale status
authentication.k8s.io/v1 selfsubjectreviews SelfSubjectReview - -
authentication.k8s.io/v1 tokenreviews TokenReview - -
authorization.k8s.io/v1 localsubjectaccessreviews LocalSubjectAccessReview - -
authorization.k8s.io/v1 selfsubjectaccessreviews SelfSubjectAccessReview - -
authorization.k8s.io/v1 selfsubjectrulesreviews SelfSubjectRulesReview - -
authorization.k8s.io/v1 subjectaccessreviews SubjectAccessReview - -
autoscaling/v1 horizontalpodautoscalers HorizontalPodAutoscaler hpa all status
autoscaling/v2 horizontalpodautoscalers HorizontalPodAutoscaler hpa all status
batch/v1 cronjobs CronJob cj all status
batch/v1 jobs Job - all status
certificates.k8s.io/v1 certificatesigningrequests CertificateSigningRequest csr - approval status
coordination.k8s.io/v1 leases Lease - -
discovery.k8s.io/v1 endpointslices EndpointSlice - -
events.k8s.io/v1 events Event ev -
flowcontrol.apiserver.k8s.io/v1 flowschemas FlowSchema - - status
flowcontrol.apiserver.k8s.io/v1 prioritylevelconfigurations PriorityLevelConfiguration - - status
networking.k8s.io/v1 ingressclasses IngressClass - -
networking.k8s.io/v1 ingresses Ingress ing - status
networking.k8s.io/v1 ipaddresses IPAddress ip -
networking.k8s.io/v1 networkpolicies NetworkPolicy netpol -
networking.k8s.io/v1 servicecidrs ServiceCIDR - - status
node.k8s.io/v1 runtimeclasses RuntimeClass - -
policy/v1 poddisruptionbudgets PodDisruptionBudget pdb - status
rbac.authorization.k8s.io/v1 clusterrolebindings ClusterRoleBinding - -
rbac.authorization.k8s.io/v1 clusterroles ClusterRole - -
rbac.authorization.k8s.io/v1 rolebindings RoleBinding - -
rbac.authorization.k8s.io/v1 roles Role - -
resource.k8s.io/v1 deviceclasses DeviceClass - -
resource.k8s.io/v1 resourceclaims ResourceClaim - - status
resource.k8s.io/v1 resourceclaimtemplates ResourceClaimTemplate - -
resource.k8s.io/v1 resourceslices ResourceSlice - -
scheduling.k8s.io/v1 priorityclasses PriorityClass pc -
storage.k8s.io/v1 csidrivers CSIDriver - -
storage.k8s.io/v1 csinodes CSINode - -
storage.k8s.io/v1 csistoragecapacities CSIStorageCapacity - -
storage.k8s.io/v1 storageclasses StorageClass sc -
storage.k8s.io/v1 volumeattachments VolumeAttachment - - status
storage.k8s.io/v1 volumeattributesclasses VolumeAttributesClass vac -";

/// Short names of stored versions, as Kubernetes' documents have them.
const HASHES: [(&str, &str); 6] = [
    ("configmaps", "qFsyl6wFWjQ="),
    ("endpoints", "fWeeMqaN/OA="),
    ("events", "r2yiGXH7wu8="),
    ("pods", "xPOwRZ+Yhw8="),
    ("services", "0/CO1lhkEBI="),
    ("persistentvolumes", "HN/zwEC+JgM="),
];

fn verbs(plural: &str, kind: &str) -> &'static str {
    match plural {
        "bindings" => "create",
        "componentstatuses" => "get,list",
        "namespaces" => "create,delete,get,list,patch,update,watch",
        _ if kind.ends_with("Review") => "create",
        _ => "create,delete,deletecollection,get,list,patch,update,watch",
    }
}

/// The facts, a line for each resource and subresource.
fn wanted() -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for line in FACTS.trim().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [version, plural, kind, short, categories, subresources @ ..] = words.as_slice() else { panic!("{line}") };
        let told = format!("{kind} {} {short} {categories} {}", kind.to_lowercase(), verbs(plural, kind));
        lines.insert(format!("{version} {plural}"), told);
        for sub in subresources {
            let (name, kind, verbs) = match sub.split_once('=').map(|(name, rest)| (name, rest.split_once(':').unwrap())) {
                Some((name, (kind, verbs))) => (name, kind, verbs),
                None if *sub == "scale" => ("scale", "Scale", "get,patch,update"),
                None => (*sub, *kind, "get,patch,update"),
            };
            lines.insert(format!("{version} {plural}/{name}"), format!("{kind}  - - {verbs}"));
        }
    }
    lines
}

fn told(table: &ResourceTable) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (group, version) in table.groups() {
        let list = resource_list(table, &group, &version);
        for entry in list["resources"].as_array().unwrap() {
            let text = |name: &str| entry[name].as_str().unwrap_or_default();
            let words = |name: &str| match &entry[name] {
                Value::Array(words) => words.iter().map(|w| w.as_str().unwrap()).collect::<Vec<_>>().join(","),
                _ => "-".to_owned(),
            };
            let line =
                format!("{} {} {} {} {}", text("kind"), text("singularName"), words("shortNames"), words("categories"), words("verbs"));
            lines.insert(format!("{} {}", list["groupVersion"].as_str().unwrap(), text("name")), line);
        }
    }
    lines
}

#[test]
fn every_resource_is_told_of_as_kubernetes_does() {
    let table = ResourceTable::builtin();
    let (wanted, told) = (wanted(), told(&table));
    let differing: Vec<_> =
        told.iter().filter(|(name, line)| wanted.get(*name) != Some(line)).map(|(name, line)| (name, line, wanted.get(name))).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    // A version that is not served at all is another matter.
    let served: Vec<String> = table.iter().map(|row| row.api_version()).collect();
    let is_served = |name: &str| served.iter().any(|version| name.split(' ').next() == Some(version));
    let missing: Vec<_> = wanted.keys().filter(|name| is_served(name) && !told.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn stored_versions_have_kubernetes_short_names() {
    let core = resource_list(&ResourceTable::builtin(), "", "v1");
    let of = |list: &Value, plural: &str| {
        list["resources"].as_array().unwrap().iter().find(|r| r["name"] == plural).unwrap()["storageVersionHash"].clone()
    };
    for (plural, hash) in HASHES {
        assert_eq!(of(&core, plural), hash, "{plural}");
    }
    assert!(of(&core, "bindings").is_null() && of(&core, "componentstatuses").is_null());
    // Events of the newer group are the same objects.
    assert_eq!(of(&resource_list(&ResourceTable::builtin(), "events.k8s.io", "v1"), "events"), "r2yiGXH7wu8=");
}
