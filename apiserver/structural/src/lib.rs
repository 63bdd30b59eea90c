//! Structural schemas of custom resources, as apiextensions.k8s.io understands them: pure functions of a schema and a value.
//!
//! [`Schema::compile`] turns the `openAPIV3Schema` of a version into a compact tree; [`prune`](Schema::prune),
//! [`fill`](Schema::fill) and [`validate`](Schema::validate) walk it beside a value. [`check_definition`] finds what apiextensions
//! refuses in a schema, [`non_structural`] why one is not structural. Errors carry Kubernetes' paths, reasons and texts.
//!
//! ```
//! use serde_json::json;
//! use wharf_structural::Schema;
//!
//! let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
//!     "replicas": {"type": "integer", "maximum": 10, "default": 1}}}}})).unwrap();
//! let mut object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {}, "spec": {"colour": "red"}});
//! let mut dropped = Vec::new();
//! schema.prune(&mut object, true, &mut |path| dropped.push(path));
//! schema.fill(&mut object);
//! assert_eq!((dropped, &object["spec"]), (vec!["spec.colour".to_owned()], &json!({"replicas": 1})));
//! object["spec"]["replicas"] = json!(11);
//! let refused = schema.validate(&object);
//! assert_eq!(refused[0].to_string(), "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10");
//! ```

mod defaults;
mod definition;
mod error;
mod formats;
mod list_type;
mod parse;
mod prune;
mod ratchet;
mod rules;
mod schema;
mod structural;
mod validate;

pub use self::definition::check_definition;
pub use self::error::{FieldError, Reason};
pub use self::parse::SchemaError;
pub use self::rules::RuleOutcome;
pub use self::schema::{Additional, Checks, ListType, MapType, Schema, Type};
pub use self::structural::non_structural;

/// How deep schemas and values are looked into; what is nested deeper is refused.
pub const MAX_DEPTH: usize = 96;
/// Most errors that are told of one object.
pub const MAX_ERRORS: usize = 100;
