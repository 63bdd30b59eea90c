//! The project's chores: `cargo xtask test`, `cargo xtask bench`.

mod bench;
mod system;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wharf's chores.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask test           everything that a change must pass\n  cargo xtask test lint      only fmt, clippy and docs\n  cargo xtask bench          the figures of the whole cluster, as a table\n"
)]
struct Options {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Installs what the tests need (as root on Debian), then runs fmt, clippy, docs, tests, doctests and e2e.
    Test {
        /// Only these stages, in this order.
        #[arg(value_enum)]
        stages: Vec<test::Stage>,
    },
    /// Measures, and prints a table.
    Bench {
        /// How often each figure is taken; the table shows the median.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Build mini-cluster from nothing in a folder of its own and time that too (several minutes).
        #[arg(long)]
        build: bool,
    },
}

fn main() -> ExitCode {
    let result = match Options::parse().chore {
        Chore::Test { stages } => test::run(&stages),
        Chore::Bench { runs, build } => bench::run(runs, build),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
