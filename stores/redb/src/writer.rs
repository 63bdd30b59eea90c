//! The thread that commits: it plans what has come in, writes it as one frame, syncs, and only then lets it be seen and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use wharf_core::store::{Revision, StoreError, StoreResult, Transaction};
use wharf_store_mvcc::{Pending, Planned, Serving};

use crate::error::RedbFault;
use crate::folder::{Folder, capacity_for};
use crate::keeper::Job;
use crate::log::Segment;
use crate::log::record::{put_commit, put_compact};
use crate::log::segment::{FRAME_HEADER, HEADER};
use crate::recover::Tail;

/// Requests that wait for the thread; who comes later waits for room.
pub(crate) const QUEUE: usize = 1024;
/// Most commits in a frame.
const MAX_BATCH: usize = 1024;
/// Bytes at which a frame takes no further commit.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// How often the queue is looked at again before the thread sleeps, some 0.1 ms: a writer that goes on at once is met awake.
const SPINS: u32 = 200;

/// How often the queue is looked at for those who were answered by the batch before, some 20 us: they go on at once, and share this one.
const GATHER: u32 = 40;

pub(crate) type Reply<T> = oneshot::Sender<StoreResult<T>>;

/// What the thread is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Request {
    Commit(Transaction, Reply<Revision>),
    Compact(Revision, Reply<()>),
    /// For the keeper, once it has all that is committed before.
    Keep(Job),
    /// The last.
    Close(oneshot::Sender<Result<(), crate::RedbOpenError>>),
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) serving: Serving,
    pub(crate) folder: Arc<Folder>,
    pub(crate) tail: Tail,
    /// Segments to go on with.
    pub(crate) ready: Receiver<Result<Segment, RedbFault>>,
    pub(crate) preparer: JoinHandle<()>,
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) crowd: Crowd,
    /// Whether a mark says that the last frame was synced.
    pub(crate) marked: bool,
}

/// How many were answered at once the last time: as many are likely to come again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crowd(Arc<AtomicUsize>);

impl Crowd {
    pub(crate) fn size(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
    fn was(&self, size: usize) {
        self.0.store(size, Ordering::Relaxed);
    }
}

/// Whether a frame that failed may be on disk all the same.
struct Failed {
    fault: RedbFault,
    written: bool,
}

impl Writer {
    /// Serves requests until the last sender is gone, the store closes, or it fails.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut pending = Pending::new();
        let mut frame = Vec::new();
        let mut next = None;
        while let Some(request) = next.take().or_else(|| self.wait(&mut requests)) {
            let going_on = match request {
                Request::Commit(transaction, reply) => {
                    let (batch, after) = self.plan(&mut pending, &mut frame, &mut requests, transaction, reply);
                    next = after;
                    self.finish(&mut pending, &mut frame, batch)
                }
                Request::Compact(upto, reply) => self.compact(&mut frame, upto, reply),
                Request::Keep(job) => {
                    self.hand_over(false);
                    self.jobs.send(job).is_ok()
                }
                Request::Close(reply) => {
                    self.serving.close();
                    self.mark();
                    if let Err(e) = self.tail.segment.file.sync() {
                        tracing::warn!(file = %self.tail.segment.path.display(), "the end of the log cannot be synced, all of it before is: {e}");
                    }
                    self.hand_over(false);
                    let Self { ready, preparer, jobs, .. } = self;
                    // Nobody makes a file any more when the folder is given back.
                    drop(ready);
                    let _ = preparer.join();
                    let _ = jobs.send(Job::Close(reply));
                    return;
                }
            };
            if !going_on {
                return;
            }
        }
    }

    /// Plans a commit and those that wait behind it. The request that ends the batch by being none comes back.
    fn plan(
        &self,
        pending: &mut Pending,
        frame: &mut Vec<u8>,
        requests: &mut mpsc::Receiver<Request>,
        transaction: Transaction,
        reply: Reply<Revision>,
    ) -> (Batch, Option<Request>) {
        let mut batch = Batch::default();
        start(frame);
        let mut one = Some((transaction, reply));
        let (crowd, mut patience) = (self.crowd.size(), GATHER);
        while let Some((transaction, reply)) = one.take() {
            let answer = match self.serving.plan(pending, transaction) {
                Ok(Planned::Commit(commit)) => {
                    put_commit(frame, &commit);
                    let revision = commit.revision;
                    batch.commits.push(commit);
                    Ok(revision)
                }
                Ok(Planned::Nothing(revision)) => Ok(revision),
                Err(e) => Err(e),
            };
            batch.answers.push((reply, answer));
            if batch.answers.len() >= MAX_BATCH || frame.len() >= MAX_BATCH_BYTES {
                break;
            }
            let next = loop {
                match requests.try_recv() {
                    Err(mpsc::error::TryRecvError::Empty) if batch.answers.len() < crowd && patience > 0 => {
                        patience -= 1;
                        std::thread::yield_now();
                    }
                    next => break next,
                }
            };
            match next {
                Ok(Request::Commit(transaction, reply)) => one = Some((transaction, reply)),
                Ok(other) => return (batch, Some(other)),
                Err(_) => {}
            }
        }
        (batch, None)
    }

    fn finish(&mut self, pending: &mut Pending, frame: &mut [u8], batch: Batch) -> bool {
        if !batch.commits.is_empty() {
            if let Err(failed) = self.append(frame) {
                self.stop(&failed.fault);
                for (reply, answer) in batch.answers {
                    // A refusal may have been decided on a commit of this batch.
                    let answer = match answer {
                        Ok(_) if failed.written => Err(failed.fault.unknown()),
                        _ => Err(failed.fault.stopped()),
                    };
                    let _ = reply.send(answer);
                }
                return false;
            }
            self.serving.apply(pending, batch.commits);
        }
        self.crowd.was(batch.answers.len());
        for (reply, answer) in batch.answers {
            // Who has gone does not wait for it.
            let _ = reply.send(answer);
        }
        true
    }

    /// Compaction is in the log, so that it is not undone by a restart.
    fn compact(&mut self, frame: &mut Vec<u8>, upto: Revision, reply: Reply<()>) -> bool {
        let now = self.serving.read(|state| (state.revision(), state.compacted()));
        let (revision, compacted) = now;
        let answer = if let Err(e) = self.serving.check() {
            Err(e)
        } else if upto > revision {
            Err(StoreError::Future { asked: upto, current: revision })
        } else if upto <= compacted {
            Ok(())
        } else {
            start(frame);
            put_compact(frame, upto);
            if let Err(failed) = self.append(frame) {
                self.stop(&failed.fault);
                let _ = reply.send(Err(failed.fault.stopped()));
                return false;
            }
            futures::executor::block_on(self.serving.compact(upto))
        };
        let _ = reply.send(answer);
        true
    }

    /// Writes a frame and syncs it.
    fn append(&mut self, frame: &mut [u8]) -> Result<(), Failed> {
        let unwritten = |fault| Failed { fault, written: false };
        if self.tail.end + frame.len() as u64 > self.tail.segment.capacity {
            self.roll(frame.len()).map_err(unwritten)?;
        }
        let Tail { segment, end, sequence } = &mut self.tail;
        segment.seal(frame, *sequence);
        let written = |fault| Failed { fault, written: true };
        segment.file.write_at(*end, frame).map_err(|e| written(RedbFault::write(&segment.path, e)))?;
        segment.file.sync().map_err(|e| written(RedbFault::sync(&segment.path, e)))?;
        *end = Segment::after(*end, frame.len());
        *sequence += 1;
        self.marked = false;
        Ok(())
    }

    /// Goes on in the next segment. Waits for the keeper where the log has grown too long.
    fn roll(&mut self, len: usize) -> Result<(), RedbFault> {
        let path = self.tail.segment.path.clone();
        let gone = || RedbFault::write(&path, std::io::ErrorKind::BrokenPipe.into());
        let mut segment = self.ready.recv().map_err(|_| gone())??;
        let needed = capacity_for(len);
        if segment.capacity < needed {
            self.folder.grow(&mut segment, needed)?;
        }
        self.marked = false;
        self.hand_over(true);
        self.tail = Tail { segment, end: HEADER, sequence: self.tail.sequence };
        Ok(())
    }

    /// Gives the keeper the segment up to here. If the keeper is gone, the store has failed, which the next request finds.
    fn hand_over(&self, closed: bool) {
        let job = Job::Fold { segment: self.tail.segment.clone(), upto: self.tail.sequence, closed };
        let _ = self.jobs.send(job);
    }

    /// Marks what is synced. It costs no sync of its own, and is lost with the machine's power at worst.
    fn mark(&mut self) {
        let Tail { segment, end, sequence } = &self.tail;
        if !self.marked && *end + FRAME_HEADER as u64 <= segment.capacity {
            // If the disk fails here, the next commit finds it out.
            self.marked = segment.mark(*end, *sequence).is_ok();
        }
    }

    /// The next request. Before it sleeps, the thread marks what it has synced.
    fn wait(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<Request> {
        for _ in 0..SPINS {
            match requests.try_recv() {
                Ok(request) => return Some(request),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.mark();
                    return None;
                }
                // Whoever is to be met may need this core.
                Err(mpsc::error::TryRecvError::Empty) => std::thread::yield_now(),
            }
        }
        self.mark();
        requests.blocking_recv()
    }

    fn stop(&self, fault: &RedbFault) {
        tracing::error!(folder = %self.folder.path.display(), error = %fault, "the store has stopped");
        fail(&self.serving, fault);
    }
}

/// Planned transactions and their answers.
#[derive(Default)]
struct Batch {
    commits: Vec<wharf_store_mvcc::Commit>,
    answers: Vec<(Reply<Revision>, StoreResult<Revision>)>,
}

/// Ends every call and every watch with this.
pub(crate) fn fail(serving: &Serving, fault: &RedbFault) {
    let fault = fault.clone();
    serving.fail(move || fault.stopped());
}

fn start(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(FRAME_HEADER, 0);
}
