//! networking.k8s.io: addresses of Services, and the ranges they are from.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::metadata::{path_segment, subdomain};
use super::{Causes, immutable, invalid, required};
use crate::resources::value::{at, items, text};
use crate::rest::status::cause;

const PARENT: &str = "spec.parentRef";
const CIDRS: &str = "spec.cidrs";
const IMMUTABLE: &str = "field is immutable";

/// Addresses that are given out.
pub(crate) fn ip_address(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let parent = at(new, &["spec", "parentRef"]);
    if let Some(old) = old {
        if parent != at(old, &["spec", "parentRef"]) {
            causes.push(cause("FieldValueInvalid", format!("Invalid value: {}: {IMMUTABLE}", shown(parent)), PARENT));
        }
        return;
    }
    let Some(parent) = parent else { return required(causes, PARENT, "") };
    let group = text(parent, &["group"]);
    if let Some(why) = subdomain(group).filter(|_| !group.is_empty()) {
        invalid(causes, &format!("{PARENT}.group"), &group.into(), why);
    }
    for part in ["resource", "name", "namespace"] {
        let (field, value) = (format!("{PARENT}.{part}"), text(parent, &[part]));
        if value.is_empty() {
            if part != "namespace" {
                required(causes, &field, "");
            }
        } else if let Some(why) = path_segment(value) {
            invalid(causes, &field, &value.into(), why);
        }
    }
}

/// A parent as Kubernetes shows it: by the names and in the order of its internal type.
fn shown(parent: Option<&Value>) -> String {
    let Some(parent) = parent else { return "null".into() };
    let part = |shown: &str, name: &str| format!("\"{shown}\":{}", json!(text(parent, &[name])));
    let parts = [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")];
    format!("{{{}}}", parts.map(|(shown, name)| part(shown, name)).join(","))
}

/// Ranges that addresses are from.
pub(crate) fn service_cidr(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let list = items(new, &["spec", "cidrs"]);
    let Some(old) = old else { return ranges(list, causes) };
    let before = items(old, &["spec", "cidrs"]);
    // One may come beside the first: a cluster becomes one of both families.
    let grows = before.len() == 1 && list.len() == 2;
    if before.len() != list.len() && !grows {
        return invalid(causes, CIDRS, &list.into(), IMMUTABLE);
    }
    for (i, (was, is)) in before.iter().zip(list).enumerate() {
        immutable(causes, &format!("{CIDRS}[{i}]"), Some(is), Some(was));
    }
    if grows {
        ranges(list, causes);
    }
}

fn ranges(list: &[Value], causes: &mut Causes) {
    if list.is_empty() {
        return required(causes, CIDRS, "at least one CIDR required");
    }
    if list.len() > 2 {
        return invalid(causes, CIDRS, &json!({"CIDRs": list}), "may only hold up to 2 values");
    }
    for (i, range) in list.iter().enumerate() {
        if let Err(why) = cidr(range.as_str().unwrap_or_default()) {
            invalid(causes, &format!("{CIDRS}[{i}]"), range, &why);
        }
    }
    let is_v4 = |range: &Value| range.as_str().and_then(|r| r.parse::<IpNet>().ok()).map(|r| matches!(r, IpNet::V4(_)));
    if let [first, second] = list
        && is_v4(first).is_some()
        && is_v4(first) == is_v4(second)
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        invalid(causes, CIDRS, &list.into(), why);
    }
}

/// Whether a range is one, in the form that Kubernetes writes it.
fn cidr(value: &str) -> Result<(), String> {
    let plain = without_zeros(value);
    let Ok(range) = plain.parse::<IpNet>() else {
        return Err("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into());
    };
    if plain != value {
        return Err("must not have leading 0s in IP or prefix length".into());
    }
    if matches!(range, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some()) {
        return Err("must not have an IPv4-mapped IPv6 address".into());
    }
    if range.addr() != range.network() {
        return Err("must not have bits set beyond the prefix length".into());
    }
    let canonical = range.to_string();
    if canonical == value { Ok(()) } else { Err(format!("must be in canonical form (\"{canonical}\")")) }
}

/// A range without the zeros that may make an octet octal.
fn without_zeros(value: &str) -> String {
    let plain = |digits: &str| match digits.trim_start_matches('0') {
        "" if !digits.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let Some((address, length)) = value.split_once('/') else { return value.to_owned() };
    let address = if address.contains(':') { address.to_owned() } else { address.split('.').map(plain).collect::<Vec<_>>().join(".") };
    format!("{address}/{}", plain(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::testing::found;

    fn of(list: Value) -> Value {
        json!({"spec":{"cidrs":list}})
    }

    #[test]
    fn parents_of_addresses() {
        let parent = |parent: Value| json!({"spec":{"parentRef":parent}});
        let good = parent(json!({"resource":"services","namespace":"n","name":"a"}));
        assert!(found(ip_address, &good, None).is_empty() && found(ip_address, &good, Some(&good)).is_empty());
        assert_eq!(found(ip_address, &json!({}), None), ["spec.parentRef: Required value"]);
        assert_eq!(found(ip_address, &parent(json!({"name":"a"})), None), ["spec.parentRef.resource: Required value"]);
        assert_eq!(
            found(ip_address, &parent(json!({"resource":"r","name":"a/b"})), None),
            ["spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'"]
        );
        assert!(found(ip_address, &parent(json!({"group":"A","resource":"r","name":"a"})), None)[0].starts_with("spec.parentRef.group: "));
        assert_eq!(
            found(ip_address, &parent(json!({"resource":"services","name":"b"})), Some(&good)),
            [
                "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"services\",\"Namespace\":\"\",\"Name\":\"b\"}: field is immutable"
            ]
        );
    }

    #[test]
    fn ranges_are_written_in_one_form() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/64", "::/0"] {
            assert_eq!(cidr(good), Ok(()), "{good}");
        }
        for (range, wanted) in [
            ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0/", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("2001:DB8::/64", "must be in canonical form (\"2001:db8::/64\")"),
        ] {
            assert_eq!(cidr(range), Err(wanted.to_owned()), "{range}");
        }
    }

    #[test]
    fn ranges_of_services() {
        let (v4, v6) = ("10.0.0.0/16", "2001:db8::/64");
        let one = of(json!([v4]));
        assert!(found(service_cidr, &one, None).is_empty() && found(service_cidr, &of(json!([v4, v6])), Some(&one)).is_empty());
        assert_eq!(found(service_cidr, &json!({}), None), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert_eq!(
            found(service_cidr, &of(json!(["a", "b", "c"])), None),
            ["spec.cidrs: Invalid value: {\"CIDRs\":[\"a\",\"b\",\"c\"]}: may only hold up to 2 values"]
        );
        assert_eq!(found(service_cidr, &of(json!(["a", "b"])), None).len(), 2, "what is no range has no family");
        let twice = "spec.cidrs: Invalid value: [\"10.0.0.0/16\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        assert_eq!(found(service_cidr, &of(json!([v4, "10.1.0.0/16"])), None), [twice]);
        assert_eq!(found(service_cidr, &of(json!([v4, "10.1.0.0/16"])), Some(&one)), [twice]);
        assert_eq!(
            found(service_cidr, &of(json!(["10.1.0.0/16"])), Some(&one)),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
        assert_eq!(found(service_cidr, &of(json!([])), Some(&one)), ["spec.cidrs: Invalid value: []: field is immutable"]);
    }
}
