//! Service-account tokens: JWTs signed by the cluster, bound to objects that must still exist.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::request::Parts;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wharf_core::api::{ApiError, Kind, SharedApi, Target};
use wharf_core::clock::Clock;
use wharf_core::object::ObjectRef;

use super::{AUTHENTICATED, AuthError, Authenticator, bearer_token};
use crate::request::User;

/// The issuer that Kubernetes uses by default.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(10);

/// The cluster's key for tokens: ECDSA P-256.
#[derive(Clone)]
pub struct TokenKey {
    pair: Arc<EcdsaKeyPair>,
    id: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key that is no P-256 key in PKCS #8.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key is not a P-256 key in PKCS #8")]
pub struct KeyRejected;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// Whom it is meant for.
    pub aud: Vec<String>,
    /// Issued at, in seconds since 1970.
    pub iat: i64,
    /// Not good before, in seconds since 1970.
    pub nbf: i64,
    /// Not good from then on, in seconds since 1970.
    pub exp: i64,
    /// Token id.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
}

/// The objects that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub serviceaccount: BoundRef,
    /// The pod it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundRef>,
    /// The secret it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundRef>,
    /// The node it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundRef>,
}

/// Name and uid of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl TokenKey {
    /// A new key.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn generate() -> Result<Self, KeyRejected> {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(|_| KeyRejected)?;
        Self::from_pkcs8(der.as_ref())
    }

    /// From PKCS #8 in DER.
    ///
    /// # Errors
    /// When it is no P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyRejected> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).map_err(|_| KeyRejected)?;
        let id = BASE64.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Self { pair: Arc::new(pair), id })
    }

    /// Signs claims; `None` only when the machine has no randomness.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = serde_json::to_vec(&Header { alg: "ES256".into(), kid: self.id.clone() }).ok()?;
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        BASE64.encode_string(signature.as_ref(), &mut token);
        Some(token)
    }

    /// The claims of a token of ours whose signature is good; `None` for a token of another issuer.
    fn verify(&self, token: &str, issuer: &str) -> Result<Option<Claims>, AuthError> {
        // Only a token that says it is ours is judged: others may be known to another authenticator.
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Ok(None);
        };
        let (Some(header64), Some(claims64)) = (BASE64.decode(header).ok(), BASE64.decode(claims).ok()) else { return Ok(None) };
        let ours = serde_json::from_slice::<Value>(&claims64).is_ok_and(|c| c["iss"].as_str() == Some(issuer));
        if !ours {
            return Ok(None);
        }
        let header: Header = serde_json::from_slice(&header64).map_err(|_| AuthError::Token("its header does not decode"))?;
        if header.alg != "ES256" || header.kid != self.id {
            return Err(AuthError::Token("it is not signed with the cluster's key"));
        }
        let signature = BASE64.decode(signature).map_err(|_| AuthError::Token("its signature does not decode"))?;
        // Both dots are there: `split` found three parts.
        let signed = &token.as_bytes()[..token.rfind('.').unwrap_or_default()];
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed, &signature)
            .map_err(|_| AuthError::Token("its signature is wrong"))?;
        serde_json::from_slice(&claims64).map(Some).map_err(|_| AuthError::Token("its claims do not decode"))
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..65).unwrap_or(&[0; 64]).split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }
}

/// Verifies and issues the cluster's own tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServiceAccountTokens {
    key: TokenKey,
    issuer: Arc<str>,
    audiences: Arc<[String]>,
    api: SharedApi,
    clock: Arc<dyn Clock>,
}

impl ServiceAccountTokens {
    /// Tokens of `issuer`, for this API server if they name one of `audiences`. `api` reads what tokens are bound to.
    pub fn new(key: TokenKey, issuer: &str, audiences: Vec<String>, api: SharedApi, clock: Arc<dyn Clock>) -> Self {
        Self { key, issuer: issuer.into(), audiences: audiences.into(), api, clock }
    }
    /// The key.
    pub fn key(&self) -> &TokenKey {
        &self.key
    }
    /// The issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
    /// The audiences of this API server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }
    pub(crate) fn api(&self) -> &SharedApi {
        &self.api
    }
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Who holds a token and the audiences that it is good for, among `wanted`. `None` for a token of another issuer.
    ///
    /// # Errors
    /// When the token is forged, expired, for another audience, or bound to something that is gone.
    pub async fn check(&self, token: &str, wanted: &[String]) -> Result<Option<(User, Vec<String>)>, AuthError> {
        let Some(claims) = self.key.verify(token, &self.issuer)? else { return Ok(None) };
        let now = self.clock.now().as_second();
        let leeway = i64::try_from(LEEWAY.as_secs()).unwrap_or_default();
        if now >= claims.exp {
            return Err(AuthError::Token("it has expired"));
        }
        if now + leeway < claims.nbf {
            return Err(AuthError::Token("it is not valid yet"));
        }
        let audiences: Vec<String> = claims.aud.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err(AuthError::Token("it is meant for another audience"));
        }
        let Bound { namespace, serviceaccount, pod, secret, node } = &claims.bound;
        if claims.sub != format!("system:serviceaccount:{namespace}:{}", serviceaccount.name) {
            return Err(AuthError::Token("its subject is not its service account"));
        }
        self.exists::<ServiceAccount>(namespace, serviceaccount).await?;
        let mut user = User::new(
            claims.sub.clone(),
            ["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.into()],
        );
        user.uid.clone_from(&serviceaccount.uid);
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={}", claims.jti)]);
        if let Some(pod) = pod {
            self.exists::<Pod>(namespace, pod).await?;
            user.extra.insert("authentication.kubernetes.io/pod-name".into(), vec![pod.name.clone()]);
            user.extra.insert("authentication.kubernetes.io/pod-uid".into(), vec![pod.uid.clone()]);
        }
        if let Some(secret) = secret {
            self.exists::<Secret>(namespace, secret).await?;
        }
        if let Some(node) = node {
            // A node named beside a pod informs; alone it binds.
            if pod.is_none() {
                self.exists::<Node>("", node).await?;
            }
            user.extra.insert("authentication.kubernetes.io/node-name".into(), vec![node.name.clone()]);
            user.extra.insert("authentication.kubernetes.io/node-uid".into(), vec![node.uid.clone()]);
        }
        Ok(Some((user, audiences)))
    }

    async fn exists<K: Kind>(&self, namespace: &str, bound: &BoundRef) -> Result<(), AuthError> {
        let target = Target::of::<K>(ObjectRef::new(namespace, bound.name.as_str()));
        match self.api.get(&target).await {
            Ok(object) if object.meta().uid.as_deref() == Some(bound.uid.as_str()) => Ok(()),
            Ok(_) => Err(AuthError::Token("what it is bound to has been replaced")),
            Err(ApiError::Status(s)) if s.reason.as_deref() == Some("NotFound") => Err(AuthError::Token("what it is bound to is gone")),
            Err(error) => Err(AuthError::Unavailable(error)),
        }
    }
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<User>, AuthError> {
        let Some(token) = bearer_token(request) else { return Ok(None) };
        Ok(self.check(token, &self.audiences).await?.map(|(user, _)| user))
    }
}
