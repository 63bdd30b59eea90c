//! CEL as Kubernetes speaks it.

mod rule;

pub use self::rule::Rule;
