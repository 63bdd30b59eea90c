//! Writing many files at once: readers see all of the old ones or all of the new.
//!
//! The layout is the kubelet's: `NAME -> ..data/NAME`, `..data -> ..TIMESTAMP`, and one rename swaps `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by relative path.
pub(crate) type Files = BTreeMap<String, File>;

/// Whether a path stays below where it is put, and does not collide with the layout.
pub(crate) fn is_valid(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && !path.starts_with("..")
        && path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
}

/// Makes the directory hold exactly these files.
pub(crate) fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && is_same(&dir.join(current), files)
    {
        return link_visible(dir, files);
    }
    let stamp = (0u32..).map(|n| format!("..{}_{n}", std::process::id())).find(|name| !dir.join(name).exists());
    let stamp = stamp.ok_or_else(|| io::Error::other("no name is left for a new version"))?;
    let fresh = dir.join(&stamp);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755))?;
    for (path, file) in files {
        let at = fresh.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&at)?;
        out.write_all(&file.content)?;
        let mut mode = file.mode;
        if let Some(group) = group {
            chown(&at, None, Some(group))?;
            mode |= 0o040;
        }
        // The umask took part in the open.
        fs::set_permissions(&at, PermissionsExt::from_mode(mode))?;
    }
    let temporary = dir.join(DATA_TMP);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&stamp, &temporary)?;
    fs::rename(&temporary, dir.join(DATA))?;
    link_visible(dir, files)?;
    if let Some(old) = current {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

fn link_visible(dir: &Path, files: &Files) -> io::Result<()> {
    let visible: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &visible {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !visible.contains(&*name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_same(dir: &Path, files: &Files) -> bool {
    let mut count = 0;
    let mut pending = vec![dir.to_path_buf()];
    while let Some(next) = pending.pop() {
        let Ok(entries) = fs::read_dir(&next) else { return false };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    count == files.len() && files.iter().all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|content| content == file.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        all.iter().map(|(p, c)| (p.to_string(), File { content: c.as_bytes().to_vec(), mode: 0o644 })).collect()
    }

    #[test]
    fn swaps_all_at_once_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("sub/b")).unwrap(), "2");
        let before = fs::read_link(root.join(DATA)).unwrap();
        write(root, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(root.join(DATA)).unwrap(), before, "the same content is not written again");
        write(root, &files(&[("a", "3")]), None).unwrap();
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(root.join("sub")).is_err());
        assert!(!root.join(before).exists());
        assert_eq!(fs::read_dir(root).unwrap().count(), 3);
    }

    #[test]
    fn refuses_paths_that_leave() {
        for path in ["", "/a", "../a", "a/../b", "..data", "a//b", "./a"] {
            assert!(!is_valid(path), "{path}");
        }
        assert!(is_valid("a/b.c") && is_valid(".dotfile"));
    }
}
