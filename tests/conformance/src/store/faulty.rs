//! A store that fails when it is told to, or by chance under a seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use wharf_core::clock::Clock;
use wharf_core::runtime::Retry;
use wharf_core::store::{
    Key, ListOptions, Listing, ObjectStore, Record, Revision, Scope, SharedStore, StoreCapabilities, StoreError, StoreResult, Transaction,
    WatchStream,
};

/// Most faults that may wait for their call.
pub const MAX_SCRIPT: usize = 10_000;

/// A fault that was made on purpose; the source of the errors that [`Faulty`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fault made for a test: {0}")]
pub struct Injected(&'static str);

/// A call of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`ObjectStore::revision`].
    Revision,
    /// [`ObjectStore::get`].
    Get,
    /// [`ObjectStore::list`].
    List,
    /// [`ObjectStore::commit`].
    Commit,
    /// The start of a watch.
    Watch,
    /// [`ObjectStore::compact`].
    Compact,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFault {
    /// None: the call goes through.
    Pass,
    /// It fails before it has done anything, and may be tried again.
    Fails,
    /// It fails before it has done anything, and will again.
    FailsForGood,
    /// It is carried out, but answers [`StoreError::OutcomeUnknown`]; a call that changes nothing fails.
    DoneUnknown,
    /// It is not carried out, and answers [`StoreError::OutcomeUnknown`]; a call that changes nothing fails.
    NotDoneUnknown,
    /// It is carried out after this time by the clock.
    Late(Duration),
    /// Of a watch: it breaks after so many items. Of another call: [`StoreFault::Fails`].
    BreaksAfter(usize),
    /// Of a watch: it is told that it is too old after so many items. Of another call: [`StoreFault::Fails`].
    ExpiresAfter(usize),
}

/// How often calls fail by chance: so many of a thousand each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Odds {
    /// [`StoreFault::Fails`], of every call.
    pub fails: u16,
    /// [`StoreFault::DoneUnknown`], of commits.
    pub done_unknown: u16,
    /// [`StoreFault::NotDoneUnknown`], of commits.
    pub not_done_unknown: u16,
    /// [`StoreFault::Late`] by up to [`Odds::latest`], of every call.
    pub late: u16,
    /// The longest delay.
    pub latest: Duration,
    /// [`StoreFault::BreaksAfter`] up to 8 items, of watches.
    pub breaks: u16,
    /// [`StoreFault::ExpiresAfter`] up to 8 items, of watches.
    pub expires: u16,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<(Call, StoreFault)>,
    chance: Option<(u64, Odds)>,
    made: u64,
}

/// What every running watch hears.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    down: bool,
    /// Counts ends of all running watches.
    cuts: u64,
    /// Whether the newest cut says that the watches are too old.
    expired: bool,
}

/// A decorator over any store for tests of what stands above: it fails by script, by chance under a seed, or altogether while it is
/// disconnected. Without faults it is the store below. Clones share the faults.
///
/// # Cancellation
/// As the store below; a delay that is dropped has not reached it.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: SharedStore,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
    line: Arc<watch::Sender<Line>>,
}

impl Faulty {
    /// A store without faults yet. Delays go by `clock`.
    pub fn new(inner: SharedStore, clock: Arc<dyn Clock>) -> Self {
        Self { inner, clock, state: Arc::default(), line: Arc::new(watch::Sender::default()) }
    }
    /// The store below.
    pub fn inner(&self) -> &SharedStore {
        &self.inner
    }
    /// Adds faults: each meets the next call of its kind, in order. What is over [`MAX_SCRIPT`] is left out.
    pub fn script(&self, faults: impl IntoIterator<Item = (Call, StoreFault)>) {
        let mut state = self.state.lock();
        let room = MAX_SCRIPT.saturating_sub(state.script.len());
        state.script.extend(faults.into_iter().take(room));
    }
    /// From now on calls that no script is for fail by chance; the same seed and the same order of calls give the same faults.
    pub fn by_chance(&self, seed: u64, odds: Odds) {
        self.state.lock().chance = Some((seed, odds));
    }
    /// No more faults by script or by chance.
    pub fn heal(&self) {
        *self.state.lock() = State::default();
        self.reconnect();
    }
    /// Every call fails and every watch breaks until [`Faulty::reconnect`].
    pub fn disconnect(&self) {
        self.line.send_modify(|line| *line = Line { down: true, cuts: line.cuts + 1, expired: false });
    }
    /// Calls go through again.
    pub fn reconnect(&self) {
        self.line.send_modify(|line| line.down = false);
    }
    /// Breaks every running watch once.
    pub fn cut_watches(&self) {
        self.line.send_modify(|line| *line = Line { cuts: line.cuts + 1, expired: false, ..*line });
    }
    /// Tells every running watch that it is too old.
    pub fn expire_watches(&self) {
        self.line.send_modify(|line| *line = Line { cuts: line.cuts + 1, expired: true, ..*line });
    }
    /// How many faults have been made so far, without what [`Faulty::disconnect`] did.
    pub fn made(&self) -> u64 {
        self.state.lock().made
    }

    fn fault(&self, call: Call) -> StoreFault {
        let mut state = self.state.lock();
        let scripted = state.script.iter().position(|(of, _)| *of == call).and_then(|at| state.script.remove(at));
        let fault = match (scripted, &mut state.chance) {
            (Some((_, fault)), _) => fault,
            (None, Some((random, odds))) => draw(random, odds, call),
            (None, None) => StoreFault::Pass,
        };
        state.made += u64::from(fault != StoreFault::Pass);
        fault
    }

    /// Before a call that changes nothing.
    async fn read(&self, call: Call, op: &'static str) -> StoreResult<()> {
        if self.line.borrow().down {
            return Err(failed(op, "disconnected", Retry::Transient));
        }
        match self.fault(call) {
            StoreFault::Pass => Ok(()),
            StoreFault::Late(time) => {
                self.clock.sleep(time).await;
                Ok(())
            }
            StoreFault::FailsForGood => Err(failed(op, "it fails for good", Retry::Permanent)),
            _ => Err(failed(op, "it fails", Retry::Transient)),
        }
    }
}

fn failed(op: &'static str, why: &'static str, retry: Retry) -> StoreError {
    StoreError::Backend { op, retry, source: Box::new(Injected(why)) }
}

fn unknown(why: &'static str) -> StoreError {
    StoreError::OutcomeUnknown { source: Box::new(Injected(why)) }
}

/// SplitMix64: small, and the same everywhere.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn draw(state: &mut u64, odds: &Odds, call: Call) -> StoreFault {
    let (dice, more) = (random(state) % 1000, random(state));
    let items = (more % 9) as usize;
    let micros = u64::try_from(odds.latest.as_micros()).unwrap_or(u64::MAX);
    let late = Duration::from_micros(if micros == 0 { 0 } else { more % micros });
    let of = |only: Option<Call>, odds: u16| if only.is_none_or(|only| only == call) { u64::from(odds) } else { 0 };
    let faults = [
        (of(None, odds.fails), StoreFault::Fails),
        (of(Some(Call::Commit), odds.done_unknown), StoreFault::DoneUnknown),
        (of(Some(Call::Commit), odds.not_done_unknown), StoreFault::NotDoneUnknown),
        (of(None, odds.late), StoreFault::Late(late)),
        (of(Some(Call::Watch), odds.breaks), StoreFault::BreaksAfter(items)),
        (of(Some(Call::Watch), odds.expires), StoreFault::ExpiresAfter(items)),
    ];
    let mut under = 0;
    faults
        .into_iter()
        .find(|(odds, _)| {
            under += odds;
            dice < under
        })
        .map_or(StoreFault::Pass, |(_, fault)| fault)
}

#[async_trait]
impl ObjectStore for Faulty {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities()
    }

    async fn revision(&self) -> StoreResult<Revision> {
        self.read(Call::Revision, "revision").await?;
        self.inner.revision().await
    }

    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.read(Call::Get, "get").await?;
        self.inner.get(key).await
    }

    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.read(Call::List, "list").await?;
        self.inner.list(scope, options).await
    }

    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        if self.line.borrow().down {
            return Err(failed("commit", "disconnected", Retry::Transient));
        }
        match self.fault(Call::Commit) {
            StoreFault::Pass => self.inner.commit(transaction).await,
            StoreFault::Late(time) => {
                self.clock.sleep(time).await;
                self.inner.commit(transaction).await
            }
            StoreFault::DoneUnknown => {
                // A refusal is an answer too, and it is lost likewise.
                let _ = self.inner.commit(transaction).await;
                Err(unknown("the answer was lost"))
            }
            StoreFault::NotDoneUnknown => Err(unknown("the request was lost")),
            StoreFault::FailsForGood => Err(failed("commit", "it fails for good", Retry::Permanent)),
            _ => Err(failed("commit", "it fails", Retry::Transient)),
        }
    }

    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        // Seen before the watch is made: a cut that comes in between ends it.
        let mut line = self.line.subscribe();
        let begun = *line.borrow_and_update();
        if begun.down {
            return Err(failed("watch", "disconnected", Retry::Transient));
        }
        let end = match self.fault(Call::Watch) {
            StoreFault::Pass => None,
            StoreFault::Late(time) => {
                self.clock.sleep(time).await;
                None
            }
            StoreFault::BreaksAfter(items) => Some((items, false)),
            StoreFault::ExpiresAfter(items) => Some((items, true)),
            StoreFault::FailsForGood => return Err(failed("watch", "it fails for good", Retry::Permanent)),
            _ => return Err(failed("watch", "it fails", Retry::Transient)),
        };
        let stream = self.inner.watch(scope, after).await?;
        let state = Running { stream, line, cuts: begun.cuts, end, position: after };
        Ok(futures::stream::unfold(Some(state), |running| async move {
            let mut running = running?;
            let item = running.next().await?;
            let ends = item.is_err();
            Some((item, (!ends).then_some(running)))
        })
        .boxed())
    }

    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.read(Call::Compact, "compact").await?;
        self.inner.compact(upto).await
    }
}

struct Running {
    stream: WatchStream,
    line: watch::Receiver<Line>,
    cuts: u64,
    /// Items left until it ends, and whether it then is too old.
    end: Option<(usize, bool)>,
    position: Revision,
}

impl Running {
    /// Between items it holds only the stream below, so a dropped `next` loses nothing.
    async fn next(&mut self) -> Option<StoreResult<wharf_core::store::WatchItem>> {
        use wharf_core::store::WatchItem;
        if let Some((0, expired)) = self.end {
            return Some(Err(self.error(expired)));
        }
        let cuts = self.cuts;
        let item = tokio::select! {
            biased;
            // The decorator is gone: its watches end as those of a closed store do.
            expired = async { self.line.wait_for(|line| line.cuts > cuts).await.ok().map(|line| line.expired) } => Err(expired?),
            item = self.stream.next() => Ok(item?),
        };
        let item = match item {
            Ok(item) => item,
            Err(expired) => return Some(Err(self.error(expired))),
        };
        if let Ok(WatchItem::Commit { revision, .. } | WatchItem::Progress(revision)) = &item {
            self.position = *revision;
        }
        if let Some((left, _)) = &mut self.end {
            *left -= 1;
        }
        Some(item)
    }

    fn error(&self, expired: bool) -> StoreError {
        if expired {
            StoreError::Expired { compacted: Revision(self.position.0 + 1) }
        } else {
            failed("watch", "the watch breaks", Retry::Transient)
        }
    }
}
