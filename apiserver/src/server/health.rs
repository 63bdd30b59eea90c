//! `/healthz`, `/livez`, `/readyz`, `/version` and the OpenID documents.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use serde_json::json;

use super::Body;
use super::body;
use crate::gate::authentication::service_account::ServiceAccountTokens;

/// What a check says; an error is for the log and for `?verbose`.
pub type CheckResult = Result<(), String>;

type Probe = Arc<dyn Fn() -> BoxFuture<'static, CheckResult> + Send + Sync>;

/// One named check.
#[derive(Clone)]
pub struct Check {
    name: &'static str,
    live: bool,
    probe: Probe,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).field("live", &self.live).finish_non_exhaustive()
    }
}

impl Check {
    /// A check that `/readyz` and `/healthz` ask, and `/livez` too if `live`: then its failure means that only a restart helps.
    pub fn new(name: &'static str, live: bool, probe: impl Fn() -> BoxFuture<'static, CheckResult> + Send + Sync + 'static) -> Self {
        Self { name, live, probe: Arc::new(probe) }
    }
}

/// The checks of a server, `ping` first.
#[derive(Debug, Clone, Default)]
pub struct Checks(Vec<Check>);

impl Checks {
    /// These, besides `ping`.
    pub fn new(checks: Vec<Check>) -> Self {
        Self(checks)
    }

    /// Answers a health path; `None` for another path.
    pub(super) async fn answer(&self, path: &str, verbose: bool) -> Option<Response<Body>> {
        let (endpoint, one) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.get(1..)?, ""));
        let live = match endpoint {
            "healthz" | "readyz" => false,
            "livez" => true,
            _ => return None,
        };
        if one == "ping" {
            return Some(body::text(StatusCode::OK, "ok"));
        }
        let asked: Vec<&Check> = self.0.iter().filter(|c| (c.live || !live) && (one.is_empty() || c.name == one)).collect();
        if !one.is_empty() && asked.is_empty() {
            return Some(body::status(&body::failure(404, "NotFound", "the server could not find the requested resource")));
        }
        let mut report = if one.is_empty() { "[+]ping ok\n".to_owned() } else { String::new() };
        let mut good = true;
        for check in asked {
            match (check.probe)().await {
                Ok(()) => report.push_str(&format!("[+]{} ok\n", check.name)),
                Err(error) => {
                    tracing::warn!(check = check.name, "{endpoint} fails: {error}");
                    report.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
                    good = false;
                }
            }
        }
        Some(match (good, verbose) {
            (true, false) => body::text(StatusCode::OK, "ok"),
            (true, true) => body::text(StatusCode::OK, format!("{report}{endpoint} check passed\n")),
            (false, _) => body::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n")),
        })
    }
}

/// `/version`.
pub(super) fn version() -> Response<Body> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    body::json(
        StatusCode::OK,
        &json!({
            "major": "1",
            "minor": "36",
            "emulationMajor": "1",
            "emulationMinor": "36",
            "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "35",
            "gitVersion": "v1.36.0+wharf",
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{arch}", std::env::consts::OS),
        }),
    )
}

/// `/.well-known/openid-configuration`.
pub(super) fn openid_configuration(tokens: &ServiceAccountTokens) -> Response<Body> {
    body::json(
        StatusCode::OK,
        &json!({
            "issuer": tokens.issuer(),
            "jwks_uri": format!("{}/openid/v1/jwks", tokens.issuer()),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }),
    )
}
