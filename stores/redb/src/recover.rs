//! Opening: the checkpoint, then what the log says after it. Nothing is changed before all of it has been read and found good.

use std::path::Path;
use std::sync::Arc;

use wharf_core::store::Revision;
use wharf_store_mvcc::{Commit, State};

use crate::checkpoint::{Checkpoint, Contents, Meta};
use crate::disk::{Disk, Mode};
use crate::error::{RedbFault, RedbOpenError, open_io};
use crate::folder::{Folder, NEW_CHECKPOINT};
use crate::log::record::entries;
use crate::log::segment::HEADER;
use crate::log::{Entry, Names, Reader, Segment, StoredCommit};
use crate::options::{FIRST_SEGMENT_BYTES, RedbOptions};

/// Where the next frame goes.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: Segment,
    pub(crate) end: u64,
    pub(crate) sequence: u64,
}

/// What opening found.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Dropped before the folder.
    pub(crate) checkpoint: Checkpoint,
    pub(crate) folder: Folder,
    pub(crate) meta: Meta,
    pub(crate) state: State,
    pub(crate) tail: Tail,
    /// Segments before the tail, with the first sequence after each.
    pub(crate) closed: Vec<(Segment, u64)>,
}

pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path, options: &RedbOptions) -> Result<Opened, RedbOpenError> {
    let folder = Folder::take(disk, path)?;
    let (there, numbers) = folder.names()?;
    if !there {
        if !numbers.is_empty() {
            return Err(RedbOpenError::Missing { file: folder.checkpoint() });
        }
        create(&folder, |path, file| Checkpoint::create(path, file, Meta::new(rand::random()))?.close())?;
    }
    let path = folder.checkpoint();
    let file = folder.disk.open(&path, Mode::Write).map_err(open_io("open", &path))?;
    let checkpoint = Checkpoint::open(&path, file)?;
    let mut names = Names::default();
    let contents = checkpoint.load(&mut names)?;
    let mut meta = contents.meta;
    let mut state = restore(&path, contents, options)?;
    let log = if meta.segment == 0 { None } else { Some(replay(&folder, meta, &numbers, &mut state, &mut names)?) };

    // All is good; from here on the folder changes.
    checkpoint.release()?;
    folder.clean()?;
    let (tail, closed) = match log {
        Some(log) => log,
        None => {
            for number in &numbers {
                folder.remove(&folder.segment(*number))?;
            }
            let first = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
            let segment = folder.make_segment(meta.store, 1, first).map_err(|e| opening(&path, e))?;
            meta.segment = 1;
            checkpoint.set_meta(meta)?;
            (Tail { segment, end: HEADER, sequence: meta.sequence }, Vec::new())
        }
    };
    for number in numbers.iter().filter(|n| **n < meta.segment || **n > tail.segment.number) {
        folder.remove(&folder.segment(*number))?;
    }
    settle(&tail)?;
    folder.sync()?;
    Ok(Opened { folder, checkpoint, meta, state, tail, closed })
}

/// Puts a new checkpoint into a folder that has none.
pub(crate) fn create(
    folder: &Folder,
    make: impl FnOnce(&Path, Arc<dyn crate::disk::DiskFile>) -> Result<(), RedbOpenError>,
) -> Result<(), RedbOpenError> {
    folder.clean()?;
    let (new, path) = (folder.path.join(NEW_CHECKPOINT), folder.checkpoint());
    let file = folder.disk.open(&new, Mode::Create).map_err(open_io("create", &new))?;
    make(&new, file.clone())?;
    file.sync().map_err(open_io("sync", &new))?;
    folder.disk.rename(&new, &path).map_err(open_io("rename", &new))?;
    folder.sync()
}

fn opening(path: &Path, fault: RedbFault) -> RedbOpenError {
    match fault {
        RedbFault::Full { path } => RedbOpenError::Full { path, source: std::io::ErrorKind::StorageFull.into() },
        RedbFault::Write { path, source } | RedbFault::Sync { path, source } => {
            open_io("make", &path)(std::io::Error::new(source.kind(), source.to_string()))
        }
        fault => RedbOpenError::Database { file: path.to_owned(), source: Box::new(fault) },
    }
}

pub(crate) fn restore(path: &Path, contents: Contents, options: &RedbOptions) -> Result<State, RedbOpenError> {
    let Contents { meta, records, commits } = contents;
    State::restore(options.bound(), meta.revision, meta.compacted, records, commits).map_err(|e| RedbOpenError::Corrupt {
        file: path.to_owned(),
        offset: None,
        detail: e.to_string(),
    })
}

type Log = (Tail, Vec<(Segment, u64)>);

/// Reads the log's frames into the state. The log ends with the last valid frame; whatever is behind it was never acknowledged, unless
/// a valid frame comes later.
fn replay(folder: &Folder, meta: Meta, numbers: &[u64], state: &mut State, names: &mut Names) -> Result<Log, RedbOpenError> {
    let needed: Vec<u64> = numbers.iter().copied().filter(|n| *n >= meta.segment).collect();
    for (number, expected) in needed.iter().chain([&u64::MAX]).zip(meta.segment..) {
        if *number != expected && (expected == meta.segment || *number != u64::MAX) {
            return Err(RedbOpenError::Missing { file: folder.segment(expected) });
        }
    }
    let corrupt = |segment: &Segment, offset, detail: String| {
        Err(RedbOpenError::Corrupt { file: segment.path.clone(), offset: Some(offset), detail })
    };
    let mut read: Vec<Tail> = Vec::new();
    // The frame that comes next, once one has been seen.
    let mut next: Option<u64> = None;
    // The tail is the last of these that has a frame.
    let mut last = 0;
    // Where the last frame is, if it is a mark.
    let mut mark = None;
    for number in needed {
        let path = folder.segment(number);
        let file = folder.disk.open(&path, Mode::Write).map_err(open_io("open", &path))?;
        let segment = Segment::open(&path, file, meta.store, number)?;
        let mut reader = Reader::new(&segment);
        while let Some(frame) = reader.next().map_err(open_io("read", &path))? {
            if next.map_or(frame.sequence > meta.sequence, |next| frame.sequence != next) {
                let expected = next.unwrap_or(meta.sequence);
                // What is missing was where the segment before ends, or here if there is none.
                let (segment, offset) = read.last().map_or((&segment, frame.offset), |before: &Tail| (&before.segment, before.end));
                return corrupt(segment, offset, format!("frame {expected} of the log is gone, the next is {}", frame.sequence));
            }
            // The frame after a mark has its sequence: it is written over it, or in the next segment.
            mark = frame.payload.is_empty().then_some(frame.offset);
            next = Some(frame.sequence + u64::from(mark.is_none()));
            last = read.len();
            if frame.sequence < meta.sequence {
                continue;
            }
            let offset = frame.offset;
            let Some(entries) = entries(frame.payload, names) else {
                return corrupt(&segment, offset, "the frame does not hold commits".into());
            };
            for entry in entries {
                if let Err(detail) = apply(state, entry) {
                    return corrupt(&segment, offset, detail);
                }
            }
        }
        let end = reader.offset;
        if let Some(later) = reader.find_later().map_err(open_io("read", &path))? {
            return corrupt(&segment, end, format!("the frame there is damaged, but a valid one follows at byte {later}"));
        }
        read.push(Tail { segment, end, sequence: next.unwrap_or(meta.sequence) });
    }
    if let (Some(next), Some(tail)) = (next, read.get(last))
        && next < meta.sequence
    {
        return corrupt(&tail.segment, tail.end, format!("the log ends at frame {next}, before the checkpoint's {}", meta.sequence));
    }
    read.truncate(last + 1);
    if let (Some(mark), Some(tail)) = (mark, read.last_mut()) {
        tail.end = mark;
    }
    match read.pop() {
        Some(tail) => Ok((tail, read.into_iter().map(|t| (t.segment, t.sequence)).collect())),
        None => Err(RedbOpenError::Missing { file: folder.segment(meta.segment) }),
    }
}

fn apply(state: &mut State, entry: Entry) -> Result<(), String> {
    match entry {
        Entry::Compact(upto) => state.compact(upto).map_err(|e| e.to_string()),
        Entry::Commit(commit) => {
            let revision = commit.revision;
            if revision != Revision(state.revision().0 + 1) {
                return Err(format!("it holds revision {revision}, which does not follow {}", state.revision()));
            }
            match resolve(state, commit) {
                Some(commit) => {
                    state.apply(commit);
                    Ok(())
                }
                None => Err(format!("revision {revision} replaces what is not there")),
            }
        }
    }
}

fn resolve(state: &State, commit: StoredCommit) -> Option<Commit> {
    let StoredCommit { revision, changes } = commit;
    let changes: Option<Vec<_>> = changes
        .into_iter()
        .map(|change| {
            let previous = state.get(&change.key).cloned();
            change.resolve(revision, previous)
        })
        .collect();
    Some(Commit { revision, changes: changes?.into() })
}

/// Makes what was read durable before anybody sees it, and ends the log where reading ended.
fn settle(tail: &Tail) -> Result<(), RedbOpenError> {
    let Tail { segment, end, sequence } = tail;
    segment.mark(*end, *sequence).map_err(open_io("write", &segment.path))?;
    segment.file.sync().map_err(open_io("sync", &segment.path))
}
