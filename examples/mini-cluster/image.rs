//! Makes `wharf.local/demo:v1` and `:v2` from this very executable, for no registry can be reached everywhere.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::demo::VERBS;

/// Where dynamic loaders live; the executable names one of them.
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-linux-riscv64-lp64d.so.1"];

/// The versions of the demo image.
pub const VERSIONS: &[&str] = &["v1", "v2"];

/// The full name of a version of the demo image.
pub fn name(version: &str) -> String {
    format!("wharf.local/demo:{version}")
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        self.size += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The shared libraries that this process has loaded.
fn libraries() -> io::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with('/') && path.contains(".so"))
        .map(PathBuf::from)
        .collect())
}

fn blob(layout: &Path, bytes: &[u8]) -> io::Result<String> {
    let digest = format!("{:x}", Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), bytes)?;
    Ok(digest)
}

/// Writes an OCI image layout with all versions into `layout`, a folder that is made anew.
///
/// # Errors
/// When the executable or a library cannot be read, or the folder not be written.
pub fn write_layout(layout: &Path) -> io::Result<()> {
    if layout.exists() {
        fs::remove_dir_all(layout)?;
    }
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let (layer, size, library_path) = write_layer(layout)?;
    let mut manifests = Vec::new();
    for version in VERSIONS {
        let config = json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin", format!("DEMO_VERSION={version}"), "WHARF_DEMO=1", format!("LD_LIBRARY_PATH={library_path}")],
                "Entrypoint": ["/bin/demo"], "Cmd": ["serve"], "WorkingDir": "/", "ExposedPorts": {"8080/tcp": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        })
        .to_string();
        let config_digest = blob(layout, config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config_digest}"), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{layer}"), "size": size}],
        })
        .to_string();
        let digest = blob(layout, manifest.as_bytes())?;
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{digest}"), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name(version), "io.containerd.image.name": name(version)},
        }));
    }
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    fs::write(
        layout.join("index.json"),
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}).to_string(),
    )
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn write_layer(layout: &Path) -> io::Result<(String, u64, String)> {
    let partial = layout.join("blobs/layer");
    let mut tar = tar::Builder::new(Hashing { inner: BufWriter::new(File::create(&partial)?), hasher: Sha256::new(), size: 0 });
    tar.mode(tar::HeaderMode::Deterministic);
    // An executable may have holes on disk, and not every runtime reads an archive that has them.
    tar.sparse(false);
    for dir in ["bin", "etc", "etc/demo", "tmp", "proc", "sys", "dev", "run", "var"] {
        let mut header = header(tar::EntryType::Directory, if dir == "tmp" { 0o1777 } else { 0o755 });
        tar.append_data(&mut header, format!("{dir}/"), io::empty())?;
    }
    tar.append_path_with_name("/proc/self/exe", "bin/demo")?;
    for verb in VERBS.iter().filter(|verb| **verb != "demo") {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        tar.append_link(&mut header, format!("bin/{verb}"), "demo")?;
    }
    let libraries = libraries()?;
    let folders: BTreeSet<&Path> = libraries.iter().filter_map(|path| path.parent()).collect();
    let library_path = folders.iter().map(|f| f.to_string_lossy().into_owned()).collect::<Vec<_>>().join(":");
    for path in libraries.iter().map(PathBuf::as_path).chain(LOADERS.iter().map(Path::new)) {
        let inside = path.strip_prefix("/").unwrap_or(path);
        if let Ok(mut file) = File::open(path) {
            tar.append_file(inside, &mut file)?;
        }
    }
    let writer = tar.into_inner()?;
    let (digest, size) = (format!("{:x}", writer.hasher.finalize()), writer.size);
    writer.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&partial, layout.join("blobs/sha256").join(&digest))?;
    Ok((digest, size, library_path))
}
