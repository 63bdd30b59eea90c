//! Claims, volumes, and the kinds of storage.k8s.io.

use std::collections::HashSet;

use serde_json::Value;
use wharf_core::quantity::Quantity;
use wharf_core::selector::is_qualified_name;

use super::affinity::node_selector;
use super::metadata::{QUALIFIED, subdomain};
use super::pod::amount;
use super::selector::label_selector;
use super::{Causes, duplicate, forbidden, immutable, invalid, not_negative, one_of, required, too_long, unsupported};
use crate::resources::value::{as_map, at, items, number, text};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const BOUND_CLAIMS: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
/// Where a volume can be from, in its spec.
const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 << 10;
const MAX_DRIVER_NAME: usize = 63;
const MAX_NODE_ID: usize = 256;

fn access_modes(spec: &Value, missing: &str, causes: &mut Causes) {
    let modes = items(spec, &["accessModes"]);
    if modes.is_empty() {
        required(causes, "spec.accessModes", missing);
    }
    for mode in modes.iter().filter(|mode| !mode.as_str().is_some_and(|m| MODES.contains(&m))) {
        unsupported(causes, "spec.accessModes", mode, MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        forbidden(causes, "spec.accessModes", "may not use ReadWriteOncePod with other access modes");
    }
}

fn class_name(spec: &Value, field: &str, causes: &mut Causes) {
    let name = text(spec, &[field]);
    if let Some(why) = subdomain(name).filter(|_| !name.is_empty()) {
        invalid(causes, &format!("spec.{field}"), &name.into(), why);
    }
}

/// An amount that is more than none.
fn positive(value: &Value, field: &str, causes: &mut Causes) {
    match amount(value) {
        Err(why) => invalid(causes, field, value, &why),
        Ok(found) if found.is_zero() || found.is_negative() => invalid(causes, field, value, "must be greater than zero"),
        Ok(_) => {}
    }
}

/// Claims.
pub(crate) fn persistent_volume_claim(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    access_modes(spec, "at least 1 access mode is required", causes);
    label_selector(at(spec, &["selector"]), "spec.selector", causes);
    match at(spec, &["resources", "requests", "storage"]) {
        None => required(causes, "spec.resources[storage]", ""),
        Some(size) => positive(size, "spec.resources[storage]", causes),
    }
    class_name(spec, "storageClassName", causes);
    class_name(spec, "volumeAttributesClassName", causes);
    one_of(causes, "spec.volumeMode", at(spec, &["volumeMode"]), VOLUME_MODES);
    for field in ["dataSource", "dataSourceRef"] {
        let Some(source) = at(spec, &[field]) else { continue };
        for name in ["name", "kind"] {
            if text(source, &[name]).is_empty() {
                required(causes, &format!("spec.{field}.{name}"), "");
            }
        }
        let kind = text(source, &["kind"]);
        if text(source, &["apiGroup"]).is_empty() && !kind.is_empty() && kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            invalid(causes, &format!("spec.{field}"), &kind.into(), why);
        }
    }
    if let Some(old) = old {
        claim_change(spec, new, old, causes);
    }
}

fn claim_change(spec: &Value, new: &Value, old: &Value, causes: &mut Causes) {
    let before = old.get("spec").unwrap_or(&Value::Null);
    let (mut was, mut is) = (before.clone(), spec.clone());
    let mut may_change = |path: &[&str]| {
        for part in [&mut was, &mut is] {
            let mut parent = part;
            for step in &path[..path.len() - 1] {
                parent = as_map(parent).entry(*step).or_insert_with(|| Value::Object(serde_json::Map::new()));
            }
            as_map(parent).remove(path[path.len() - 1]);
        }
    };
    if text(before, &["volumeName"]).is_empty() {
        may_change(&["volumeName"]);
    }
    // A claim from before there was a default class may get it.
    let beta = "volume.beta.kubernetes.io/storage-class";
    if at(before, &["storageClassName"]).is_none() && at(old, &["metadata", "annotations", beta]).is_none() {
        may_change(&["storageClassName"]);
    }
    if text(new, &["status", "phase"]) == "Bound" {
        may_change(&["resources", "requests", "storage"]);
        may_change(&["volumeAttributesClassName"]);
    }
    if was != is {
        forbidden(causes, "spec", BOUND_CLAIMS);
    }
    let size = |v: &Value, path: &[&str]| at(v, path).and_then(|v| amount(v).ok()).unwrap_or(Quantity::ZERO);
    let request = ["resources", "requests", "storage"];
    let now = size(spec, &request);
    if now < size(before, &request) && now <= size(old, &["status", "capacity", "storage"]) {
        forbidden(causes, "spec.resources.requests.storage", "field can not be less than status.capacity");
    }
    immutable(causes, "volumeMode", at(spec, &["volumeMode"]), at(before, &["volumeMode"]));
}

/// Volumes.
pub(crate) fn persistent_volume(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    access_modes(spec, "", causes);
    match at(spec, &["capacity"]).and_then(Value::as_object).filter(|c| !c.is_empty()) {
        None => required(causes, "spec.capacity", ""),
        Some(capacity) => {
            if capacity.len() > 1 || !capacity.contains_key("storage") {
                unsupported(causes, "spec.capacity", &Value::Object(capacity.clone()), &["storage"]);
            }
            for (name, size) in capacity {
                positive(size, &format!("spec.capacity[{name}]"), causes);
            }
        }
    }
    let reclaim = at(spec, &["persistentVolumeReclaimPolicy"]);
    one_of(causes, "spec.persistentVolumeReclaimPolicy", reclaim, &["Delete", "Recycle", "Retain"]);
    let affinity = at(spec, &["nodeAffinity"]);
    if let Some(affinity) = affinity {
        match at(affinity, &["required"]) {
            None => required(causes, "spec.nodeAffinity.required", "must specify required node constraints"),
            Some(needed) => node_selector(needed, "spec.nodeAffinity.required", causes),
        }
    }
    let mut sources = SOURCES.iter().filter(|source| at(spec, &[source]).is_some());
    match sources.next() {
        None => required(causes, "spec", "must specify a volume type"),
        Some(&"local") if affinity.is_none() => required(causes, "spec.nodeAffinity", "Local volume requires node affinity"),
        Some(&"hostPath") if reclaim.is_some_and(|r| r == "Recycle") && text(spec, &["hostPath", "path"]) == "/" => {
            forbidden(causes, "spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'");
        }
        Some(_) => {}
    }
    for more in sources {
        forbidden(causes, &format!("spec.{more}"), "may not specify more than 1 volume type");
    }
    class_name(spec, "storageClassName", causes);
    one_of(causes, "spec.volumeMode", at(spec, &["volumeMode"]), VOLUME_MODES);
    if let Some(old) = old {
        let before = old.get("spec").unwrap_or(&Value::Null);
        if SOURCES.iter().any(|source| at(spec, &[source]) != at(before, &[source])) {
            forbidden(causes, "spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
        }
        immutable(causes, "volumeMode", at(spec, &["volumeMode"]), at(before, &["volumeMode"]));
        if let Some(was) = at(before, &["nodeAffinity"]) {
            immutable(causes, "spec.nodeAffinity", affinity, Some(was));
        }
    }
}

fn parameters(new: &Value, causes: &mut Causes) {
    let all = at(new, &["parameters"]).and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in all.into_iter().flatten() {
        if key.is_empty() {
            invalid(causes, "parameters", &"".into(), "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if all.is_some_and(|all| all.len() > MAX_PARAMETERS) {
        too_long(causes, "parameters", MAX_PARAMETERS);
    }
    if size > MAX_PARAMETERS_SIZE {
        too_long(causes, "parameters", MAX_PARAMETERS_SIZE);
    }
}

fn fixed(names: &[&str], new: &Value, old: &Value, causes: &mut Causes) {
    for name in names.iter().filter(|name| at(new, &[name]) != at(old, &[name])) {
        forbidden(causes, name, &format!("updates to {name} are forbidden."));
    }
}

/// Storage classes.
pub(crate) fn storage_class(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    if let Some(old) = old {
        fixed(&["parameters", "provisioner", "reclaimPolicy"], new, old, causes);
        return immutable(causes, "volumeBindingMode", at(new, &["volumeBindingMode"]), at(old, &["volumeBindingMode"]));
    }
    let provisioner = text(new, &["provisioner"]);
    if provisioner.is_empty() {
        required(causes, "provisioner", "");
    } else if !is_qualified_name(&provisioner.to_lowercase()) {
        invalid(causes, "provisioner", &provisioner.into(), QUALIFIED);
    }
    parameters(new, causes);
    one_of(causes, "reclaimPolicy", at(new, &["reclaimPolicy"]), &["Delete", "Retain"]);
    match at(new, &["volumeBindingMode"]) {
        None => required(causes, "volumeBindingMode", ""),
        mode => one_of(causes, "volumeBindingMode", mode, &["Immediate", "WaitForFirstConsumer"]),
    }
    for (i, term) in items(new, &["allowedTopologies"]).iter().enumerate() {
        let mut keys = HashSet::new();
        for (j, requirement) in items(term, &["matchLabelExpressions"]).iter().enumerate() {
            let here = format!("allowedTopologies[{i}].matchLabelExpressions[{j}]");
            let key = text(requirement, &["key"]);
            if !is_qualified_name(key) {
                invalid(causes, &format!("{here}.key"), &key.into(), QUALIFIED);
            }
            if !keys.insert(key) {
                duplicate(causes, &format!("{here}.key"), &key.into());
            }
            if items(requirement, &["values"]).is_empty() {
                required(causes, &format!("{here}.values"), "");
            }
        }
    }
}

fn driver_name(name: &str, field: &str, causes: &mut Causes) {
    if name.is_empty() {
        return required(causes, field, "");
    }
    if name.len() > MAX_DRIVER_NAME {
        too_long(causes, field, MAX_DRIVER_NAME);
    }
    if let Some(why) = subdomain(&name.to_lowercase()) {
        invalid(causes, field, &name.into(), why);
    }
}

/// Drivers.
pub(crate) fn csi_driver(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    driver_name(text(new, &["metadata", "name"]), "metadata.name", causes);
    for needed in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if at(spec, &[needed]).is_none() {
            required(causes, &format!("spec.{needed}"), "");
        }
    }
    let policies = &["File", "None", "ReadWriteOnceWithFSType"];
    one_of(causes, "spec.fsGroupPolicy", at(spec, &["fsGroupPolicy"]), policies);
    let mut audiences = HashSet::new();
    for (i, token) in items(spec, &["tokenRequests"]).iter().enumerate() {
        let (here, audience) = (format!("spec.tokenRequests[{i}]"), text(token, &["audience"]));
        if !audiences.insert(audience) {
            duplicate(causes, &format!("{here}.audience"), &audience.into());
        }
        if let Some(seconds) = number(token, &["expirationSeconds"]) {
            let field = format!("{here}.expirationSeconds");
            if seconds < 600 {
                invalid(causes, &field, &seconds.into(), "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                invalid(causes, &field, &seconds.into(), "may not specify a duration larger than 2^32 seconds");
            }
        }
    }
    for mode in items(spec, &["volumeLifecycleModes"]).iter().filter(|mode| *mode != "Ephemeral" && *mode != "Persistent") {
        unsupported(causes, "spec.volumeLifecycleModes", mode, &["Ephemeral", "Persistent"]);
    }
    if let Some(old) = old {
        for (name, called) in [("attachRequired", "spec.attachedRequired"), ("volumeLifecycleModes", "spec.volumeLifecycleModes")] {
            immutable(causes, called, at(spec, &[name]), at(old, &["spec", name]));
        }
    }
}

/// What of drivers is on a node.
pub(crate) fn csi_node(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let drivers = items(new, &["spec", "drivers"]);
    let mut names = HashSet::new();
    for (i, driver) in drivers.iter().enumerate() {
        let (here, name) = (format!("spec.drivers[{i}]"), text(driver, &["name"]));
        driver_name(name, &format!("{here}.name"), causes);
        if !names.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
        let id = text(driver, &["nodeID"]);
        if id.is_empty() {
            required(causes, &format!("{here}.nodeID"), "");
        } else if id.len() > MAX_NODE_ID {
            let why = format!("must be {MAX_NODE_ID} characters or less");
            invalid(causes, &format!("{here}.nodeID"), &id.into(), &why);
        }
        not_negative(at(driver, &["allocatable"]).unwrap_or(&Value::Null), &format!("{here}.allocatable"), "count", causes);
        let mut keys = HashSet::new();
        for key in items(driver, &["topologyKeys"]) {
            let (key, field) = (key.as_str().unwrap_or_default(), format!("{here}.topologyKeys"));
            if key.is_empty() {
                required(causes, &field, "");
            } else if !is_qualified_name(key) {
                invalid(causes, &field, &key.into(), QUALIFIED);
            }
            if !keys.insert(key) {
                duplicate(causes, &field, &key.into());
            }
        }
    }
    // A driver may come and go, but not become another under its name; how much it holds may change.
    for was in old.map(|old| items(old, &["spec", "drivers"])).into_iter().flatten() {
        let same = |driver: &&Value| driver.get("name") == was.get("name");
        let Some(is) = drivers.iter().find(same) else { continue };
        if ["nodeID", "topologyKeys"].iter().any(|part| at(is, &[part]) != at(was, &[part])) {
            immutable(causes, "spec.drivers", Some(is), Some(was));
        }
    }
}

/// Attachments of volumes to nodes.
pub(crate) fn volume_attachment(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    if let Some(old) = old {
        return immutable(causes, "spec", Some(spec), old.get("spec"));
    }
    driver_name(text(spec, &["attacher"]), "spec.attacher", causes);
    let (inline, named) = (at(spec, &["source", "inlineVolumeSpec"]), at(spec, &["source", "persistentVolumeName"]));
    match (inline, named) {
        (None, None) => required(causes, "spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (Some(_), Some(_)) => {
            forbidden(causes, "spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (None, Some(name)) if name == "" => {
            required(causes, "spec.source.persistentVolumeName", "must specify non empty persistentVolumeName")
        }
        _ => {}
    }
    let node = text(spec, &["nodeName"]);
    if let Some(why) = subdomain(node) {
        invalid(causes, "spec.nodeName", &node.into(), why);
    }
}

/// How much room a topology has.
pub(crate) fn csi_storage_capacity(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    label_selector(at(new, &["nodeTopology"]), "nodeTopology", causes);
    let class = text(new, &["storageClassName"]);
    if let Some(why) = subdomain(class) {
        invalid(causes, "storageClassName", &class.into(), why);
    }
    for name in ["capacity", "maximumVolumeSize"] {
        let Some(size) = at(new, &[name]) else { continue };
        match amount(size) {
            Err(why) => invalid(causes, name, size, &why),
            Ok(found) if found.is_negative() => invalid(causes, name, size, "must be greater than or equal to 0"),
            Ok(_) => {}
        }
    }
    if let Some(old) = old {
        for name in ["nodeTopology", "storageClassName"] {
            immutable(causes, name, at(new, &[name]), at(old, &[name]));
        }
    }
}

/// What of volumes can be changed while they are used.
pub(crate) fn volume_attributes_class(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    if let Some(old) = old {
        return fixed(&["driverName", "parameters"], new, old, causes);
    }
    driver_name(text(new, &["driverName"]), "driverName", causes);
    parameters(new, causes);
    if at(new, &["parameters"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        required(causes, "parameters", "must contain at least one key/value pair");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::found;

    fn none() -> Vec<String> {
        Vec::new()
    }

    fn claim(size: &str, more: Value) -> Value {
        let mut claim =
            json!({"spec":{"accessModes":["ReadWriteOnce"],"volumeMode":"Filesystem","resources":{"requests":{"storage":size}}}});
        claim.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claim
    }

    #[test]
    fn claims() {
        assert_eq!(found(persistent_volume_claim, &claim("1Gi", json!({})), None), none());
        let bad = json!({"spec":{"accessModes":["ReadWriteOncePod","Often"],"volumeMode":"x","dataSource":{"kind":"Pod","name":"p"},
            "resources":{"requests":{"storage":"0"}}}});
        assert_eq!(
            found(persistent_volume_claim, &bad, None),
            [
                "spec.accessModes: Unsupported value: \"Often\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
                "spec.volumeMode: Unsupported value: \"x\": supported values: \"Block\", \"Filesystem\"",
                "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ]
        );
    }

    #[test]
    fn claims_change_little() {
        let bound = |size: &str| claim(size, json!({"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}));
        assert_eq!(found(persistent_volume_claim, &bound("2Gi"), Some(&bound("1Gi"))), none());
        assert_eq!(found(persistent_volume_claim, &bound("2Gi"), Some(&bound("3Gi"))), none(), "an expansion that failed is taken back");
        assert_eq!(
            found(persistent_volume_claim, &bound("1Gi"), Some(&bound("2Gi"))),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        let (pending, mut named) = (claim("1Gi", json!({})), claim("1Gi", json!({})));
        named["spec"]["volumeName"] = "v".into();
        named["spec"]["storageClassName"] = "fast".into();
        assert_eq!(found(persistent_volume_claim, &named, Some(&pending)), none());
        let mut other = named.clone();
        other["spec"]["volumeName"] = "w".into();
        assert_eq!(found(persistent_volume_claim, &other, Some(&named)), [format!("spec: Forbidden: {BOUND_CLAIMS}")]);
        assert_eq!(found(persistent_volume_claim, &claim("2Gi", json!({})), Some(&pending)), [format!("spec: Forbidden: {BOUND_CLAIMS}")]);
    }

    #[test]
    fn volumes() {
        let volume = |more: Value| {
            let mut spec = json!({"accessModes":["ReadWriteOnce"],"capacity":{"storage":"1Gi"},"volumeMode":"Filesystem"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"spec":spec})
        };
        let path = volume(json!({"hostPath":{"path":"/a"}}));
        assert_eq!(found(persistent_volume, &path, None), none());
        for (more, wanted) in [
            (json!({}), "spec: Required value: must specify a volume type"),
            (json!({"hostPath":{"path":"/a"},"nfs":{}}), "spec.nfs: Forbidden: may not specify more than 1 volume type"),
            (json!({"local":{"path":"/a"}}), "spec.nodeAffinity: Required value: Local volume requires node affinity"),
            (
                json!({"hostPath":{"path":"/a"},"capacity":{"storage":"1","cpu":"1"}}),
                "spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"1\"}: supported values: \"storage\"",
            ),
            (
                json!({"hostPath":{"path":"/"},"persistentVolumeReclaimPolicy":"Recycle"}),
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ),
        ] {
            assert_eq!(found(persistent_volume, &volume(more), None), [wanted]);
        }
        assert_eq!(
            found(persistent_volume, &volume(json!({"hostPath":{"path":"/b"}})), Some(&path)),
            ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
        );
    }

    #[test]
    fn classes() {
        let class = json!({"provisioner":"Example.com/fast","volumeBindingMode":"Immediate","reclaimPolicy":"Delete"});
        assert_eq!(found(storage_class, &class, None), none());
        let other = json!({"provisioner":"b","volumeBindingMode":"WaitForFirstConsumer","reclaimPolicy":"Delete"});
        assert_eq!(
            found(storage_class, &other, Some(&class)),
            [
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ]
        );
        assert_eq!(
            found(volume_attributes_class, &json!({"driverName":"d"}), None),
            ["parameters: Required value: must contain at least one key/value pair"]
        );
    }

    #[test]
    fn drivers() {
        let driver = |spec: Value| json!({"metadata":{"name":"a.b"},"spec":spec});
        let good =
            driver(json!({"attachRequired":true,"podInfoOnMount":false,"storageCapacity":false,"volumeLifecycleModes":["Persistent"]}));
        assert_eq!(found(csi_driver, &good, None), none());
        let mut detached = good.clone();
        detached["spec"]["attachRequired"] = false.into();
        assert_eq!(found(csi_driver, &detached, Some(&good)), ["spec.attachedRequired: Invalid value: false: field is immutable"]);
        let node = |id: &str| json!({"spec":{"drivers":[{"name":"a.b","nodeID":id,"topologyKeys":["zone"]}]}});
        assert_eq!(found(csi_node, &node("n"), None), none());
        assert!(found(csi_node, &node("m"), Some(&node("n")))[0].ends_with("field is immutable"));
        assert_eq!(found(csi_node, &node(""), None), ["spec.drivers[0].nodeID: Required value"]);
        let attached = json!({"spec":{"attacher":"a.b","nodeName":"n","source":{"persistentVolumeName":"v"}}});
        assert_eq!(found(volume_attachment, &attached, None), none());
        assert_eq!(
            found(volume_attachment, &json!({"spec":{"attacher":"a.b","nodeName":"n","source":{}}}), None),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
        let room = json!({"storageClassName":"fast","capacity":"1Gi"});
        assert_eq!(found(csi_storage_capacity, &room, None), none());
        assert_eq!(
            found(csi_storage_capacity, &json!({"storageClassName":"slow","capacity":"-1"}), Some(&room)),
            [
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                "storageClassName: Invalid value: \"slow\": field is immutable"
            ]
        );
    }
}
