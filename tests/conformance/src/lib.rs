//! Conformance kits: what a store, a runtime or a proxy must do to be one.
//!
//! Each kit is a list of cases with stable ids, run against a harness that you write. One macro makes a test of each
//! case (`store_suite!(MyHarness)`); [`run_all`] runs them where there is no test harness. See the README.

mod case;
mod report;
pub mod runtime;
pub mod store;
mod test_main;
// One module a kit, in alphabetical order, each with its `cases()` and its harness trait.

pub use case::{Case, CaseResult, Harness, Stop, fail, run_case, run_test, skip};
pub use report::{Outcome, Report, run_all};
pub use test_main::test_main;
