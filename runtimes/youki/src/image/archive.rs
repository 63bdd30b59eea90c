//! Images from disk: OCI layouts, OCI archives and `docker save`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wharf_core::runtime::ImageReference;

use super::{ImageConfig, ImageError, ImageStore, LayerBlob, MAX_DOCUMENT, digest, digest_hex, parse_reference};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation with the full name, which ref.name often lacks.
const FULL_NAME: &str = "io.containerd.image.name";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn import_archive(store: &ImageStore, archive: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
    let work = tempfile::Builder::new().prefix("import-").tempdir_in(store.tmp()).map_err(ImageError::io("create", store.tmp()))?;
    let file = File::open(archive).map_err(ImageError::io("open", archive))?;
    tar::Archive::new(io::BufReader::new(file)).unpack(work.path()).map_err(ImageError::io("unpack", archive))?;
    if work.path().join("index.json").exists() {
        import_layout(store, work.path(), name)
    } else if work.path().join("manifest.json").exists() {
        import_docker(store, work.path(), name)
    } else {
        Err(ImageError::malformed(format!("{} is neither an OCI archive nor one of docker save", archive.display())))
    }
}

fn document(path: &Path) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(ImageError::io("read", path))?.len();
    if size > MAX_DOCUMENT {
        return Err(ImageError::malformed(format!("{} is larger than {MAX_DOCUMENT} bytes", path.display())));
    }
    fs::read(path).map_err(ImageError::io("read", path))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::malformed(format!("{what}: {e}")))
}

fn blob_path(directory: &Path, digest: &str) -> Result<PathBuf, ImageError> {
    Ok(directory.join("blobs/sha256").join(digest_hex(digest)?))
}

fn verified(directory: &Path, expected: &str) -> Result<Vec<u8>, ImageError> {
    let bytes = document(&blob_path(directory, expected)?)?;
    let actual = digest(&bytes);
    if actual != expected {
        return Err(ImageError::DigestMismatch { what: "a document".into(), expected: expected.into(), actual });
    }
    Ok(bytes)
}

/// The manifest of this machine's platform, through any number of nested indexes up to a bound.
fn resolve(directory: &Path, descriptor: &Descriptor, depth: u32) -> Result<Document, ImageError> {
    let document: Document = parse(&verified(directory, &descriptor.digest)?, "manifest")?;
    if document.manifests.is_empty() {
        return Ok(document);
    }
    if depth == 0 {
        return Err(ImageError::malformed("indexes are nested too deeply"));
    }
    let chosen = document
        .manifests
        .iter()
        .find(|m| m.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture()))
        .or_else(|| document.manifests.iter().find(|m| m.platform.is_none()))
        .ok_or_else(|| ImageError::malformed(format!("no image for linux/{}", architecture())))?;
    resolve(directory, chosen, depth - 1)
}

pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn import_layout(store: &ImageStore, directory: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
    let index: Document = parse(&document(&directory.join("index.json"))?, "index.json")?;
    if name.is_some() && index.manifests.len() != 1 {
        return Err(ImageError::malformed(format!("one name was given for {} images", index.manifests.len())));
    }
    let mut references = Vec::new();
    for descriptor in &index.manifests {
        let name = name.or_else(|| descriptor.annotations.get(FULL_NAME).or(descriptor.annotations.get(REF_NAME)).map(String::as_str));
        let name = name.ok_or_else(|| ImageError::malformed(format!("an image has no {REF_NAME}; give it a name")))?;
        let reference = parse_reference(name)?;
        let manifest = resolve(directory, descriptor, 4)?;
        let config = manifest.config.ok_or_else(|| ImageError::malformed("a manifest has no config"))?;
        let config = verified(directory, &config.digest)?;
        let blobs = manifest
            .layers
            .iter()
            .map(|l| Ok(LayerBlob { path: blob_path(directory, &l.digest)?, digest: Some(l.digest.clone()) }))
            .collect::<Result<Vec<_>, ImageError>>()?;
        references.push(enter(store, &config, &blobs, &[reference])?);
    }
    Ok(references.into_iter().flatten().collect())
}

fn import_docker(store: &ImageStore, directory: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
    let images: Vec<DockerImage> = parse(&document(&directory.join("manifest.json"))?, "manifest.json")?;
    if name.is_some() && images.len() != 1 {
        return Err(ImageError::malformed(format!("one name was given for {} images", images.len())));
    }
    let mut references = Vec::new();
    for image in images {
        let names = match name {
            Some(name) => vec![name.to_string()],
            None => image.repo_tags.unwrap_or_default(),
        };
        let names = names.iter().map(|n| parse_reference(n)).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(ImageError::malformed("an image has no RepoTags; give it a name"));
        }
        let config = document(&within(directory, &image.config)?)?;
        let blobs = image
            .layers
            .iter()
            .map(|l| Ok(LayerBlob { path: within(directory, l)?, digest: None }))
            .collect::<Result<Vec<_>, ImageError>>()?;
        references.push(enter(store, &config, &blobs, &names)?);
    }
    Ok(references.into_iter().flatten().collect())
}

/// A file that an archive names, which may be a symlink in it but must stay in it.
fn within(directory: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let root = directory.canonicalize().map_err(ImageError::io("open", directory))?;
    let path = root.join(name).canonicalize().map_err(ImageError::io("open", root.join(name)))?;
    if !path.starts_with(&root) {
        return Err(ImageError::malformed(format!("{name:?} is outside of the archive")));
    }
    Ok(path)
}

fn enter(store: &ImageStore, config: &[u8], blobs: &[LayerBlob], references: &[ImageReference]) -> Result<Vec<String>, ImageError> {
    let parsed: ImageConfig = parse(config, "configuration")?;
    if parsed.rootfs.diff_ids.len() != blobs.len() {
        return Err(ImageError::malformed(format!("{} layers, but {} diff_ids", blobs.len(), parsed.rootfs.diff_ids.len())));
    }
    let layers = blobs.iter().zip(&parsed.rootfs.diff_ids).map(|(b, d)| store.add_layer(b, d)).collect::<Result<Vec<_>, _>>()?;
    store.commit(config, layers, references)?;
    Ok(references.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, data).unwrap();
    }

    fn docker_save(directory: &Path, tags: &str, layer_path: &str) -> PathBuf {
        let mut layer = tar::Builder::new(Vec::new());
        add(&mut layer, "file", b"hello");
        let layer = layer.into_inner().unwrap();
        let config = format!(r#"{{"config":{{"Cmd":["/file"]}},"rootfs":{{"diff_ids":["{}"]}}}}"#, digest(&layer));
        let manifest = format!(r#"[{{"Config":"c.json","RepoTags":{tags},"Layers":["{layer_path}"]}}]"#);
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive, "c.json", config.as_bytes());
        add(&mut archive, "abc/layer.tar", &layer);
        add(&mut archive, "manifest.json", manifest.as_bytes());
        let path = directory.join("image.tar");
        fs::write(&path, archive.into_inner().unwrap()).unwrap();
        path
    }

    #[test]
    fn docker_save_is_imported_by_its_tags_or_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("store"), Vec::new()).unwrap();
        let archive = docker_save(dir.path(), r#"["demo:v1"]"#, "abc/layer.tar");
        assert_eq!(import_archive(&store, &archive, None).unwrap(), ["docker.io/library/demo:v1"]);
        assert_eq!(import_archive(&store, &archive, Some("wharf.local/demo:v1")).unwrap(), ["wharf.local/demo:v1"]);
        let image = store.find("wharf.local/demo:v1").unwrap();
        assert_eq!(fs::read(store.layers_dir().join(&image.layers[0]).join("file")).unwrap(), b"hello");
        assert_eq!(fs::read_dir(store.tmp()).unwrap().count(), 0);
        let nameless = docker_save(dir.path(), "null", "abc/layer.tar");
        assert!(matches!(import_archive(&store, &nameless, None), Err(ImageError::Malformed { .. })));
    }

    #[test]
    fn an_archive_cannot_name_files_outside_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("store"), Vec::new()).unwrap();
        let archive = docker_save(dir.path(), r#"["demo:v1"]"#, "/etc/passwd");
        assert!(import_archive(&store, &archive, None).is_err());
        assert!(store.find("demo:v1").is_none());
    }
}
