//! policy: disruption budgets.

use serde_json::Value;

use super::selector::label_selector;
use super::share::{not_more_than_all, share};
use super::{Causes, invalid, one_of};
use crate::resources::value::{at, number};

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Disruption budgets.
pub(crate) fn disruption_budget(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let part = |name: &str| at(new, &["spec", name]);
    if let (Some(_), Some(_), Some(spec)) = (part("minAvailable"), part("maxUnavailable"), at(new, &["spec"])) {
        invalid(causes, "spec", spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for name in ["minAvailable", "maxUnavailable"] {
        if let Some(amount) = part(name) {
            let field = format!("spec.{name}");
            share(amount, &field, causes);
            not_more_than_all(amount, &field, causes);
        }
    }
    label_selector(part("selector"), "spec.selector", causes);
    let policies = &["AlwaysAllow", "IfHealthyBudget"];
    one_of(causes, "spec.unhealthyPodEvictionPolicy", part("unhealthyPodEvictionPolicy"), policies);
}

/// What the disruption controller counts.
pub(crate) fn disruption_budget_status(new: &Value, _old: &Value, causes: &mut Causes) {
    for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        if let Some(count) = number(new, &["status", name]).filter(|n| *n < 0) {
            invalid(causes, &format!("status.{name}"), &count.into(), NOT_NEGATIVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn budgets() {
        let found = |spec: Value| crate::validation::testing::found(disruption_budget, &json!({"spec":spec}), None);
        for good in [json!({}), json!({"minAvailable":0}), json!({"maxUnavailable":"100%","selector":{"matchLabels":{"a":"b"}}})] {
            assert!(found(good.clone()).is_empty(), "{good}");
        }
        let both = found(json!({"minAvailable":1,"maxUnavailable":1}));
        assert!(both[0].starts_with("spec: Invalid value") && both[0].ends_with("minAvailable and maxUnavailable cannot be both set"));
        for (amount, wanted) in [
            (json!(-1), "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"),
            (json!("101%"), "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"),
            (json!("99999999999999999999%"), "spec.minAvailable: Invalid value: \"99999999999999999999%\": must not be greater than 100%"),
        ] {
            assert_eq!(found(json!({"minAvailable":amount})), [wanted]);
        }
        for amount in ["1", "%", "-1%", "1.5%"] {
            assert!(found(json!({"maxUnavailable":amount}))[0].contains("a valid percent string"), "{amount}");
        }
        assert_eq!(
            found(json!({"unhealthyPodEvictionPolicy":"x"})),
            ["spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""]
        );
        let mut causes = Vec::new();
        let counted = json!({"status":{"expectedPods":-1}});
        disruption_budget_status(&counted, &counted, &mut causes);
        assert_eq!(causes[0].field.as_deref(), Some("status.expectedPods"));
    }
}
