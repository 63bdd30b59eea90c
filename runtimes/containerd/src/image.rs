//! CRI's ImageService.

use async_trait::async_trait;
use k8s_cri::v1;
use oci_spec::distribution::Reference;
use tonic::Code;
use wharf_core::runtime::{AuthConfig, FilesystemUsage, Image, ImageService, ImageSpec, Retry, RuntimeError, RuntimeResult};

use crate::ContainerdRuntime;
use crate::client::{CALL_TIMEOUT, PULL_IMAGE_TIMEOUT};
use crate::error::{CriError, Failure};
use crate::translate;

/// Words of registries that say that asking again is of no use. Runtimes pass them on as text.
const FINAL_WORDS: [&str; 6] =
    ["not found", "manifest unknown", "pull access denied", "insufficient_scope", "401 Unauthorized", "403 Forbidden"];

fn pull_failed(image: &str, failure: Failure) -> RuntimeError {
    let CriError::Refused { code, message } = &failure.error else { return failure.into() };
    let retry = match code {
        Code::NotFound | Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => Retry::Permanent,
        _ if FINAL_WORDS.iter().any(|words| message.contains(words)) => Retry::Permanent,
        _ => Retry::Transient,
    };
    RuntimeError::PullFailed { image: image.to_string(), message: message.clone(), retry }
}

/// Runtimes have no code for a reference that cannot be one, so it is read before it is sent.
fn check_reference(image: &str) -> RuntimeResult<()> {
    let message = match image.parse::<Reference>() {
        Ok(_) => return Ok(()),
        Err(e) => format!("{image:?} is no reference such as registry.example/name:tag: {e}"),
    };
    Err(RuntimeError::InvalidArgument { field: "image", message })
}

impl ContainerdRuntime {
    pub(crate) async fn find_image(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>> {
        let mut images = self.cri.images();
        let request = v1::ImageStatusRequest { image: Some(translate::image_spec(image)), verbose: false };
        match self.cri.call("image_status", CALL_TIMEOUT, images.image_status(request)).await {
            Ok(response) => Ok(response.image.map(translate::image)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

#[async_trait]
impl ImageService for ContainerdRuntime {
    async fn list_images(&self) -> RuntimeResult<Vec<Image>> {
        let mut images = self.cri.images();
        let response = self.cri.call("list_images", CALL_TIMEOUT, images.list_images(v1::ListImagesRequest::default())).await?;
        Ok(response.images.into_iter().map(translate::image).collect())
    }

    async fn image_status(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>> {
        self.find_image(image).await
    }

    async fn pull_image(&self, image: &ImageSpec, auth: Option<&AuthConfig>) -> RuntimeResult<String> {
        check_reference(&image.image)?;
        let mut images = self.cri.images();
        let request =
            v1::PullImageRequest { image: Some(translate::image_spec(image)), auth: auth.map(translate::auth), sandbox_config: None };
        let pulled = self.cri.call("pull_image", PULL_IMAGE_TIMEOUT, images.pull_image(request)).await;
        pulled.map(|response| response.image_ref).map_err(|failure| pull_failed(&image.image, failure))
    }

    async fn remove_image(&self, image: &ImageSpec) -> RuntimeResult<()> {
        let mut images = self.cri.images();
        let request = v1::RemoveImageRequest { image: Some(translate::image_spec(image)) };
        match self.cri.call("remove_image", CALL_TIMEOUT, images.remove_image(request)).await {
            Err(failure) if !failure.is_not_found() => Err(failure.into()),
            _ => Ok(()),
        }
    }

    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage> {
        const OP: &str = "image_fs_info";
        let mut images = self.cri.images();
        let response = self.cri.call(OP, CALL_TIMEOUT, images.image_fs_info(v1::ImageFsInfoRequest::default())).await?;
        let first = response.image_filesystems.into_iter().next();
        let usage = first.ok_or_else(|| RuntimeError::permanent(OP, CriError::Missing("image file system")))?;
        let value = |value: Option<v1::UInt64Value>| value.map(|v| v.value).unwrap_or_default();
        Ok(FilesystemUsage {
            mountpoint: usage.fs_id.unwrap_or_default().mountpoint.into(),
            used_bytes: value(usage.used_bytes),
            inodes_used: value(usage.inodes_used),
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn references_are_read_before_they_are_sent() {
        for good in ["nginx", "nginx:1.27", "127.0.0.1:5000/a/b:v1"] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        for bad in ["", "Upper/Case", "two words", "a:b:c"] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_a_registry_that_is_down() {
        let retry = |code, message: &str| {
            let failure = Failure::of_status("pull_image", "unix:///x", Status::new(code, message));
            match pull_failed("a", failure) {
                RuntimeError::PullFailed { retry, .. } => Some(retry),
                _ => None,
            }
        };
        assert_eq!(retry(Code::NotFound, "x"), Some(Retry::Permanent));
        assert_eq!(retry(Code::Unknown, "pull access denied, repository does not exist"), Some(Retry::Permanent));
        assert_eq!(retry(Code::Unknown, "dial tcp 127.0.0.1:1: connect: connection refused"), Some(Retry::Transient));
    }
}
