//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook.

mod config;
mod review;

use std::borrow::Cow;

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;
use wharf_core::api::{ApiError, PatchKind};

use self::config::{AdmissionHook, Hooks};
use self::review::{Answer, Refusal};
use super::conditions;
use super::configured::Configured;
use super::matching::{Matched, is_exempt};
use crate::gate::late::LateRegistry;
use crate::patch::Patch;
use crate::rest::admission::{Admission, AdmissionRequest, Operation, Warnings};
use crate::rest::{Registry, status, versions};
use crate::webhook::Webhooks;

/// Asks the webhooks of `MutatingWebhookConfiguration`s one after the other, in the order of their names.
#[derive(Debug)]
pub(crate) struct MutatingWebhooks {
    registry: LateRegistry,
    hooks: Webhooks,
    configured: Configured<Hooks>,
}

/// Asks the webhooks of `ValidatingWebhookConfiguration`s at the same time.
#[derive(Debug)]
pub(crate) struct ValidatingWebhooks {
    registry: LateRegistry,
    hooks: Webhooks,
    configured: Configured<Hooks>,
}

/// A write as one webhook is shown it.
struct Shown<'a> {
    request: &'a AdmissionRequest,
    object: Cow<'a, Value>,
    old: Cow<'a, Value>,
    matched: Matched,
}

/// A write in the version that the webhook wants, if it is about it at all.
async fn shown<'a>(
    registry: &Registry,
    hook: &AdmissionHook,
    request: &'a AdmissionRequest,
    object: &'a Value,
) -> Result<Option<Shown<'a>>, ApiError> {
    const NONE: &Value = &Value::Null;
    let Some(matched) = hook.matching.of(registry, request, object).await? else { return Ok(None) };
    let old = request.old.as_deref().unwrap_or(NONE);
    let (object, old) = match (&request.row, &matched.row) {
        (Some(from), Some(to)) => {
            (Cow::Owned(versions::between(from, to, object).await?), Cow::Owned(versions::between(from, to, old).await?))
        }
        _ => (Cow::Borrowed(object), Cow::Borrowed(old)),
    };
    Ok(Some(Shown { request, object, old, matched }))
}

/// Asks one webhook. None where it is not about the write, or fails and may.
async fn ask(hooks: &Webhooks, hook: &AdmissionHook, shown: &Shown<'_>, mutates: bool) -> Result<Option<Answer>, ApiError> {
    let asked = conditions::request(shown.request, shown.matched.row.as_deref());
    let held = hook.conditions.hold(&asked, &shown.object, &shown.old);
    match held {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(_) if hook.may_fail => return Ok(None),
        Err(why) => return Err(status::forbidden(&shown.request.group, &shown.request.resource, &shown.request.name, &why)),
    }
    if shown.request.dry_run && hook.has_side_effects {
        return Err(status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
    }
    let failed = |why: String| {
        if hook.may_fail {
            tracing::warn!("failed calling webhook, failing open {}: {why}", hook.name);
            return Ok(None);
        }
        Err(status::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
    };
    let place = match &hook.place {
        Ok(place) => place,
        Err(why) => return failed(why.clone()),
    };
    let review = review::of(hook, asked, &shown.object, &shown.old);
    let answer = match hooks.call(place, &review, hook.timeout).await {
        Ok(answer) => answer,
        Err(error) => return failed(format!("failed to call webhook: {error}")),
    };
    match review::read(&answer, &review, mutates) {
        Ok(answer) => Ok(Some(answer)),
        Err(Refusal::Denied(status)) => Err(review::denied(&hook.name, *status)),
        Err(Refusal::Malformed(why)) => failed(format!("received invalid webhook response: {why}")),
    }
}

#[async_trait]
impl Admission for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        !is_exempt(request) && !self.configured.are_none()
    }
    async fn admit(&self, _: &AdmissionRequest, _: &mut Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
    async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError> {
        let registry = self.registry.get()?;
        let all = self.configured.all(&registry).await?;
        if all.is_empty() {
            return Ok(Warnings::new());
        }
        let registry = &*registry;
        let asked = all.iter().flat_map(|hooks| &hooks.0).map(async |hook| match shown(registry, hook, request, object).await? {
            Some(shown) => ask(&self.hooks, hook, &shown, false).await,
            None => Ok(None),
        });
        let mut warnings = Warnings::new();
        for answer in join_all(asked).await {
            warnings.extend(answer?.map(|answer| answer.warnings).unwrap_or_default());
        }
        Ok(warnings)
    }
}

impl MutatingWebhooks {
    /// Changes what a webhook was shown as it answered, back in the version that the write was made in.
    async fn change(hook: &AdmissionHook, shown: &Shown<'_>, patch: Vec<u8>) -> Result<Value, ApiError> {
        let row = shown.matched.row.as_ref().or(shown.request.row.as_ref()).filter(|_| shown.request.operation != Operation::Delete);
        let Some(row) = row else {
            let what = "attempted to modify the object, which is not supported for this operation";
            return Err(status::internal(format!("admission webhook {:?} {what}", hook.name)));
        };
        let wrong = |error: ApiError| status::internal(error.to_string());
        let patch = Patch::parse(PatchKind::Json, &patch.into()).map_err(wrong)?;
        let changed = patch.apply(row, &shown.object, "", "", "", "").map_err(wrong)?.object;
        let mut changed = row.read(changed, &mut |_| {}).map_err(status::internal)?;
        row.fill(&mut changed);
        match (&shown.matched.row, &shown.request.row) {
            (Some(from), Some(to)) => versions::between(from, to, &changed).await,
            _ => Ok(changed),
        }
    }
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        !is_exempt(request) && !self.configured.are_none()
    }
    async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        let registry = self.registry.get()?;
        let all = self.configured.all(&registry).await?;
        let mut warnings = Warnings::new();
        if request.rerun.is_second() && request.rerun.has_changed_since(object) {
            request.rerun.ask_again_all();
        }
        for hook in all.iter().flat_map(|hooks| &hooks.0) {
            if request.rerun.is_second() && !request.rerun.is_asked_again(&hook.uid) {
                continue;
            }
            let Some(shown) = shown(&registry, hook, request, object).await? else { continue };
            let Some(answer) = ask(&self.hooks, hook, &shown, true).await? else { continue };
            warnings.extend(answer.warnings);
            if let Some(patch) = answer.patch {
                let changed = Self::change(hook, &shown, patch).await?;
                // Those that were asked before want to see what it is now.
                if changed != *object {
                    request.rerun.ask_again_others(&hook.uid);
                }
                *object = changed;
            }
            if hook.again {
                request.rerun.note_asked(&hook.uid);
            }
        }
        request.rerun.note_output(object);
        Ok(warnings)
    }
    async fn validate(&self, _: &AdmissionRequest, _: &Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
}

impl MutatingWebhooks {
    pub(crate) fn new(registry: LateRegistry, hooks: Webhooks) -> Self {
        Self { registry, hooks, configured: Configured::new("mutatingwebhookconfigurations", Hooks::read) }
    }
}

impl ValidatingWebhooks {
    pub(crate) fn new(registry: LateRegistry, hooks: Webhooks) -> Self {
        Self { registry, hooks, configured: Configured::new("validatingwebhookconfigurations", Hooks::read) }
    }
}
