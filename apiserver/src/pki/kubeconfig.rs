//! Kubeconfig files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Identity;

/// How a kubeconfig's user proves who it is.
#[derive(Debug, Clone)]
pub enum Credential {
    /// By a client certificate.
    Certificate(Identity),
    /// By a bearer token.
    Token(String),
}

/// A kubeconfig in YAML: a cluster, and for each `(context, credential)` a user and a context of that name. The first
/// context is current. `server` is a URL such as `https://127.0.0.1:6443`.
pub fn kubeconfig(cluster: &str, server: &str, ca_certificate: &str, contexts: &[(&str, Credential)]) -> String {
    let users: Vec<Value> = contexts
        .iter()
        .map(|(name, credential)| {
            let user = match credential {
                Credential::Certificate(identity) => json!({
                    "client-certificate-data": BASE64.encode(&identity.certificate),
                    "client-key-data": BASE64.encode(&identity.key),
                }),
                Credential::Token(token) => json!({"token": token}),
            };
            json!({"name": name, "user": user})
        })
        .collect();
    let named: Vec<Value> = contexts.iter().map(|(name, _)| json!({"name": name, "context": {"cluster": cluster, "user": name}})).collect();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": BASE64.encode(ca_certificate)}}],
        "users": users,
        "contexts": named,
        "current-context": contexts.first().map_or("", |(name, _)| name),
    });
    // A tree of strings always has a YAML form.
    serde_yaml_ng::to_string(&config).unwrap_or_default()
}
