//! The shapes of the built-in types.

use wharf_schema::{Field, Granularity, ListRule, PatchStrategy, Scalar, Type, builtin};

use crate::shape::{Key, ListPatch, Member, PatchRule, Rule, Shape};

/// A place in a built-in type; what the type does not know is deduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    of: Option<Type>,
    /// The field that it is the type of, which says how it is patched.
    field: Option<Field>,
}

const UNKNOWN: Builtin = Builtin { of: None, field: None };

/// The structs that are no pointers in Kubernetes, so that they are there as soon as what holds them is.
const INHERENT: &[&str] = &[
    "current",
    "daemonEndpoints",
    "describedObject",
    "jobTemplate",
    "kubeletEndpoint",
    "lastState",
    "loadBalancer",
    "metadata",
    "metric",
    "nodeInfo",
    "resources",
    "scaleTargetRef",
    "source",
    "spec",
    "state",
    "status",
    "strategy",
    "target",
    "template",
    "updateStrategy",
];

impl Builtin {
    /// The shape of a kind.
    pub fn kind(group: &str, version: &str, kind: &str) -> Self {
        Self { of: builtin().kind(group, version, kind), field: None }
    }

    pub(crate) fn of(of: Option<Type>) -> Self {
        Self { of, field: None }
    }

    /// Whether Kubernetes has such a kind.
    pub fn is_known(self) -> bool {
        self.of.is_some()
    }
}

impl Shape<'static> for Builtin {
    fn rule(self) -> Rule {
        use wharf_schema::Shape as Made;
        let Some(of) = self.of else { return Rule::Granular };
        match of.shape() {
            Made::Struct | Made::Map(_) if of.granularity() == Granularity::Granular => Rule::Granular,
            Made::List(_, ListRule::Map(_)) => Rule::Keyed,
            Made::List(_, ListRule::Set) => Rule::Set,
            // Kubernetes lets their members be deduced.
            Made::Scalar(Scalar::RawExtension) => Rule::Granular,
            _ => Rule::Atomic,
        }
    }

    fn member(self, name: &str) -> Member<Self> {
        use wharf_schema::Shape as Made;
        let unknown = Member { shape: UNKNOWN, named: false, inherent: false };
        let Some(of) = self.of else { return unknown };
        match of.shape() {
            Made::Struct => of.field(name).map_or(unknown, |field| {
                let inherent = match INHERENT.binary_search(&name) {
                    Ok(_) if field.of().shape() == Made::Struct => of.name() != "io.k8s.api.core.v1.ReplicationControllerSpec",
                    _ => field.is_required() && matches!(field.of().shape(), Made::List(..) | Made::Map(_)),
                };
                Member { shape: Self { of: Some(field.of()), field: Some(field) }, named: true, inherent }
            }),
            Made::Map(item) => Member { shape: Self { of: Some(item), field: None }, named: false, inherent: false },
            _ => unknown,
        }
    }

    fn items(self) -> Self {
        match self.of.map(Type::shape) {
            Some(wharf_schema::Shape::List(item, _)) => Self { of: Some(item), field: None },
            _ => UNKNOWN,
        }
    }

    fn keys(self) -> Vec<Key<'static>> {
        let Some(wharf_schema::Shape::List(item, ListRule::Map(keys))) = self.of.map(Type::shape) else { return Vec::new() };
        let default = |name: &str| item.field(name).and_then(|f| f.default()).and_then(|text| serde_json::from_str(text).ok());
        let mut keys: Vec<_> = keys.iter().map(|name| Key { name, default: default(name) }).collect();
        keys.sort_by_key(|key| key.name);
        keys
    }

    fn patch(self) -> PatchRule<'static> {
        let strategy = self.field.map_or(PatchStrategy::None, Field::patch_strategy);
        let list = match strategy {
            PatchStrategy::Merge { key: Some(key) } | PatchStrategy::MergeRetainKeys { key: Some(key) } => ListPatch::Keyed(key),
            PatchStrategy::Merge { key: None } | PatchStrategy::MergeRetainKeys { key: None } => ListPatch::Set,
            _ => ListPatch::Replace,
        };
        PatchRule { list, replace: strategy == PatchStrategy::Replace }
    }
}
