//! Images.

use k8s_cri::v1;
use wharf_core::runtime::{AuthConfig, Image, ImageSpec};

pub(crate) fn image_spec(image: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec { image: image.image.clone(), runtime_handler: image.runtime_handler.clone(), ..Default::default() }
}

pub(crate) fn auth(auth: &AuthConfig) -> v1::AuthConfig {
    v1::AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        registry_token: auth.registry_token.clone(),
        ..Default::default()
    }
}

pub(crate) fn image(image: v1::Image) -> Image {
    Image {
        id: image.id,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }
}
