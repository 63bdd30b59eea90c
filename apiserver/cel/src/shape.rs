//! What an expression is told of the type of a value.

use std::fmt;

/// A schema, as far as CEL is concerned.
pub trait Shape: fmt::Debug {
    /// The schema of a field of a struct.
    fn property(&self, name: &str) -> Option<&dyn Shape>;
    /// The schema of the values of a map.
    fn values(&self) -> Option<&dyn Shape>;
    /// The schema of the items of a list.
    fn items(&self) -> Option<&dyn Shape>;
    /// `integer`, `number` and so on; empty for what has no type.
    fn type_name(&self) -> &str;
    /// The format of a text; empty for none.
    fn format(&self) -> &str;
    /// Whether it is `x-kubernetes-int-or-string`.
    fn is_int_or_string(&self) -> bool;
    /// Whether fields that the schema does not name cannot be seen.
    fn hides_unknown(&self) -> bool;
    /// Whether it is a whole resource inside another.
    fn is_resource(&self) -> bool;
    /// Whether a list is a set.
    fn is_set(&self) -> bool;
    /// The keys of a list that is like a map; none for others.
    fn map_keys(&self) -> &[Box<str>];
    /// Bound of a text's length.
    fn max_length(&self) -> Option<u64>;
    /// Bound of a list's length.
    fn max_items(&self) -> Option<u64>;
    /// Bound of a map's size.
    fn max_properties(&self) -> Option<u64>;
}

/// Nothing is known: JSON as it is.
#[derive(Debug, Clone, Copy)]
pub struct Untyped;

impl Shape for Untyped {
    fn property(&self, _: &str) -> Option<&dyn Shape> {
        None
    }
    fn values(&self) -> Option<&dyn Shape> {
        None
    }
    fn items(&self) -> Option<&dyn Shape> {
        None
    }
    fn type_name(&self) -> &str {
        ""
    }
    fn format(&self) -> &str {
        ""
    }
    fn is_int_or_string(&self) -> bool {
        false
    }
    fn hides_unknown(&self) -> bool {
        false
    }
    fn is_resource(&self) -> bool {
        false
    }
    fn is_set(&self) -> bool {
        false
    }
    fn map_keys(&self) -> &[Box<str>] {
        &[]
    }
    fn max_length(&self) -> Option<u64> {
        None
    }
    fn max_items(&self) -> Option<u64> {
        None
    }
    fn max_properties(&self) -> Option<u64> {
        None
    }
}
