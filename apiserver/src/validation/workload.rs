//! What makes pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf_core::selector::Selector;

use super::selector::label_selector;
use super::share::{is_none, not_more_than_all, share};
use super::{Causes, forbidden, immutable, invalid, not_negative, one_of, pod, required, unsupported};
use crate::resources::value::{at, items, number, text};

const STATEFUL_UPDATE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

fn spec_not_negative(v: &Value, field: &str, causes: &mut Causes) {
    not_negative(v.get("spec").unwrap_or(&Value::Null), "spec", field, causes);
}

/// A template of pods.
pub(super) fn template(template: Option<&Value>, here: &str, causes: &mut Causes) {
    let template = template.unwrap_or(&Value::Null);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    super::metadata::labels(at(template, &["metadata", "labels"]), &format!("{here}.labels"), causes);
    pod::spec(spec, &format!("{here}.spec"), causes);
    if !items(spec, &["ephemeralContainers"]).is_empty() {
        forbidden(causes, &format!("{here}.spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Templates that stand for themselves.
pub(crate) fn pod_template(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    template(new.get("template"), "template", causes);
}

/// The template of what keeps its pods running, and `kind` as messages call it.
fn lasting(new: &Value, kind: &str, causes: &mut Causes) {
    template(at(new, &["spec", "template"]), "spec.template", causes);
    always(new, kind, causes);
}

/// Pods that are started again whatever happens.
fn always(new: &Value, kind: &str, causes: &mut Causes) {
    one_of(causes, "spec.template.spec.restartPolicy", at(new, &["spec", "template", "spec", "restartPolicy"]), &["Always"]);
    if at(new, &["spec", "template", "spec", "activeDeadlineSeconds"]).is_some() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        forbidden(causes, "spec.template.spec.activeDeadlineSeconds", &why);
    }
}

fn labels_of(v: &Value) -> BTreeMap<String, String> {
    let labels = at(v, &["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
    serde_json::from_value(labels).unwrap_or_default()
}

fn not_selected(labels: &BTreeMap<String, String>, causes: &mut Causes) {
    let shown = serde_json::to_value(labels).unwrap_or_default();
    invalid(causes, "spec.template.metadata.labels", &shown, "`selector` does not match template `labels`");
}

/// A selector that is there, says something, matches the template's labels and stays. `kind` is what messages call the empty one's owner.
fn selecting(new: &Value, old: Option<&Value>, kind: &str, causes: &mut Causes) {
    let selector = at(new, &["spec", "selector"]);
    match selector {
        None => required(causes, "spec.selector", ""),
        Some(selector) => {
            label_selector(Some(selector), "spec.selector", causes);
            let empty = items(selector, &["matchExpressions"]).is_empty()
                && at(selector, &["matchLabels"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
            let parsed = serde_json::from_value(selector.clone()).ok().and_then(|s| Selector::from_object(&s).ok());
            match parsed {
                _ if empty => invalid(causes, "spec.selector", selector, &format!("empty selector is invalid for {kind}")),
                None => invalid(causes, "spec.selector", selector, "invalid label selector"),
                Some(parsed) => {
                    let labels = labels_of(new);
                    if !parsed.matches(&labels) {
                        not_selected(&labels, causes);
                    }
                }
            }
        }
    }
    if let Some(old) = old {
        immutable(causes, "spec.selector", selector, at(old, &["spec", "selector"]));
    }
}

/// A strategy as Kubernetes shows one of a type that it does not know.
fn strategy_shown(strategy: &Value) -> Value {
    json!({"Type": strategy.get("type"), "RollingUpdate": strategy.get("rollingUpdate")})
}

/// Deployments.
pub(crate) fn deployment(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    spec_not_negative(new, "replicas", causes);
    selecting(new, old, "deployment", causes);
    // Its pods are a replica set's, whose name the message has.
    lasting(new, "ReplicaSet", causes);
    deployment_strategy(at(new, &["spec", "strategy"]).unwrap_or(&Value::Null), causes);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        spec_not_negative(new, field, causes);
    }
    let (deadline, ready) = (number(new, &["spec", "progressDeadlineSeconds"]), number(new, &["spec", "minReadySeconds"]).unwrap_or(0));
    if let Some(deadline) = deadline.filter(|d| *d <= ready) {
        invalid(causes, "spec.progressDeadlineSeconds", &deadline.into(), "must be greater than minReadySeconds");
    }
}

fn deployment_strategy(strategy: &Value, causes: &mut Causes) {
    const ROLLING: &str = "spec.strategy.rollingUpdate";
    let rolling = at(strategy, &["rollingUpdate"]);
    match (text(strategy, &["type"]), rolling) {
        ("Recreate", None) => {}
        ("Recreate", Some(_)) => forbidden(causes, ROLLING, "may not be specified when strategy `type` is 'Recreate'"),
        ("RollingUpdate", None) => required(causes, ROLLING, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let field = format!("{ROLLING}.maxUnavailable");
            if let Some(amount) = unavailable {
                share(amount, &field, causes);
            }
            if let Some(amount) = surge {
                share(amount, &format!("{ROLLING}.maxSurge"), causes);
            }
            if is_none(unavailable) && is_none(surge) {
                invalid(causes, &field, unavailable.unwrap_or(&Value::Null), "may not be 0 when `maxSurge` is 0");
            }
            if let Some(amount) = unavailable {
                not_more_than_all(amount, &field, causes);
            }
        }
        _ => unsupported(causes, "spec.strategy", &strategy_shown(strategy), &["Recreate", "RollingUpdate"]),
    }
}

/// Replica sets.
pub(crate) fn replica_set(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    spec_not_negative(new, "replicas", causes);
    spec_not_negative(new, "minReadySeconds", causes);
    // Kubernetes' own word for them, too.
    selecting(new, old, "deployment", causes);
    lasting(new, "ReplicaSet", causes);
}

/// Daemon sets.
pub(crate) fn daemon_set(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    selecting(new, old, "daemonset", causes);
    lasting(new, "DaemonSet", causes);
    spec_not_negative(new, "minReadySeconds", causes);
    daemon_strategy(at(new, &["spec", "updateStrategy"]).unwrap_or(&Value::Null), causes);
    spec_not_negative(new, "revisionHistoryLimit", causes);
}

fn daemon_strategy(strategy: &Value, causes: &mut Causes) {
    const ROLLING: &str = "spec.updateStrategy.rollingUpdate";
    match (text(strategy, &["type"]), at(strategy, &["rollingUpdate"])) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => required(causes, ROLLING, ""),
        ("RollingUpdate", Some(rolling)) => {
            let amounts = ["maxUnavailable", "maxSurge"];
            for name in amounts {
                if let Some(amount) = rolling.get(name) {
                    let field = format!("{ROLLING}.{name}");
                    share(amount, &field, causes);
                    not_more_than_all(amount, &field, causes);
                }
            }
            let [unavailable, surge] = amounts.map(|name| rolling.get(name));
            match (is_none(unavailable), is_none(surge)) {
                (false, false) => {
                    let why = "may not be set when maxUnavailable is non-zero";
                    invalid(causes, &format!("{ROLLING}.maxSurge"), surge.unwrap_or(&Value::Null), why);
                }
                (true, true) => required(causes, &format!("{ROLLING}.maxUnavailable"), "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => unsupported(causes, "spec.updateStrategy", &strategy_shown(strategy), &["OnDelete", "RollingUpdate"]),
    }
}

/// Stateful sets.
pub(crate) fn stateful_set(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    const MUTABLE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    match text(new, &["spec", "podManagementPolicy"]) {
        "" => required(causes, "spec.podManagementPolicy", ""),
        "OrderedReady" | "Parallel" => {}
        other => invalid(causes, "spec.podManagementPolicy", &other.into(), "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(at(new, &["spec", "updateStrategy"]).unwrap_or(&Value::Null), causes);
    for when in ["whenDeleted", "whenScaled"] {
        let field = format!("spec.persistentVolumeClaimRetentionPolicy.{when}");
        one_of(causes, &field, at(new, &["spec", "persistentVolumeClaimRetentionPolicy", when]), &["Delete", "Retain"]);
    }
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        spec_not_negative(new, field, causes);
    }
    not_negative(at(new, &["spec", "ordinals"]).unwrap_or(&Value::Null), "spec.ordinals", "start", causes);
    selecting(new, None, "statefulset", causes);
    // As in Kubernetes, the rest of the pods is judged when they are made: they have volumes that only the claims' templates give them.
    super::metadata::labels(at(new, &["spec", "template", "metadata", "labels"]), "spec.template.labels", causes);
    always(new, "StatefulSet", causes);
    if let Some(old) = old {
        let fixed = |v: &Value| {
            let mut spec = v.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
            spec.retain(|k, _| !MUTABLE.contains(&k.as_str()));
            spec
        };
        if fixed(new) != fixed(old) {
            forbidden(causes, "spec", STATEFUL_UPDATE);
        }
    }
}

fn stateful_strategy(strategy: &Value, causes: &mut Causes) {
    const ROLLING: &str = "spec.updateStrategy.rollingUpdate";
    match (text(strategy, &["type"]), at(strategy, &["rollingUpdate"])) {
        ("", _) => required(causes, "spec.updateStrategy", ""),
        ("OnDelete" | "RollingUpdate", None) => {}
        ("OnDelete", Some(rolling)) => invalid(causes, ROLLING, rolling, "only allowed for updateStrategy 'RollingUpdate'"),
        ("RollingUpdate", Some(rolling)) => {
            not_negative(rolling, ROLLING, "partition", causes);
            if let Some(amount) = rolling.get("maxUnavailable") {
                let field = format!("{ROLLING}.maxUnavailable");
                share(amount, &field, causes);
                if is_none(Some(amount)) {
                    invalid(causes, &field, amount, "cannot be 0");
                }
                not_more_than_all(amount, &field, causes);
            }
        }
        _ => invalid(causes, "spec.updateStrategy", &strategy_shown(strategy), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// Replication controllers.
pub(crate) fn replication_controller(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    spec_not_negative(new, "minReadySeconds", causes);
    match at(new, &["spec", "selector"]).and_then(Value::as_object).filter(|m| !m.is_empty()) {
        None => required(causes, "spec.selector", ""),
        Some(selector) => {
            let labels = labels_of(new);
            if !selector.iter().all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str()) {
                not_selected(&labels, causes);
            }
        }
    }
    spec_not_negative(new, "replicas", causes);
    lasting(new, "ReplicationController", causes);
}

/// What a status counts: none of it is negative, and the second of each pair of bounds not less than the first.
struct Counts {
    not_negative: &'static [&'static str],
    bounds: &'static [(&'static str, &'static str, &'static str)],
}

impl Counts {
    fn check(&self, new: &Value, old: &Value, causes: &mut Causes) {
        let status = new.get("status").unwrap_or(&Value::Null);
        for field in self.not_negative {
            not_negative(status, "status", field, causes);
        }
        let count = |field: &str| number(status, &[field]).unwrap_or(0);
        for (small, large, why) in self.bounds {
            if count(small) > count(large) {
                invalid(causes, &format!("status.{small}"), &count(small).into(), why);
            }
        }
        let (was, is) = (number(old, &["status", "collisionCount"]), number(status, &["collisionCount"]));
        if was.is_some() && is < was {
            invalid(causes, "status.collisionCount", &is.unwrap_or(0).into(), "cannot be decremented");
        }
    }
}

const OF_ALL: &str = "cannot be greater than status.replicas";
const OF_READY: &str = "cannot be greater than readyReplicas";

/// How far a deployment is.
pub(crate) fn deployment_status(new: &Value, old: &Value, causes: &mut Causes) {
    const COUNTS: Counts = Counts {
        not_negative: &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ],
        bounds: &[
            ("updatedReplicas", "replicas", OF_ALL),
            ("readyReplicas", "replicas", OF_ALL),
            ("availableReplicas", "replicas", OF_ALL),
            ("availableReplicas", "readyReplicas", OF_READY),
        ],
    };
    COUNTS.check(new, old, causes);
}

/// How many pods a replica set or a replication controller has.
pub(crate) fn replicas_status(new: &Value, old: &Value, causes: &mut Causes) {
    const COUNTS: Counts = Counts {
        not_negative: &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"],
        bounds: &[
            ("fullyLabeledReplicas", "replicas", OF_ALL),
            ("readyReplicas", "replicas", OF_ALL),
            ("availableReplicas", "replicas", OF_ALL),
            ("availableReplicas", "readyReplicas", OF_READY),
        ],
    };
    COUNTS.check(new, old, causes);
}

/// How far a stateful set is.
pub(crate) fn stateful_set_status(new: &Value, old: &Value, causes: &mut Causes) {
    const COUNTS: Counts = Counts {
        not_negative: &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ],
        bounds: &[
            ("readyReplicas", "replicas", OF_ALL),
            ("currentReplicas", "replicas", OF_ALL),
            ("updatedReplicas", "replicas", OF_ALL),
            ("availableReplicas", "replicas", OF_ALL),
            ("availableReplicas", "readyReplicas", "cannot be greater than status.readyReplicas"),
        ],
    };
    COUNTS.check(new, old, causes);
}

/// On how many nodes a daemon set is.
pub(crate) fn daemon_set_status(new: &Value, old: &Value, causes: &mut Causes) {
    const COUNTS: Counts = Counts {
        not_negative: &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
        bounds: &[],
    };
    COUNTS.check(new, old, causes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::testing::found;

    fn deployment_of(labels: Value) -> Value {
        json!({"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}},
            "template":{"metadata":{"labels":labels},"spec":{"restartPolicy":"Always","containers":[{"name":"a","image":"x"}]}}}})
    }

    #[test]
    fn a_stateful_sets_pods_have_volumes_of_its_claims() {
        let mut set = deployment_of(json!({"a":"b"}));
        set["spec"]["podManagementPolicy"] = "Parallel".into();
        set["spec"]["updateStrategy"] = json!({"type":"OnDelete"});
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata":{"name":"data"},"spec":{}}]);
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name":"data","mountPath":"/data"}]);
        assert_eq!(found(stateful_set, &set, None), Vec::<String>::new());
        assert_eq!(found(replica_set, &set, None), ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]);
        set["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        set["spec"]["template"]["metadata"]["labels"] = json!({"a":"c"});
        let found = found(stateful_set, &set, None);
        assert!(found[0].contains("`selector` does not match template `labels`"), "{found:?}");
        assert_eq!(found[1], "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"");
    }

    #[test]
    fn the_selector_must_match_and_stay() {
        let mut causes = Vec::new();
        let good = deployment_of(json!({"a":"b"}));
        deployment(&good, None, &mut causes);
        assert!(causes.is_empty(), "{causes:?}");
        deployment(&deployment_of(json!({"a":"c"})), None, &mut causes);
        assert!(causes[0].message.as_ref().unwrap().contains("`selector` does not match template `labels`"));
        causes.clear();
        let mut other = deployment_of(json!({"a":"b","c":"d"}));
        other["spec"]["selector"]["matchLabels"] = json!({"c":"d"});
        deployment(&other, Some(&good), &mut causes);
        assert!(causes[0].message.as_ref().unwrap().ends_with("field is immutable"));
    }

    #[test]
    fn strategies() {
        let deployed = |strategy: Value| {
            let mut v = deployment_of(json!({"a":"b"}));
            v["spec"]["strategy"] = strategy;
            found(deployment, &v, None)
        };
        assert_eq!(deployed(json!({"type":"Recreate"})), Vec::<String>::new());
        let rolling = |rolling: Value| deployed(json!({"type":"RollingUpdate","rollingUpdate":rolling}));
        assert_eq!(rolling(json!({"maxUnavailable":"100%","maxSurge":"200%"})), Vec::<String>::new());
        let field = "spec.strategy.rollingUpdate";
        for (amounts, wanted) in [
            (json!({"maxUnavailable":0,"maxSurge":"0%"}), "maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"),
            (json!({"maxUnavailable":"101%","maxSurge":1}), "maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"),
            (json!({"maxUnavailable":1,"maxSurge":-1}), "maxSurge: Invalid value: -1: must be greater than or equal to 0"),
        ] {
            assert_eq!(rolling(amounts), [format!("{field}.{wanted}")]);
        }
        assert_eq!(
            deployed(json!({"type":"Recreate","rollingUpdate":{}})),
            [format!("{field}: Forbidden: may not be specified when strategy `type` is 'Recreate'")]
        );
        assert_eq!(
            deployed(json!({"type":"x"})),
            [
                "spec.strategy: Unsupported value: {\"RollingUpdate\":null,\"Type\":\"x\"}: supported values: \"Recreate\", \"RollingUpdate\""
            ]
        );
    }

    #[test]
    fn daemons_and_stateful_pods() {
        let mut set = deployment_of(json!({"a":"b"}));
        let mut daemons = |rolling: Value| {
            set["spec"]["updateStrategy"] = json!({"type":"RollingUpdate","rollingUpdate":rolling});
            found(daemon_set, &set, None)
        };
        assert_eq!(daemons(json!({"maxUnavailable":1,"maxSurge":0})), Vec::<String>::new());
        let field = "spec.updateStrategy.rollingUpdate";
        assert_eq!(
            daemons(json!({"maxUnavailable":1,"maxSurge":"5%"})),
            [format!("{field}.maxSurge: Invalid value: \"5%\": may not be set when maxUnavailable is non-zero")]
        );
        assert_eq!(
            daemons(json!({"maxUnavailable":0})),
            [format!("{field}.maxUnavailable: Required value: cannot be 0 when maxSurge is 0")]
        );
        set["spec"]["selector"] = json!({});
        set["spec"]["updateStrategy"] = json!({"type":"OnDelete","rollingUpdate":{"partition":1}});
        set["spec"]["ordinals"] = json!({"start":-1});
        set["spec"]["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted":"Keep"});
        assert_eq!(
            found(stateful_set, &set, None),
            [
                "spec.podManagementPolicy: Required value",
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
                "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"Keep\": supported values: \"Delete\", \"Retain\"",
                "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
                "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
            ]
        );
    }

    #[test]
    fn statuses_add_up() {
        let found = |rule: crate::validation::PartRule, status: Value, old: Value| {
            let mut causes = Vec::new();
            rule(&json!({"status":status}), &json!({"status":old}), &mut causes);
            crate::validation::testing::lines(causes)
        };
        let whole = json!({"replicas":3,"readyReplicas":2,"availableReplicas":1,"observedGeneration":4});
        for rule in [deployment_status, replicas_status, stateful_set_status, daemon_set_status] {
            assert_eq!(found(rule, whole.clone(), json!({})), Vec::<String>::new());
        }
        assert_eq!(
            found(replicas_status, json!({"replicas":1,"readyReplicas":0,"availableReplicas":1}), json!({})),
            ["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"]
        );
        assert_eq!(
            found(deployment_status, json!({"replicas":-1,"collisionCount":1}), json!({"collisionCount":2})),
            [
                "status.replicas: Invalid value: -1: must be greater than or equal to 0",
                "status.updatedReplicas: Invalid value: 0: cannot be greater than status.replicas",
                "status.readyReplicas: Invalid value: 0: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 0: cannot be greater than status.replicas",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ]
        );
    }
}
