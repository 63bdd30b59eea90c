//! Pods that wait for a node: ready to be tried, backing off, or until something changes.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use wharf_core::object::ObjectRef;
use wharf_core::scheduler::PodInfo;

use crate::plugin::QueueSort;

/// Wait after the first attempt.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after attempts.
pub const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// After this long a pod that fits nowhere is tried again, even if nothing changed.
pub const UNSCHEDULABLE_MOST: Duration = Duration::from_secs(300);

/// A pod in the queue.
#[derive(Debug, Clone)]
pub struct QueuedPod {
    /// The pod.
    pub info: Arc<PodInfo>,
    /// Attempts that ended.
    pub attempts: u32,
    /// When it came into the queue first; time since an arbitrary origin.
    pub since: Duration,
}

/// By priority, then by time: what Kubernetes' PrioritySort does.
pub(crate) fn by_priority(a: &QueuedPod, b: &QueuedPod) -> Ordering {
    b.info.priority().cmp(&a.info.priority()).then(a.since.cmp(&b.since))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Duration),
    /// Since when, refused by which plugins.
    Unschedulable(Duration, BTreeSet<&'static str>),
    /// Not to be tried until the pod itself changes.
    Gated,
    /// Being tried.
    Out,
}

#[derive(Debug)]
struct Entry {
    pod: QueuedPod,
    place: Place,
    /// When its back-off ends.
    ready: Duration,
    /// Tells the newest entry in the heap from older ones of the same pod.
    ticket: u64,
}

#[derive(Debug)]
struct Candidate {
    key: ObjectRef,
    pod: QueuedPod,
    ticket: u64,
    sort: Option<Arc<dyn QueueSort>>,
}

impl Ord for Candidate {
    /// The heap gives its greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        let order = match &self.sort {
            Some(sort) => sort.compare(&self.pod, &other.pod),
            None => by_priority(&self.pod, &other.pod),
        };
        order.then(self.ticket.cmp(&other.ticket)).reverse()
    }
}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Candidate {}

/// Its size is bounded by the number of pods without a node.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<ObjectRef, Entry>,
    active: BinaryHeap<Candidate>,
    backoff: BTreeSet<(Duration, ObjectRef)>,
    tickets: u64,
    sort: Option<Arc<dyn QueueSort>>,
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(BACKOFF_MOST)
}

impl Queue {
    pub(crate) fn new(sort: Option<Arc<dyn QueueSort>>) -> Self {
        Self { sort, ..Self::default() }
    }

    /// Adds a pod, or takes over its newer state; `changed` says whether what matters to scheduling did.
    pub(crate) fn add(&mut self, info: Arc<PodInfo>, gated: bool, changed: bool, now: Duration) {
        let key = info.object_ref();
        match self.entries.get_mut(&key) {
            Some(entry) if entry.pod.info.pod.metadata.uid == info.pod.metadata.uid => {
                entry.pod.info = info;
                if entry.place == Place::Out {
                    return;
                }
                if gated {
                    self.put(&key, Place::Gated);
                } else if entry.place == Place::Gated {
                    self.put(&key, Place::Active);
                } else if changed {
                    self.wake(&key, now);
                }
            }
            _ => {
                self.remove(&key);
                let pod = QueuedPod { info, attempts: 0, since: now };
                self.entries.insert(key.clone(), Entry { pod, place: Place::Gated, ready: now, ticket: 0 });
                if !gated {
                    self.put(&key, Place::Active);
                }
            }
        }
    }

    pub(crate) fn known(&self, key: &ObjectRef) -> Option<&Arc<PodInfo>> {
        self.entries.get(key).map(|e| &e.pod.info)
    }
    pub(crate) fn keys(&self) -> Vec<ObjectRef> {
        self.entries.keys().cloned().collect()
    }

    pub(crate) fn remove(&mut self, key: &ObjectRef) {
        if let Some(entry) = self.entries.remove(key)
            && let Place::Backoff(at) = entry.place
        {
            self.backoff.remove(&(at, key.clone()));
        }
    }

    fn put(&mut self, key: &ObjectRef, place: Place) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Place::Backoff(at) = entry.place {
            self.backoff.remove(&(at, key.clone()));
        }
        match &place {
            Place::Active => {
                self.tickets += 1;
                entry.ticket = self.tickets;
                let (pod, ticket) = (entry.pod.clone(), entry.ticket);
                self.active.push(Candidate { key: key.clone(), pod, ticket, sort: self.sort.clone() });
            }
            Place::Backoff(at) => {
                self.backoff.insert((*at, key.clone()));
            }
            _ => {}
        }
        entry.place = place;
    }

    /// Tries a pod that waits for a change again, once its back-off is over.
    fn wake(&mut self, key: &ObjectRef, now: Duration) {
        let Some(entry) = self.entries.get(key) else { return };
        if matches!(entry.place, Place::Unschedulable(..)) {
            let place = if entry.ready <= now { Place::Active } else { Place::Backoff(entry.ready) };
            self.put(key, place);
        }
    }

    /// The next pod to try. It stays in the queue's sight until one of the calls that end an attempt.
    pub(crate) fn pop(&mut self) -> Option<QueuedPod> {
        while let Some(candidate) = self.active.pop() {
            // What was removed, moved or added again since leaves stale candidates behind.
            if let Some(entry) = self.entries.get_mut(&candidate.key)
                && entry.place == Place::Active
                && entry.ticket == candidate.ticket
            {
                entry.place = Place::Out;
                return Some(entry.pod.clone());
            }
        }
        None
    }

    fn ended(&mut self, key: &ObjectRef, now: Duration) -> Option<Duration> {
        let entry = self.entries.get_mut(key)?;
        entry.pod.attempts = entry.pod.attempts.saturating_add(1);
        entry.ready = now + backoff(entry.pod.attempts);
        Some(entry.ready)
    }

    /// It fits nowhere until something changes.
    pub(crate) fn unschedulable(&mut self, key: &ObjectRef, plugins: BTreeSet<&'static str>, now: Duration) {
        if self.ended(key, now).is_some() {
            self.put(key, Place::Unschedulable(now, plugins));
        }
    }

    /// The attempt failed.
    pub(crate) fn failed(&mut self, key: &ObjectRef, now: Duration) {
        if let Some(ready) = self.ended(key, now) {
            self.put(key, Place::Backoff(ready));
        }
    }

    /// It has to wait until the pod itself changes.
    pub(crate) fn gated(&mut self, key: &ObjectRef) {
        self.put(key, Place::Gated);
    }

    /// Something changed that may help; with `plugins`, only pods that one of these refused.
    pub(crate) fn wake_all(&mut self, plugins: Option<&[&'static str]>, now: Duration) {
        let helps = |place: &Place| match place {
            Place::Unschedulable(_, refused) => plugins.is_none_or(|p| p.iter().any(|p| refused.contains(p))),
            _ => false,
        };
        let keys: Vec<_> = self.entries.iter().filter(|(_, e)| helps(&e.place)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            self.wake(&key, now);
        }
    }

    /// Moves pods whose time has come.
    pub(crate) fn flush(&mut self, now: Duration) {
        while let Some((at, key)) = self.backoff.first().cloned()
            && at <= now
        {
            self.put(&key, Place::Active);
        }
    }

    /// Moves pods that have waited for a change for [`UNSCHEDULABLE_MOST`].
    pub(crate) fn flush_unschedulable(&mut self, now: Duration) {
        let over = |e: &Entry| matches!(e.place, Place::Unschedulable(since, _) if since + UNSCHEDULABLE_MOST <= now);
        let keys: Vec<_> = self.entries.iter().filter(|(_, e)| over(e)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            self.wake(&key, now);
        }
    }

    /// When the next back-off ends.
    pub(crate) fn next_backoff(&self) -> Option<Duration> {
        self.backoff.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({"metadata":{"name":name,"namespace":"ns","uid":name},"spec":{"priority":priority,"containers":[]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }
    fn key(name: &str) -> ObjectRef {
        ObjectRef::new("ns", name)
    }
    fn pop(queue: &mut Queue) -> Option<String> {
        queue.pop().and_then(|p| p.info.pod.metadata.name.clone())
    }

    #[test]
    fn by_priority_then_time() {
        let mut queue = Queue::default();
        queue.add(pod("late", 0), false, true, SECOND * 2);
        queue.add(pod("early", 0), false, true, SECOND);
        queue.add(pod("high", 5), false, true, SECOND * 3);
        queue.add(pod("gone", 9), false, true, SECOND);
        queue.add(pod("gated", 9), true, true, SECOND);
        queue.remove(&key("gone"));
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
        assert_eq!(order, ["high", "early", "late"]);
    }

    #[test]
    fn a_change_before_the_back_off_ends_waits_for_it() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), false, true, SECOND);
        queue.pop().unwrap();
        queue.unschedulable(&key("a"), ["Fit"].into(), SECOND);
        queue.wake_all(Some(&["Other"]), SECOND);
        assert_eq!(queue.next_backoff(), None, "the change does not concern what refused it");
        queue.wake_all(None, SECOND);
        assert!(queue.pop().is_none());
        assert_eq!(queue.next_backoff(), Some(SECOND * 2));
        queue.flush(SECOND * 2);
        assert_eq!(queue.pop().unwrap().attempts, 1);
        queue.unschedulable(&key("a"), ["Fit"].into(), SECOND * 2);
        queue.wake_all(Some(&["Fit"]), SECOND * 60);
        assert_eq!(queue.pop().unwrap().attempts, 2, "after the back-off at once");
    }

    #[test]
    fn back_off_doubles_up_to_its_bound() {
        assert_eq!((1..6).map(|n| backoff(n).as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 10]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MOST);
    }

    #[test]
    fn nothing_waits_for_ever() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), false, true, SECOND);
        queue.pop().unwrap();
        queue.unschedulable(&key("a"), BTreeSet::new(), SECOND);
        queue.flush_unschedulable(UNSCHEDULABLE_MOST);
        assert!(queue.pop().is_none());
        queue.flush_unschedulable(SECOND + UNSCHEDULABLE_MOST);
        assert!(queue.pop().is_some());
    }

    #[test]
    fn a_status_update_does_not_wake_and_a_lifted_gate_does() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), true, true, SECOND);
        assert!(queue.pop().is_none());
        queue.add(pod("a", 0), false, true, SECOND);
        queue.pop().unwrap();
        queue.unschedulable(&key("a"), BTreeSet::new(), SECOND);
        queue.add(pod("a", 0), false, false, SECOND * 9);
        assert!(queue.pop().is_none());
        queue.add(pod("a", 0), false, true, SECOND * 9);
        assert!(queue.pop().is_some());
    }
}
