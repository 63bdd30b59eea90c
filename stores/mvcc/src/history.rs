//! Commits that can still be watched and read back, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use wharf_core::store::{Change, Revision};

/// Commits of history kept unless told otherwise.
pub const DEFAULT_HISTORY: usize = 16_384;
/// Bytes of values that history may hold, old and new together, unless told otherwise.
pub const DEFAULT_HISTORY_BYTES: usize = 64 << 20;

/// How much history is kept. Whichever is reached first; the newest commit is kept whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryBound {
    /// Commits; at least 1.
    pub commits: usize,
    /// Bytes of values, old and new together.
    pub bytes: usize,
}

impl Default for HistoryBound {
    fn default() -> Self {
        Self { commits: DEFAULT_HISTORY, bytes: DEFAULT_HISTORY_BYTES }
    }
}

/// What a transaction changes, or the part of it that is about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its revision.
    pub revision: Revision,
    /// Its changes with what they replace; at least one.
    pub changes: Arc<[Change]>,
}

impl Commit {
    /// Bytes of values that it keeps in memory, old and new together.
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(bytes_of).sum()
    }
}

fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Put { record, previous } => record.value.len() + previous.as_ref().map_or(0, |p| p.value.len()),
        Change::Delete { previous } => previous.value.len(),
    }
}

/// Commits in order of revision, without the oldest.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    commits: VecDeque<Commit>,
    /// The newest commit that has been forgotten; 0 for none.
    forgotten: Revision,
}

impl Ring {
    /// An empty one that has forgotten everything up to a revision.
    pub(crate) fn forgotten(forgotten: Revision) -> Self {
        Self { commits: VecDeque::new(), forgotten }
    }

    pub(crate) fn push(&mut self, commit: Commit) {
        self.commits.push_back(commit);
    }

    pub(crate) fn len(&self) -> usize {
        self.commits.len()
    }

    pub(crate) fn oldest(&self) -> Option<&Commit> {
        self.commits.front()
    }

    /// Forgets the oldest commit.
    pub(crate) fn forget_oldest(&mut self) -> Option<Commit> {
        let commit = self.commits.pop_front()?;
        self.forgotten = commit.revision;
        Some(commit)
    }

    /// Forgets the oldest commit if it is this one.
    pub(crate) fn forget(&mut self, revision: Revision) {
        if self.oldest().is_some_and(|c| c.revision == revision) {
            self.forget_oldest();
        }
    }

    /// The commits after a revision, or `None` if one of those is forgotten.
    pub(crate) fn after(&self, revision: Revision) -> Option<std::collections::vec_deque::Iter<'_, Commit>> {
        if revision < self.forgotten {
            return None;
        }
        // Most ask for the newest few: walk back to them before searching.
        let newest = self.commits.iter().rev().take(NEAR).take_while(|c| c.revision > revision).count();
        let start = match newest {
            NEAR => self.commits.partition_point(|c| c.revision <= revision),
            _ => self.commits.len() - newest,
        };
        Some(self.commits.range(start..))
    }
}

/// How far back from the newest commit a reader is looked for by walking.
const NEAR: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(revisions: impl IntoIterator<Item = u64>) -> Ring {
        let mut ring = Ring::default();
        for r in revisions {
            ring.push(Commit { revision: Revision(r), changes: Arc::from([]) });
        }
        ring
    }

    fn after(ring: &Ring, revision: u64) -> Option<Vec<u64>> {
        ring.after(Revision(revision)).map(|commits| commits.map(|c| c.revision.0).collect())
    }

    #[test]
    fn after_is_exclusive_and_skips_no_gap() {
        let mut ring = ring([2, 5, 9]);
        assert_eq!(after(&ring, 0), Some(vec![2, 5, 9]));
        assert_eq!(after(&ring, 5), Some(vec![9]));
        assert_eq!(after(&ring, 9), Some(vec![]));
        ring.forget_oldest();
        assert_eq!(after(&ring, 1), None);
        assert_eq!(after(&ring, 2), Some(vec![5, 9]));
    }

    #[test]
    fn what_is_near_and_what_is_far_is_found_alike() {
        let ring = ring((1..=20).map(|n| n * 10));
        for revision in 0..=210 {
            let expected: Vec<u64> = (1..=20).map(|n| n * 10).filter(|r| *r > revision).collect();
            assert_eq!(after(&ring, revision), Some(expected), "after {revision}");
        }
    }

    #[test]
    fn an_empty_ring_remembers_what_it_forgot() {
        let mut ring = ring([2]);
        ring.forget(Revision(3));
        assert_eq!(ring.len(), 1);
        ring.forget(Revision(2));
        assert_eq!(after(&ring, 1), None);
        assert_eq!(after(&ring, 2), Some(vec![]));
    }
}
