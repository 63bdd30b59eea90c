//! One case and how it is run.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::report::Outcome;

/// What every harness says, whatever it makes.
pub trait Harness: Send + Sync {
    /// How long a case may take before it counts as hung. It decides nothing else: no case measures time.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// Why a case ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The implementation broke its contract.
    Fail(String),
    /// The harness cannot offer what the case needs.
    Skip(String),
}

/// What a case returns.
pub type CaseResult<T = ()> = Result<T, Stop>;

/// Ends a case as failed.
pub fn fail<T>(message: impl Into<String>) -> CaseResult<T> {
    Err(Stop::Fail(message.into()))
}

/// Ends a case as skipped; the reason is printed.
pub fn skip<T>(reason: impl Into<String>) -> CaseResult<T> {
    Err(Stop::Skip(reason.into()))
}

/// One case of a kit over harnesses of type `H`.
pub struct Case<H: ?Sized> {
    /// Its stable id: `store.watch.resume_exclusive`.
    pub id: &'static str,
    /// The case itself.
    pub run: for<'a> fn(&'a H) -> BoxFuture<'a, CaseResult>,
}

impl<H: ?Sized> std::fmt::Debug for Case<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<H: Harness + ?Sized> Case<H> {
    /// A case. Kits call this through [`suite!`](crate::suite).
    pub fn new(id: &'static str, run: for<'a> fn(&'a H) -> BoxFuture<'a, CaseResult>) -> Self {
        Self { id, run }
    }
}

/// Runs one case. A panic is a failure, and so is a case that outlasts [`Harness::patience`].
///
/// # Panics
/// Outside a tokio runtime with timers.
pub async fn run_case<H: Harness + ?Sized>(case: &Case<H>, harness: &H) -> Outcome {
    let run = AssertUnwindSafe((case.run)(harness)).catch_unwind();
    match tokio::time::timeout(harness.patience(), run).await {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(Stop::Skip(reason)))) => Outcome::Skipped(reason),
        Ok(Ok(Err(Stop::Fail(message)))) => Outcome::Failed(message),
        Ok(Err(panic)) => Outcome::Failed(format!("panicked: {}", panic_text(panic.as_ref()))),
        Err(_) => Outcome::Failed(format!("hung: no end within {:?}", harness.patience())),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)")
}

/// Runs the case with this id as a `#[test]`: on its own runtime, printing a skip. The suite macros expand to calls of it.
///
/// # Panics
/// When the case fails or there is none of this id.
pub fn run_test<H: Harness + ?Sized>(cases: &[Case<H>], id: &str, harness: &H) {
    let case = cases.iter().find(|case| case.id == id);
    let Some(case) = case else { panic!("no case {id}") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|e| panic!("cannot start a tokio runtime: {e}"));
    let outcome = runtime.block_on(run_case(case, harness));
    runtime.shutdown_background();
    match outcome {
        Outcome::Passed => {}
        Outcome::Skipped(reason) => println!("skipped: {id}: {reason}"),
        Outcome::Failed(message) => panic!("{id}: {message}"),
    }
}

/// Ends the case as failed unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return $crate::fail(format!($($message)+));
        }
    };
}

/// Ends the case as failed unless two values are equal; the message says what was compared.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return $crate::fail(format!("{}: got {left:?}, expected {right:?}", format!($($message)+)));
                }
            }
        }
    };
}

/// Defines a kit: `cases()` and the exported suite macro, from its groups of cases.
///
/// The first argument is a `$`, the second the name of the suite macro, then the kit's name (first part of every id,
/// and the path of this module under the crate), the harness type, and the cases: module and function names. With
/// `via`, the cases take what that function makes of the harness; it is given the harness and a function pointer.
#[macro_export]
#[doc(hidden)]
macro_rules! suite {
    ($d:tt $suite:ident, $kit:ident, $harness:ty, { $($group:ident { $($case:ident),* $(,)? })* }) => {
        /// Every case of this kit.
        pub fn cases() -> Vec<$crate::Case<$harness>> {
            vec![$($($crate::Case::new(
                concat!(stringify!($kit), ".", stringify!($group), ".", stringify!($case)),
                |harness| Box::pin($group::$case(harness)),
            )),*),*]
        }
        $crate::suite!(@tests $d $suite, $kit, { $($group { $($case),* })* });
    };
    ($d:tt $suite:ident, $kit:ident, $harness:ty, via $via:path, { $($group:ident { $($case:ident),* $(,)? })* }) => {
        /// Every case of this kit.
        pub fn cases() -> Vec<$crate::Case<$harness>> {
            vec![$($($crate::Case::new(
                concat!(stringify!($kit), ".", stringify!($group), ".", stringify!($case)),
                |harness| Box::pin($via(harness, |bench| Box::pin($group::$case(bench)))),
            )),*),*]
        }
        $crate::suite!(@tests $d $suite, $kit, { $($group { $($case),* })* });
    };
    (@tests $d:tt $suite:ident, $kit:ident, { $($group:ident { $($case:ident),* })* }) => {
        /// Makes one `#[test]` of each case of the kit, over the harness that the expression gives.
        #[macro_export]
        macro_rules! $suite {
            ($d harness:expr) => {
                mod $kit {
                    #[allow(unused_imports, reason = "the harness may be a path from the root")]
                    use super::*;
                    $(mod $group {
                        use super::*;
                        $(#[test]
                        fn $case() {
                            let id = concat!(stringify!($kit), ".", stringify!($group), ".", stringify!($case));
                            $crate::run_test(&$crate::$kit::cases(), id, &$d harness);
                        })*
                    })*
                }
            };
        }
    };
}
