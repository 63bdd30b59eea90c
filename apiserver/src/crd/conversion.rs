//! Conversion of custom resources between their versions by a webhook.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use wharf_core::api::ApiError;

use crate::resources::custom::Converter;
use crate::resources::value::{as_map, at, items, text};
use crate::validation;
use crate::webhook::{Hook, Webhooks, spoken};

/// How long a conversion may take; Kubernetes' own.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Most objects in one review.
pub const MAX_OBJECTS: usize = 500;

/// Asks the webhook of a definition.
#[derive(Debug)]
pub(super) struct WebhookConverter {
    hooks: Webhooks,
    hook: Result<Hook, String>,
    /// The version of reviews that it is asked in.
    review: String,
    kind: String,
}

impl WebhookConverter {
    /// Reads `spec.conversion.webhook` of a definition.
    pub(super) fn new(hooks: &Webhooks, definition: &Value) -> Self {
        let webhook = at(definition, &["spec", "conversion", "webhook"]).cloned().unwrap_or_default();
        let known = spoken(items(&webhook, &["conversionReviewVersions"]));
        Self {
            hooks: hooks.clone(),
            hook: Hook::read(at(&webhook, &["clientConfig"]).unwrap_or(&Value::Null)),
            review: format!("apiextensions.k8s.io/{}", known.unwrap_or("v1")),
            kind: text(definition, &["spec", "names", "kind"]).to_owned(),
        }
    }

    /// Asks for some objects at once, which need not be of one version.
    async fn ask(&self, objects: &[Value], wanted: &str) -> Result<Vec<Value>, String> {
        let hook = self.hook.as_ref().map_err(Clone::clone)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({"kind": "ConversionReview", "apiVersion": self.review,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
        let mut answer = self.hooks.call(hook, &review, TIMEOUT).await.map_err(|e| e.to_string())?;
        let found = (text(&answer, &["apiVersion"]), text(&answer, &["kind"]));
        if found != (&self.review, "ConversionReview") {
            let shown = |(version, kind): (&str, &str)| format!("{version}, Kind={kind}");
            return Err(format!("expected webhook response of {}, got {}", shown((&self.review, "ConversionReview")), shown(found)));
        }
        let response = answer.get_mut("response").map(Value::take).filter(Value::is_object).ok_or("no response provided")?;
        if text(&response, &["uid"]) != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", text(&response, &["uid"])));
        }
        let (status, message) = (text(&response, &["result", "status"]), text(&response, &["result", "message"]));
        match (status, message) {
            ("Success", _) => {}
            (_, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
            (_, message) => return Err(message.to_owned()),
        }
        let mut response = response;
        match response.get_mut("convertedObjects").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Converter for WebhookConverter {
    async fn convert(&self, objects: Vec<Value>, wanted: &str) -> Result<Vec<Value>, ApiError> {
        let mut done = Vec::with_capacity(objects.len());
        for some in objects.chunks(MAX_OBJECTS) {
            let from = some.first().map_or("", |o| text(o, &["apiVersion"]));
            let failed = |why: &str| ApiError::status(500, "", format!("conversion webhook for {from}, Kind={} {why}", self.kind));
            let converted = self.ask(some, wanted).await.map_err(|why| failed(&format!("failed: {why}")))?;
            if converted.len() != some.len() {
                return Err(failed(&format!("returned {} objects, expected {}", converted.len(), some.len())));
            }
            for (i, (original, mut converted)) in some.iter().zip(converted).enumerate() {
                let checked = check(original, &converted, wanted);
                checked.map_err(|why| failed(&format!("returned invalid converted object at index {i}: {why}")))?;
                let restored = restore_metadata(original, &mut converted);
                restored.map_err(|why| failed(&format!("returned invalid metadata in object at index {i}: {why}")))?;
                done.push(converted);
            }
        }
        Ok(done)
    }
}

/// What a conversion may not touch.
fn check(original: &Value, converted: &Value, wanted: &str) -> Result<(), String> {
    let version = text(converted, &["apiVersion"]);
    if version != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {version})"));
    }
    let same = |what: &str, path: &[&str]| {
        let (e, a) = (text(original, path), text(converted, path));
        if e == a { Ok(()) } else { Err(format!("must have the same {what}: {e} != {a}")) }
    };
    same("kind", &["kind"])?;
    same("name", &["metadata", "name"])?;
    same("namespace", &["metadata", "namespace"])?;
    same("UID", &["metadata", "uid"])
}

/// Metadata stays what it was, except for labels and annotations.
fn restore_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let answered = match converted.get_mut("metadata").map(Value::take) {
        None => return Err("missing metadata in converted object".into()),
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err("invalid metadata in converted object: it is no object".into()),
    };
    let mut metadata = original.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match answered.get(field).filter(|v| !v.is_null()) {
            None => metadata.remove(field),
            Some(found) => {
                let Value::Object(found_map) = found else {
                    return Err(format!("invalid metadata.{field} in converted object: it is no object"));
                };
                if let Some((key, _)) = found_map.iter().find(|(_, v)| !v.is_string()) {
                    return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
                }
                if metadata.get(field) != Some(found) {
                    valid(field, found_map)?;
                }
                metadata.insert(field.to_owned(), found.clone())
            }
        };
    }
    as_map(converted).insert("metadata".into(), metadata.into());
    Ok(())
}

fn valid(field: &str, map: &Map<String, Value>) -> Result<(), String> {
    let (mut causes, map, path) = (Vec::new(), Value::Object(map.clone()), format!("metadata.{field}"));
    match field {
        "labels" => validation::labels(Some(&map), &path, &mut causes),
        _ => validation::annotations(Some(&map), &path, &mut causes),
    }
    let texts: Vec<String> =
        causes.into_iter().map(|c| format!("{}: {}", c.field.unwrap_or_default(), c.message.unwrap_or_default())).collect();
    if texts.is_empty() { Ok(()) } else { Err(texts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_and_annotations_of_metadata_are_taken() {
        let original = json!({"metadata": {"name": "a", "uid": "1", "labels": {"a": "b"}, "generation": 3}});
        let restored = |metadata: Value| {
            let mut converted = json!({"spec": 1, "metadata": metadata});
            restore_metadata(&original, &mut converted).map(|()| converted["metadata"].clone())
        };
        assert_eq!(
            restored(json!({"generation": 9, "labels": {"c": "d"}, "annotations": {"x": "y"}})),
            Ok(json!({"name": "a", "uid": "1", "generation": 3, "labels": {"c": "d"}, "annotations": {"x": "y"}}))
        );
        assert_eq!(restored(json!({})), Ok(json!({"name": "a", "uid": "1", "generation": 3})));
        for (bad, why) in [
            (json!({"labels": {"a": 1}}), "metadata.labels[a] must be a string"),
            (json!({"labels": {"a b": "c"}}), "metadata.labels"),
            (json!({"annotations": 1}), "invalid metadata.annotations"),
            (json!(1), "invalid metadata"),
        ] {
            let refused = restored(bad).unwrap_err();
            assert!(refused.starts_with(why), "{refused}");
        }
        assert_eq!(restore_metadata(&original, &mut json!({})), Err("missing metadata in converted object".into()));
    }

    #[test]
    fn what_is_converted_stays_who_it_is() {
        let original = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "namespace": "n", "uid": "1"}});
        let with = |path: &str, value: &str| {
            let mut converted = original.clone();
            converted["apiVersion"] = json!("g/v2");
            *converted.pointer_mut(path).unwrap() = value.into();
            check(&original, &converted, "g/v2")
        };
        assert_eq!(with("/apiVersion", "g/v2"), Ok(()));
        for (path, why) in [
            ("/apiVersion", "invalid groupVersion (expected g/v2, received x)"),
            ("/kind", "must have the same kind: K != x"),
            ("/metadata/name", "must have the same name: a != x"),
            ("/metadata/namespace", "must have the same namespace: n != x"),
            ("/metadata/uid", "must have the same UID: 1 != x"),
        ] {
            assert_eq!(with(path, "x"), Err(why.to_owned()));
        }
    }
}
