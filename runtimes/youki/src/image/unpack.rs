//! One layer: verified, decompressed and laid out as overlayfs wants it.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use super::{ImageError, LayerBlob, hex};

/// The most bytes a layer may unpack to.
const MAX_LAYER: u64 = 64 << 30;
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Hashes and counts what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }
    fn digest(self) -> String {
        format!("sha256:{}", hex(&self.hasher.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count += n as u64;
        if self.count > MAX_LAYER {
            return Err(io::Error::other("layer is larger than the limit of 64 GiB"));
        }
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Unpacks into an empty directory; returns the size of the tar. Both digests have been verified on success.
pub(super) fn unpack(blob: &LayerBlob, diff_id: &str, target: &Path) -> Result<u64, ImageError> {
    let file = File::open(&blob.path).map_err(ImageError::io("open", &blob.path))?;
    let mut outer = Hashing::new(file);
    let size;
    let actual_diff;
    {
        let mut buffered = BufReader::with_capacity(1 << 16, &mut outer);
        let magic = io::BufRead::fill_buf(&mut buffered).map_err(ImageError::io("read", &blob.path))?;
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(ImageError::malformed("layers compressed with zstd are not supported; push the image with gzip"));
        }
        let plain: Box<dyn Read + '_> = if gzip { Box::new(MultiGzDecoder::new(&mut buffered)) } else { Box::new(&mut buffered) };
        let mut inner = Hashing::new(plain);
        entries(&mut inner, target)?;
        // Padding after the end mark belongs to the digest.
        io::copy(&mut inner, &mut io::sink()).map_err(ImageError::io("read", &blob.path))?;
        size = inner.count;
        actual_diff = inner.digest();
        io::copy(&mut buffered, &mut io::sink()).map_err(ImageError::io("read", &blob.path))?;
    }
    let actual = outer.digest();
    if let Some(expected) = &blob.digest
        && *expected != actual
    {
        return Err(ImageError::DigestMismatch { what: "a layer".into(), expected: expected.clone(), actual });
    }
    if actual_diff != diff_id {
        return Err(ImageError::DigestMismatch { what: "an unpacked layer".into(), expected: diff_id.into(), actual: actual_diff });
    }
    Ok(size)
}

fn entries(reader: &mut impl Read, target: &Path) -> Result<(), ImageError> {
    let fault = |source: io::Error| ImageError::Io { operation: "unpack into", path: target.into(), source };
    let root = target.canonicalize().map_err(fault)?;
    let mut archive = Archive::new(reader);
    archive.set_preserve_permissions(true);
    // Done below: an owner that is left out is root, as every other engine reads it.
    archive.set_preserve_ownerships(false);
    let root_user = nix::unistd::geteuid().is_root();
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    for entry in archive.entries().map_err(fault)? {
        let mut entry = entry.map_err(fault)?;
        let path = entry.path().map_err(fault)?.into_owned();
        let Some(relative) = clean(&path) else {
            return Err(ImageError::malformed(format!("a layer has the path {}", path.display())));
        };
        let Some(name) = relative.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            // The root's own entry: mode and owner.
            if let Ok(mode) = entry.header().mode() {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&root, fs::Permissions::from_mode(mode & 0o7777)).map_err(fault)?;
            }
            continue;
        };
        if name == OPAQUE {
            let parent = inside(&root, relative.parent().unwrap_or(Path::new(""))).map_err(fault)?;
            xattr::set(&parent, "trusted.overlay.opaque", b"y").map_err(fault)?;
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let parent = inside(&root, relative.parent().unwrap_or(Path::new(""))).map_err(fault)?;
            if hidden.is_empty() || hidden == "." || hidden == ".." {
                return Err(ImageError::malformed(format!("a layer has the whiteout {name:?}")));
            }
            device(&parent.join(hidden), SFlag::S_IFCHR, 0, 0).map_err(fault)?;
        } else {
            match entry.header().entry_type() {
                kind @ (EntryType::Char | EntryType::Block | EntryType::Fifo) => {
                    let parent = inside(&root, relative.parent().unwrap_or(Path::new(""))).map_err(fault)?;
                    let header = entry.header();
                    let mode = header.mode().map_err(fault)?;
                    let (major, minor) =
                        (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
                    let flag = match kind {
                        EntryType::Char => SFlag::S_IFCHR,
                        EntryType::Block => SFlag::S_IFBLK,
                        _ => SFlag::S_IFIFO,
                    };
                    device(&parent.join(&name), flag, mode, makedev(u64::from(major), u64::from(minor))).map_err(fault)?;
                }
                EntryType::XGlobalHeader => {}
                _ => {
                    // tar resolves the parent and refuses one outside of the root, for links' targets too.
                    if !entry.unpack_in(&root).map_err(fault)? {
                        return Err(ImageError::malformed(format!("a layer has the path {}", path.display())));
                    }
                    if root_user && entry.header().entry_type() != EntryType::Link {
                        let parent = inside(&root, relative.parent().unwrap_or(Path::new(""))).map_err(fault)?;
                        let (uid, gid) = (entry.header().uid().unwrap_or(0), entry.header().gid().unwrap_or(0));
                        own(&parent.join(&name), uid as u32, gid as u32).map_err(fault)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Sets the owner, and again what the kernel takes away when the owner changes.
fn own(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, lchown};
    const CAPABILITY: &str = "security.capability";
    let meta = fs::symlink_metadata(path)?;
    if (meta.uid(), meta.gid()) == (uid, gid) {
        return Ok(());
    }
    let capability = if meta.is_file() { xattr::get(path, CAPABILITY).ok().flatten() } else { None };
    lchown(path, Some(uid), Some(gid))?;
    if !meta.is_symlink() {
        fs::set_permissions(path, meta.permissions())?;
    }
    match capability {
        Some(value) => xattr::set(path, CAPABILITY, &value),
        None => Ok(()),
    }
}

fn device(path: &Path, kind: SFlag, mode: u32, number: u64) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|m| !m.is_dir()) {
        fs::remove_file(path)?;
    }
    Ok(mknod(path, kind, Mode::from_bits_truncate(mode & 0o7777), number)?)
}

/// A path without `.` and a leading `/`; `None` if it goes up.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// A directory of the layer, made if missing; a symlink that leads out of the root is refused.
fn inside(root: &Path, relative: &Path) -> io::Result<PathBuf> {
    let mut current = root.to_path_buf();
    for part in relative.components() {
        let next = current.join(part);
        match fs::symlink_metadata(&next) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir(&next)?,
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        current = next.canonicalize()?;
        if !current.starts_with(root) {
            return Err(io::Error::other("a path of the layer leads out of it"));
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (tempfile::NamedTempFile, String) {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let bytes = builder.into_inner().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        (file, super::super::digest(&bytes))
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, data).unwrap();
    }

    fn link(builder: &mut tar::Builder<Vec<u8>>, path: &str, to: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, path, to).unwrap();
    }

    #[test]
    fn whiteouts_become_overlay_form() {
        if !nix::unistd::geteuid().is_root() {
            return wharf_core::testing::omit("youki.image.whiteouts", "making device files needs root");
        }
        let (file, diff) = layer(|b| {
            add(b, "etc/kept", b"x");
            add(b, "etc/.wh.gone", b"");
            add(b, "var/.wh..wh..opq", b"");
        });
        let dir = tempfile::tempdir().unwrap();
        unpack(&LayerBlob { path: file.path().into(), digest: Some(diff.clone()) }, &diff, dir.path()).unwrap();
        let gone = fs::symlink_metadata(dir.path().join("etc/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert!(!dir.path().join("etc/.wh.gone").exists());
        assert_eq!(xattr::get(dir.path().join("var"), "trusted.overlay.opaque").unwrap().unwrap(), b"y");
    }

    #[test]
    fn a_symlink_is_not_followed_out_of_the_layer() {
        let outside = tempfile::tempdir().unwrap();
        for path in ["evil/file", "evil/.wh.file", "evil/.wh..wh..opq"] {
            let (file, diff) = layer(|b| {
                link(b, "evil", outside.path().to_str().unwrap());
                add(b, path, b"x");
            });
            let dir = tempfile::tempdir().unwrap();
            assert!(unpack(&LayerBlob { path: file.path().into(), digest: None }, &diff, dir.path()).is_err(), "{path}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn owners_and_set_user_id_are_kept() {
        if !nix::unistd::geteuid().is_root() {
            return wharf_core::testing::omit("youki.image.owners", "giving files away needs root");
        }
        let (file, diff) = layer(|b| {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o4755);
            header.set_uid(12);
            header.set_gid(34);
            b.append_data(&mut header, "bin/tool", &b"x"[..]).unwrap();
            // Neither owner nor group: root's.
            add(b, "plain", b"x");
        });
        let dir = tempfile::tempdir().unwrap();
        unpack(&LayerBlob { path: file.path().into(), digest: None }, &diff, dir.path()).unwrap();
        let tool = fs::metadata(dir.path().join("bin/tool")).unwrap();
        assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (12, 34, 0o4755));
        assert_eq!(fs::metadata(dir.path().join("plain")).unwrap().uid(), 0);
    }

    #[test]
    fn a_path_that_goes_up_is_refused() {
        assert_eq!(clean(Path::new("a/../../b")), None);
        assert_eq!(clean(Path::new("./a//b/")), Some(PathBuf::from("a/b")));
        assert_eq!(clean(Path::new("/a")), Some(PathBuf::from("a")));
    }

    #[test]
    fn digests_are_verified_compressed_and_not() {
        use std::io::Write;
        let (file, diff) = layer(|b| add(b, "a", b"hello"));
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&fs::read(file.path()).unwrap()).unwrap();
        let gz = gz.finish().unwrap();
        let packed = tempfile::NamedTempFile::new().unwrap();
        fs::write(packed.path(), &gz).unwrap();
        let try_with = |digest: String, diff: &str| {
            let dir = tempfile::tempdir().unwrap();
            unpack(&LayerBlob { path: packed.path().into(), digest: Some(digest) }, diff, dir.path())
        };
        let good = super::super::digest(&gz);
        try_with(good.clone(), &diff).unwrap();
        assert!(matches!(try_with(diff.clone(), &diff), Err(ImageError::DigestMismatch { .. })));
        assert!(matches!(try_with(good.clone(), &good), Err(ImageError::DigestMismatch { .. })));
    }
}
