//! Types and fields. All that is handed out is `Copy`; no look-up allocates.

use std::sync::OnceLock;

use crate::parse;
use crate::{Granularity, ListRule, PatchStrategy};

/// The table of the built-in types, read on first use in about a millisecond; it holds some 150 KB.
pub fn builtin() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table { rows: parse::rows(include_str!("../table.txt")) })
}

/// All types of a version of Kubernetes.
#[derive(Debug)]
pub struct Table {
    rows: Rows,
}

#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// By name.
    pub types: Vec<TypeRow>,
    /// By type, then by name.
    pub fields: Vec<FieldRow>,
    /// By group, version and kind.
    pub kinds: Vec<Kind>,
}

#[derive(Debug)]
pub(crate) struct TypeRow {
    pub name: &'static str,
    pub first: u16,
    pub end: u16,
    pub scalar: Option<Scalar>,
    pub atomic: bool,
}

#[derive(Debug)]
pub(crate) struct FieldRow {
    pub name: &'static str,
    /// The numbers that lead to it on the wire, then zeros.
    pub path: [u8; 3],
    pub of: Expression,
    pub required: bool,
    pub pointer: bool,
    pub list: ListSaid,
    pub map: Option<Granularity>,
    pub flags: &'static str,
}

/// What is said of a list's items, without the keys: those stay in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListSaid {
    Nothing,
    Atomic,
    Set,
    Map,
}

impl FieldRow {
    fn list_rule(&self) -> Option<ListRule> {
        Some(match self.list {
            ListSaid::Nothing => return None,
            ListSaid::Atomic => ListRule::Atomic,
            ListSaid::Set => ListRule::Set,
            ListSaid::Map => ListRule::Map(parse::list_keys(self.flags)),
        })
    }
}

/// `map[string][]string`: at most two layers around a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expression {
    pub layers: [Layer; 2],
    pub base: Base,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    None,
    List,
    Map,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Type(u16),
    Scalar(Scalar),
}

/// A kind, and its type.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    pub(crate) index: u16,
}

impl Kind {
    pub(crate) fn key(&self) -> (&'static str, &'static str, &'static str) {
        (self.group, self.version, self.kind)
    }

    /// Its type.
    pub fn of(self) -> Type {
        Type { of: Expression { layers: [Layer::None; 2], base: Base::Type(self.index) }, field: NO_FIELD }
    }
}

/// Kinds that every group version has.
const EVERYWHERE: &[&str] = &["CreateOptions", "DeleteOptions", "PatchOptions", "UpdateOptions", "WatchEvent"];

impl Table {
    /// The type of a kind. Options and watch events are of every group and version, as in Kubernetes.
    pub fn kind(&'static self, group: &str, version: &str, kind: &str) -> Option<Type> {
        let kinds = &self.rows.kinds;
        match kinds.binary_search_by(|k| k.key().cmp(&(group, version, kind))) {
            Ok(at) => kinds.get(at).map(|k| k.of()),
            Err(_) if EVERYWHERE.contains(&kind) => self.named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")),
            Err(_) => None,
        }
    }

    /// The type of a definition: `io.k8s.api.core.v1.Container`.
    pub fn named(&'static self, definition: &str) -> Option<Type> {
        let at = self.rows.types.binary_search_by(|t| t.name.cmp(definition)).ok()?;
        Some(self.type_at(u16::try_from(at).ok()?))
    }

    /// All kinds, by group, version and kind.
    pub fn kinds(&'static self) -> impl Iterator<Item = Kind> {
        self.rows.kinds.iter().copied()
    }

    /// All types that have a definition, by its name.
    pub fn types(&'static self) -> impl Iterator<Item = Type> {
        (0..).take(self.rows.types.len()).map(|index| self.type_at(index))
    }

    fn type_at(&'static self, index: u16) -> Type {
        let scalar = self.rows.types.get(usize::from(index)).and_then(|row| row.scalar);
        let base = scalar.map_or(Base::Type(index), Base::Scalar);
        Type { of: Expression { layers: [Layer::None; 2], base }, field: NO_FIELD }
    }
}

/// What JSON has as one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    String,
    /// Base64 in a string.
    Bytes,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// A number.
    Double,
    /// A boolean.
    Bool,
    /// `resource.Quantity`: a string such as `100m`, or a number.
    Quantity,
    /// `metav1.Time`: RFC 3339 to the second.
    Time,
    /// `metav1.MicroTime`: RFC 3339 to the microsecond.
    MicroTime,
    /// `intstr.IntOrString`.
    IntOrString,
    /// Any JSON.
    Json,
    /// `runtime.RawExtension`: an object of any kind.
    RawExtension,
    /// `metav1.FieldsV1`: a trie of field names.
    FieldsV1,
    /// A `JSONSchemaProps` or a list of them.
    SchemaOrArray,
    /// A `JSONSchemaProps` or a boolean.
    SchemaOrBool,
    /// A `JSONSchemaProps` or a list of strings.
    SchemaOrStrings,
}

impl Scalar {
    /// The definition of one that OpenAPI refers to by name, and Kubernetes has as a message; `None` for plain ones.
    pub fn definition(self) -> Option<&'static str> {
        Some(match self {
            Self::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity",
            Self::Time => "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
            Self::MicroTime => "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
            Self::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            Self::Json => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
            Self::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension",
            Self::FieldsV1 => "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
            Self::SchemaOrArray => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
            Self::SchemaOrBool => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
            Self::SchemaOrStrings => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
            Self::String | Self::Bytes | Self::Int32 | Self::Int64 | Self::Double | Self::Bool => return None,
        })
    }
}

/// What a type is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object with named fields.
    Struct,
    /// An object with any keys.
    Map(Type),
    /// A list.
    List(Type, ListRule),
    /// One value.
    Scalar(Scalar),
}

const NO_FIELD: u16 = u16::MAX;

/// A type of the table of built-in types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    of: Expression,
    /// The field that it is the type of, as fields may say how they are merged.
    field: u16,
}

impl Type {
    /// The name of its definition; empty for plain scalars, lists and maps.
    pub fn name(self) -> &'static str {
        match self.of {
            Expression { layers: [Layer::None, _], base: Base::Scalar(scalar) } => scalar.definition().unwrap_or_default(),
            _ => self.row().map_or("", |(_, row)| row.name),
        }
    }

    /// What it is made of.
    pub fn shape(self) -> Shape {
        match (self.of.layers[0], self.of.base) {
            (Layer::None, Base::Type(_)) => Shape::Struct,
            (Layer::None, Base::Scalar(scalar)) => Shape::Scalar(scalar),
            (Layer::List, _) => Shape::List(self.item(), self.field_row().and_then(FieldRow::list_rule).unwrap_or(ListRule::Atomic)),
            (Layer::Map, _) => Shape::Map(self.item()),
        }
    }

    fn item(self) -> Self {
        Self { of: Expression { layers: [self.of.layers[1], Layer::None], base: self.of.base }, field: NO_FIELD }
    }

    /// How server-side apply merges it, as far as it is a struct or a map.
    pub fn granularity(self) -> Granularity {
        let own = || self.row().filter(|(_, row)| row.atomic).map(|_| Granularity::Atomic);
        self.field_row().and_then(|field| field.map).or_else(own).unwrap_or(Granularity::Granular)
    }

    /// The field that JSON calls so.
    pub fn field(self, name: &str) -> Option<Field> {
        let (fields, first) = self.rows()?;
        let at = fields.binary_search_by(|f| f.name.cmp(name)).ok()?;
        Some(Field(first + u16::try_from(at).ok()?))
    }

    /// Its fields, by name; none unless it is a struct.
    pub fn fields(self) -> impl Iterator<Item = Field> + Clone {
        let (fields, first) = self.rows().unwrap_or((&[], 0));
        (first..).take(fields.len()).map(Field)
    }

    fn rows(self) -> Option<(&'static [FieldRow], u16)> {
        let (_, row) = self.row()?;
        let fields = builtin().rows.fields.get(usize::from(row.first)..usize::from(row.end))?;
        Some((fields, row.first))
    }

    /// Of a struct.
    fn row(self) -> Option<(u16, &'static TypeRow)> {
        match self.of {
            Expression { layers: [Layer::None, _], base: Base::Type(index) } => {
                Some((index, builtin().rows.types.get(usize::from(index))?))
            }
            _ => None,
        }
    }

    fn field_row(self) -> Option<&'static FieldRow> {
        builtin().rows.fields.get(usize::from(self.field))
    }

    /// The documentation has lines for types and fields in turn.
    pub(crate) fn docs_line(self) -> Option<usize> {
        let index = match self.of {
            Expression { layers: [Layer::None, _], base: Base::Scalar(scalar) } => {
                let definition = scalar.definition()?;
                builtin().rows.types.binary_search_by(|t| t.name.cmp(definition)).ok()?
            }
            _ => usize::from(self.row()?.0),
        };
        Some(index + usize::from(builtin().rows.types.get(index)?.first))
    }
}

/// A field of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field(u16);

impl Field {
    // A field is made of an index that is in the table.
    fn row(self) -> &'static FieldRow {
        &builtin().rows.fields[usize::from(self.0)]
    }

    /// What JSON calls it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Its type.
    pub fn of(self) -> Type {
        Type { of: self.row().of, field: self.0 }
    }

    /// Its number on the wire, after the numbers of the inner messages whose fields JSON has in place; empty for one that the wire lacks.
    pub fn numbers(self) -> &'static [u8] {
        let path = &self.row().path;
        let length = path.iter().position(|n| *n == 0).unwrap_or(path.len());
        &path[..length]
    }

    /// Whether every object has it: Kubernetes writes it always, also when it is zero.
    pub fn is_required(self) -> bool {
        self.row().required
    }

    /// Whether a zero differs from an absence: Kubernetes has a pointer here.
    pub fn is_pointer(self) -> bool {
        self.row().pointer
    }

    /// `x-kubernetes-list-type`, if it is said.
    pub fn list_rule(self) -> Option<ListRule> {
        self.row().list_rule()
    }

    /// `x-kubernetes-map-type`, if it is said of the field itself. [`Type::granularity`] knows of the type as well.
    pub fn granularity(self) -> Option<Granularity> {
        self.row().map
    }

    /// How strategic merge patch merges it.
    pub fn patch_strategy(self) -> PatchStrategy {
        parse::patch_strategy(self.row().flags)
    }

    /// The default that its schema tells, as JSON: a list's key that is absent has this value.
    pub fn default(self) -> Option<&'static str> {
        parse::default(self.row().flags)
    }

    pub(crate) fn docs_line(self) -> usize {
        // As many lines before it as there are fields before it, and types up to its own.
        let types = builtin().rows.types.partition_point(|t| t.first <= self.0);
        usize::from(self.0) + types
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, version: &str, kind: &str) -> Type {
        builtin().kind(group, version, kind).unwrap_or_else(|| panic!("{group}/{version}/{kind}"))
    }

    fn at(mut ty: Type, path: &str) -> Field {
        let mut found = None;
        for name in path.split('.') {
            while let Shape::List(item, _) | Shape::Map(item) = ty.shape() {
                ty = item;
            }
            let field = ty.field(name).unwrap_or_else(|| panic!("{name} of {path}"));
            ty = field.of();
            found = Some(field);
        }
        found.unwrap()
    }

    #[test]
    fn every_line_is_a_row() {
        let text = include_str!("../table.txt");
        let rows = &builtin().rows;
        assert_eq!(rows.types.len() + rows.fields.len(), text.lines().count());
        assert!(rows.types.is_sorted_by_key(|t| t.name));
        for ty in builtin().types() {
            assert!(ty.fields().map(Field::name).is_sorted(), "{}", ty.name());
            assert_eq!(builtin().named(ty.name()), Some(ty));
        }
    }

    #[test]
    fn kinds_are_found() {
        for (group, version, name) in [
            ("", "v1", "Pod"),
            ("", "v1", "PodList"),
            ("apps", "v1", "Deployment"),
            ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
            ("apiregistration.k8s.io", "v1", "APIService"),
            ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
            ("resource.k8s.io", "v1", "ResourceClaim"),
            ("policy", "v1", "Eviction"),
            ("autoscaling", "v1", "Scale"),
            ("authentication.k8s.io", "v1", "TokenRequest"),
            ("", "v1", "Status"),
            ("meta.k8s.io", "v1", "PartialObjectMetadata"),
            ("batch", "v1", "DeleteOptions"),
        ] {
            assert_eq!(kind(group, version, name).shape(), Shape::Struct);
        }
        assert!(builtin().kind("", "v1", "Nothing").is_none());
        assert!(builtin().kind("", "v2", "Pod").is_none());
        assert!(builtin().kinds().count() > 120);
    }

    #[test]
    fn knows_how_lists_are_merged() {
        let pod = kind("", "v1", "Pod");
        let keys = |path| match at(pod, path).of().shape() {
            Shape::List(_, ListRule::Map(keys)) => keys.iter().collect::<Vec<_>>(),
            other => panic!("{path} is {other:?}"),
        };
        assert_eq!(keys("spec.containers"), ["name"]);
        assert_eq!(keys("spec.containers.ports"), ["containerPort", "protocol"]);
        assert_eq!(keys("spec.topologySpreadConstraints"), ["topologyKey", "whenUnsatisfiable"]);
        assert!(matches!(at(pod, "spec.tolerations").of().shape(), Shape::List(_, ListRule::Atomic)));
        assert!(matches!(at(pod, "metadata.finalizers").of().shape(), Shape::List(_, ListRule::Set)));
        assert_eq!(at(pod, "spec.containers.ports.protocol").default(), Some("\"TCP\""));
        assert_eq!(at(pod, "spec.containers.ports").patch_strategy(), PatchStrategy::Merge { key: Some("containerPort") });
        assert_eq!(at(pod, "spec.volumes").patch_strategy(), PatchStrategy::MergeRetainKeys { key: Some("name") });
        assert_eq!(at(pod, "metadata.finalizers").patch_strategy(), PatchStrategy::Merge { key: None });
        let deployment = kind("apps", "v1", "Deployment");
        assert_eq!(at(deployment, "spec.strategy").patch_strategy(), PatchStrategy::RetainKeys);
        assert_eq!(at(deployment, "spec.selector").of().granularity(), Granularity::Atomic);
        assert_eq!(at(kind("", "v1", "Service"), "spec.selector").of().granularity(), Granularity::Atomic);
        assert_eq!(at(pod, "metadata.labels").of().granularity(), Granularity::Granular);
    }

    #[test]
    fn knows_numbers_on_the_wire() {
        let pod = kind("", "v1", "Pod");
        assert_eq!(at(pod, "spec").numbers(), [2]);
        // JSON has the source beside the name.
        assert_eq!(at(pod, "spec.volumes.persistentVolumeClaim").numbers(), [2, 10]);
        assert_eq!(at(pod, "spec.ephemeralContainers.image").numbers(), [1, 2]);
        assert_eq!(at(pod, "kind").numbers(), [0; 0]);
        let policy = kind("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy");
        assert_eq!(at(policy, "spec.matchConstraints.resourceRules.apiGroups").numbers(), [2, 2, 1]);
    }

    #[test]
    fn knows_types() {
        let of = |ty, path| at(ty, path).of();
        let secret = kind("", "v1", "Secret");
        let Shape::Map(item) = of(secret, "data").shape() else { panic!("a map") };
        assert_eq!(item.shape(), Shape::Scalar(Scalar::Bytes));
        let review = kind("authentication.k8s.io", "v1", "TokenReview");
        let Shape::Map(item) = of(review, "status.user.extra").shape() else { panic!("a map") };
        let Shape::List(item, _) = item.shape() else { panic!("a map of lists") };
        assert_eq!(item.shape(), Shape::Scalar(Scalar::String));
        assert_eq!(of(secret, "metadata.creationTimestamp").name(), "io.k8s.apimachinery.pkg.apis.meta.v1.Time");
        assert!(at(kind("apps", "v1", "Deployment"), "spec.replicas").is_pointer());
        assert!(!at(kind("apps", "v1", "Deployment"), "status.replicas").is_pointer());
    }
}
