//! `cargo xtask bench`: the figures of the whole cluster, of the stores, or of any API server.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};

use crate::system::{self, PROTOC, cargo, root, run as command};

/// What is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The whole cluster.
    #[default]
    Cluster,
    /// The stores, beside Debian's etcd on the same disk.
    Store,
    /// An API server over TLS: ours on the durable store, or any other.
    Api,
}

/// What only the benchmark of an API server is told.
#[derive(Debug, Default, Args)]
pub struct Api {
    /// With `api`: the server to measure, instead of one of ours; given twice, the second is what the first is compared with.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Vec<PathBuf>,
    /// With `api`: the process of each kubeconfig's server, where it is on this machine: for figures of memory.
    #[arg(long)]
    pid: Vec<u32>,
    /// With `api`: build for load (`--profile fast`) instead of for size.
    #[arg(long)]
    fast: bool,
    /// With `api`: more for `wharf-bench-api`, after `--`; `-- --help` tells what.
    #[arg(last = true, value_name = "OPTIONS")]
    more: Vec<String>,
}

/// What the stores are measured beside, and what building its client needs.
const ETCD: &[(&str, &str)] =
    &[("etcd", "etcd-server"), (PROTOC, "protobuf-compiler"), ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev")];

/// Builds what is needed, and measures.
pub fn run(target: Target, runs: usize, build: bool, api: &Api) -> Result<(), String> {
    if target != Target::Api && (!api.kubeconfig.is_empty() || !api.pid.is_empty() || api.fast || !api.more.is_empty()) {
        return Err("--kubeconfig, --pid, --fast and what follows `--` are for `bench api`".into());
    }
    match target {
        Target::Cluster => cluster(runs, build),
        _ if build => Err("--build is for the cluster".into()),
        Target::Store => store(runs),
        Target::Api => api_server(runs, api),
    }
}

fn api_server(runs: usize, api: &Api) -> Result<(), String> {
    let profile = if api.fast { "fast" } else { "release" };
    let mut bench = cargo(&["run", "--profile", profile, "--locked", "--package", "wharf-e2e", "--bin", "wharf-bench-api", "--"]);
    bench.args(["--runs", &runs.to_string()]);
    for path in &api.kubeconfig {
        bench.arg("--kubeconfig").arg(std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    for pid in &api.pid {
        bench.args(["--pid", &pid.to_string()]);
    }
    command(bench.args(&api.more))
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
