//! What came of a run.

use std::fmt;
use std::process::ExitCode;

use crate::case::{Case, Harness, run_case};

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The contract held.
    Passed,
    /// The harness could not offer what the case needs.
    Skipped(String),
    /// The contract was broken.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            Self::Failed(message) => write!(f, "FAILED: {message}"),
        }
    }
}

/// The outcomes of a kit, in the order of its cases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Id and outcome.
    pub outcomes: Vec<(&'static str, Outcome)>,
}

impl Report {
    /// Whether no case failed.
    pub fn is_ok(&self) -> bool {
        self.failed().next().is_none()
    }
    /// The ids that failed.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).map(|(id, _)| *id)
    }
    /// Success if no case failed; for a `main`.
    pub fn exit_code(&self) -> ExitCode {
        if self.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
    fn count(&self, matches: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| matches(outcome)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.count(|o| matches!(o, Outcome::Passed));
        let skipped = self.count(|o| matches!(o, Outcome::Skipped(_)));
        write!(f, "{passed} passed, {} failed, {skipped} skipped", self.outcomes.len() - passed - skipped)
    }
}

/// Runs every case, one after the other, and prints one line a case and a sum.
///
/// # Panics
/// Outside a tokio runtime with timers.
pub async fn run_all<H: Harness + ?Sized>(cases: &[Case<H>], harness: &H) -> Report {
    let mut report = Report::default();
    for case in cases {
        let outcome = run_case(case, harness).await;
        println!("case {}: {outcome}", case.id);
        report.outcomes.push((case.id, outcome));
    }
    println!("{report}");
    report
}
