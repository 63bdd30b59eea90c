//! The order of the queue.

use std::cmp::Ordering;

use wharf_scheduler_framework::{QueueSort, QueuedPod};

/// The highest priority first, then the one that has waited longest.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrioritySort;

impl QueueSort for PrioritySort {
    fn compare(&self, a: &QueuedPod, b: &QueuedPod) -> Ordering {
        b.info.priority().cmp(&a.info.priority()).then(a.since.cmp(&b.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;
    use wharf_core::scheduler::PodInfo;

    #[test]
    fn by_priority_then_time() {
        let queued = |priority: i32, since| QueuedPod {
            info: Arc::new(PodInfo::new(pod("p", json!({}), json!({"priority":priority})))),
            attempts: 0,
            since: Duration::from_secs(since),
        };
        assert_eq!(PrioritySort.compare(&queued(2, 9), &queued(1, 1)), Ordering::Less);
        assert_eq!(PrioritySort.compare(&queued(1, 9), &queued(1, 1)), Ordering::Greater);
    }
}
