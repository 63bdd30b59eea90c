//! Back-off as the kubelet counts it: a delay that doubles, forgotten after twice its most.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The first delay.
    pub first: Duration,
    /// The most; what has been well for twice as long starts over.
    pub most: Duration,
}

impl Default for BackoffPolicy {
    /// The kubelet's: 10 s doubling to 5 min, forgotten after 10 min.
    fn default() -> Self {
        Self { first: Duration::from_secs(10), most: Duration::from_secs(300) }
    }
}

/// The back-off of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    delay: Duration,
    updated: Timestamp,
}

impl Backoff {
    /// What is left to wait at `now` after a failure at `failed`, and the whole delay; `None` when it is over.
    pub(crate) fn remaining(
        entry: Option<&Self>,
        policy: &BackoffPolicy,
        failed: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Duration)> {
        let entry = entry.filter(|e| !e.expired(policy, failed))?;
        let left = entry.delay.saturating_sub(elapsed(failed, now));
        (!left.is_zero()).then_some((left, entry.delay))
    }

    /// The state after another attempt.
    pub(crate) fn next(entry: Option<&Self>, policy: &BackoffPolicy, failed: Timestamp, now: Timestamp) -> Self {
        let delay = match entry.filter(|e| !e.expired(policy, failed)) {
            Some(entry) => (entry.delay * 2).min(policy.most),
            None => policy.first,
        };
        Self { delay, updated: now }
    }

    fn expired(&self, policy: &BackoffPolicy, event: Timestamp) -> bool {
        elapsed(self.updated, event) > policy.most * 2
    }
}

/// Time from `from` to `to`; nothing when the clock went back.
pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from).max(SignedDuration::ZERO)).unwrap_or_default()
}

/// A duration as Go prints it, for kubelet's messages: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, _) if duration < Duration::from_secs(1) => format!("{}ms", duration.as_millis()),
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_most_and_starts_over() {
        let policy = BackoffPolicy::default();
        let mut now = Timestamp::UNIX_EPOCH;
        assert_eq!(Backoff::remaining(None, &policy, now, now), None);
        let mut entry = Backoff::next(None, &policy, now, now);
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let (left, delay) = Backoff::remaining(Some(&entry), &policy, now, now).unwrap();
            assert_eq!((left.as_secs(), delay.as_secs()), (seconds, seconds));
            let failed = now;
            now += SignedDuration::from_secs(seconds as i64);
            assert_eq!(Backoff::remaining(Some(&entry), &policy, failed, now), None);
            entry = Backoff::next(Some(&entry), &policy, failed, now);
        }
        let later = now + SignedDuration::from_secs(601);
        assert_eq!(Backoff::remaining(Some(&entry), &policy, later, later), None);
        assert_eq!(Backoff::next(Some(&entry), &policy, later, later).delay, policy.first);
    }

    #[test]
    fn prints_as_go_does() {
        for (secs, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3600, "1h0m0s")] {
            assert_eq!(go_duration(Duration::from_secs(secs)), text);
        }
    }
}
