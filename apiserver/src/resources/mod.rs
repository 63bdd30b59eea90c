//! The one table of resources: a row for each kind, nothing else knows kinds by name.

pub(crate) mod autoscaling;
mod builtin;
pub mod custom;
pub(crate) mod events;
mod normal;
mod normalize;
pub mod value;
pub mod views;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use parking_lot::RwLock;
use serde_json::Value;
use wharf_core::api::Kind;
use wharf_core::object::Object;
use wharf_core::store::ResourceId;

use self::custom::CustomKind;
use crate::discovery::Discovery;
use crate::table::Columns;
use crate::validation::PartRule;

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
    /// Definitions of custom resources: held until their objects are gone.
    Definition,
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
    pub short_names: Vec<Cow<'static, str>>,
    /// Categories, such as `all`.
    pub categories: Vec<Cow<'static, str>>,
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
    /// What a written status is held to: the rest is as it was stored, and was judged then.
    pub(crate) validate_status: PartRule,
    /// Fields to select by beyond metadata.name and metadata.namespace.
    pub fields: Fields,
    /// Columns of the table.
    pub columns: &'static Columns,
    /// Whether strategic merge patches are taken: only where merge keys are known.
    pub strategic: bool,
    /// Another form under which objects are stored, for a kind that shares its storage with another.
    pub stored_as: Option<StoredAs>,
    /// What a CustomResourceDefinition says of it; the functions above are not asked then.
    pub custom: Option<Arc<dyn CustomKind>>,
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
fn no_status_rule(_: &Value, _: &Value, _: &mut Vec<StatusCause>) {}
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
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced,
            verbs: ALL_VERBS,
            subresources: &[],
            status: StatusRule::None,
            delete: DeleteRule::Plain,
            generation: false,
            strategic: true,
            stored_as: None,
            custom: None,
            normalize: normalize::through::<K>,
            defaults: no_defaults,
            validate: no_validation,
            validate_status: no_status_rule,
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
        self.short_names = names.iter().map(|n| Cow::Borrowed(*n)).collect();
        self
    }
    /// In categories.
    pub fn category(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories.iter().map(|n| Cow::Borrowed(*n)).collect();
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
    /// With validation of the status.
    pub(crate) fn validate_status(mut self, validate: PartRule) -> Self {
        self.validate_status = validate;
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
        self.verbs == REVIEW_VERBS && self.kind != "Binding"
    }
    /// Whether an update need not say which version it replaces; Kubernetes' `AllowUnconditionalUpdate`.
    pub fn allows_unconditional_update(&self) -> bool {
        let conditional = matches!(
            (&*self.group, &*self.plural),
            ("", "serviceaccounts")
                | ("coordination.k8s.io", "leases")
                | ("discovery.k8s.io", "endpointslices")
                | ("policy", "poddisruptionbudgets")
                | ("apiextensions.k8s.io", "customresourcedefinitions")
                | ("apiregistration.k8s.io", "apiservices")
                | ("admissionregistration.k8s.io", _)
        );
        !conditional && self.custom.is_none()
    }
    /// A field to select by.
    pub fn field<'a>(&self, object: &'a Object, field: &str) -> Option<Cow<'a, str>> {
        match field {
            "metadata.name" => Some(Cow::Borrowed(&object.key().name)),
            "metadata.namespace" if self.namespaced => Some(Cow::Borrowed(&object.key().namespace)),
            other => match &self.custom {
                Some(custom) => custom.field(object, other),
                None => (self.fields)(object, other),
            },
        }
    }
    /// Reads a body as the resource's type, telling of the fields that it lacks.
    ///
    /// # Errors
    /// A value of a wrong type, with its place.
    pub fn read(&self, mut value: Value, unknown: &mut dyn FnMut(String)) -> Result<Value, String> {
        if let Some(custom) = &self.custom {
            return custom.read(value, unknown);
        }
        let is_so = value::text(&value, &["kind"]) == self.kind && value::text(&value, &["apiVersion"]) == self.api_version();
        let known = wharf_schema::builtin().kind(&self.group, &self.version, &self.kind).filter(|_| is_so);
        if known.is_some_and(|of| normal::is_normal(of, &mut value)) {
            return Ok(value);
        }
        (self.normalize)(value, unknown)
    }
    /// Fills in what the user left out.
    pub fn fill(&self, value: &mut Value) {
        match &self.custom {
            Some(custom) => custom.fill(value),
            None => (self.defaults)(value),
        }
    }
    /// Finds what is wrong beyond metadata; `sub` is the subresource that is written.
    pub fn check(&self, sub: &str, new: &Value, old: Option<&Value>, causes: &mut Vec<StatusCause>) {
        match &self.custom {
            Some(custom) => custom.validate(sub, new, old, causes),
            None => (self.validate)(new, old, causes),
        }
    }
}

/// Every resource that is served, at one moment.
#[derive(Debug, Default)]
pub struct ResourceTable {
    /// By plural name, which nearly always tells a resource already.
    rows: HashMap<String, Vec<Arc<Resource>>>,
    order: Vec<Arc<Resource>>,
    /// Made when it is first asked for: typed clients never ask.
    discovery: OnceLock<Discovery>,
}

impl Clone for ResourceTable {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), order: self.order.clone(), discovery: OnceLock::new() }
    }
}

impl ResourceTable {
    /// The resources of Kubernetes.
    pub fn builtin() -> Self {
        let mut table = Self::default();
        for row in builtin::rows() {
            table.add(row);
        }
        table.add(crate::crd::row());
        table
    }

    /// Serves an own type, with nothing special about it.
    pub fn register<K: Kind>(&mut self, namespaced: bool) {
        let mut row = Resource::of::<K>(namespaced);
        row.strategic = false;
        self.add(row);
    }

    /// Serves a resource. One of the same group, version and plural is replaced; one of another version is served beside it.
    pub fn add(&mut self, row: Resource) {
        let row = Arc::new(row);
        self.remove(|r| r.group == row.group && r.version == row.version && r.plural == row.plural);
        self.order.push(row.clone());
        self.rows.entry(row.plural.to_string()).or_default().push(row);
    }

    /// Serves some resources no more.
    pub fn remove(&mut self, which: impl Fn(&Resource) -> bool) {
        self.discovery = OnceLock::new();
        self.order.retain(|r| !which(r));
        self.rows.retain(|_, rows| {
            rows.retain(|r| !which(r));
            !rows.is_empty()
        });
    }

    /// A resource.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.rows.get(plural)?.iter().find(|r| r.group == group && r.version == version)
    }

    /// All, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.order.iter()
    }

    /// Groups in order, core first, each with one entry for each of its versions, the preferred one first.
    pub fn groups(&self) -> Vec<(String, String)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for row in &self.order {
            let at = groups.iter().position(|(g, _)| *g == row.group).unwrap_or_else(|| {
                groups.push((row.group.to_string(), Vec::new()));
                groups.len() - 1
            });
            if let Some((_, versions)) = groups.get_mut(at)
                && !versions.iter().any(|v| *v == row.version)
            {
                versions.push(row.version.to_string());
            }
        }
        let each = groups.into_iter().flat_map(|(group, mut versions)| {
            versions.sort_by(|a, b| version_priority(b).cmp(&version_priority(a)).then_with(|| a.cmp(b)));
            versions.into_iter().map(move |version| (group.clone(), version))
        });
        each.collect()
    }

    /// The discovery documents of this table.
    pub(crate) fn discovery(&self) -> &Discovery {
        self.discovery.get_or_init(|| Discovery::new(self))
    }
}

/// What ranks versions: general availability before beta before alpha, then the higher number; names of another form come last.
pub(crate) fn version_priority(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = rest.split_at(digits);
        let major: u64 = major.parse().ok()?;
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        for (word, rank) in [("beta", 2), ("alpha", 1)] {
            if let Some(minor) = rest.strip_prefix(word) {
                return Some((rank, major, minor.parse().ok()?));
            }
        }
        None
    };
    parse().unwrap_or_default()
}

/// The table that a server serves by. It is replaced as a whole when a CustomResourceDefinition comes, changes or goes; a request works
/// on the one it found when it began.
#[derive(Debug, Default)]
pub struct ServedTable {
    current: RwLock<Arc<ResourceTable>>,
}

impl ServedTable {
    /// Serves by a table.
    pub fn new(table: ResourceTable) -> Self {
        Self { current: RwLock::new(Arc::new(table)) }
    }

    /// The table as it is now: a short lock and a reference count.
    pub fn load(&self) -> Arc<ResourceTable> {
        self.current.read().clone()
    }

    /// Replaces the table by a changed copy.
    pub fn change(&self, change: impl FnOnce(&mut ResourceTable)) {
        // One writer at a time; readers wait for the swap alone, since the copy is made under an upgradable lock.
        let current = self.current.upgradable_read();
        let mut table = ResourceTable::clone(&current);
        change(&mut table);
        let table = Arc::new(table);
        *parking_lot::RwLockUpgradableReadGuard::upgrade(current) = table;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ranked_as_kubernetes_ranks_them() {
        let mut versions = ["foo1", "v1alpha2", "v10", "v1beta1", "v2", "foo10", "v11beta2", "v3beta1", "v1", "v12alpha1"];
        versions.sort_by(|a, b| version_priority(b).cmp(&version_priority(a)).then_with(|| a.cmp(b)));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v3beta1", "v1beta1", "v12alpha1", "v1alpha2", "foo1", "foo10"]);
    }

    #[test]
    fn a_request_keeps_the_table_it_began_with() {
        let served = ServedTable::new(ResourceTable::builtin());
        let before = served.load();
        served.change(|table| {
            let mut row = (**before.get("apps", "v1", "deployments").unwrap()).clone();
            row.version = "v2".into();
            table.add(row);
            table.remove(|r| r.plural == "pods");
        });
        let after = served.load();
        assert!(before.get("", "v1", "pods").is_some() && after.get("", "v1", "pods").is_none());
        assert!(before.get("apps", "v2", "deployments").is_none());
        assert!(after.get("apps", "v1", "deployments").is_some() && after.get("apps", "v2", "deployments").is_some());
        let apps: Vec<_> = after.groups().into_iter().filter(|(g, _)| g == "apps").map(|(_, v)| v).collect();
        assert_eq!(apps, ["v2", "v1"]);
    }
}
