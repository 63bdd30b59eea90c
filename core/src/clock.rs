//! Time as a dependency: nothing in Wharf asks the machine for the time directly.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A source of time and of timers.
///
/// # Contract
/// `monotonic` never goes back and has an arbitrary origin; `now` is the wall clock and may jump. A
/// future from `sleep` completes once `monotonic` has advanced by at least the given duration.
///
/// # Cancellation
/// Dropping a future returned by `sleep` forgets the timer.
///
/// # Panics
/// Never.
pub trait Clock: Send + Sync + Debug + 'static {
    /// Time since an arbitrary origin; for measuring and for deadlines.
    fn monotonic(&self) -> Duration;
    /// Wall-clock time; for timestamps in objects.
    fn now(&self) -> Timestamp;
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock, with tokio's timers.
#[derive(Debug, Clone)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A shared system clock.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::default())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until a test moves it.
///
/// ```
/// use std::time::Duration;
/// use wharf_core::clock::{Clock, ManualClock};
/// let clock = ManualClock::default();
/// let before = clock.monotonic();
/// clock.advance(Duration::from_secs(3));
/// assert_eq!(clock.monotonic() - before, Duration::from_secs(3));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    inner: Arc<Mutex<Manual>>,
}

#[derive(Debug, Default)]
struct Manual {
    elapsed: Duration,
    timers: Vec<(Duration, oneshot::Sender<()>)>,
}

impl ManualClock {
    /// Moves time forward and fires every timer that has come due.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut inner = self.inner.lock();
            inner.elapsed += by;
            let now = inner.elapsed;
            let (due, rest) = std::mem::take(&mut inner.timers).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= now);
            inner.timers = rest;
            due
        };
        for (_, timer) in due {
            // A receiver that is gone has been cancelled.
            let _ = timer.send(());
        }
    }

    /// How many timers are waiting.
    pub fn waiting(&self) -> usize {
        self.inner.lock().timers.iter().filter(|(_, timer)| !timer.is_closed()).count()
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.inner.lock().elapsed
    }
    fn now(&self) -> Timestamp {
        // A fixed day, so that a run under a seed prints the same timestamps.
        let start = Timestamp::constant(1_767_225_600, 0);
        start.checked_add(jiff::SignedDuration::try_from(self.monotonic()).unwrap_or_default()).unwrap_or(Timestamp::MAX)
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (send, receive) = oneshot::channel();
        let mut inner = self.inner.lock();
        let at = inner.elapsed + duration;
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        inner.timers.push((at, send));
        Box::pin(async move {
            let _ = receive.await;
        })
    }
}
