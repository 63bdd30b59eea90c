//! redb's pages on a [`DiskFile`].

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::disk::DiskFile;

/// A write that has not been carried out.
#[derive(Debug)]
enum Held {
    Write(u64, Vec<u8>),
    SetSize(u64),
    Sync,
}

/// A file that redb may change only once it has been found good: opening a database writes to it, also to one that is corrupt.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    file: Arc<dyn DiskFile>,
    /// What redb has asked to be done, in order; `None` once it is done at once.
    held: Arc<Mutex<Option<Vec<Held>>>>,
}

impl Backend {
    /// Writes are carried out.
    pub(crate) fn open(file: Arc<dyn DiskFile>) -> Self {
        Self { file, held: Arc::default() }
    }

    /// Writes are held back until [`Backend::release`].
    pub(crate) fn held(file: Arc<dyn DiskFile>) -> Self {
        Self { file, held: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// Carries out what was held back, in the same order and with the same syncs.
    pub(crate) fn release(&self) -> io::Result<()> {
        let mut held = self.held.lock();
        for step in held.take().into_iter().flatten() {
            match step {
                Held::Write(offset, data) => self.file.write_at(offset, &data)?,
                Held::SetSize(size) => self.file.set_size(size)?,
                Held::Sync => self.file.sync()?,
            }
        }
        Ok(())
    }
}

fn size_of(file: &dyn DiskFile, held: &[Held]) -> io::Result<u64> {
    held.iter().try_fold(file.size()?, |size, step| {
        Ok(match step {
            Held::Write(offset, data) => size.max(offset + data.len() as u64),
            Held::SetSize(size) => *size,
            Held::Sync => size,
        })
    })
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match &*self.held.lock() {
            None => self.file.size(),
            Some(held) => size_of(&*self.file, held),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let held = self.held.lock();
        let Some(held) = held.as_ref().filter(|held| !held.is_empty()) else { return self.file.read_at(offset, out) };
        let end = offset + out.len() as u64;
        if end > size_of(&*self.file, held)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let there = index(self.file.size()?.clamp(offset, end) - offset)?;
        self.file.read_at(offset, &mut out[..there])?;
        for step in held {
            match step {
                Held::Write(at, data) => {
                    let (from, to) = (offset.max(*at), end.min(at + data.len() as u64));
                    if from < to {
                        out[index(from - offset)?..index(to - offset)?].copy_from_slice(&data[index(from - at)?..index(to - at)?]);
                    }
                }
                // What is cut off and grown again is zeros.
                Held::SetSize(size) => out[index((*size).clamp(offset, end) - offset)?..].fill(0),
                Held::Sync => {}
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &mut *self.held.lock() {
            None => self.file.set_size(len),
            Some(held) => {
                held.push(Held::SetSize(len));
                Ok(())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match &mut *self.held.lock() {
            None => self.file.sync(),
            Some(held) => {
                held.push(Held::Sync);
                Ok(())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &mut *self.held.lock() {
            None => self.file.write_at(offset, data),
            Some(held) => {
                held.push(Held::Write(offset, data.to_vec()));
                Ok(())
            }
        }
    }
}

fn index(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(io::Error::other)
}
