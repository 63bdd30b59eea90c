//! Namespaces.

use serde_json::Value;
use wharf_core::selector::is_qualified_name;

use super::metadata::QUALIFIED;
use super::{Causes, invalid};
use crate::resources::value::{at, items, text};

/// The finalizers that need no domain.
const STANDARD: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Namespaces.
pub(crate) fn namespace(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    // An update cannot change them.
    if old.is_none() {
        finalizers(new, |_| "spec.finalizers".into(), causes);
    }
}

/// What must be done before a namespace is gone.
pub(crate) fn namespace_finalizers(new: &Value, _old: &Value, causes: &mut Causes) {
    finalizers(new, |i| format!("spec.finalizers[{i}]"), causes);
}

fn finalizers(new: &Value, field: impl Fn(usize) -> String, causes: &mut Causes) {
    for (i, finalizer) in items(new, &["spec", "finalizers"]).iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        if !is_qualified_name(name) {
            invalid(causes, &field(i), finalizer, QUALIFIED);
        } else if !name.contains('/') && !STANDARD.contains(&name) {
            invalid(causes, &field(i), finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

/// The phase follows from whether the namespace is being deleted.
pub(crate) fn namespace_status(new: &Value, old: &Value, causes: &mut Causes) {
    let going = at(old, &["metadata", "deletionTimestamp"]).is_some();
    let phase = text(new, &["status", "phase"]);
    let why = match going {
        false if phase != "Active" => "may only be 'Active' if `deletionTimestamp` is empty",
        true if phase != "Terminating" => "may only be 'Terminating' if `deletionTimestamp` is not empty",
        _ => return,
    };
    invalid(causes, "status.Phase", &phase.into(), why);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn phases() {
        let phase = |phase: &str, old: Value| {
            let mut causes = Vec::new();
            namespace_status(&json!({"status":{"phase":phase}}), &old, &mut causes);
            causes.len()
        };
        let going = || json!({"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}});
        assert_eq!([phase("Active", json!({})), phase("Terminating", going())], [0, 0]);
        assert_eq!([phase("Terminating", json!({})), phase("Active", going()), phase("", json!({}))], [1, 1, 1]);
    }

    #[test]
    fn finalizers_have_domains() {
        let namespace_of = |finalizers: Value| json!({"spec":{"finalizers":finalizers}});
        let all = crate::validation::testing::found(namespace, &namespace_of(json!(["kubernetes", "a.b/c", "mine", "no good"])), None);
        assert_eq!(
            all,
            [
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified".to_owned(),
                format!("spec.finalizers: Invalid value: \"no good\": {QUALIFIED}"),
            ]
        );
        let mut causes = Vec::new();
        namespace_finalizers(&namespace_of(json!(["mine"])), &Value::Null, &mut causes);
        assert_eq!(causes[0].field.as_deref(), Some("spec.finalizers[0]"));
    }
}
