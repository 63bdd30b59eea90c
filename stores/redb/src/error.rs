//! What can go wrong with a store in a folder, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_core::runtime::{BoxError, Retry};
use wharf_core::store::StoreError;

/// Why a store could not be opened, copied or restored. What was in the folder is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbOpenError {
    /// The path, or one above it, is a file.
    #[error("{path} is not a folder: name a folder, which is made if it does not exist")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// This process may not use the folder or a file in it.
    #[error("no permission for {path}: {source}; run as the user that owns it, or change its owner")]
    Permission {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody has the folder open.
    #[error("{path} is open in another process or store: stop that one first, or use another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There is no room for the little that opening has to write.
    #[error("the disk of {path} is full: {source}; free some space and open again, nothing is lost")]
    Full {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("{file} is corrupt{}: {detail}; restore a snapshot into an empty folder, and keep this one to look at", at(.offset))]
    Corrupt {
        /// Which.
        file: PathBuf,
        /// Where, if that is known; in bytes.
        offset: Option<u64>,
        /// What is wrong.
        detail: String,
    },
    /// A file is shorter than it was made.
    #[error("{file} is cut off: it has {size} bytes, but at least {expected} were written; restore a snapshot into an empty folder")]
    Truncated {
        /// Which.
        file: PathBuf,
        /// Bytes it has.
        size: u64,
        /// Bytes it had, at least.
        expected: u64,
    },
    /// Written by a newer version.
    #[error("{file} has format {found}, and this version reads up to {supported}: use the version that wrote it, or a newer one")]
    NewerFormat {
        /// Which.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// The newest that can be read.
        supported: u64,
    },
    /// A file is gone that must be there.
    #[error("{file} is missing: put it back if it was moved, or restore a snapshot into an empty folder")]
    Missing {
        /// Which.
        file: PathBuf,
    },
    /// Something is there already that would be lost.
    #[error("{path} exists already: name another, nothing is overwritten")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Any other failure of the system.
    #[error("cannot {op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database behind the log failed otherwise.
    #[error("the database {file} failed: {source}")]
    Database {
        /// Its file.
        file: PathBuf,
        /// What it said.
        #[source]
        source: BoxError,
    },
    /// The store has been closed, or has stopped for this reason.
    #[error("the store does not run: {source}")]
    Stopped {
        /// Why.
        #[source]
        source: StoreError,
    },
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {offset}"))
}

/// Turns what the system says into what to do.
pub(crate) fn open_io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RedbOpenError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => RedbOpenError::Permission { path, source },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RedbOpenError::Full { path, source },
        io::ErrorKind::NotADirectory => RedbOpenError::NotAFolder { path },
        _ => RedbOpenError::Io { op, path, source },
    }
}

/// Why a running store has stopped. It does not go on by itself: a write that failed may be on disk in part, and a second fsync could
/// succeed without having written what the first did not.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RedbFault {
    /// The disk was full.
    #[error("the store has stopped, as the disk of {path} is full: free some space and open it again; all that was acknowledged is there")]
    Full {
        /// What was to be written.
        path: PathBuf,
    },
    /// A write failed.
    #[error("the store has stopped, as writing {path} failed: {source}; look after the disk and open the store again")]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// fsync failed.
    #[error("the store has stopped, as fsync of {path} failed: {source}; look after the disk and open the store again")]
    Sync {
        /// What was to be made durable.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Moving the log into the database failed. The log still has everything.
    #[error("the store has stopped, as its checkpoint failed: {source}; look after the disk and open the store again")]
    Checkpoint {
        /// What failed.
        #[source]
        source: Arc<RedbOpenError>,
    },
}

impl RedbFault {
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Write { path, source: Arc::new(source) },
        }
    }

    pub(crate) fn sync(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Sync { path, source: Arc::new(source) },
        }
    }

    pub(crate) fn checkpoint(source: RedbOpenError) -> Self {
        match source {
            RedbOpenError::Full { path, .. } => Self::Full { path },
            source => Self::Checkpoint { source: Arc::new(source) },
        }
    }

    /// For a commit that may be on disk.
    pub(crate) fn unknown(&self) -> StoreError {
        StoreError::OutcomeUnknown { source: Box::new(self.clone()) }
    }

    /// For whatever comes after.
    pub(crate) fn stopped(&self) -> StoreError {
        StoreError::Backend { op: "store", retry: Retry::Permanent, source: Box::new(self.clone()) }
    }
}
