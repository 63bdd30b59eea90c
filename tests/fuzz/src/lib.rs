//! What is done with bytes that nobody vouches for, each as a function of bytes that panics where something is wrong.
//!
//! `cargo xtask fuzz TARGET --minutes 60` gives them to libFuzzer, which follows the paths that inputs take; the tests here run each
//! for a short while. A new target is a function, an entry in [`TARGETS`] and a program in the folder `fuzz`.
//!
//! ```
//! (wharf_fuzz::target("json").unwrap().run)(br#"{"kind":"Pod"}"#);
//! ```

mod mutate;
mod schema;
mod schemas;
mod seeds;
mod server;

pub use mutate::{Mutator, restructure};

/// Something to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As the program in `fuzz` is called.
    pub name: &'static str,
    /// What it is given.
    pub about: &'static str,
    /// Panics where an answer is wrong.
    pub run: fn(&[u8]),
    /// Good inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "json", about: "objects as JSON, created and written over", run: server::json, seeds: seeds::json },
    Target { name: "yaml", about: "objects as YAML, created and written over", run: server::yaml, seeds: seeds::yaml },
    Target { name: "patch", about: "the four kinds of patch on stored objects", run: server::patch, seeds: seeds::patch },
    Target { name: "query", about: "selectors, pages and revisions in queries", run: server::query, seeds: seeds::query },
    Target { name: "protobuf", about: "objects in Kubernetes' protobuf", run: server::protobuf, seeds: seeds::protobuf },
    Target {
        name: "crd_schema",
        about: "schemas of custom resources, and objects of them",
        run: schema::crd_schema,
        seeds: schemas::crd_schema,
    },
    Target { name: "cel", about: "rules in CEL about objects", run: schema::cel, seeds: schemas::cel },
];

/// Words that inputs are likely to hold.
pub const WORDS: &[&str] = seeds::WORDS;

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
