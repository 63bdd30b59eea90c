//! The image store: pulled and imported images as unpacked layers, ready to be mounted by overlayfs.
//!
//! Below its root: `images.json` (the index), `configs/` (image configurations by digest), `layers/` (one directory a
//! layer, by the digest of its uncompressed tar) and `tmp/` (work in progress, cleared at start). A layer or an
//! image becomes visible by a rename, after its digests were verified; what was cut off stays in `tmp` and is
//! never trusted.

mod archive;
mod pull;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wharf_core::runtime::{AuthConfig, FilesystemUsage, Image, ImageReference, InvalidReference, Retry, RuntimeError};

use crate::state::{read_json, write_atomic, write_json};

/// The largest manifest, index or configuration that is read.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

/// What the image store can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The reference cannot be parsed.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The registry refused or could not be reached.
    #[error("{message}")]
    Registry {
        /// The registry's word.
        message: String,
        /// Whether a later pull can succeed.
        transient: bool,
    },
    /// The image, archive or layout is malformed.
    #[error("malformed image: {message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// Content is not what its digest says.
    #[error("content of {what} has digest {actual}, not {expected}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// As promised.
        expected: String,
        /// As found.
        actual: String,
    },
    /// Disk.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::Malformed { message: message.into() }
    }
    pub(crate) fn into_runtime(self, image: &str) -> RuntimeError {
        match self {
            Self::Io { .. } => RuntimeError::transient("image store", self),
            Self::InvalidReference(error) => error.into(),
            Self::Registry { transient, .. } => {
                let retry = if transient { Retry::Transient } else { Retry::Permanent };
                RuntimeError::PullFailed { image: image.into(), message: self.to_string(), retry }
            }
            other => RuntimeError::PullFailed { image: image.into(), message: other.to_string(), retry: Retry::Permanent },
        }
    }
}

/// The parts of an image's configuration that running it needs.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub(crate) config: Option<ContainerDefaults>,
    #[serde(default)]
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

/// `config` of an image configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ContainerDefaults {
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) env: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) working_dir: Option<String>,
    #[serde(default)]
    pub(crate) stop_signal: Option<String>,
}

/// An image of the index.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ImageRecord {
    /// `sha256:` and the digest of the configuration.
    pub(crate) id: String,
    /// Layer directories, the lowest first.
    pub(crate) layers: Vec<String>,
    pub(crate) size: u64,
    /// Whole references with tag, normalised.
    pub(crate) tags: BTreeSet<String>,
    /// Whole references with digest, normalised.
    pub(crate) digests: BTreeSet<String>,
    pub(crate) user: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, ImageRecord>,
}

/// Images on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    index: Mutex<Index>,
    insecure: Vec<String>,
    /// Pulls that run, by reference; a second one waits for the first.
    pulls: Mutex<BTreeMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
}

/// Normalises a reference as Docker does.
pub(crate) fn parse_reference(reference: &str) -> Result<ImageReference, ImageError> {
    Ok(reference.parse()?)
}

/// The hexadecimal SHA-256 of bytes with its prefix.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hexadecimal part of a SHA-256 digest, which is safe as a file name.
pub(crate) fn digest_hex(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix("sha256:")
        .filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .ok_or_else(|| ImageError::malformed(format!("{digest:?} is not a sha256 digest")))
}

/// A layer's compressed blob, verified while it is read.
pub(crate) struct LayerBlob {
    pub(crate) path: PathBuf,
    /// Digest of the blob as it is, if it is known.
    pub(crate) digest: Option<String>,
}

impl ImageStore {
    /// Opens or makes a store. Blocks.
    pub(crate) fn open(root: PathBuf, insecure: Vec<String>) -> Result<Self, ImageError> {
        let tmp = root.join("tmp");
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(ImageError::io("clear", &tmp))?;
        }
        for name in ["tmp", "layers", "configs"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(ImageError::io("create", &path))?;
        }
        let path = root.join("images.json");
        let index = match read_json(&path) {
            Ok(index) => index,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Index::default(),
            Err(e) => return Err(ImageError::io("read", &path)(e)),
        };
        Ok(Self { inner: Arc::new(Inner { root, index: Mutex::new(index), insecure, pulls: Mutex::default() }) })
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.inner.root.join("tmp")
    }

    /// The directory in which layers are, one each by name.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.inner.root.join("layers")
    }

    fn config_path(&self, id: &str) -> Result<PathBuf, ImageError> {
        Ok(self.inner.root.join("configs").join(digest_hex(id)?))
    }

    /// Unpacks a layer unless it is there. Blocks.
    pub(crate) fn add_layer(&self, blob: &LayerBlob, diff_id: &str) -> Result<String, ImageError> {
        // The name is short, so that many fit into overlayfs' options.
        let name = digest_hex(diff_id)?[..LAYER_NAME].to_string();
        let target = self.layers_dir().join(&name);
        if target.exists() {
            return Ok(name);
        }
        let work = tempfile::Builder::new().prefix("layer-").tempdir_in(self.tmp()).map_err(ImageError::io("create", self.tmp()))?;
        let size = unpack::unpack(blob, diff_id, work.path())?;
        write_json(&self.size_path(&name), &size).map_err(ImageError::io("write", self.size_path(&name)))?;
        let work = work.keep();
        match fs::rename(&work, &target) {
            Ok(()) => Ok(name),
            Err(error) => {
                // The other one is as good, or the error is told.
                let _ = fs::remove_dir_all(&work);
                if target.exists() { Ok(name) } else { Err(ImageError::io("rename to", &target)(error)) }
            }
        }
    }

    fn size_path(&self, layer: &str) -> PathBuf {
        self.inner.root.join("configs").join(format!("{layer}.size"))
    }

    /// Enters an image whose layers are unpacked. Blocks.
    pub(crate) fn commit(&self, config: &[u8], layers: Vec<String>, references: &[ImageReference]) -> Result<String, ImageError> {
        let id = digest(config);
        let path = self.config_path(&id)?;
        write_atomic(&path, config).map_err(ImageError::io("write", &path))?;
        let parsed: ImageConfig = serde_json::from_slice(config).map_err(|e| ImageError::malformed(format!("configuration: {e}")))?;
        let size = layers.iter().filter_map(|l| read_json::<u64>(&self.size_path(l)).ok()).sum();
        let user = parsed.config.and_then(|c| c.user).unwrap_or_default();
        let mut index = self.inner.index.lock();
        let record = index.images.entry(id.clone()).or_insert_with(|| ImageRecord {
            id: id.clone(),
            layers: Vec::new(),
            size: 0,
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            user: String::new(),
        });
        (record.layers, record.size, record.user) = (layers, size, user);
        for reference in references {
            let name = format!("{}/{}", reference.registry(), reference.repository());
            if let Some(tag) = reference.tag() {
                let whole = format!("{name}:{tag}");
                for other in index.images.values_mut() {
                    other.tags.remove(&whole);
                }
                if let Some(record) = index.images.get_mut(&id) {
                    record.tags.insert(whole);
                }
            }
            if let Some(digest) = reference.digest()
                && let Some(record) = index.images.get_mut(&id)
            {
                record.digests.insert(format!("{name}@{digest}"));
            }
        }
        self.save(&index)?;
        Ok(id)
    }

    fn save(&self, index: &Index) -> Result<(), ImageError> {
        let path = self.inner.root.join("images.json");
        write_json(&path, index).map_err(ImageError::io("write", &path))
    }

    /// Finds an image by id, id prefix-free, tag or digest.
    pub(crate) fn find(&self, reference: &str) -> Option<ImageRecord> {
        let index = self.inner.index.lock();
        if let Some(record) = index.images.get(reference).or_else(|| index.images.get(&format!("sha256:{reference}"))) {
            return Some(record.clone());
        }
        let parsed = parse_reference(reference).ok()?;
        let name = format!("{}/{}", parsed.registry(), parsed.repository());
        index
            .images
            .values()
            .find(|record| match (parsed.digest(), parsed.tag()) {
                (Some(digest), _) => record.digests.contains(&format!("{name}@{digest}")),
                (None, Some(tag)) => record.tags.contains(&format!("{name}:{tag}")),
                (None, None) => false,
            })
            .cloned()
    }

    pub(crate) fn config(&self, id: &str) -> Result<ImageConfig, ImageError> {
        let path = self.config_path(id)?;
        read_json(&path).map_err(ImageError::io("read", &path))
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        self.inner.index.lock().images.values().map(to_image).collect()
    }

    /// Removes an image, and the layers that neither another image nor a container uses. Blocks.
    pub(crate) fn remove(&self, reference: &str, in_use: &BTreeSet<String>) -> Result<(), ImageError> {
        let Some(record) = self.find(reference) else { return Ok(()) };
        let orphans: Vec<String> = {
            let mut index = self.inner.index.lock();
            index.images.remove(&record.id);
            self.save(&index)?;
            let used: BTreeSet<&String> = index.images.values().flat_map(|i| &i.layers).chain(in_use).collect();
            record.layers.iter().filter(|l| !used.contains(l)).cloned().collect()
        };
        for layer in orphans {
            // Renamed first, so that a half-removed layer is never taken for a whole one.
            let grave = self.tmp().join(format!("removed-{layer}"));
            if fs::rename(self.layers_dir().join(&layer), &grave).is_ok() {
                fs::remove_dir_all(&grave).map_err(ImageError::io("remove", &grave))?;
            }
            // Sizes are rewritten with their layer.
            let _ = fs::remove_file(self.size_path(&layer));
        }
        let config = self.config_path(&record.id)?;
        match fs::remove_file(&config) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", &config)(e)),
            _ => Ok(()),
        }
    }

    /// Space used, by the sizes of the layers. Blocks.
    pub(crate) fn usage(&self) -> FilesystemUsage {
        let mut names = BTreeSet::new();
        for image in self.inner.index.lock().images.values() {
            names.extend(image.layers.iter().cloned());
        }
        let used_bytes = names.iter().filter_map(|l| read_json::<u64>(&self.size_path(l)).ok()).sum();
        FilesystemUsage { mountpoint: self.inner.root.clone(), used_bytes, inodes_used: 0 }
    }

    /// Pulls an image; returns its id.
    pub(crate) async fn pull(&self, reference: &str, auth: Option<&AuthConfig>) -> Result<String, ImageError> {
        let parsed = parse_reference(reference)?;
        let turn = {
            let mut pulls = self.inner.pulls.lock();
            pulls.retain(|_, weak| weak.strong_count() > 0);
            let key = parsed.to_string();
            match pulls.get(&key).and_then(std::sync::Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    pulls.insert(key, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        // Layers that the one before unpacked are found and not fetched again.
        let _turn = turn.lock().await;
        pull::pull(self, &parsed, auth).await
    }

    pub(crate) fn is_insecure(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(h, _)| h);
        matches!(host, "localhost" | "127.0.0.1" | "[::1]") || self.inner.insecure.iter().any(|r| r == registry)
    }

    /// Imports an OCI image layout directory; returns the references its images got: `name` for a layout with
    /// one image, else each image's `org.opencontainers.image.ref.name`.
    ///
    /// # Errors
    /// [`ImageError`]; nothing of a faulty image is entered.
    pub async fn import_oci_layout(&self, directory: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
        let (store, directory, name) = (self.clone(), directory.to_path_buf(), name.map(str::to_string));
        blocking(move || archive::import_layout(&store, &directory, name.as_deref())).await
    }

    /// Imports a tar of an OCI image layout or of `docker save`; returns the references as
    /// [`ImageStore::import_oci_layout`] does, by `RepoTags` for the latter.
    ///
    /// # Errors
    /// [`ImageError`]; nothing of a faulty image is entered.
    pub async fn import_archive(&self, archive: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
        let (store, archive, name) = (self.clone(), archive.to_path_buf(), name.map(str::to_string));
        blocking(move || archive::import_archive(&store, &archive, name.as_deref())).await
    }
}

/// How much of a layer's digest names its directory.
const LAYER_NAME: usize = 24;

pub(crate) fn to_image(record: &ImageRecord) -> Image {
    let user = record.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    Image {
        id: record.id.clone(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        uid,
        username: if uid.is_some() { String::new() } else { user.to_string() },
    }
}

/// Runs blocking work off the executor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Io { operation: "unpack in", path: PathBuf::new(), source: io::Error::other(error) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_as_dockers() {
        assert_eq!(parse_reference("nginx").unwrap().to_string(), "docker.io/library/nginx:latest");
        assert_eq!(parse_reference("wharf.local/demo:v1").unwrap().to_string(), "wharf.local/demo:v1");
        assert_eq!(parse_reference("localhost:5000/a/b").unwrap().to_string(), "localhost:5000/a/b:latest");
        assert!(parse_reference("UPPER/Case").is_err());
    }

    #[test]
    fn a_tag_moves_to_the_newer_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().into(), Vec::new()).unwrap();
        let reference = [parse_reference("app:v1").unwrap()];
        let old = store.commit(b"{\"a\":1}", Vec::new(), &reference).unwrap();
        let new = store.commit(b"{\"a\":2}", Vec::new(), &reference).unwrap();
        assert_ne!(old, new);
        assert_eq!(store.find("docker.io/library/app:v1").unwrap().id, new);
        assert_eq!(store.find(&old).unwrap().tags.len(), 0);
        store.remove("app:v1", &BTreeSet::new()).unwrap();
        assert!(store.find("app:v1").is_none());
        let again = ImageStore::open(dir.path().into(), Vec::new()).unwrap();
        assert!(again.find(&old).is_some() && again.find(&new).is_none());
    }

    #[test]
    fn only_loopback_may_be_plain() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().into(), vec!["reg.example:5000".into()]).unwrap();
        assert!(store.is_insecure("localhost:5000") && store.is_insecure("127.0.0.1:1") && store.is_insecure("reg.example:5000"));
        assert!(!store.is_insecure("docker.io") && !store.is_insecure("localhost.example"));
    }
}
