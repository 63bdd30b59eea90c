//! Container logs in CRI format: reading, following, rotating.

mod parse;
mod read;
pub(crate) mod rotate;

use std::path::Path;

pub(crate) use read::{Source, stream};

/// The last lines of a log as bytes, without times.
pub(crate) async fn tail(path: &Path, lines: u64, bytes: u64) -> Vec<u8> {
    match read::tail(path, lines).await {
        Ok(mut out) => {
            let from = out.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
            out.split_off(from)
        }
        Err(error) => {
            tracing::debug!("{}: {error}", path.display());
            Vec::new()
        }
    }
}

/// Removes a log and its rotated parts.
pub(crate) async fn remove(path: &Path) {
    for part in rotate::parts(path).into_iter().chain([path.to_path_buf()]) {
        match tokio::fs::remove_file(&part).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => tracing::debug!("{}: {error}", part.display()),
            _ => {}
        }
    }
}
