//! The built-in types of Kubernetes 1.36 as one table: fields, wire numbers, list types, documentation.
//!
//! `table.txt` has a line for each type and, indented, for each of its fields; `docs.txt` has the documentation, line by line the same.
//! Both are made by `cargo xtask generate schema`. As data they cost a binary some 250 KB, where generated code would cost megabytes.
//!
//! ```
//! use wharf_schema::{ListRule, Scalar, Shape, builtin};
//!
//! let pod = builtin().kind("", "v1", "Pod").expect("a built-in kind");
//! let containers = pod.field("spec").and_then(|f| f.of().field("containers")).expect("a field");
//! assert!(containers.is_required());
//! let Shape::List(container, ListRule::Map(keys)) = containers.of().shape() else { panic!("a list by key") };
//! assert!(keys.iter().eq(["name"]));
//! assert_eq!(container.name(), "io.k8s.api.core.v1.Container");
//! assert_eq!(container.field("tty").map(|f| f.of().shape()), Some(Shape::Scalar(Scalar::Bool)));
//! assert!(container.field("nothing").is_none());
//! ```

mod docs;
mod openapi;
mod parse;
pub mod protobuf;
mod rules;
mod table;

pub use docs::Docs;
pub use openapi::{Definitions, Dialect, REVISION};
pub use rules::{Granularity, Keys, ListRule, PatchStrategy};
pub use table::{Field, Kind, Scalar, Shape, Table, Type, builtin};
