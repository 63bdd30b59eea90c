#![doc = include_str!("../README.md")]

mod case;
pub mod proxy;
mod report;
pub mod runtime;
pub mod store;
mod test_main;
// One module a kit, in alphabetical order, each with its `cases()` and its harness trait.

pub use case::{Case, CaseResult, Harness, Stop, fail, run_case, run_test, skip};
pub use report::{Outcome, Report, run_all};
pub use test_main::test_main;
