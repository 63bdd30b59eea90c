//! Role-based access control, answered from an index over roles and bindings that informers keep.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use parking_lot::RwLock;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use wharf_core::informer::{Informers, ObjectChange, Reader};

use super::rules;
use super::{Authorizer, Decision};
use crate::request::{RequestInfo, User};

type Rules = Arc<[PolicyRule]>;

/// What subjects are granted.
#[derive(Debug, Default)]
struct Grants {
    users: HashMap<String, Vec<Rules>>,
    groups: HashMap<String, Vec<Rules>>,
}

impl Grants {
    fn add(&mut self, subjects: &[Subject], rules: &Rules) {
        for subject in subjects {
            let (map, name) = match subject.kind.as_str() {
                "User" => (&mut self.users, subject.name.clone()),
                "Group" => (&mut self.groups, subject.name.clone()),
                "ServiceAccount" => {
                    let namespace = subject.namespace.as_deref().unwrap_or_default();
                    (&mut self.users, format!("system:serviceaccount:{namespace}:{}", subject.name))
                }
                _ => continue,
            };
            map.entry(name).or_default().push(rules.clone());
        }
    }
    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a PolicyRule> {
        let groups = user.groups.iter().filter_map(|g| self.groups.get(g));
        self.users.get(&user.name).into_iter().chain(groups).flatten().flat_map(|rules| rules.iter())
    }
}

/// Every grant, found by namespace and subject.
#[derive(Debug, Default)]
struct Index {
    cluster: Grants,
    namespaces: HashMap<String, Grants>,
    cluster_roles: HashMap<String, Rules>,
    roles: HashMap<(String, String), Rules>,
}

/// The objects that an index is made of.
#[derive(Debug, Default)]
struct Policy {
    cluster_roles: Vec<Arc<ClusterRole>>,
    roles: Vec<Arc<Role>>,
    cluster_bindings: Vec<Arc<ClusterRoleBinding>>,
    bindings: Vec<Arc<RoleBinding>>,
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let (value, values) = (labels.get(&e.key), e.values.as_deref().unwrap_or_default());
            match e.operator.as_str() {
                "In" => value.is_some_and(|v| values.contains(v)),
                "NotIn" => value.is_none_or(|v| !values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The rules of a ClusterRole, with those that it aggregates.
fn cluster_rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Rules {
    let mut rules = role.rules.clone().unwrap_or_default();
    let selectors: Vec<&LabelSelector> = role.aggregation_rule.iter().flat_map(|a| a.cluster_role_selectors.iter().flatten()).collect();
    if !selectors.is_empty() {
        for other in all.iter().filter(|o| o.metadata.name != role.metadata.name) {
            let labels = other.metadata.labels.clone().unwrap_or_default();
            if selectors.iter().any(|s| selects(s, &labels)) {
                for rule in other.rules.iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
    }
    rules.into()
}

impl Index {
    fn build(policy: &Policy) -> Self {
        let mut index = Self::default();
        for role in &policy.cluster_roles {
            index.cluster_roles.insert(role.metadata.name.clone().unwrap_or_default(), cluster_rules(role, &policy.cluster_roles));
        }
        for role in &policy.roles {
            let key = (role.metadata.namespace.clone().unwrap_or_default(), role.metadata.name.clone().unwrap_or_default());
            index.roles.insert(key, role.rules.clone().unwrap_or_default().into());
        }
        for binding in &policy.cluster_bindings {
            // A ClusterRoleBinding to a Role, or to nothing, grants nothing.
            if let Some(rules) = index.resolve(&binding.role_ref, "").filter(|_| binding.role_ref.kind == "ClusterRole") {
                index.cluster.add(binding.subjects.as_deref().unwrap_or_default(), &rules);
            }
        }
        for binding in &policy.bindings {
            let namespace = binding.metadata.namespace.as_deref().unwrap_or_default();
            if let Some(rules) = index.resolve(&binding.role_ref, namespace) {
                let grants = index.namespaces.entry(namespace.to_owned()).or_default();
                grants.add(binding.subjects.as_deref().unwrap_or_default(), &rules);
            }
        }
        index
    }
    fn resolve(&self, role: &RoleRef, namespace: &str) -> Option<Rules> {
        match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name).cloned(),
            "Role" => self.roles.get(&(namespace.to_owned(), role.name.clone())).cloned(),
            _ => None,
        }
    }
    fn rules<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a PolicyRule> {
        let local = self.namespaces.get(namespace).filter(|_| !namespace.is_empty());
        self.cluster.of(user).chain(local.into_iter().flat_map(|grants| grants.of(user)))
    }
}

struct State {
    index: RwLock<Arc<Index>>,
    ready: watch::Sender<bool>,
}

/// The RBAC authorizer. Cheap to clone.
#[derive(Clone)]
pub struct Rbac {
    state: Arc<State>,
}

impl fmt::Debug for Rbac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rbac").field("ready", &*self.state.ready.borrow()).finish_non_exhaustive()
    }
}

impl Rbac {
    /// Follows roles and bindings until `stop`; must be called inside a tokio runtime. Until they have been read for the
    /// first time, decisions wait.
    pub fn start(informers: &Informers, stop: CancellationToken) -> Self {
        let state = Arc::new(State { index: RwLock::default(), ready: watch::Sender::new(false) });
        let (roles, cluster_roles) = (informers.of::<Role>(), informers.of::<ClusterRole>());
        let (bindings, cluster_bindings) = (informers.of::<RoleBinding>(), informers.of::<ClusterRoleBinding>());
        let task = follow(state.clone(), roles, cluster_roles, bindings, cluster_bindings);
        tokio::spawn(async move { stop.run_until_cancelled(Box::pin(task)).await });
        Self { state }
    }

    /// Waits until the policy has been read for the first time.
    pub async fn ready(&self) {
        // The sender lives in the state, so that this cannot fail.
        let _ = self.state.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether the policy has been read.
    pub fn is_ready(&self) -> bool {
        *self.state.ready.borrow()
    }

    fn index(&self) -> Arc<Index> {
        self.state.index.read().clone()
    }

    /// The rules that hold for a user in a namespace; of the cluster alone when it is empty.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.index().rules(user, namespace).cloned().collect()
    }

    /// The rules of a role that a binding in `namespace` refers to.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.index().resolve(role, namespace)
    }
}

async fn follow(
    state: Arc<State>,
    roles: Reader<Role>,
    cluster_roles: Reader<ClusterRole>,
    bindings: Reader<RoleBinding>,
    cluster_bindings: Reader<ClusterRoleBinding>,
) {
    let mut changes =
        [roles.informer(), cluster_roles.informer(), bindings.informer(), cluster_bindings.informer()].map(|i| i.subscribe().1);
    tokio::join!(roles.synced(), cluster_roles.synced(), bindings.synced(), cluster_bindings.synced());
    loop {
        // A change that arrives while the index is built builds it again.
        for changes in &mut changes {
            while !matches!(changes.try_recv(), Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)) {}
        }
        let policy = Policy {
            cluster_roles: cluster_roles.list(),
            roles: roles.list(),
            cluster_bindings: cluster_bindings.list(),
            bindings: bindings.list(),
        };
        *state.index.write() = Arc::new(Index::build(&policy));
        state.ready.send_replace(true);
        let [a, b, c, d] = &mut changes;
        let open = tokio::select! {
            more = changed(a) => more,
            more = changed(b) => more,
            more = changed(c) => more,
            more = changed(d) => more,
        };
        if !open {
            return;
        }
    }
}

/// Waits for a change, or for having missed some; false when there will be none.
async fn changed(changes: &mut broadcast::Receiver<ObjectChange>) -> bool {
    !matches!(changes.recv().await, Err(broadcast::error::RecvError::Closed))
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        if !self.is_ready() {
            self.ready().await;
        }
        let index = self.index();
        let allowed = index.rules(user, &request.namespace).any(|rule| rules::allows(rule, request));
        if allowed { Decision::Allow } else { Decision::NoOpinion }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn arc<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }
    fn read_pods() -> Value {
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
    }
    fn may(index: &Index, user: &str, namespace: &str) -> bool {
        let info = RequestInfo {
            is_resource: true,
            verb: "get".into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            name: "p".into(),
            ..RequestInfo::default()
        };
        index.rules(&User::new(user, ["dev"]), namespace).any(|r| rules::allows(r, &info))
    }

    #[test]
    fn grants_stay_in_their_namespace() {
        let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"});
        let policy = Policy {
            roles: vec![arc(json!({"metadata": {"name": "r", "namespace": "a"}, "rules": read_pods()}))],
            bindings: vec![arc(json!({
                "metadata": {"name": "b", "namespace": "a"},
                "roleRef": role_ref,
                "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "x"}, {"kind": "User", "name": "jane"}],
            }))],
            // A ClusterRoleBinding must not reach into a namespace for its role.
            cluster_bindings: vec![arc(
                json!({"metadata": {"name": "b"}, "roleRef": role_ref, "subjects": [{"kind": "User", "name": "eve"}]}),
            )],
            ..Policy::default()
        };
        let index = Index::build(&policy);
        assert!(may(&index, "jane", "a") && may(&index, "system:serviceaccount:x:sa", "a"));
        assert!(!may(&index, "jane", "b") && !may(&index, "jane", "") && !may(&index, "eve", "a"));
    }

    #[test]
    fn groups_and_aggregation() {
        let policy = Policy {
            cluster_roles: vec![
                arc(json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}})),
                arc(json!({"metadata": {"name": "part", "labels": {"to": "sum"}}, "rules": read_pods()})),
            ],
            cluster_bindings: vec![arc(json!({
                "metadata": {"name": "b"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sum"},
                "subjects": [{"kind": "Group", "name": "dev"}],
            }))],
            ..Policy::default()
        };
        let index = Index::build(&policy);
        assert!(may(&index, "anyone", "a") && may(&index, "anyone", ""));
    }
}
