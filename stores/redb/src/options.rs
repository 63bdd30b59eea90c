//! How a store is kept.

use std::time::Duration;

use wharf_store_mvcc::HistoryBound;

/// Bytes of a segment of the log, unless the options say otherwise.
pub const DEFAULT_SEGMENT_BYTES: u64 = 32 << 20;
/// The first segment of a log, which opening has to wait for; the next is made beside it.
pub(crate) const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// Smallest segment.
pub(crate) const MIN_SEGMENT_BYTES: u64 = 4 << 10;
/// How long history is kept at most, unless the options say otherwise.
pub const DEFAULT_HISTORY_AGE: Duration = Duration::from_secs(600);
/// Memory that redb may use for its pages. What is read is read once, at opening.
pub(crate) const CACHE_BYTES: usize = 4 << 20;

/// How a [`RedbStore`](crate::RedbStore) is kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedbOptions {
    /// Commits of history that are kept at most; 16,384 by default.
    pub history: usize,
    /// Bytes of values, old and new together, that history holds at most; 64 MiB by default.
    pub history_bytes: usize,
    /// History older than this is forgotten, some time later; `None` keeps it up to the other bounds. 10 minutes by default.
    pub history_age: Option<Duration>,
    /// Size of a segment of the log, in bytes; 32 MiB by default. Opening replays a few of them at most. The first after an opening that
    /// found nothing to replay has at most 1 MiB.
    pub segment_bytes: u64,
}

impl Default for RedbOptions {
    fn default() -> Self {
        let bound = HistoryBound::default();
        Self {
            history: bound.commits,
            history_bytes: bound.bytes,
            history_age: Some(DEFAULT_HISTORY_AGE),
            segment_bytes: DEFAULT_SEGMENT_BYTES,
        }
    }
}

impl RedbOptions {
    /// At most this many commits of history; at least 1.
    pub fn history(self, commits: usize) -> Self {
        Self { history: commits.max(1), ..self }
    }
    /// At most this many bytes of values in history. The newest commit is kept whatever its size.
    pub fn history_bytes(self, bytes: usize) -> Self {
        Self { history_bytes: bytes, ..self }
    }
    /// History at most this old, or of any age.
    pub fn history_age(self, age: Option<Duration>) -> Self {
        Self { history_age: age, ..self }
    }
    /// Segments of this many bytes; at least 4 KiB.
    pub fn segment_bytes(self, bytes: u64) -> Self {
        Self { segment_bytes: bytes.max(MIN_SEGMENT_BYTES), ..self }
    }
    pub(crate) fn bound(&self) -> HistoryBound {
        HistoryBound { commits: self.history.max(1), bytes: self.history_bytes }
    }
}
