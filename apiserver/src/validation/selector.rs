//! Label selectors, wherever they are.

use serde_json::Value;
use wharf_core::selector::{is_label_value, is_qualified_name};

use super::metadata::{LABEL_VALUE, QUALIFIED, labels};
use super::{Causes, forbidden, invalid, required};
use crate::resources::value::{at, items, text};

/// A label selector; one that is missing is no matter here.
pub(super) fn label_selector(selector: Option<&Value>, field: &str, causes: &mut Causes) {
    let Some(selector) = selector else { return };
    labels(at(selector, &["matchLabels"]), &format!("{field}.matchLabels"), causes);
    for (i, expression) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let here = format!("{field}.matchExpressions[{i}]");
        let values = items(expression, &["values"]);
        match text(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                required(causes, &format!("{here}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                forbidden(causes, &format!("{here}.values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => invalid(causes, &format!("{here}.operator"), &other.into(), "not a valid selector operator"),
        }
        let key = text(expression, &["key"]);
        if !is_qualified_name(key) {
            invalid(causes, &format!("{here}.key"), &key.into(), QUALIFIED);
        }
        for (j, value) in values.iter().enumerate() {
            if !value.as_str().is_some_and(|v| v.len() <= 63 && is_label_value(v)) {
                invalid(causes, &format!("{here}.values[{j}]"), value, LABEL_VALUE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions() {
        let found = |expression: Value| {
            let mut causes = Vec::new();
            label_selector(Some(&json!({"matchExpressions":[expression]})), "s", &mut causes);
            crate::validation::testing::lines(causes)
        };
        assert!(found(json!({"key":"a","operator":"In","values":["b",""]})).is_empty());
        for (expression, wanted) in [
            (
                json!({"key":"a","operator":"In"}),
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            (
                json!({"key":"a","operator":"Exists","values":["b"]}),
                "s.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            (
                json!({"key":"a","operator":"in","values":["b"]}),
                "s.matchExpressions[0].operator: Invalid value: \"in\": not a valid selector operator",
            ),
        ] {
            assert_eq!(found(expression), [wanted]);
        }
        assert_eq!(found(json!({"key":"-","operator":"In","values":["_"]})).len(), 2);
    }
}
