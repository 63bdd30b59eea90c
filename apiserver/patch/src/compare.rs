//! The fields that an object has, and those in which two objects differ: one walk over both.

use serde_json::Value;

use crate::fields::{Fields, leaf, node, union};
use crate::item::Names;
use crate::shape::{Rule, Shape};

/// Metadata that nobody owns.
pub(crate) const UNOWNED: &[&str] =
    &["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"];

/// Which top-level members a request can change; the others are kept as they are, so that nobody owns them by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All but these.
    Without(&'a [&'a str]),
    /// These alone.
    Only(&'a [&'a str]),
}

impl Scope<'_> {
    pub(crate) fn holds(self, name: &str) -> bool {
        !matches!(name, "apiVersion" | "kind")
            && match self {
                Self::Without(names) => !names.contains(&name),
                Self::Only(names) => names.contains(&name),
            }
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side<'a> {
    Missing,
    /// There, without anything in it.
    Empty,
    Is(&'a Value),
}

impl<'a> Side<'a> {
    fn of(value: Option<&'a Value>, inherent: bool) -> Self {
        match value {
            Some(value) => Self::Is(value),
            None if inherent => Self::Empty,
            None => Self::Missing,
        }
    }
    fn member(self, name: &str, inherent: bool) -> Self {
        match self {
            Self::Missing => Self::Missing,
            Self::Empty => Self::of(None, inherent),
            Self::Is(value) => Self::of(value.get(name), inherent),
        }
    }
    fn is_empty(self) -> bool {
        match self {
            Self::Is(Value::Object(map)) => map.is_empty(),
            Self::Is(Value::Array(list)) => list.is_empty(),
            Self::Is(other) => other.is_null(),
            _ => true,
        }
    }
    fn items(self) -> &'a [Value] {
        match self {
            Self::Is(Value::Array(list)) => list,
            _ => &[],
        }
    }
    /// Whether a walk of this rule can go into it; `None` where nothing is.
    fn fits(self, rule: Rule) -> Option<bool> {
        match self {
            Self::Is(Value::Object(_)) => Some(rule == Rule::Granular),
            Self::Is(Value::Array(_)) => Some(matches!(rule, Rule::Set | Rule::Keyed)),
            Self::Is(_) => Some(false),
            _ => None,
        }
    }
}

/// What two objects differ in.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Added, or of another value.
    pub changed: Fields,
    /// There no more.
    pub removed: Fields,
}

impl Comparison {
    fn put(&mut self, name: impl FnOnce() -> String, (changed, removed): Difference) {
        match (changed, removed) {
            (None, None) => {}
            (Some(changed), None) => drop(self.changed.insert(name(), changed)),
            (None, Some(removed)) => drop(self.removed.insert(name(), removed)),
            (Some(changed), Some(removed)) => {
                let name = name();
                self.changed.insert(name.clone(), changed);
                self.removed.insert(name, removed);
            }
        }
    }
}

/// Nodes of what changed and of what was removed.
type Difference = (Option<Value>, Option<Value>);

/// Compares two whole objects.
pub(crate) fn objects<'a, S: Shape<'a>>(shape: S, old: Side<'_>, new: &Value, scope: Scope<'_>) -> Comparison {
    let mut out = Comparison::default();
    members(shape, old, Side::Is(new), &mut out, &|name| scope.holds(name));
    out
}

/// Goes over the members of both; `holds` leaves some out.
fn members<'a, S: Shape<'a>>(shape: S, old: Side<'_>, new: Side<'_>, out: &mut Comparison, holds: &dyn Fn(&str) -> bool) {
    let mut each = |name: &str| {
        if !holds(name) {
            return;
        }
        // What is the same is not walked: most of an object in an update.
        if let (Side::Is(old), Side::Is(new)) = (old, new)
            && old.get(name) == new.get(name)
        {
            return;
        }
        let member = shape.member(name);
        let (old, new) = (old.member(name, member.inherent), new.member(name, member.inherent));
        out.put(|| ["f:", name].concat(), place(member.shape, old, new, name == "metadata"));
    };
    if let Side::Is(Value::Object(new)) = new {
        new.keys().for_each(|name| each(name));
    }
    if let Side::Is(Value::Object(old)) = old {
        let is_new = |name: &str| matches!(new, Side::Is(new) if new.get(name).is_some());
        old.keys().filter(|name| !is_new(name)).for_each(|name| each(name));
    }
}

fn place<'a, S: Shape<'a>>(shape: S, old: Side<'_>, new: Side<'_>, metadata: bool) -> Difference {
    let rule = shape.rule();
    let walkable = (old.fits(rule), new.fits(rule));
    if rule == Rule::Atomic || (old.is_empty() && new.is_empty()) || !matches!(walkable, (Some(true), _) | (_, Some(true))) {
        return whole(old, new);
    }
    if matches!(walkable, (Some(false), _) | (_, Some(false))) {
        // Of different forms: one goes, the other comes.
        let (_, gone) = place(shape, old, Side::Missing, metadata);
        let (come, _) = place(shape, Side::Missing, new, metadata);
        return (come, gone);
    }
    let mut inner = Comparison::default();
    if rule == Rule::Granular {
        let holds = |name: &str| !metadata || !UNOWNED.contains(&name);
        members(shape, old, new, &mut inner, &holds);
    } else {
        items(shape, old.items(), new.items(), &mut inner);
    }
    let added = matches!(old, Side::Missing) && !metadata;
    let removed = matches!(new, Side::Missing) && !metadata;
    (node(added, inner.changed), node(removed, inner.removed))
}

/// Compares what is one value.
fn whole(old: Side<'_>, new: Side<'_>) -> Difference {
    match (old, new) {
        (Side::Missing, Side::Missing) => (None, None),
        (Side::Missing, _) => (Some(leaf()), None),
        (_, Side::Missing) => (None, Some(leaf())),
        (Side::Is(old), Side::Is(new)) if old == new => (None, None),
        _ if old.is_empty() && new.is_empty() => (None, None),
        _ => (Some(leaf()), None),
    }
}

fn items<'a, S: Shape<'a>>(shape: S, old: &[Value], new: &[Value], out: &mut Comparison) {
    if old == new {
        return;
    }
    let (names, of) = (Names::of(shape), shape.items());
    let mut before = names.index(old);
    for item in new {
        let Some(name) = names.name(item) else { continue };
        if out.changed.contains_key(&name) {
            continue;
        }
        let old = before.remove(&name).and_then(|at| old.get(at));
        let difference = place(of, Side::of(old, false), Side::Is(item), false);
        out.put(|| name, difference);
    }
    for (name, at) in before {
        let difference = place(of, Side::of(old.get(at), false), Side::Missing, false);
        out.put(|| name, difference);
    }
}

/// A list in which items cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadList {
    pub path: String,
    pub why: String,
}

/// The fields that a configuration names.
pub(crate) fn fields_of<'a, S: Shape<'a>>(shape: S, value: &Value, scope: Scope<'_>) -> Result<Fields, BadList> {
    let mut out = Fields::new();
    named(shape, value, "", &|name| scope.holds(name), &mut out)?;
    Ok(out)
}

fn named<'a, S: Shape<'a>>(shape: S, value: &Value, path: &str, holds: &dyn Fn(&str) -> bool, out: &mut Fields) -> Result<(), BadList> {
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| holds(name)) {
        let member = shape.member(name);
        let inner = within(member.shape, value, &format!("{path}.{name}"), path.is_empty() && name == "metadata")?;
        let itself = !member.named || value.is_null() || value.as_object().is_some_and(|m| m.is_empty());
        let metadata = path.is_empty() && name == "metadata";
        if let Some(inner) = node(inner.1 || (itself && !metadata), inner.0) {
            out.insert(format!("f:{name}"), inner);
        }
    }
    Ok(())
}

/// What is below a place, and whether the place itself is a leaf.
fn within<'a, S: Shape<'a>>(shape: S, value: &Value, path: &str, metadata: bool) -> Result<(Fields, bool), BadList> {
    let mut out = Fields::new();
    match (shape.rule(), value) {
        (Rule::Granular, Value::Object(_)) => {
            named(shape, value, path, &|name| !metadata || !UNOWNED.contains(&name), &mut out)?;
            Ok((out, false))
        }
        (Rule::Set | Rule::Keyed, Value::Array(list)) => {
            let names = Names::of(shape);
            for (at, item) in list.iter().enumerate() {
                let Some(name) = names.name(item) else {
                    let why = format!(
                        "element {at}: associative list with keys has an element that omits all key fields {} (and doesn't have default values for any key fields)",
                        names.keys()
                    );
                    return Err(BadList { path: path.into(), why });
                };
                let (inner, _) = within(shape.items(), item, path, false)?;
                let told = crate::fields::paths(&Fields::from_iter([(name.clone(), leaf())])).concat();
                let item = node(true, inner).unwrap_or_else(leaf);
                if out.insert(name, item).is_some() {
                    return Err(BadList { path: path.into(), why: format!("duplicate entries for key {told}") });
                }
            }
            Ok((out, false))
        }
        _ => Ok((out, true)),
    }
}

/// All fields in which something differs.
pub(crate) fn touched(comparison: &Comparison) -> Fields {
    union(comparison.changed.clone(), &comparison.removed)
}
