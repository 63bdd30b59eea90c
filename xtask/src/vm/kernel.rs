//! Debian's kernel, fetched once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::system::run;

/// The package that depends on the current kernel's.
const NEWEST: &str = "linux-image-amd64";

/// A kernel with its modules.
#[derive(Debug)]
pub struct Kernel {
    /// What `uname -r` says in it.
    pub release: String,
    /// The bootable file.
    pub image: PathBuf,
    /// Its folder `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

fn tree(cache: &Path) -> PathBuf {
    cache.join("kernel")
}

/// Whether nothing has to be fetched.
pub fn cached(cache: &Path) -> bool {
    tree(cache).is_dir()
}

/// The kernel from the cache, or with apt.
pub fn fetch(cache: &Path) -> Result<Kernel, String> {
    let tree = tree(cache);
    if !tree.is_dir() {
        // A fetch that was cut off leaves nothing under the final name.
        let partial = cache.join("kernel.partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(|e| format!("cannot make {}: {e}", partial.display()))?;
        download(&partial)?;
        fs::rename(&partial, &tree).map_err(|e| format!("cannot rename {}: {e}", partial.display()))?;
    }
    let all = tree.join("lib/modules");
    let release = fs::read_dir(&all)
        .map_err(|e| format!("cannot read {}: {e}; remove {} to fetch it again", all.display(), tree.display()))?
        .flatten()
        .find_map(|entry| entry.file_name().into_string().ok())
        .ok_or_else(|| format!("{} is empty; remove {} to fetch it again", all.display(), tree.display()))?;
    Ok(Kernel { image: tree.join(format!("boot/vmlinuz-{release}")), modules: all.join(&release), release })
}

fn download(folder: &Path) -> Result<(), String> {
    if get(folder).is_err() {
        // The lists may be absent, or older than what the mirrors still have.
        run(Command::new("apt-get").args(["update", "-q"]).stdin(Stdio::null()))?;
        get(folder)?;
    }
    let package = fs::read_dir(folder)
        .map_err(|e| format!("cannot read {}: {e}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or("apt-get download brought no package")?;
    run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(folder))?;
    fs::remove_file(&package).map_err(|e| format!("cannot remove {}: {e}", package.display()))?;
    // A package whose modules are below /usr.
    if !folder.join("lib").exists() {
        fs::rename(folder.join("usr/lib"), folder.join("lib")).map_err(|e| format!("the kernel's package has no modules: {e}"))?;
    }
    for entry in fs::read_dir(folder.join("lib/modules")).map_err(|e| format!("the kernel's package has no modules: {e}"))?.flatten() {
        run(Command::new("depmod").arg("-b").arg(folder).arg(entry.file_name()))?;
    }
    Ok(())
}

fn get(folder: &Path) -> Result<(), String> {
    let output =
        Command::new("apt-cache").args(["depends", NEWEST]).output().map_err(|e| format!("cannot run apt-cache: {e}; apt is needed"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let package = image_package(&text).ok_or_else(|| format!("apt knows no {NEWEST}: run apt-get update"))?;
    // Apt's own user may not write here.
    run(Command::new("apt-get").args(["download", "-q", "-o", "APT::Sandbox::User=root", package]).current_dir(folder).stdin(Stdio::null()))
}

fn image_package(depends: &str) -> Option<&str> {
    depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).filter(|name| name.starts_with("linux-image-"))
}

/// The content of a module's file.
pub fn module(kernel: &Kernel, path: &str) -> Result<Vec<u8>, String> {
    let path = kernel.modules.join(path);
    if path.extension().is_some_and(|e| e == "xz") {
        let output = Command::new("xz").arg("--decompress").arg("--stdout").arg(&path).output();
        return match output {
            Ok(output) if output.status.success() => Ok(output.stdout),
            _ => Err(format!("cannot unpack {} with xz; install xz-utils", path.display())),
        };
    }
    fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_what_the_package_depends_on() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\n";
        assert_eq!(image_package(depends), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(image_package("linux-image-amd64\n"), None);
    }
}
