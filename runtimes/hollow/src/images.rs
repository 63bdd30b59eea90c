//! References, and which images have been pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use sha2::{Digest, Sha256};
use wharf_core::runtime::{Image, ImageReference, Retry, RuntimeError, RuntimeResult};

/// What each pretended image is said to weigh, in bytes.
pub(crate) const IMAGE_SIZE: u64 = 1 << 20;

/// Images by id, each with its normalised references.
#[derive(Debug)]
pub(crate) struct Images {
    present: BTreeMap<String, BTreeSet<String>>,
    missing: Vec<String>,
}

/// `nginx` as `docker.io/library/nginx:latest`; a digest says all, so a tag beside it goes.
fn normalise(reference: &str) -> RuntimeResult<String> {
    let reference: ImageReference = reference.parse()?;
    Ok(match reference.digest() {
        Some(digest) => reference.at_digest(digest).to_string(),
        None => reference.to_string(),
    })
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn digest_of(reference: &str) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(reference.as_bytes()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Images {
    pub(crate) fn new(missing: Vec<String>) -> Self {
        Self { present: BTreeMap::new(), missing }
    }

    /// The id of a present image, by reference or id.
    pub(crate) fn find(&self, reference: &str) -> RuntimeResult<Option<String>> {
        if is_digest(reference) {
            return Ok(self.present.contains_key(reference).then(|| reference.to_string()));
        }
        let name = normalise(reference)?;
        let holds =
            |(id, names): (&String, &BTreeSet<String>)| names.iter().any(|n| *n == name || digested(n, id) == name).then(|| id.clone());
        Ok(self.present.iter().find_map(holds))
    }

    pub(crate) fn pull(&mut self, reference: &str) -> RuntimeResult<String> {
        // An id is no registry's name, but what a pull returned may be pulled again.
        if let Some(id) = self.find(reference)? {
            return Ok(id);
        }
        if is_digest(reference) || self.missing.iter().any(|word| reference.contains(word.as_str())) {
            let message = format!("{reference}: not found");
            return Err(RuntimeError::PullFailed { image: reference.to_string(), message, retry: Retry::Permanent });
        }
        let name = normalise(reference)?;
        let id = match name.split_once('@') {
            Some((_, digest)) => digest.to_string(),
            None => digest_of(&name),
        };
        self.present.entry(id.clone()).or_default().insert(name);
        Ok(id)
    }

    /// Removes an image with all its references; an unknown one is gone already.
    pub(crate) fn remove(&mut self, reference: &str) -> RuntimeResult<()> {
        if let Some(id) = self.find(reference)? {
            self.present.remove(&id);
        }
        Ok(())
    }

    pub(crate) fn image(&self, id: &str) -> Option<Image> {
        self.present.get_key_value(id).map(image)
    }

    pub(crate) fn list(&self) -> Vec<Image> {
        self.present.iter().map(image).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.present.len()
    }
}

/// `name:tag` as `name@digest`.
fn digested(name: &str, id: &str) -> String {
    match name.rsplit_once(':') {
        Some((repository, _)) if !name.contains('@') => format!("{repository}@{id}"),
        _ => name.to_string(),
    }
}

fn image((id, names): (&String, &BTreeSet<String>)) -> Image {
    Image {
        id: id.clone(),
        repo_tags: names.iter().filter(|n| !n.contains('@')).cloned().collect(),
        repo_digests: names.iter().map(|n| digested(n, id)).collect(),
        size: IMAGE_SIZE,
        ..Image::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_every_reference() {
        let mut images = Images::new(vec!["gone".into()]);
        let id = images.pull("nginx").unwrap();
        let image = images.image(&id).unwrap();
        for reference in ["nginx", "nginx:latest", "docker.io/library/nginx", &id, &image.repo_digests[0]] {
            assert_eq!(images.find(reference).unwrap(), Some(id.clone()), "{reference}");
            assert_eq!(images.pull(reference).unwrap(), id);
        }
        assert!(matches!(images.pull("No Name"), Err(RuntimeError::InvalidArgument { field: "image", .. })));
        assert!(matches!(images.pull("a/gone:v1"), Err(RuntimeError::PullFailed { retry: Retry::Permanent, .. })));
        images.remove(&id).unwrap();
        images.remove("nginx").unwrap();
        assert_eq!((images.find("nginx").unwrap(), images.len()), (None, 0));
    }
}
