//! The runtime kit over [`ProcessRuntime`]: one test for each promise of the trait.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_conformance::runtime::RuntimeHarness;
use wharf_conformance::{Harness, runtime_suite};
use wharf_core::clock::SystemClock;
use wharf_core::runtime::SharedRuntime;

use crate::process_runtime::ProcessRuntime;

struct Processes;

impl Harness for Processes {}

fn shell(script: &str, args: &[&str]) -> Vec<String> {
    ["/bin/sh", "-c", script, "sh"].iter().chain(args).map(ToString::to_string).collect()
}

#[async_trait]
impl RuntimeHarness for Processes {
    async fn runtime(&self) -> SharedRuntime {
        Arc::new(ProcessRuntime::new(SystemClock::shared()))
    }
    fn image(&self) -> String {
        "none".into()
    }
    fn pod_network(&self) -> bool {
        false
    }
    fn sleep(&self) -> Vec<String> {
        vec!["sleep".into(), "1000".into()]
    }
    fn ignore_sigterm(&self) -> Option<Vec<String>> {
        Some(shell("trap '' TERM; echo ready; while :; do sleep 1; done", &[]))
    }
    fn ignore_sigterm_prints(&self) -> bool {
        true
    }
    fn exit(&self, code: i32) -> Option<Vec<String>> {
        Some(shell("exit $1", &[&code.to_string()]))
    }
    fn print(&self, stdout: &str, stderr: &str) -> Option<Vec<String>> {
        Some(shell("echo \"$1\"; echo \"$2\" >&2", &[stdout, stderr]))
    }
    fn missing(&self) -> Option<Vec<String>> {
        Some(vec!["/no/such/program".into()])
    }
}

runtime_suite!(Processes);
