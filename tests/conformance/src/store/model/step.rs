//! Steps: what they are, how they are drawn, and how they read. All of them are relative to what is there, so that any part of a
//! sequence is a sequence too.

use std::collections::HashSet;
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use wharf_core::store::{Key, Scope};

use crate::store::kit::{NAMESPACE, all_pods, node, nodes, pod, pods};

/// Watches that are open at a time.
pub(super) const SLOTS: usize = 3;
/// Keys that are written. Few, so that they meet.
const KEYS: usize = 6;
const SCOPES: usize = 5;

/// A point in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// After the newest commit but so many; at most back to the empty store.
    Back(usize),
    /// So many revisions after the newest.
    Ahead(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A value that no other put writes.
    Put,
    /// The same value each time.
    PutSame,
    Delete,
    Check,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum If {
    Any,
    Absent,
    Present,
    /// The revision of the key, or of the store if it has none.
    Current,
    /// The revision of the commit so many ago.
    Of(usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Action {
    pub(super) key: usize,
    pub(super) what: What,
    pub(super) expect: If,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Commit(Vec<Action>),
    Get(usize),
    List {
        scope: usize,
        limit: Option<usize>,
        after: Option<usize>,
        at: Option<When>,
    },
    Pages {
        scope: usize,
        limit: usize,
        at: Option<When>,
    },
    Watch {
        slot: usize,
        scope: usize,
        after: When,
    },
    /// Takes at most so many of the commits that a watch must yield.
    Read {
        slot: usize,
        most: usize,
    },
    /// Asks a watch for its next, once, and gives up.
    Glance {
        slot: usize,
    },
    Close {
        slot: usize,
    },
    Compact(When),
    Disconnect,
    Restart,
}

pub(super) fn key(index: usize) -> Key {
    match index % KEYS {
        0 => pod("a"),
        1 => pod("b"),
        2 => pod("c"),
        3 => Key::new(pods(), "other", "a"),
        4 => node("n"),
        _ => node("m"),
    }
}

pub(super) fn scope(index: usize) -> Scope {
    match index % SCOPES {
        0 => Scope::All,
        1 => all_pods(),
        2 => Scope::Namespace(pods(), NAMESPACE.into()),
        3 => Scope::Resource(nodes()),
        _ => Scope::Namespace(pods(), "other".into()),
    }
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![8 => (0..12usize).prop_map(When::Back), 1 => (1..4u64).prop_map(When::Ahead)]
}

fn action() -> impl Strategy<Value = Action> {
    let what = prop_oneof![6 => Just(What::Put), 1 => Just(What::PutSame), 3 => Just(What::Delete), 1 => Just(What::Check)];
    let expect = prop_oneof![
        6 => Just(If::Any),
        2 => Just(If::Absent),
        2 => Just(If::Present),
        4 => Just(If::Current),
        1 => (0..6usize).prop_map(If::Of),
    ];
    (0..KEYS, what, expect).prop_map(|(key, what, expect)| Action { key, what, expect })
}

/// A transaction; one in twenty may name a key twice.
fn actions() -> impl Strategy<Value = Vec<Action>> {
    (vec(action(), 1..5), 0..20u8).prop_map(|(mut actions, dice)| {
        if dice != 19 {
            let mut seen = HashSet::new();
            actions.retain(|action| seen.insert(action.key));
        }
        actions
    })
}

fn step() -> impl Strategy<Value = Step> {
    let limit = || proptest::option::of(1..4usize);
    prop_oneof![
        24 => actions().prop_map(Step::Commit),
        2 => (0..KEYS).prop_map(Step::Get),
        3 => (0..SCOPES, limit(), proptest::option::of(0..KEYS), proptest::option::of(when()))
            .prop_map(|(scope, limit, after, at)| Step::List { scope, limit, after, at }),
        2 => (0..SCOPES, 1..3usize, proptest::option::of(when())).prop_map(|(scope, limit, at)| Step::Pages { scope, limit, at }),
        6 => (0..SLOTS, 0..SCOPES, when()).prop_map(|(slot, scope, after)| Step::Watch { slot, scope, after }),
        6 => (0..SLOTS, 1..6usize).prop_map(|(slot, most)| Step::Read { slot, most }),
        3 => (0..SLOTS).prop_map(|slot| Step::Glance { slot }),
        1 => (0..SLOTS).prop_map(|slot| Step::Close { slot }),
        2 => when().prop_map(Step::Compact),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Restart),
    ]
}

/// A sequence of at most so many.
pub(super) fn sequence(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..=most)
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back(0) => f.write_str("the newest commit"),
            Self::Back(n) => write!(f, "the newest commit but {n}"),
            Self::Ahead(n) => write!(f, "the newest revision plus {n}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = key(self.key);
        match self.what {
            What::Put => write!(f, "put {key}")?,
            What::PutSame => write!(f, "put the same to {key}")?,
            What::Delete => write!(f, "delete {key}")?,
            What::Check => write!(f, "check {key}")?,
        }
        match self.expect {
            If::Any => Ok(()),
            If::Absent => f.write_str(" if absent"),
            If::Present => f.write_str(" if present"),
            If::Current => f.write_str(" if unchanged"),
            If::Of(n) => write!(f, " if it is of {}", When::Back(n)),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |at: &Option<When>| at.map_or_else(String::new, |at| format!(" at {at}"));
        match self {
            Self::Commit(actions) => {
                let actions: Vec<_> = actions.iter().map(ToString::to_string).collect();
                write!(f, "commit: {}", actions.join(", "))
            }
            Self::Get(index) => write!(f, "get {}", key(*index)),
            Self::List { scope: of, limit, after, at: when } => {
                write!(f, "list {:?}", scope(*of))?;
                if let Some(after) = after {
                    write!(f, " after {}", key(*after))?;
                }
                if let Some(limit) = limit {
                    write!(f, ", {limit} at most,")?;
                }
                f.write_str(&at(when))
            }
            Self::Pages { scope: of, limit, at: when } => write!(f, "list {:?} in pages of {limit}{}", scope(*of), at(when)),
            Self::Watch { slot, scope: of, after } => write!(f, "watch #{slot}: {:?} after {after}", scope(*of)),
            Self::Read { slot, most } => write!(f, "read at most {most} commits of watch #{slot}"),
            Self::Glance { slot } => write!(f, "ask watch #{slot} once, and give up"),
            Self::Close { slot } => write!(f, "close watch #{slot}"),
            Self::Compact(upto) => write!(f, "compact up to {upto}"),
            Self::Disconnect => f.write_str("lose every connection"),
            Self::Restart => f.write_str("crash, and open again"),
        }
    }
}
