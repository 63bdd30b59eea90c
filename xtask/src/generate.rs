//! `cargo xtask generate`: writes the files that are made of others and checked in. Tests tell when one is out of date.

use crate::system::{cargo, run as command};

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// `apiserver/schema/table.txt` and `docs.txt`, from the sources of k8s-openapi and k8s-pb.
    Schema,
}

/// Writes them, or all.
pub fn run(targets: &[Target]) -> Result<(), String> {
    for target in if targets.is_empty() { &[Target::Schema][..] } else { targets } {
        match target {
            Target::Schema => command(&mut cargo(&["run", "--locked", "--package", "wharf-schema-generator"]))?,
        }
    }
    Ok(())
}
