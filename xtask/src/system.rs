//! Programs and Debian packages.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program that the tests need, and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[("iptables", "iptables"), ("kubectl", "kubernetes-client")];

/// Runs a command to its end, its output shown.
pub fn run(command: &mut Command) -> Result<(), String> {
    let text = format!("{command:?}");
    println!("+ {text}");
    let status = command.status().map_err(|e| format!("cannot run {text}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{text} ended with {status}")) }
}

/// `cargo` with arguments, in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Whether this is root.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t")))
}

fn found(program: &str) -> bool {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.iter().any(|folder| Path::new(folder).join(program).exists())
}

/// The programs that are needed and not there.
pub fn missing() -> Vec<&'static str> {
    NEEDED.iter().filter(|(program, _)| !found(program)).map(|(program, _)| *program).collect()
}

/// Installs what is missing, with apt.
pub fn install() -> Result<(), String> {
    let packages: Vec<&str> = NEEDED.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    if !found("apt-get") {
        return Err(format!("{} must be installed, and there is no apt-get here: install them by hand", packages.join(", ")));
    }
    let apt =
        |arguments: &[&str]| run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()));
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-qy", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}
