//! Merging a configuration into an object, and taking away what it no longer names.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::fields::{Fields, Kind, Step};
use crate::item::Names;
use crate::shape::{Rule, Shape};

/// What is there with what is wanted merged into it.
pub(crate) fn merge<'a, S: Shape<'a>>(shape: S, live: Option<Value>, wanted: &Value) -> Value {
    match (shape.rule(), wanted) {
        (Rule::Granular, Value::Object(wanted)) => {
            let mut out = match live {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            for (name, value) in wanted {
                let live = out.remove(name);
                if !value.is_null() {
                    out.insert(name.clone(), merge(shape.member(name).shape, live, value));
                }
            }
            Value::Object(out)
        }
        (Rule::Set | Rule::Keyed, Value::Array(wanted)) => match live {
            Some(Value::Array(live)) => Value::Array(lists(shape, live, wanted)),
            _ => Value::Array(wanted.iter().map(|item| merge(shape.items(), None, item)).collect()),
        },
        _ => wanted.clone(),
    }
}

/// Items that both have come in the order of the wanted; those that only the live list has stay before the neighbours they had.
fn lists<'a, S: Shape<'a>>(shape: S, live: Vec<Value>, wanted: &[Value]) -> Vec<Value> {
    let (names, of) = (Names::of(shape), shape.items());
    let ours = names.index(&live);
    let theirs = names.index(wanted);
    let live_names: Vec<Option<Step<'static>>> = live.iter().map(|item| names.name(item)).collect();
    let wanted_names: Vec<Option<Step<'static>>> = wanted.iter().map(|item| names.name(item)).collect();
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let next_shared = |from: usize| {
        wanted_names.iter().enumerate().skip(from).find(|(_, n)| n.as_ref().is_some_and(|n| ours.contains_key(n))).map(|(at, _)| at)
    };
    let mut shared = next_shared(0);
    let mut out = Vec::with_capacity(live.len() + wanted.len());
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < wanted.len() {
        if let Some(name) = live_names.get(l) {
            let is_shared = name.as_ref().is_some_and(|n| theirs.contains_key(n));
            if !is_shared {
                out.extend(live[l].take());
                l += 1;
                continue;
            }
            let is_next = shared.and_then(|at| wanted_names.get(at)).is_some_and(|next| next == name);
            if !is_next || r >= wanted.len() {
                l += 1;
                continue;
            }
        }
        let name = wanted_names[r].as_ref();
        let before = name.and_then(|n| ours.get(n)).and_then(|at| live[*at].take());
        if live_names.get(l).is_some_and(|n| n.as_ref() == name) {
            l += 1;
        }
        out.push(merge(of, before, &wanted[r]));
        if shared == Some(r) {
            shared = next_shared(r + 1);
        }
        r += 1;
    }
    out
}

/// Takes away what a manager named before, where `kept` (what appliers name now) has no trace of it.
pub(crate) fn prune<'a, S: Shape<'a>>(shape: S, value: &mut Value, before: &Fields<'_>, kept: Option<&Fields<'_>>) {
    let still = |step: &Step<'_>| kept.and_then(|kept| kept.get(step)).map(|node| &node.below);
    match (shape.rule(), value) {
        (Rule::Granular, Value::Object(map)) => {
            for (step, node) in before.iter().filter(|(step, _)| step.kind == Kind::Member) {
                let Some(child) = map.get_mut(&*step.text) else { continue };
                let still = still(step);
                if still.is_none() && node.member {
                    map.remove(&*step.text);
                    continue;
                }
                let was_empty = is_empty(child);
                prune(shape.member(&step.text).shape, child, &node.below, still);
                if still.is_none() && !was_empty && is_empty(child) {
                    map.remove(&*step.text);
                }
            }
        }
        (Rule::Set | Rule::Keyed, Value::Array(list)) => {
            let index = Names::of(shape).index(list);
            let mut gone = HashSet::new();
            for (step, node) in before.iter() {
                let Some(at) = index.get(step) else { continue };
                let still = still(step);
                if still.is_none() && node.member {
                    gone.insert(*at);
                } else if let Some(item) = list.get_mut(*at) {
                    prune(shape.items(), item, &node.below, still);
                }
            }
            let mut at = 0;
            list.retain(|_| {
                at += 1;
                !gone.contains(&(at - 1))
            });
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
