//! `cargo xtask torture`: what takes too long for every change. The seed is printed, so that what fails can be had again.

use std::time::Instant;

use crate::system::{cargo, install, is_root, run as command};

/// What is tortured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// The durable store: killed amid writes, and opened again.
    Redb,
    /// The store over three members of etcd: killed, paused and cut off under clients whose history is checked.
    Etcd,
    /// The bridge: random requests, answered as a stock etcd answers them.
    Bridge,
}

/// Runs them, or all. `rounds` multiplies what each does by default: 1,000 kills, 100 faults, 20 series of requests.
pub fn run(victims: &[Victim], seed: u64, rounds: u64) -> Result<(), String> {
    if is_root() {
        install()?;
    }
    let all = [Victim::Redb, Victim::Etcd, Victim::Bridge];
    for victim in if victims.is_empty() { &all[..] } else { victims } {
        let begin = Instant::now();
        println!("torture of {victim:?}: seed {seed}");
        let (package, test, variables) = match victim {
            Victim::Redb => {
                ("wharf-store-redb", "kill", [("WHARF_KILLS", (1000 * rounds).to_string()), ("WHARF_KILL_SEED", seed.to_string())].to_vec())
            }
            Victim::Etcd => (
                "wharf-store-etcd",
                "cluster",
                [("WHARF_FAULT_ROUNDS", (100 * rounds).to_string()), ("WHARF_FAULT_SEED", seed.to_string())].to_vec(),
            ),
            Victim::Bridge => {
                let seeds: Vec<String> = (seed..seed + 20 * rounds).map(|seed| seed.to_string()).collect();
                ("wharf-bridge-etcd", "differential", [("WHARF_DIFFERENTIAL_SEEDS", seeds.join(","))].to_vec())
            }
        };
        let mut test = cargo(&["test", "--locked", "--package", package, "--test", test]);
        if *victim != Victim::Redb {
            test.args(["--", "--nocapture", "--test-threads=1"]);
        }
        command(test.env("WHARF_REQUIRE_SYSTEM", "1").envs(variables))?;
        println!("torture of {victim:?} took {} s", begin.elapsed().as_secs());
    }
    Ok(())
}
