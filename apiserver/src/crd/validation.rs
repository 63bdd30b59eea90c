//! What is refused in a definition, in the words of apiextensions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;
use wharf_structural::{FieldError, Schema, check_definition, non_structural};

use crate::crd::jsonpath::JsonPath;
use crate::resources::value::{at, items, text};
use crate::rest::status::cause;
use crate::validation::{label_1035, subdomain};

type Errors = Vec<FieldError>;

/// An error as a cause.
pub(super) fn to_cause(error: FieldError) -> StatusCause {
    cause(error.reason.name(), error.message, &error.field)
}

/// Validates a definition.
pub(super) fn definition(new: &Value, old: Option<&Value>, causes: &mut Vec<StatusCause>) {
    let mut errors = Errors::new();
    let group = text(new, &["spec", "group"]);
    let plural = text(new, &["spec", "names", "plural"]);
    let name = text(new, &["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        errors.push(FieldError::invalid("metadata.name", &name.into(), "must be spec.names.plural+\".\"+spec.group"));
    }
    approved(new, group, &mut errors);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(why) = subdomain(group) {
        errors.push(FieldError::invalid("spec.group", &group.into(), why));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    match text(new, &["spec", "scope"]) {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported("spec.scope", &other.into(), &["Cluster".to_owned(), "Namespaced".to_owned()])),
    }
    if at(new, &["spec", "preserveUnknownFields"]) == Some(&Value::Bool(true)) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &true.into(), why));
    }
    names(new, &mut errors);
    versions(new, &mut errors);
    conversion(new, &mut errors);
    if let Some(old) = old {
        update(new, old, &mut errors);
    }
    causes.extend(errors.into_iter().map(to_cause));
}

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Whether a group is one that Kubernetes' community keeps for itself.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.strip_suffix(own).is_some_and(|g| g.ends_with('.')))
}

fn approved(new: &Value, group: &str, errors: &mut Errors) {
    if !is_protected(group) {
        return;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    let approval = text(new, &["metadata", "annotations", APPROVAL]);
    if approval.is_empty() {
        let why = format!(
            "protected groups must have approval annotation \"{APPROVAL}\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.push(FieldError::required(&path, &why));
    } else if !approval.starts_with("unapproved") && !approval.contains("://") {
        let why = "protected groups must have approval annotation with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.push(FieldError::invalid(&path, &approval.into(), why));
    }
}

fn names(new: &Value, errors: &mut Errors) {
    for (name, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let (found, path) = (text(new, &["spec", "names", name]), format!("spec.names.{name}"));
        if found.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if let Some(why) = label_1035(&if mixed { found.to_lowercase() } else { found.to_owned() }) {
            let why = if mixed { format!("may have mixed case, but should otherwise match: {why}") } else { why.to_owned() };
            errors.push(FieldError::invalid(&path, &found.into(), &why));
        }
    }
    for list in ["shortNames", "categories"] {
        for (i, found) in items(new, &["spec", "names", list]).iter().enumerate() {
            if let Some(why) = label_1035(found.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(&format!("spec.names.{list}[{i}]"), found, why));
            }
        }
    }
    let (kind, list_kind) = (text(new, &["spec", "names", "kind"]), text(new, &["spec", "names", "listKind"]));
    if !kind.is_empty() && kind == list_kind {
        errors.push(FieldError::invalid("spec.names.listKind", &list_kind.into(), "kind and listKind may not be the same"));
    }
}

fn versions(new: &Value, errors: &mut Errors) {
    let versions = items(new, &["spec", "versions"]);
    let names: Vec<&str> = versions.iter().map(|v| text(v, &["name"])).collect();
    let all = at(new, &["spec", "versions"]).cloned().unwrap_or(Value::Null);
    if names.iter().enumerate().any(|(i, name)| names.iter().take(i).any(|n| n == name)) {
        errors.push(FieldError::invalid("spec.versions", &all, "must contain unique version names"));
    }
    if versions.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", &all, "must have exactly one version marked as storage version"));
    }
    // Versions with the same schema share one, and it is told of as one.
    let schema_of = |v: &Value| v.pointer("/schema/openAPIV3Schema").cloned();
    let shared = versions.windows(2).all(|pair| matches!(pair, [a, b] if schema_of(a) == schema_of(b)));
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        if let Some(why) = label_1035(text(version, &["name"])) {
            errors.push(FieldError::invalid(&format!("{path}.name"), &text(version, &["name"]).into(), why));
        }
        match version.pointer("/schema/openAPIV3Schema") {
            None | Some(Value::Null) => {
                errors.push(FieldError::required(&format!("{path}.schema.openAPIV3Schema"), "schemas are required"));
            }
            Some(_) if shared && i > 0 => {}
            Some(schema) => {
                let path = if shared { "spec.validation.openAPIV3Schema".to_owned() } else { format!("{path}.schema.openAPIV3Schema") };
                errors.extend(check_definition(&path, schema));
                errors.extend(non_structural(&path, schema));
                match Schema::compile(schema) {
                    Ok(compiled) => errors.extend(compiled.check_rules(&path)),
                    Err(error) => errors.push(FieldError::invalid(&path, &"".into(), &error.to_string())),
                }
            }
        }
        columns(version, &path, errors);
        scale(version, &path, errors);
        for (j, field) in items(version, &["selectableFields"]).iter().enumerate() {
            let json_path = text(field, &["jsonPath"]);
            if json_path.is_empty() {
                errors.push(FieldError::required(&format!("{path}.selectableFields[{j}].jsonPath"), ""));
            } else if JsonPath::members(json_path).is_none() {
                let why = "is an invalid path: does not refer to a valid field";
                errors.push(FieldError::invalid(&format!("{path}.selectableFields[{j}].jsonPath"), &json_path.into(), why));
            }
        }
    }
}

fn columns(version: &Value, path: &str, errors: &mut Errors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    for (i, column) in items(version, &["additionalPrinterColumns"]).iter().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{i}]");
        if text(column, &["name"]).is_empty() {
            errors.push(FieldError::required(&format!("{path}.name"), ""));
        }
        let kind = text(column, &["type"]);
        if kind.is_empty() {
            errors.push(FieldError::required(&format!("{path}.type"), &format!("must be one of {}", TYPES.join(","))));
        } else if !TYPES.contains(&kind) {
            errors.push(FieldError::invalid(&format!("{path}.type"), &kind.into(), &format!("must be one of {}", TYPES.join(","))));
        }
        let json_path = text(column, &["jsonPath"]);
        if json_path.is_empty() {
            errors.push(FieldError::required(&format!("{path}.jsonPath"), ""));
        } else if JsonPath::parse(json_path).is_none() {
            errors.push(FieldError::invalid(&format!("{path}.jsonPath"), &json_path.into(), "is an invalid JSON path"));
        }
    }
}

fn scale(version: &Value, path: &str, errors: &mut Errors) {
    let Some(scale) = at(version, &["subresources", "scale"]) else { return };
    let path = format!("{path}.subresources.scale");
    for (name, prefixes, needed) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let (found, path) = (text(scale, &[name]), format!("{path}.{name}"));
        if found.is_empty() {
            if needed {
                errors.push(FieldError::required(&path, ""));
            }
        } else if JsonPath::members(found).is_none() {
            errors.push(FieldError::invalid(&path, &found.into(), "is an invalid path"));
        } else if !prefixes.iter().any(|prefix| found.starts_with(prefix)) {
            let under: Vec<&str> = prefixes.iter().map(|p| p.trim_end_matches('.')).collect();
            let why = format!("should be a json path under {}", under.join(" or "));
            errors.push(FieldError::invalid(&path, &found.into(), &why));
        }
    }
}

fn conversion(new: &Value, errors: &mut Errors) {
    let Some(conversion) = at(new, &["spec", "conversion"]) else { return };
    let webhook = at(conversion, &["webhook"]);
    match text(conversion, &["strategy"]) {
        "" => errors.push(FieldError::required("spec.conversion.strategy", "")),
        "None" => {
            if webhook.is_some() {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden("spec.conversion.webhookClientConfig", why));
            }
        }
        "Webhook" => {
            let Some(webhook) = webhook else {
                errors.push(FieldError::required("spec.conversion.webhookClientConfig", "required when strategy is set to Webhook"));
                return;
            };
            if items(webhook, &["conversionReviewVersions"]).is_empty() {
                errors.push(FieldError::required("spec.conversion.conversionReviewVersions", ""));
            }
            let (url, service) = (at(webhook, &["clientConfig", "url"]), at(webhook, &["clientConfig", "service"]));
            if url.is_some() == service.is_some() {
                let why = "exactly one of url or service is required";
                errors.push(FieldError::required("spec.conversion.webhookClientConfig", why));
            }
        }
        other => {
            let supported = ["None".to_owned(), "Webhook".to_owned()];
            errors.push(FieldError::not_supported("spec.conversion.strategy", &other.into(), &supported));
        }
    }
}

fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let established =
        items(old, &["status", "conditions"]).iter().any(|c| text(c, &["type"]) == "Established" && text(c, &["status"]) == "True");
    let mut fixed: Vec<&[&str]> = vec![&["group"], &["names", "plural"]];
    if established {
        fixed.extend([&["scope"][..], &["names", "kind"]]);
    }
    for path in fixed {
        let full: Vec<&str> = std::iter::once("spec").chain(path.iter().copied()).collect();
        if at(new, &full) != at(old, &full) {
            let value = at(new, &full).cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(&full.join("."), &value, "field is immutable"));
        }
    }
    let names: Vec<&str> = items(new, &["spec", "versions"]).iter().map(|v| text(v, &["name"])).collect();
    for (i, stored) in items(new, &["status", "storedVersions"]).iter().enumerate() {
        if !stored.as_str().is_some_and(|s| names.contains(&s)) {
            errors.push(FieldError::invalid(&format!("status.storedVersions[{i}]"), stored, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", stored.as_str().unwrap_or_default()).as_str()));
        }
    }
}
