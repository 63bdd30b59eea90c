//! The runtime kit over the runtime that only pretends. Its scripts stand in for the test image.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wharf_conformance::runtime::RuntimeHarness;
use wharf_conformance::{Harness, runtime_suite};
use wharf_core::runtime::{ContainerConfig, SharedRuntime};
use wharf_runtime_hollow::{HollowRuntime, Script};

struct Hollow;

fn script(config: &ContainerConfig) -> Script {
    let words: Vec<&str> = config.command.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => Script::Exit { after: Duration::ZERO, code: code.parse().unwrap_or(0) },
        ["missing"] => Script::FailStart { message: "exec: \"missing\": executable file not found in $PATH".into() },
        _ => Script::Run,
    }
}

impl Harness for Hollow {}

#[async_trait]
impl RuntimeHarness for Hollow {
    async fn runtime(&self) -> SharedRuntime {
        Arc::new(HollowRuntime::builder().script(script).build())
    }
    fn image(&self) -> String {
        "wharf.local/hollow:v1".into()
    }
    fn missing_image(&self) -> Option<String> {
        Some("wharf.local/does-not-exist:v1".into())
    }
    fn sleep(&self) -> Vec<String> {
        vec!["sleep".into()]
    }
    fn exit(&self, code: i32) -> Option<Vec<String>> {
        Some(vec!["exit".into(), code.to_string()])
    }
    fn missing(&self) -> Option<Vec<String>> {
        Some(vec!["missing".into()])
    }
}

runtime_suite!(Hollow);
