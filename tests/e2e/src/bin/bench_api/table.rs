//! The table of figures.

use std::collections::BTreeMap;

use clap::ValueEnum;

use crate::Options;
use crate::client::Protocol;
use crate::measure::{NODES, PODS};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Figure {
    Create,
    Get,
    Patch,
    List,
    WatchMedian,
    WatchWorst,
    Single,
    WatchMemory,
    Objects,
}

/// How a figure is judged.
#[derive(Clone, Copy)]
enum Asked {
    AtLeast(f64),
    AtMost(f64),
    /// Less is better, and nothing is asked.
    Less,
}

/// What was measured of one server.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<Figure, Vec<f64>>);

impl Figures {
    pub fn add(&mut self, figure: Figure, value: f64) {
        self.0.entry(figure).or_default().push(value);
    }

    /// The median, and the worst.
    fn of(&self, figure: Figure, asked: Asked) -> Option<(f64, f64)> {
        let mut taken = self.0.get(&figure)?.clone();
        taken.sort_by(f64::total_cmp);
        if matches!(asked, Asked::AtLeast(_)) {
            taken.reverse();
        }
        Some((*taken.get(taken.len() / 2)?, *taken.last()?))
    }
}

/// How this program, and so a server of its own, was built.
pub fn build() -> &'static str {
    if cfg!(debug_assertions) {
        return "debug";
    }
    // Cargo names the folder by the profile.
    match std::env::current_exe().ok().and_then(|path| Some(path.parent()?.file_name()?.to_str()? == "fast")) {
        Some(true) => "fast",
        _ => "release",
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// What the issue asks for on two cores: Kubernetes' figures there, times ten, fifteen and so on.
fn rows(options: &Options) -> Vec<(Figure, String, &'static str, Asked)> {
    vec![
        (Figure::Create, "create".into(), "/s", Asked::AtLeast(13_000.0)),
        (Figure::Get, "get".into(), "/s", Asked::AtLeast(37_500.0)),
        (Figure::Patch, "merge patch".into(), "/s", Asked::AtLeast(9_900.0)),
        (Figure::List, format!("list of {}", options.list), "MB/s", Asked::AtLeast(1_060.0)),
        (Figure::WatchMedian, format!("a change, to {} watchers: median", options.watchers), "ms", Asked::Less),
        (Figure::WatchWorst, format!("a change, to {} watchers: p99", options.watchers), "ms", Asked::AtMost(6.8)),
        (Figure::Single, "create, one at a time".into(), "ms", Asked::AtMost(0.8)),
        (Figure::WatchMemory, "memory of a watch".into(), "KiB", Asked::AtMost(8.0)),
        (Figure::Objects, format!("memory with {PODS} pods and {NODES} nodes"), "MB", Asked::AtMost(90.0)),
    ]
}

pub fn print(options: &Options, all: &[Figures]) {
    let protocol = if options.protocol == Protocol::Http1 { "HTTP/1.1" } else { "HTTP/2" };
    println!(
        "objects of 1 KB, {} requests in flight on {} connections ({protocol}, TLS), median and worst of {}\n",
        options.in_flight,
        options.connections(),
        options.runs
    );
    match all {
        [one, other] => {
            println!("{:<44} {:>10} {:>10} {:>10} {:>10} {:<5} {:>9}", "", "first", "worst", "second", "worst", "", "times");
            for (figure, name, unit, asked) in rows(options) {
                let (Some((median, worst)), Some((against, worst_against))) = (one.of(figure, asked), other.of(figure, asked)) else {
                    continue;
                };
                let times = if matches!(asked, Asked::AtLeast(_)) { median / against } else { against / median };
                println!(
                    "{name:<44} {:>10} {:>10} {:>10} {:>10} {unit:<5} {times:>8.1}x",
                    number(median),
                    number(worst),
                    number(against),
                    number(worst_against)
                );
            }
        }
        _ => {
            println!("{:<44} {:>10} {:>10} {:>10}", "", "asked", "median", "worst");
            for (figure, name, unit, asked) in rows(options) {
                let Some((median, worst)) = all.first().and_then(|figures| figures.of(figure, asked)) else { continue };
                let (wanted, verdict) = match asked {
                    Asked::AtLeast(least) => (format!(">= {}", number(least)), if median < least { "MISSED" } else { "met" }),
                    Asked::AtMost(most) => (format!("<= {}", number(most)), if median > most { "MISSED" } else { "met" }),
                    Asked::Less => (String::new(), ""),
                };
                println!("{name:<44} {wanted:>10} {:>10} {:>10} {unit:<5} {verdict}", number(median), number(worst));
            }
        }
    }
}
