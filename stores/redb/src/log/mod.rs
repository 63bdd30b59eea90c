//! The log: segment files of frames, each frame the commits of one write and one fdatasync.

pub(crate) mod record;
pub(crate) mod segment;

pub(crate) use record::{Entry, Names, StoredChange, StoredCommit};
pub(crate) use segment::{Reader, Segment};
