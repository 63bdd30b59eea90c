#![doc = include_str!("../README.md")]

// Public modules are kits, each with its `cases()` and its harness trait.
mod case;
pub mod proxy;
mod report;
pub mod runtime;
pub mod store;
pub mod system;
mod test_main;

pub use case::{Case, CaseResult, Harness, Stop, fail, run_case, run_test, skip};
pub use report::{Outcome, Report, run_all};
pub use test_main::test_main;
