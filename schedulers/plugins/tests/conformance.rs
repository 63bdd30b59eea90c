//! The scheduler kit over the default profile.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;

use wharf_conformance::scheduler::{SchedulerCapabilities, SchedulerHarness};
use wharf_conformance::{Harness, scheduler_suite};
use wharf_core::scheduler::Scheduler;
use wharf_scheduler_plugins::default_scheduler;

struct DefaultProfile;

impl Harness for DefaultProfile {}

impl SchedulerHarness for DefaultProfile {
    fn scheduler(&self, seed: u64) -> Arc<dyn Scheduler> {
        Arc::new(default_scheduler(seed).unwrap())
    }
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities::all()
    }
}

scheduler_suite!(DefaultProfile);
