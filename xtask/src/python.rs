//! The Python clients that end-to-end tests run: in an environment of their own under target/, by the versions that are pinned.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::system::{root, run};

const REQUIREMENTS: &str = "tests/e2e/clients/requirements.txt";

/// The interpreter of the environment, which is made if it is not there or holds other versions. Needs python3-venv, and the package
/// index the first time.
pub fn environment() -> Result<PathBuf, String> {
    let folder = root().join("target/python");
    let (interpreter, stamp) = (folder.join("bin/python"), folder.join("requirements.txt"));
    let wanted = std::fs::read(root().join(REQUIREMENTS)).map_err(|e| format!("cannot read {REQUIREMENTS}: {e}"))?;
    if interpreter.exists() && std::fs::read(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(interpreter);
    }
    // Debian's own: what a version manager puts before it in the path may lack venv.
    let python = if PathBuf::from("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder).stdin(Stdio::null()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--requirement"];
    run(Command::new(&interpreter).args(pip).arg(root().join(REQUIREMENTS)).stdin(Stdio::null()))?;
    // Last, so that what was interrupted is done again.
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(interpreter)
}
