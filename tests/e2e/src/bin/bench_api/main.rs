//! Measures an API server over TLS, ours or any other, and prints a table. `cargo xtask bench api` builds it and runs it.
//!
//! The load comes from one thread of this process, which shares the machine's cores with the server: so it is written to cost little.

mod client;
mod http1;
mod http2;
mod kubeconfig;
mod measure;
mod objects;
mod server;
mod table;
mod wire;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use client::Protocol;
use kubeconfig::Target;
use measure::Bench;
use server::Server;
use table::{Figure, Figures};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Measures an API server over TLS.
#[derive(Debug, Parser)]
#[command(
    name = "wharf-bench-api",
    after_help = "Without a kubeconfig it starts an API server of its own for each run: the durable store in a temporary folder, TLS, client
certificates and RBAC, and no controller, scheduler or node beside it. With a kubeconfig it makes a namespace of its own and removes
it. Of two, the second is the one compared with.

Examples:
  wharf-bench-api                                             ours, beside what is asked of it
  wharf-bench-api --kubeconfig ~/.kube/config                 any other
  wharf-bench-api --kubeconfig a --kubeconfig b --runs 3      a against b, with how many times as good a is
  wharf-bench-api --kubeconfig a --pid $(pidof kube-apiserver)  memory as well
  wharf-bench-api --only get,list --protocol http2            only these, over HTTP/2
"
)]
pub struct Options {
    /// The server to measure; a second one to compare with.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Vec<PathBuf>,
    /// The process of each kubeconfig's server, where it is on this machine: for figures of memory.
    #[arg(long)]
    pid: Vec<u32>,
    /// How often each figure is taken.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds that each throughput is measured for.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests in flight.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// How requests travel.
    #[arg(long, value_enum, default_value_t = Protocol::Http2)]
    protocol: Protocol,
    /// Connections; over HTTP/1.1 as many as requests in flight.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Watchers that are told of a change.
    #[arg(long, default_value_t = 500)]
    watchers: usize,
    /// Objects in a list.
    #[arg(long, default_value_t = 1000)]
    list: usize,
    /// Only these figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// Where the data folder of our own server is made; the temporary folder by default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Makes another program the server's parent, as `valgrind --tool=callgrind`; words are separated by spaces.
    #[arg(long, hide = true)]
    under: Option<String>,
    /// Serves with its data in this folder; for this program to start itself with.
    #[arg(long, hide = true, value_name = "FOLDER")]
    serve: Option<PathBuf>,
}

impl Options {
    fn connections(&self) -> usize {
        if self.protocol == Protocol::Http1 { self.in_flight } else { self.connections.clamp(1, self.in_flight.max(1)) }
    }

    fn wants(&self, any: &[Figure]) -> bool {
        self.only.is_empty() || any.iter().any(|figure| self.only.contains(figure))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.serve {
        Some(folder) => server::serve(folder),
        None => run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharf-bench-api: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let mut all = Vec::new();
    match options.kubeconfig.as_slice() {
        [] => {
            println!("an API server of our own a run, on the durable store, without controllers ({} build)\n", table::build());
            let mut figures = Figures::default();
            for _ in 0..options.runs {
                let server = Server::start(options.folder.as_deref(), options.under.as_deref())?;
                one_run(options, &server.kubeconfig(), Some(server.pid()), &mut figures)?;
                if options.wants(&[Figure::Objects]) {
                    let server = Server::start(options.folder.as_deref(), options.under.as_deref())?;
                    objects(options, &server.kubeconfig(), server.pid(), &mut figures)?;
                }
            }
            all.push(figures);
        }
        [_] | [_, _] => {
            for (index, path) in options.kubeconfig.iter().enumerate() {
                let (pid, mut figures) = (options.pid.get(index).copied(), Figures::default());
                for _ in 0..options.runs {
                    one_run(options, path, pid, &mut figures)?;
                }
                if let Some(pid) = pid.filter(|_| options.wants(&[Figure::Objects])) {
                    objects(options, path, pid, &mut figures)?;
                }
                all.push(figures);
            }
        }
        _ => return Err("two kubeconfigs can be compared, not more".into()),
    }
    table::print(options, &all);
    Ok(())
}

/// A name that no other run has.
fn namespace() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("wharf-bench-{}", now.as_micros())
}

fn one_run(options: &Options, kubeconfig: &Path, pid: Option<u32>, figures: &mut Figures) -> Outcome<()> {
    let target = Target::read(kubeconfig)?;
    let bench = Bench { target: &target, options, namespace: namespace(), filling: objects::filling() };
    bench.begin()?;
    if let Some(pid) = pid.filter(|_| options.wants(&[Figure::WatchMemory])) {
        figures.add(Figure::WatchMemory, bench.watch_memory(pid)?);
    }
    if options.wants(&[Figure::Create, Figure::Get, Figure::Patch]) {
        let (rate, objects) = bench.creates()?;
        figures.add(Figure::Create, rate);
        if options.wants(&[Figure::Get]) {
            figures.add(Figure::Get, bench.gets(objects)?);
        }
        if options.wants(&[Figure::Patch]) {
            figures.add(Figure::Patch, bench.patches(objects)?);
        }
    }
    if options.wants(&[Figure::List]) {
        figures.add(Figure::List, bench.lists()?);
    }
    if options.wants(&[Figure::WatchMedian, Figure::WatchWorst]) {
        let (median, worst) = bench.watchers()?;
        figures.add(Figure::WatchMedian, median);
        figures.add(Figure::WatchWorst, worst);
    }
    if options.wants(&[Figure::Single]) {
        figures.add(Figure::Single, bench.one_at_a_time()?);
    }
    bench.end(false)
}

fn objects(options: &Options, kubeconfig: &Path, pid: u32, figures: &mut Figures) -> Outcome<()> {
    let target = Target::read(kubeconfig)?;
    let bench = Bench { target: &target, options, namespace: namespace(), filling: String::new() };
    bench.begin()?;
    figures.add(Figure::Objects, bench.many_objects(pid)?);
    bench.end(true)
}
