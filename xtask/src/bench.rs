//! `cargo xtask bench`: the figures of the whole cluster.

use std::time::Instant;

use crate::system::{cargo, root, run as command};

/// Builds the benchmark and the mini-cluster, and runs one over the other.
pub fn run(runs: usize, build: bool) -> Result<(), String> {
    let clean = if build { Some(clean_build()?) } else { None };
    command(&mut cargo(&["build", "--release", "--locked", "--example", "mini-cluster"]))?;
    let mut bench =
        cargo(&["run", "--release", "--locked", "--package", "wharf-e2e", "--bin", "wharf-bench", "--", "--runs", &runs.to_string()]);
    if let Some(seconds) = clean {
        bench.args(["--build-seconds", &seconds.to_string()]);
    }
    command(bench.env("WHARF_MINI_CLUSTER", root().join("target/release/examples/mini-cluster")))
}

fn clean_build() -> Result<u64, String> {
    let target = root().join("target/clean-build");
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(|e| format!("cannot remove {}: {e}", target.display()))?;
    }
    // Downloading is not building.
    command(&mut cargo(&["fetch", "--locked"]))?;
    let begin = Instant::now();
    command(cargo(&["build", "--release", "--locked", "--example", "mini-cluster"]).env("CARGO_TARGET_DIR", &target))?;
    let seconds = begin.elapsed().as_secs();
    std::fs::remove_dir_all(&target).map_err(|e| format!("cannot remove {}: {e}", target.display()))?;
    Ok(seconds)
}
