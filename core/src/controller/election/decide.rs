//! What a candidate does next: a function of what it saw, and when.

use std::time::Duration;

use super::{JITTER_FACTOR, LeaseRecord, Timing};

/// A `Lease` as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What it said.
    pub record: LeaseRecord,
    /// When it was first seen saying so, by this process's own clock.
    pub at: Duration,
}

impl Seen {
    /// The same record seen again is as old as it was.
    #[must_use]
    pub fn next(before: Option<Self>, record: Option<LeaseRecord>, now: Duration) -> Option<Self> {
        let record = record?;
        match before {
            Some(before) if before.record == record => Some(before),
            _ => Some(Self { record, at: now }),
        }
    }
}

/// A candidate's own leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// The count of transitions that its acquisition made.
    pub transitions: i32,
    /// When the last renewal that succeeded was begun.
    pub renewed: Duration,
}

/// Why a leader leads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It could not renew in time.
    Deadline,
    /// Another holds the lease, or nobody does.
    Taken,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Try to take the lease.
    Acquire,
    /// Renew it.
    Renew,
    /// Another leads: look again after this long, or when the lease changes.
    Wait(Duration),
    /// Stop working, now.
    Lost(Lost),
}

/// What a candidate does at `now` about what it has seen (`None`: there is no such lease). `term` is its own leadership, if it leads;
/// `jitter` is in 0..1.
pub fn decide(identity: &str, seen: Option<&Seen>, term: Option<&Term>, now: Duration, timing: &Timing, jitter: f64) -> Step {
    if let Some(term) = term {
        let mine = |seen: &Seen| seen.record.holder() == identity && seen.record.transitions() == term.transitions;
        return if now >= term.renewed + timing.renew_deadline {
            Step::Lost(Lost::Deadline)
        } else if seen.is_some_and(mine) {
            Step::Renew
        } else {
            Step::Lost(Lost::Taken)
        };
    }
    // What it holds without leading is left from a loss, or from a try whose outcome was never told.
    let Some(seen) = seen.filter(|seen| !seen.record.holder().is_empty() && seen.record.holder() != identity) else {
        return Step::Acquire;
    };
    let free = seen.at + seen.record.duration().unwrap_or(timing.lease_duration);
    if now >= free {
        return Step::Acquire;
    }
    let retry = timing.retry_period + timing.retry_period.mul_f64(JITTER_FACTOR * jitter.clamp(0.0, 1.0));
    Step::Wait(retry.min(free - now))
}
