//! What the store asks of a file system: the machine's, or in tests one that fails and loses as it is told.

mod system;

#[cfg(test)]
pub(crate) mod simulated;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub(crate) use system::SystemDisk;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    /// It must not exist.
    Create,
}

/// Held for as long as a folder is this store's alone.
pub(crate) trait Lock: Debug + Send + Sync {}

/// Files by name. A new, renamed or removed name is durable once its folder is synced.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// Makes a folder and those above it; nothing if it is there.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Like `rename`, but a file that is there already is left, with `AlreadyExists`.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// `None` while somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// An open file. What is written is durable once it is synced.
pub(crate) trait DiskFile: Debug + Send + Sync + 'static {
    fn size(&self) -> io::Result<u64>;
    /// Fills the buffer, or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// fdatasync. After it failed, nothing is known of what was written since the last.
    fn sync(&self) -> io::Result<()>;
}
