//! `cargo xtask test`.

use std::time::Instant;

use crate::system::{cargo, install, is_root, missing, root, run as command};

/// A part of the whole test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Formatting, clippy and docs, warnings denied.
    Lint,
    /// All tests and doctests.
    Unit,
    /// The mini-cluster, its smoke story and kubectl.
    E2e,
}

fn run_stage(stage: Stage, whole: bool) -> Result<(), String> {
    let require = if whole { "1" } else { "0" };
    match stage {
        Stage::Lint => {
            command(&mut cargo(&["fmt", "--all", "--check"]))?;
            command(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
            command(cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings"))
        }
        Stage::Unit => {
            command(
                cargo(&["test", "--workspace", "--all-targets", "--locked", "--exclude", "wharf-e2e"]).env("WHARF_REQUIRE_SYSTEM", require),
            )?;
            command(&mut cargo(&["test", "--workspace", "--doc", "--locked"]))
        }
        Stage::E2e => {
            command(&mut cargo(&["build", "--release", "--example", "mini-cluster", "--locked"]))?;
            command(
                cargo(&["test", "--package", "wharf-e2e", "--locked", "--", "--test-threads=1", "--nocapture"])
                    .env("WHARF_REQUIRE_SYSTEM", require)
                    .env("WHARF_MINI_CLUSTER", root().join("target/release/examples/mini-cluster")),
            )
        }
    }
}

/// Runs the stages, or all.
pub fn run(stages: &[Stage]) -> Result<(), String> {
    let whole = is_root();
    if whole {
        install()?;
    } else {
        println!("omitted: not root, so tests that need real containers, networks or packet filters print an omission");
        if !missing().is_empty() {
            println!("omitted: not installed: {}", missing().join(", "));
        }
    }
    let all = [Stage::Lint, Stage::Unit, Stage::E2e];
    let stages = if stages.is_empty() { &all[..] } else { stages };
    for stage in stages {
        let begin = Instant::now();
        run_stage(*stage, whole)?;
        println!("stage {stage:?} took {} s", begin.elapsed().as_secs());
    }
    Ok(())
}
