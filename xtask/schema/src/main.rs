//! Makes `apiserver/schema/table.txt` and `docs.txt` from the sources of two crates: k8s-openapi has the types, their documentation and
//! what is required; k8s-pb has the wire's numbers, and in its comments the markers (`+listType`, `+patchStrategy`, ...) of Kubernetes' own
//! sources. Run it with `cargo xtask generate schema`, after an update of either crate.

mod facts;
mod openapi;
mod table;
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    #[error("{0}: {1}")]
    Syntax(PathBuf, syn::Error),
    #[error("cargo metadata does not know the sources of {0}")]
    Crate(&'static str),
    #[error("{0}: {1}")]
    Unexpected(String, String),
    #[error("these fields have no number on the wire, and facts.rs does not know them:\n{0}")]
    Numbers(String),
}

/// A failure at a place.
pub(crate) fn unexpected(place: impl Into<String>, what: impl Into<String>) -> Error {
    Error::Unexpected(place.into(), what.into())
}

fn main() -> ExitCode {
    match run(&PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "apiserver/schema".into()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The texts of `table.txt` and `docs.txt`.
fn generate() -> Result<(String, String), Error> {
    let metadata = metadata().ok_or(Error::Crate("this workspace"))?;
    let types = openapi::read(&sources(&metadata, "k8s-openapi")?.join("src/v1_36"))?;
    let messages = wire::read(&sources(&metadata, "k8s-pb")?.join("src"))?;
    table::render(&types, &messages)
}

fn run(folder: &Path) -> Result<(), Error> {
    let (table, docs) = generate()?;
    for (name, text) in [("table.txt", table), ("docs.txt", docs)] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| Error::File(path, e))?;
    }
    Ok(())
}

fn metadata() -> Option<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // Packages for other platforms need not have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["metadata", "--format-version", "1", "--offline", "--filter-platform", &platform];
    let output = Command::new(cargo).args(arguments).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// The folder of a crate that the workspace depends on.
fn sources(metadata: &Value, name: &'static str) -> Result<PathBuf, Error> {
    let packages = metadata["packages"].as_array().ok_or(Error::Crate(name))?;
    let package = packages.iter().find(|p| p["name"] == name).ok_or(Error::Crate(name))?;
    let manifest = package["manifest_path"].as_str().ok_or(Error::Crate(name))?;
    Path::new(manifest).parent().map(Path::to_path_buf).ok_or(Error::Crate(name))
}

/// All Rust sources below a folder, in order.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |e| Error::File(folder.to_path_buf(), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn parse(path: &Path) -> Result<syn::File, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::File(path.to_path_buf(), e))?;
    syn::parse_file(&text).map_err(|e| Error::Syntax(path.to_path_buf(), e))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_checked_in_is_what_would_be_made() {
        let (table, docs) = super::generate().unwrap();
        let advice = "run cargo xtask generate schema";
        assert!(table == include_str!("../../../apiserver/schema/table.txt"), "table.txt: {advice}");
        assert!(docs == include_str!("../../../apiserver/schema/docs.txt"), "docs.txt: {advice}");
    }
}
