//! `cargo xtask fuzz`: gives the targets of `tests/fuzz` to libFuzzer, with the stable compiler.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::system::{cargo, install_for, is_root, root, run as command};

/// libFuzzer is C++.
const NEEDED: &[(&str, &str)] = &[("g++", "g++")];
/// What makes a program tell which paths an input takes; all of them flags of the stable compiler.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
/// Longest input, in bytes.
const LONGEST: u32 = 64 << 10;
/// Longest that an input may take, in seconds.
const SLOWEST: u32 = 20;
/// Most memory of a program, in MiB.
const MEMORY: u32 = 3072;

fn folder() -> PathBuf {
    root().join("target").join("fuzz")
}

/// Every target there is, which is a file in the folder of programs.
pub fn targets() -> Result<Vec<String>, String> {
    let programs = root().join("fuzz/src/bin");
    let entries = fs::read_dir(&programs).map_err(|e| format!("cannot read {}: {e}", programs.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// Runs these targets, or all, each for so many minutes. What was found stays, and the next run begins with it.
pub fn run(chosen: &[String], minutes: u32) -> Result<(), String> {
    let known = targets()?;
    if let Some(unknown) = chosen.iter().find(|name| !known.contains(name)) {
        return Err(format!("there is no target {unknown}, only {}", known.join(", ")));
    }
    if is_root() {
        install_for(NEEDED)?;
    }
    let (flags, host) = (COVERAGE, host()?);
    // With a target named, the flags are not those of build scripts.
    let build = ["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target", &host, "--target-dir"];
    command(cargo(&build).arg(folder()).env("RUSTFLAGS", flags))?;
    let programs = folder().join(host).join("release");
    let mut failed = Vec::new();
    for name in if chosen.is_empty() { &known } else { chosen } {
        let (corpus, words, failures) = (folder().join("corpus").join(name), folder().join("words"), folder().join("failures").join(name));
        fs::create_dir_all(&failures).map_err(|e| format!("cannot make {}: {e}", failures.display()))?;
        command(
            cargo(&["run", "--quiet", "--locked", "--package", "wharf-fuzz", "--example", "seeds", "--", name]).arg(&corpus).arg(&words),
        )?;
        let mut fuzz = Command::new(programs.join(name));
        fuzz.arg(&corpus).arg(format!("-dict={}", words.display())).arg(format!("-artifact_prefix={}/", failures.display()));
        fuzz.args([format!("-max_total_time={}", minutes * 60), format!("-max_len={LONGEST}"), format!("-timeout={SLOWEST}")]);
        fuzz.args([format!("-rss_limit_mb={MEMORY}"), "-print_final_stats=1".into(), "-verbosity=1".into()]);
        if let Err(error) = command(fuzz.current_dir(root())) {
            println!("{error}; the input is in {}", failures.display());
            failed.push(name.as_str());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("inputs were found on which {} fail", failed.join(", "))) }
}

/// The machine's own target, in rustc's words.
fn host() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|e| format!("cannot run rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).ok_or_else(|| "rustc does not tell its host".into())
}
