//! Good inputs, from which a fuzzer finds its way to bad ones.

use serde_json::{Value, json};

/// A kind that objects are made of.
pub(crate) struct Known {
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) namespaced: bool,
    /// The name of one that is stored, to be written over.
    pub(crate) stored: Option<&'static str>,
}

const fn known(version: &'static str, kind: &'static str, plural: &'static str, namespaced: bool, stored: Option<&'static str>) -> Known {
    Known { version, kind, plural, namespaced, stored }
}

pub(crate) const KINDS: &[Known] = &[
    known("v1", "Pod", "pods", true, Some("pod")),
    known("v1", "ConfigMap", "configmaps", true, Some("settings")),
    known("v1", "Secret", "secrets", true, None),
    known("v1", "Service", "services", true, Some("web")),
    known("v1", "ServiceAccount", "serviceaccounts", true, None),
    known("v1", "Namespace", "namespaces", false, None),
    known("v1", "Node", "nodes", false, Some("node")),
    known("v1", "PersistentVolume", "persistentvolumes", false, None),
    known("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true, None),
    known("v1", "ResourceQuota", "resourcequotas", true, None),
    known("v1", "LimitRange", "limitranges", true, None),
    known("v1", "Event", "events", true, None),
    known("apps/v1", "Deployment", "deployments", true, Some("web")),
    known("apps/v1", "StatefulSet", "statefulsets", true, None),
    known("apps/v1", "DaemonSet", "daemonsets", true, None),
    known("batch/v1", "Job", "jobs", true, None),
    known("batch/v1", "CronJob", "cronjobs", true, None),
    known("networking.k8s.io/v1", "Ingress", "ingresses", true, None),
    known("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true, None),
    known("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false, None),
    known("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", true, None),
    known("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", true, None),
    known("storage.k8s.io/v1", "StorageClass", "storageclasses", false, None),
    known("coordination.k8s.io/v1", "Lease", "leases", true, None),
    known("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true, None),
];

/// Words of requests.
pub(crate) const WORDS: &[&str] = &[
    "null",
    "true",
    "false",
    "\"\"",
    "{}",
    "[]",
    "\"name\"",
    "\"metadata\"",
    "\"spec\"",
    "\"status\"",
    "\"containers\"",
    "\"ports\"",
    "\"labels\"",
    "\"annotations\"",
    "\"generateName\"",
    "\"finalizers\"",
    "\"ownerReferences\"",
    "\"managedFields\"",
    "\"resourceVersion\"",
    "\"uid\"",
    "\"namespace\"",
    "\"op\"",
    "\"path\"",
    "\"from\"",
    "\"value\"",
    "\"replace\"",
    "\"remove\"",
    "\"copy\"",
    "\"move\"",
    "\"test\"",
    "\"add\"",
    "\"$patch\"",
    "\"delete\"",
    "\"$retainKeys\"",
    "\"$deleteFromPrimitiveList/finalizers\"",
    "\"$setElementOrder/containers\"",
    "\"1Gi\"",
    "\"100m\"",
    "\"1e1000\"",
    "\"-1\"",
    "\"IfNotPresent\"",
    "\"Always\"",
    "\"TCP\"",
    "\"2020-01-01T00:00:00Z\"",
    "\u{0}",
    "&a [*a,*a]",
    "- ",
    ": ",
    "|\n ",
    "!!binary ",
    "---\n",
    " in (a,b)",
    " notin (a)",
    "!",
    "==",
    "!=",
    "labelSelector=",
    "fieldSelector=",
    "metadata.name=",
    "limit=",
    "continue=",
    "resourceVersion=",
    "resourceVersionMatch=Exact",
    "resourceVersionMatch=NotOlderThan",
    "sendInitialEvents=true",
    "allowWatchBookmarks=true",
    "timeoutSeconds=1",
    "fieldValidation=Strict",
    "dryRun=All",
    "k8s\u{0}",
    "\"x-kubernetes-validations\"",
    "\"x-kubernetes-preserve-unknown-fields\"",
    "\"x-kubernetes-list-type\"",
    "\"additionalProperties\"",
    "\"properties\"",
    "\"items\"",
    "\"default\"",
    "\"nullable\"",
    "\"object\"",
    "\"array\"",
    "\"integer\"",
    "self.",
    "oldSelf",
    ".all(x, ",
    ".exists(x, ",
    ".map(x, ",
    "has(self.a)",
    " in [",
    " ? ",
    "duration('1h')",
    "quantity('1Gi')",
    "'%d'.format([",
    ".matches('",
];

fn pod_spec() -> Value {
    json!({"containers": [{"name": "a", "image": "x:1", "command": ["a"], "env": [{"name": "A", "value": "b"}],
        "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}], "livenessProbe": {"httpGet": {"path": "/", "port": "http"}}}],
        "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k", "operator": "Exists"}]})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": pod_spec()})
}

/// One object of each kind that is patched.
pub(crate) fn objects() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "finalizers": ["a.b/c"], "labels": {"a": "b"}}, "data": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod_spec()}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https", "protocol": "TCP"}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "template": template()}}),
    ]
}

fn others() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "Yg=="}, "stringData": {"c": "d"}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "p"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *",
            "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}}}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.b",
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}}]}}]}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2020-01-01T00:00:00.000000Z"}}),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}),
    ]
}

fn all() -> Vec<Value> {
    objects().into_iter().chain(others()).collect()
}

pub(crate) fn json() -> Vec<Vec<u8>> {
    all().iter().map(|object| object.to_string().into_bytes()).collect()
}

/// Enough of YAML for these objects: what is below the first level is in the flow style, which is JSON.
pub(crate) fn yaml() -> Vec<Vec<u8>> {
    let lines = |object: &Value| {
        object
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| match value.as_str() {
                Some(text) => format!("{name}: {text}\n"),
                None => format!("{name}: {value}\n"),
            })
            .collect::<String>()
    };
    let mut seeds: Vec<Vec<u8>> = all().iter().map(|object| lines(object).into_bytes()).collect();
    seeds.push(
        b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: &l\n    a: b\ndata:\n  a: |\n    b\n  c: 'd'\n  e: \"f\"\n"
            .to_vec(),
    );
    seeds.push(b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: x\n    command: &c [a, b]\n    args: *c\n".to_vec());
    seeds
}

pub(crate) fn patch() -> Vec<Vec<u8>> {
    let merge = [
        json!({"metadata": {"labels": {"c": "d", "a": null}}}),
        json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "y"}]}}}}),
        json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}], "$setElementOrder/ports": [{"port": 443}]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a.b/c"]}, "data": {"$patch": "replace", "x": "y"}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    ];
    let json = [
        json!([{"op": "add", "path": "/metadata/labels/x", "value": "y"}, {"op": "test", "path": "/metadata/name", "value": "web"}]),
        json!([{"op": "copy", "from": "/metadata/labels", "path": "/metadata/annotations"}, {"op": "remove", "path": "/spec/ports/0"}]),
        json!([{"op": "move", "from": "/data/a", "path": "/data/b"}, {"op": "replace", "path": "/spec/replicas", "value": 5}]),
    ];
    let applied = all().into_iter().take(6);
    let with = |first: u8, value: &Value| [vec![first], value.to_string().into_bytes()].concat();
    let mut seeds = Vec::new();
    for at in 0..6u8 {
        seeds.extend(merge.iter().flat_map(|patch| [with(at * 4, patch), with(at * 4 + 1, patch)]));
        seeds.extend(json.iter().map(|patch| with(at * 4 + 2, patch)));
    }
    seeds.extend(applied.enumerate().map(|(at, object)| with(u8::try_from(at).unwrap_or(0) * 4 + 3, &object)));
    seeds
}

pub(crate) fn query() -> Vec<Vec<u8>> {
    let queries = [
        "labelSelector=a%3Db,c+in+(d,e),!f",
        "fieldSelector=metadata.name%3Dweb,metadata.namespace!%3Ddefault",
        "limit=1",
        "limit=500&continue=",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "resourceVersion=5&resourceVersionMatch=Exact",
        "fieldSelector=spec.nodeName%3Da",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        "timeoutSeconds=1&resourceVersion=1",
        "limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwibmFtZXNwYWNlIjoiZGVmYXVsdCIsIm5hbWUiOiJhIn0",
        "pretty=true&includeObject=Metadata",
        "labelSelector=a.b/c+notin+(x),y",
        "propagationPolicy=Background&gracePeriodSeconds=0",
    ];
    queries.iter().flat_map(|query| [0u8, 1, 64, 128, 192, 193].map(|first| [&[first], query.as_bytes()].concat())).collect()
}

/// `Unknown` of runtime: its type in field 1, the object in field 2, whose metadata is field 1, whose name is field 1.
pub(crate) fn protobuf() -> Vec<Vec<u8>> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        // Short enough for lengths of one byte.
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)], bytes].concat()
    }
    let kinds = KINDS.iter().enumerate().map(|(at, kind)| {
        let meta = [field(1, kind.version.as_bytes()), field(2, kind.kind.as_bytes())].concat();
        let object = field(1, &[field(1, b"a"), field(3, b"default"), field(11, &[field(1, b"k"), field(2, b"v")].concat())].concat());
        [vec![u8::try_from(at).unwrap_or(0)], b"k8s\0".to_vec(), field(1, &meta), field(2, &object)].concat()
    });
    kinds.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_what_they_say() {
        assert!(json().iter().all(|seed| serde_json::from_slice::<Value>(seed).is_ok()));
        assert!(all().iter().all(|o| KINDS.iter().any(|k| k.version == o["apiVersion"] && k.kind == o["kind"])));
        assert!(protobuf().iter().all(|seed| seed.len() < 127 && seed[1..5] == *b"k8s\0"));
    }
}
