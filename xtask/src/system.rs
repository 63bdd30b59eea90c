//! Programs and Debian packages.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program (or a file by its path) that the tests need, and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("iptables", "iptables"),
    ("kubectl", "kubernetes-client"),
    (PROTOC, "protobuf-compiler"),
    ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("ipvsadm", "ipvsadm"),
    ("ipset", "ipset"),
    ("/usr/share/doc/python3-venv", "python3-venv"),
];
/// The compiler that some members' dependencies run when they are built.
pub const PROTOC: &str = "protoc";
/// Said to packages of Debian: no run level in which a daemon is started, for the tests start their own.
const NO_DAEMONS: (&str, &str) = ("RUNLEVEL", "1");

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

/// Whether a program is in the usual folders, or a file at its path.
pub fn found(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.iter().any(|folder| Path::new(folder).join(program).exists())
}

fn needed() -> impl Iterator<Item = (&'static str, &'static str)> {
    NEEDED.iter().chain(crate::vm::NEEDED).copied()
}

/// The programs that are needed and not there.
pub fn missing() -> Vec<&'static str> {
    needed().map(|(program, _)| program).filter(|program| !found(program)).collect()
}

/// Installs what the tests need and is missing, with apt.
pub fn install() -> Result<(), String> {
    install_for(&needed().collect::<Vec<_>>())
}

/// Installs what of these is missing, with apt.
pub fn install_for(needed: &[(&str, &str)]) -> Result<(), String> {
    let packages: Vec<&str> = needed.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    if !found("apt-get") {
        return Err(format!("{} must be installed, and there is no apt-get here: install them by hand", packages.join(", ")));
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env(NO_DAEMONS.0, NO_DAEMONS.1).stdin(Stdio::null()))
    };
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-qy", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}
