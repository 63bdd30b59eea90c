//! A snapshot becomes a store.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Meta};
use crate::disk::{Disk, DiskFile, Mode, SystemDisk};
use crate::error::{RedbOpenError, open_io};
use crate::folder::Folder;
use crate::log::Names;
use crate::options::RedbOptions;
use crate::recover::{self, create};

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;

pub(crate) fn restore(disk: &Arc<SystemDisk>, snapshot: &Path, path: &Path) -> Result<(), RedbOpenError> {
    let missing = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => RedbOpenError::Missing { file: snapshot.to_owned() },
        _ => open_io("open", snapshot)(e),
    };
    let from = disk.open(snapshot, Mode::Read).map_err(missing)?;
    verify(snapshot, from.clone())?;
    let folder = Folder::take(disk.clone(), path)?;
    let (there, segments) = folder.names()?;
    if there || !segments.is_empty() {
        return Err(RedbOpenError::Exists { path: path.to_owned() });
    }
    create(&folder, |new, to| {
        copy(snapshot, &*from, new, &*to)?;
        let checkpoint = Checkpoint::open(new, to)?;
        checkpoint.release()?;
        // A log of the store it comes from must not be taken for its own.
        let meta = Meta { store: rand::random(), segment: 0, sequence: 0, ..checkpoint.meta()? };
        checkpoint.set_meta(meta)?;
        checkpoint.close()
    })
}

/// Reads all of it, and changes nothing of it.
fn verify(path: &Path, file: Arc<dyn DiskFile>) -> Result<(), RedbOpenError> {
    let checkpoint = Checkpoint::open(path, file)?;
    let contents = checkpoint.load(&mut Names::default())?;
    recover::restore(path, contents, &RedbOptions::default()).map(|_| ())
}

fn copy(from: &Path, source: &dyn DiskFile, to: &Path, target: &dyn DiskFile) -> Result<(), RedbOpenError> {
    let size = source.size().map_err(open_io("read", from))?;
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < size {
        let len = CHUNK.min(usize::try_from(size - offset).unwrap_or(CHUNK));
        source.read_at(offset, &mut buffer[..len]).map_err(open_io("read", from))?;
        target.write_at(offset, &buffer[..len]).map_err(open_io("write", to))?;
        offset += len as u64;
    }
    Ok(())
}
