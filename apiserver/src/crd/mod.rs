//! Custom resources: definitions, and the rows of the table that they bring.
//!
//! Any API server beside others follows the definitions in the store, level-triggered: `controller` accepts names, puts a row into the
//! table for each served version, tells so in the status, and deletes what is left when a definition goes.

mod controller;
mod conversion;
mod jsonpath;
mod kind;
mod names;
mod resource;
mod validation;

pub(crate) use controller::Definitions;
pub(crate) use resource::{note_stored_version, row};

/// Says that the objects of a definition are being deleted.
pub(crate) fn set_terminating(definition: &mut serde_json::Value, now: &str) {
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    names::set_condition(definition, "Terminating", "True", "InstanceDeletionPending", message, now);
}

/// The group of definitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// The plural of definitions.
pub(crate) const PLURAL: &str = "customresourcedefinitions";
/// What holds a definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
