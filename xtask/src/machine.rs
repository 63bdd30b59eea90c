//! The stage of `cargo xtask test` that runs in the virtual machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::system::cargo;
use crate::test::example_features;
use crate::vm::{Machine, quote, unavailable};

/// A program to run in the machine.
#[derive(Debug, Clone, Copy)]
enum Program {
    /// An integration test of a package, `*` for all that it has.
    Test(&'static str, &'static str),
    /// The release build of the facade's example, with arguments.
    Example(&'static str, &'static [&'static str]),
}

/// What runs there, in this order, in one boot.
const PROGRAMS: [Program; 3] = [
    Program::Test("wharf-proxy-ipvs", "*"),
    Program::Test("wharf-runtime-youki", "containers"),
    Program::Example("mini-cluster", &["--smoke", "--smoke-drain", "15", "--proxy", "ipvs"]),
];

/// What the programs find in their environment: nothing may be left out there.
const REQUIRED: [&str; 2] = ["WHARF_REQUIRE_SYSTEM", "WHARF_REQUIRE_IPVS"];
/// The longest that one program may take; emulated, each takes a tenth of it.
const PROGRAM_LIMIT: Duration = Duration::from_secs(400);
/// The longest that all may take, with the boot.
const LIMIT: Duration = Duration::from_secs(1200);

/// A program's name and its line for the shell.
type Line = (String, String);

/// Builds and runs them; without what that needs it prints an omission. `whole` is whether nothing may be left out.
pub fn run(exclude: &[&str], whole: bool) -> Result<(), String> {
    if let Some(why) = unavailable() {
        if whole {
            return Err(why);
        }
        println!("omitted: virtual machine: {why}");
        return Ok(());
    }
    let lines = build(exclude)?;
    let machine = Machine { timeout: LIMIT, env: REQUIRED.map(|name| (name.to_string(), "1".to_string())).into(), ..Machine::default() };
    let mut count = Count::default();
    let code = machine.run(&["/bin/sh".into(), "-c".into(), script(&lines)], &mut |line| count.add(line))?;
    println!("virtual machine: {} programs: {} passed, {} failed", lines.len(), count.passed, count.failed);
    match code {
        0 if count.failed == 0 => Ok(()),
        _ => Err(format!("something failed in the virtual machine, which ended with status {code}")),
    }
}

/// One after the other, each with its limit; the status is that of the last that failed.
fn script(lines: &[Line]) -> String {
    let mut text = String::from("code=0\n");
    for (name, line) in lines {
        let name = quote(&format!("virtual machine: {name}"));
        text += &format!("echo {name}\nbegin=$(date +%s)\ntimeout -k 10 {} {line}\nlast=$?\n", PROGRAM_LIMIT.as_secs());
        text += &format!("echo {name} ended with status $last after $(($(date +%s) - begin)) s\n[ $last -eq 0 ] || code=$last\n");
    }
    text + "exit $code\n"
}

/// Tests that have passed and failed, by what the test runners print at their end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// Takes `... 3 passed ... 0 failed ...` into account.
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().map(|w| w.trim_matches(|c: char| !c.is_alphanumeric())).collect();
        let number = |word: &str| words.windows(2).find(|w| w[1] == word).and_then(|w| w[0].parse::<u64>().ok());
        if let (Some(passed), Some(failed)) = (number("passed"), number("failed")) {
            self.passed += passed;
            self.failed += failed;
        }
    }
}

/// An executable that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct Built {
    package: String,
    target: String,
    test: bool,
    path: PathBuf,
}

fn build(exclude: &[&str]) -> Result<Vec<Line>, String> {
    let metadata = json(&mut cargo(&["metadata", "--no-deps", "--format-version=1", "--locked"]))?;
    let all: Vec<(String, String)> = metadata.iter().flat_map(tests).collect();
    let wanted = |package: &str, target: &str| {
        PROGRAMS.iter().any(|p| matches!(p, Program::Test(p, t) if *p == package && (*t == "*" || *t == target)))
    };
    // With the whole workspace chosen, features are those of the other stages, and nothing is built twice.
    let mut tests = cargo(&["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics", "--locked"]);
    for package in exclude {
        tests.args(["--exclude", package]);
    }
    for (_, target) in all.iter().filter(|(package, target)| wanted(package, target)) {
        tests.args(["--test", target]);
    }
    let mut built: Vec<Built> = json(&mut tests)?.iter().filter_map(executable).collect();
    let mut examples = cargo(&["build", "--release", "--message-format=json-render-diagnostics", "--locked"]);
    examples.args(example_features());
    for program in PROGRAMS {
        if let Program::Example(name, _) = program {
            examples.args(["--example", name]);
        }
    }
    built.extend(json(&mut examples)?.iter().filter_map(executable));
    Ok(PROGRAMS.iter().flat_map(|program| lines(program, &built)).collect())
}

fn lines(program: &Program, built: &[Built]) -> Vec<Line> {
    let found = |test: bool, package: &str, target: &str| -> Vec<&Built> {
        let named = |b: &&Built| b.test == test && b.package == package && (target == "*" || b.target == target);
        built.iter().filter(named).collect()
    };
    let line = |built: &Built, arguments: &[&str]| {
        let command = std::iter::once(quote(&built.path.display().to_string())).chain(arguments.iter().map(|w| quote(w)));
        (format!("{} {}", built.package, built.target), command.collect::<Vec<_>>().join(" "))
    };
    match program {
        Program::Test(package, target) => {
            let tests = found(true, package, target);
            if tests.is_empty() {
                println!("omitted: virtual machine: {package} has no integration test yet");
            }
            tests.into_iter().map(|b| line(b, &["--test-threads=2"])).collect()
        }
        Program::Example(name, arguments) => found(false, "wharf", name).into_iter().map(|b| line(b, arguments)).collect(),
    }
}

/// Packages and their integration tests, of what `cargo metadata` prints.
fn tests(metadata: &serde_json::Value) -> Vec<(String, String)> {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            if target["kind"][0] == "test"
                && let (Some(package), Some(target)) = (package["name"].as_str(), target["name"].as_str())
            {
                found.push((package.to_string(), target.to_string()));
            }
        }
    }
    found
}

/// An executable, of a line that `cargo test` or `cargo build` prints.
fn executable(message: &serde_json::Value) -> Option<Built> {
    let path = message["executable"].as_str()?.into();
    let target = message["target"]["name"].as_str()?.to_string();
    let package = package_name(message["package_id"].as_str()?)?.to_string();
    Some(Built { package, target, test: message["profile"]["test"].as_bool()?, path })
}

/// The identity ends with `#name@version`, or with `/name#version` if the folder has the package's name.
fn package_name(identity: &str) -> Option<&str> {
    let (url, fragment) = identity.rsplit_once('#')?;
    fragment.split_once('@').map(|(name, _)| name).or_else(|| url.rsplit('/').next())
}

/// Runs a command that prints a JSON value a line.
fn json(command: &mut Command) -> Result<Vec<serde_json::Value>, String> {
    println!("+ {command:?}");
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}", output.status));
    }
    Ok(output.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_known_by_their_identity() {
        assert_eq!(package_name("path+file:///w/tests/conformance#wharf-conformance@0.1.0"), Some("wharf-conformance"));
        assert_eq!(package_name("path+file:///src/wharf#0.1.0"), Some("wharf"));
    }

    #[test]
    fn what_the_test_runners_say_is_counted() {
        let mut count = Count::default();
        count.add("test result: FAILED. 27 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2s\n");
        count.add("21 passed, 0 failed, 2 skipped\n");
        count.add("test passed ... ok\n");
        assert_eq!(count, Count { passed: 48, failed: 1 });
    }

    #[test]
    fn a_failure_is_not_forgotten_by_what_comes_after() {
        let lines = [("a".to_string(), "sh -c 'exit 3'".to_string()), ("b".to_string(), "true".to_string())];
        let output = Command::new("sh").arg("-c").arg(script(&lines)).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stdout).contains("virtual machine: b ended with status 0"));
    }
}
