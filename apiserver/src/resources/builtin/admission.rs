//! admissionregistration.k8s.io: webhooks, and policies in CEL.

use k8s_openapi::api::admissionregistration::v1 as admission;

use super::Resource;
use crate::{defaults, table, validation};

const EXTENSIONS: &[&str] = &["api-extensions"];

pub(super) fn rows() -> Vec<Resource> {
    let rows = [
        Resource::of::<admission::MutatingWebhookConfiguration>(false)
            .defaults(defaults::mutating_webhooks)
            .validate(validation::mutating_webhooks)
            .columns(&table::WEBHOOK_CONFIGURATIONS),
        Resource::of::<admission::ValidatingWebhookConfiguration>(false)
            .defaults(defaults::validating_webhooks)
            .validate(validation::validating_webhooks)
            .columns(&table::WEBHOOK_CONFIGURATIONS),
        Resource::of::<admission::ValidatingAdmissionPolicy>(false)
            .with_status()
            .defaults(defaults::admission_policy)
            .validate(validation::validating_policy)
            .columns(&table::VALIDATING_ADMISSION_POLICIES),
        Resource::of::<admission::ValidatingAdmissionPolicyBinding>(false)
            .defaults(defaults::admission_policy_binding)
            .validate(validation::validating_policy_binding)
            .columns(&table::ADMISSION_POLICY_BINDINGS),
        Resource::of::<admission::MutatingAdmissionPolicy>(false)
            .defaults(defaults::admission_policy)
            .validate(validation::mutating_policy)
            .columns(&table::MUTATING_ADMISSION_POLICIES),
        Resource::of::<admission::MutatingAdmissionPolicyBinding>(false)
            .defaults(defaults::admission_policy_binding)
            .validate(validation::mutating_policy_binding)
            .columns(&table::ADMISSION_POLICY_BINDINGS),
    ];
    rows.into_iter().map(|row| row.with_generation().category(EXTENSIONS)).collect()
}
