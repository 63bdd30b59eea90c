#![doc = include_str!("../README.md")]

// Public modules are kits, each with its `cases()` and its harness trait.
mod case;
pub mod controller;
pub mod proxy;
mod report;
pub mod runtime;
pub mod scheduler;
pub mod store;
pub mod system;
mod test_main;

pub use case::{Case, CaseResult, Harness, Stop, fail, run_case, run_test, skip};
pub use report::{Outcome, Report, run_all};
pub use test_main::test_main;

/// Every id of every kit, by the kit's name, in the order in which the cases run.
pub fn ids() -> Vec<(&'static str, Vec<&'static str>)> {
    fn of<H: Harness + ?Sized>(cases: &[Case<H>]) -> Vec<&'static str> {
        cases.iter().map(|c| c.id).collect()
    }
    vec![
        ("store", of(&store::cases())),
        ("runtime", of(&runtime::cases())),
        ("proxy", of(&proxy::cases())),
        ("scheduler", of(&scheduler::cases())),
        ("controller", of(&controller::cases())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_its_own_and_the_table_counts_right() {
        let readme = include_str!("../README.md");
        for (kit, ids) in ids() {
            let own: std::collections::BTreeSet<_> = ids.iter().collect();
            assert_eq!(own.len(), ids.len(), "{kit}");
            assert!(ids.iter().all(|id| id.starts_with(&format!("{kit}."))), "{kit}");
            let row = format!("| `{kit}` | {} |", ids.len());
            assert!(readme.contains(&row), "the README has no {row:?}");
        }
    }
}
