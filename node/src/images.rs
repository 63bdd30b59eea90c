//! Having an image: pull policy, pull secrets and back-off.

use std::collections::HashMap;

use base64::Engine;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use wharf_core::api::ApiExt;

use wharf_core::events::EventType;
use wharf_core::object::ObjectRef;
use wharf_core::runtime::{AuthConfig, Image, ImageReference, ImageService, ImageSpec, RuntimeError};

use crate::backoff::{Backoff, elapsed, go_duration};
use crate::pod;
use crate::shared::Shared;
use crate::status::Reason;

/// Images with this host exist only where they were put.
const LOCAL_HOST: &str = "wharf.local/";
/// Pulls whose failures are remembered.
const MAX_REMEMBERED: usize = 4096;

#[derive(Debug, Clone)]
struct Failure {
    backoff: Backoff,
    at: Timestamp,
    message: String,
}

/// Remembers which pulls failed.
#[derive(Debug, Default)]
pub(crate) struct Images {
    failures: Mutex<HashMap<(String, String), Failure>>,
}

/// An image that is not to be had now.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub(crate) reason: Reason,
    pub(crate) wake_after: Option<std::time::Duration>,
}

impl Images {
    /// Makes sure of the image of a container, in the runtime of the pod's handler.
    pub(crate) async fn ensure(&self, shared: &Shared, pod: &Pod, container: &Container, handler: &str) -> Result<Image, NoImage> {
        let image = container.image.as_deref().unwrap_or_default();
        let event = |kind, reason: &'static str, message: String| shared.container_event(pod, &container.name, kind, reason, message);
        let refuse = |reason: Reason| NoImage { reason, wake_after: Some(shared.pull_backoff.first) };
        let Ok(reference) = image.parse::<ImageReference>() else {
            let message =
                format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format");
            event(EventType::Warning, "InspectFailed", message.clone());
            event(EventType::Warning, "Failed", "Error: InvalidImageName".into());
            return Err(refuse(Reason::new("InvalidImageName", message)));
        };
        if !shared.runtime.capabilities_of(handler).images {
            return Ok(Image { id: image.into(), ..Image::default() });
        }
        let spec = ImageSpec::new(image).for_handler(handler);
        let present = shared.runtime.image_status(&spec).await.map_err(|error| {
            let message = format!("Failed to inspect image {image:?}: {error}");
            event(EventType::Warning, "Failed", message.clone());
            refuse(Reason::new("ImageInspectError", message))
        })?;
        let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(&reference));
        let wanted = policy == "Always" && !image.starts_with(LOCAL_HOST);
        match present {
            Some(found) if !wanted => {
                event(EventType::Normal, "Pulled", format!("Container image {image:?} already present on machine"));
                return Ok(found);
            }
            None if policy == "Never" => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                event(EventType::Warning, "ErrImageNeverPull", message.clone());
                event(EventType::Warning, "Failed", "Error: ErrImageNeverPull".into());
                return Err(refuse(Reason::new("ErrImageNeverPull", message)));
            }
            _ => {}
        }
        self.pull(shared, pod, container, &spec).await
    }

    async fn pull(&self, shared: &Shared, pod: &Pod, container: &Container, spec: &ImageSpec) -> Result<Image, NoImage> {
        let image = &spec.image;
        let key = (pod::uid(pod).to_string(), image.clone());
        let event = |kind, reason: &'static str, message: String| shared.container_event(pod, &container.name, kind, reason, message);
        let known = self.failures.lock().get(&key).cloned();
        let begun = shared.clock.now();
        if let Some(failure) = &known
            && let Some((left, _)) = Backoff::remaining(Some(&failure.backoff), &shared.pull_backoff, failure.at, begun)
        {
            event(EventType::Normal, "BackOff", format!("Back-off pulling image {image:?}"));
            event(EventType::Warning, "Failed", "Error: ImagePullBackOff".into());
            let message = format!("Back-off pulling image {image:?}: ErrImagePull: {}", failure.message);
            return Err(NoImage { reason: Reason::new("ImagePullBackOff", message), wake_after: Some(left) });
        }
        event(EventType::Normal, "Pulling", format!("Pulling image {image:?}"));
        match pull_with_secrets(shared, pod, spec).await {
            Ok(found) => {
                self.failures.lock().remove(&key);
                let took = go_duration(elapsed(begun, shared.clock.now()));
                let size = found.size;
                let message =
                    format!("Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {size} bytes.");
                event(EventType::Normal, "Pulled", message);
                Ok(found)
            }
            Err(error) => {
                let message = error.to_string();
                event(EventType::Warning, "Failed", format!("Failed to pull image {image:?}: {message}"));
                event(EventType::Warning, "Failed", "Error: ErrImagePull".into());
                let now = shared.clock.now();
                let backoff = Backoff::next(known.as_ref().map(|k| &k.backoff), &shared.pull_backoff, now, now);
                let wake = Backoff::remaining(Some(&backoff), &shared.pull_backoff, now, now).map(|(left, _)| left);
                let mut failures = self.failures.lock();
                if failures.len() >= MAX_REMEMBERED {
                    failures.clear();
                }
                failures.insert(key, Failure { backoff, at: now, message: message.clone() });
                // Soon again: the next look shows ImagePullBackOff, as users know it.
                let soon = wake.map(|w| w.min(std::time::Duration::from_secs(2)));
                Err(NoImage { reason: Reason::new("ErrImagePull", message), wake_after: soon })
            }
        }
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.failures.lock().retain(|(pod, _), _| pod != uid);
    }
}

async fn pull_with_secrets(shared: &Shared, pod: &Pod, spec: &ImageSpec) -> Result<Image, RuntimeError> {
    let mut credentials: Vec<Option<AuthConfig>> = Vec::new();
    let secrets = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
    for secret in secrets {
        let at = ObjectRef::new(pod::namespace(pod), secret.name.as_str());
        match shared.api.get_opt::<Secret>(&at).await {
            Ok(Some(secret)) => credentials.extend(credentials_for(&secret, &spec.image).into_iter().map(Some)),
            Ok(None) => {
                let message =
                    format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", secret.name);
                shared.events.event(pod, EventType::Warning, "FailedToRetrieveImagePullSecret", message);
            }
            Err(error) => tracing::warn!("an image pull secret could not be read: {error}"),
        }
    }
    if credentials.is_empty() {
        credentials.push(None);
    }
    let mut last = None;
    for auth in credentials {
        match shared.runtime.pull_image(spec, auth.as_ref()).await {
            Ok(reference) => {
                let by_reference = shared.runtime.image_status(&ImageSpec::new(reference).for_handler(&spec.runtime_handler)).await?;
                let found = match by_reference {
                    Some(found) => Some(found),
                    None => shared.runtime.image_status(spec).await?,
                };
                return found.ok_or_else(|| RuntimeError::ImageNotPresent { image: spec.image.clone() });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| RuntimeError::ImageNotPresent { image: spec.image.clone() }))
}

fn default_policy(reference: &ImageReference) -> &'static str {
    if reference.tag() == Some("latest") && reference.digest().is_none() { "Always" } else { "IfNotPresent" }
}

/// The credentials in a secret for an image's registry.
fn credentials_for(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let modern = data.and_then(|d| d.get(".dockerconfigjson")).and_then(|b| serde_json::from_slice::<serde_json::Value>(&b.0).ok());
    let legacy = data.and_then(|d| d.get(".dockercfg")).and_then(|b| serde_json::from_slice::<serde_json::Value>(&b.0).ok());
    let auths = modern.and_then(|m| m.get("auths").cloned()).or(legacy);
    let Some(auths) = auths.as_ref().and_then(|a| a.as_object()) else { return Vec::new() };
    let Ok(reference) = image.parse::<ImageReference>() else { return Vec::new() };
    let reference = reference.to_string();
    let mut found: Vec<(usize, AuthConfig)> = auths
        .iter()
        .filter_map(|(server, auth)| {
            let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let server = server.trim_end_matches("/v1").trim_end_matches("/v2").replace("index.docker.io", "docker.io");
            let matches = reference.strip_prefix(&server).is_some_and(|rest| rest.starts_with(['/', ':', '@']));
            matches.then(|| Some((server.len(), auth_of(auth)?))).flatten()
        })
        .collect();
    // The most specific first.
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn auth_of(value: &serde_json::Value) -> Option<AuthConfig> {
    let text = |name: &str| value.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_string();
    let (mut username, mut password) = (text("username"), text("password"));
    if username.is_empty() && !text("auth").is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, secret) = decoded.split_once(':')?;
        (username, password) = (user.into(), secret.into());
    }
    Some(AuthConfig { username, password, registry_token: text("registrytoken") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_the_credentials_of_the_registry() {
        let config = json!({"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOng="},"other.example":{"username":"o","password":"p"}}});
        let secret: Secret = serde_json::from_value(json!({"metadata":{}})).unwrap();
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_string(), k8s_openapi::ByteString(serde_json::to_vec(&config).unwrap()))].into()),
            ..secret
        };
        let found = credentials_for(&secret, "nginx");
        assert_eq!((found.len(), found[0].username.as_str(), found[0].password.as_str()), (1, "u", "p:x"));
        assert_eq!(credentials_for(&secret, "other.example/a:1")[0].username, "o");
        assert!(credentials_for(&secret, "other.example.evil/a:1").is_empty());
    }
}
