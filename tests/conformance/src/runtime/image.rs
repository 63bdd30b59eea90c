//! Images.

use wharf_core::runtime::{ImageSpec, RuntimeError};

use super::bench::*;
use crate::{CaseResult, ensure, ensure_eq, fail, skip};

/// Why a case is left out for a runtime that runs programs of the host.
pub(super) const NOT_DECLARED: &str = "images are not declared";

fn spec(b: &Bench<'_>) -> ImageSpec {
    ImageSpec::new(b.harness.image())
}

pub(super) async fn pull(b: &Bench<'_>) -> CaseResult {
    if !b.has_images() {
        unsupported(b.runtime().pull_image(&spec(b), None).await, "pull_image")?;
        ensure_eq!(ok(b.runtime().list_images().await, "list_images")?, [], "images of a runtime that has none");
        return Ok(());
    }
    if !b.harness.image_can_be_pulled() {
        return skip("the harness has no image to pull");
    }
    ok(b.runtime().remove_image(&spec(b)).await, "remove_image")?;
    let reference = ok(b.runtime().pull_image(&spec(b), None).await, "pull_image")?;
    let Some(image) = ok(b.runtime().image_status(&spec(b)).await, "image_status")? else {
        return fail("a pulled image is not there");
    };
    ensure!(!image.id.is_empty(), "the image has no id");
    let listed = ok(b.runtime().list_images().await, "list_images")?;
    ensure_eq!(listed.iter().find(|i| i.id == image.id), Some(&image), "the image as listed");
    let by_reference = ok(b.runtime().image_status(&ImageSpec::new(reference.clone())).await, "image_status by what pull returned")?;
    ensure_eq!(by_reference.map(|i| i.id), Some(image.id), "the image by what pull returned");
    let sandbox = b.sandbox().await?;
    let mut config = b.container("a", b.harness.sleep());
    config.image = ImageSpec::new(reference);
    let id = b.create(&sandbox, &config).await?;
    b.start(&id).await
}

pub(super) async fn pull_twice(b: &Bench<'_>) -> CaseResult {
    if !b.has_images() {
        return skip(NOT_DECLARED);
    }
    if !b.harness.image_can_be_pulled() {
        return skip("the harness has no image to pull");
    }
    let first = ok(b.runtime().pull_image(&spec(b), None).await, "pull_image")?;
    let images = ok(b.runtime().list_images().await, "list_images")?;
    ensure_eq!(ok(b.runtime().pull_image(&spec(b), None).await, "the second pull_image")?, first, "what the second pull returned");
    ensure_eq!(ok(b.runtime().list_images().await, "list_images")?, images, "the images after the second pull");
    Ok(())
}

pub(super) async fn absent(b: &Bench<'_>) -> CaseResult {
    let never = ImageSpec::new("conformance.invalid/never-pulled:v1");
    ensure_eq!(ok(b.runtime().image_status(&never).await, "image_status")?, None, "the status of an absent image");
    Ok(())
}

pub(super) async fn remove(b: &Bench<'_>) -> CaseResult {
    if !b.has_images() {
        return skip(NOT_DECLARED);
    }
    let Some(image) = ok(b.runtime().image_status(&spec(b)).await, "image_status")? else {
        return fail("the image that the harness provided is not there");
    };
    for call in ["the first remove_image", "the second remove_image"] {
        ok(b.runtime().remove_image(&spec(b)).await, call)?;
        ensure_eq!(ok(b.runtime().image_status(&spec(b)).await, "image_status")?, None, "the image after {call}");
        let listed = ok(b.runtime().list_images().await, "list_images")?;
        ensure!(listed.iter().all(|i| i.repo_tags != image.repo_tags || i.id != image.id), "after {call} the image is listed");
    }
    let (pod, sandbox) = b.sandbox().await?;
    let config = b.container("a", b.harness.sleep());
    match b.runtime().create_container(&sandbox, &config, &pod).await {
        Err(RuntimeError::ImageNotPresent { .. }) => Ok(()),
        other => fail(format!("create_container of a removed image: expected ImageNotPresent, got {other:?}")),
    }
}

pub(super) async fn remove_unknown(b: &Bench<'_>) -> CaseResult {
    let never = ImageSpec::new("conformance.invalid/never-pulled:v1");
    ok(b.runtime().remove_image(&never).await, "remove_image of an unknown image")
}

pub(super) async fn missing(b: &Bench<'_>) -> CaseResult {
    if !b.has_images() {
        return skip(NOT_DECLARED);
    }
    let Some(reference) = b.harness.missing_image() else { return skip("the harness knows no missing image") };
    let missing = ImageSpec::new(reference);
    match b.runtime().pull_image(&missing, None).await {
        Err(RuntimeError::PullFailed { message, .. }) => ensure!(!message.is_empty(), "PullFailed has no message"),
        other => return fail(format!("pull of a missing image: expected PullFailed, got {other:?}")),
    }
    ensure_eq!(ok(b.runtime().image_status(&missing).await, "image_status")?, None, "an image whose pull failed");
    Ok(())
}

pub(super) async fn not_a_reference(b: &Bench<'_>) -> CaseResult {
    if !b.has_images() {
        return skip(NOT_DECLARED);
    }
    for text in ["", "Upper/Case", "two words", "a:b:c"] {
        match b.runtime().pull_image(&ImageSpec::new(text), None).await {
            Err(RuntimeError::InvalidArgument { .. }) => {}
            other => return fail(format!("pull of {text:?}: expected InvalidArgument, got {other:?}")),
        }
    }
    Ok(())
}

pub(super) async fn fs_info(b: &Bench<'_>) -> CaseResult {
    let usage = b.runtime().image_fs_info().await;
    if !b.has_images() {
        return unsupported(usage, "image_fs_info");
    }
    let usage = ok(usage, "image_fs_info")?;
    ensure!(usage.mountpoint.is_absolute(), "the mountpoint {:?} is not absolute", usage.mountpoint);
    ensure!(usage.used_bytes > 0, "images that are present use no space");
    Ok(())
}
