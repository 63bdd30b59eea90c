//! The example as it is run: over a folder, killed, and run again. This program is the example too, when it is told where to listen.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

#[path = "../examples/serve.rs"]
mod serve;

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libtest_mimic::{Arguments, Trial};
use wharf_core::testing::omit;

const LISTEN: &str = "--listen";

fn main() {
    if std::env::args().any(|argument| argument == LISTEN) {
        return serve::main().unwrap();
    }
    let story = || {
        keys_outlive_the_process_and_defragmentation_frees_the_folder();
        Ok(())
    };
    let trials = vec![Trial::test("keys_outlive_the_process_and_defragmentation_frees_the_folder", story)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The example's process; killed at the end.
struct Serve {
    child: Child,
    address: String,
}

impl Serve {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([LISTEN, "127.0.0.1:0", "--data"]).arg(data).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_suffix(';')).unwrap().to_owned();
        Self { child, address }
    }

    fn ctl(&self, words: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        let output = command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.address)).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Bytes of its files, as the status tells them.
    fn size(&self) -> u64 {
        let status = self.ctl(&["endpoint", "status", "-w", "json"]);
        let size = status.split_once(r#""dbSize":"#).unwrap().1;
        size[..size.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys_outlive_the_process_and_defragmentation_frees_the_folder() {
    if let Err(error) = Command::new("etcdctl").arg("version").output() {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        return omit("bridge.example", "etcdctl is missing: install Debian's etcd-client");
    }
    let folder = tempfile::tempdir().unwrap();
    let large = "x".repeat(100_000);
    let serve = Serve::start(folder.path());
    assert_eq!(serve.ctl(&["put", "a", "1"]), "OK");
    for _ in 0..40 {
        assert_eq!(serve.ctl(&["put", "b", &large]), "OK");
    }
    drop(serve);

    let serve = Serve::start(folder.path());
    assert_eq!(serve.ctl(&["get", "a"]), "a\n1");
    assert_eq!(serve.ctl(&["get", "a", "--rev=2"]), "a\n1");
    let database = || std::fs::metadata(folder.path().join("checkpoint.redb")).unwrap().len();
    // What the log has goes into the database first.
    assert!(serve.ctl(&["defrag"]).contains("Finished defragmenting etcd member"));
    let before = database();
    assert!(before > 40 * 100_000, "{before}");
    assert_eq!(serve.ctl(&["del", "b"]), "1");
    let revision = serve.ctl(&["get", "a", "-w", "fields"]);
    let revision = revision.lines().find_map(|line| line.strip_prefix(r#""Revision" : "#)).unwrap();
    serve.ctl(&["compact", revision]);
    serve.ctl(&["defrag"]);
    assert!(database() < before / 4, "{before} to {}", database());
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert_eq!(serve.size(), files.sum::<u64>());
    assert_eq!(serve.ctl(&["get", "", "--prefix"]), "a\n1");
}
