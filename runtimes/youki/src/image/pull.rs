//! Pulling from a registry.

use std::sync::Arc;

use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE, OciDescriptor};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use wharf_core::runtime::{AuthConfig, ImageReference};

use super::{ImageConfig, ImageError, ImageStore, LayerBlob, MAX_DOCUMENT, blocking, digest};

/// The most layers of an image, as Docker has it.
const MAX_LAYERS: usize = 127;

/// A directory for downloads, shared with unpacking.
type Work = Arc<tempfile::TempDir>;

pub(super) async fn pull(store: &ImageStore, image: &ImageReference, auth: Option<&AuthConfig>) -> Result<String, ImageError> {
    let reference = &named(image);
    let protocol = if store.is_insecure(reference.registry()) { ClientProtocol::Http } else { ClientProtocol::Https };
    let client =
        Client::new(ClientConfig { protocol, user_agent: concat!("wharf/", env!("CARGO_PKG_VERSION")), ..ClientConfig::default() });
    let auth = match auth {
        Some(auth) if !auth.registry_token.is_empty() => RegistryAuth::Bearer(auth.registry_token.clone()),
        Some(auth) if !auth.username.is_empty() => RegistryAuth::Basic(auth.username.clone(), auth.password.clone()),
        _ => RegistryAuth::Anonymous,
    };
    let (manifest, manifest_digest, list_digest) =
        client.pull_image_manifest_and_list_digest(reference, &auth).await.map_err(registry_error)?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ImageError::malformed(format!("{} layers; at most {MAX_LAYERS} are supported", manifest.layers.len())));
    }
    if manifest.config.size < 0 || manifest.config.size as u64 > MAX_DOCUMENT {
        return Err(ImageError::malformed(format!("configuration of {} bytes", manifest.config.size)));
    }
    let config = document(&client, reference, &manifest.config).await?;
    if digest(&config) != manifest.config.digest {
        return Err(ImageError::DigestMismatch {
            what: "the configuration".into(),
            expected: manifest.config.digest.clone(),
            actual: digest(&config),
        });
    }
    let parsed: ImageConfig = serde_json::from_slice(&config).map_err(|e| ImageError::malformed(format!("configuration: {e}")))?;
    if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::malformed(format!("{} layers, but {} diff_ids", manifest.layers.len(), parsed.rootfs.diff_ids.len())));
    }
    let work: Work =
        Arc::new(tempfile::Builder::new().prefix("pull-").tempdir_in(store.tmp()).map_err(ImageError::io("create", store.tmp()))?);
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for (number, (layer, diff_id)) in manifest.layers.iter().zip(&parsed.rootfs.diff_ids).enumerate() {
        layers.push(fetch(store, &client, reference, layer, diff_id, number, &work).await?);
    }
    let mut references = vec![image.clone()];
    references.extend([Some(manifest_digest), list_digest].into_iter().flatten().map(|digest| image.at_digest(digest)));
    let store = store.clone();
    blocking(move || store.commit(&config, layers, &references)).await
}

/// The client's own form of a name, made without its parser.
fn named(image: &ImageReference) -> Reference {
    let (registry, repository) = (image.registry().to_owned(), image.repository().to_owned());
    let tag = image.tag().unwrap_or_default().to_owned();
    match image.digest() {
        None => Reference::with_tag(registry, repository, tag),
        Some(digest) if tag.is_empty() => Reference::with_digest(registry, repository, digest.to_owned()),
        Some(digest) => Reference::with_tag_and_digest(registry, repository, tag, digest.to_owned()),
    }
}

/// A small blob, held in memory and no larger than it says.
async fn document(client: &Client, reference: &Reference, descriptor: &OciDescriptor) -> Result<Vec<u8>, ImageError> {
    let mut stream = client.pull_blob_stream(reference, descriptor).await.map_err(registry_error)?.stream;
    let mut out = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| ImageError::Registry { message: e.to_string(), transient: true })?;
        if (out.len() + chunk.len()) as u64 > MAX_DOCUMENT {
            return Err(ImageError::malformed(format!("configuration of more than {MAX_DOCUMENT} bytes")));
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

async fn fetch(
    store: &ImageStore,
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
    diff_id: &str,
    number: usize,
    work: &Work,
) -> Result<String, ImageError> {
    let name = &super::digest_hex(diff_id)?[..super::LAYER_NAME];
    if store.layers_dir().join(name).exists() {
        return Ok(name.to_string());
    }
    tracing::debug!(layer = %layer.digest, docker = layer.media_type == IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE, "pulling a layer");
    let path = work.path().join(number.to_string());
    let mut file = tokio::fs::File::create(&path).await.map_err(ImageError::io("create", &path))?;
    client.pull_blob(reference, layer, &mut file).await.map_err(registry_error)?;
    drop(file);
    let (store, diff_id, digest, work) = (store.clone(), diff_id.to_string(), layer.digest.clone(), work.clone());
    blocking(move || {
        let blob = LayerBlob { path: path.clone(), digest: Some(digest) };
        let added = store.add_layer(&blob, &diff_id);
        // Space is wanted before the pull's end; the directory goes with `work` in any case.
        let _ = std::fs::remove_file(&path);
        drop(work);
        added
    })
    .await
}

fn registry_error(error: OciDistributionError) -> ImageError {
    let transient = match &error {
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        _ => false,
    };
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    ImageError::Registry { message, transient }
}
