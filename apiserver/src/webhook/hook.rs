//! Where a webhook is, as its configuration tells.

use std::time::Duration;

use base64::Engine;
use http::Uri;
use serde_json::Value;

use crate::resources::value::{at, number, text};

/// The port of a service that names none; Kubernetes' own.
const HTTPS: u16 = 443;

/// Where a webhook is, and whom its certificate has to be of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Hook {
    place: Place,
    bundle: Vec<u8>,
}

/// How it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Url(String),
    Service { namespace: String, name: String, path: String, port: u16 },
}

impl Hook {
    /// Reads a `clientConfig`.
    ///
    /// # Errors
    /// That it names no place: it has not been validated.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let bundle = base64::engine::general_purpose::STANDARD
            .decode(text(config, &["caBundle"]))
            .map_err(|e| format!("caBundle is not valid base64: {e}"))?;
        let place = match (at(config, &["service"]), text(config, &["url"])) {
            (Some(service), _) => Place::Service {
                namespace: text(service, &["namespace"]).to_owned(),
                name: text(service, &["name"]).to_owned(),
                path: text(service, &["path"]).to_owned(),
                port: number(service, &["port"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(HTTPS),
            },
            (None, "") => return Err("webhook configuration must have either service or URL".into()),
            (None, url) => {
                url.parse::<Uri>().map_err(|e| format!("Unparsable URL: {e}"))?;
                Place::Url(url.to_owned())
            }
        };
        Ok(Self { place, bundle })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
    /// The certificates that are trusted, in PEM; none for those of the system.
    pub(super) fn bundle(&self) -> &[u8] {
        &self.bundle
    }

    /// What is called, with the time that it has.
    pub(super) fn url(&self, timeout: Duration) -> String {
        let base = match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service { namespace, name, path, port } => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        };
        let mark = if base.contains('?') { '&' } else { '?' };
        format!("{base}{mark}timeout={}s", timeout.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places() {
        let url = |config: Value| Hook::read(&config).map(|hook| hook.url(Duration::from_secs(10)));
        let service = |more: Value| {
            let mut service = json!({"namespace": "n", "name": "s"});
            service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"service": service})
        };
        assert_eq!(url(service(json!({}))).unwrap(), "https://s.n.svc:443/?timeout=10s");
        assert_eq!(url(service(json!({"path": "/a/b", "port": 8443}))).unwrap(), "https://s.n.svc:8443/a/b?timeout=10s");
        assert_eq!(url(service(json!({"path": "a"}))).unwrap(), "https://s.n.svc:443/a?timeout=10s");
        assert_eq!(url(json!({"url": "https://a.example:1/x"})).unwrap(), "https://a.example:1/x?timeout=10s");
        for bad in [json!({}), json!({"url": "https://a b"}), json!({"url": "https://a", "caBundle": "?"})] {
            assert!(url(bad.clone()).is_err(), "{bad}");
        }
    }
}
