//! `AdmissionReview`: what a webhook is asked, and what it answers.

use base64::Engine;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::{Value, json};
use wharf_core::api::ApiError;

use super::config::AdmissionHook;
use crate::resources::value::{as_map, at, items, text};

/// What an answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// A JSON patch, as text.
    pub(super) patch: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
}

/// Why a write does not go on.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The webhook says so.
    Denied(Box<Status>),
    /// What it says makes no sense.
    Malformed(String),
}

/// What a webhook is asked; `asked` is the request without its objects.
pub(super) fn of(hook: &AdmissionHook, mut asked: Value, object: &Value, old: &Value) -> Value {
    let map = as_map(&mut asked);
    map.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    map.insert("object".into(), object.clone());
    map.insert("oldObject".into(), old.clone());
    json!({"kind": "AdmissionReview", "apiVersion": hook.review, "request": asked})
}

/// Reads an answer to a review.
pub(super) fn read(answer: &Value, review: &Value, mutates: bool) -> Result<Answer, Refusal> {
    let malformed = |why: String| Err(Refusal::Malformed(why));
    let version = text(review, &["apiVersion"]);
    let found = (text(answer, &["apiVersion"]), text(answer, &["kind"]));
    // The first version of all did not ask for this.
    let strict = version.ends_with("/v1");
    if strict && found != (version, "AdmissionReview") {
        return malformed(format!("expected webhook response of {version}, Kind=AdmissionReview, got {}, Kind={}", found.0, found.1));
    }
    let Some(response) = at(answer, &["response"]).filter(|r| r.is_object()) else {
        return malformed("webhook response was absent".into());
    };
    let uid = text(review, &["request", "uid"]);
    if strict && text(response, &["uid"]) != uid {
        return malformed(format!("expected response.uid={uid:?}, got {:?}", text(response, &["uid"])));
    }
    let patch = match at(response, &["patch"]) {
        None => Vec::new(),
        Some(patch) => match base64::engine::general_purpose::STANDARD.decode(patch.as_str().unwrap_or_default()) {
            Ok(patch) => patch,
            Err(error) => return malformed(format!("response.patch is not valid base64: {error}")),
        },
    };
    let patch_type = at(response, &["patchType"]).map(|kind| kind.as_str().unwrap_or_default());
    if strict {
        match (mutates, patch.is_empty(), patch_type) {
            (true, false, None) => return malformed("webhook returned response.patch but not response.patchType".into()),
            (true, true, Some(_)) => return malformed("webhook returned response.patchType but not response.patch".into()),
            (false, false, _) => return malformed("validating webhook may not return response.patch".into()),
            (false, _, Some(_)) => return malformed("validating webhook may not return response.patchType".into()),
            _ => {}
        }
    }
    if at(response, &["allowed"]) != Some(&Value::Bool(true)) {
        let status = at(response, &["status"]).and_then(|status| serde_json::from_value(status.clone()).ok());
        return Err(Refusal::Denied(Box::new(status.unwrap_or_default())));
    }
    if !patch.is_empty() && !matches!(patch_type, Some("JSONPatch")) && strict {
        return malformed(format!("unsupported patch type {:?}", patch_type.unwrap_or_default()));
    }
    let warnings = items(response, &["warnings"]).iter().filter_map(|w| w.as_str().map(str::to_owned)).collect();
    Ok(Answer { patch: (!patch.is_empty() && mutates).then_some(patch), warnings })
}

/// What the client of a refused write is told.
pub(super) fn denied(name: &str, mut status: Status) -> ApiError {
    let by = format!("admission webhook {name:?} denied the request");
    let word = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    status.code = Some(status.code.filter(|code| *code >= 400).unwrap_or(400));
    status.status = Some("Failure".into());
    status.message = Some(match (word(&status.message), word(&status.reason)) {
        (Some(message), _) => format!("{by}: {message}"),
        (None, Some(reason)) => format!("{by}: {reason}"),
        (None, None) => format!("{by} without explanation"),
    });
    ApiError::Status(Box::new(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review() -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1"}})
    }

    fn answer(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers() {
        let good = read(&answer(json!({"uid": "1", "allowed": true, "warnings": ["w"]})), &review(), false).unwrap();
        assert_eq!(good, Answer { patch: None, warnings: vec!["w".into()] });
        let patch = json!({"uid": "1", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"});
        assert_eq!(read(&answer(patch.clone()), &review(), true).unwrap().patch, Some(b"[]".to_vec()));
        for (bad, mutates, why) in [
            (json!({}), false, "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind="),
            (answer(json!(null)), false, "webhook response was absent"),
            (answer(json!({"uid": "2", "allowed": true})), false, "expected response.uid=\"1\", got \"2\""),
            (answer(patch.clone()), false, "validating webhook may not return response.patch"),
            (
                answer(json!({"uid": "1", "allowed": true, "patch": "W10="})),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                answer(json!({"uid": "1", "allowed": true, "patchType": "JSONPatch"})),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (answer(json!({"uid": "1", "allowed": true, "patch": "W10=", "patchType": "x"})), true, "unsupported patch type \"x\""),
        ] {
            let Err(Refusal::Malformed(found)) = read(&bad, &review(), mutates) else { panic!("{bad}") };
            assert_eq!(found, why);
        }
        assert!(matches!(read(&answer(json!({"uid": "1"})), &review(), false), Err(Refusal::Denied(_))));
    }

    #[test]
    fn denials() {
        let told = |status: Value| {
            let ApiError::Status(status) = denied("a.b.c", serde_json::from_value(status).unwrap()) else { panic!("a status") };
            (status.code.unwrap(), status.message.unwrap())
        };
        let by = "admission webhook \"a.b.c\" denied the request";
        assert_eq!(told(json!({})), (400, format!("{by} without explanation")));
        assert_eq!(told(json!({"code": 200, "reason": "Because"})), (400, format!("{by}: Because")));
        assert_eq!(told(json!({"code": 403, "reason": "Because", "message": "no"})), (403, format!("{by}: no")));
    }
}
