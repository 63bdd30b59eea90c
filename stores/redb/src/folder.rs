//! A store's folder: whose it is, and the names in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::checkpoint;
use crate::disk::{Disk, Lock, Mode};
use crate::error::{RedbFault, RedbOpenError, open_io};
use crate::log::Segment;
use crate::log::segment::{HEADER, file_name, number_of};

/// Held while the folder is open.
const LOCK: &str = "lock";
/// A checkpoint that is being made.
pub(crate) const NEW_CHECKPOINT: &str = "checkpoint.new";
/// A segment that has been moved into the checkpoint, to be written again.
const SPARE: &str = "spare";
/// A segment that is being made.
const NEXT: &str = "next";
/// Zeros written at once.
const FILL: usize = 1 << 20;

/// A folder that is this store's alone.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    lock: Mutex<Option<Box<dyn Lock>>>,
    /// The capacity of the spare segment, if there is one.
    spare: Mutex<Option<u64>>,
}

impl Folder {
    /// Makes the folder if need be, and takes it.
    pub(crate) fn take(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, RedbOpenError> {
        let not_a_folder = |e: io::Error| match e.kind() {
            io::ErrorKind::AlreadyExists => RedbOpenError::NotAFolder { path: path.to_owned() },
            _ => open_io("make", path)(e),
        };
        disk.create_folder(path).map_err(not_a_folder)?;
        let lock = path.join(LOCK);
        let Some(lock) = disk.lock(&lock).map_err(open_io("lock", &lock))? else {
            return Err(RedbOpenError::InUse { path: path.to_owned() });
        };
        Ok(Self { disk, path: path.to_owned(), lock: Mutex::new(Some(lock)), spare: Mutex::new(None) })
    }

    /// Lets others take it.
    pub(crate) fn give_back(&self) {
        self.lock.lock().take();
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join(checkpoint::FILE)
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(file_name(number))
    }

    /// Whether there is a checkpoint, and the segments in order.
    pub(crate) fn names(&self) -> Result<(bool, Vec<u64>), RedbOpenError> {
        let names = self.disk.list(&self.path).map_err(open_io("list", &self.path))?;
        let mut segments: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        segments.sort_unstable();
        Ok((names.iter().any(|name| name == checkpoint::FILE), segments))
    }

    /// Removes what a crash may have left half made.
    pub(crate) fn clean(&self) -> Result<(), RedbOpenError> {
        for name in [SPARE, NEXT, NEW_CHECKPOINT] {
            self.remove(&self.path.join(name))?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), RedbOpenError> {
        match self.disk.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(open_io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    pub(crate) fn sync(&self) -> Result<(), RedbOpenError> {
        self.disk.sync_folder(&self.path).map_err(open_io("sync", &self.path))
    }

    /// A segment that is not needed any more becomes the next one's file, or goes.
    pub(crate) fn retire(&self, segment: &Segment) -> Result<(), RedbOpenError> {
        let mut spare = self.spare.lock();
        if spare.is_some() {
            return self.remove(&segment.path);
        }
        let to = self.path.join(SPARE);
        self.disk.rename(&segment.path, &to).map_err(open_io("rename", &segment.path))?;
        *spare = Some(segment.capacity);
        Ok(())
    }

    /// An empty segment, durable by name and in full.
    pub(crate) fn make_segment(&self, store: u64, number: u64, capacity: u64) -> Result<Segment, RedbFault> {
        let (next, path) = (self.path.join(NEXT), self.segment(number));
        let failed = |e| RedbFault::write(&next, e);
        let recycled = {
            let mut spare = self.spare.lock();
            match *spare {
                Some(there) if there == capacity => {
                    self.disk.rename(&self.path.join(SPARE), &next).map_err(failed)?;
                    *spare = None;
                    true
                }
                // Of another size, it would be in the place of one that can be used.
                Some(_) => {
                    self.disk.remove(&self.path.join(SPARE)).map_err(failed)?;
                    *spare = None;
                    false
                }
                None => false,
            }
        };
        let file = self.disk.open(&next, if recycled { Mode::Write } else { Mode::Create }).map_err(failed)?;
        let mut segment = Segment { path: next.clone(), file, store, number, capacity };
        if !recycled {
            fill(&segment, 0).map_err(failed)?;
        }
        segment.file.write_at(0, &segment.header()).map_err(failed)?;
        segment.file.sync().map_err(|e| RedbFault::sync(&next, e))?;
        self.disk.rename(&next, &path).map_err(failed)?;
        self.disk.sync_folder(&self.path).map_err(|e| RedbFault::sync(&self.path, e))?;
        segment.path = path;
        Ok(segment)
    }

    /// Makes room in an empty segment for a frame that is larger than segments are.
    pub(crate) fn grow(&self, segment: &mut Segment, capacity: u64) -> Result<(), RedbFault> {
        let path = segment.path.clone();
        let from = std::mem::replace(&mut segment.capacity, capacity);
        fill(segment, from).map_err(|e| RedbFault::write(&path, e))?;
        // The size first, so that the header never promises more than there is.
        segment.file.sync().map_err(|e| RedbFault::sync(&path, e))?;
        segment.file.write_at(0, &segment.header()).map_err(|e| RedbFault::write(&path, e))?;
        segment.file.sync().map_err(|e| RedbFault::sync(&path, e))
    }
}

/// Writes zeros, so that later writes change no metadata.
fn fill(segment: &Segment, from: u64) -> io::Result<()> {
    let zeros = vec![0; FILL.min(usize::try_from(segment.capacity).unwrap_or(FILL))];
    let mut offset = from;
    while offset < segment.capacity {
        let len = zeros.len().min(usize::try_from(segment.capacity - offset).unwrap_or(FILL));
        segment.file.write_at(offset, &zeros[..len])?;
        offset += len as u64;
        if offset < segment.capacity {
            // In small pieces: a commit's sync would wait behind one large one.
            segment.file.sync()?;
        }
    }
    Ok(())
}

/// Bytes of a folder's files, each as it is when it is looked at.
pub(crate) fn size(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        match entry?.metadata() {
            Ok(file) if file.is_file() => bytes += file.len(),
            // The threads rename and remove.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(bytes)
}

/// The smallest capacity for a frame.
pub(crate) fn capacity_for(frame: usize) -> u64 {
    Segment::after(HEADER, frame)
}
