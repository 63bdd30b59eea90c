//! `cargo xtask bench`: the figures of the whole cluster, or of the stores.

use std::time::Instant;

use clap::ValueEnum;

use crate::system::{self, PROTOC, cargo, root, run as command};

/// What is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The whole cluster.
    #[default]
    Cluster,
    /// The stores, beside Debian's etcd on the same disk.
    Store,
}

/// What the stores are measured beside, and what building its client needs.
const ETCD: &[(&str, &str)] =
    &[("etcd", "etcd-server"), (PROTOC, "protobuf-compiler"), ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev")];

/// Builds what is needed, and measures.
pub fn run(target: Target, runs: usize, build: bool) -> Result<(), String> {
    match target {
        Target::Cluster => cluster(runs, build),
        Target::Store if build => Err("--build is for the cluster".into()),
        Target::Store => store(runs),
    }
}

fn store(runs: usize) -> Result<(), String> {
    if system::is_root() {
        system::install_for(ETCD)?;
    }
    let mut bench = cargo(&["run", "--release", "--locked", "--package", "wharf-e2e", "--bin", "wharf-bench-store"]);
    if ETCD.iter().all(|(program, _)| system::found(program)) {
        bench.args(["--features", "etcd"]);
    } else {
        let packages: Vec<&str> = ETCD.iter().map(|(_, package)| *package).collect();
        println!("omitted: etcd's figures need {}", packages.join(", "));
    }
    command(bench.args(["--", "--runs", &runs.to_string()]))
}

/// Builds the benchmark and the mini-cluster, and runs one over the other.
fn cluster(runs: usize, build: bool) -> Result<(), String> {
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
