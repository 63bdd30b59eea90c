//! A durable [`ObjectStore`] in a folder: a log, and a [redb] database behind it.
//!
//! Reads and watches are served from memory. A commit is written to the log, synced, and then seen and acknowledged; commits that come
//! in during a sync share the next. Full segments of the log are moved into the database in the background. Opening reads the database,
//! then the log.
//!
//! | file | holds |
//! |---|---|
//! | `checkpoint.redb` | versions that are current or history, up to some revision |
//! | `log-N` | what was committed after it |
//! | `lock` | nothing; it is locked while the folder is open |
//!
//! A write or fsync that fails stops the store: from then on every call and every watch fails with a permanent [`RedbFault`] that says
//! why. Reads fail too, since a store that cannot move on would have its readers take what is old for what is. Nothing is tried again;
//! opening the folder again recovers.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use wharf_core::clock::SystemClock;
//! use wharf_store_redb::{RedbOptions, RedbStore};
//! let store = RedbStore::open("/var/lib/wharf", RedbOptions::default(), SystemClock::shared()).await?;
//! store.snapshot("/backup/monday.redb").await?;
//! store.close().await?;
//! # Ok(()) }
//! ```

mod age;
mod backend;
mod checkpoint;
mod copy;
mod disk;
mod error;
mod folder;
mod keeper;
mod log;
mod options;
mod recover;
mod writer;

#[cfg(test)]
mod crash_tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use wharf_core::clock::Clock;
use wharf_core::store::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, StoreCapabilities, StoreError, StoreResult, Transaction, WatchStream,
};
use wharf_store_mvcc::Serving;

pub use crate::error::{RedbFault, RedbOpenError};
pub use crate::keeper::Defragmented;
pub use crate::options::{DEFAULT_HISTORY_AGE, DEFAULT_SEGMENT_BYTES, RedbOptions};

use crate::disk::{Disk, SystemDisk};
use crate::keeper::{Job, Keeper, MAX_BACKLOG, prepare};
use crate::log::segment::FRAME_HEADER;
use crate::recover::Opened;
use crate::writer::{Crowd, QUEUE, Request, Writer};

/// How often one writer alone looks for its answer before it sleeps, some 0.2 ms.
const AWAKE: u32 = 200;

/// A store in a folder. Clones share it. When the last is dropped it ends as in a crash, and loses nothing that was acknowledged;
/// [`RedbStore::close`] ends it in good order.
#[derive(Clone)]
pub struct RedbStore {
    handle: Arc<Handle>,
}

/// What the store's users hold and its threads do not.
struct Handle {
    path: PathBuf,
    serving: Serving,
    requests: mpsc::Sender<Request>,
    abandoned: Arc<AtomicBool>,
    crowd: Crowd,
    aging: Option<tokio::task::AbortHandle>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Release);
        if let Some(aging) = &self.aging {
            aging.abort();
        }
    }
}

impl RedbStore {
    /// Opens the store in a folder, which is made if it does not exist. `clock` ages history.
    ///
    /// Must be called on a tokio runtime; blocking work is done apart from it.
    ///
    /// # Errors
    /// [`RedbOpenError`]; what is in the folder is then as it was.
    ///
    /// # Cancellation
    /// Dropping the future leaves the folder closed, some time later.
    pub async fn open(path: impl AsRef<Path>, options: RedbOptions, clock: Arc<dyn Clock>) -> Result<Self, RedbOpenError> {
        Self::open_on(Arc::new(SystemDisk), path.as_ref(), options, clock).await
    }

    pub(crate) async fn open_on(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: RedbOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RedbOpenError> {
        let folder = path.to_owned();
        let age = options.history_age;
        let mut handle = blocking(path, move || {
            let opened = recover::open(disk, &folder, &options)?;
            Self::start(&folder, opened, &options)
        })
        .await?;
        if let Some(age) = age {
            let aging = age::forget_after(handle.serving.clone(), handle.requests.downgrade(), age, clock);
            handle.aging = Some(tokio::spawn(aging).abort_handle());
        }
        Ok(Self { handle: Arc::new(handle) })
    }

    fn start(path: &Path, opened: Opened, options: &RedbOptions) -> Result<Handle, RedbOpenError> {
        let Opened { checkpoint, folder, meta, state, tail, closed } = opened;
        let folder = Arc::new(folder);
        let serving = Serving::new(state);
        let abandoned = Arc::new(AtomicBool::new(false));
        let (requests, received) = mpsc::channel(QUEUE);
        let (jobs, todo) = sync_channel(MAX_BACKLOG);
        let crowd = Crowd::default();
        // Handed over from hand to hand: one is ready while another is in use.
        let (made, ready) = sync_channel(0);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
            spawned.map_err(error::open_io("start a thread for", path))
        };
        let (number, capacity, shared) = (tail.segment.number, options.segment_bytes, folder.clone());
        let preparer = spawn("wharf-segments", Box::new(move || prepare(&shared, meta.store, number, capacity, &made)))?;
        let keeper = Keeper { checkpoint, folder: folder.clone(), serving: serving.clone(), meta, abandoned: abandoned.clone() };
        spawn("wharf-checkpoint", Box::new(move || keeper.run(closed, &todo)))?;
        // Where there was room, recovery has left a mark.
        let marked = tail.end + FRAME_HEADER as u64 <= tail.segment.capacity;
        let writer = Writer { serving: serving.clone(), folder, tail, ready, preparer, jobs, crowd: crowd.clone(), marked };
        spawn("wharf-log", Box::new(move || writer.run(received)))?;
        Ok(Handle { path: path.to_owned(), serving, requests, abandoned, crowd, aging: None })
    }

    /// Writes a consistent copy of the store, all that is committed so far and its history, as one file. Commits go on meanwhile.
    ///
    /// # Errors
    /// [`RedbOpenError::Exists`] if something is at `path`; any other leaves nothing there.
    pub async fn snapshot(&self, path: impl AsRef<Path>) -> Result<(), RedbOpenError> {
        let path = path.as_ref().to_owned();
        self.keep(|reply| Job::Snapshot(path, reply)).await
    }

    /// Makes a store of a snapshot, in a folder that holds none.
    ///
    /// Revisions go on from the snapshot's: clients that saw later ones must list again, as after a restore of etcd.
    ///
    /// # Errors
    /// [`RedbOpenError::Exists`] if the folder holds a store; others if the snapshot is damaged, before anything is written.
    pub async fn restore(snapshot: impl AsRef<Path>, folder: impl AsRef<Path>) -> Result<(), RedbOpenError> {
        let (snapshot, folder) = (snapshot.as_ref().to_owned(), folder.as_ref().to_owned());
        blocking(&folder.clone(), move || copy::restore(&Arc::new(SystemDisk), &snapshot, &folder)).await
    }

    /// Gives back the space of what was removed. Commits go on meanwhile, until the log has grown to its bound.
    ///
    /// # Errors
    /// [`RedbOpenError::Stopped`]; a failure stops the store.
    pub async fn defragment(&self) -> Result<Defragmented, RedbOpenError> {
        self.keep(Job::Defragment).await
    }

    /// Bytes that the folder's files take: the database, with the space that [`RedbStore::defragment`] gives back, and the log.
    ///
    /// # Errors
    /// [`RedbOpenError::Io`] if the folder cannot be read.
    pub async fn size(&self) -> Result<u64, RedbOpenError> {
        let path = self.handle.path.clone();
        blocking(&path.clone(), move || folder::size(&path).map_err(error::open_io("read", &path))).await
    }

    /// Ends the store in good order: what was asked for before is carried out, the log moved into the database, the folder given back.
    /// Every later call is [`StoreError::Closed`].
    ///
    /// # Errors
    /// [`RedbOpenError::Stopped`] if it has ended already.
    pub async fn close(&self) -> Result<(), RedbOpenError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.handle.requests.send(Request::Close(reply)).await;
        self.answer(sent.is_ok().then_some(answer)).await
    }

    async fn keep<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, RedbOpenError>>) -> Job) -> Result<T, RedbOpenError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.handle.requests.send(Request::Keep(job(reply))).await;
        self.answer(sent.is_ok().then_some(answer)).await
    }

    async fn answer<T>(&self, answer: Option<oneshot::Receiver<Result<T, RedbOpenError>>>) -> Result<T, RedbOpenError> {
        let answer = match answer {
            Some(answer) => answer.await.ok(),
            None => None,
        };
        answer.unwrap_or_else(|| Err(RedbOpenError::Stopped { source: self.ended() }))
    }

    /// Why nobody answers.
    fn ended(&self) -> StoreError {
        self.handle.serving.check().err().unwrap_or(StoreError::Closed)
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, RedbOpenError> + Send + 'static,
) -> Result<T, RedbOpenError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(RedbOpenError::Database { file: path.to_owned(), source: Box::new(e) }),
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Handle { path, serving, .. } = &*self.handle;
        f.debug_struct("RedbStore").field("path", path).field("revision", &serving.revision()).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for RedbStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::with(true, true)
    }

    async fn revision(&self) -> StoreResult<Revision> {
        self.handle.serving.revision()
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.handle.serving.get(key)
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.handle.serving.list(scope, options).await
    }

    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        transaction.validate(&self.capabilities())?;
        let (reply, mut answer) = oneshot::channel();
        if self.handle.requests.send(Request::Commit(transaction, reply)).await.is_err() {
            return Err(self.ended());
        }
        // To wake a core takes a third as long as a sync does, so one writer alone stays awake for that long, behind other tasks.
        let mut patience = if self.handle.crowd.size() <= 1 { AWAKE } else { 0 };
        while patience > 0 {
            patience -= 1;
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Closed) => return Err(self.ended()),
                Err(oneshot::error::TryRecvError::Empty) => tokio::task::yield_now().await,
            }
        }
        // Not answered is not planned.
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        self.handle.serving.watch(scope, after)
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        let (reply, answer) = oneshot::channel();
        if self.handle.requests.send(Request::Compact(upto, reply)).await.is_err() {
            return Err(self.ended());
        }
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }
}
