//! Kubernetes' patches, as pure functions of JSON: strategic merge patch, and server-side apply with its managedFields.
//!
//! What a list or an object is merged by is told by a [`Shape`]: that of a built-in type ([`Builtin`]), of a custom resource's schema
//! ([`Structural`]), or none ([`Deduced`]). Depth of recursion is that of the JSON, which its reader bounds.
//!
//! ```
//! use serde_json::json;
//! use wharf_patch::{Builtin, strategic};
//!
//! let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}]}});
//! let patch = json!({"spec": {"containers": [{"name": "b", "image": "y"}]}});
//! strategic::merge(Builtin::kind("", "v1", "Pod"), &mut pod, &patch).expect("a patch that fits");
//! assert_eq!(pod["spec"]["containers"][1]["name"], "b");
//! ```

pub mod apply;
mod compare;
mod entries;
pub mod fields;
mod item;
mod merge;
mod schema;
mod shape;
pub mod strategic;
mod structural;

pub use apply::{Applied, ApplyError, Conflict, Scope, Writer};
pub use schema::Builtin;
pub use shape::{Deduced, Key, ListPatch, Member, PatchRule, Rule, Shape};
pub use structural::Structural;
