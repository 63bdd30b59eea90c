//! `cargo xtask test`.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::system::{PROTOC, cargo, found, install, is_root, missing, root, run as command};
use crate::{machine, python};

/// A part of the whole test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Formatting, clippy and docs, warnings denied.
    Lint,
    /// All tests and doctests.
    Unit,
    /// What needs another kernel than this machine's: tests and the smoke story in a virtual machine.
    Vm,
    /// The mini-cluster, its smoke story and kubectl.
    E2e,
}

/// Members whose dependencies run protoc when they are built.
const WITH_PROTOC: [&str; 3] = ["wharf-store-etcd", "wharf-runtime-containerd", "wharf-bridge-etcd"];

/// What mini-cluster is built with to be tested: all that can be built here.
pub fn example_features() -> &'static [&'static str] {
    if found(PROTOC) { &["--features", "etcd,containerd"] } else { &[] }
}

/// `cargo` over the workspace without some members.
fn over_workspace(words: &[&str], exclude: &[&str]) -> Command {
    let mut command = cargo(words);
    command.args(["--workspace", "--locked"]);
    for package in exclude {
        command.args(["--exclude", package]);
    }
    command
}

fn run_stage(stage: Stage, whole: bool, exclude: &[&str]) -> Result<(), String> {
    let require = if whole { "1" } else { "0" };
    let without_e2e: Vec<&str> = exclude.iter().copied().chain(["wharf-e2e"]).collect();
    match stage {
        Stage::Lint => {
            command(&mut cargo(&["fmt", "--all", "--check"]))?;
            command(over_workspace(&["clippy", "--all-targets"], exclude).args(["--", "-D", "warnings"]))?;
            // The workspace is checked with default features; the rest of them is the facade's.
            let facade = ["clippy", "--package", "wharf", "--all-targets", "--locked"];
            command(cargo(&facade).args(example_features()).args(["--", "-D", "warnings"]))?;
            // The fuzzer's programs are outside of the workspace; what members depend on is in their lock file too.
            let fuzzer = ["metadata", "--locked", "--format-version", "1", "--manifest-path", "fuzz/Cargo.toml"];
            command(cargo(&fuzzer).stdout(Stdio::null()))?;
            command(over_workspace(&["doc", "--no-deps"], exclude).env("RUSTDOCFLAGS", "-D warnings"))
        }
        Stage::Unit => {
            command(over_workspace(&["test", "--all-targets", "--no-fail-fast"], &without_e2e).env("WHARF_REQUIRE_SYSTEM", require))?;
            command(&mut over_workspace(&["test", "--doc"], exclude))
        }
        Stage::Vm => machine::run(&without_e2e, whole),
        Stage::E2e => {
            command(cargo(&["build", "--release", "--example", "mini-cluster", "--locked"]).args(example_features()))?;
            let mut test =
                cargo(&["test", "--package", "wharf-e2e", "--locked", "--no-fail-fast", "--", "--test-threads=1", "--nocapture"]);
            match python::environment() {
                Ok(interpreter) => {
                    test.env("WHARF_PYTHON", interpreter);
                }
                Err(why) if whole => return Err(why),
                Err(why) => println!("omitted: the Python client and Helm: {why}"),
            }
            command(
                test.env("WHARF_REQUIRE_SYSTEM", require).env("WHARF_MINI_CLUSTER", root().join("target/release/examples/mini-cluster")),
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
    let exclude = if found(PROTOC) { &[][..] } else { &WITH_PROTOC[..] };
    if !exclude.is_empty() {
        println!("omitted: without {PROTOC} these cannot be built: {}", exclude.join(", "));
    }
    let all = [Stage::Lint, Stage::Unit, Stage::Vm, Stage::E2e];
    let stages = if stages.is_empty() { &all[..] } else { stages };
    for stage in stages {
        let begin = Instant::now();
        run_stage(*stage, whole, exclude)?;
        println!("stage {stage:?} took {} s", begin.elapsed().as_secs());
    }
    Ok(())
}
