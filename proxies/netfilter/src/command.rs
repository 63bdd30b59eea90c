//! Finding and running iptables-save and iptables-restore.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wharf_core::proxy::{ProxyError, ProxyResult};
use wharf_proxy_plan::{Family, Table};

/// Where programs are looked for beyond `PATH`, which often lacks the administrator's folders.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];
/// How long iptables waits for another user of its lock, in seconds.
const LOCK_SECONDS: &str = "5";

/// Which of the two implementations of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// What the machine's `iptables` is.
    System,
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

impl Variant {
    fn infix(self) -> &'static str {
        match self {
            Self::System => "",
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

/// The programs of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    save: PathBuf,
    restore: PathBuf,
    variant: Variant,
}

impl Iptables {
    /// Looks for the programs; runs none. Without a wish, the machine's choice comes before `nft` and `legacy`.
    ///
    /// # Errors
    /// [`ProxyError::Missing`] when none is installed.
    pub fn find(family: Family, wanted: Option<Variant>) -> ProxyResult<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from)).collect();
        Self::find_in(&folders, family, wanted)
    }

    fn find_in(folders: &[PathBuf], family: Family, wanted: Option<Variant>) -> ProxyResult<Self> {
        let name = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let look = |program: String| folders.iter().map(|f| f.join(&program)).find(|p| is_file(p));
        let all = [Variant::System, Variant::Nft, Variant::Legacy];
        for variant in all.into_iter().filter(|v| wanted.is_none_or(|w| w == *v)) {
            let program = format!("{name}{}", variant.infix());
            if let (Some(save), Some(restore)) = (look(format!("{program}-save")), look(format!("{program}-restore"))) {
                return Ok(Self { save, restore, variant });
            }
        }
        Err(ProxyError::Missing {
            missing: format!("{name}{}", wanted.map_or("", Variant::infix)),
            advice: "install the package `iptables` (1.8 or newer), or use a proxy that does not need it".into(),
        })
    }

    /// Which variant was found.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// What iptables-save prints for the tables, one after the other. Blocks.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn save(&self, tables: &[Table]) -> ProxyResult<String> {
        let mut out = String::new();
        for table in tables {
            let result = Command::new(&self.save).arg("-t").arg(table.to_string()).stdin(Stdio::null()).output();
            let output = result.map_err(|e| ProxyError::permanent("running iptables-save", e))?;
            if !output.status.success() {
                return Err(failure("iptables-save", &output.stderr));
            }
            out.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        Ok(out)
    }

    /// Hands text to iptables-restore, which keeps what the text does not name. Blocks.
    ///
    /// # Errors
    /// When it cannot be run or fails; the table at fault is unchanged then, and those after it.
    pub fn restore(&self, text: &str) -> ProxyResult<()> {
        let run = || -> io::Result<std::process::Output> {
            let mut child = Command::new(&self.restore)
                .args(["--noflush", "-w", LOCK_SECONDS])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
            let output = child.wait_with_output()?;
            // If it ended before it read everything, its own words say more than a broken pipe.
            if output.status.success() {
                written?;
            }
            Ok(output)
        };
        let output = run().map_err(|e| ProxyError::permanent("running iptables-restore", e))?;
        if output.status.success() { Ok(()) } else { Err(failure("iptables-restore", &output.stderr)) }
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file())
}

/// What iptables said when it failed.
#[derive(Debug, thiserror::Error)]
#[error("{program}: {said}")]
struct Failure {
    program: &'static str,
    said: String,
}

/// Most that is kept of an error message, in characters.
const MAX_SAID: usize = 500;

fn failure(program: &'static str, stderr: &[u8]) -> ProxyError {
    let said: String = String::from_utf8_lossy(stderr).trim().chars().take(MAX_SAID).collect();
    let lower = said.to_lowercase();
    if lower.contains("permission denied") || lower.contains("must be root") || lower.contains("operation not permitted") {
        return ProxyError::Missing {
            missing: "CAP_NET_ADMIN".into(),
            advice: format!("run as root or grant the capability ({program}: {said})"),
        };
    }
    // Another writer was in the way: the next try reads anew.
    let passes = ["xtables lock", "resource temporarily unavailable", "incompatible with this process", "eagain"];
    let op = if program == "iptables-save" { "reading rules" } else { "writing rules" };
    let cause = Failure { program, said };
    if passes.iter().any(|p| lower.contains(p)) { ProxyError::transient(op, cause) } else { ProxyError::permanent(op, cause) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_install() {
        let error = Iptables::find_in(&[PathBuf::from("/nonexistent")], Family::V4, None).unwrap_err();
        assert!(
            matches!(&error, ProxyError::Missing { missing, advice } if missing == "iptables" && advice.contains("install")),
            "{error}"
        );
        let error = Iptables::find_in(&[], Family::V6, Some(Variant::Legacy)).unwrap_err();
        assert!(error.to_string().starts_with("ip6tables-legacy is missing"), "{error}");
    }

    #[test]
    fn tells_failures_apart() {
        let denied = failure(
            "iptables-restore",
            b"iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)",
        );
        assert!(matches!(denied, ProxyError::Missing { .. }));
        let locked = failure("iptables-restore", b"Another app is currently holding the xtables lock; still 1s");
        assert!(matches!(locked, ProxyError::Backend { retry: wharf_core::runtime::Retry::Transient, .. }));
        let wrong = failure("iptables-restore", b"line 3 failed");
        assert!(matches!(wrong, ProxyError::Backend { retry: wharf_core::runtime::Retry::Permanent, .. }));
    }
}
