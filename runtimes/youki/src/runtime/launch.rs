//! Starting shims and helpers from a sealed copy of this executable in memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::shim::NAMESPACE;
use crate::shim::SHIM_ENV;
use crate::shim::helper::{HELPER_ARGUMENT, Invocation, Reply, Request};
use crate::state::{SandboxDir, read_json};

/// The executable that shims are run from.
#[derive(Debug)]
pub(crate) struct Executable {
    source: Option<PathBuf>,
    sealed: OnceCell<OwnedFd>,
}

impl Executable {
    /// This process's own executable, or another that calls `shim_main`.
    pub(crate) fn new(source: Option<PathBuf>) -> Self {
        Self { source, sealed: OnceCell::new() }
    }

    async fn path(&self) -> io::Result<PathBuf> {
        let sealed = self
            .sealed
            .get_or_try_init(|| async {
                let source = self.source.clone().unwrap_or_else(|| "/proc/self/exe".into());
                tokio::task::spawn_blocking(move || seal(&source)).await.map_err(io::Error::other)?
            })
            .await?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", sealed.as_raw_fd())))
    }

    /// Runs a helper and waits for its answer.
    pub(crate) async fn helper(&self, request: Request, reply: PathBuf) -> io::Result<Reply> {
        let invocation = serde_json::to_string(&Invocation { request, reply: reply.clone() })?;
        let status = Command::new(self.path().await?)
            .arg0("wharf-youki-helper")
            .args([HELPER_ARGUMENT, &invocation])
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await?;
        let answer: io::Result<Reply> = read_json(&reply);
        // One that was never written needs no removal.
        let _ = std::fs::remove_file(&reply);
        let answer = answer.map_err(|_| {
            io::Error::other(format!(
                "the helper ended with {status} and no answer: does the program call wharf_runtime_youki::shim_main first in main?"
            ))
        })?;
        match answer.error {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(answer),
        }
    }

    /// Starts a sandbox's shim; on return it serves.
    pub(crate) async fn shim(&self, id: &str, dir: &SandboxDir, events: &Path) -> io::Result<()> {
        let log = File::create(dir.shim_log())?;
        let mut child = Command::new(self.path().await?)
            .arg0("wharf-youki-shim")
            .args(["-namespace", NAMESPACE, "-id", id, "-address"])
            .arg(events)
            .arg("-socket")
            .arg(format!("unix://{}", dir.shim_socket().display()))
            .current_dir("/")
            .env_clear()
            .env(SHIM_ENV, &dir.dir)
            .env("TTRPC_ADDRESS", events)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        // The shim closes its standard output once it serves, or by dying.
        if let Some(mut stdout) = child.stdout.take() {
            tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await?;
        }
        if let Some(status) = child.try_wait()? {
            let told = std::fs::read_to_string(dir.shim_log()).unwrap_or_default();
            return Err(io::Error::other(format!("the shim ended with {status}: {}", told.trim())));
        }
        // While this process lives it is the parent and has to reap; the handle does so in the background.
        tokio::spawn(async move {
            let _ = child.wait().await;
        });
        Ok(())
    }
}

fn seal(source: &Path) -> io::Result<OwnedFd> {
    let mut from = File::open(source)?;
    let memory = memfd_create("wharf-youki", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut to = File::from(memory);
    io::copy(&mut from, &mut to)?;
    let memory = OwnedFd::from(to);
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_copy_cannot_be_written() {
        let fd = seal(Path::new("/proc/self/exe")).unwrap();
        let mut file = File::from(fd);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
