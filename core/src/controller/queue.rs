//! The work queue: a key is worked on by one worker at a time, and never forgotten.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::object::ObjectRef;

/// First delay after a failure.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// Longest delay after failures.
pub const BACKOFF_MOST: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<ObjectRef>,
    dirty: HashSet<ObjectRef>,
    working: HashSet<ObjectRef>,
    later: HashMap<ObjectRef, Duration>,
    failures: HashMap<ObjectRef, u32>,
}

/// Keys to work on, each once. Its size is bounded by the number of keys.
#[derive(Debug)]
pub struct WorkQueue {
    inner: Mutex<Inner>,
    ready: Notify,
    later: Notify,
    clock: Arc<dyn Clock>,
}

impl WorkQueue {
    /// An empty queue.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { inner: Mutex::default(), ready: Notify::new(), later: Notify::new(), clock }
    }

    /// Asks for a key to be worked on. A key that is being worked on will be again afterwards.
    pub fn add(&self, key: ObjectRef) {
        let mut inner = self.inner.lock();
        // An early trigger replaces a wait, but does not count as a failure.
        inner.later.remove(&key);
        if !inner.dirty.insert(key.clone()) || inner.working.contains(&key) {
            return;
        }
        inner.ready.push_back(key);
        drop(inner);
        self.ready.notify_one();
    }

    /// Asks for a key after a delay, unless it is asked for earlier.
    pub fn add_after(&self, key: ObjectRef, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = self.clock.monotonic() + delay;
        let mut inner = self.inner.lock();
        if inner.dirty.contains(&key) {
            return;
        }
        let at = inner.later.entry(key).or_insert(due);
        *at = due.min(*at);
        drop(inner);
        self.later.notify_one();
    }

    /// Asks for a key after its back-off, which doubles with each failure in a row; `jitter` is in 0..1.
    pub fn add_failed(&self, key: ObjectRef, jitter: f64) {
        let delay = {
            let mut inner = self.inner.lock();
            let failures = inner.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            BACKOFF_FIRST.saturating_mul(1u32 << (*failures - 1).min(20)).min(BACKOFF_MOST)
        };
        self.add_after(key, delay + delay.mul_f64(jitter * 0.25));
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &ObjectRef) {
        self.inner.lock().failures.remove(key);
    }

    /// Failures of a key in a row.
    pub fn failures(&self, key: &ObjectRef) -> u32 {
        self.inner.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Keys that wait for a worker now.
    pub fn depth(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// The next key. Until [`WorkQueue::done`] nobody else gets it. Safe to drop at any point.
    pub async fn next(&self) -> ObjectRef {
        loop {
            if let Some(key) = self.try_next() {
                return key;
            }
            self.ready.notified().await;
        }
    }

    fn try_next(&self) -> Option<ObjectRef> {
        let mut inner = self.inner.lock();
        let key = inner.ready.pop_front()?;
        inner.dirty.remove(&key);
        inner.working.insert(key.clone());
        if !inner.ready.is_empty() {
            self.ready.notify_one();
        }
        Some(key)
    }

    /// Gives a key back.
    pub fn done(&self, key: &ObjectRef) {
        let mut inner = self.inner.lock();
        inner.working.remove(key);
        if inner.dirty.contains(key) {
            inner.ready.push_back(key.clone());
            drop(inner);
            self.ready.notify_one();
        }
    }

    /// Moves keys whose delay has passed into the queue; never ends. One task runs it.
    pub async fn run_delays(&self) {
        loop {
            let now = self.clock.monotonic();
            let (due, next) = {
                let inner = self.inner.lock();
                let due: Vec<_> = inner.later.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
                (due, inner.later.values().copied().filter(|at| *at > now).min())
            };
            for key in due {
                self.add(key);
            }
            match next {
                Some(at) => {
                    tokio::select! { () = self.clock.sleep(at.saturating_sub(now)) => {}, () = self.later.notified() => {} }
                }
                None => self.later.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn key(name: &str) -> ObjectRef {
        ObjectRef::new("ns", name)
    }

    #[tokio::test]
    async fn a_key_added_while_worked_on_comes_again_once() {
        let queue = WorkQueue::new(Arc::new(ManualClock::default()));
        queue.add(key("a"));
        let got = queue.next().await;
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.depth(), 0, "nobody else may get it");
        queue.done(&got);
        assert_eq!(queue.depth(), 1);
        let got = queue.next().await;
        queue.done(&got);
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test]
    async fn an_early_trigger_does_not_inflate_the_back_off() {
        let clock = ManualClock::default();
        let queue = Arc::new(WorkQueue::new(Arc::new(clock.clone())));
        queue.add_failed(key("a"), 0.0);
        queue.add(key("a"));
        assert_eq!(queue.failures(&key("a")), 1);
        assert_eq!(queue.depth(), 1);
        let got = queue.next().await;
        queue.done(&got);
        queue.add_failed(key("a"), 0.0);
        let runner = tokio::spawn({
            let queue = queue.clone();
            async move { queue.run_delays().await }
        });
        while clock.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.depth(), 0);
        clock.advance(BACKOFF_FIRST * 2);
        assert_eq!(queue.next().await, key("a"));
        runner.abort();
    }

    #[test]
    fn back_off_is_bounded() {
        let queue = WorkQueue::new(Arc::new(ManualClock::default()));
        for _ in 0..100 {
            queue.add_failed(key("a"), 1.0);
        }
        assert_eq!(queue.failures(&key("a")), 100);
    }
}
