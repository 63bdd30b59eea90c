//! Laws that hold for any JSON.

mod support;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{apply, update};
use wharf_patch::fields::Fields;
use wharf_patch::{Builtin, Scope, Writer, strategic};

fn writer(manager: &'static str) -> Writer<'static> {
    Writer { manager, api_version: "v1", subresource: "", time: "2026-01-01T00:00:00Z", scope: Scope::Without(&[]) }
}

fn pod() -> Builtin {
    Builtin::kind("", "v1", "Pod")
}

const NAMES: &[&str] = &["metadata", "spec", "labels", "containers", "name", "image", "env", "value", "ports", "finalizers", "$patch", "x"];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3i64).prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "delete", "replace"]).prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(prop::sample::select(NAMES).prop_map(str::to_owned), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A pod's configuration without empty objects, of which nobody would own anything.
fn config() -> impl Strategy<Value = Value> {
    let container = ("[ab]", "[xy]", btree_map("[AB]", "[01]", 1..3));
    (btree_map("[a-c]", "[x-z]", 1..3), btree_map("[p-r]", container, 1..3)).prop_map(|(labels, containers)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, command, env))| {
                let env: Vec<Value> = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                json!({"name": name, "image": image, "command": [command], "env": env})
            })
            .collect();
        json!({"metadata": {"labels": labels}, "spec": {"containers": containers}})
    })
}

/// The text of a set.
fn set() -> impl Strategy<Value = String> {
    let leaf = Just(json!({}));
    leaf.prop_recursive(3, 20, 3, |inner| {
        btree_map("f:[abc]", inner, 1..4).prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>()))
    })
    .prop_map(|value| value.to_string())
}

fn without_managers(mut value: Value) -> Value {
    if let Some(meta) = value["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    value
}

fn union<'t>(mut a: Fields<'t>, b: Fields<'t>) -> Fields<'t> {
    a.add(b);
    a
}

fn difference<'t>(mut a: Fields<'t>, b: &Fields<'t>) -> Fields<'t> {
    a.subtract(b);
    a
}

proptest! {
    #[test]
    fn nothing_panics(a in any_json(), b in any_json()) {
        let mut merged = a.clone();
        let _ = strategic::merge(pod(), &mut merged, &b);
        let _ = apply(pod(), Some(&a), &b, writer("m"), true);
        let mut new = b.clone();
        update(pod(), Some(&a), &mut new, writer("m"));
        let text = a.to_string();
        if let Some(set) = Fields::read(&text) {
            let again = set.to_string();
            prop_assert_eq!(Fields::read(&again), Some(set.clone()));
            let _ = (set.is_valid(), set.paths());
        }
    }

    #[test]
    fn a_lone_appliers_object_is_its_configuration(a in config()) {
        let applied = apply(pod(), None, &a, writer("m"), false).unwrap();
        prop_assert_eq!(without_managers(applied), a);
    }

    #[test]
    fn applying_twice_is_applying_once(a in config(), b in config()) {
        let live = apply(pod(), None, &a, writer("m"), false).unwrap();
        let once = apply(pod(), Some(&live), &b, writer("n"), true).unwrap();
        let twice = apply(pod(), Some(&once), &b, writer("n"), true).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn the_next_configuration_takes_the_place_of_the_last(a in config(), b in config()) {
        let live = apply(pod(), None, &a, writer("m"), false).unwrap();
        let next = apply(pod(), Some(&live), &b, writer("m"), false).unwrap();
        prop_assert_eq!(without_managers(next), b);
    }

    #[test]
    fn sets_obey_the_laws_of_sets(a in set(), b in set()) {
        let (a, b) = (Fields::read(&a).unwrap(), Fields::read(&b).unwrap());
        let both = union(a.clone(), b.clone());
        prop_assert!(both.is_valid());
        let text = both.to_string();
        prop_assert_eq!(Fields::read(&text), Some(both.clone()));
        prop_assert_eq!(union(b.clone(), a.clone()), both.clone());
        prop_assert!(difference(a.clone(), &both).is_empty());
        prop_assert_eq!(a.intersection(&both), a.clone());
        prop_assert_eq!(union(difference(a.clone(), &b), a.intersection(&b)), a);
    }
}
