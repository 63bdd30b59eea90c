//! Kubernetes' patches, as pure functions of JSON.
