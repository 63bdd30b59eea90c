//! Pod templates: equality that ignores the hash label, and the hash that names a ReplicaSet.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label that keeps the ReplicaSets of one Deployment apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// No vowels and no look-alikes, so that no word can come out.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Maps of text, where empty means the same as absent.
const MAPS: &[&str] = &["labels", "annotations", "limits", "requests", "nodeSelector", "matchLabels"];

/// Nothing, an empty list and an empty map mean the same.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.sort_keys();
            map.values_mut().for_each(normalise);
            map.retain(|name, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(inner) => !(inner.is_empty() && MAPS.contains(&name.as_str())),
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(normalise),
        _ => {}
    }
}

fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(Value::Object(labels)) = value.pointer_mut("/metadata/labels") {
        labels.remove(POD_TEMPLATE_HASH);
    }
    normalise(&mut value);
    value
}

/// Whether two templates make the same pods.
pub fn equal_ignore_hash(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    canonical(a) == canonical(b)
}

/// A short stable name for a template: up to ten characters that are safe in names and labels.
pub fn hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let mut fnv = Fnv32(0x811c_9dc5);
    // The canonical form is sorted by key, so that the hash is the same in every process.
    fnv.write(canonical(template).to_string().as_bytes());
    if let Some(count) = collision_count {
        fnv.write(&count.to_le_bytes());
    }
    fnv.0.to_string().bytes().map(|b| SAFE[usize::from(b) % SAFE.len()] as char).collect()
}

struct Fnv32(u32);

impl Fnv32 {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_hash_label_and_empty_maps_do_not_count() {
        let a = template(json!({"metadata":{"labels":{"app":"a"},"annotations":{}},"spec":{"containers":[{"name":"c","image":"i"}]}}));
        let b = template(
            json!({"metadata":{"labels":{"app":"a",POD_TEMPLATE_HASH:"x"}},"spec":{"containers":[{"name":"c","image":"i","env":[]}]}}),
        );
        let c = template(json!({"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"j"}]}}));
        assert!(equal_ignore_hash(&a, &b));
        assert!(!equal_ignore_hash(&a, &c));
        assert_eq!(hash(&a, None), hash(&b, None));
        assert_ne!(hash(&a, None), hash(&c, None));
        assert_ne!(hash(&a, None), hash(&a, Some(1)));
    }

    #[test]
    fn an_empty_volume_source_counts() {
        let a = template(json!({"spec":{"containers":[],"volumes":[{"name":"v","emptyDir":{}}]}}));
        let b = template(json!({"spec":{"containers":[],"volumes":[{"name":"v"}]}}));
        assert!(!equal_ignore_hash(&a, &b));
    }

    #[test]
    fn the_hash_is_safe_in_names_and_never_changes() {
        let a = template(json!({"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}));
        let hash = hash(&a, None);
        assert!((1..=10).contains(&hash.len()) && hash.bytes().all(|b| SAFE.contains(&b)), "{hash}");
    }
}
