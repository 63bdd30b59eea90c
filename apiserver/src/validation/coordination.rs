//! coordination.k8s.io: leases.

use serde_json::Value;
use wharf_core::selector::is_qualified_name;

use super::metadata::QUALIFIED;
use super::{Causes, forbidden, invalid, unsupported};
use crate::resources::value::{at, number, text};

/// Leases.
pub(crate) fn lease(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    if let Some(seconds) = number(new, &["spec", "leaseDurationSeconds"]).filter(|n| *n <= 0) {
        invalid(causes, "spec.leaseDurationSeconds", &seconds.into(), "must be greater than 0");
    }
    if let Some(count) = number(new, &["spec", "leaseTransitions"]).filter(|n| *n < 0) {
        invalid(causes, "spec.leaseTransitions", &count.into(), "must be greater than or equal to 0");
    }
    if let Some(found) = at(new, &["spec", "strategy"]) {
        // The field is named twice, as Kubernetes does.
        let (field, strategy) = ("spec.strategy.strategy", found.as_str().unwrap_or_default());
        if !strategy.contains('/') {
            if strategy != "OldestEmulationVersion" {
                unsupported(causes, field, found, &["OldestEmulationVersion"]);
            }
        } else if !is_qualified_name(strategy) {
            invalid(causes, field, found, QUALIFIED);
        }
    }
    if !text(new, &["spec", "preferredHolder"]).is_empty() && text(new, &["spec", "strategy"]).is_empty() {
        forbidden(causes, "spec.preferredHolder", "may only be specified if `strategy` is defined");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leases() {
        for (spec, wanted) in [
            (json!({"leaseDurationSeconds":1,"leaseTransitions":0}), None),
            (json!({"strategy":"example.com/mine","preferredHolder":"a"}), None),
            (json!({"leaseDurationSeconds":0}), Some("spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0")),
            (json!({"leaseTransitions":-1}), Some("spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0")),
            (
                json!({"strategy":"mine"}),
                Some("spec.strategy.strategy: Unsupported value: \"mine\": supported values: \"OldestEmulationVersion\""),
            ),
            (json!({"preferredHolder":"a"}), Some("spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined")),
        ] {
            let found = crate::validation::testing::found(lease, &json!({"spec":spec}), None);
            assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
