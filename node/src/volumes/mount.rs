//! tmpfs and bind mounts, and finding them again.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, umount2};

/// The mount points at or below a directory, the deepest last.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?, dir))
}

fn parse(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Octal escapes, as the kernel writes them (`\040` is a space).
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\').and_then(|c| u8::from_str_radix(c, 8).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Whether something is mounted exactly here.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|p| p == path))
}

/// Mounts a tmpfs unless one is there.
pub(super) fn tmpfs(path: &Path, size: Option<i64>) -> io::Result<()> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let options = size.filter(|s| *s > 0).map(|s| format!("size={s}"));
    nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options.as_deref())?;
    Ok(())
}

/// Binds what is open as `fd` to a path.
pub(super) fn bind_fd(fd: std::os::fd::BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::mount::mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Unmounts one mount point, also while it is in use.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(())
}

/// Unmounts everything below a directory; fails if something stays.
pub(super) fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in below(dir)?.iter().rev() {
        unmount(point)?;
    }
    match below(dir)?.first() {
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_below_and_not_beside() {
        let info = "1 2 0:1 / /a/b rw - tmpfs t rw\n3 2 0:1 / /a/bc rw - tmpfs t rw\n4 2 0:1 / /a/b/c\\040d rw - tmpfs t rw\nbad";
        assert_eq!(parse(info, Path::new("/a/b")), [PathBuf::from("/a/b"), PathBuf::from("/a/b/c d")]);
    }
}
