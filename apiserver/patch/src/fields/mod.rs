//! Sets of fields, as managedFields have them (`FieldsV1`).
//!
//! A set is a trie of steps: `f:` names a member of an object, `k:` an item of a list by its keys, `v:` an item by its value, `i:` one by
//! its place. In the text of one, a node that is empty or has the member `.` belongs to the set itself; one that has neither only leads to
//! others. Names are borrowed from the text or the object that a set was made of.

pub(crate) mod text;

use std::borrow::Cow;

use serde_json::Value;

/// What a step leads over; in the order in which a text has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// `f:`
    Member,
    /// `i:`
    Index,
    /// `k:`
    Keys,
    /// `v:`
    Value,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Step<'t> {
    pub kind: Kind,
    pub text: Cow<'t, str>,
}

impl<'t> Step<'t> {
    pub(crate) fn member(name: &'t str) -> Self {
        Self { kind: Kind::Member, text: Cow::Borrowed(name) }
    }

    /// As messages tell it.
    pub(crate) fn told(&self) -> String {
        let text = &self.text;
        match self.kind {
            Kind::Member => format!(".{text}"),
            Kind::Value => format!("[={text}]"),
            Kind::Index => format!("[{text}]"),
            Kind::Keys => match serde_json::from_str::<Value>(text) {
                Ok(Value::Object(keys)) => {
                    let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    format!("[{}]", keys.join(","))
                }
                _ => format!("[{text}]"),
            },
        }
    }
}

/// What a step leads to: a member of the set, others below it, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Node<'t> {
    pub member: bool,
    pub below: Fields<'t>,
}

impl<'t> Node<'t> {
    pub(crate) fn leaf() -> Self {
        Self { member: true, below: Fields::default() }
    }

    /// A node, if there is anything in it.
    pub(crate) fn of(member: bool, below: Fields<'t>) -> Option<Self> {
        (member || !below.is_empty()).then_some(Self { member, below })
    }
}

/// A set of fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields<'t> {
    /// By step, none of which leads to nothing.
    nodes: Vec<(Step<'t>, Node<'t>)>,
}

impl<'t> Fields<'t> {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Step<'t>, &Node<'t>)> {
        self.nodes.iter().map(|(step, node)| (step, node))
    }

    fn find(&self, step: &Step<'_>) -> Result<usize, usize> {
        self.nodes.binary_search_by(|(known, _)| known.cmp(step))
    }

    pub(crate) fn get(&self, step: &Step<'_>) -> Option<&Node<'t>> {
        self.find(step).ok().and_then(|at| self.nodes.get(at)).map(|(_, node)| node)
    }

    /// A set of these; of two at the same step the first counts.
    pub(crate) fn of(mut nodes: Vec<(Step<'t>, Node<'t>)>) -> Self {
        // Members are gone over in order, nearly always.
        if !nodes.is_sorted_by(|(a, _), (b, _)| a < b) {
            nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
            nodes.dedup_by(|(b, _), (a, _)| a == b);
        }
        Self { nodes }
    }

    /// Adds what is in the other.
    pub fn add(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        let mut new = Vec::new();
        for (step, theirs) in other.nodes {
            match self.find(&step) {
                Ok(at) => {
                    let (_, ours) = &mut self.nodes[at];
                    ours.member |= theirs.member;
                    ours.below.add(theirs.below);
                }
                Err(_) => new.push((step, theirs)),
            }
        }
        if !new.is_empty() {
            self.nodes.extend(new);
            self.nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }

    /// Takes away what is in the other.
    pub fn subtract(&mut self, other: &Fields<'_>) {
        let mut emptied = false;
        for (step, theirs) in &other.nodes {
            let Ok(at) = self.find(step) else { continue };
            let (_, ours) = &mut self.nodes[at];
            ours.member &= !theirs.member;
            ours.below.subtract(&theirs.below);
            emptied |= !ours.member && ours.below.is_empty();
        }
        if emptied {
            self.nodes.retain(|(_, node)| node.member || !node.below.is_empty());
        }
    }

    /// What is in both.
    pub fn intersection(&self, other: &Fields<'_>) -> Self {
        let both = |(step, theirs): &(Step<'_>, Node<'_>)| {
            let (step, ours) = self.nodes.get(self.find(step).ok()?)?;
            Some((step.clone(), Node::of(ours.member && theirs.member, ours.below.intersection(&theirs.below))?))
        };
        Self { nodes: other.nodes.iter().filter_map(both).collect() }
    }

    /// The paths in it, as Kubernetes writes them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        fn walk(set: &Fields<'_>, at: &str, out: &mut Vec<String>) {
            for (step, node) in set.iter() {
                let here = format!("{at}{}", step.told());
                if node.member {
                    out.push(here.clone());
                }
                walk(&node.below, &here, out);
            }
        }
        let mut out = Vec::new();
        walk(self, "", &mut out);
        out
    }

    /// Whether every step is one that Kubernetes could have written.
    pub fn is_valid(&self) -> bool {
        self.iter().all(|(step, node)| {
            let good = match step.kind {
                Kind::Member => true,
                Kind::Value => serde_json::from_str::<Value>(&step.text).is_ok(),
                Kind::Keys => serde_json::from_str::<Value>(&step.text).is_ok_and(|v| v.is_object()),
                Kind::Index => step.text.parse::<i64>().is_ok(),
            };
            good && node.below.is_valid()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Fields<'_> {
        let set = Fields::read(text).unwrap_or_else(|| panic!("{text}"));
        assert!(set.is_valid(), "{text}");
        assert_eq!(set.to_string(), text);
        set
    }

    fn without<'a>(mut a: Fields<'a>, b: &Fields<'_>) -> Fields<'a> {
        a.subtract(b);
        a
    }

    #[test]
    fn members_and_what_is_below_them_are_apart() {
        let all = set(r#"{"f:a":{".":{},"f:b":{}}}"#);
        assert_eq!(without(all.clone(), &set(r#"{"f:a":{}}"#)), set(r#"{"f:a":{"f:b":{}}}"#));
        assert_eq!(without(all.clone(), &set(r#"{"f:a":{"f:b":{}}}"#)), set(r#"{"f:a":{}}"#));
        let mut sum = set(r#"{"f:a":{"f:b":{}}}"#);
        sum.add(set(r#"{"f:a":{}}"#));
        assert_eq!(sum, all);
        assert_eq!(all.intersection(&set(r#"{"f:a":{"f:b":{},"f:c":{}}}"#)), set(r#"{"f:a":{"f:b":{}}}"#));
    }

    #[test]
    fn paths_are_written_as_kubernetes_writes_them() {
        let ports = r#"{"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{}}},"f:set":{"v:\"x\"":{}}}"#;
        assert_eq!(
            set(ports).paths(),
            [".ports[containerPort=80,protocol=\"TCP\"]", ".ports[containerPort=80,protocol=\"TCP\"].name", ".set[=\"x\"]"]
        );
    }

    #[test]
    fn texts_in_another_order_are_read() {
        let set = Fields::read(r#"{"v:1":{},"f:b":{},"f:a":{"f:\u0022":{},".":{}},"f:b":{"f:x":{}}}"#).unwrap();
        assert_eq!(set.to_string(), r#"{"f:a":{".":{},"f:\"":{}},"f:b":{"f:x":{}},"v:1":{}}"#);
    }

    #[test]
    fn other_things_are_no_sets() {
        for bad in [
            r#"{"x":{}}"#,
            r#"{"f:a":1}"#,
            r#"{"k:[]":{}}"#,
            r#"{"i:x":{}}"#,
            "[]",
            r#"{"v:":{}}"#,
            r#"{"q:a":{}}"#,
            r#"{"f:a":{".":{"f:b":{}}}}"#,
            "{} {}",
            "{",
        ] {
            assert!(!Fields::read(bad).is_some_and(|set| set.is_valid()), "{bad}");
        }
    }
}
