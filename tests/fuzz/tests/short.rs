//! Each target for a short while, from a fixed seed. `WHARF_FUZZ_INPUTS` sets how many inputs, `WHARF_FUZZ_SEED` which.
#![allow(clippy::unwrap_used, reason = "tests may")]

use wharf_fuzz::{Mutator, TARGETS, target};

const INPUTS: u64 = 1_500;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn short(name: &str) {
    let target = target(name).unwrap();
    for seed in (target.seeds)() {
        (target.run)(&seed);
    }
    let mut mutator = Mutator::new((target.seeds)(), number("WHARF_FUZZ_SEED", 1));
    for n in 0..number("WHARF_FUZZ_INPUTS", INPUTS) {
        let input = mutator.input();
        let wrong = std::panic::catch_unwind(|| (target.run)(&input)).is_err();
        assert!(!wrong, "{name}: input {n}: {}", input.escape_ascii());
    }
}

#[test]
fn json() {
    short("json");
}

#[test]
fn yaml() {
    short("yaml");
}

#[test]
fn patch() {
    short("patch");
}

#[test]
fn query() {
    short("query");
}

#[test]
fn protobuf() {
    short("protobuf");
}

#[test]
fn crd_schema() {
    short("crd_schema");
}

#[test]
fn cel() {
    short("cel");
}

#[test]
fn every_target_is_run_here_and_has_a_program() {
    let here = include_str!("short.rs");
    for target in TARGETS {
        assert!(here.contains(&format!("short(\"{}\")", target.name)), "{}", target.name);
        let program = format!("{}/../../fuzz/src/bin/{}.rs", env!("CARGO_MANIFEST_DIR"), target.name);
        assert!(std::fs::read_to_string(&program).is_ok_and(|text| text.contains(&format!("program!(\"{}\")", target.name))), "{program}");
        assert!(!(target.seeds)().is_empty() && !target.about.is_empty());
    }
}
