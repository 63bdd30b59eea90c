//! Names, labels, annotations and what else every object has.

use serde_json::Value;
use wharf_core::selector::{is_dns_subdomain, is_label_value, is_qualified_name};

use super::{Causes, immutable, invalid, required};
use crate::resources::Resource;
use crate::resources::value::{at, items, text};

/// Longest annotations together, in bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
pub(super) const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
pub(super) const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// What is wrong with a label in the sense of RFC 1123.
pub(super) fn label_1123(name: &str) -> Option<&'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.len() > 63 {
        return Some("must be no more than 63 characters");
    }
    let good = !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-');
    (!good).then_some(LABEL)
}

pub(crate) fn label_1035(name: &str) -> Option<&'static str> {
    if name.len() > 63 {
        return Some("must be no more than 63 characters");
    }
    (label_1123(name).is_some() || !name.starts_with(|c: char| c.is_ascii_lowercase())).then_some(LABEL_1035)
}

/// What is wrong with a subdomain in the sense of RFC 1123.
pub(crate) fn subdomain(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    (!is_dns_subdomain(name)).then_some(SUBDOMAIN)
}

pub(super) fn path_segment(name: &str) -> Option<&'static str> {
    match name {
        "." => Some("may not be '.'"),
        ".." => Some("may not be '..'"),
        name if name.contains('/') => Some("may not contain '/'"),
        name if name.contains('%') => Some("may not contain '%'"),
        _ => None,
    }
}

fn address(name: &str) -> Option<&'static str> {
    name.parse::<std::net::IpAddr>().is_err().then_some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
}

fn name_rule(row: &Resource) -> fn(&str) -> Option<&'static str> {
    match (&*row.group, &*row.plural) {
        ("", "services") => label_1035,
        ("", "namespaces") => label_1123,
        ("rbac.authorization.k8s.io" | "apiregistration.k8s.io", _) => path_segment,
        ("networking.k8s.io", "ipaddresses") => address,
        _ => subdomain,
    }
}

/// Labels, wherever they are.
pub(crate) fn labels(labels: Option<&Value>, field: &str, causes: &mut Causes) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if !is_qualified_name(key) {
            invalid(causes, field, &key.as_str().into(), QUALIFIED);
        }
        if !value.as_str().is_some_and(|v| v.len() <= 63 && is_label_value(v)) {
            let long = value.as_str().is_some_and(|v| v.len() > 63);
            invalid(causes, field, value, if long { "must be no more than 63 bytes" } else { LABEL_VALUE });
        }
    }
}

/// Annotations, wherever they are.
pub(crate) fn annotations(annotations: Option<&Value>, field: &str, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        if !is_qualified_name(&key.to_lowercase()) {
            invalid(causes, field, &key.as_str().into(), QUALIFIED);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        super::too_long(causes, field, MAX_ANNOTATIONS);
    }
}

/// The metadata of an object.
pub(crate) fn metadata(row: &Resource, new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let name = text(new, &["metadata", "name"]);
    if name.is_empty() {
        required(causes, "metadata.name", "name or generateName is required");
    } else if let Some(why) = name_rule(row)(name).or_else(|| path_segment(name)) {
        invalid(causes, "metadata.name", &name.into(), why);
    }
    labels(at(new, &["metadata", "labels"]), "metadata.labels", causes);
    annotations(at(new, &["metadata", "annotations"]), "metadata.annotations", causes);
    let mut controllers = 0;
    for (i, owner) in items(new, &["metadata", "ownerReferences"]).iter().enumerate() {
        for part in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[part]).is_empty() {
                invalid(causes, &format!("metadata.ownerReferences[{i}].{part}"), &"".into(), &format!("{part} must not be empty"));
            }
        }
        controllers += usize::from(at(owner, &["controller"]) == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        let why = "Only one reference can have Controller set to true";
        invalid(causes, "metadata.ownerReferences", &at(new, &["metadata", "ownerReferences"]).cloned().unwrap_or_default(), why);
    }
    for finalizer in items(new, &["metadata", "finalizers"]) {
        if !finalizer.as_str().is_some_and(is_qualified_name) {
            invalid(causes, "metadata.finalizers", finalizer, QUALIFIED);
        }
    }
    let Some(old) = old else { return };
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        immutable(causes, &format!("metadata.{field}"), at(new, &["metadata", field]), at(old, &["metadata", field]));
    }
    // What is going gets no new holders, but for the two that deletion itself puts there.
    if at(old, &["metadata", "deletionTimestamp"]).is_some() {
        let before = items(old, &["metadata", "finalizers"]);
        let added = |f: &&Value| !before.contains(f);
        let fresh: Vec<Value> = items(new, &["metadata", "finalizers"]).iter().filter(added).cloned().collect();
        if !fresh.is_empty() {
            super::forbidden(
                causes,
                "metadata.finalizers",
                &format!("no new finalizers can be added if the object is being deleted, found new finalizers {}", Value::from(fresh)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(label_1123("a-1").is_none() && label_1123("A").is_some() && label_1123("-a").is_some());
        assert!(label_1035("a-1").is_none() && label_1035("1a").is_some());
        assert!(subdomain("a.b").is_none() && subdomain("a_b").is_some() && subdomain("").is_some());
        assert!(address("10.0.0.1").is_none() && address("2001:db8::1").is_none() && address("a").is_some());
    }
}
