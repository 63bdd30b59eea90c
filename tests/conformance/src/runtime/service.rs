//! The runtime as a whole.

use super::bench::*;
use crate::{CaseResult, ensure};

pub(super) async fn version(b: &Bench<'_>) -> CaseResult {
    let version = ok(b.runtime().version().await, "version")?;
    ensure!(!version.runtime_name.is_empty(), "the runtime has no name");
    ensure!(!version.runtime_version.is_empty(), "the runtime has no version");
    Ok(())
}

pub(super) async fn ready(b: &Bench<'_>) -> CaseResult {
    let status = ok(b.runtime().status().await, "status")?;
    for condition in ["RuntimeReady", "NetworkReady"] {
        ensure!(status.conditions.iter().any(|c| c.r#type == condition), "condition {condition} is not reported");
    }
    ensure!(status.is_ready(), "the runtime is not ready: {:?}", status.conditions);
    Ok(())
}
