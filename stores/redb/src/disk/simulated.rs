//! A disk in memory that fails as it is told, and that loses in a crash what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Disk, DiskFile, Lock, Mode};

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Contents>,
    names: BTreeMap<PathBuf, usize>,
    /// Names as of the last sync of the folder, and what has been done since, in order.
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameStep>,
    faults: Faults,
    locked: bool,
}

#[derive(Debug, Clone)]
enum NameStep {
    Set(PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    /// Syncs that succeed before one fails.
    pub(crate) syncs: Option<u64>,
    /// Bytes by which files may still grow.
    pub(crate) room: Option<u64>,
    /// Writes that succeed before one is torn: its first half is written, and it fails.
    pub(crate) writes: Option<u64>,
    /// Only files of the log fail, not those that are being made.
    pub(crate) log_only: bool,
    /// Nothing works any more: the machine is off.
    pub(crate) off: bool,
}

#[derive(Debug, Default, Clone)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    SetSize(u64),
}

fn carry_out(data: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, bytes) => {
            let (from, to) = (*offset as usize, *offset as usize + bytes.len());
            if data.len() < to {
                data.resize(to, 0);
            }
            data[from..to].copy_from_slice(bytes);
        }
        Step::SetSize(size) => data.resize(*size as usize, 0),
    }
}

impl Inner {
    fn spared(&self, file: usize) -> bool {
        let is_log = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-"));
        self.faults.log_only && !self.names.iter().any(|(path, named)| *named == file && is_log(path))
    }
}

fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => {
            *left = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

impl SimulatedDisk {
    pub(crate) fn faults(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    /// The disk after a crash now: of what was not synced, a seed's choice of sectors, and a seed's choice of how many names.
    /// This disk goes off.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut inner = self.inner.lock();
        inner.faults.off = true;
        let mut names = inner.durable_names.clone();
        let kept = rng.random_range(0..=inner.unsynced_names.len());
        for step in &inner.unsynced_names[..kept] {
            match step {
                NameStep::Set(path, file) => names.insert(path.clone(), *file),
                NameStep::Remove(path) => names.remove(path),
            };
        }
        let files = inner.files.iter().map(|file| survive(file, &mut rng)).collect();
        let inner = Inner { files, durable_names: names.clone(), names, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Every file's bytes, but the lock's.
    pub(crate) fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let inner = self.inner.lock();
        inner.names.iter().map(|(path, file)| (path.clone(), inner.files[*file].now.clone())).collect()
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.inner.lock();
        if inner.faults.off { Err(off()) } else { work(&mut inner) }
    }
}

fn survive(file: &Contents, rng: &mut StdRng) -> Contents {
    let mut data = file.durable.clone();
    // Three sorts of crash: nothing of it was written, all of it, or some sectors.
    let sort = rng.random_range(0..3);
    for step in &file.unsynced {
        match step {
            Step::SetSize(_) if sort != 0 => carry_out(&mut data, step),
            Step::Write(offset, bytes) => {
                let mut from = 0;
                while from < bytes.len() {
                    let at = *offset as usize + from;
                    let to = (from + SECTOR - at % SECTOR).min(bytes.len());
                    if sort == 2 || (sort == 1 && rng.random_bool(0.5)) {
                        carry_out(&mut data, &Step::Write(at as u64, bytes[from..to].to_vec()));
                    }
                    from = to;
                }
            }
            Step::SetSize(_) => {}
        }
    }
    Contents { now: data.clone(), durable: data, unsynced: Vec::new() }
}

#[derive(Debug)]
struct SimulatedLock(SimulatedDisk);

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.0.inner.lock().locked = false;
    }
}

impl Disk for SimulatedDisk {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.with(|inner| {
            let inside = inner.names.keys().filter(|path| path.parent() == Some(folder));
            Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
        })
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        self.with(|inner| {
            let file = match (inner.names.get(path), mode) {
                (Some(_), Mode::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
                (Some(file), _) => *file,
                (None, Mode::Create) => {
                    inner.files.push(Contents::default());
                    let file = inner.files.len() - 1;
                    inner.names.insert(path.to_owned(), file);
                    inner.unsynced_names.push(NameStep::Set(path.to_owned(), file));
                    file
                }
                (None, _) => return Err(io::ErrorKind::NotFound.into()),
            };
            Ok(Arc::new(SimulatedFile { disk: self.clone(), file }) as Arc<dyn DiskFile>)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|inner| {
            let file = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            inner.names.insert(to.to_owned(), file);
            // One step of the journal in truth; as two, in this order, both names may survive, never neither.
            inner.unsynced_names.push(NameStep::Set(to.to_owned(), file));
            inner.unsynced_names.push(NameStep::Remove(from.to_owned()));
            Ok(())
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.inner.lock().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|inner| {
            inner.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            inner.unsynced_names.push(NameStep::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        self.with(|inner| {
            if !inner.faults.log_only && count_down(&mut inner.faults.syncs) {
                return Err(io::Error::other("the disk did not take it"));
            }
            inner.durable_names = inner.names.clone();
            inner.unsynced_names.clear();
            Ok(())
        })
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.locked, true) { Ok(None) } else { Ok(Some(Box::new(SimulatedLock(self.clone())))) }
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
}

impl SimulatedFile {
    fn step(&self, step: Step) -> io::Result<()> {
        self.disk.with(|inner| {
            let spared = inner.spared(self.file);
            let Inner { files, faults, .. } = inner;
            let file = &mut files[self.file];
            let end = match &step {
                Step::Write(offset, bytes) => *offset + bytes.len() as u64,
                Step::SetSize(size) => *size,
            };
            let growth = end.saturating_sub(file.now.len() as u64);
            if let Some(room) = &mut faults.room {
                if *room < growth {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                *room -= growth;
            }
            if let Step::Write(offset, bytes) = &step
                && !spared
                && count_down(&mut faults.writes)
            {
                let half = Step::Write(*offset, bytes[..bytes.len() / 2].to_vec());
                carry_out(&mut file.now, &half);
                file.unsynced.push(half);
                return Err(io::Error::other("the disk took half of it"));
            }
            carry_out(&mut file.now, &step);
            file.unsynced.push(step);
            Ok(())
        })
    }
}

impl DiskFile for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        self.disk.with(|inner| Ok(inner.files[self.file].now.len() as u64))
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.with(|inner| {
            let data = inner.files[self.file].now.get(offset as usize..offset as usize + buffer.len());
            buffer.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(Step::Write(offset, data.to_vec()))
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.step(Step::SetSize(size))
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.with(|inner| {
            let spared = inner.spared(self.file);
            let file = &mut inner.files[self.file];
            if !spared && count_down(&mut inner.faults.syncs) {
                // The pages are marked clean: what was in them is read from memory, and never written.
                file.unsynced.clear();
                return Err(io::Error::other("the disk did not take it"));
            }
            for step in std::mem::take(&mut file.unsynced) {
                carry_out(&mut file.durable, &step);
            }
            Ok(())
        })
    }
}
