//! The parameters of a query, and the options that they and the body of a delete make.

use bytes::Bytes;
use http::{Request, Uri, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;
use std::sync::Arc;
use wharf_core::api::{ApiError, DeleteParams, PatchKind, Propagation};
use wharf_core::store::Revision;

use super::body::{content_type, read_object};
use super::path::query_pairs;
use super::read::ReadAt;
use super::{FieldValidation, MAX_BODY, WriteContext, status};
use crate::request::User;
use crate::resources::value::{at, items, number, text};

/// Longest name of a field manager, in bytes; Kubernetes' own.
const MAX_FIELD_MANAGER: usize = 128;
const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
const PATCH_TYPES: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
const BREAKING: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn of(uri: &Uri) -> Self {
        Self(query_pairs(uri))
    }
    /// The first value; empty where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    }
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub(super) fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name).to_ascii_lowercase().as_str(), "false" | "0")
    }
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))
            }
        }
    }
}

fn forbidden(field: &str, why: &str) -> StatusCause {
    status::cause("FieldValueForbidden", format!("Forbidden: {why}"), field)
}

fn not_supported(field: &str, value: &str, supported: &[&str]) -> StatusCause {
    let supported: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    status::cause("FieldValueNotSupported", format!("Unsupported value: {value:?}: supported values: {}", supported.join(", ")), field)
}

fn refused(kind: &str, causes: Vec<StatusCause>) -> Result<(), ApiError> {
    if causes.is_empty() { Ok(()) } else { Err(status::invalid("meta.k8s.io", kind, "", causes)) }
}

fn revision(params: &Params) -> Result<Option<u64>, ApiError> {
    match params.get("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
            status::bad_request(format!("invalid resource version: resourceVersion: Invalid value: \"{text}\": {why}"))
        }),
    }
}

/// Which state a get reads.
pub(super) fn get_at(params: &Params) -> Result<ReadAt, ApiError> {
    Ok(match revision(params)? {
        None => ReadAt::Newest,
        Some(0) => ReadAt::Any,
        Some(n) => ReadAt::NotOlderThan(Revision(n)),
    })
}

/// What a list is asked for beside its selection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListOptions {
    pub(super) at: ReadAt,
    pub(super) limit: Option<usize>,
    pub(super) continue_token: String,
}

/// Reads and validates the options of a list.
pub(super) fn list(params: &Params) -> Result<ListOptions, ApiError> {
    let (version, matching, token) = (params.get("resourceVersion"), params.get("resourceVersionMatch"), params.get("continue"));
    let limit = params.integer("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let mut causes = Vec::new();
    if !matching.is_empty() {
        let field = "resourceVersionMatch";
        if version.is_empty() {
            causes.push(forbidden(field, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if !token.is_empty() {
            causes.push(forbidden(field, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(matching, EXACT | NOT_OLDER_THAN) {
            causes.push(not_supported(field, matching, &[EXACT, NOT_OLDER_THAN, ""]));
        }
        if matching == EXACT && version == "0" {
            causes.push(forbidden(field, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if params.has("sendInitialEvents") {
        causes.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    refused("ListOptions", causes)?;
    if !token.is_empty() && !matches!(version, "" | "0") {
        return Err(status::bad_request("specifying resource version is not allowed when using continue"));
    }
    let at = match revision(params)? {
        None => ReadAt::Newest,
        Some(0) => ReadAt::Any,
        // A page of a revision has always been one of exactly this revision.
        Some(n) if matching == EXACT || (matching.is_empty() && limit.is_some()) => ReadAt::Exact(Revision(n)),
        Some(n) => ReadAt::NotOlderThan(Revision(n)),
    };
    Ok(ListOptions { at, limit, continue_token: token.to_owned() })
}

/// Where a watch starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WatchOptions {
    pub(super) after: Option<Revision>,
    pub(super) initial_events: Option<bool>,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<u64>,
}

/// Reads and validates the options of a watch.
pub(super) fn watch(params: &Params) -> Result<WatchOptions, ApiError> {
    let (version, mut matching) = (params.get("resourceVersion"), params.get("resourceVersionMatch"));
    let mut initial_events = params.has("sendInitialEvents").then(|| params.flag("sendInitialEvents"));
    // A watch from anywhere begins with what there is, as it always did.
    if initial_events.is_none() && matching.is_empty() && matches!(version, "" | "0") {
        (initial_events, matching) = (Some(true), NOT_OLDER_THAN);
    }
    let field = "resourceVersionMatch";
    let mut causes = Vec::new();
    if initial_events.is_some() && matching != NOT_OLDER_THAN {
        causes.push(forbidden(field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if !matching.is_empty() {
        if initial_events.is_none() {
            causes.push(forbidden(field, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
        }
        if matching != NOT_OLDER_THAN {
            causes.push(not_supported(field, matching, &[NOT_OLDER_THAN]));
        }
        if !params.get("continue").is_empty() {
            causes.push(forbidden(field, "resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    refused("ListOptions", causes)?;
    Ok(WatchOptions {
        after: revision(params)?.filter(|n| *n > 0).map(Revision),
        initial_events,
        bookmarks: params.flag("allowWatchBookmarks"),
        timeout: params.integer("timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0),
    })
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Vec<StatusCause>) -> bool {
    let values: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if values.iter().any(|v| *v != "All") {
        causes.push(status::cause("FieldValueNotSupported", format!("Unsupported value: {values:?}: supported values: \"All\""), "dryRun"));
    }
    !values.is_empty()
}

/// Which options a write has, as its refusals name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteKind {
    Create,
    Update,
    Patch { apply: bool },
    Delete,
}

/// Reads and validates what the writing verbs have in common.
pub(super) fn write(user: &Arc<User>, request: &Request<Bytes>, params: &Params, kind: WriteKind) -> Result<WriteContext, ApiError> {
    let mut causes = Vec::new();
    let manager = params.get("fieldManager");
    match kind {
        WriteKind::Patch { apply: false } if params.has("force") => {
            causes.push(forbidden("force", "may not be specified for non-apply patch"));
        }
        WriteKind::Patch { apply: true } if manager.is_empty() => {
            causes.push(status::cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager"));
        }
        _ => {}
    }
    if manager.len() > MAX_FIELD_MANAGER {
        causes.push(status::cause(
            "FieldValueTooLong",
            format!("Too long: may not be more than {MAX_FIELD_MANAGER} bytes"),
            "fieldManager",
        ));
    }
    if let Some((position, bad)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("Invalid value: {manager:?}: invalid character U+{:04X} (at position {position})", u32::from(bad));
        causes.push(status::cause("FieldValueInvalid", why, "fieldManager"));
    }
    let dry_run = dry_run(params.all("dryRun"), &mut causes);
    let validation = match params.get("fieldValidation") {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            causes.push(not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]));
            FieldValidation::Warn
        }
    };
    let options = match kind {
        WriteKind::Create => "CreateOptions",
        WriteKind::Update => "UpdateOptions",
        WriteKind::Patch { .. } => "PatchOptions",
        WriteKind::Delete => "DeleteOptions",
    };
    refused(options, causes)?;
    let field_manager = match manager {
        "" if kind != (WriteKind::Patch { apply: true }) => {
            let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            agent.split('/').next().unwrap_or_default().to_owned()
        }
        name => name.to_owned(),
    };
    let mut ctx = WriteContext::new(user.clone());
    (ctx.dry_run, ctx.field_manager, ctx.validation) = (dry_run, field_manager, validation);
    Ok(ctx)
}

/// Which kind of patch a request is.
pub(super) fn patch_kind(request: &Request<Bytes>, params: &Params) -> Result<PatchKind, ApiError> {
    if request.body().len() > MAX_BODY {
        return Err(status::too_large(MAX_BODY));
    }
    match content_type(request).as_str() {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/apply-patch+yaml" => Ok(PatchKind::Apply { force: params.flag("force") }),
        _ => Err(status::unsupported_media_type(PATCH_TYPES)),
    }
}

fn propagation(name: &str, causes: &mut Vec<StatusCause>) -> Option<Propagation> {
    match name {
        "" => None,
        "Orphan" => Some(Propagation::Orphan),
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        other => {
            causes.push(not_supported("propagationPolicy", other, &["Foreground", "Background", "Orphan", "nil"]));
            None
        }
    }
}

/// Reads and validates `metav1.DeleteOptions`; the second is whether it is a dry run.
pub(super) fn parse_delete_options(body: &Value) -> Result<(DeleteParams, bool), ApiError> {
    let kind = text(body, &["kind"]);
    if !matches!(kind, "" | "DeleteOptions") {
        return Err(status::bad_request(format!("decoded object cannot be converted to DeleteOptions: {kind} is another kind")));
    }
    let mut causes = Vec::new();
    let (orphan, policy) = (at(body, &["orphanDependents"]).and_then(Value::as_bool), text(body, &["propagationPolicy"]));
    let options = options_of(number(body, &["gracePeriodSeconds"]), orphan, policy, &mut causes);
    if at(body, &[BREAKING]) == Some(&Value::Bool(true)) {
        causes.push(forbidden(BREAKING, "unsafe deletion is not served: every object that is stored can be read"));
    }
    let dry_run = dry_run(items(body, &["dryRun"]).iter().map(|v| v.as_str().unwrap_or("?")), &mut causes);
    refused("DeleteOptions", causes)?;
    let some = |path: &[&str]| Some(text(body, path).to_owned()).filter(|t| !t.is_empty());
    let (uid, resource_version) = (some(&["preconditions", "uid"]), some(&["preconditions", "resourceVersion"]));
    Ok((DeleteParams { uid, resource_version, ..options }, dry_run))
}

fn options_of(grace: Option<i64>, orphan: Option<bool>, policy: &str, causes: &mut Vec<StatusCause>) -> DeleteParams {
    if orphan.is_some() && !policy.is_empty() {
        let why = format!("Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set");
        causes.push(status::cause("FieldValueInvalid", why, "propagationPolicy"));
    }
    let propagation = propagation(policy, causes).or(match orphan {
        Some(true) => Some(Propagation::Orphan),
        Some(false) => Some(Propagation::Background),
        None => None,
    });
    DeleteParams { grace_period_seconds: grace, propagation, ..DeleteParams::default() }
}

/// The options of a delete: those of the body, or of the query where there is no body.
pub(super) fn delete(request: &Request<Bytes>, params: &Params) -> Result<(DeleteParams, bool), ApiError> {
    if !request.body().is_empty() {
        return parse_delete_options(&read_object(request, "DeleteOptions")?.value);
    }
    let mut causes = Vec::new();
    let orphan = params.has("orphanDependents").then(|| params.flag("orphanDependents"));
    let options = options_of(params.integer("gracePeriodSeconds")?, orphan, params.get("propagationPolicy"), &mut causes);
    if params.flag(BREAKING) {
        causes.push(forbidden(BREAKING, "unsafe deletion is not served: every object that is stored can be read"));
    }
    refused("DeleteOptions", causes)?;
    Ok((options, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap())
    }

    fn list_error(query: &str) -> String {
        list(&params(query)).unwrap_err().to_string()
    }

    #[test]
    fn which_state_a_list_reads() {
        let at = |query: &str| list(&params(query)).unwrap().at;
        assert_eq!(at(""), ReadAt::Newest);
        assert_eq!(at("resourceVersion=0&limit=5"), ReadAt::Any);
        assert_eq!(at("resourceVersion=7"), ReadAt::NotOlderThan(Revision(7)));
        assert_eq!(at("resourceVersion=7&limit=5"), ReadAt::Exact(Revision(7)));
        assert_eq!(at("resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan"), ReadAt::NotOlderThan(Revision(7)));
        assert_eq!(at("resourceVersion=7&resourceVersionMatch=Exact"), ReadAt::Exact(Revision(7)));
        assert_eq!(list(&params("limit=-1")).unwrap().limit, None);
    }

    #[test]
    fn lists_are_refused_in_kubernetes_words() {
        let head = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: ";
        for (query, want) in [
            ("resourceVersionMatch=Exact", "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
            ("resourceVersionMatch=x&resourceVersion=1", "Unsupported value: \"x\": supported values: \"Exact\", \"NotOlderThan\", \"\""),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
        ] {
            assert_eq!(list_error(query), format!("{head}{want}"));
        }
        assert!(list_error("sendInitialEvents=true").contains("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
        assert_eq!(list_error("limit=x"), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(list_error("continue=a&resourceVersion=4"), "specifying resource version is not allowed when using continue");
        assert!(list_error("resourceVersion=x").contains("resourceVersion: Invalid value: \"x\": strconv.ParseUint"));
    }

    #[test]
    fn where_watches_start() {
        let of = |query: &str| watch(&params(query)).unwrap();
        assert_eq!((of("").after, of("").initial_events), (None, Some(true)));
        assert_eq!((of("resourceVersion=5").after, of("resourceVersion=5").initial_events), (Some(Revision(5)), None));
        let streamed =
            of("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=5&allowWatchBookmarks=1&timeoutSeconds=9");
        assert_eq!(streamed, WatchOptions { after: Some(Revision(5)), initial_events: Some(true), bookmarks: true, timeout: Some(9) });
        let refused = |query: &str| watch(&params(query)).unwrap_err().to_string();
        assert!(refused("sendInitialEvents=true").contains("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
        assert!(
            refused("resourceVersion=5&resourceVersionMatch=NotOlderThan")
                .contains("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        );
    }

    #[test]
    fn delete_options() {
        let of = |body: Value| parse_delete_options(&body);
        let (options, dry) = of(serde_json::json!({"gracePeriodSeconds": 3, "dryRun": ["All"], "preconditions": {"uid": "u"}})).unwrap();
        assert_eq!((options.grace_period_seconds, options.uid.as_deref(), dry), (Some(3), Some("u"), true));
        let refused = of(serde_json::json!({"propagationPolicy": "x"})).unwrap_err().to_string();
        let want = "propagationPolicy: Unsupported value: \"x\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
        assert_eq!(refused, format!("DeleteOptions.meta.k8s.io \"\" is invalid: {want}"));
        assert!(of(serde_json::json!({"propagationPolicy": "Orphan", "orphanDependents": true})).is_err());
        assert!(of(serde_json::json!({"dryRun": ["some"]})).is_err());
        assert!(of(serde_json::json!({BREAKING: true})).is_err());
        assert!(of(serde_json::json!({"kind": "Pod"})).is_err());
    }
}
