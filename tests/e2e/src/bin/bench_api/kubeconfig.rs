//! What a kubeconfig says about its current context.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use wharf_e2e::Unchecked;

use crate::Outcome;

/// A server and how to speak to it.
pub struct Target {
    pub address: SocketAddr,
    /// As HTTP's `Host`.
    pub authority: String,
    pub name: ServerName<'static>,
    /// Both HTTP versions share it; each connection offers its own.
    pub tls: Arc<ClientConfig>,
    /// As in the `Authorization` header.
    pub token: Option<String>,
}

fn named<'a>(config: &'a Value, list: &str, kind: &str, name: &str) -> Outcome<&'a Value> {
    let found = config[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name);
    found.map(|entry| &entry[kind]).ok_or_else(|| format!("the kubeconfig has no {kind} {name:?}").into())
}

/// The PEM under `NAME-data`, or in the file under `NAME`.
fn pem(from: &Value, name: &str, folder: &Path) -> Outcome<Option<Vec<u8>>> {
    if let Some(data) = from[format!("{name}-data")].as_str() {
        return Ok(Some(decode_base64(data)?));
    }
    from[name].as_str().map(|path| fs::read(folder.join(path)).map_err(|e| format!("cannot read {path}: {e}").into())).transpose()
}

fn decode_base64(text: &str) -> Outcome<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut have) = (0_u32, 0);
    for byte in text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=') {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("the kubeconfig holds what is no base64".into()),
        };
        bits = (bits << 6 | u32::from(digit)) & 0xff_ffff;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have & 0xff) as u8);
        }
    }
    Ok(out)
}

impl Target {
    /// The server of the current context.
    pub fn read(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let config: Value = serde_yaml_ng::from_str(&text).map_err(|e| format!("{} is no kubeconfig: {e}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let context = named(&config, "contexts", "context", config["current-context"].as_str().unwrap_or_default())?;
        let cluster = named(&config, "clusters", "cluster", context["cluster"].as_str().unwrap_or_default())?;
        let user = named(&config, "users", "user", context["user"].as_str().unwrap_or_default())?;
        let server = cluster["server"].as_str().unwrap_or_default();
        let authority = server.strip_prefix("https://").ok_or("the server must be reached over https")?.trim_end_matches('/');
        if authority.contains('/') {
            return Err("a server behind a path is not supported".into());
        }
        let with_port = if authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            authority.to_owned()
        } else {
            format!("{authority}:443")
        };
        let address = with_port.to_socket_addrs()?.next().ok_or("the server's name has no address")?;
        let host = with_port.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        let host = cluster["tls-server-name"].as_str().unwrap_or(host).to_owned();
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(file)) => Some(fs::read_to_string(folder.join(file))?.trim().to_owned()),
            (None, None) => None,
        };
        Ok(Self {
            address,
            authority: authority.to_owned(),
            name: ServerName::try_from(host)?,
            tls: Arc::new(tls(cluster, user, folder)?),
            token: token.map(|token| format!("Bearer {token}")),
        })
    }
}

fn tls(cluster: &Value, user: &Value, folder: &Path) -> Outcome<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if cluster["insecure-skip-tls-verify"] == true {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        let authority = pem(cluster, "certificate-authority", folder)?.ok_or("the kubeconfig has no certificate authority")?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate?)?;
        }
        builder.with_root_certificates(roots)
    };
    Ok(match (pem(user, "client-certificate", folder)?, pem(user, "client-key", folder)?) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
        }
        _ => builder.with_no_client_auth(),
    })
}
