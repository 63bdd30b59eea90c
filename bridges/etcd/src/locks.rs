//! Who may write at the same time: transactions that name their keys run beside each other, unless they share one; those about ranges
//! run alone, so that no key appears in a range between the look at it and the commit. All wait in order, so that none starves.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many groups keys are locked in.
const STRIPES: usize = 256;

/// What a transaction touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Touches {
    /// These keys.
    Keys(BTreeSet<Vec<u8>>),
    /// Any.
    Ranges,
}

pub(crate) struct Locks {
    all: RwLock<()>,
    stripes: Vec<Mutex<()>>,
}

/// The right to write what was named.
pub(crate) enum Held<'a> {
    Keys { _all: RwLockReadGuard<'a, ()>, _stripes: Vec<MutexGuard<'a, ()>> },
    Everything { _all: RwLockWriteGuard<'a, ()> },
}

impl Locks {
    pub(crate) fn new() -> Self {
        Self { all: RwLock::new(()), stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }

    pub(crate) async fn hold(&self, touches: &Touches) -> Held<'_> {
        let Touches::Keys(keys) = touches else {
            return Held::Everything { _all: self.all.write().await };
        };
        let all = self.all.read().await;
        // Each once and in order, or two might wait for each other.
        let wanted: BTreeSet<usize> = keys.iter().map(|key| stripe(key)).collect();
        let mut stripes = Vec::with_capacity(wanted.len());
        for index in wanted {
            stripes.push(self.stripes[index].lock().await);
        }
        Held::Keys { _all: all, _stripes: stripes }
    }
}

fn stripe(key: &[u8]) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % STRIPES
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn keys(names: &[&str]) -> Touches {
        Touches::Keys(names.iter().map(|n| n.as_bytes().to_vec()).collect())
    }

    #[test]
    fn only_those_that_share_a_key_wait_for_each_other() {
        let locks = Locks::new();
        let first = locks.hold(&keys(&["a", "b"])).now_or_never().unwrap();
        let other = locks.hold(&keys(&["c"])).now_or_never().unwrap();
        assert!(locks.hold(&keys(&["b", "d"])).now_or_never().is_none());
        assert!(locks.hold(&Touches::Ranges).now_or_never().is_none());
        drop((first, other));
        let alone = locks.hold(&Touches::Ranges).now_or_never().unwrap();
        assert!(locks.hold(&keys(&["e"])).now_or_never().is_none());
        drop(alone);
        // The same stripe twice is taken once.
        assert!(locks.hold(&keys(&["a", "a", "b"])).now_or_never().is_some());
    }
}
