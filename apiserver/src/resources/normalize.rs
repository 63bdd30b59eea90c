//! From JSON to a type and back: drops what the type lacks and finds values of a wrong type.

use serde_json::Value;
use wharf_core::api::Kind;

/// Most unknown fields that are reported.
const MAX_UNKNOWN: usize = 64;

/// Reads a value as `K` and writes it back.
pub(super) fn through<K: Kind>(value: Value, unknown: &mut dyn FnMut(String)) -> Result<Value, String> {
    let typed: K = read(value, unknown).map_err(|e| e.to_string())?;
    serde_json::to_value(&typed).map_err(|e| e.to_string())
}

fn read<K: Kind>(value: Value, unknown: &mut dyn FnMut(String)) -> serde_json::Result<K> {
    let mut tell = teller(unknown);
    // A closure's own type would differ for each kind, and with it all code that reads PodSpec, ObjectMeta and the rest:
    // one type for all keeps the program small.
    let tell: &mut dyn FnMut(serde_ignored::Path<'_>) = &mut tell;
    serde_ignored::deserialize(value, tell)
}

fn teller(unknown: &mut dyn FnMut(String)) -> impl FnMut(serde_ignored::Path<'_>) {
    let mut count = 0;
    move |path| {
        count += 1;
        if count <= MAX_UNKNOWN {
            unknown(kubernetes_path(&path.to_string()));
        }
    }
}

/// `spec.?.containers.?.0.foo` as `spec.containers[0].foo`.
fn kubernetes_path(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('.').filter(|p| *p != "?" && !p.is_empty()) {
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn finds_unknown_fields_by_kubernetes_path() {
        let pod =
            json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","x":1},"spec":{"foo":1,"containers":[{"name":"a","bar":2}]}});
        let mut unknown = Vec::new();
        let value = through::<Pod>(pod, &mut |p| unknown.push(p)).unwrap();
        unknown.sort();
        assert_eq!(unknown, ["metadata.x", "spec.containers[0].bar", "spec.foo"]);
        assert!(value["spec"].get("foo").is_none());
        assert_eq!(value["kind"], "Pod");
    }

    #[test]
    fn refuses_wrong_types() {
        let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":1}});
        assert!(through::<Pod>(pod, &mut |_| {}).is_err());
    }
}
