//! The fields that an object has, and those in which two objects differ: one walk over both.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::fields::{Fields, Node, Step};
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
    fn members(self) -> Option<&'a Map<String, Value>> {
        match self {
            Self::Is(Value::Object(map)) => Some(map),
            _ => None,
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
pub(crate) struct Comparison<'t> {
    /// Added, or of another value.
    pub changed: Fields<'t>,
    /// There no more.
    pub removed: Fields<'t>,
}

impl Comparison<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Nodes of what changed and of what was removed.
type Difference<'t> = (Option<Node<'t>>, Option<Node<'t>>);

/// What was found below one place so far.
#[derive(Default)]
struct Found<'t> {
    changed: Vec<(Step<'t>, Node<'t>)>,
    removed: Vec<(Step<'t>, Node<'t>)>,
}

impl<'t> Found<'t> {
    fn put(&mut self, step: impl FnOnce() -> Step<'t>, (changed, removed): Difference<'t>) {
        match (changed, removed) {
            (None, None) => {}
            (Some(changed), None) => self.changed.push((step(), changed)),
            (None, Some(removed)) => self.removed.push((step(), removed)),
            (Some(changed), Some(removed)) => {
                let step = step();
                self.changed.push((step.clone(), changed));
                self.removed.push((step, removed));
            }
        }
    }

    fn done(self) -> Comparison<'t> {
        Comparison { changed: Fields::of(self.changed), removed: Fields::of(self.removed) }
    }
}

/// Compares two whole objects.
pub(crate) fn objects<'a, 't, S: Shape<'a>>(shape: S, old: Side<'t>, new: &'t Value, scope: Scope<'_>) -> Comparison<'t> {
    let mut found = Found::default();
    members(shape, old, Side::Is(new), &mut found, &|name| scope.holds(name));
    found.done()
}

/// Goes over the members of both; `holds` leaves some out.
fn members<'a, 't, S: Shape<'a>>(shape: S, old: Side<'t>, new: Side<'t>, out: &mut Found<'t>, holds: &dyn Fn(&str) -> bool) {
    let mut each = |name: &'t str, had: Option<&'t Value>, has: Option<&'t Value>| {
        // What is the same is not walked: most of an object in an update.
        if !holds(name) || (had.is_some() && had == has) {
            return;
        }
        let member = shape.member(name);
        let side = |of: Side<'t>, value| match of {
            Side::Missing => Side::Missing,
            _ => Side::of(value, member.inherent),
        };
        out.put(|| Step::member(name), place(member.shape, side(old, had), side(new, has), name == "metadata"));
    };
    let (had, has) = (old.members(), new.members());
    for (name, value) in has.into_iter().flatten() {
        each(name, had.and_then(|had| had.get(name)), Some(value));
    }
    for (name, value) in had.into_iter().flatten() {
        if has.is_none_or(|has| !has.contains_key(name)) {
            each(name, Some(value), None);
        }
    }
}

fn place<'a, 't, S: Shape<'a>>(shape: S, old: Side<'t>, new: Side<'t>, metadata: bool) -> Difference<'t> {
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
    let mut found = Found::default();
    if rule == Rule::Granular {
        let holds = |name: &str| !metadata || !UNOWNED.contains(&name);
        members(shape, old, new, &mut found, &holds);
    } else {
        items(shape, old.items(), new.items(), &mut found);
    }
    let added = matches!(old, Side::Missing) && !metadata;
    let removed = matches!(new, Side::Missing) && !metadata;
    let inner = found.done();
    (Node::of(added, inner.changed), Node::of(removed, inner.removed))
}

/// Compares what is one value.
fn whole<'t>(old: Side<'t>, new: Side<'t>) -> Difference<'t> {
    match (old, new) {
        (Side::Missing, Side::Missing) => (None, None),
        (Side::Missing, _) => (Some(Node::leaf()), None),
        (_, Side::Missing) => (None, Some(Node::leaf())),
        (Side::Is(old), Side::Is(new)) if old == new => (None, None),
        _ if old.is_empty() && new.is_empty() => (None, None),
        _ => (Some(Node::leaf()), None),
    }
}

fn items<'a, 't, S: Shape<'a>>(shape: S, old: &'t [Value], new: &'t [Value], out: &mut Found<'t>) {
    if old == new {
        return;
    }
    let (names, of) = (Names::of(shape), shape.items());
    let mut before = names.index(old);
    for item in new {
        let Some(name) = names.name(item) else { continue };
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
pub(crate) fn fields_of<'a, 't, S: Shape<'a>>(shape: S, value: &'t Value, scope: Scope<'_>) -> Result<Fields<'t>, BadList> {
    named(shape, value, "", &|name| scope.holds(name))
}

fn named<'a, 't, S: Shape<'a>>(shape: S, value: &'t Value, path: &str, holds: &dyn Fn(&str) -> bool) -> Result<Fields<'t>, BadList> {
    let mut out = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| holds(name)) {
        let member = shape.member(name);
        let metadata = path.is_empty() && name == "metadata";
        let inner = within(member.shape, value, &format!("{path}.{name}"), metadata)?;
        let itself = !member.named || value.is_null() || value.as_object().is_some_and(|m| m.is_empty());
        if let Some(inner) = Node::of(inner.member || (itself && !metadata), inner.below) {
            out.push((Step::member(name), inner));
        }
    }
    Ok(Fields::of(out))
}

/// What is below a place; it is a member itself if it is a leaf.
fn within<'a, 't, S: Shape<'a>>(shape: S, value: &'t Value, path: &str, metadata: bool) -> Result<Node<'t>, BadList> {
    let below = match (shape.rule(), value) {
        (Rule::Granular, Value::Object(_)) => named(shape, value, path, &|name| !metadata || !UNOWNED.contains(&name))?,
        (Rule::Set | Rule::Keyed, Value::Array(list)) => {
            let names = Names::of(shape);
            let (mut out, mut known) = (Vec::with_capacity(list.len()), HashSet::with_capacity(list.len()));
            for (at, item) in list.iter().enumerate() {
                let Some(name) = names.name(item) else {
                    let why = format!(
                        "element {at}: associative list with keys has an element that omits all key fields {} (and doesn't have default values for any key fields)",
                        names.keys()
                    );
                    return Err(BadList { path: path.into(), why });
                };
                let inner = within(shape.items(), item, path, false)?;
                if !known.insert(name.clone()) {
                    return Err(BadList { path: path.into(), why: format!("duplicate entries for key {}", name.told()) });
                }
                out.push((name, Node { member: true, below: inner.below }));
            }
            Fields::of(out)
        }
        _ => return Ok(Node::leaf()),
    };
    Ok(Node { member: false, below })
}
