//! What ConfigMap, Secret, downward and projected volumes hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use parking_lot::Mutex;
use wharf_core::api::{ApiError, Target, Verb, Write};
use wharf_core::object::ObjectRef;

use super::VolumeError;
use super::atomic::{File, Files, is_valid};
use crate::env::{self, ConfigError};
use crate::fieldref;
use crate::pod;
use crate::shared::Shared;

const DEFAULT_MODE: i32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// A token is replaced at the latest after this long.
const TOKEN_MAX_AGE: i64 = 24 * 3600;
/// Tokens that are kept.
const MAX_TOKENS: usize = 4096;

#[derive(Debug, Clone)]
struct Token {
    text: String,
    refresh_at: Timestamp,
}

/// Service account tokens in use, by pod uid and what they are for.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<(String, String), Token>>);

impl Tokens {
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().retain(|(pod, _), _| pod != uid);
    }
}

fn mode(given: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(given.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

struct Builder<'a> {
    volume: &'a str,
    files: Files,
}

impl Builder<'_> {
    fn add(&mut self, path: &str, content: Vec<u8>, mode: u32) -> Result<(), VolumeError> {
        if !is_valid(path) {
            return Err(VolumeError::Path { volume: self.volume.into(), path: path.into() });
        }
        self.files.insert(path.into(), File { content, mode });
        Ok(())
    }

    fn keys(
        &mut self,
        what: &'static str,
        data: &BTreeMap<String, Vec<u8>>,
        items: Option<&Vec<KeyToPath>>,
        default: Option<i32>,
        optional: bool,
    ) -> Result<(), VolumeError> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            return data.iter().try_for_each(|(key, value)| self.add(key, value.clone(), mode(None, default)));
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.add(&item.path, value.clone(), mode(item.mode, default))?,
                None if optional => {}
                None => return Err(VolumeError::NoKey { volume: self.volume.into(), what, key: item.key.clone() }),
            }
        }
        Ok(())
    }
}

fn config_map_data(map: Option<Arc<ConfigMap>>) -> BTreeMap<String, Vec<u8>> {
    let Some(map) = map else { return BTreeMap::new() };
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))).collect()
}

fn secret_data(secret: Option<Arc<Secret>>) -> BTreeMap<String, Vec<u8>> {
    secret.iter().filter_map(|s| s.data.as_ref()).flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// The files of a volume and its kind's name on disk; `None` for a kind that has no files.
pub(super) async fn of(shared: &Shared, pod: &Pod, volume: &Volume) -> Result<Option<(&'static str, Files)>, VolumeError> {
    let (api, namespace) = (&*shared.api, pod::namespace(pod));
    let name = volume.name.as_str();
    let content = |cause: ConfigError| VolumeError::Content { volume: name.into(), cause: Box::new(cause) };
    let mut out = Builder { volume: name, files: Files::new() };
    if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        let data = config_map_data(env::config_map(api, namespace, &source.name, optional).await.map_err(content)?);
        out.keys("config", &data, source.items.as_ref(), source.default_mode, optional)?;
        return Ok(Some(("configmap", out.files)));
    }
    if let Some(source) = &volume.secret {
        let optional = source.optional == Some(true);
        let secret = source.secret_name.as_deref().unwrap_or_default();
        let data = secret_data(env::secret(api, namespace, secret, optional).await.map_err(content)?);
        out.keys("secret", &data, source.items.as_ref(), source.default_mode, optional)?;
        return Ok(Some(("secret", out.files)));
    }
    if let Some(source) = &volume.downward_api {
        downward(shared, pod, source.items.iter().flatten(), source.default_mode, &mut out)?;
        return Ok(Some(("downward-api", out.files)));
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let default = projected.default_mode;
    for source in projected.sources.iter().flatten() {
        if let Some(source) = &source.config_map {
            let optional = source.optional == Some(true);
            let data = config_map_data(env::config_map(api, namespace, &source.name, optional).await.map_err(content)?);
            out.keys("config", &data, source.items.as_ref(), default, optional)?;
        }
        if let Some(source) = &source.secret {
            let optional = source.optional == Some(true);
            let data = secret_data(env::secret(api, namespace, &source.name, optional).await.map_err(content)?);
            out.keys("secret", &data, source.items.as_ref(), default, optional)?;
        }
        if let Some(source) = &source.downward_api {
            downward(shared, pod, source.items.iter().flatten(), default, &mut out)?;
        }
        if let Some(source) = &source.service_account_token {
            let token = token(shared, pod, source).await.map_err(|e| content(e.into()))?;
            out.add(&source.path, token.into_bytes(), mode(None, default))?;
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err(VolumeError::Unsupported { volume: name.into() });
        }
    }
    Ok(Some(("projected", out.files)))
}

fn downward<'a>(
    shared: &Shared,
    pod: &Pod,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
    default: Option<i32>,
    out: &mut Builder<'_>,
) -> Result<(), VolumeError> {
    let facts = shared.facts(pod, &[]);
    let volume = out.volume.to_string();
    let content = |cause: ConfigError| VolumeError::Content { volume: volume.clone(), cause: Box::new(cause) };
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            fieldref::field(pod, &facts, &field.field_path).map_err(content)?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let found = pod.spec.as_ref().and_then(|s| pod::find(s, name));
            let Some((container, _)) = found else {
                return Err(content(ConfigError::FieldPath { path: selector.resource.clone() }));
            };
            fieldref::resource(&container, &facts, selector).map_err(content)?
        } else {
            continue;
        };
        out.add(&item.path, text.into_bytes(), mode(item.mode, default))?;
    }
    Ok(())
}

async fn token(shared: &Shared, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<String, ApiError> {
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).filter(|a| !a.is_empty()).unwrap_or("default");
    let seconds = source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
    let key = (pod::uid(pod).to_string(), format!("{account}/{}/{seconds}", source.audience.as_deref().unwrap_or_default()));
    let now = shared.clock.now();
    if let Some(known) = shared.tokens.0.lock().get(&key)
        && now < known.refresh_at
    {
        return Ok(known.text.clone());
    }
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: source.audience.clone().map(|a| vec![a]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let body = serde_json::to_vec(&request).map_err(|e| ApiError::Encode(Box::new(e)))?;
    let target = Target::of::<ServiceAccount>(ObjectRef::new(pod::namespace(pod), account)).sub("token");
    let made = shared.api.write(Write { target, verb: Verb::Create(body.into()), field_manager: String::new() }).await?;
    let status = made.decode::<TokenRequest>()?.status.clone().unwrap_or_default();
    let life = status.expiration_timestamp.map_or(seconds, |t| t.0.duration_since(now).as_secs());
    let text = status.token.unwrap_or_default();
    let refresh_at = now.checked_add(SignedDuration::from_secs((life * 8 / 10).clamp(1, TOKEN_MAX_AGE))).unwrap_or(now);
    let mut tokens = shared.tokens.0.lock();
    if tokens.len() >= MAX_TOKENS {
        tokens.clear();
    }
    tokens.insert(key, Token { text: text.clone(), refresh_at });
    Ok(text)
}
