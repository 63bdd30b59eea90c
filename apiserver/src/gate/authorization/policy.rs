//! The roles and bindings that every cluster has, as Kubernetes' bootstrap policy lists them.

use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::super::authentication::{AUTHENTICATED, UNAUTHENTICATED};
use super::MASTERS;
use crate::pki::ADMIN_GROUP;

const RBAC: &str = "rbac.authorization.k8s.io";
/// Verbs of those who read, and of those who write.
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const CRUD: &str = "create delete deletecollection get list patch update watch";

/// A rule in words that are separated by spaces. The group `core` is the empty one.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Verbs, groups, resources.
    On(&'static str, &'static str, &'static str),
    /// Verbs, group, resources, names.
    Named(&'static str, &'static str, &'static str, &'static str),
    /// `get` of paths.
    Paths(&'static str),
    /// Every verb of every path.
    AllPaths,
}
use Rule::{AllPaths, Named, On, Paths};

impl Rule {
    fn build(self) -> PolicyRule {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let groups = |text: &str| text.split(' ').map(|g| if g == "core" { String::new() } else { g.to_owned() }).collect::<Vec<_>>();
        let mut rule = PolicyRule::default();
        match self {
            On(verbs, on, resources) => {
                (rule.verbs, rule.api_groups, rule.resources) = (words(verbs), Some(groups(on)), Some(words(resources)));
            }
            Named(verbs, on, resources, names) => {
                (rule.verbs, rule.api_groups, rule.resources) = (words(verbs), Some(groups(on)), Some(words(resources)));
                rule.resource_names = Some(words(names));
            }
            Paths(paths) => (rule.verbs, rule.non_resource_urls) = (words("get"), Some(words(paths))),
            AllPaths => (rule.verbs, rule.non_resource_urls) = (words("*"), Some(words("*"))),
        }
        rule
    }
}

const EVENTS: Rule = On("create patch update", "core events.k8s.io", "events");

const VIEW: &[Rule] = &[
    On(
        READ,
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale \
         serviceaccounts services services/status",
    ),
    On(
        READ,
        "core",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status \
         namespaces",
    ),
    On(READ, "discovery.k8s.io", "endpointslices"),
    On(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale \
         replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    On(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    On(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    On(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
];

const EDIT: &[Rule] = &[
    On(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    On("impersonate", "core", "serviceaccounts"),
    On(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    On("create", "core", "pods/eviction serviceaccounts/token"),
    On(
        WRITE,
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services \
         services/proxy",
    ),
    On(
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
    ),
    On(WRITE, "autoscaling", "horizontalpodautoscalers"),
    On(WRITE, "batch", "cronjobs jobs"),
    On(WRITE, "policy", "poddisruptionbudgets"),
    On(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    On(CRUD, "coordination.k8s.io", "leases"),
];

const ADMIN: &[Rule] = &[On("create", "authorization.k8s.io", "localsubjectaccessreviews"), On(CRUD, RBAC, "rolebindings roles")];

const NODE: &[Rule] = &[
    On("create", "authentication.k8s.io", "tokenreviews"),
    On("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    On(READ, "core", "services"),
    On("create get list watch", "core", "nodes"),
    On("patch update", "core", "nodes/status"),
    On("patch update", "core", "nodes"),
    EVENTS,
    On(READ, "core", "pods"),
    On("create delete", "core", "pods"),
    On("patch update", "core", "pods/status"),
    On("create", "core", "pods/eviction serviceaccounts/token"),
    On(READ, "core", "configmaps secrets"),
    On("get", "core", "persistentvolumeclaims persistentvolumes"),
    On("get", "core", "endpoints"),
    On("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    On("create delete get patch update", "coordination.k8s.io", "leases"),
    On("get", "storage.k8s.io", "volumeattachments"),
    On("create delete get patch update", "storage.k8s.io", "csinodes"),
    On(READ, "storage.k8s.io", "csidrivers"),
    On(READ, "node.k8s.io", "runtimeclasses"),
];

const SCHEDULER: &[Rule] = &[
    EVENTS,
    On("create", "coordination.k8s.io", "leases"),
    Named("get list patch update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
    On(READ, "core", "nodes"),
    On("delete get list watch", "core", "pods"),
    On("create", "core", "bindings pods/binding"),
    On("patch update", "core", "pods/status"),
    On(READ, "core", "namespaces replicationcontrollers services persistentvolumeclaims persistentvolumes"),
    On(READ, "apps extensions", "replicasets"),
    On(READ, "apps", "statefulsets"),
    On(READ, "policy", "poddisruptionbudgets"),
    On(READ, "storage.k8s.io", "csidrivers csinodes csistoragecapacities storageclasses volumeattachments"),
    On(READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
    On("create", "authentication.k8s.io", "tokenreviews"),
    On("create", "authorization.k8s.io", "subjectaccessreviews"),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    On("create", "coordination.k8s.io", "leases"),
    Named("get list patch update watch", "coordination.k8s.io", "leases", "kube-controller-manager"),
    On("create", "core", "secrets serviceaccounts"),
    On("delete", "core", "secrets"),
    On("get", "core", "configmaps namespaces secrets serviceaccounts"),
    On("update", "core", "secrets serviceaccounts"),
    On("create", "authentication.k8s.io", "tokenreviews"),
    On("create", "authorization.k8s.io", "subjectaccessreviews"),
    On("list watch", "*", "*"),
    On("create", "core", "serviceaccounts/token"),
];

/// ClusterRoles with rules of their own, besides `admin`, `edit` and `view`.
const ROLES: &[(&str, &[Rule])] = &[
    ("cluster-admin", &[On("*", "*", "*"), AllPaths]),
    ("system:discovery", &[Paths("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")]),
    ("system:monitoring", &[Paths("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")]),
    (
        "system:basic-user",
        &[
            On("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            On("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    ("system:public-info-viewer", &[Paths("/healthz /livez /readyz /version /version/")]),
    (
        "system:service-account-issuer-discovery",
        &[Paths("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")],
    ),
    ("system:node", NODE),
    ("system:node-problem-detector", &[On("get", "core", "nodes"), On("patch", "core", "nodes/status"), EVENTS]),
    (
        "system:node-proxier",
        &[
            On("list watch", "core", "endpoints services"),
            On(READ, "core", "nodes"),
            EVENTS,
            On("list watch", "discovery.k8s.io", "endpointslices"),
            On(READ, "networking.k8s.io", "servicecidrs"),
        ],
    ),
    ("system:node-bootstrapper", &[On("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]),
    (
        "system:auth-delegator",
        &[On("create", "authentication.k8s.io", "tokenreviews"), On("create", "authorization.k8s.io", "subjectaccessreviews")],
    ),
    ("system:kube-aggregator", &[On(READ, "core", "endpoints services")]),
    (
        "system:kubelet-api-admin",
        &[
            On(READ, "core", "nodes"),
            On("proxy", "core", "nodes"),
            On("*", "core", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats"),
        ],
    ),
    ("system:kube-controller-manager", CONTROLLER_MANAGER),
    ("system:kube-dns", &[On("list watch", "core", "endpoints services"), On("list watch", "discovery.k8s.io", "endpointslices")]),
    ("system:kube-scheduler", SCHEDULER),
    (
        "system:volume-scheduler",
        &[
            On("get list patch update watch", "core", "persistentvolumes persistentvolumeclaims"),
            On(READ, "storage.k8s.io", "storageclasses"),
        ],
    ),
    (
        "system:persistent-volume-provisioner",
        &[
            On("create delete get list watch", "core", "persistentvolumes"),
            On("get list update watch", "core", "persistentvolumeclaims"),
            On(READ, "storage.k8s.io", "storageclasses"),
            On("watch", "core", "events"),
            EVENTS,
        ],
    ),
];

/// ClusterRoles `system:controller:NAME`, each bound to the service account of that name in `kube-system`.
const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "deployment-controller",
        &[
            On("get list update watch", "apps", "deployments"),
            On("update", "apps", "deployments/finalizers deployments/status"),
            On("create delete get list patch update watch", "apps", "replicasets"),
            On("get list update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            On("get list update watch", "apps", "replicasets"),
            On("update", "apps", "replicasets/finalizers replicasets/status"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            On(READ, "apps", "daemonsets"),
            On("update", "apps", "daemonsets/finalizers daemonsets/status"),
            On("list watch", "core", "nodes"),
            On("create delete list patch watch", "core", "pods"),
            On("create", "core", "pods/binding"),
            On("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            On("list watch", "core", "pods"),
            On(READ, "apps", "statefulsets"),
            On("update", "apps", "statefulsets/finalizers statefulsets/status"),
            On("create delete get patch update", "core", "pods"),
            On("create delete get list patch update watch", "apps", "controllerrevisions"),
            On("create delete get list update watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            On("get list patch update watch", "batch", "jobs"),
            On("update", "batch", "jobs/finalizers jobs/status"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "cronjob-controller",
        &[
            On("get list update watch", "batch", "cronjobs"),
            On("update", "batch", "cronjobs/finalizers cronjobs/status"),
            On("create delete get list patch update watch", "batch", "jobs"),
            On("delete list", "core", "pods"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            On(READ, "core", "pods services"),
            On("create delete get list update", "core", "endpoints"),
            On("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            On(READ, "core", "nodes pods services"),
            On("update", "core", "services/finalizers"),
            On("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            On("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[On("delete get list patch update watch", "*", "*"), EVENTS]),
    (
        "namespace-controller",
        &[
            On("delete get list watch", "core", "namespaces"),
            On("update", "core", "namespaces/finalize namespaces/status"),
            On("delete deletecollection get list", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            On("delete get list patch update watch", "core", "nodes"),
            On("patch update", "core", "nodes/status"),
            On("delete get list watch", "core", "pods"),
            On("patch update", "core", "pods/status"),
            On(READ, "coordination.k8s.io", "leases"),
            EVENTS,
        ],
    ),
    (
        "pod-garbage-collector",
        &[On("delete list watch", "core", "pods"), On("get list", "core", "nodes"), On("patch update", "core", "pods/status")],
    ),
    ("service-account-controller", &[On("create", "core", "serviceaccounts"), EVENTS]),
    ("root-ca-cert-publisher", &[On("create update", "core", "configmaps"), EVENTS]),
    ("resourcequota-controller", &[On("list watch", "*", "*"), On("update", "core", "resourcequotas/status"), EVENTS]),
    ("ttl-after-finished-controller", &[On("delete get list watch", "batch", "jobs"), EVENTS]),
    ("clusterrole-aggregation-controller", &[On("escalate get list patch update watch", RBAC, "clusterroles")]),
    (
        "horizontal-pod-autoscaler",
        &[
            On("get list watch", "autoscaling", "horizontalpodautoscalers"),
            On("update", "autoscaling", "horizontalpodautoscalers/status"),
            On("get update", "*", "*/scale"),
            On("list", "core", "pods"),
            On("get list", "metrics.k8s.io custom.metrics.k8s.io external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            On(READ, "apps", "deployments replicasets statefulsets"),
            On(READ, "core", "pods replicationcontrollers"),
            On(READ, "policy", "poddisruptionbudgets"),
            On("update", "policy", "poddisruptionbudgets/status"),
            On("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "attachdetach-controller",
        &[
            On(READ, "core", "nodes persistentvolumeclaims persistentvolumes pods"),
            On("patch update", "core", "nodes/status"),
            On("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            On(READ, "storage.k8s.io", "csidrivers csinodes"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            On("create delete get list update watch", "core", "persistentvolumes"),
            On("update", "core", "persistentvolumes/status persistentvolumeclaims/status"),
            On("get list update watch", "core", "persistentvolumeclaims"),
            On("create delete get list watch", "core", "pods"),
            On(READ, "storage.k8s.io", "storageclasses"),
            EVENTS,
        ],
    ),
    ("pvc-protection-controller", &[On("get list update watch", "core", "persistentvolumeclaims"), On(READ, "core", "pods"), EVENTS]),
    ("pv-protection-controller", &[On("get list update watch", "core", "persistentvolumes"), EVENTS]),
    (
        "taint-eviction-controller",
        &[On(READ, "core", "nodes"), On("delete get list watch", "core", "pods"), On("patch update", "core", "pods/status"), EVENTS],
    ),
    (
        "certificate-controller",
        &[
            On("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            On("update", "certificates.k8s.io", "certificatesigningrequests/approval certificatesigningrequests/status"),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
];

/// Name of a ClusterRoleBinding, its ClusterRole, and kinds and names of its subjects.
type Binding = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const BINDINGS: &[Binding] = &[
    ("cluster-admin", "cluster-admin", &[("Group", MASTERS)]),
    (ADMIN_GROUP, "cluster-admin", &[("Group", ADMIN_GROUP)]),
    ("system:discovery", "system:discovery", &[("Group", AUTHENTICATED)]),
    ("system:basic-user", "system:basic-user", &[("Group", AUTHENTICATED)]),
    ("system:public-info-viewer", "system:public-info-viewer", &[("Group", AUTHENTICATED), ("Group", UNAUTHENTICATED)]),
    ("system:monitoring", "system:monitoring", &[("Group", "system:monitoring")]),
    ("system:service-account-issuer-discovery", "system:service-account-issuer-discovery", &[("Group", "system:serviceaccounts")]),
    ("system:node-proxier", "system:node-proxier", &[("User", "system:kube-proxy")]),
    ("system:kube-controller-manager", "system:kube-controller-manager", &[("User", "system:kube-controller-manager")]),
    ("system:kube-scheduler", "system:kube-scheduler", &[("User", "system:kube-scheduler")]),
    ("system:volume-scheduler", "system:volume-scheduler", &[("User", "system:kube-scheduler")]),
    ("system:kube-dns", "system:kube-dns", &[("ServiceAccount", "kube-dns")]),
];

fn meta(name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let bootstrap = ("kubernetes.io/bootstrapping", "rbac-defaults");
    ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some([own(&("rbac.authorization.kubernetes.io/autoupdate", "true"))].into()),
        labels: Some([bootstrap].iter().chain(labels).map(own).collect()),
        ..ObjectMeta::default()
    }
}

fn role(name: &str, labels: &[(&str, &str)], rules: &[Rule]) -> ClusterRole {
    ClusterRole { metadata: meta(name, labels), aggregation_rule: None, rules: Some(rules.iter().map(|r| r.build()).collect()) }
}

/// The ClusterRoles. Those that aggregate carry the sum of their rules already.
pub(super) fn cluster_roles() -> Vec<ClusterRole> {
    const AGGREGATE: [(&str, &str); 3] = [
        ("rbac.authorization.k8s.io/aggregate-to-admin", "true"),
        ("rbac.authorization.k8s.io/aggregate-to-edit", "true"),
        ("rbac.authorization.k8s.io/aggregate-to-view", "true"),
    ];
    let aggregating = |name: &str, label: (&str, &str), labels: &[(&str, &str)], rules: &[&[Rule]]| ClusterRole {
        aggregation_rule: Some(AggregationRule {
            cluster_role_selectors: Some(vec![LabelSelector {
                match_labels: Some([(label.0.to_owned(), label.1.to_owned())].into()),
                ..LabelSelector::default()
            }]),
        }),
        ..role(name, labels, &rules.concat())
    };
    let [to_admin, to_edit, to_view] = AGGREGATE;
    let mut roles = vec![
        aggregating("admin", to_admin, &[], &[ADMIN, EDIT, VIEW]),
        aggregating("edit", to_edit, &[to_admin], &[EDIT, VIEW]),
        aggregating("view", to_view, &[to_edit], &[VIEW]),
        role("system:aggregate-to-admin", &[to_admin], ADMIN),
        role("system:aggregate-to-edit", &[to_edit], EDIT),
        role("system:aggregate-to-view", &[to_view], VIEW),
    ];
    roles.extend(ROLES.iter().map(|(name, rules)| role(name, &[], rules)));
    roles.extend(CONTROLLERS.iter().map(|(name, rules)| role(&format!("system:controller:{name}"), &[], rules)));
    roles
}

fn subject(kind: &str, name: &str) -> Subject {
    let account = kind == "ServiceAccount";
    Subject {
        kind: kind.to_owned(),
        name: name.to_owned(),
        api_group: (!account).then(|| RBAC.to_owned()),
        namespace: account.then(|| "kube-system".to_owned()),
    }
}

/// The ClusterRoleBindings.
pub(super) fn cluster_bindings() -> Vec<ClusterRoleBinding> {
    let bind = |name: &str, role: &str, subjects: Vec<Subject>| ClusterRoleBinding {
        metadata: meta(name, &[]),
        role_ref: RoleRef { api_group: Some(RBAC.into()), kind: "ClusterRole".into(), name: role.to_owned() },
        subjects: Some(subjects),
    };
    let named =
        BINDINGS.iter().map(|(name, role, subjects)| bind(name, role, subjects.iter().map(|(kind, name)| subject(kind, name)).collect()));
    let controllers = CONTROLLERS.iter().map(|(name, _)| {
        let role = format!("system:controller:{name}");
        bind(&role, &role, vec![subject("ServiceAccount", name)])
    });
    named.chain(controllers).collect()
}

/// The Roles in `kube-system`, and their bindings.
pub(super) fn system_roles() -> (Vec<Role>, Vec<RoleBinding>) {
    const NAME: &str = "extension-apiserver-authentication-reader";
    let in_system = |name: &str| ObjectMeta { namespace: Some("kube-system".into()), ..meta(name, &[]) };
    let rules = vec![Named(READ, "core", "configmaps", "extension-apiserver-authentication").build()];
    let role = Role { metadata: in_system(NAME), rules: Some(rules) };
    let binding = RoleBinding {
        metadata: in_system(&format!("system::{NAME}")),
        role_ref: RoleRef { api_group: Some(RBAC.into()), kind: "Role".into(), name: NAME.into() },
        subjects: Some(vec![
            Subject { namespace: None, ..subject("User", "system:kube-controller-manager") },
            Subject { namespace: None, ..subject("User", "system:kube-scheduler") },
        ]),
    };
    (vec![role], vec![binding])
}
