//! admissionregistration.k8s.io: webhooks, and policies in CEL.

use std::collections::HashSet;

use serde_json::Value;
use wharf_cel::Compiled;
use wharf_core::selector::is_qualified_name;

use super::metadata::{QUALIFIED, label_1035, path_segment, subdomain};
use super::selector::label_selector;
use super::{Causes, duplicate, forbidden, invalid, one_of, required, too_many, unsupported};
use crate::resources::value::{at, items, number, text};

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// Operations whose object can be changed.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
/// Versions of a review that the server can speak.
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const MAX_CONDITIONS: usize = 64;
const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation, in bytes.
const MAX_AUDIT_EXPRESSION: usize = 5 << 10;
const URL_FORM: &str = "; desired format: https://host[/path]";
/// What every expression can name.
const NAMES: &[&str] = &["object", "oldObject", "request", "namespaceObject"];
/// Words of CEL that name nothing.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Webhooks that change objects.
pub(crate) fn mutating_webhooks(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    webhooks(new, old, causes);
    for (i, hook) in items(new, &["webhooks"]).iter().enumerate() {
        let field = format!("webhooks[{i}].reinvocationPolicy");
        one_of(causes, &field, at(hook, &["reinvocationPolicy"]), REINVOCATION_POLICIES);
    }
}

/// Webhooks that refuse objects.
pub(crate) fn validating_webhooks(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    webhooks(new, old, causes);
}

fn webhooks(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let hooks = items(new, &["webhooks"]);
    let before = old.map(|old| items(old, &["webhooks"])).unwrap_or_default();
    let conditions = |hook| items(hook, &["matchConditions"]);
    // Conditions that an older server let in may stay.
    let known =
        old.is_some() && hooks.len() == before.len() && hooks.iter().zip(before).all(|(new, old)| conditions(new) == conditions(old));
    let mut seen = HashSet::new();
    for (i, hook) in hooks.iter().enumerate() {
        let here = format!("webhooks[{i}]");
        webhook(hook, &here, causes);
        if !known {
            match_conditions(conditions(hook), &[NAMES, &["authorizer"]].concat(), &format!("{here}.matchConditions"), causes);
        }
        let name = text(hook, &["name"]);
        if !name.is_empty() && !seen.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
    }
}

fn webhook(hook: &Value, here: &str, causes: &mut Causes) {
    qualified_domain(text(hook, &["name"]), &format!("{here}.name"), causes);
    review_versions(items(hook, &["admissionReviewVersions"]), &format!("{here}.admissionReviewVersions"), causes);
    for (i, rule) in items(hook, &["rules"]).iter().enumerate() {
        rule_with_operations(rule, &format!("{here}.rules[{i}]"), causes);
    }
    one_of(causes, &format!("{here}.failurePolicy"), at(hook, &["failurePolicy"]), FAILURE_POLICIES);
    one_of(causes, &format!("{here}.matchPolicy"), at(hook, &["matchPolicy"]), MATCH_POLICIES);
    let effects = at(hook, &["sideEffects"]);
    if effects.is_none() {
        required(causes, &format!("{here}.sideEffects"), &format!("must specify one of {}", SIDE_EFFECTS.join(", ")));
    }
    one_of(causes, &format!("{here}.sideEffects"), effects, SIDE_EFFECTS);
    if let Some(seconds) = number(hook, &["timeoutSeconds"]).filter(|n| !(1..=30).contains(n)) {
        invalid(causes, &format!("{here}.timeoutSeconds"), &seconds.into(), "the timeout value must be between 1 and 30 seconds");
    }
    for name in ["namespaceSelector", "objectSelector"] {
        label_selector(at(hook, &[name]), &format!("{here}.{name}"), causes);
    }
    let here = format!("{here}.clientConfig");
    match (at(hook, &["clientConfig", "url"]), at(hook, &["clientConfig", "service"])) {
        (Some(url), None) => webhook_url(url.as_str().unwrap_or_default(), &format!("{here}.url"), causes),
        (None, Some(service)) => webhook_service(service, &format!("{here}.service"), causes),
        _ => required(causes, &here, "exactly one of url or service is required"),
    }
}

/// A domain of at least three parts.
fn qualified_domain(name: &str, field: &str, causes: &mut Causes) {
    if name.is_empty() {
        required(causes, field, "");
    } else if let Some(why) = subdomain(name) {
        invalid(causes, field, &name.into(), why);
    } else if name.split('.').count() < 3 {
        invalid(causes, field, &name.into(), "should be a domain with at least three segments separated by dots");
    }
}

fn review_versions(versions: &[Value], field: &str, causes: &mut Causes) {
    if versions.is_empty() {
        return required(causes, field, &format!("must specify one of {}", REVIEWS.join(", ")));
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !seen.insert(name) {
            invalid(causes, &format!("{field}[{i}]"), version, "duplicate version");
        } else if let Some(why) = label_1035(name) {
            invalid(causes, &format!("{field}[{i}]"), version, why);
        }
    }
    if !REVIEWS.iter().any(|v| seen.contains(v)) {
        invalid(causes, field, &versions.into(), &format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

/// What a URL is made of.
#[derive(Default)]
struct Url<'a> {
    scheme: String,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

/// Takes a URL apart as Go's `net/url` does.
fn parse_url(url: &str) -> Result<Url<'_>, String> {
    if url.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let letters = |scheme: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        scheme.bytes().all(inner) && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
    };
    let (scheme, rest) = match rest.split_once(':') {
        Some(("", _)) => return Err("missing protocol scheme".to_owned()),
        Some((scheme, rest)) if letters(scheme) => (scheme.to_lowercase(), rest),
        _ => (String::new(), rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if scheme.is_empty() && !rest.starts_with('/') && rest.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err("first path segment in URL cannot contain colon".to_owned());
    }
    let url = Url { scheme, query, fragment, ..Url::default() };
    let Some(rest) = rest.strip_prefix("//").filter(|rest| !url.scheme.is_empty() || !rest.starts_with('/')) else {
        return Ok(url);
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if let Some(bad) = host.chars().find(|c| " \"<>\\^`{|}".contains(*c)) {
        return Err(format!("invalid character {} in host name", Value::from(bad.to_string())));
    }
    // The colons of an address in brackets begin no port.
    let name_end = host.rfind(']').map_or(0, |end| end + 1);
    let port = host.get(name_end..).and_then(|rest| rest.rsplit_once(':')).map(|(_, port)| port).unwrap_or_default();
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("invalid port {} after host", Value::from(format!(":{port}"))));
    }
    Ok(Url { user, host, ..url })
}

fn webhook_url(source: &str, field: &str, causes: &mut Causes) {
    let url = match parse_url(source) {
        Ok(url) => url,
        Err(why) => return required(causes, field, &format!("url must be a valid URL: parse {}: {why}{URL_FORM}", Value::from(source))),
    };
    if url.scheme != "https" {
        invalid(causes, field, &url.scheme.into(), &format!("'https' is the only allowed URL scheme{URL_FORM}"));
    }
    if url.host.is_empty() {
        invalid(causes, field, &"".into(), &format!("host must be specified{URL_FORM}"));
    }
    if let Some(user) = url.user {
        invalid(causes, field, &user.into(), "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        invalid(causes, field, &url.fragment.into(), "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        invalid(causes, field, &url.query.into(), "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Value, here: &str, causes: &mut Causes) {
    for part in ["name", "namespace"] {
        if text(service, &[part]).is_empty() {
            required(causes, &format!("{here}.{part}"), &format!("service {part} is required"));
        }
    }
    if let Some(port) = number(service, &["port"]).filter(|n| !(1..=65_535).contains(n)) {
        invalid(causes, &format!("{here}.port"), &port.into(), "port is not valid: must be between 1 and 65535, inclusive");
    }
    webhook_path(text(service, &["path"]), &format!("{here}.path"), causes);
}

fn webhook_path(path: &str, field: &str, causes: &mut Causes) {
    let mut wrong = |why: &str| invalid(causes, field, &path.into(), why);
    match path {
        "" | "/" => return,
        "//" => return wrong("segment[0] may not be empty"),
        _ => {}
    }
    let rest = path.strip_prefix('/').unwrap_or_else(|| {
        wrong("must start with a '/'");
        path
    });
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            wrong(&format!("segment[{i}] may not be empty"));
        } else if let Some(why) = subdomain(step) {
            wrong(&format!("segment[{i}]: {why}"));
        }
    }
}

/// Which requests are meant.
fn rule_with_operations(rule: &Value, here: &str, causes: &mut Causes) {
    star_alone(items(rule, &["operations"]), &format!("{here}.operations"), "operations", causes);
    for (i, operation) in items(rule, &["operations"]).iter().enumerate() {
        one_of(causes, &format!("{here}.operations[{i}]"), Some(operation), OPERATIONS);
    }
    star_alone(items(rule, &["apiGroups"]), &format!("{here}.apiGroups"), "API groups", causes);
    star_alone(items(rule, &["apiVersions"]), &format!("{here}.apiVersions"), "API versions", causes);
    for (i, _) in items(rule, &["apiVersions"]).iter().enumerate().filter(|(_, version)| *version == "") {
        required(causes, &format!("{here}.apiVersions[{i}]"), "");
    }
    rule_resources(items(rule, &["resources"]), &format!("{here}.resources"), causes);
    one_of(causes, &format!("{here}.scope"), at(rule, &["scope"]), SCOPES);
}

/// A list of something, or only a star.
fn star_alone(list: &[Value], field: &str, what: &str, causes: &mut Causes) {
    if list.is_empty() {
        required(causes, field, "");
    }
    if list.len() > 1 && list.iter().any(|v| v == "*") {
        invalid(causes, field, &list.into(), &format!("if '*' is present, must not specify other {what}"));
    }
}

fn rule_resources(resources: &[Value], field: &str, causes: &mut Causes) {
    if resources.is_empty() {
        required(causes, field, "");
    }
    let (mut every_part, mut every_resource) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for (i, entry) in resources.iter().enumerate() {
        let found = entry.as_str().unwrap_or_default();
        if found.is_empty() {
            required(causes, &format!("{field}[{i}]"), "");
            continue;
        }
        let Some((resource, part)) = found.split_once('/') else {
            plain = found != "*";
            continue;
        };
        if every_part.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {found}");
            invalid(causes, &format!("{field}[{i}]"), entry, &why);
        }
        if every_resource.contains(part) {
            invalid(causes, &format!("{field}[{i}]"), entry, &format!("if '*/{part}' is present, must not specify {found}"));
        }
        if part == "*" {
            every_part.insert(resource);
        }
        if resource == "*" {
            every_resource.insert(part);
        }
    }
    if resources.len() > 1 && resources.iter().any(|r| r == "*/*") {
        invalid(causes, field, &resources.into(), "if '*/*' is present, must not specify other resources");
    }
    if plain && resources.iter().any(|r| r == "*") {
        invalid(causes, field, &resources.into(), "if '*' is present, must not specify other resources without subresources");
    }
}

fn match_conditions(conditions: &[Value], names: &[&str], field: &str, causes: &mut Causes) {
    too_many(causes, field, conditions.len(), MAX_CONDITIONS);
    let mut seen = HashSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let here = format!("{field}[{i}]");
        needed_expression(text(condition, &["expression"]).trim(), "", names, &format!("{here}.expression"), causes);
        let name = text(condition, &["name"]);
        if name.is_empty() {
            required(causes, &format!("{here}.name"), "");
            continue;
        }
        if !is_qualified_name(name) {
            invalid(causes, &format!("{here}.name"), &name.into(), QUALIFIED);
        }
        if !seen.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
    }
}

/// An expression that must be there, and speak only of some names.
fn needed_expression(source: &str, missing: &str, names: &[&str], field: &str, causes: &mut Causes) {
    if source.trim().is_empty() {
        required(causes, field, missing);
    } else {
        expression(source, names, field, causes);
    }
}

fn expression(source: &str, names: &[&str], field: &str, causes: &mut Causes) {
    if let Err(why) = Compiled::new(source, names) {
        invalid(causes, field, &source.into(), &why.to_string());
    }
}

/// Policies that refuse objects.
pub(crate) fn validating_policy(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let names = policy(new, old, causes);
    let authorized = [&names[..], &["authorizer"]].concat();
    let (validations, annotations) = (items(new, &["spec", "validations"]), items(new, &["spec", "auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["spec.validations", "spec.auditAnnotations"] {
            required(causes, field, "validations or auditAnnotations must be non-empty");
        }
    }
    for (i, rule) in validations.iter().enumerate() {
        validation(rule, &names, &authorized, &format!("spec.validations[{i}]"), causes);
    }
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let why = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        invalid(causes, "spec.auditAnnotations", &annotations.into(), &why);
    }
    let mut seen = HashSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let here = format!("spec.auditAnnotations[{i}]");
        audit_annotation(annotation, text(new, &["metadata", "name"]), &authorized, &here, causes);
        let key = text(annotation, &["key"]);
        if !seen.insert(key) {
            duplicate(causes, &format!("{here}.key"), &key.into());
        }
    }
}

/// Policies that change objects.
pub(crate) fn mutating_policy(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let names = policy(new, old, causes);
    let operations = items(new, &["spec", "matchConstraints", "resourceRules"]).iter().flat_map(|rule| items(rule, &["operations"]));
    for operation in operations {
        one_of(causes, "spec.matchConstraints.resourceRules.operations", Some(operation), MUTATING_OPERATIONS);
    }
    let mutations = items(new, &["spec", "mutations"]);
    if mutations.is_empty() {
        required(causes, "spec.mutations", "mutations must contain at least one item");
    }
    let names = [&names[..], &["authorizer", "jsonpatch"]].concat();
    for (i, change) in mutations.iter().enumerate() {
        mutation(change, &names, &format!("spec.mutations[{i}]"), causes);
    }
    needed_choice(at(new, &["spec", "reinvocationPolicy"]), "spec.reinvocationPolicy", REINVOCATION_POLICIES, causes);
}

/// One of a few, and it must be there.
fn needed_choice(value: Option<&Value>, field: &str, supported: &[&str], causes: &mut Causes) {
    match value.filter(|v| *v != "") {
        None => required(causes, field, ""),
        value => one_of(causes, field, value, supported),
    }
}

/// What policies of both sorts have. Returns what their expressions can name.
fn policy(new: &Value, old: Option<&Value>, causes: &mut Causes) -> Vec<&'static str> {
    let part = |name: &str| at(new, &["spec", name]);
    match part("failurePolicy") {
        None => required(causes, "spec.failurePolicy", ""),
        found => one_of(causes, "spec.failurePolicy", found, FAILURE_POLICIES),
    }
    let mut names = NAMES.to_vec();
    if let Some(kind) = part("paramKind") {
        names.push("params");
        param_kind(kind, "spec.paramKind", causes);
    }
    match part("matchConstraints") {
        None => required(causes, "spec.matchConstraints", ""),
        Some(constraints) => {
            match_resources(constraints, "spec.matchConstraints", causes);
            if items(constraints, &["resourceRules"]).is_empty() {
                required(causes, "spec.matchConstraints.resourceRules", "");
            }
        }
    }
    let conditions = items(new, &["spec", "matchConditions"]);
    // Conditions that an older server let in may stay.
    if !old.is_some_and(|old| items(old, &["spec", "matchConditions"]) == conditions) {
        match_conditions(conditions, &[&names[..], &["authorizer"]].concat(), "spec.matchConditions", causes);
    }
    names.push("variables");
    let authorized = [&names[..], &["authorizer"]].concat();
    let mut seen = HashSet::new();
    for (i, variable) in items(new, &["spec", "variables"]).iter().enumerate() {
        let (here, name) = (format!("spec.variables[{i}]"), text(variable, &["name"]));
        if name.trim().is_empty() {
            required(causes, &format!("{here}.name"), "name is not specified");
        } else if !is_identifier(name) {
            invalid(causes, &format!("{here}.name"), &name.into(), "name is not a valid CEL identifier");
        } else if !seen.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
        let source = text(variable, &["expression"]);
        needed_expression(source, "expression is not specified", &authorized, &format!("{here}.expression"), causes);
    }
    names
}

/// Whether text is a name in CEL.
fn is_identifier(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name)
}

/// The kind of a policy's parameters.
fn param_kind(kind: &Value, here: &str, causes: &mut Causes) {
    let (api_version, field) = (text(kind, &["apiVersion"]), format!("{here}.apiVersion"));
    if api_version.is_empty() {
        required(causes, &field, "");
    } else if api_version.matches('/').count() > 1 {
        invalid(causes, &field, &api_version.into(), &format!("unexpected GroupVersion string: {api_version}"));
    } else {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(why) = subdomain(group).filter(|_| !group.is_empty()) {
            invalid(causes, &field, &group.into(), why);
        }
        if version.is_empty() {
            invalid(causes, &field, &api_version.into(), "version must be specified");
        } else if let Some(why) = label_1035(version) {
            invalid(causes, &field, &version.into(), why);
        }
    }
    let kind = text(kind, &["kind"]);
    if kind.is_empty() {
        required(causes, &format!("{here}.kind"), "");
    } else if let Some(why) = label_1035(&kind.to_lowercase()) {
        let why = format!("may have mixed case, but should otherwise match: {why}");
        invalid(causes, &format!("{here}.kind"), &kind.into(), &why);
    }
}

/// Which objects a policy or a binding is about.
fn match_resources(resources: &Value, here: &str, causes: &mut Causes) {
    match at(resources, &["matchPolicy"]) {
        None => required(causes, &format!("{here}.matchPolicy"), ""),
        found => one_of(causes, &format!("{here}.matchPolicy"), found, MATCH_POLICIES),
    }
    for name in ["namespaceSelector", "objectSelector"] {
        let (selector, field) = (at(resources, &[name]), format!("{here}.{name}"));
        if selector.is_none() {
            required(causes, &field, "");
        }
        label_selector(selector, &field, causes);
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(resources, &[list]).iter().enumerate() {
            named_rule(rule, &format!("{here}.{list}[{i}]"), causes);
        }
    }
}

fn named_rule(rule: &Value, here: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, name) in items(rule, &["resourceNames"]).iter().enumerate() {
        let field = format!("{here}.resourceNames[{i}]");
        let found = name.as_str().unwrap_or_default();
        if let Some(why) = path_segment(found) {
            invalid(causes, &field, name, why);
        }
        if !seen.insert(found) {
            duplicate(causes, &field, name);
        }
    }
    rule_with_operations(rule, here, causes);
}

fn validation(rule: &Value, names: &[&str], authorized: &[&str], here: &str, causes: &mut Causes) {
    let source = text(rule, &["expression"]);
    needed_expression(source, "expression is not specified", authorized, &format!("{here}.expression"), causes);
    let (source, field) = (text(rule, &["messageExpression"]), format!("{here}.messageExpression"));
    if !source.is_empty() && source.trim().is_empty() {
        invalid(causes, &field, &source.into(), "must be non-empty if specified");
    } else if !source.is_empty() {
        expression(source, names, &field, causes);
    }
    let message = text(rule, &["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        invalid(causes, &format!("{here}.message"), &message.into(), "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        invalid(causes, &format!("{here}.message"), &message.into(), "message must not contain line breaks");
    }
    one_of(causes, &format!("{here}.reason"), at(rule, &["reason"]), REASONS);
}

fn audit_annotation(annotation: &Value, policy: &str, names: &[&str], here: &str, causes: &mut Causes) {
    let (key, field) = (text(annotation, &["key"]), format!("{here}.key"));
    let full = format!("{policy}/{key}");
    if policy.is_empty() {
        invalid(causes, &field, &key.into(), "requires metadata.name be non-empty");
    } else if !is_qualified_name(&full) {
        invalid(causes, &field, &full.into(), QUALIFIED);
    }
    let (source, field) = (text(annotation, &["valueExpression"]), format!("{here}.valueExpression"));
    if source.trim().len() > MAX_AUDIT_EXPRESSION {
        return required(causes, &field, &format!("must not exceed {MAX_AUDIT_EXPRESSION} bytes in length"));
    }
    needed_expression(source, "valueExpression is not specified", names, &field, causes);
}

fn mutation(change: &Value, names: &[&str], here: &str, causes: &mut Causes) {
    let kind = text(change, &["patchType"]);
    let (wanted, other) = match kind {
        "" => return required(causes, &format!("{here}.patchType"), ""),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        _ => return unsupported(causes, &format!("{here}.patchType"), &kind.into(), PATCH_TYPES),
    };
    match at(change, &[wanted]) {
        None => required(causes, &format!("{here}.{wanted}"), &format!("must be specified when patchType is {kind}")),
        Some(patch) => needed_expression(text(patch, &["expression"]), "", names, &format!("{here}.{wanted}.expression"), causes),
    }
    if at(change, &[other]).is_some() {
        let why = format!("must not be specified when patchType is {kind}");
        invalid(causes, &format!("{here}.{other}"), &format!("{{{other}}}").into(), &why);
    }
}

/// Bindings of policies that refuse objects.
pub(crate) fn validating_policy_binding(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    binding(new, causes);
    validation_actions(items(new, &["spec", "validationActions"]), "spec.validationActions", causes);
}

/// Bindings of policies that change objects.
pub(crate) fn mutating_policy_binding(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    binding(new, causes);
}

fn binding(new: &Value, causes: &mut Causes) {
    let policy = text(new, &["spec", "policyName"]);
    if policy.is_empty() {
        required(causes, "spec.policyName", "");
    } else if let Some(why) = subdomain(policy) {
        invalid(causes, "spec.policyName", &policy.into(), why);
    }
    if let Some(reference) = at(new, &["spec", "paramRef"]) {
        param_ref(reference, "spec.paramRef", causes);
    }
    if let Some(resources) = at(new, &["spec", "matchResources"]) {
        // Kubernetes misspells this field too.
        match_resources(resources, "spec.matchResouces", causes);
    }
}

/// Where a policy's parameters are.
fn param_ref(reference: &Value, here: &str, causes: &mut Causes) {
    let (name, selector) = (text(reference, &["name"]), at(reference, &["selector"]));
    if let Some(why) = path_segment(name) {
        invalid(causes, &format!("{here}.name"), &name.into(), why);
    }
    label_selector(selector, &format!("{here}.selector"), causes);
    match (name.is_empty(), selector) {
        (true, None) => required(causes, here, "one of name or selector must be specified"),
        (false, Some(_)) => {
            for part in ["name", "selector"] {
                forbidden(causes, &format!("{here}.{part}"), "name and selector are mutually exclusive");
            }
        }
        _ => {}
    }
    let action = at(reference, &["parameterNotFoundAction"]);
    needed_choice(action, &format!("{here}.parameterNotFoundAction"), &["Allow", "Deny"], causes);
}

fn validation_actions(actions: &[Value], field: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, action) in actions.iter().enumerate() {
        one_of(causes, &format!("{field}[{i}]"), Some(action), &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.as_str().unwrap_or_default()) {
            duplicate(causes, &format!("{field}[{i}]"), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        invalid(causes, field, &actions.into(), why);
    }
    if actions.is_empty() {
        required(causes, field, "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::found;

    const NONE: [String; 0] = [];

    /// An object with members set, each by a pointer; `null` takes one away.
    fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
        for (path, value) in changes {
            let (parent, name) = path.rsplit_once('/').unwrap();
            match object.pointer_mut(parent).unwrap() {
                Value::Object(map) => map.insert(name.to_owned(), value.clone()),
                other => panic!("{other}"),
            };
        }
        object
    }

    fn hook() -> Value {
        json!({
            "name": "a.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": {"service": {"name": "a", "namespace": "b", "port": 443, "path": "/a/b"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/status"]}],
            "matchConditions": [{"name": "m", "expression": "request.userInfo.username != 'a' && authorizer.group('').resource('x').check('y').allowed()"}],
        })
    }

    fn hook_with(changes: &[(&str, Value)]) -> Vec<String> {
        found(mutating_webhooks, &json!({"webhooks":[with(hook(), changes)]}), None)
    }

    #[test]
    fn webhook_parts() {
        assert_eq!(hook_with(&[]), NONE);
        assert_eq!(hook_with(&[("/timeoutSeconds", json!(30)), ("/reinvocationPolicy", json!("IfNeeded"))]), NONE);
        for (path, value, wanted) in [
            ("/name", json!(""), "name: Required value"),
            ("/name", json!("a.b"), "name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"),
            ("/sideEffects", Value::Null, "sideEffects: Required value: must specify one of None, NoneOnDryRun"),
            ("/sideEffects", json!("Some"), "sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""),
            ("/failurePolicy", json!("x"), "failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\""),
            ("/matchPolicy", json!("x"), "matchPolicy: Unsupported value: \"x\": supported values: \"Equivalent\", \"Exact\""),
            ("/reinvocationPolicy", json!("x"), "reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\""),
            ("/timeoutSeconds", json!(31), "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"),
            ("/admissionReviewVersions", json!([]), "admissionReviewVersions: Required value: must specify one of v1, v1beta1"),
            ("/admissionReviewVersions", json!(["v1", "v1"]), "admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version"),
            (
                "/admissionReviewVersions",
                json!(["v2"]),
                "admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ),
            (
                "/objectSelector",
                json!({"matchExpressions":[{"key":"a","operator":"x"}]}),
                "objectSelector.matchExpressions[0].operator: Invalid value: \"x\": not a valid selector operator",
            ),
            ("/clientConfig", json!({}), "clientConfig: Required value: exactly one of url or service is required"),
            ("/clientConfig/url", json!("https://a"), "clientConfig: Required value: exactly one of url or service is required"),
            ("/clientConfig/service/name", json!(""), "clientConfig.service.name: Required value: service name is required"),
            (
                "/clientConfig/service/port",
                json!(0),
                "clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ),
        ] {
            assert_eq!(hook_with(&[(path, value)]), [format!("webhooks[0].{wanted}")]);
        }
        assert!(hook_with(&[("/admissionReviewVersions", json!(["v1", "1"]))])[0].contains("a DNS-1035 label must"));
    }

    #[test]
    fn webhook_names() {
        let both = json!({"webhooks":[hook(), hook()]});
        assert_eq!(found(validating_webhooks, &both, None), ["webhooks[1].name: Duplicate value: \"a.example.com\""]);
    }

    #[test]
    fn paths() {
        let path = |path: &str| hook_with(&[("/clientConfig/service/path", json!(path))]);
        for good in ["", "/", "/a", "/a/b/", "/a.b/c-d"] {
            assert_eq!(path(good), NONE, "{good}");
        }
        for (bad, wanted) in [
            ("//", "segment[0] may not be empty"),
            ("/a//b", "segment[1] may not be empty"),
            ("a", "must start with a '/'"),
            ("/A", "segment[0]: a lowercase RFC 1123 subdomain must"),
            ("é", "must start with a '/'"),
        ] {
            assert!(
                path(bad)[0].starts_with(&format!("webhooks[0].clientConfig.service.path: Invalid value: \"{bad}\": {wanted}")),
                "{bad}"
            );
        }
    }

    #[test]
    fn urls() {
        let url = |url: &str| hook_with(&[("/clientConfig", json!({"url": url}))]);
        for good in ["https://a.b/c", "HTTPS://a:8443", "https://[::1]:443/x", "https://10.0.0.1"] {
            assert_eq!(url(good), NONE, "{good}");
        }
        for (bad, wanted) in [
            ("http://a", "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"),
            ("https://", "Invalid value: \"\": host must be specified; desired format: https://host[/path]"),
            ("https:///a", "Invalid value: \"\": host must be specified; desired format: https://host[/path]"),
            ("https:a", "Invalid value: \"\": host must be specified; desired format: https://host[/path]"),
            ("https://u:p@a", "Invalid value: \"u:p\": user information is not permitted in the URL"),
            ("https://a#b", "Invalid value: \"b\": fragments are not permitted in the URL"),
            ("https://a/?b=c", "Invalid value: \"b=c\": query parameters are not permitted in the URL"),
            (
                "://a",
                "Required value: url must be a valid URL: parse \"://a\": missing protocol scheme; desired format: https://host[/path]",
            ),
            (
                "https://a:b",
                "Required value: url must be a valid URL: parse \"https://a:b\": invalid port \":b\" after host; desired format: https://host[/path]",
            ),
        ] {
            assert_eq!(url(bad), [format!("webhooks[0].clientConfig.url: {wanted}")]);
        }
        assert_eq!(url("").len(), 2);
        for hostile in ["\n", "https://é@é]:", "https://]", "#", "?", "a:b:c", "1:2", "https://a b", "https://[", "//", "///"] {
            assert!(!url(hostile).is_empty() || hostile.contains(['[', ']']), "{hostile}");
        }
    }

    #[test]
    fn rules() {
        let rule = |part: &str, value: Value| {
            let mut hook = hook();
            hook["rules"][0][part] = value;
            found(validating_webhooks, &json!({"webhooks":[hook]}), None)
        };
        for (part, good) in [
            ("operations", json!(["*"])),
            ("apiGroups", json!(["*"])),
            ("resources", json!(["*/*"])),
            ("resources", json!(["*", "pods/status"])),
            ("resources", json!(["pods/*", "*/scale"])),
            ("scope", json!("*")),
        ] {
            assert_eq!(rule(part, good.clone()), NONE, "{good}");
        }
        for (part, value, wanted) in [
            ("operations", json!([]), "operations: Required value"),
            (
                "operations",
                json!(["*", "CREATE"]),
                "operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "operations",
                json!(["GET"]),
                "operations[0]: Unsupported value: \"GET\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
            ),
            ("apiGroups", json!([]), "apiGroups: Required value"),
            (
                "apiGroups",
                json!(["*", "a"]),
                "apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups",
            ),
            (
                "apiVersions",
                json!(["*", "a"]),
                "apiVersions: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API versions",
            ),
            ("apiVersions", json!([""]), "apiVersions[0]: Required value"),
            ("resources", json!([]), "resources: Required value"),
            ("resources", json!([""]), "resources[0]: Required value"),
            (
                "resources",
                json!(["pods/*", "pods/status"]),
                "resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            ),
            (
                "resources",
                json!(["*/status", "pods/status"]),
                "resources[1]: Invalid value: \"pods/status\": if '*/status' is present, must not specify pods/status",
            ),
            (
                "resources",
                json!(["*/*", "pods"]),
                "resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
            ),
            (
                "resources",
                json!(["*", "pods"]),
                "resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ),
            ("scope", json!("x"), "scope: Unsupported value: \"x\": supported values: \"*\", \"Cluster\", \"Namespaced\""),
        ] {
            assert_eq!(rule(part, value), [format!("webhooks[0].rules[0].{wanted}")]);
        }
    }

    #[test]
    fn conditions() {
        let of = |conditions: Value| json!({"webhooks":[with(hook(), &[("/matchConditions", conditions)])]});
        let check = |conditions: Value| found(validating_webhooks, &of(conditions), None);
        for (conditions, wanted) in [
            (json!([{"name":"a"}]), "[0].expression: Required value"),
            (json!([{"expression":"true"}]), "[0].name: Required value"),
            (json!([{"name":"a","expression":"true"},{"name":"a","expression":"true"}]), "[1].name: Duplicate value: \"a\""),
            (
                json!([{"name":"a","expression":"params.x"}]),
                "[0].expression: Invalid value: \"params.x\": compilation failed: undeclared reference to 'params' (in container '')",
            ),
        ] {
            assert_eq!(check(conditions), [format!("webhooks[0].matchConditions{wanted}")]);
        }
        assert!(check(json!([{"name":"-","expression":"true"}]))[0].contains("name part must consist"));
        assert!(check(json!([{"name":"a","expression":"1 +"}]))[0].contains(": compilation failed: "));
        let many: Vec<Value> = (0..65).map(|i| json!({"name":format!("a{i}"),"expression":"true"})).collect();
        assert_eq!(check(many.into()), ["webhooks[0].matchConditions: Too many: 65: must have at most 64 items"]);
        let bad = of(json!([{"name":"a","expression":"params.x"}]));
        assert_eq!(found(validating_webhooks, &bad, Some(&bad)), NONE, "what was there stays");
    }

    fn constraints() -> Value {
        json!({
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
            "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}],
        })
    }

    fn validating() -> Value {
        json!({"metadata": {"name": "p.example.com"}, "spec": {
            "failurePolicy": "Fail",
            "paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"},
            "matchConstraints": constraints(),
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{
                "expression": "variables.n <= params.max",
                "message": "too many",
                "messageExpression": "'at most ' + string(params.max)",
                "reason": "Invalid",
            }],
            "auditAnnotations": [{"key": "replicas", "valueExpression": "string(variables.n)"}],
        }})
    }

    fn check_policy(changes: &[(&str, Value)]) -> Vec<String> {
        found(validating_policy, &with(validating(), changes), None)
    }

    #[test]
    fn validating_policies() {
        assert_eq!(check_policy(&[]), NONE);
        assert_eq!(check_policy(&[("/spec/validations", json!([])), ("/spec/matchConditions", json!([]))]), NONE);
        let both = check_policy(&[("/spec/validations", json!([])), ("/spec/auditAnnotations", Value::Null)]);
        assert_eq!(
            both,
            ["validations", "auditAnnotations"]
                .map(|f| format!("spec.{f}: Required value: validations or auditAnnotations must be non-empty"))
        );
        let one = |name: &str, value: Value| check_policy(&[(&format!("/spec/{name}"), value)]);
        for (part, value, wanted) in [
            ("failurePolicy", Value::Null, "failurePolicy: Required value"),
            ("failurePolicy", json!("x"), "failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\""),
            ("matchConstraints", Value::Null, "matchConstraints: Required value"),
            ("matchConstraints/resourceRules", json!([]), "matchConstraints.resourceRules: Required value"),
            ("matchConstraints/matchPolicy", Value::Null, "matchConstraints.matchPolicy: Required value"),
            ("matchConstraints/objectSelector", Value::Null, "matchConstraints.objectSelector: Required value"),
            ("paramKind/apiVersion", json!(""), "paramKind.apiVersion: Required value"),
            (
                "paramKind/apiVersion",
                json!("a/b/c"),
                "paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ),
            ("paramKind/apiVersion", json!("a/"), "paramKind.apiVersion: Invalid value: \"a/\": version must be specified"),
            ("paramKind/kind", Value::Null, "paramKind.kind: Required value"),
            ("variables", json!([{"expression":"1"}]), "variables[0].name: Required value: name is not specified"),
            ("variables", json!([{"name":"a"}]), "variables[0].expression: Required value: expression is not specified"),
            (
                "variables",
                json!([{"name":"while","expression":"1"}]),
                "variables[0].name: Invalid value: \"while\": name is not a valid CEL identifier",
            ),
            (
                "variables",
                json!([{"name":"a","expression":"1"},{"name":"a","expression":"1"}]),
                "variables[1].name: Duplicate value: \"a\"",
            ),
            ("validations", json!([{"expression":" "}]), "validations[0].expression: Required value: expression is not specified"),
            (
                "validations",
                json!([{"expression":"true","messageExpression":" "}]),
                "validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
            ),
            (
                "validations",
                json!([{"expression":"true","messageExpression":"authorizer"}]),
                "validations[0].messageExpression: Invalid value: \"authorizer\": compilation failed: undeclared reference to 'authorizer' (in container '')",
            ),
            (
                "validations",
                json!([{"expression":"true","message":"a\nb"}]),
                "validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            ),
            (
                "validations",
                json!([{"expression":"true","message":" "}]),
                "validations[0].message: Invalid value: \" \": message must be non-empty if specified",
            ),
            (
                "validations",
                json!([{"expression":"true","reason":"x"}]),
                "validations[0].reason: Unsupported value: \"x\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ),
            (
                "auditAnnotations",
                json!([{"key":"a"}]),
                "auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
            ),
            (
                "auditAnnotations",
                json!([{"key":"a","valueExpression":"'a'"},{"key":"a","valueExpression":"'a'"}]),
                "auditAnnotations[1].key: Duplicate value: \"a\"",
            ),
            (
                "auditAnnotations",
                json!([{"key":"a","valueExpression":"1".repeat(6000)}]),
                "auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length",
            ),
        ] {
            assert_eq!(one(part, value), [format!("spec.{wanted}")]);
        }
        assert!(one("auditAnnotations", json!([{"key":"-","valueExpression":"'a'"}]))[0].contains("\"p.example.com/-\": name part must"));
        assert!(one("paramKind/kind", json!("A_B"))[0].contains("\"A_B\": may have mixed case, but should otherwise match: a DNS-1035"));
        assert!(one("paramKind", Value::Null)[0].contains("undeclared reference to 'params'"));
        let named = json!([{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"],"resourceNames":["a","a","b/c"]}]);
        assert_eq!(
            one("matchConstraints/excludeResourceRules", named),
            [
                "spec.matchConstraints.excludeResourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                "spec.matchConstraints.excludeResourceRules[0].resourceNames[2]: Invalid value: \"b/c\": may not contain '/'",
            ]
        );
    }

    #[test]
    fn mutating_policies() {
        let good = json!({"spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": constraints(),
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: object.spec.replicas}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b'), value: 'c'}]"}},
            ],
        }});
        let one = |name: &str, value: Value| found(mutating_policy, &with(good.clone(), &[(&format!("/spec/{name}"), value)]), None);
        assert_eq!(found(mutating_policy, &good, None), NONE);
        for (part, value, wanted) in [
            ("reinvocationPolicy", Value::Null, "reinvocationPolicy: Required value"),
            ("reinvocationPolicy", json!("x"), "reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\""),
            ("mutations", json!([]), "mutations: Required value: mutations must contain at least one item"),
            ("mutations", json!([{}]), "mutations[0].patchType: Required value"),
            (
                "mutations",
                json!([{"patchType":"x"}]),
                "mutations[0].patchType: Unsupported value: \"x\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ),
            (
                "mutations",
                json!([{"patchType":"JSONPatch"}]),
                "mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ),
            (
                "mutations",
                json!([{"patchType":"JSONPatch","jsonPatch":{"expression":" "}}]),
                "mutations[0].jsonPatch.expression: Required value",
            ),
            (
                "mutations",
                json!([{"patchType":"JSONPatch","jsonPatch":{"expression":"[]"},"applyConfiguration":{"expression":"x"}}]),
                "mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
            ),
            (
                "mutations",
                json!([{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":"x"}}]),
                "mutations[0].applyConfiguration.expression: Invalid value: \"x\": compilation failed: undeclared reference to 'x' (in container '')",
            ),
            (
                "matchConstraints/resourceRules",
                json!([{"operations":["DELETE"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"]}]),
                "matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ),
        ] {
            assert_eq!(one(part, value), [format!("spec.{wanted}")]);
        }
    }

    #[test]
    fn bindings() {
        let good = json!({"spec": {
            "policyName": "p.example.com",
            "paramRef": {"name": "a", "namespace": "b", "parameterNotFoundAction": "Deny"},
            "matchResources": constraints(),
            "validationActions": ["Deny", "Audit"],
        }});
        let one = |name: &str, value: Value| {
            let changed = with(good.clone(), &[(&format!("/spec/{name}"), value)]);
            found(validating_policy_binding, &changed, None)
        };
        assert_eq!(found(validating_policy_binding, &good, None), NONE);
        assert_eq!(found(mutating_policy_binding, &json!({"spec":{"policyName":"a"}}), None), NONE);
        assert_eq!(found(mutating_policy_binding, &json!({}), None), ["spec.policyName: Required value"]);
        for (part, value, wanted) in [
            ("policyName", json!(""), "policyName: Required value"),
            ("paramRef/parameterNotFoundAction", Value::Null, "paramRef.parameterNotFoundAction: Required value"),
            (
                "paramRef/parameterNotFoundAction",
                json!("x"),
                "paramRef.parameterNotFoundAction: Unsupported value: \"x\": supported values: \"Allow\", \"Deny\"",
            ),
            ("paramRef/name", Value::Null, "paramRef: Required value: one of name or selector must be specified"),
            ("paramRef/name", json!("a/b"), "paramRef.name: Invalid value: \"a/b\": may not contain '/'"),
            ("validationActions", json!([]), "validationActions: Required value"),
            ("validationActions", json!(["Deny", "Deny"]), "validationActions[1]: Duplicate value: \"Deny\""),
            (
                "validationActions",
                json!(["x"]),
                "validationActions[0]: Unsupported value: \"x\": supported values: \"Audit\", \"Deny\", \"Warn\"",
            ),
            ("matchResources/matchPolicy", Value::Null, "matchResouces.matchPolicy: Required value"),
        ] {
            assert_eq!(one(part, value), [format!("spec.{wanted}")]);
        }
        assert!(one("policyName", json!("A"))[0].contains("a lowercase RFC 1123 subdomain"));
        assert!(one("validationActions", json!(["Deny", "Warn"]))[0].contains("must not contain both Deny and Warn"));
        assert_eq!(
            one("paramRef/selector", json!({})),
            ["name", "selector"].map(|part| format!("spec.paramRef.{part}: Forbidden: name and selector are mutually exclusive"))
        );
    }

    #[test]
    fn nothing_panics_on_odd_objects() {
        let odd = [json!(null), json!([]), json!({"webhooks":[null, 1, {"clientConfig":{"url":1}}]}), json!({"spec":[1]})];
        for object in &odd {
            for rule in [mutating_webhooks, validating_webhooks, validating_policy, mutating_policy] {
                found(rule, object, Some(object));
            }
            for rule in [validating_policy_binding, mutating_policy_binding] {
                assert!(!found(rule, object, None).is_empty());
            }
        }
    }
}
