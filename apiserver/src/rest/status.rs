//! Refusals, in Kubernetes' own words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use wharf_core::api::ApiError;
use wharf_core::cache::CacheError;
use wharf_core::store::StoreError;

/// Group and plural, as messages name a resource.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn failure(code: i32, reason: &str, message: String, details: Option<StatusDetails>) -> ApiError {
    ApiError::Status(Box::new(Status {
        status: Some("Failure".into()),
        code: Some(code),
        reason: Some(reason.into()),
        message: Some(message),
        details,
        ..Status::default()
    }))
}

fn details(group: &str, resource: &str, name: &str) -> Option<StatusDetails> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(StatusDetails { group: some(group), kind: some(resource), name: some(name), ..StatusDetails::default() })
}

/// A cause of a refusal.
pub fn cause(reason: &str, message: impl Into<String>, field: &str) -> StatusCause {
    StatusCause { reason: Some(reason.into()), message: Some(message.into()), field: (!field.is_empty()).then(|| field.to_owned()) }
}

/// 404 for an object.
pub fn not_found(group: &str, resource: &str, name: &str) -> ApiError {
    failure(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, resource)), details(group, resource, name))
}

/// 404 for a path that nothing serves.
pub fn no_such_path() -> ApiError {
    failure(404, "NotFound", "the server could not find the requested resource".into(), Some(StatusDetails::default()))
}

/// 409 for a create.
pub fn already_exists(group: &str, resource: &str, name: &str) -> ApiError {
    failure(409, "AlreadyExists", format!("{} \"{name}\" already exists", qualified(group, resource)), details(group, resource, name))
}

/// 409 for a create whose every generated name was taken.
pub fn no_unique_name(group: &str, resource: &str, name: &str) -> ApiError {
    let what = qualified(group, resource);
    let message = format!("{what} \"{name}\" already exists, the server was not able to generate a unique name for the object");
    let details = details(group, resource, name).map(|d| StatusDetails { retry_after_seconds: Some(1), ..d });
    failure(409, "AlreadyExists", message, details)
}

/// 409 for an update.
pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
    let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
    failure(409, "Conflict", message, details(group, resource, name))
}

/// What a conflict of resourceVersions is told as.
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// 409 of an apply.
pub fn apply_conflict(message: String, causes: Vec<StatusCause>) -> ApiError {
    failure(409, "Conflict", message, Some(StatusDetails { causes: Some(causes), ..StatusDetails::default() }))
}

/// 400.
pub fn bad_request(message: impl Into<String>) -> ApiError {
    failure(400, "BadRequest", message.into(), None)
}

/// 403.
pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
    let message = if name.is_empty() {
        format!("{} is forbidden: {why}", qualified(group, resource))
    } else {
        format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource))
    };
    failure(403, "Forbidden", message, details(group, resource, name))
}

/// 403 for a create in a namespace that is going.
pub fn namespace_terminating(group: &str, resource: &str, name: &str, namespace: &str) -> ApiError {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut error = forbidden(group, resource, name, &why);
    if let ApiError::Status(status) = &mut error
        && let Some(details) = &mut status.details
    {
        let message = format!("namespace {namespace} is being terminated");
        details.causes = Some(vec![cause("NamespaceTerminating", message, "metadata.namespace")]);
    }
    error
}

/// 422 with its causes.
pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<StatusCause>) -> ApiError {
    let texts: Vec<String> =
        causes.iter().map(|c| format!("{}: {}", c.field.as_deref().unwrap_or("<nil>"), c.message.as_deref().unwrap_or_default())).collect();
    let list = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let message = format!("{} \"{name}\" is invalid: {list}", qualified(group, kind));
    let mut found = details(group, kind, name).unwrap_or_default();
    found.causes = Some(causes);
    failure(422, "Invalid", message, Some(found))
}

/// 405 for an object whose definition is going.
pub fn terminating_definition(verb: &str) -> ApiError {
    let why = format!("{verb} not allowed while custom resource definition is terminating");
    failure(405, "MethodNotAllowed", why, Some(StatusDetails::default()))
}

/// 405 for a path.
pub fn method_not_supported() -> ApiError {
    failure(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource".into(),
        Some(StatusDetails::default()),
    )
}

/// 406.
pub fn not_acceptable() -> ApiError {
    failure(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf".into(),
        None,
    )
}

/// 406 for a watch.
pub fn not_acceptable_stream() -> ApiError {
    let accepted = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    failure(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"), None)
}

/// 415.
pub fn unsupported_media_type(accepted: &str) -> ApiError {
    let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    failure(415, "UnsupportedMediaType", message, None)
}

/// 413.
pub fn too_large(limit: usize) -> ApiError {
    failure(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"), None)
}

/// 410.
pub fn expired(message: impl Into<String>) -> ApiError {
    failure(410, "Expired", message.into(), None)
}

/// 410 for a page of a list whose state is forgotten; the token goes on in the newest.
pub fn page_expired(continue_token: String) -> ApiError {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
         continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the \
         provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first \
         chunk was returned and now may show up in the list.";
    let mut error = expired(message);
    if let ApiError::Status(status) = &mut error {
        status.metadata.continue_ = Some(continue_token);
    }
    error
}

/// 500.
pub fn internal(message: impl std::fmt::Display) -> ApiError {
    let message = message.to_string();
    let details = StatusDetails {
        causes: Some(vec![StatusCause { message: Some(message.clone()), ..StatusCause::default() }]),
        ..StatusDetails::default()
    };
    failure(500, "InternalError", format!("Internal error occurred: {message}"), Some(details))
}

/// 503.
pub fn unavailable(message: impl Into<String>) -> ApiError {
    failure(503, "ServiceUnavailable", message.into(), None)
}

/// 504.
pub fn timeout(message: impl Into<String>, causes: Vec<StatusCause>) -> ApiError {
    let details =
        StatusDetails { retry_after_seconds: Some(1), causes: (!causes.is_empty()).then_some(causes), ..StatusDetails::default() };
    failure(504, "Timeout", message.into(), Some(details))
}

/// A failed read.
pub fn of_cache(error: CacheError) -> ApiError {
    match error {
        CacheError::Expired { .. } => expired(error.to_string()),
        CacheError::Behind { asked, current } => timeout(
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
            vec![cause("ResourceVersionTooLarge", "Too large resource version", "")],
        ),
        CacheError::Closed => unavailable("the API server is shutting down"),
        CacheError::Store(error) => of_store(error),
        other => internal(other),
    }
}

/// A failure of the store that says nothing about the request.
pub fn of_store(error: StoreError) -> ApiError {
    match error {
        StoreError::Expired { .. } => expired(error.to_string()),
        StoreError::OutcomeUnknown { .. } => timeout(error.to_string(), Vec::new()),
        StoreError::Closed => unavailable("the store is closed"),
        StoreError::Invalid { message } => bad_request(message),
        other => internal(other),
    }
}

/// The Status that an error is answered with.
pub fn status_of(error: ApiError) -> Status {
    match error {
        ApiError::Status(status) => *status,
        other => match internal(other) {
            ApiError::Status(status) => *status,
            _ => Status::default(),
        },
    }
}

/// A Status as a value, with its kind.
pub(crate) fn to_value(status: &Status) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), "v1".into());
        map.insert("kind".into(), "Status".into());
        map.entry("metadata").or_insert_with(|| serde_json::json!({}));
    }
    value
}

/// A Status as JSON, with its kind.
pub fn render(status: &Status) -> Vec<u8> {
    to_value(status).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wharf_core::store::Revision;

    #[test]
    fn refusals_that_seldom_come_are_in_kubernetes_words() {
        let of = |error: ApiError| to_value(&status_of(error));
        let taken = of(no_unique_name("apps", "deployments", "web-x7k2p"));
        let want = "deployments.apps \"web-x7k2p\" already exists, the server was not able to generate a unique name for the object";
        assert_eq!((&taken["code"], &taken["reason"], &taken["message"]), (&json!(409), &json!("AlreadyExists"), &json!(want)));
        assert_eq!(taken["details"], json!({"group": "apps", "kind": "deployments", "name": "web-x7k2p", "retryAfterSeconds": 1}));
        let going = of(namespace_terminating("", "pods", "p", "n"));
        let want = "pods \"p\" is forbidden: unable to create new content in namespace n because it is being terminated";
        assert_eq!((&going["code"], &going["message"]), (&json!(403), &json!(want)));
        assert_eq!(going["details"]["causes"][0]["reason"], "NamespaceTerminating");
        let behind = of(of_cache(CacheError::Behind { asked: Revision(9), current: Revision(3) }));
        assert_eq!((&behind["code"], &behind["message"]), (&json!(504), &json!("Timeout: Too large resource version: 9, current: 3")));
        assert_eq!(behind["details"]["retryAfterSeconds"], 1);
    }
}
