//! Where a webhook may be.

use base64::Engine;
use http::uri::Authority;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use super::metadata::{label_1035, subdomain};
use super::{Causes, invalid, required};
use crate::resources::value::{at, number, text};
use crate::webhook::{REVIEWS, spoken};

const FORM: &str = "; desired format: https://host[/path]";

/// A URL: of a host, by TLS, and nothing in it that could be secret or be lost on the way.
fn url(url: &str, field: &str, causes: &mut Causes) {
    let malformed = |why: &str| format!("url must be a valid URL: parse {url:?}: {why}{FORM}");
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return required(causes, field, &malformed("net/url: invalid control character in URL"));
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once(':').unwrap_or(("", rest));
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    // What stands behind the name can only be a port.
    let is_place = |found: Authority| found.port_u16().is_some() || found.host().len() == host.len();
    if !host.is_empty() && !host.parse().is_ok_and(is_place) {
        return required(causes, field, &malformed("invalid host"));
    }
    let scheme = scheme.to_lowercase();
    if scheme != "https" {
        invalid(causes, field, &scheme.into(), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        invalid(causes, field, &host.into(), &format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        invalid(causes, field, &user.into(), "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        invalid(causes, field, &fragment.into(), "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        invalid(causes, field, &query.into(), "query parameters are not permitted in the URL");
    }
}

/// A Service, its port and the path there.
fn service(service: &Value, field: &str, causes: &mut Causes) {
    for part in ["name", "namespace"] {
        if text(service, &[part]).is_empty() {
            required(causes, &format!("{field}.{part}"), &format!("service {part} is required"));
        }
    }
    let port = number(service, &["port"]).unwrap_or(443);
    if !(1..=65_535).contains(&port) {
        invalid(causes, &format!("{field}.port"), &port.into(), "port is not valid: must be between 1 and 65535, inclusive");
    }
    let (whole, field) = (text(service, &["path"]), format!("{field}.path"));
    if matches!(whole, "" | "/") {
        return;
    }
    let mut wrong = |why: &str| invalid(causes, &field, &whole.into(), why);
    if whole == "//" {
        return wrong("segment[0] may not be empty");
    }
    let path = match whole.strip_prefix('/') {
        Some(path) => path,
        None => {
            wrong("must start with a '/'");
            whole
        }
    };
    for (i, step) in path.strip_suffix('/').unwrap_or(path).split('/').enumerate() {
        if step.is_empty() {
            wrong(&format!("segment[{i}] may not be empty"));
        } else if let Some(why) = subdomain(step) {
            wrong(&format!("segment[{i}]: {why}"));
        }
    }
}

/// Certificates in PEM.
pub(crate) fn bundle(bundle: &str, field: &str, causes: &mut Causes) {
    let bytes = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default();
    let mut found = CertificateDer::pem_slice_iter(&bytes).peekable();
    let parses = |der: CertificateDer<'_>| x509_parser::parse_x509_certificate(&der).is_ok();
    if !bundle.is_empty() && (found.peek().is_none() || !found.all(|certificate| certificate.is_ok_and(parses))) {
        invalid(causes, field, &bundle.into(), "unable to load root certificates: unable to parse bytes as PEM block");
    }
}

/// A `clientConfig`, but for its bundle: that of a webhook that admits is not looked at by Kubernetes.
pub(crate) fn client_config(config: &Value, field: &str, causes: &mut Causes) {
    match (at(config, &["url"]), at(config, &["service"])) {
        (Some(found), None) => url(found.as_str().unwrap_or_default(), &format!("{field}.url"), causes),
        (None, Some(found)) => service(found, &format!("{field}.service"), causes),
        _ => required(causes, field, "exactly one of url or service is required"),
    }
}

/// The versions of reviews that a webhook takes, of which this server has to speak one; unless `any` will do.
pub(crate) fn review_versions(versions: &[Value], missing: &str, any: bool, field: &str, causes: &mut Causes) {
    if versions.is_empty() {
        return required(causes, field, missing);
    }
    for (i, version) in versions.iter().enumerate() {
        let here = format!("{field}[{i}]");
        if versions.iter().take(i).any(|v| v == version) {
            invalid(causes, &here, version, "duplicate version");
        } else if let Some(why) = label_1035(version.as_str().unwrap_or_default()) {
            invalid(causes, &here, version, why);
        }
    }
    if !any && spoken(versions).is_none() {
        invalid(causes, field, &versions.into(), &format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::lines;
    use super::*;

    fn found(config: Value) -> Vec<String> {
        let mut causes = Vec::new();
        client_config(&config, "c", &mut causes);
        lines(causes)
    }

    #[test]
    fn urls() {
        for good in ["https://a", "HTTPS://a.example:8443/x/y", "https://127.0.0.1/", "https://[::1]:1/"] {
            assert!(found(json!({"url": good})).is_empty(), "{good}");
        }
        for (bad, wanted) in [
            ("http://a", "c.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"),
            ("https:a", "c.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]"),
            ("https:///a", "c.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]"),
            ("https://u:p@a", "c.url: Invalid value: \"u:p\": user information is not permitted in the URL"),
            ("https://a#f", "c.url: Invalid value: \"f\": fragments are not permitted in the URL"),
            ("https://a?q=1", "c.url: Invalid value: \"q=1\": query parameters are not permitted in the URL"),
        ] {
            assert_eq!(found(json!({"url": bad})), [wanted]);
        }
        for malformed in ["https://a b", "https://a:b", "https://a:65536", "https://a\n"] {
            assert!(found(json!({"url": malformed}))[0].starts_with("c.url: Required value: url must be a valid URL"), "{malformed}");
        }
        for hostile in ["", "#", "?", "://a", "a:b:c", "//", "///", "https://é@é]:", "https://["] {
            assert!(!found(json!({"url": hostile})).is_empty(), "{hostile}");
        }
        assert_eq!(found(json!({"url": "https://a", "service": {}})), ["c: Required value: exactly one of url or service is required"]);
        assert_eq!(found(json!({})), ["c: Required value: exactly one of url or service is required"]);
    }

    #[test]
    fn services() {
        let with = |more: Value| {
            let mut service = json!({"name": "s", "namespace": "n"});
            service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            found(json!({"service": service}))
        };
        for good in [json!({}), json!({"path": "/"}), json!({"path": "/a/b-c/", "port": 1})] {
            assert!(with(good.clone()).is_empty(), "{good}");
        }
        assert_eq!(with(json!({"name": "", "port": 0})).len(), 2);
        assert_eq!(with(json!({"path": "//"})), ["c.service.path: Invalid value: \"//\": segment[0] may not be empty"]);
        assert_eq!(with(json!({"path": "/a//b"})), ["c.service.path: Invalid value: \"/a//b\": segment[1] may not be empty"]);
        assert!(with(json!({"path": "a"}))[0].ends_with("must start with a '/'"));
        assert!(with(json!({"path": "/A"}))[0].contains("segment[0]: a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn bundles() {
        let with = |shown: &str| {
            let mut causes = Vec::new();
            bundle(shown, "c.caBundle", &mut causes);
            lines(causes)
        };
        assert!(with("").is_empty());
        assert!(with("Cg==")[0].ends_with("unable to parse bytes as PEM block"));
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
        assert!(with(&base64::engine::general_purpose::STANDARD.encode(pem)).is_empty());
    }
}
