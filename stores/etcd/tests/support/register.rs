//! Is a history of reads and writes of one key linearizable? After Wing and Gong, with Lowe's memory of what was tried.
//!
//! Every write has a value of its own, so that a value tells its write. A write whose outcome is unknown may have taken place at
//! any time after it began, or never.

use std::collections::HashSet;

/// What a key holds: the number of a write, or nothing.
pub type Value = Option<u64>;

/// What was done to a key, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It held this.
    Read(Value),
    /// It holds this now, whatever it held; `None` is a delete.
    Write(Value),
    /// It held the first and holds the second now.
    Swap(Value, Value),
}

/// An operation, by a clock that all clients share.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub action: Action,
    pub begun: u64,
    /// When its answer came; `None` if it did not tell the outcome.
    pub ended: Option<u64>,
}

impl Action {
    /// What a key holds afterwards, if this can take place.
    fn apply(self, value: Value) -> Option<Value> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Swap(old, new) => (old == value).then_some(new),
        }
    }
    fn writes(self) -> Option<Value> {
        match self {
            Self::Read(_) => None,
            Self::Write(new) | Self::Swap(_, new) => Some(new),
        }
    }
    fn needs(self) -> Value {
        match self {
            Self::Read(value) | Self::Swap(value, _) => value,
            Self::Write(_) => None,
        }
    }
}

/// Whether there is an order of the operations, each at one moment between its begin and its end, that explains what was seen.
pub fn is_linearizable(history: &[Operation]) -> bool {
    // An unknown write that nobody saw explains nothing: what follows it can only overwrite it.
    let seen: HashSet<u64> = history.iter().filter_map(|op| op.action.needs()).collect();
    let unseen = |op: &Operation| op.ended.is_none() && op.action.writes().flatten().is_some_and(|value| !seen.contains(&value));
    let mut history: Vec<Operation> =
        history.iter().copied().filter(|op| !unseen(op) && !matches!((op.action, op.ended), (Action::Read(_), None))).collect();
    // One that was seen took place before it was.
    for index in 0..history.len() {
        let Operation { action, ended: None, .. } = history[index] else { continue };
        let Some(value) = action.writes().flatten() else { continue };
        history[index].ended = history.iter().filter(|op| op.action.needs() == Some(value)).filter_map(|op| op.ended).min();
    }
    history.sort_by_key(|op| op.begun);
    let mut search = Search { done: vec![0; history.len().div_ceil(64)], left: 0, tried: HashSet::new(), history: &history };
    search.left = history.iter().filter(|op| op.ended.is_some()).count();
    search.run(None)
}

struct Search<'a> {
    history: &'a [Operation],
    /// A bit for each operation that has been put in order.
    done: Vec<u64>,
    /// Those with a known outcome that have not.
    left: usize,
    tried: HashSet<(Vec<u64>, Value)>,
}

impl Search<'_> {
    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & (1 << (index % 64)) != 0
    }
    fn flip(&mut self, index: usize) {
        self.done[index / 64] ^= 1 << (index % 64);
        if self.history[index].ended.is_some() {
            if self.is_done(index) { self.left -= 1 } else { self.left += 1 }
        }
    }

    /// Those that may be next: none that is left ended before they began.
    fn next(&self) -> Vec<usize> {
        let mut candidates = Vec::new();
        let (mut first_end, mut has_unknown_delete) = (u64::MAX, false);
        for (index, op) in self.history.iter().enumerate() {
            if op.begun > first_end {
                break;
            }
            if !self.is_done(index) {
                // Unknown deletes are alike: the first serves as well as any that began later.
                let alike = op.ended.is_none() && op.action == Action::Write(None);
                if !(alike && has_unknown_delete) {
                    candidates.push(index);
                }
                has_unknown_delete |= alike;
                first_end = first_end.min(op.ended.unwrap_or(u64::MAX));
            }
        }
        candidates.retain(|index| self.history[*index].begun <= first_end);
        candidates
    }

    /// Depth first, without recursion: histories are long.
    fn run(&mut self, start: Value) -> bool {
        let mut value = start;
        let mut path: Vec<(usize, Value, std::vec::IntoIter<usize>)> = Vec::new();
        let mut candidates = self.next().into_iter();
        loop {
            if self.left == 0 {
                return true;
            }
            let mut went = false;
            while let Some(index) = candidates.next() {
                let Some(after) = self.history[index].action.apply(value) else { continue };
                self.flip(index);
                if self.tried.insert((self.done.clone(), after)) {
                    path.push((index, value, std::mem::replace(&mut candidates, self.next().into_iter())));
                    value = after;
                    went = true;
                    break;
                }
                self.flip(index);
            }
            if !went {
                let Some((index, before, rest)) = path.pop() else { return false };
                self.flip(index);
                (value, candidates) = (before, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(action: Action, begun: u64, ended: u64) -> Operation {
        Operation { action, begun, ended: Some(ended) }
    }
    fn unknown(action: Action, begun: u64) -> Operation {
        Operation { action, begun, ended: None }
    }
    const W1: Action = Action::Write(Some(1));
    const W2: Action = Action::Write(Some(2));
    const R0: Action = Action::Read(None);
    const R1: Action = Action::Read(Some(1));
    const R2: Action = Action::Read(Some(2));

    #[test]
    fn good_histories_pass() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[op(W1, 0, 1), op(R1, 2, 3), op(W2, 4, 5), op(R2, 6, 7)]));
        // Both orders of what overlaps.
        assert!(is_linearizable(&[op(W1, 0, 9), op(W2, 0, 9), op(R1, 10, 11)]));
        assert!(is_linearizable(&[op(W1, 0, 9), op(W2, 0, 9), op(R2, 10, 11)]));
        assert!(is_linearizable(&[op(W1, 0, 9), op(R0, 1, 2), op(R1, 3, 4)]));
        assert!(is_linearizable(&[op(W1, 0, 1), op(Action::Swap(Some(1), Some(2)), 2, 5), op(R1, 3, 4), op(R2, 6, 7)]));
        assert!(is_linearizable(&[op(W1, 0, 1), op(Action::Write(None), 2, 3), op(R0, 4, 5)]));
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never() {
        assert!(is_linearizable(&[op(W1, 0, 1), unknown(W2, 2), op(R1, 3, 4), op(R2, 5, 6)]));
        assert!(is_linearizable(&[op(W1, 0, 1), unknown(W2, 2), op(R1, 3, 4), op(R1, 5, 6)]));
        assert!(is_linearizable(&[op(W1, 0, 1), unknown(Action::Write(None), 2), op(R1, 3, 4), op(R0, 5, 6)]));
    }

    #[test]
    fn bad_histories_are_refused() {
        // A stale read.
        assert!(!is_linearizable(&[op(W1, 0, 1), op(W2, 2, 3), op(R1, 4, 5)]));
        // A lost write.
        assert!(!is_linearizable(&[op(W1, 0, 1), op(R0, 2, 3)]));
        // A read of what nobody wrote, and of what is not yet written.
        assert!(!is_linearizable(&[op(R1, 0, 1)]));
        assert!(!is_linearizable(&[op(R1, 0, 1), op(W1, 2, 3)]));
        // Going back: two reads disagree on the order of what overlaps.
        assert!(!is_linearizable(&[op(W1, 0, 9), op(W2, 0, 9), op(R1, 10, 11), op(R2, 12, 13)]));
        assert!(!is_linearizable(&[op(W1, 0, 9), op(R1, 1, 2), op(R0, 3, 4)]));
        // Two that replaced the same.
        let swap = |new| Action::Swap(Some(1), Some(new));
        assert!(!is_linearizable(&[op(W1, 0, 1), op(swap(2), 2, 5), op(swap(3), 2, 5), op(R2, 6, 7)]));
        // An unknown write that came, went and came again, and one that came before it began.
        assert!(!is_linearizable(&[op(W1, 0, 1), unknown(W2, 2), op(R2, 3, 4), op(R1, 5, 6)]));
        assert!(!is_linearizable(&[op(R2, 0, 1), unknown(W2, 2)]));
        assert!(!is_linearizable(&[op(W1, 0, 1), op(Action::Write(None), 2, 3), op(R1, 4, 5)]));
    }

    /// None of them doubles the search.
    #[test]
    fn many_unknown_outcomes_are_judged() {
        let mut history = vec![op(W1, 0, 1)];
        for n in 1..60_u64 {
            let at = n * 10;
            history.extend([unknown(Action::Write(None), at), unknown(Action::Write(Some(n + 1)), at + 1)]);
            history.push(op(Action::Read(Some(n + 1)), at + 2, at + 3));
        }
        assert!(is_linearizable(&history));
        history.push(op(R1, 1_000, 1_001));
        assert!(!is_linearizable(&history));
    }

    /// Many clients at once, and one read too old: the search must end all the same.
    #[test]
    fn a_long_history_is_judged() {
        let mut history = Vec::new();
        for n in 1..2_000_u64 {
            history.push(op(Action::Write(Some(n)), n * 10, n * 10 + 25));
            history.push(op(Action::Read(Some(n)), n * 10 + 5, n * 10 + 9));
        }
        assert!(is_linearizable(&history));
        history.push(op(Action::Read(Some(5)), 100_000, 100_001));
        assert!(!is_linearizable(&history));
    }
}
