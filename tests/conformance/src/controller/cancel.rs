//! A reconcile that is dropped.

use super::ControllerHarness;
use super::faulty::Fault;
use super::play::{After, at_each_call};
use crate::CaseResult;

/// Dropped while a call has not done anything yet.
pub(super) async fn before_each_call(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::HangsBefore, After::SameProcess, |_| true).await
}

/// Dropped after a call has taken place, before its answer came.
pub(super) async fn after_each_call(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::HangsAfter, After::SameProcess, |_| true).await
}
