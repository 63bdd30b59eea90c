//! A container's root file system: overlayfs over the image's layers, and safe look-ups in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, mkdirat};

use crate::state::ContainerDir;

/// The most that is read of a file of the image.
const MAX_FILE: u64 = 1 << 20;

/// Mounts the layers (the lowest first) under a container's own writable directory; with `nodev`, device nodes in it open nothing. Blocks.
pub(crate) fn mount_overlay(layers_dir: &Path, layers: &[String], dir: &ContainerDir, nodev: bool) -> io::Result<()> {
    for path in [dir.rootfs(), dir.upper(), dir.work()] {
        fs::create_dir_all(path)?;
    }
    let upper = dir.upper();
    // The image's root, not ours, decides who may read it.
    if let Some(top) = layers.last()
        && let Ok(meta) = fs::metadata(layers_dir.join(top))
    {
        fs::set_permissions(&upper, meta.permissions())?;
    }
    let empty = dir.dir.join("empty");
    let lower = if layers.is_empty() {
        fs::create_dir_all(&empty)?;
        empty.display().to_string()
    } else {
        layers.iter().rev().cloned().collect::<Vec<_>>().join(":")
    };
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), dir.work().display());
    if upper.display().to_string().contains([',', ':', '\\']) {
        return Err(io::Error::other("the runtime's root directory must not contain ',', ':' or '\\'"));
    }
    let (layers_dir, target) = (layers_dir.to_path_buf(), dir.rootfs());
    let flags = if nodev { MsFlags::MS_NODEV } else { MsFlags::empty() };
    // Layers are named relative to their directory, so that many fit into the one page of options; only a thread
    // that shares its working directory with no other may change it.
    let thread = std::thread::Builder::new().name("overlay".into()).spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&layers_dir)?;
        Ok(mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str()))?)
    })?;
    thread.join().map_err(|_| io::Error::other("the mounting thread panicked"))?
}

/// Unmounts everything at a path. Succeeds if there is nothing. Blocks.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn open_in(root: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    openat2(
        root,
        path,
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS),
    )
}

/// Reads a file as a process whose root is `root` would find it. `None` if it is missing.
pub(crate) fn read_in(root: &Path, path: &Path) -> io::Result<Option<String>> {
    let directory = File::open(root)?;
    let file = match open_in(&directory, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
        Ok(file) => File::from(file),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Makes a directory and its parents as a process whose root is `root` would.
pub(crate) fn mkdir_in(root: &Path, path: &Path) -> io::Result<()> {
    let root = File::open(root)?;
    let mut so_far = std::path::PathBuf::from("/");
    for part in path.components() {
        let Component::Normal(name) = part else {
            if part == Component::ParentDir {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path must not contain '..'"));
            }
            continue;
        };
        let parent = open_in(&root, &so_far, OFlag::O_DIRECTORY | OFlag::O_RDONLY)?;
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        so_far.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_inside_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("passwd"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("etc")).unwrap();
        assert_eq!(read_in(dir.path(), Path::new("/etc/passwd")).unwrap(), None);
        std::os::unix::fs::symlink("/real", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        mkdir_in(dir.path(), Path::new("/link/a/b")).unwrap();
        assert!(dir.path().join("real/a/b").is_dir());
        assert!(mkdir_in(dir.path(), Path::new("/etc/x")).is_err());
    }
}
