//! The threads behind the log: one makes segments before they are needed, one moves those that are full into the checkpoint.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use tokio::sync::oneshot;
use wharf_store_mvcc::Serving;

use crate::checkpoint::{Checkpoint, Meta};
use crate::disk::Mode;
use crate::error::{RedbFault, RedbOpenError, open_io};
use crate::folder::Folder;
use crate::log::record::entries;
use crate::log::{Entry, Names, Reader, Segment, StoredCommit};
use crate::writer::fail;

/// Full segments that may wait for the checkpoint; then commits wait.
pub(crate) const MAX_BACKLOG: usize = 8;
/// The ending of a snapshot that is being written.
const PARTIAL: &str = "partial";
/// About how many bytes of the log go into the checkpoint at once: a whole segment would be in memory, decoded, beside the objects.
const FOLD_BYTES: usize = 2 << 20;

/// What defragmentation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defragmented {
    /// Bytes of the database's file before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

/// What the keeper is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Job {
    /// Moves the frames of a segment before a sequence into the checkpoint.
    Fold {
        segment: Segment,
        upto: u64,
        closed: bool,
    },
    Snapshot(PathBuf, oneshot::Sender<Result<(), RedbOpenError>>),
    Defragment(oneshot::Sender<Result<Defragmented, RedbOpenError>>),
    Close(oneshot::Sender<Result<(), RedbOpenError>>),
}

#[derive(Debug)]
pub(crate) struct Keeper {
    /// Dropped before the folder: closing a database writes to it, and the folder must still be ours.
    pub(crate) checkpoint: Checkpoint,
    pub(crate) folder: Arc<Folder>,
    pub(crate) serving: Serving,
    pub(crate) meta: Meta,
    /// The store's handles are gone: what is left to do is done at the next opening.
    pub(crate) abandoned: Arc<AtomicBool>,
}

impl Keeper {
    pub(crate) fn run(mut self, backlog: Vec<(Segment, u64)>, jobs: &Receiver<Job>) {
        let backlog = backlog.into_iter().map(|(segment, upto)| Job::Fold { segment, upto, closed: true });
        for job in backlog.chain(jobs) {
            if self.abandoned.load(Ordering::Acquire) {
                return;
            }
            let done = match job {
                Job::Fold { segment, upto, closed } => self.fold(&segment, upto, closed),
                Job::Snapshot(path, reply) => {
                    // A copy that fails is no harm to the store.
                    let _ = reply.send(self.snapshot(&path));
                    Ok(())
                }
                Job::Defragment(reply) => match self.defragment() {
                    Ok(done) => {
                        let _ = reply.send(Ok(done));
                        Ok(())
                    }
                    Err(e) => {
                        let _ = reply.send(Err(RedbOpenError::Stopped { source: self.stop(e).stopped() }));
                        return;
                    }
                },
                Job::Close(reply) => {
                    let Self { folder, checkpoint, .. } = self;
                    let closed = checkpoint.close();
                    folder.give_back();
                    let _ = reply.send(closed);
                    return;
                }
            };
            if let Err(e) = done {
                self.stop(e);
                return;
            }
        }
    }

    fn stop(&self, error: RedbOpenError) -> RedbFault {
        let fault = RedbFault::checkpoint(error);
        tracing::error!(folder = %self.folder.path.display(), error = %fault, "the store has stopped");
        fail(&self.serving, &fault);
        fault
    }

    fn fold(&mut self, segment: &Segment, upto: u64, closed: bool) -> Result<(), RedbOpenError> {
        let (mut names, mut commits, mut bytes) = (Names::default(), Vec::new(), 0);
        let mut reader = Reader::new(segment);
        while let Some(frame) = reader.next().map_err(open_io("read", &segment.path))? {
            if frame.sequence >= upto {
                break;
            }
            if frame.sequence < self.meta.sequence {
                continue;
            }
            let Some(entries) = entries(frame.payload, &mut names) else {
                let detail = "the frame does not hold commits".to_owned();
                return Err(RedbOpenError::Corrupt { file: segment.path.clone(), offset: Some(frame.offset), detail });
            };
            bytes += frame.payload.len();
            commits.extend(entries.into_iter().filter_map(|entry| match entry {
                Entry::Commit(commit) => Some(commit),
                // What it forgot, the state has forgotten.
                Entry::Compact(_) => None,
            }));
            if bytes >= FOLD_BYTES {
                self.fold_commits(&commits, segment.number, frame.sequence + 1)?;
                (commits, bytes) = (Vec::new(), 0);
            }
        }
        self.fold_commits(&commits, if closed { segment.number + 1 } else { segment.number }, upto)?;
        if closed { self.folder.retire(segment) } else { Ok(()) }
    }

    /// Puts commits into the checkpoint, which then holds the log up to a frame.
    fn fold_commits(&mut self, commits: &[StoredCommit], segment: u64, sequence: u64) -> Result<(), RedbOpenError> {
        let revision = commits.last().map_or(self.meta.revision, |c| c.revision);
        // What history has already left need not come in; but not ahead of the commits that are here.
        let compacted = self.serving.read(|state| state.compacted()).min(revision).max(self.meta.compacted);
        let meta = Meta { revision, compacted, segment, sequence, ..self.meta };
        if meta != self.meta {
            self.checkpoint.fold(commits, meta)?;
            self.meta = meta;
        }
        Ok(())
    }

    fn snapshot(&self, path: &Path) -> Result<(), RedbOpenError> {
        let disk = &self.folder.disk;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".");
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let exists = |path: &Path| {
            let path = path.to_owned();
            move |e: io::Error| match e.kind() {
                io::ErrorKind::AlreadyExists => RedbOpenError::Exists { path },
                _ => open_io("create", &path)(e),
            }
        };
        if disk.open(path, Mode::Read).is_ok() {
            return Err(RedbOpenError::Exists { path: path.to_owned() });
        }
        let file = disk.open(&partial, Mode::Create).map_err(exists(&partial))?;
        let copied = self.checkpoint.copy_to(&partial, file.clone()).and_then(|()| {
            file.sync().map_err(open_io("sync", &partial))?;
            disk.rename_new(&partial, path).map_err(exists(path))
        });
        if let Err(e) = copied {
            // The first failure is the one to tell.
            let _ = disk.remove(&partial);
            return Err(e);
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_folder(parent).map_err(open_io("sync", parent))
    }

    fn defragment(&mut self) -> Result<Defragmented, RedbOpenError> {
        let before = self.checkpoint.size()?;
        self.checkpoint.compact()?;
        Ok(Defragmented { before, after: self.checkpoint.size()? })
    }
}

/// Makes segments one after another, each before it is asked for.
pub(crate) fn prepare(folder: &Folder, store: u64, after: u64, capacity: u64, ready: &SyncSender<Result<Segment, RedbFault>>) {
    for number in after + 1.. {
        let segment = folder.make_segment(store, number, capacity);
        let failed = segment.is_err();
        if ready.send(segment).is_err() || failed {
            return;
        }
    }
}
