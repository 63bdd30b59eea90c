//! Log files, in CRI format: `RFC3339Nano stream tag text`.

use std::path::Path;

use jiff::Timestamp;

use super::bench::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail, skip};

/// Stream and text of each record; fails on what is not CRI.
fn records(path: &Path) -> CaseResult<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).map_err(|e| Stop::Fail(format!("cannot read {}: {e}", path.display())))?;
    ensure!(text.is_empty() || text.ends_with('\n'), "the log does not end with a line: {text:?}");
    let mut records = Vec::new();
    let mut last = Timestamp::MIN;
    for line in text.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        let [time, stream, tag, text] = fields[..] else { return fail(format!("not a CRI record: {line:?}")) };
        let Ok(time) = time.parse::<Timestamp>() else { return fail(format!("not an RFC3339 time: {line:?}")) };
        ensure!(time >= last, "log records go back in time: {line:?}");
        ensure!(matches!(stream, "stdout" | "stderr"), "not a stream: {line:?}");
        ensure!(matches!(tag, "F" | "P"), "not a tag: {line:?}");
        last = time;
        records.push((stream.to_string(), text.to_string()));
    }
    Ok(records)
}

pub(super) async fn format(b: &Bench<'_>) -> CaseResult {
    let command = b.need(b.harness.print("to  stdout", "to stderr"), "prints")?;
    let sandbox = b.sandbox().await?;
    let id = b.started(&sandbox, "a", command).await?;
    let status = b.exited(&id).await?;
    ensure_eq!(status.exit_code, 0, "the exit code of a command that prints");
    // Once it has exited, all its output is there.
    let mut records = records(&status.log_path)?;
    records.sort();
    let expected = [("stderr", "to stderr"), ("stdout", "to  stdout")].map(|(s, t)| (s.to_string(), t.to_string()));
    ensure_eq!(records, expected, "the log");
    Ok(())
}

pub(super) async fn path(b: &Bench<'_>) -> CaseResult {
    if !b.runtime().capabilities().processes {
        return skip("processes are not declared");
    }
    let sandbox = b.sandbox().await?;
    let mut config = b.container("a", b.harness.sleep());
    // As the node agent names them: a folder a container, a file an attempt.
    config.log_path = "a/0.log".into();
    let id = b.create(&sandbox, &config).await?;
    b.start(&id).await?;
    let path = sandbox.0.log_directory.join("a/0.log");
    ensure!(path.is_file(), "a running container has no log at {}", path.display());
    Ok(())
}

pub(super) async fn reopen(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let path = b.status(&id).await?.log_path;
    if !b.runtime().capabilities().processes {
        return ok(b.runtime().reopen_container_log(&id).await, "reopen_container_log");
    }
    let rotated = path.with_extension("rotated");
    if let Err(e) = std::fs::rename(&path, &rotated) {
        return fail(format!("cannot rename the log of a running container: {e}"));
    }
    ok(b.runtime().reopen_container_log(&id).await, "reopen_container_log")?;
    ensure!(path.is_file(), "after reopening there is no log at {}", path.display());
    ensure!(rotated.is_file(), "reopening took away the rotated log");
    Ok(())
}

pub(super) async fn reopen_unknown(b: &Bench<'_>) -> CaseResult {
    not_found(b.runtime().reopen_container_log(UNKNOWN).await, "reopen_container_log")
}
