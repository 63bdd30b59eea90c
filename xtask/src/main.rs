//! The project's chores: `cargo xtask test`, `cargo xtask bench`, `cargo xtask torture`, `cargo xtask fuzz`, `cargo xtask generate`, `cargo xtask vm`.

mod bench;
mod fuzz;
mod generate;
mod machine;
mod python;
mod system;
mod test;
mod torture;
mod vm;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Wharf's chores.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask test           everything that a change must pass\n  cargo xtask test lint      only fmt, clippy and docs\n  cargo xtask bench          the figures of the whole cluster, as a table\n  cargo xtask bench store    the figures of the stores, beside Debian's etcd\n  cargo xtask bench api      the figures of the API server over TLS; with --kubeconfig of any other\n  cargo xtask torture redb   a thousand kills of the durable store\n  cargo xtask fuzz json      an hour of requests that nobody would send\n  cargo xtask vm -- ipvsadm  a program in a virtual machine with Debian's kernel\n"
)]
struct Options {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Installs what the tests need (as root on Debian), then runs fmt, clippy, docs, tests, doctests, the virtual
    /// machine and e2e.
    Test {
        /// Only these stages, in this order.
        #[arg(value_enum)]
        stages: Vec<test::Stage>,
    },
    /// Measures, and prints a table.
    Bench {
        /// What to measure.
        #[arg(value_enum, default_value_t)]
        target: bench::Target,
        /// How often each figure is taken; the table shows the median.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Build mini-cluster from nothing in a folder of its own and time that too (several minutes).
        #[arg(long)]
        build: bool,
        #[command(flatten)]
        api: bench::Api,
    },
    /// Runs what takes too long for every change: stores under kills and faults, many seeds.
    Torture {
        /// Only these.
        #[arg(value_enum)]
        victims: Vec<torture::Victim>,
        /// Where randomness begins.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many times as much as by default: 1,000 kills, 100 faults, 20 series of requests.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
        rounds: u64,
    },
    /// Gives random requests to the API server and its parts, and follows those that take new paths (libFuzzer; needs a C++ compiler).
    /// Inputs that fail are kept in target/fuzz/failures.
    Fuzz {
        /// Only these: the programs in the folder fuzz.
        targets: Vec<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        minutes: u32,
    },
    /// Writes the files that are made of others and checked in.
    Generate {
        /// Only these.
        #[arg(value_enum)]
        targets: Vec<generate::Target>,
    },
    /// Runs a program as root in a throw-away virtual machine with Debian's kernel and a pure cgroup v2.
    ///
    /// The machine is emulated in software: it boots in about ten seconds, and programs run 5 to 20 times slower than outside. It sees
    /// this machine's files, read-only under a memory overlay; nothing that the program writes stays. /run, /tmp and /var/lib/wharf are
    /// memory file systems, empty at first, the network leads nowhere, and modprobe knows the kernel's modules. Exits with the program's status, 124 if
    /// it took too long. Needs qemu-system-x86, busybox-static and kmod, and fetches the kernel with apt the first time, into target/vm.
    #[command(after_long_help = VM_EXAMPLES)]
    Vm {
        /// Memory in MiB; a memory file system in the machine holds half of it.
        #[arg(long, default_value_t = vm::Machine::default().memory, value_name = "MIB", value_parser = clap::value_parser!(u32).range(256..))]
        memory: u32,
        /// The longest that boot and program together may take, in seconds.
        #[arg(long, default_value_t = vm::Machine::default().timeout.as_secs(), value_name = "S")]
        timeout: u64,
        /// A variable of the program's environment; may be given again.
        #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
        env: Vec<(String, String)>,
        /// The program and its arguments, after `--`.
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        program: Vec<String>,
    },
}

const VM_EXAMPLES: &str = "Examples:
  cargo xtask vm -- uname -a
  cargo xtask vm -- sh -c 'modprobe ip_vs && ipvsadm -L'
  cargo xtask vm -- cat /sys/fs/cgroup/cgroup.controllers
  cargo xtask vm --memory 4096 --timeout 900 -- target/release/examples/mini-cluster --smoke
";

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    let named =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !key.starts_with(|c: char| c.is_ascii_digit());
    if named { Ok((key.into(), value.into())) } else { Err(format!("{key:?} is no name of a variable")) }
}

fn in_machine(machine: &vm::Machine, program: &[String]) -> Result<u8, String> {
    if system::is_root() {
        system::install_for(vm::NEEDED)?;
    }
    match vm::unavailable() {
        Some(why) => Err(why),
        None => machine.run(program, &mut |_| {}),
    }
}

fn main() -> ExitCode {
    let result = match Options::parse().chore {
        Chore::Test { stages } => test::run(&stages),
        Chore::Torture { victims, seed, rounds } => torture::run(&victims, seed, rounds),
        Chore::Fuzz { targets, minutes } => fuzz::run(&targets, minutes),
        Chore::Generate { targets } => generate::run(&targets),
        Chore::Bench { target, runs, build, api } => bench::run(target, runs, build, &api),
        Chore::Vm { memory, timeout, env, program } => {
            match in_machine(&vm::Machine { memory, timeout: Duration::from_secs(timeout), env }, &program) {
                Ok(code) => return ExitCode::from(code),
                Err(message) => Err(message),
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
