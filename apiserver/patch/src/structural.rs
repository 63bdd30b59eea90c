//! The shapes of custom resources: a structural schema as JSON, by its `x-kubernetes-` markers.

use serde_json::Value;
use wharf_schema::{Type, builtin};

use crate::schema::Builtin;
use crate::shape::{Key, ListPatch, Member, PatchRule, Rule, Shape};

/// A place in the schema of a custom resource.
#[derive(Debug, Clone, Copy)]
pub struct Structural<'a>(Place<'a>);

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// The whole object, whose metadata is Kubernetes' own.
    Root(&'a Value),
    Schema(Option<&'a Value>),
    Known(Builtin),
}

impl<'a> Structural<'a> {
    /// The shape of an object; `schema` is what the definition calls `openAPIV3Schema`.
    pub fn object(schema: &'a Value) -> Self {
        Self(Place::Root(schema))
    }

    fn schema(self) -> Option<&'a Value> {
        match self.0 {
            Place::Root(schema) => Some(schema),
            Place::Schema(schema) => schema,
            Place::Known(_) => None,
        }
    }

    fn says(self, name: &str) -> &'a str {
        self.schema().and_then(|s| s.get(name)).and_then(Value::as_str).unwrap_or_default()
    }
}

/// `ObjectMeta` wherever a custom resource has it.
fn metadata() -> Option<Type> {
    builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

impl<'a> Shape<'a> for Structural<'a> {
    fn rule(self) -> Rule {
        if let Place::Known(known) = self.0 {
            return known.rule();
        }
        match self.says("type") {
            "array" => match self.says("x-kubernetes-list-type") {
                "map" => Rule::Keyed,
                "set" => Rule::Set,
                _ => Rule::Atomic,
            },
            _ if self.says("x-kubernetes-map-type") == "atomic" => Rule::Atomic,
            _ => Rule::Granular,
        }
    }

    fn member(self, name: &str) -> Member<Self> {
        if let Place::Known(known) = self.0 {
            let member = known.member(name);
            return Member { shape: Self(Place::Known(member.shape)), named: member.named, inherent: false };
        }
        let embedded = matches!(self.0, Place::Root(_))
            || self.schema().is_some_and(|s| s.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)));
        if embedded && name == "metadata" {
            return Member { shape: Self(Place::Known(Builtin::of(metadata()))), named: true, inherent: false };
        }
        let named = self.schema().and_then(|s| s.get("properties")).and_then(|p| p.get(name));
        let other = self.schema().and_then(|s| s.get("additionalProperties")).filter(|s| s.is_object());
        Member { shape: Self(Place::Schema(named.or(other))), named: named.is_some(), inherent: false }
    }

    fn items(self) -> Self {
        match self.0 {
            Place::Known(known) => Self(Place::Known(known.items())),
            _ => Self(Place::Schema(self.schema().and_then(|s| s.get("items")))),
        }
    }

    fn keys(self) -> Vec<Key<'a>> {
        if let Place::Known(known) = self.0 {
            return known.keys();
        }
        let names = self.schema().and_then(|s| s.get("x-kubernetes-list-map-keys")).and_then(Value::as_array);
        let properties = self.items().schema().and_then(|s| s.get("properties"));
        let default = |name: &str| properties.and_then(|p| p.get(name)).and_then(|p| p.get("default")).cloned();
        let mut keys: Vec<_> =
            names.into_iter().flatten().filter_map(Value::as_str).map(|name| Key { name, default: default(name) }).collect();
        keys.sort_by_key(|key| key.name);
        keys
    }

    fn patch(self) -> PatchRule<'a> {
        PatchRule { list: ListPatch::Replace, replace: false }
    }
}
