//! The one table of resources: a row for each kind, nothing else knows kinds by name.

mod builtin;
pub(crate) mod events;
mod normalize;
pub mod value;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;
use wharf_core::api::Kind;
use wharf_core::object::Object;
use wharf_core::store::ResourceId;

use crate::table::Columns;

/// Reads a JSON object as its type and writes it back; `unknown` is told the paths of fields that the type lacks.
pub type Normalize = fn(Value, &mut dyn FnMut(String)) -> Result<Value, String>;
/// Fills in what the user left out.
pub type Defaults = fn(&mut Value);
/// Finds what is wrong with an object, given the one it replaces.
pub type Validate = fn(&Value, Option<&Value>, &mut Vec<StatusCause>);
/// Reads a field that can be selected by; `None` for one that cannot.
pub type Fields = for<'a> fn(&'a Object, &str) -> Option<Cow<'a, str>>;

/// What becomes of the status part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusRule {
    /// It has none, or is written as a whole.
    None,
    /// Main writes keep the old status, status writes keep the rest.
    Split,
}

/// How a deletion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteRule {
    /// At once, unless there are finalizers.
    Plain,
    /// Pods: marked first; the node agent deletes with a grace period of 0.
    Graceful,
    /// Namespaces: `spec.finalizers` hold it too.
    Namespace,
}

/// One resource.
#[derive(Clone)]
pub struct Resource {
    /// API group; empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// Kind.
    pub kind: Cow<'static, str>,
    /// Plural name.
    pub plural: Cow<'static, str>,
    /// Singular name.
    pub singular: Cow<'static, str>,
    /// Short names.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects are in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Subresources.
    pub subresources: &'static [&'static str],
    /// What becomes of the status.
    pub status: StatusRule,
    /// How a deletion goes.
    pub delete: DeleteRule,
    /// Whether metadata.generation counts changes outside metadata and status.
    pub generation: bool,
    /// From JSON to the type and back.
    pub normalize: Normalize,
    /// Defaults.
    pub defaults: Defaults,
    /// Validation beyond metadata.
    pub validate: Validate,
    /// Fields to select by beyond metadata.name and metadata.namespace.
    pub fields: Fields,
    /// Columns of the table.
    pub columns: &'static Columns,
    /// Whether strategic merge patches are taken: only where merge keys are known.
    pub strategic: bool,
    /// Another form under which objects are stored, for a kind that shares its storage with another.
    pub stored_as: Option<StoredAs>,
    /// Where it is stored.
    pub storage: ResourceId,
}

/// How a kind that shares another's storage is converted.
#[derive(Debug, Clone, Copy)]
pub struct StoredAs {
    /// From what is stored to what is served.
    pub serve: fn(Value) -> Value,
    /// From what is served to what is stored.
    pub store: fn(Value) -> Value,
}

/// What can be done with an ordinary resource.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What can be done with a review.
pub const REVIEW_VERBS: &[&str] = &["create"];

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.group, self.version, self.plural)
    }
}

fn no_defaults(_: &mut Value) {}
fn no_validation(_: &Value, _: Option<&Value>, _: &mut Vec<StatusCause>) {}
fn no_fields<'a>(_: &'a Object, _: &str) -> Option<Cow<'a, str>> {
    None
}

impl Resource {
    /// A row for a type with nothing special about it.
    pub fn of<K: Kind>(namespaced: bool) -> Self {
        let (group, plural) = (K::group(&()), K::plural(&()));
        Self {
            storage: ResourceId::new(&*group, &*plural),
            singular: K::kind(&()).to_lowercase().into(),
            kind: K::kind(&()).into_owned().into(),
            version: K::version(&()).into_owned().into(),
            group: group.into_owned().into(),
            plural: plural.into_owned().into(),
            short_names: &[],
            categories: &[],
            namespaced,
            verbs: ALL_VERBS,
            subresources: &[],
            status: StatusRule::None,
            delete: DeleteRule::Plain,
            generation: false,
            strategic: true,
            stored_as: None,
            normalize: normalize::through::<K>,
            defaults: no_defaults,
            validate: no_validation,
            fields: no_fields,
            columns: &crate::table::NAME_AND_AGE,
        }
    }

    /// With `status` apart from the rest.
    pub fn with_status(mut self) -> Self {
        self.status = StatusRule::Split;
        self.generation = true;
        self.subresources = &["status"];
        self
    }
    /// With short names.
    pub fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }
    /// In categories.
    pub fn category(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }
    /// With these subresources.
    pub fn with_subresources(mut self, subresources: &'static [&'static str]) -> Self {
        self.subresources = subresources;
        self
    }
    /// With defaults.
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }
    /// With validation.
    pub fn validate(mut self, validate: Validate) -> Self {
        self.validate = validate;
        self
    }
    /// With fields to select by.
    pub fn fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self
    }
    /// With columns.
    pub fn columns(mut self, columns: &'static Columns) -> Self {
        self.columns = columns;
        self
    }
    /// Counts generations.
    pub fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }
    /// Never stored: a create is answered by [`crate::rest::admission::Reviews`].
    pub fn review(mut self) -> Self {
        self.verbs = REVIEW_VERBS;
        self
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
    /// Whether it is a review.
    pub fn is_review(&self) -> bool {
        self.verbs == REVIEW_VERBS
    }
    /// A field to select by.
    pub fn field<'a>(&self, object: &'a Object, field: &str) -> Option<Cow<'a, str>> {
        match field {
            "metadata.name" => Some(Cow::Borrowed(&object.key().name)),
            "metadata.namespace" if self.namespaced => Some(Cow::Borrowed(&object.key().namespace)),
            other => (self.fields)(object, other),
        }
    }
}

/// Every resource that is served.
#[derive(Debug, Clone, Default)]
pub struct ResourceTable {
    rows: BTreeMap<(String, String), Arc<Resource>>,
    order: Vec<Arc<Resource>>,
}

impl ResourceTable {
    /// The resources of Kubernetes.
    pub fn builtin() -> Self {
        let mut table = Self::default();
        for row in builtin::rows() {
            table.add(row);
        }
        table
    }

    /// Serves an own type, with nothing special about it.
    pub fn register<K: Kind>(&mut self, namespaced: bool) {
        let mut row = Resource::of::<K>(namespaced);
        row.strategic = false;
        self.add(row);
    }

    /// Serves a resource. One of the same group and plural is replaced.
    pub fn add(&mut self, row: Resource) {
        let row = Arc::new(row);
        let key = (row.group.to_string(), row.plural.to_string());
        self.order.retain(|r| r.group != row.group || r.plural != row.plural);
        self.order.push(row.clone());
        self.rows.insert(key, row);
    }

    /// A resource.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.rows.get(&(group.to_owned(), plural.to_owned())).filter(|r| r.version == version)
    }

    /// All, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.order.iter()
    }

    /// Groups with their version, in order, core first.
    pub fn groups(&self) -> Vec<(String, String)> {
        let mut groups: Vec<(String, String)> = Vec::new();
        for row in &self.order {
            let group = (row.group.to_string(), row.version.to_string());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }
}
