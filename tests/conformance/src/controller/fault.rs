//! Calls that go wrong, one at a time, at every place.

use super::ControllerHarness;
use super::faulty::Fault;
use super::play::{After, at_each_call};
use crate::CaseResult;

/// A call that fails without effect.
pub(super) async fn refused(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::Refused, After::SameProcess, |_| true).await
}

/// Somebody else changed the object first.
pub(super) async fn conflict(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::Conflict, After::SameProcess, |c| c.write).await
}

/// A write that took place and whose answer was lost.
pub(super) async fn outcome_unknown(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::OutcomeUnknown, After::SameProcess, |c| c.write).await
}

/// The object is deleted between the read and the write.
pub(super) async fn deleted_meanwhile(harness: &dyn ControllerHarness) -> CaseResult {
    at_each_call(harness, Fault::DeletedMeanwhile, After::SameProcess, |c| c.write && !c.create).await
}
