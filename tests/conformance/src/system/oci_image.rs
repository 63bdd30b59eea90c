//! Images made on the spot, so that no registry is needed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where the loader of a dynamically linked program may be.
const LOADERS: [&str; 3] = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "lib/ld-musl-x86_64.so.1"];

/// What is packed into an image of one layer.
#[derive(Debug, Clone, Default)]
pub struct OciImage {
    /// Its full name: `wharf.local/pause:v1`.
    pub reference: String,
    /// Paths in the image, and the files of this machine that go there. Symbolic links are followed.
    pub files: Vec<(String, PathBuf)>,
    /// Its entry point.
    pub entrypoint: Vec<String>,
    /// What follows the entry point unless a container says otherwise.
    pub cmd: Vec<String>,
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl OciImage {
    /// An image of the running executable, at `/bin/NAME`, with the libraries it has loaded.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of_this_executable(reference: impl Into<String>, name: &str) -> io::Result<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let mut libraries: Vec<&str> = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).filter(|p| p.contains(".so")).collect();
        libraries.dedup();
        let mut files: Vec<(String, PathBuf)> =
            libraries.iter().map(|path| (path.trim_start_matches('/').to_string(), PathBuf::from(path))).collect();
        let loaders = LOADERS.iter().map(|loader| (loader.to_string(), Path::new("/").join(loader)));
        files.extend(loaders.filter(|(_, path)| path.exists()));
        files.push((format!("bin/{name}"), "/proc/self/exe".into()));
        Ok(Self { reference: reference.into(), files, entrypoint: vec![format!("/bin/{name}")], cmd: Vec::new() })
    }

    /// Writes the image as a tar archive of an OCI layout, as `ctr images import` and `skopeo` read it.
    ///
    /// # Errors
    /// When a file cannot be read, or the archive not be written.
    pub fn write_archive(&self, path: &Path) -> io::Result<()> {
        let mut layer = tar::Builder::new(Vec::new());
        layer.follow_symlinks(true);
        // containerd does not unpack files with holes.
        layer.sparse(false);
        for (name, file) in &self.files {
            layer.append_path_with_name(file, name)?;
        }
        let layer = layer.into_inner()?;
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Cmd": self.cmd, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
        });
        let mut archive = tar::Builder::new(File::create(path)?);
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, bytes)
        };
        let mut blob = |kind: &str, bytes: &[u8]| -> io::Result<Value> {
            let digest = digest(bytes);
            add(&format!("blobs/sha256/{digest}"), bytes)?;
            let media_type = format!("application/vnd.oci.image.{kind}");
            Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", config.to_string().as_bytes())?, "layers": [blob("layer.v1.tar", &layer)?],
        });
        let mut descriptor = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
        // containerd reads the first name, others the second.
        descriptor["annotations"] = json!({
            "io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": self.reference,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", index.to_string().as_bytes())?;
        archive.into_inner()?.sync_all()
    }
}
