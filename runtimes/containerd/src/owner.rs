//! Whose a sandbox or container is, and what CRI does not keep for us: told by labels and annotations of our own.

use std::collections::HashMap;

use wharf_core::runtime::{ImageSpec, PodSandboxConfig, RuntimeError, RuntimeResult, StringMap};

use crate::error::ConnectError;

/// The label that says who made a sandbox or container.
pub const OWNER_LABEL: &str = "wharf.io/owner";
/// The pod's uid, to look its sandboxes up by.
pub(crate) const POD_UID_LABEL: &str = "wharf.io/pod-uid";
/// A sandbox's configuration as JSON, without what CRI returns by itself.
const CONFIG_ANNOTATION: &str = "wharf.io/sandbox-config";
/// A container's image as asked for, as JSON. CRI returns another name of it.
const IMAGE_ANNOTATION: &str = "wharf.io/image";

const LABELS: [&str; 2] = [OWNER_LABEL, POD_UID_LABEL];
const ANNOTATIONS: [&str; 2] = [CONFIG_ANNOTATION, IMAGE_ANNOTATION];
/// Most characters of an owner, as of any label's value.
const MAX_OWNER: usize = 63;

/// Who we are on a socket that others may share.
#[derive(Debug, Clone)]
pub(crate) struct Owner(String);

fn refuse_reserved(map: &StringMap, reserved: &[&str], field: &'static str) -> RuntimeResult<()> {
    match reserved.iter().find(|key| map.contains_key(**key)) {
        Some(key) => Err(RuntimeError::InvalidArgument { field, message: format!("{key} is reserved for the runtime itself") }),
        None => Ok(()),
    }
}

fn as_json(field: &'static str, value: &impl serde::Serialize) -> RuntimeResult<String> {
    serde_json::to_string(value).map_err(|e| RuntimeError::InvalidArgument { field, message: e.to_string() })
}

fn visible(map: HashMap<String, String>, reserved: &[&str]) -> StringMap {
    map.into_iter().filter(|(key, _)| !reserved.contains(&key.as_str())).collect()
}

impl Owner {
    pub(crate) fn new(owner: &str) -> Result<Self, ConnectError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if owner.is_empty() || owner.len() > MAX_OWNER || !owner.chars().all(fits) {
            return Err(ConnectError::InvalidOwner { owner: owner.to_string() });
        }
        Ok(Self(owner.to_string()))
    }

    /// A selector of what is ours and has some labels too; `None` where nothing visible can match.
    pub(crate) fn selector(&self, labels: &StringMap) -> Option<HashMap<String, String>> {
        if LABELS.iter().any(|key| labels.contains_key(*key)) {
            return None;
        }
        let mut selector: HashMap<String, String> = labels.clone().into_iter().collect();
        selector.insert(OWNER_LABEL.into(), self.0.clone());
        Some(selector)
    }

    /// A selector of what is ours and of one pod.
    pub(crate) fn pod_selector(&self, uid: &str) -> HashMap<String, String> {
        [(OWNER_LABEL.into(), self.0.clone()), (POD_UID_LABEL.into(), uid.to_string())].into()
    }

    /// The labels of a new sandbox or container of ours.
    pub(crate) fn labels(&self, labels: &StringMap, pod_uid: &str) -> RuntimeResult<HashMap<String, String>> {
        refuse_reserved(labels, &LABELS, "labels")?;
        let mut all = self.pod_selector(pod_uid);
        all.extend(labels.clone());
        Ok(all)
    }

    pub(crate) fn owns(&self, labels: &HashMap<String, String>) -> bool {
        labels.get(OWNER_LABEL) == Some(&self.0)
    }
}

/// The annotations of a new sandbox: the pod's, and what the sandbox was made from.
pub(crate) fn sandbox_annotations(config: &PodSandboxConfig) -> RuntimeResult<HashMap<String, String>> {
    refuse_reserved(&config.annotations, &ANNOTATIONS, "annotations")?;
    let rest = PodSandboxConfig { labels: StringMap::new(), annotations: StringMap::new(), ..config.clone() };
    let mut all: HashMap<String, String> = config.annotations.clone().into_iter().collect();
    all.insert(CONFIG_ANNOTATION.into(), as_json("config", &rest)?);
    Ok(all)
}

/// What a sandbox was made from, but for its labels and annotations.
pub(crate) fn sandbox_config(annotations: &HashMap<String, String>) -> Option<PodSandboxConfig> {
    serde_json::from_str(annotations.get(CONFIG_ANNOTATION)?).ok()
}

/// The annotations of a new container: its own, and the image asked for.
pub(crate) fn container_annotations(annotations: &StringMap, image: &ImageSpec) -> RuntimeResult<HashMap<String, String>> {
    refuse_reserved(annotations, &ANNOTATIONS, "annotations")?;
    let mut all: HashMap<String, String> = annotations.clone().into_iter().collect();
    all.insert(IMAGE_ANNOTATION.into(), as_json("image", image)?);
    Ok(all)
}

/// The image that a container was asked for with.
pub(crate) fn container_image(annotations: &HashMap<String, String>) -> Option<ImageSpec> {
    serde_json::from_str(annotations.get(IMAGE_ANNOTATION)?).ok()
}

pub(crate) fn visible_labels(labels: HashMap<String, String>) -> StringMap {
    visible(labels, &LABELS)
}

pub(crate) fn visible_annotations(annotations: HashMap<String, String>) -> StringMap {
    visible(annotations, &ANNOTATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(key: &str, value: &str) -> StringMap {
        [(key.to_string(), value.to_string())].into()
    }

    #[test]
    fn labels_are_added_and_hidden() {
        let owner = Owner::new("node-1").unwrap();
        let labels = owner.labels(&map("app", "x"), "uid").unwrap();
        assert!(owner.owns(&labels) && !Owner::new("node-2").unwrap().owns(&labels));
        assert_eq!(labels[POD_UID_LABEL], "uid");
        assert_eq!(visible_labels(labels), map("app", "x"));
    }

    #[test]
    fn nobody_passes_for_another_owner() {
        let owner = Owner::new("node-1").unwrap();
        assert!(owner.labels(&map(OWNER_LABEL, "node-2"), "uid").is_err());
        assert!(owner.selector(&map(OWNER_LABEL, "node-2")).is_none());
        assert_eq!(owner.selector(&map("app", "x")).unwrap()[OWNER_LABEL], "node-1");
        let config = PodSandboxConfig { annotations: map(CONFIG_ANNOTATION, "{}"), ..PodSandboxConfig::default() };
        assert!(sandbox_annotations(&config).is_err());
        for owner in ["", "a b", "a/b", &"x".repeat(64)] {
            assert!(Owner::new(owner).is_err(), "{owner:?}");
        }
    }

    #[test]
    fn a_sandbox_configuration_comes_back() {
        let config = PodSandboxConfig { hostname: "h".into(), annotations: map("note", "x"), ..PodSandboxConfig::default() };
        let annotations = sandbox_annotations(&config).unwrap();
        let back = sandbox_config(&annotations).unwrap();
        assert_eq!(back.hostname, "h");
        assert_eq!(visible_annotations(annotations), config.annotations);
    }
}
