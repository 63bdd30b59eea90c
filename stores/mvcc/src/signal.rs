//! Who is woken by what.
//!
//! A commit wakes the watches of the resources that it touched, and those of everything. The others have nothing to read; they
//! are only owed the progress. Were all of them woken by every commit, ten thousand watches of pods would run for every event
//! of an idle corner. So a commit pays for [`CROWD`] of them: a few are woken every time, and a crowd once as many commits have
//! come by as pay for it, or when somebody asks where the store is, who may be about to wait for a watch to get there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use wharf_core::store::{Change, ResourceId, Scope};

/// How many watches that a commit does not concern are woken by it, on average.
pub const CROWD: usize = 32;

/// The watches of a store that wait.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// How many wait. Only a hint outside of the lock of the state, where it is exact; see [`Signals::committed`].
    waiting: AtomicUsize,
    /// Whether some wait that are owed progress.
    owed: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Watches of everything.
    all: Vec<usize>,
    resources: BTreeMap<ResourceId, Group>,
    /// Commits that the crowd has not been woken for.
    passed: usize,
}

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    /// Where it is in its group's list while it waits.
    place: Option<usize>,
}

/// The watches of a resource.
#[derive(Debug, Default)]
struct Group {
    members: usize,
    waiting: Vec<usize>,
}

/// A watch's place among those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(usize);

fn resource_of(scope: &Scope) -> Option<&ResourceId> {
    match scope {
        Scope::Resource(resource) | Scope::Namespace(resource, _) => Some(resource),
        _ => None,
    }
}

impl Signals {
    /// A place for a watch of a scope.
    pub(crate) fn join(&self, scope: &Scope) -> Place {
        let mut inner = self.inner.lock();
        if let Some(resource) = resource_of(scope) {
            inner.resources.entry(resource.clone()).or_default().members += 1;
        }
        let slot = inner.free.pop().unwrap_or_else(|| {
            inner.slots.push(Slot::default());
            inner.slots.len() - 1
        });
        Place(slot)
    }

    /// Gives the place back.
    pub(crate) fn leave(&self, scope: &Scope, place: Place) {
        let mut inner = self.inner.lock();
        let Inner { slots, free, all, resources, .. } = &mut *inner;
        let Some(slot) = slots.get_mut(place.0) else { return };
        let waker = slot.waker.take();
        let position = slot.place.take();
        let resource = resource_of(scope);
        let mut group = resource.and_then(|resource| resources.get_mut(resource));
        if let Some(position) = position {
            let list = group.as_mut().map_or(all, |group| &mut group.waiting);
            list.swap_remove(position);
            if let Some(moved) = list.get(position).and_then(|moved| slots.get_mut(*moved)) {
                moved.place = Some(position);
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let (Some(group), Some(resource)) = (group, resource) {
            group.members -= 1;
            if group.members == 0 {
                resources.remove(resource);
            }
        }
        free.push(place.0);
        drop(inner);
        // A waker may run code of its own.
        drop(waker);
    }

    /// Waits: the waker is woken once, by what concerns the scope, or by what wakes all.
    pub(crate) fn wait(&self, scope: &Scope, place: Place, waker: &Waker) {
        let mut inner = self.inner.lock();
        let Inner { slots, all, resources, .. } = &mut *inner;
        let Some(slot) = slots.get_mut(place.0) else { return };
        let mut old = None;
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            old = slot.waker.replace(waker.clone());
        }
        if slot.place.is_none() {
            let list = match resource_of(scope) {
                Some(resource) => match resources.get_mut(resource) {
                    Some(group) => &mut group.waiting,
                    None => return,
                },
                None => all,
            };
            slot.place = Some(list.len());
            list.push(place.0);
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        drop(inner);
        drop(old);
    }

    /// Whether nobody waits. Exact for the commit that asks, after it was made under the state's lock: a watch reads the state
    /// once more after it began to wait, so either it has seen the commit, or its wait came before the commit's lock.
    pub(crate) fn nobody(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Some commits have come by, with these changes. Called after they are visible, without the state's lock.
    pub(crate) fn committed<'a>(&self, commits: usize, changes: impl IntoIterator<Item = &'a Change>) {
        if self.nobody() {
            return;
        }
        let mut woken = Vec::new();
        let mut inner = self.inner.lock();
        let inner_mut = &mut *inner;
        take(&mut inner_mut.slots, &mut inner_mut.all, &mut woken);
        let mut last = None;
        for resource in changes.into_iter().map(|c| &c.key().resource) {
            if last != Some(resource) {
                last = Some(resource);
                if let Some(group) = inner_mut.resources.get_mut(resource) {
                    take(&mut inner_mut.slots, &mut group.waiting, &mut woken);
                }
            }
        }
        let rest = self.waiting.load(Ordering::Relaxed) - woken.len();
        inner_mut.passed = inner_mut.passed.saturating_add(commits);
        if rest <= inner_mut.passed.saturating_mul(CROWD) {
            take_all(inner_mut, &mut woken);
        }
        self.owed.store(inner_mut.passed > 0, Ordering::Relaxed);
        self.waiting.fetch_sub(woken.len(), Ordering::Relaxed);
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Somebody has learned where the store is: whoever is owed progress gets it.
    pub(crate) fn asked(&self) {
        if self.owed.load(Ordering::Relaxed) {
            self.wake_all();
        }
    }

    pub(crate) fn wake_all(&self) {
        let mut woken = Vec::new();
        let mut inner = self.inner.lock();
        take_all(&mut inner, &mut woken);
        self.owed.store(false, Ordering::Relaxed);
        self.waiting.fetch_sub(woken.len(), Ordering::Relaxed);
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
    }
}

fn take_all(inner: &mut Inner, woken: &mut Vec<Waker>) {
    take(&mut inner.slots, &mut inner.all, woken);
    for group in inner.resources.values_mut() {
        take(&mut inner.slots, &mut group.waiting, woken);
    }
    inner.passed = 0;
}

/// Takes the wakers of those in a list out of their slots.
fn take(slots: &mut [Slot], list: &mut Vec<usize>, woken: &mut Vec<Waker>) {
    woken.reserve(list.len());
    for slot in list.drain(..) {
        if let Some(slot) = slots.get_mut(slot) {
            slot.place = None;
            woken.extend(slot.waker.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use bytes::Bytes;
    use wharf_core::store::{Key, Record, Revision};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU32);
    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    struct Waiter {
        scope: Scope,
        place: Place,
        count: Arc<Counter>,
    }
    impl Waiter {
        fn new(signals: &Signals, scope: &Scope) -> Self {
            let waiter = Self { scope: scope.clone(), place: signals.join(scope), count: Arc::default() };
            waiter.wait(signals);
            waiter
        }
        fn wait(&self, signals: &Signals) {
            signals.wait(&self.scope, self.place, &Waker::from(self.count.clone()));
        }
        fn woken(&self) -> u32 {
            self.count.0.swap(0, Ordering::Relaxed)
        }
    }

    fn scope(resource: &str) -> Scope {
        Scope::Resource(ResourceId::new("", resource))
    }
    fn change(resource: &str) -> Change {
        let key = Key::new(ResourceId::new("", resource), "default", "a");
        Change::Delete { previous: Record { key, value: Bytes::new(), created: Revision(2), modified: Revision(2) } }
    }

    #[test]
    fn a_few_are_woken_by_every_commit_and_only_once() {
        let signals = Signals::default();
        let waiters = [Waiter::new(&signals, &Scope::All), Waiter::new(&signals, &scope("pods")), Waiter::new(&signals, &scope("nodes"))];
        for _ in 0..2 {
            signals.committed(1, &[change("pods")]);
        }
        assert_eq!(waiters.each_ref().map(Waiter::woken), [1, 1, 1]);
        assert!(signals.nobody());
    }

    #[test]
    fn a_crowd_is_woken_when_enough_commits_have_come_by() {
        let signals = Signals::default();
        let nodes: Vec<Waiter> = (0..CROWD * 3).map(|_| Waiter::new(&signals, &scope("nodes"))).collect();
        let pods = Waiter::new(&signals, &scope("pods"));
        let woken = || nodes.iter().map(Waiter::woken).sum::<u32>() as usize;
        for expected in [0, 0, CROWD * 3] {
            signals.committed(1, &[change("pods")]);
            assert_eq!((pods.woken(), woken()), (1, expected));
            pods.wait(&signals);
        }
        nodes.iter().for_each(|n| n.wait(&signals));
        // What concerns them wakes them at once, and a commit of two resources both.
        signals.committed(1, &[change("pods"), change("nodes")]);
        assert_eq!((pods.woken(), woken()), (1, CROWD * 3));
    }

    #[test]
    fn a_crowd_that_is_owed_progress_gets_it_when_somebody_asks() {
        let signals = Signals::default();
        let nodes: Vec<Waiter> = (0..CROWD * 3).map(|_| Waiter::new(&signals, &scope("nodes"))).collect();
        let woken = || nodes.iter().map(Waiter::woken).sum::<u32>() as usize;
        signals.asked();
        assert_eq!(woken(), 0, "nothing is owed");
        signals.committed(1, &[change("pods")]);
        assert_eq!(woken(), 0);
        signals.asked();
        assert_eq!(woken(), CROWD * 3);
        nodes.iter().for_each(|n| n.wait(&signals));
        signals.asked();
        assert_eq!(woken(), 0, "nothing is owed any more");
    }

    #[test]
    fn who_has_left_is_not_woken_and_leaves_nothing_behind() {
        let signals = Signals::default();
        let waiters: Vec<Waiter> = (0..5).map(|_| Waiter::new(&signals, &scope("pods"))).collect();
        // From the middle, from the end, and one that does not wait.
        for n in [1, 4] {
            signals.leave(&waiters[n].scope, waiters[n].place);
        }
        signals.committed(1, &[change("pods")]);
        assert_eq!(waiters.iter().map(Waiter::woken).collect::<Vec<_>>(), [1, 0, 1, 1, 0]);
        for n in [0, 2, 3] {
            signals.leave(&waiters[n].scope, waiters[n].place);
        }
        let inner = signals.inner.lock();
        assert_eq!((inner.resources.len(), inner.free.len(), inner.slots.len()), (0, 5, 5));
        assert!(signals.nobody());
    }

    #[test]
    fn waiting_again_replaces_the_waker() {
        let signals = Signals::default();
        let mut waiter = Waiter::new(&signals, &Scope::All);
        let before = std::mem::take(&mut waiter.count);
        waiter.wait(&signals);
        waiter.wait(&signals);
        signals.committed(1, &[change("pods")]);
        assert_eq!((before.0.load(Ordering::Relaxed), waiter.woken()), (0, 1));
    }
}
