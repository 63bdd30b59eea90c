//! The database behind the log: every version that is still needed, in order of revision.
//!
//! A version is needed while it is current, or while the commit that replaced it is history. So opening is a replay in order of revision,
//! each value is stored once, and forgetting a commit removes the versions that it replaced.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use wharf_core::store::{Change, Key, Record, Revision};
use wharf_store_mvcc::{Commit, FIRST_REVISION, Records};

use crate::backend::Backend;
use crate::disk::DiskFile;
use crate::error::{RedbOpenError, open_io};
use crate::log::record::{Input, put_key, put_stored_body};
use crate::log::{Names, StoredChange, StoredCommit};
use crate::options::CACHE_BYTES;

/// The name of the database's file in its folder.
pub(crate) const FILE: &str = "checkpoint.redb";
/// The checkpoint's format.
pub(crate) const FORMAT: u64 = 1;

/// Revision, big-endian, and key, to: index in the commit, crc32c of everything, the change.
const VERSIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("versions");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// What the checkpoint knows beside versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Which store it is; the log's files name it.
    pub(crate) store: u64,
    /// The newest commit in here.
    pub(crate) revision: Revision,
    /// History up to here is forgotten.
    pub(crate) compacted: Revision,
    /// The first segment of the log that is still needed; 0 for a store that has no log yet.
    pub(crate) segment: u64,
    /// The first frame of the log that is not in here.
    pub(crate) sequence: u64,
}

impl Meta {
    pub(crate) fn new(store: u64) -> Self {
        Self { store, revision: FIRST_REVISION, compacted: Revision(0), segment: 0, sequence: 0 }
    }
}

/// What a checkpoint holds.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) meta: Meta,
    pub(crate) records: Records,
    pub(crate) commits: Vec<Commit>,
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    backend: Backend,
    database: Database,
}

impl Checkpoint {
    /// A new database in an empty file.
    pub(crate) fn create(path: &Path, file: Arc<dyn DiskFile>, meta: Meta) -> Result<Self, RedbOpenError> {
        let checkpoint = Self::build(path, Backend::open(file.clone()), file)?;
        checkpoint.transact(|transaction| {
            transaction.open_table(VERSIONS)?;
            put_meta(transaction, meta)
        })?;
        Ok(checkpoint)
    }

    /// A database that is there. Its file is as it was until [`Checkpoint::release`].
    pub(crate) fn open(path: &Path, file: Arc<dyn DiskFile>) -> Result<Self, RedbOpenError> {
        let size = file.size().map_err(open_io("read", path))?;
        if size == 0 {
            // redb would take it for a new one.
            return Err(RedbOpenError::Truncated { file: path.to_owned(), size, expected: 1 });
        }
        Self::build(path, Backend::held(file.clone()), file)
    }

    fn build(path: &Path, backend: Backend, file: Arc<dyn DiskFile>) -> Result<Self, RedbOpenError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        // A page that was altered is found now, and not by a panic later.
        builder.set_check_integrity_on_open(true);
        let opened = guarded(path, || builder.create_with_backend(backend.clone()).map_err(redb::Error::from));
        match opened {
            Ok(database) => Ok(Self { path: path.to_owned(), file, backend, database }),
            Err(RedbOpenError::Corrupt { file: name, offset, detail }) => {
                Err(truncated(&*file, &name).unwrap_or(RedbOpenError::Corrupt { file: name, offset, detail }))
            }
            Err(e) => Err(e),
        }
    }

    /// From here on, the file may change.
    pub(crate) fn release(&self) -> Result<(), RedbOpenError> {
        self.backend.release().map_err(open_io("write", &self.path))
    }

    /// Ends it in good order, so that opening it again need not look for damage.
    pub(crate) fn close(self) -> Result<(), RedbOpenError> {
        let Self { path, database, .. } = self;
        guarded(&path, || database.close().map_err(redb::Error::from))
    }

    pub(crate) fn size(&self) -> Result<u64, RedbOpenError> {
        self.file.size().map_err(open_io("read", &self.path))
    }

    fn transact<T>(&self, work: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>) -> Result<T, RedbOpenError> {
        guarded(&self.path, || {
            let mut transaction = self.database.begin_write()?;
            // Durable by default; and a crash costs no repair at the next opening.
            transaction.set_quick_repair(true);
            let out = work(&transaction)?;
            transaction.commit()?;
            Ok(out)
        })
    }

    pub(crate) fn meta(&self) -> Result<Meta, RedbOpenError> {
        let stored = guarded(&self.path, || {
            let table = match self.database.begin_read()?.open_table(META) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            let get = |name: &str| Ok::<_, redb::Error>(table.get(name)?.map(|value| value.value()));
            Ok(Some([get("format")?, get("store")?, get("revision")?, get("compacted")?, get("segment")?, get("sequence")?]))
        })?;
        match stored {
            Some([Some(found), ..]) if found > FORMAT => {
                Err(RedbOpenError::NewerFormat { file: self.path.clone(), found, supported: FORMAT })
            }
            Some([Some(_), Some(store), Some(revision), Some(compacted), Some(segment), Some(sequence)]) => {
                Ok(Meta { store, revision: Revision(revision), compacted: Revision(compacted), segment, sequence })
            }
            _ => Err(self.corrupt("it is a redb database, but not a store's".into())),
        }
    }

    pub(crate) fn set_meta(&self, meta: Meta) -> Result<(), RedbOpenError> {
        self.transact(|transaction| put_meta(transaction, meta))
    }

    fn corrupt(&self, detail: String) -> RedbOpenError {
        RedbOpenError::Corrupt { file: self.path.clone(), offset: None, detail }
    }

    /// Everything, in memory. Versions share what they have in common.
    pub(crate) fn load(&self, names: &mut Names) -> Result<Contents, RedbOpenError> {
        let meta = self.meta()?;
        let mut contents = Contents { meta, records: Records::new(), commits: Vec::new() };
        let mut changes: Vec<(u32, Change)> = Vec::new();
        let mut at = Revision(0);
        let bad = |revision: Revision, what: &str| self.corrupt(format!("revision {revision}: {what}"));
        let failed = guarded(&self.path, || {
            let table = self.database.begin_read()?.open_table(VERSIONS)?;
            for entry in table.iter()? {
                let (key, value) = entry?;
                let Some((revision, index, change)) = decode(key.value(), value.value(), names) else {
                    return Ok(Some(bad(at, "the version after it does not hold what was written")));
                };
                if revision > meta.revision {
                    return Ok(Some(bad(revision, "it is newer than the database says it is")));
                }
                if revision != at {
                    finish(at, &mut changes, &mut contents.commits);
                    at = revision;
                }
                let previous = match change.put {
                    Some(_) => contents.records.get(&change.key).cloned(),
                    None => contents.records.remove(&change.key),
                };
                // What was replaced before history began is gone.
                if revision <= meta.compacted {
                    if let Some((created, value)) = change.put {
                        let record = Record { key: change.key, value, created, modified: revision };
                        contents.records.insert(record);
                    }
                    continue;
                }
                let Some(change) = change.resolve(revision, previous) else {
                    return Ok(Some(bad(revision, "what it replaced is not there")));
                };
                if let Change::Put { record, .. } = &change {
                    contents.records.insert(record.clone());
                }
                changes.push((index, change));
            }
            finish(at, &mut changes, &mut contents.commits);
            Ok(None)
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(contents),
        }
    }

    /// Adds the commits that follow, and forgets history up to a revision, in one durable transaction.
    pub(crate) fn fold(&self, commits: &[StoredCommit], meta: Meta) -> Result<(), RedbOpenError> {
        let before = self.meta()?;
        let floor = meta.compacted;
        // Versions that no history needs any more: those replaced up to the floor, and deletes up to it.
        let mut dead: HashSet<Vec<u8>> = HashSet::new();
        for commit in commits.iter().take_while(|c| c.revision <= floor) {
            for change in &commit.changes {
                bury(&mut dead, change, commit.revision);
            }
        }
        self.transact(|transaction| {
            let mut table = transaction.open_table(VERSIONS)?;
            if floor > before.compacted {
                let mut names = Names::default();
                let (from, to) = (Revision(before.compacted.0 + 1), Revision(floor.0 + 1));
                for entry in table.range(&from.0.to_be_bytes()[..]..&to.0.to_be_bytes()[..])? {
                    let (key, value) = entry?;
                    let Some((revision, _, change)) = decode(key.value(), value.value(), &mut names) else {
                        return Err(redb::Error::Corrupted("a version does not hold what was written".into()));
                    };
                    bury(&mut dead, &change, revision);
                }
            }
            let mut value = Vec::new();
            for commit in commits {
                for (index, change) in (0u32..).zip(&commit.changes) {
                    let key = version_key(commit.revision, &change.key);
                    if !dead.remove(&key) {
                        encode(&mut value, &key, index, change);
                        table.insert(&key[..], &value[..])?;
                    }
                }
            }
            for key in dead {
                table.remove(&key[..])?;
            }
            drop(table);
            put_meta(transaction, meta)
        })
    }

    /// A copy of all of it as a new, closed database in an empty file.
    pub(crate) fn copy_to(&self, path: &Path, file: Arc<dyn DiskFile>) -> Result<(), RedbOpenError> {
        let meta = Meta { segment: 0, sequence: 0, ..self.meta()? };
        let copy = Self::create(path, file, meta)?;
        let table = guarded(&self.path, || Ok(self.database.begin_read()?.open_table(VERSIONS)?))?;
        copy.transact(|transaction| {
            let mut to = transaction.open_table(VERSIONS)?;
            for entry in table.iter()? {
                let (key, value) = entry?;
                to.insert(key.value(), value.value())?;
            }
            Ok(())
        })?;
        copy.close()
    }

    /// Gives back the space of what was removed.
    pub(crate) fn compact(&mut self) -> Result<(), RedbOpenError> {
        let Self { path, database, .. } = self;
        guarded(path, || database.compact().map(|_| ()).map_err(redb::Error::from))
    }
}

/// Orders the changes of a commit as they were made.
fn finish(revision: Revision, changes: &mut Vec<(u32, Change)>, commits: &mut Vec<Commit>) {
    if !changes.is_empty() {
        changes.sort_by_key(|(index, _)| *index);
        commits.push(Commit { revision, changes: changes.drain(..).map(|(_, change)| change).collect() });
    }
}

fn bury(dead: &mut HashSet<Vec<u8>>, change: &StoredChange, revision: Revision) {
    if let Some(previous) = change.previous {
        dead.insert(version_key(previous, &change.key));
    }
    if change.put.is_none() {
        dead.insert(version_key(revision, &change.key));
    }
}

fn put_meta(transaction: &redb::WriteTransaction, meta: Meta) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(META)?;
    let fields = [
        ("format", FORMAT),
        ("store", meta.store),
        ("revision", meta.revision.0),
        ("compacted", meta.compacted.0),
        ("segment", meta.segment),
        ("sequence", meta.sequence),
    ];
    for (name, value) in fields {
        table.insert(name, value)?;
    }
    Ok(())
}

fn version_key(revision: Revision, key: &Key) -> Vec<u8> {
    let mut out = revision.0.to_be_bytes().to_vec();
    put_key(&mut out, key);
    out
}

fn encode(out: &mut Vec<u8>, key: &[u8], index: u32, change: &StoredChange) {
    out.clear();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&index.to_le_bytes());
    put_stored_body(out, change.previous, change.put.as_ref().map(|(created, value)| (*created, value)));
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
}

fn decode(key: &[u8], value: &[u8], names: &mut Names) -> Option<(Revision, u32, StoredChange)> {
    let mut input = Input(value);
    if input.u32()? != crc32c::crc32c_append(crc32c::crc32c(key), value.get(4..)?) {
        return None;
    }
    let index = input.u32()?;
    let mut name = Input(key);
    let revision = Revision(u64::from_be_bytes(name.take(8)?.try_into().ok()?));
    let key = name.key(names)?;
    Some((revision, index, input.body(key)?))
}

/// Runs redb on a file that may hold anything: its checks include assertions.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, RedbOpenError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(database_error(path, e)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let detail = format!("its pages contradict each other ({})", said.unwrap_or_default());
            Err(RedbOpenError::Corrupt { file: path.to_owned(), offset: None, detail })
        }
    }
}

fn database_error(path: &Path, error: redb::Error) -> RedbOpenError {
    let corrupt = |detail| RedbOpenError::Corrupt { file: path.to_owned(), offset: None, detail };
    match error {
        redb::Error::Corrupted(detail) => corrupt(detail),
        redb::Error::Io(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => corrupt(e.to_string()),
        redb::Error::Io(e) => open_io("use", path)(e),
        e => RedbOpenError::Database { file: path.to_owned(), source: Box::new(e) },
    }
}

/// Whether a file that redb refused is shorter than its own header says: page size, pages of a region's header and data, full regions
/// and data pages of the last (redb's docs/design.md).
fn truncated(file: &dyn DiskFile, path: &Path) -> Option<RedbOpenError> {
    let size = file.size().ok()?;
    let mut header = [0; 32];
    let expected = match file.read_at(0, &mut header) {
        Ok(()) => {
            let mut input = Input(&header);
            if !input.take(12)?.starts_with(b"redb") {
                return None;
            }
            let [page, headers, most, full, last] = [input.u32()?, input.u32()?, input.u32()?, input.u32()?, input.u32()?].map(u64::from);
            let last = if last == 0 { 0 } else { headers + last };
            (headers.checked_add(most)?.checked_mul(full)?.checked_add(last + 1)?).checked_mul(page)?
        }
        Err(_) => header.len() as u64,
    };
    (size < expected).then(|| RedbOpenError::Truncated { file: path.to_owned(), size, expected })
}
