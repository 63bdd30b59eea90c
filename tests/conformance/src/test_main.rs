//! A `main` for a test binary without a test harness (`harness = false`).

use std::process::ExitCode;

use crate::case::{Case, Harness};
use crate::report::run_all;

/// What the command line asks for, as `cargo test` and nextest write it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    list: bool,
    ignored: bool,
    exact: bool,
    filters: Vec<String>,
    skips: Vec<String>,
}

impl Arguments {
    fn parse(arguments: impl IntoIterator<Item = String>) -> Self {
        let mut parsed = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => parsed.list = true,
                "--ignored" => parsed.ignored = true,
                "--exact" => parsed.exact = true,
                "--skip" => parsed.skips.extend(arguments.next()),
                // Of options with a value, the value is no filter.
                "--format" | "--test-threads" | "--color" | "--logfile" | "-Z" => drop(arguments.next()),
                other if other.starts_with('-') => {}
                _ => parsed.filters.push(argument),
            }
        }
        parsed
    }

    fn wants(&self, id: &str) -> bool {
        let matches = |filter: &String| if self.exact { id == filter } else { id.contains(filter.as_str()) };
        // No case is ever marked ignored.
        !self.ignored && (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skips.iter().any(matches)
    }
}

/// Runs the cases that the command line asks for, one after the other, or lists them.
///
/// For implementations that must have the first word in `main`, such as runtimes whose shim is the same executable.
/// Understands what `cargo test` and nextest pass. It starts a tokio runtime of its own.
pub fn test_main<H: Harness + ?Sized>(mut cases: Vec<Case<H>>, harness: &H) -> ExitCode {
    let arguments = Arguments::parse(std::env::args().skip(1));
    cases.retain(|case| arguments.wants(case.id));
    if arguments.list {
        for case in &cases {
            println!("{}: test", case.id);
        }
        return ExitCode::SUCCESS;
    }
    match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => {
            let report = runtime.block_on(run_all(&cases, harness));
            runtime.shutdown_background();
            report.exit_code()
        }
        Err(e) => {
            eprintln!("cannot start a tokio runtime: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;

    fn parse(line: &str) -> Arguments {
        Arguments::parse(line.split_whitespace().map(str::to_string))
    }

    #[test]
    fn the_words_of_cargo_test_and_nextest() {
        assert!(parse("").wants("store.watch.order"));
        assert!(parse("watch --nocapture").wants("store.watch.order"));
        assert!(!parse("watch --exact").wants("store.watch.order"));
        assert!(parse("store.watch.order --exact --nocapture").wants("store.watch.order"));
        assert!(!parse("--skip watch").wants("store.watch.order"));
        let list = parse("--list --format terse");
        assert!(list.list && list.wants("store.watch.order"));
        assert!(!parse("--list --format terse --ignored").wants("store.watch.order"));
    }
}
