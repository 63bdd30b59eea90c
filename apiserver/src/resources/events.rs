//! Events of `v1` and of `events.k8s.io/v1`: one storage, two shapes.

use serde_json::Value;

use super::value::as_map;

/// Names in `v1`, and in `events.k8s.io/v1`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(mut value: Value, api_version: &str, names: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    let map = as_map(&mut value);
    for (from, to) in names {
        if let Some(found) = map.remove(from) {
            map.insert(to.to_owned(), found);
        }
    }
    map.insert("apiVersion".into(), api_version.into());
    value
}

/// A stored event as `events.k8s.io/v1`.
pub(crate) fn serve(value: Value) -> Value {
    rename(value, "events.k8s.io/v1", NAMES.iter().copied())
}

/// An event of `events.k8s.io/v1` as it is stored.
pub(crate) fn store(value: Value) -> Value {
    rename(value, "v1", NAMES.iter().map(|(old, new)| (*new, *old)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let new = json!({"apiVersion":"events.k8s.io/v1","kind":"Event","note":"n","regarding":{"name":"a"},"reportingController":"c","reason":"r"});
        let stored = store(new.clone());
        assert_eq!(stored["involvedObject"]["name"], "a");
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(serve(stored), new);
    }
}
