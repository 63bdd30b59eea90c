//! Endpoints: addresses behind a Service, the older way.

use std::net::IpAddr;

use serde_json::Value;
use wharf_core::selector::is_qualified_name;

use super::metadata::{QUALIFIED, label_1123, subdomain};
use super::{ADDRESS, Causes, invalid, one_of, required};
use crate::resources::value::{at, items, number, text};

/// Endpoints.
pub(crate) fn endpoints(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let subsets = at(new, &["subsets"]);
    // What was there before is not judged again.
    if old.is_some_and(|old| at(old, &["subsets"]) == subsets) {
        return;
    }
    for (i, subset) in items(new, &["subsets"]).iter().enumerate() {
        let here = format!("subsets[{i}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(subset, &[list]).is_empty()) {
            required(causes, &here, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            for (j, address) in items(subset, &[list]).iter().enumerate() {
                endpoint(address, &format!("{here}.{list}[{j}]"), causes);
            }
        }
        let ports = items(subset, &["ports"]);
        for (j, port) in ports.iter().enumerate() {
            endpoint_port(port, ports.len() > 1, &format!("{here}.ports[{j}]"), causes);
        }
    }
}

fn endpoint(address: &Value, here: &str, causes: &mut Causes) {
    let ip = text(address, &["ip"]);
    if let Some(why) = not_special(ip) {
        invalid(causes, &format!("{here}.ip"), &ip.into(), &why);
    }
    let hostname = text(address, &["hostname"]);
    if let Some(why) = label_1123(hostname).filter(|_| !hostname.is_empty()) {
        invalid(causes, &format!("{here}.hostname"), &hostname.into(), why);
    }
    if let Some(node) = at(address, &["nodeName"])
        && let Some(why) = subdomain(node.as_str().unwrap_or_default())
    {
        invalid(causes, &format!("{here}.nodeName"), node, why);
    }
}

/// Why an address cannot be one of a pod: traffic to it would stay on a node, or in its network.
pub(super) fn not_special(ip: &str) -> Option<String> {
    let Ok(address) = ip.parse::<IpAddr>() else {
        return Some(ADDRESS.into());
    };
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    match () {
        () if address.is_unspecified() => Some(format!("may not be unspecified ({ip})")),
        () if address.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".into()),
        () if link_local => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into()),
        () if multicast => Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into()),
        () => None,
    }
}

fn endpoint_port(port: &Value, named: bool, here: &str, causes: &mut Causes) {
    let name = text(port, &["name"]);
    if name.is_empty() {
        if named {
            required(causes, &format!("{here}.name"), "");
        }
    } else if let Some(why) = label_1123(name) {
        invalid(causes, &format!("{here}.name"), &name.into(), why);
    }
    let number = number(port, &["port"]).unwrap_or(0);
    if !(1..=65535).contains(&number) {
        invalid(causes, &format!("{here}.port"), &number.into(), "must be between 1 and 65535, inclusive");
    }
    let field = format!("{here}.protocol");
    match text(port, &["protocol"]) {
        "" => required(causes, &field, ""),
        _ => one_of(causes, &field, port.get("protocol"), &["SCTP", "TCP", "UDP"]),
    }
    if let Some(protocol) = at(port, &["appProtocol"]).filter(|p| !is_qualified_name(p.as_str().unwrap_or_default())) {
        invalid(causes, &format!("{here}.appProtocol"), protocol, QUALIFIED);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::found;

    fn of(subset: Value) -> Value {
        json!({"subsets":[subset]})
    }

    #[test]
    fn subsets() {
        let good = of(json!({"addresses":[{"ip":"10.0.0.1","hostname":"a","nodeName":"n"}],"ports":[{"port":80,"protocol":"TCP"}]}));
        assert_eq!(found(endpoints, &good, None), Vec::<String>::new());
        let bad = of(json!({"notReadyAddresses":[{"ip":"127.0.0.1","hostname":"A"}],
            "ports":[{"port":0,"protocol":"TCP"},{"name":"b","port":1,"protocol":"X","appProtocol":"a b"}]}));
        let wanted = [
            "subsets[0].notReadyAddresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "subsets[0].ports[0].name: Required value",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ];
        let all = found(endpoints, &bad, None);
        for line in wanted {
            assert!(all.iter().any(|l| l == line), "{line}: {all:?}");
        }
        assert_eq!(all.len(), wanted.len() + 2, "hostname and appProtocol: {all:?}");
        assert_eq!(found(endpoints, &bad, Some(&bad)), Vec::<String>::new());
        assert_eq!(found(endpoints, &of(json!({})), None), ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]);
    }

    #[test]
    fn addresses_that_are_no_pods() {
        for good in ["10.0.0.1", "2001:db8::1", "224.0.1.1"] {
            assert_eq!(not_special(good), None, "{good}");
        }
        for bad in ["", "a", "0.0.0.0", "::", "::1", "127.8.8.8", "169.254.1.1", "fe80::1", "224.0.0.9", "ff02::1"] {
            assert!(not_special(bad).is_some(), "{bad}");
        }
    }
}
