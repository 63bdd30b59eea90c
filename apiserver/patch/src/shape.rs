//! What tells how a place of an object is merged.

use serde_json::Value;

/// How server-side apply merges a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// As one value.
    Atomic,
    /// An object, member by member.
    Granular,
    /// A list of scalars, each of which is there once.
    Set,
    /// A list of objects that [`Shape::keys`] tell apart.
    Keyed,
}

/// One member that tells the items of a list apart.
#[derive(Debug, Clone)]
pub struct Key<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is where an item lacks it.
    pub default: Option<Value>,
}

/// A member of an object.
#[derive(Debug, Clone, Copy)]
pub struct Member<S> {
    /// Its shape.
    pub shape: S,
    /// Whether it is a field of a type, and no key of a map.
    pub named: bool,
    /// Whether every object of the type has it, if only empty: no pointer in Kubernetes. Nobody owns that it is there.
    pub inherent: bool,
}

/// How strategic merge patch merges a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListPatch<'a> {
    /// The patch's takes its place.
    Replace,
    /// By this member of its items.
    Keyed(&'a str),
    /// A list of scalars: what is missing is added.
    Set,
}

/// How strategic merge patch merges a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchRule<'a> {
    /// A list.
    pub list: ListPatch<'a>,
    /// An object: replaced, not merged.
    pub replace: bool,
}

/// A place in an object's schema. `'a` is how long its names live.
pub trait Shape<'a>: Copy {
    /// How server-side apply merges it.
    fn rule(self) -> Rule;
    /// A member of an object.
    fn member(self, name: &str) -> Member<Self>;
    /// The items of a list.
    fn items(self) -> Self;
    /// What tells the items of a list apart, by name.
    fn keys(self) -> Vec<Key<'a>>;
    /// How strategic merge patch merges it.
    fn patch(self) -> PatchRule<'a>;
}

/// Where no schema tells: objects are merged, lists replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deduced;

impl<'a> Shape<'a> for Deduced {
    fn rule(self) -> Rule {
        Rule::Granular
    }
    fn member(self, _: &str) -> Member<Self> {
        Member { shape: self, named: false, inherent: false }
    }
    fn items(self) -> Self {
        self
    }
    fn keys(self) -> Vec<Key<'a>> {
        Vec::new()
    }
    fn patch(self) -> PatchRule<'a> {
        PatchRule { list: ListPatch::Replace, replace: false }
    }
}
