//! Commits that can still be watched and read back, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use wharf_core::store::{Change, Revision};

/// How much history is kept. Whichever is reached first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// Commits.
    pub(crate) commits: usize,
    /// Bytes of values.
    pub(crate) bytes: usize,
}

/// One commit, or the part of it that is about one resource.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) changes: Arc<[Change]>,
}

impl Commit {
    /// What it keeps in memory, near enough: values, old and new.
    pub(crate) fn bytes(&self) -> usize {
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
    pub(crate) fn after(&self, revision: Revision) -> Option<impl Iterator<Item = &Commit>> {
        if revision < self.forgotten {
            return None;
        }
        let start = self.commits.partition_point(|c| c.revision <= revision);
        Some(self.commits.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(revisions: &[u64]) -> Ring {
        let mut ring = Ring::default();
        for r in revisions {
            ring.push(Commit { revision: Revision(*r), changes: Arc::from([]) });
        }
        ring
    }

    fn after(ring: &Ring, revision: u64) -> Option<Vec<u64>> {
        ring.after(Revision(revision)).map(|commits| commits.map(|c| c.revision.0).collect())
    }

    #[test]
    fn after_is_exclusive_and_skips_no_gap() {
        let mut ring = ring(&[2, 5, 9]);
        assert_eq!(after(&ring, 0), Some(vec![2, 5, 9]));
        assert_eq!(after(&ring, 5), Some(vec![9]));
        assert_eq!(after(&ring, 9), Some(vec![]));
        ring.forget_oldest();
        assert_eq!(after(&ring, 1), None);
        assert_eq!(after(&ring, 2), Some(vec![5, 9]));
    }

    #[test]
    fn an_empty_ring_remembers_what_it_forgot() {
        let mut ring = ring(&[2]);
        ring.forget(Revision(3));
        assert_eq!(ring.len(), 1);
        ring.forget(Revision(2));
        assert_eq!(after(&ring, 1), None);
        assert_eq!(after(&ring, 2), Some(vec![]));
    }
}
