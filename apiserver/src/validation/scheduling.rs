//! scheduling.k8s.io: priority classes.

use serde_json::Value;

use super::{Causes, forbidden, immutable, unsupported};
use crate::resources::value::{at, number, text};

/// Largest value that is not the system's.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// Priority classes.
pub(crate) fn priority_class(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let (value, policy) = (number(new, &["value"]).unwrap_or(0), at(new, &["preemptionPolicy"]));
    if let Some(old) = old {
        if value != number(old, &["value"]).unwrap_or(0) {
            forbidden(causes, "value", "may not be changed in an update.");
        }
        return immutable(causes, "preemptionPolicy", policy, at(old, &["preemptionPolicy"]));
    }
    let name = text(new, &["metadata", "name"]);
    if name.starts_with(SYSTEM_PREFIX) {
        if let Some(error) = not_known(name, value, at(new, &["globalDefault"]) == Some(&Value::Bool(true))) {
            let why = format!("priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {error}");
            forbidden(causes, "metadata.name", &why);
        }
    } else if value > HIGHEST {
        forbidden(causes, "value", &format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    if let Some(policy) = policy.filter(|p| *p != "PreemptLowerPriority" && *p != "Never") {
        unsupported(causes, "preemptionPolicy", policy, &["PreemptLowerPriority", "Never"]);
    }
}

/// Why this is not one of the system's own.
fn not_known(name: &str, value: i64, global_default: bool) -> Option<String> {
    match SYSTEM.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(new: &Value, old: Option<&Value>) -> Vec<String> {
        crate::validation::testing::found(priority_class, new, old)
    }
    fn class(name: &str, value: i64) -> Value {
        json!({"metadata":{"name":name},"value":value,"preemptionPolicy":"Never"})
    }

    #[test]
    fn values_and_names() {
        assert!(found(&class("a", HIGHEST), None).is_empty());
        assert!(found(&class("system-node-critical", 2_000_001_000), None).is_empty());
        assert_eq!(
            found(&class("a", HIGHEST + 1), None),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(
            found(&class("system-x", 1), None),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"
            ]
        );
        assert!(
            found(&class("system-node-critical", 1), None)[0].ends_with("value of system-node-critical PriorityClass must be 2000001000")
        );
        assert_eq!(
            found(&json!({"metadata":{"name":"a"},"preemptionPolicy":"x"}), None),
            ["preemptionPolicy: Unsupported value: \"x\": supported values: \"PreemptLowerPriority\", \"Never\""]
        );
    }

    #[test]
    fn what_stays() {
        let old = class("a", 5);
        assert!(found(&old, Some(&old)).is_empty());
        assert_eq!(found(&class("a", 6), Some(&old)), ["value: Forbidden: may not be changed in an update."]);
        let other = json!({"metadata":{"name":"a"},"value":5,"preemptionPolicy":"PreemptLowerPriority"});
        assert_eq!(found(&other, Some(&old)), ["preemptionPolicy: Invalid value: \"PreemptLowerPriority\": field is immutable"]);
    }
}
