//! What is refused in a definition, in the words of apiextensions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;
use wharf_structural::{FieldError, Schema, check_definition, non_structural};

use crate::crd::jsonpath::JsonPath;
use crate::resources::value::{at, items, text};
use crate::rest::status::cause;
use crate::validation::{bundle, client_config, label_1035, review_versions, subdomain};
use crate::webhook::spoken;

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
    if let Some(old) = old {
        update(new, old, &mut errors);
    }
    causes.extend(errors.into_iter().map(to_cause));
    conversion(new, old, causes);
    if old.is_some() {
        stored_versions(new, new, causes);
    }
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
        selectable(version, &path, errors);
        deprecation(version, &format!("{path}.deprecationWarning"), errors);
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

fn conversion(new: &Value, old: Option<&Value>, causes: &mut Vec<StatusCause>) {
    let Some(conversion) = at(new, &["spec", "conversion"]) else { return };
    let mut push = |error: FieldError| causes.push(to_cause(error));
    let webhook = at(conversion, &["webhook"]);
    let (client, reviews) = ("spec.conversion.webhookClientConfig", "spec.conversion.conversionReviewVersions");
    match text(conversion, &["strategy"]) {
        "Webhook" => {}
        strategy => {
            if strategy.is_empty() {
                push(FieldError::required("spec.conversion.strategy", ""));
            } else if strategy != "None" {
                let supported = ["None".to_owned(), "Webhook".to_owned()];
                push(FieldError::not_supported("spec.conversion.strategy", &strategy.into(), &supported));
            }
            if webhook.is_some() {
                push(FieldError::forbidden(client, "should not be set when strategy is not set to Webhook"));
            }
            return;
        }
    }
    let Some(webhook) = webhook else {
        return push(FieldError::required(client, "required when strategy is set to Webhook"));
    };
    let before = old.and_then(|old| at(old, &["spec", "conversion", "webhook"]));
    match at(webhook, &["clientConfig"]) {
        None => push(FieldError::required(client, "required when strategy is set to Webhook")),
        Some(config) => {
            client_config(config, client, causes);
            let shown = |config: &Value| text(config, &["caBundle"]).to_owned();
            let kept = before.and_then(|before| at(before, &["clientConfig"])).map(shown);
            // What an older server took stays, here and below.
            if kept.is_none_or(|kept| kept != shown(config)) {
                bundle(&shown(config), &format!("{client}.caBundle"), causes);
            }
        }
    }
    let versions = |webhook| items(webhook, &["conversionReviewVersions"]);
    let unspoken = before.is_some_and(|before| !versions(before).is_empty() && spoken(versions(before)).is_none());
    review_versions(versions(webhook), "", unspoken, reviews, causes);
}

/// What clients of a version are warned of.
fn deprecation(version: &Value, field: &str, errors: &mut Errors) {
    const LONGEST: u64 = 256;
    let Some(shown) = at(version, &["deprecationWarning"]) else { return };
    let warning = text(version, &["deprecationWarning"]);
    if at(version, &["deprecated"]) != Some(&Value::Bool(true)) {
        errors.push(FieldError::invalid(field, shown, "can only be set for deprecated versions"));
    } else if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("must only contain printable UTF-8 characters; non-printable character found at index {i}");
        errors.push(FieldError::invalid(field, shown, &why));
    } else if warning.len() as u64 > LONGEST {
        errors.push(FieldError::too_long(field, LONGEST));
    }
}

/// Fields to select by: scalars that the schema has, outside metadata.
fn selectable(version: &Value, path: &str, errors: &mut Errors) {
    const MOST: u64 = 8;
    let fields = items(version, &["selectableFields"]);
    if fields.len() as u64 > MOST {
        errors.push(FieldError::too_many(&format!("{path}.selectableFields"), fields.len(), MOST));
    }
    let mut known: Vec<Vec<String>> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (json_path, here) = (text(field, &["jsonPath"]), format!("{path}.selectableFields[{i}]"));
        if json_path.is_empty() {
            errors.push(FieldError::required(&format!("{here}.jsonPath"), ""));
            continue;
        }
        let root = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
        let members = JsonPath::members(json_path).filter(|members| !members.is_empty());
        let in_metadata = members.as_ref().is_some_and(|m| m.first().is_some_and(|m| m == "metadata"));
        let below = |schema: &Value, member: &String| schema.get("properties").and_then(|p| p.get(member)).cloned();
        let schema = members.as_ref().and_then(|m| m.iter().try_fold(root.clone(), |schema, member| below(&schema, member)));
        let wrong = |field: &str, why: &str| FieldError::invalid(field, &json_path.into(), why);
        let Some(members) = members.filter(|_| schema.is_some() || in_metadata) else {
            errors.push(wrong(&format!("{here}.jsonPath"), "is an invalid path: does not refer to a valid field"));
            continue;
        };
        if in_metadata {
            errors.push(wrong(&here, "must not point to fields in metadata"));
        }
        if !matches!(text(&schema.unwrap_or_default(), &["type"]), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(wrong(&here, why));
        }
        if known.contains(&members) {
            errors.push(FieldError::duplicate(&here, &json_path.into()));
        }
        known.push(members);
    }
}

/// The versions that objects may be stored in.
pub(super) fn stored_versions(new: &Value, _: &Value, causes: &mut Vec<StatusCause>) {
    let versions = items(new, &["spec", "versions"]);
    let (stored, field) = (items(new, &["status", "storedVersions"]), "status.storedVersions");
    let mut push = |error: FieldError| causes.push(to_cause(error));
    if stored.is_empty() {
        push(FieldError::invalid(field, &stored.into(), "must have at least one stored version"));
    }
    for (i, version) in stored.iter().enumerate().filter(|(_, s)| !versions.iter().any(|v| v.get("name") == Some(s))) {
        let name = version.as_str().unwrap_or_default();
        let why = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        push(FieldError::invalid(&format!("{field}[{i}]"), version, &why));
    }
    let storage = versions.iter().find(|v| v.get("storage") == Some(&Value::Bool(true))).and_then(|v| v.get("name"));
    if let Some(name) = storage.filter(|name| !stored.is_empty() && !stored.contains(name)) {
        let why = format!("must have the storage version {}", name.as_str().unwrap_or_default());
        push(FieldError::invalid(field, &stored.into(), &why));
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
}
