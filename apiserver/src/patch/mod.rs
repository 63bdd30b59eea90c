//! The kinds of patch, each applied to JSON.

mod fields;

pub(crate) use fields::{record, same_but_for_times};

use bytes::Bytes;
use serde_json::Value;
use wharf_core::api::{ApiError, PatchKind};
use wharf_patch::strategic::{self, StrategicError};

use self::fields::Form;
use crate::resources::Resource;
use crate::resources::value::object;
use crate::rest::status;

/// Most operations of a JSON patch; Kubernetes' own bound.
pub const MAX_OPERATIONS: usize = 10_000;
/// Largest object that a JSON patch may copy together, in bytes.
const MAX_RESULT: usize = 3 << 20;

/// A patch that has been read.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
    /// Kubernetes' strategic merge.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// What the manager wants.
        config: Value,
        /// Whether to take over fields of others.
        force: bool,
    },
}

/// Whether a kind takes such a patch.
///
/// # Errors
/// 415 if not.
pub fn check(row: &Resource, kind: PatchKind) -> Result<(), ApiError> {
    if kind == PatchKind::Strategic && !row.strategic {
        return Err(status::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        ));
    }
    Ok(())
}

/// An object that was changed. managedFields are in it only where the change is one of them.
#[derive(Debug)]
pub struct Changed {
    /// The object.
    pub object: Value,
    /// Its managedFields, the text of a list or nothing, if the change has told of itself in them.
    pub managed: Option<String>,
}

impl From<Value> for Changed {
    fn from(object: Value) -> Self {
        Self { object, managed: None }
    }
}

fn undecodable(error: serde_json::Error) -> ApiError {
    status::bad_request(format!("error decoding patch: {error}"))
}

impl Patch {
    /// Reads the body of a patch.
    ///
    /// # Errors
    /// 400 for what does not decode, 413 for too many operations.
    pub fn parse(kind: PatchKind, body: &Bytes) -> Result<Self, ApiError> {
        let value = match kind {
            PatchKind::Apply { .. } => {
                serde_yaml_ng::from_slice(body).map_err(|e| status::bad_request(format!("error decoding YAML: {e}")))?
            }
            _ => serde_json::from_slice(body).map_err(undecodable)?,
        };
        Self::of(kind, value)
    }

    /// A patch from the value that its body is.
    ///
    /// # Errors
    /// 400 for what is no patch, 413 for too many operations.
    pub fn of(kind: PatchKind, value: Value) -> Result<Self, ApiError> {
        if kind == PatchKind::Json {
            let patch: json_patch::Patch = serde_json::from_value(value).map_err(undecodable)?;
            if patch.len() > MAX_OPERATIONS {
                let message = format!(
                    "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                    patch.len()
                );
                return Err(ApiError::status(413, "RequestEntityTooLarge", message));
            }
            return Ok(Self::Json(patch));
        }
        if !value.is_object() {
            return Err(status::bad_request("error decoding patch: a JSON object is expected"));
        }
        Ok(match kind {
            PatchKind::Strategic => Self::Strategic(value),
            PatchKind::Apply { force } => Self::Apply { config: value, force },
            _ => Self::Merge(value),
        })
    }

    /// Whether it applies what a manager wants.
    pub fn is_apply(&self) -> bool {
        matches!(self, Self::Apply { .. })
    }

    /// Whether the managedFields of an object can make a difference to it.
    fn knows_managed_fields(&self) -> bool {
        match self {
            Self::Merge(patch) | Self::Strategic(patch) => {
                let metadata = patch.get("metadata").and_then(Value::as_object);
                metadata.is_some_and(|m| m.keys().any(|name| name.contains("managedFields")))
            }
            Self::Json(patch) => patch.iter().any(|operation| {
                let from = match operation {
                    json_patch::PatchOperation::Move(op) => Some(&op.from),
                    json_patch::PatchOperation::Copy(op) => Some(&op.from),
                    _ => None,
                };
                let holds = |path: &str| matches!(path, "" | "/metadata") || path.starts_with("/metadata/managedFields");
                holds(operation.path().as_str()) || from.is_some_and(|from| holds(from.as_str()))
            }),
            Self::Apply { .. } => false,
        }
    }

    /// What becomes of an object; `managed` are its managedFields, which it has not in it.
    ///
    /// # Errors
    /// 422 for a patch that does not fit the object, 409 for an apply that meets fields of others.
    pub fn apply(&self, row: &Resource, old: &Value, managed: &str, manager: &str, sub: &str, now: &str) -> Result<Changed, ApiError> {
        if let Self::Apply { config, force } = self {
            let live = Some(old).filter(|old| old.get("metadata").is_some());
            // Of a scale the number alone is taken, and who owns it is kept with the object.
            return fields::apply(row, live, managed, config, manager, *force || sub == "scale", sub, now);
        }
        let mut new = old.clone();
        if !managed.is_empty() && self.knows_managed_fields() {
            let list: Value = serde_json::from_str(managed).map_err(status::internal)?;
            object(&mut new, &["metadata"]).insert("managedFields".into(), list);
        }
        match self {
            Self::Merge(patch) => json_patch::merge(&mut new, patch),
            Self::Json(patch) => {
                // Copies may double an object at every step, so what they add is counted before they are made.
                let mut size = weight(&new);
                for operation in patch.iter() {
                    if let json_patch::PatchOperation::Copy(copy) = operation {
                        size += new.pointer(copy.from.as_str()).map_or(0, weight);
                        if size > MAX_RESULT {
                            return Err(status::too_large(MAX_RESULT));
                        }
                    }
                    json_patch::patch_unsafe(&mut new, std::slice::from_ref(operation)).map_err(|_| rejected())?;
                }
            }
            Self::Strategic(patch) => match fields::form(row) {
                Form::Builtin(shape) => strategic::merge(shape, &mut new, patch),
                Form::Custom(shape) => strategic::merge(shape, &mut new, patch),
            }
            .map_err(unfit)?,
            Self::Apply { .. } => {}
        }
        if !new.is_object() {
            return Err(status::bad_request("the patch does not leave an object"));
        }
        Ok(new.into())
    }
}

/// A patch that does not fit, of which Kubernetes says no more.
fn rejected() -> ApiError {
    ApiError::status(422, "Invalid", "the server rejected our request due to an error in our request")
}

fn unfit(error: StrategicError) -> ApiError {
    match error {
        StrategicError::BadDocument | StrategicError::BadPrimitiveList | StrategicError::BadRetainKeys | StrategicError::BadOrder => {
            status::bad_request(error.to_string())
        }
        StrategicError::ListOfLists => rejected(),
        error => ApiError::status(500, "", error.to_string()),
    }
}

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len() + 2,
        Value::Array(list) => list.iter().map(weight).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 3 + weight(v)).sum::<usize>() + 2,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    const MANAGED: &str = r#"[{"manager":"m"},{"manager":"n"}]"#;

    fn run(kind: PatchKind, old: &Value, body: &Value) -> Result<Value, ApiError> {
        let patch = Patch::parse(kind, &body.to_string().into())?;
        patch.apply(&Resource::of::<ConfigMap>(true), old, MANAGED, "me", "", "now").map(|changed| changed.object)
    }

    #[test]
    fn copies_do_not_grow_without_bound() {
        let old = json!({"data": {"a": "x".repeat(1 << 20)}});
        let copy = |n: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/b{n}")});
        assert!(run(PatchKind::Json, &old, &json!([copy(0)])).is_ok());
        let many: Vec<Value> = (0..64).map(copy).collect();
        assert_eq!(run(PatchKind::Json, &old, &many.into()).unwrap_err().code(), Some(413));
    }

    #[test]
    fn a_json_patch_that_does_not_fit_is_refused_whole() {
        let old = json!({"data": {"a": "b"}});
        let test = json!([{"op": "test", "path": "/data/a", "value": "c"}]);
        assert_eq!(run(PatchKind::Json, &old, &test).unwrap_err().code(), Some(422));
        assert_eq!(run(PatchKind::Json, &old, &json!([{"op": "remove", "path": "/none"}])).unwrap_err().code(), Some(422));
        assert_eq!(run(PatchKind::Json, &old, &json!({"op": "x"})).unwrap_err().code(), Some(400));
        assert_eq!(run(PatchKind::Json, &old, &json!([{"op": "replace", "path": "", "value": 1}])).unwrap_err().code(), Some(400));
    }

    #[test]
    fn only_who_asks_for_managed_fields_is_given_them() {
        let old = json!({"metadata": {"name": "a"}});
        let managers = |kind, body: Value| {
            let new = run(kind, &old, &body).unwrap();
            new["metadata"]
                .get("managedFields")
                .map(|m| m.as_array().into_iter().flatten().map(|e| e["manager"].clone()).collect::<Vec<_>>())
        };
        assert_eq!(managers(PatchKind::Merge, json!({"metadata": {"labels": {"managedFields": "x"}}})), None);
        assert_eq!(managers(PatchKind::Merge, json!({"metadata": {"managedFields": null}})), None);
        assert_eq!(managers(PatchKind::Merge, json!({"metadata": {"managedFields": []}})), Some(vec![]));
        assert_eq!(managers(PatchKind::Strategic, json!({"metadata": {"managedFields": [{}]}})), Some(vec![Value::Null]));
        let remove = json!([{"op": "test", "path": "/metadata/managedFields/1/manager", "value": "n"}, {"op": "remove", "path": "/metadata/managedFields/0"}]);
        assert_eq!(managers(PatchKind::Json, remove), Some(vec![json!("n")]));
        let copy = json!([{"op": "copy", "from": "/metadata", "path": "/data"}, {"op": "remove", "path": "/metadata/managedFields"}]);
        assert_eq!(managers(PatchKind::Json, copy), None);
        assert_eq!(managers(PatchKind::Json, json!([{"op": "add", "path": "/metadata/labels", "value": {}}])), None);
    }

    #[test]
    fn a_merge_patch_takes_away_with_null() {
        let old = json!({"data": {"a": "b", "c": "d"}});
        assert_eq!(run(PatchKind::Merge, &old, &json!({"data": {"a": null}})).unwrap(), json!({"data": {"c": "d"}}));
        assert_eq!(run(PatchKind::Merge, &old, &json!([])).unwrap_err().code(), Some(400));
    }
}
