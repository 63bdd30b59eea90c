//! Which objects a list, a watch or a deletecollection is about.

use std::sync::Arc;

use bytes::Bytes;
use wharf_core::api::ApiError;
use wharf_core::object::Object;
use wharf_core::selector::{FieldSelector, Selector, SelectorError};
use wharf_core::store::{Key, Revision};

use super::status;
use crate::resources::Resource;

/// What Kubernetes says of a field: kinds that know fields of their own say it shorter.
fn unsupported(row: &Resource, field: &str) -> String {
    let knows_own = match &*row.group {
        "" => matches!(&*row.plural, "pods" | "nodes" | "replicationcontrollers" | "events" | "namespaces" | "secrets" | "services"),
        "apps" => row.plural == "statefulsets",
        "certificates.k8s.io" | "events.k8s.io" => true,
        "batch" if row.plural == "jobs" => return format!("field label \"{field}\" not supported for Job"),
        _ => row.custom.is_some(),
    };
    if knows_own {
        format!("field label not supported: {field}")
    } else {
        format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    }
}

/// A namespace, labels and fields.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only this namespace.
    pub namespace: Option<Arc<str>>,
    labels: Selector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors in Kubernetes' string form.
    ///
    /// # Errors
    /// 400 for what is malformed, and for a field that cannot be selected by.
    pub fn parse(row: &Resource, namespace: Option<Arc<str>>, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let namespace = namespace.filter(|n| row.namespaced && !n.is_empty());
        let label_selector = labels.parse().map_err(|e: SelectorError| status::bad_request(e.to_string()))?;
        let field_selector: FieldSelector = fields.parse().map_err(|e| status::bad_request(format!("invalid field selector: {e}")))?;
        let key = Key::new(row.storage.clone(), "", "");
        let nothing = Object::from_served(key, Revision(0), Bytes::from_static(b"{}"));
        for requirement in field_selector.requirements() {
            if row.field(&nothing, &requirement.field).is_none() {
                return Err(status::bad_request(unsupported(row, &requirement.field)));
            }
        }
        Ok(Self { namespace, labels: label_selector, fields: field_selector })
    }

    /// Whether everything in the namespace matches.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether it depends on what an object looks like in the very version that is asked for.
    pub(super) fn looks_inside(&self, row: &Resource) -> bool {
        let Some(custom) = &row.custom else { return false };
        let own = |field: &str| !matches!(field, "metadata.name" | "metadata.namespace");
        (custom.converter().is_some() && !self.labels.is_everything()) || self.fields.requirements().iter().any(|r| own(&r.field))
    }

    /// Whether an object matches.
    pub fn matches(&self, row: &Resource, object: &Object) -> bool {
        if self.namespace.as_ref().is_some_and(|n| *n != object.key().namespace) {
            return false;
        }
        // Metadata is decoded only when somebody asks for labels.
        (self.labels.is_everything() || self.labels.matches_opt(object.meta().labels.as_ref()))
            && (self.fields.is_everything() || self.fields.matches(|field| row.field(object, field)).unwrap_or(false))
    }
}
