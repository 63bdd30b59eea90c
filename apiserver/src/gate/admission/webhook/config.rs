//! The webhooks of a configuration, made ready.

use std::time::Duration;

use serde_json::Value;

use crate::gate::admission::conditions::Conditions;
use crate::gate::admission::matching::Matching;
use crate::resources::value::{at, items, number, text};
use crate::webhook::{Hook, spoken};

/// Those of one configuration, in its order.
#[derive(Debug)]
pub(super) struct Hooks(pub(super) Vec<AdmissionHook>);

/// One webhook.
#[derive(Debug)]
pub(super) struct AdmissionHook {
    /// For people.
    pub(super) name: String,
    /// Names it among all.
    pub(super) uid: String,
    pub(super) place: Result<Hook, String>,
    pub(super) matching: Matching,
    pub(super) conditions: Conditions,
    /// Whether a write goes on when it cannot be asked.
    pub(super) may_fail: bool,
    pub(super) has_side_effects: bool,
    pub(super) timeout: Duration,
    /// The version of reviews that it is asked in.
    pub(super) review: String,
    /// Whether it is asked again when somebody changes the object after it.
    pub(super) again: bool,
}

/// How long a webhook may take that says nothing about it, in seconds; Kubernetes' own.
const TIMEOUT: i64 = 10;

impl Hooks {
    pub(super) fn read(configuration: &Value) -> Self {
        let of = text(configuration, &["metadata", "name"]);
        let hooks = items(configuration, &["webhooks"]).iter().enumerate();
        Self(hooks.map(|(i, hook)| AdmissionHook::read(of, i, hook)).collect())
    }
}

impl AdmissionHook {
    fn read(configuration: &str, place: usize, hook: &Value) -> Self {
        let name = text(hook, &["name"]);
        let known = spoken(items(hook, &["admissionReviewVersions"])).unwrap_or("v1");
        let seconds = number(hook, &["timeoutSeconds"]).and_then(|s| u64::try_from(s).ok()).unwrap_or(TIMEOUT.unsigned_abs());
        Self {
            name: name.to_owned(),
            uid: format!("{configuration}/{name}/{place}"),
            place: Hook::read(at(hook, &["clientConfig"]).unwrap_or(&Value::Null)),
            matching: Matching::read(hook),
            conditions: Conditions::read(hook),
            may_fail: text(hook, &["failurePolicy"]) == "Ignore",
            has_side_effects: !matches!(text(hook, &["sideEffects"]), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(seconds),
            review: format!("admission.k8s.io/{known}"),
            again: text(hook, &["reinvocationPolicy"]) == "IfNeeded",
        }
    }
}
