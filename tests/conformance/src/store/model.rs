//! The model test: random steps against a store and against one that specifies it, until they disagree.
//!
//! A case of the kit checks one promise on one path; this checks all of them together on paths that nobody thought of: transactions
//! with every precondition, lists of the past and in pages, watches begun anywhere and read a little at a time, compactions,
//! disconnections and restarts. The two stores may number their commits differently: every answer of the specification is put into the
//! revisions of the store under test before the two are compared.
//!
//! A failure is shrunk to a short sequence of steps and printed with its seed, which always makes the same steps.

mod play;
mod step;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use self::play::play;
use self::step::Step;
use super::StoreHarness;

/// How long a watch may say nothing while a failure is being shrunk. What comes of it is played again with all patience.
const SHRINK_PATIENCE: Duration = Duration::from_millis(200);
/// Most sequences tried to shorten a failure.
const MAX_SHRINKS: u32 = 2_000;
/// How long shortening may take, in milliseconds.
const MAX_SHRINK_MILLIS: u32 = 20_000;
/// Seeds that [`store_model!`](crate::store_model) plays unless it is told others.
pub const SEEDS: Range<u64> = 0..24;
/// Most steps in a sequence.
pub const MAX_STEPS: usize = 60;
/// Names one seed to be played instead of all, to reproduce a failure.
pub const SEED_VARIABLE: &str = "WHARF_MODEL_SEED";

/// Where the store under test left the specification, and the shortest way found to get there.
#[derive(Debug, Clone)]
pub struct Disagreement {
    /// What made the steps.
    pub seed: u64,
    /// The steps, one a line as it is printed.
    pub steps: Vec<String>,
    /// What was expected and what came.
    pub message: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the store left its specification ({SEED_VARIABLE}={} makes these steps again):", self.seed)?;
        for (n, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {:>2}. {step}", n + 1)?;
        }
        write!(f, "then: {}", self.message)
    }
}

impl std::error::Error for Disagreement {}

/// Plays one sequence a seed; the first disagreement, shrunk, or none.
///
/// The specification must be a store with history that keeps all of it until it is compacted.
///
/// # Errors
/// [`Disagreement`].
///
/// # Panics
/// Inside a tokio runtime: it starts its own.
pub fn check(harness: &dyn StoreHarness, spec: &dyn StoreHarness, seeds: impl IntoIterator<Item = u64>) -> Result<(), Box<Disagreement>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|e| panic!("cannot start a tokio runtime: {e}"));
    let result = seeds.into_iter().try_for_each(|seed| check_seed(harness, spec, seed, &runtime));
    runtime.shutdown_background();
    result
}

fn check_seed(
    harness: &dyn StoreHarness,
    spec: &dyn StoreHarness,
    seed: u64,
    runtime: &tokio::runtime::Runtime,
) -> Result<(), Box<Disagreement>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: MAX_SHRINKS,
        max_shrink_time: MAX_SHRINK_MILLIS,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let shrinking = AtomicBool::new(false);
    let first: std::cell::RefCell<Option<(Vec<Step>, String)>> = std::cell::RefCell::default();
    let result = runner.run(&step::sequence(MAX_STEPS), |steps| {
        let patience = if shrinking.load(Ordering::Relaxed) { SHRINK_PATIENCE.min(harness.patience()) } else { harness.patience() };
        runtime.block_on(play(harness, spec, &steps, patience)).map_err(|message| {
            shrinking.store(true, Ordering::Relaxed);
            first.borrow_mut().get_or_insert_with(|| (steps.clone(), message.clone()));
            TestCaseError::fail(message)
        })
    });
    let told = |steps: &[Step], message: String| {
        Err(Box::new(Disagreement { seed, steps: steps.iter().map(ToString::to_string).collect(), message }))
    };
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Abort(reason)) => told(&[], reason.to_string()),
        Err(TestError::Fail(reason, steps)) => match (runtime.block_on(play(harness, spec, &steps, harness.patience())), first.take()) {
            (Err(message), _) => told(&steps, message),
            // It only seemed to hang, or does not fail each time: the first failure is the one that is sure.
            (Ok(()), Some((steps, message))) => told(&steps, message),
            (Ok(()), None) => told(&steps, reason.to_string()),
        },
    }
}

/// Plays seeds and fails the test with the steps of a disagreement. [`SEED_VARIABLE`] in the environment names one seed instead.
///
/// # Panics
/// When the stores disagree, and inside a tokio runtime.
pub fn model(harness: &dyn StoreHarness, spec: &dyn StoreHarness, seeds: impl IntoIterator<Item = u64>) {
    let named = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let result = match named {
        Some(seed) => check(harness, spec, [seed]),
        None => check(harness, spec, seeds),
    };
    if let Err(disagreement) = result {
        panic!("{disagreement}");
    }
}

/// Makes a `#[test]` of the [model test](crate::store::model): `store_model!(MyHarness, spec = Specification)`, and `, seeds = 0..100`
/// for others than [`SEEDS`](crate::store::model::SEEDS). The specification's harness makes a store that is known to be right, as
/// `wharf-store-memory` is.
#[macro_export]
macro_rules! store_model {
    ($harness:expr, spec = $spec:expr) => {
        $crate::store_model!($harness, spec = $spec, seeds = $crate::store::model::SEEDS);
    };
    ($harness:expr, spec = $spec:expr, seeds = $seeds:expr) => {
        #[test]
        fn store_model() {
            $crate::store::model::model(&$harness, &$spec, $seeds);
        }
    };
}
