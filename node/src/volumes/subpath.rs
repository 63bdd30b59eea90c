//! subPath: a place inside a volume, never outside of it, whatever symlinks the volume holds (CVE-2017-1002101).
//!
//! The kernel resolves the path beneath the volume's root, and what it opened is what is bound: there is no moment at
//! which a container could put a symlink in between.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::mount;

fn open(at: impl AsFd, path: &Path, more: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | more).resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(at, path, how)
}

/// Opens `path` beneath `root`, making directories that are missing.
fn resolve(root: &Path, path: &str) -> io::Result<OwnedFd> {
    let path = Path::new(path);
    if path.is_absolute() || path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it must be relative and must not contain '..'"));
    }
    let root = open(AT_FDCWD, root, OFlag::O_DIRECTORY, ResolveFlag::empty())?;
    match open(&root, path, OFlag::empty(), ResolveFlag::RESOLVE_BENEATH) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut at = root;
    for part in path.components() {
        let Component::Normal(part) = part else { continue };
        let part = Path::new(part);
        at = match open(&at, part, OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_BENEATH) {
            Err(Errno::ENOENT) => {
                match mkdirat(&at, part, Mode::from_bits_truncate(0o750)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open(&at, part, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, ResolveFlag::RESOLVE_BENEATH)?
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Binds `path` of the volume at `root` to `target`, which is made.
pub(super) fn bind(root: &Path, path: &str, target: &Path) -> io::Result<()> {
    let source = resolve(root, path)?;
    let is_dir = SFlag::from_bits_truncate(fstat(&source)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    if mount::is_mount_point(target)? {
        mount::unmount(target)?;
    }
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mount::bind_fd(source.as_fd(), target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn never_leaves_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::create_dir(volume.join("real")).unwrap();
        std::fs::create_dir(dir.path().join("secret")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        for path in ["absolute", "absolute/passwd", "up", "up/new", "../secret", "/etc", "real/../../secret", "absolute/new"] {
            assert!(resolve(&volume, path).is_err(), "{path}");
        }
        for path in ["real", "inside", "a/b/c", "inside/new"] {
            assert!(resolve(&volume, path).is_ok(), "{path}");
        }
        assert!(volume.join("a/b/c").is_dir() && volume.join("real/new").is_dir());
        assert_eq!(std::fs::read_dir(dir.path().join("secret")).unwrap().count(), 0);
    }
}
