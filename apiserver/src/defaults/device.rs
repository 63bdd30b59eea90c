//! Defaults of drivers and of claims to devices.

use serde_json::{Map, Value, json};

use crate::resources::value::{default, default_text, each_in, object};

/// CSI drivers.
pub(crate) fn csi_driver(v: &mut Value) {
    let spec = object(v, &["spec"]);
    default(spec, "attachRequired", true);
    for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        default(spec, name, false);
    }
    default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
}

fn request(map: &mut Map<String, Value>) {
    default_text(map, "allocationMode", "ExactCount");
    if map.get("allocationMode").is_some_and(|m| m == "ExactCount") && map.get("count").and_then(Value::as_i64).unwrap_or(0) == 0 {
        map.insert("count".into(), 1.into());
    }
}

fn claim_spec(spec: &mut Map<String, Value>) {
    if let Some(Value::Object(devices)) = spec.get_mut("devices") {
        each_in(devices, "requests", |wanted| {
            if let Some(Value::Object(exactly)) = wanted.get_mut("exactly") {
                request(exactly);
            }
            each_in(wanted, "firstAvailable", request);
        });
    }
}

/// Claims to devices.
pub(crate) fn resource_claim(v: &mut Value) {
    claim_spec(object(v, &["spec"]));
}

/// Templates of claims.
pub(crate) fn resource_claim_template(v: &mut Value) {
    claim_spec(object(v, &["spec", "spec"]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_unless_more_are_asked_for() {
        let requests =
            json!([{"name":"a","exactly":{"deviceClassName":"c"}},{"name":"b","firstAvailable":[{"allocationMode":"All"},{"count":2}]}]);
        let mut v = json!({"spec":{"spec":{"devices":{"requests":requests}}}});
        resource_claim_template(&mut v);
        let requests = &v["spec"]["spec"]["devices"]["requests"];
        assert_eq!(requests[0]["exactly"], json!({"deviceClassName":"c","allocationMode":"ExactCount","count":1}));
        assert_eq!(requests[1]["firstAvailable"], json!([{"allocationMode":"All"},{"allocationMode":"ExactCount","count":2}]));
    }

    #[test]
    fn drivers() {
        let mut v = json!({"spec":{"attachRequired":false}});
        csi_driver(&mut v);
        let spec = json!({"attachRequired":false,"podInfoOnMount":false,"storageCapacity":false,"requiresRepublish":false,
            "seLinuxMount":false,"fsGroupPolicy":"ReadWriteOnceWithFSType","volumeLifecycleModes":["Persistent"]});
        assert_eq!(v["spec"], spec);
    }
}
