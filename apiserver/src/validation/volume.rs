//! Volumes of pods: where they come from.

use std::collections::HashSet;

use serde_json::Value;

use super::env::downward_file;
use super::metadata::label_1123;
use super::pod::amount;
use super::{Causes, duplicate, forbidden, invalid, one_of, required};
use crate::resources::value::{at, items, number, text};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// What may stand for a path on the node, and what may be made there.
const PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The volumes of a pod; answers their names.
pub(super) fn volumes<'a>(spec: &'a Value, field: &str, causes: &mut Causes) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (i, volume) in items(spec, &["volumes"]).iter().enumerate() {
        let here = format!("{field}.volumes[{i}]");
        let (name, at_name) = (text(volume, &["name"]), format!("{here}.name"));
        if name.is_empty() {
            required(causes, &at_name, "");
        } else if let Some(why) = label_1123(name) {
            invalid(causes, &at_name, &name.into(), why);
        }
        if !names.insert(name) && !name.is_empty() {
            duplicate(causes, &at_name, &name.into());
        }
        let mut sources = volume.as_object().into_iter().flatten().filter(|(kind, source)| *kind != "name" && !source.is_null());
        if let Some((kind, part)) = sources.next() {
            source(kind, part, &format!("{here}.{kind}"), causes);
        }
        for (kind, _) in sources {
            forbidden(causes, &format!("{here}.{kind}"), "may not specify more than 1 volume type");
        }
    }
    names
}

fn needs(part: &Value, names: &[&str], here: &str, causes: &mut Causes) {
    for name in names.iter().filter(|name| text(part, &[name]).is_empty()) {
        required(causes, &format!("{here}.{name}"), "");
    }
}

fn source(kind: &str, part: &Value, here: &str, causes: &mut Causes) {
    match kind {
        "emptyDir" => {
            if let Some(limit) = at(part, &["sizeLimit"])
                && amount(limit).is_ok_and(|limit| limit.is_negative())
            {
                forbidden(causes, &format!("{here}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            let path = text(part, &["path"]);
            needs(part, &["path"], here, causes);
            if path.split('/').any(|step| step == "..") {
                invalid(causes, &format!("{here}.path"), &path.into(), "must not contain '..'");
            }
            one_of(causes, &format!("{here}.type"), at(part, &["type"]), PATH_TYPES);
        }
        "secret" | "configMap" => {
            needs(part, &[if kind == "secret" { "secretName" } else { "name" }], here, causes);
            files(part, here, causes);
        }
        "downwardAPI" => downward(part, here, causes),
        "projected" => projected(part, here, causes),
        "persistentVolumeClaim" => needs(part, &["claimName"], here, causes),
        "ephemeral" if at(part, &["volumeClaimTemplate"]).is_none() => {
            required(causes, &format!("{here}.volumeClaimTemplate"), "");
        }
        "csi" => needs(part, &["driver"], here, causes),
        "nfs" => {
            needs(part, &["server", "path"], here, causes);
            let path = text(part, &["path"]);
            if !path.is_empty() && !path.starts_with('/') {
                invalid(causes, &format!("{here}.path"), &path.into(), "must be an absolute path");
            }
        }
        "awsElasticBlockStore" => needs(part, &["volumeID"], here, causes),
        "gcePersistentDisk" => needs(part, &["pdName"], here, causes),
        "gitRepo" => {
            needs(part, &["repository"], here, causes);
            relative(text(part, &["directory"]), &format!("{here}.directory"), causes);
        }
        _ => {}
    }
}

fn mode(part: &Value, name: &str, here: &str, causes: &mut Causes) {
    if let Some(mode) = number(part, &[name]).filter(|mode| !(0..=0o777).contains(mode)) {
        invalid(causes, &format!("{here}.{name}"), &mode.into(), MODE);
    }
}

/// A path that stays below the volume.
pub(super) fn relative(path: &str, field: &str, causes: &mut Causes) {
    if path.starts_with('/') {
        invalid(causes, field, &path.into(), "must be a relative path");
    }
    if path.split('/').any(|step| step == "..") {
        invalid(causes, field, &path.into(), "must not contain '..'");
    }
}

/// A path below the volume, which is not the kubelet's own.
fn file_path(path: &str, field: &str, causes: &mut Causes) {
    if path.is_empty() {
        return required(causes, field, "");
    }
    relative(path, field, causes);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        invalid(causes, field, &path.into(), "must not start with '..'");
    }
}

/// Which keys become which files.
fn files(part: &Value, here: &str, causes: &mut Causes) {
    mode(part, "defaultMode", here, causes);
    for (i, item) in items(part, &["items"]).iter().enumerate() {
        let here = format!("{here}.items[{i}]");
        needs(item, &["key"], &here, causes);
        file_path(text(item, &["path"]), &format!("{here}.path"), causes);
        mode(item, "mode", &here, causes);
    }
}

fn downward(part: &Value, here: &str, causes: &mut Causes) {
    mode(part, "defaultMode", here, causes);
    for (i, file) in items(part, &["items"]).iter().enumerate() {
        let here = format!("{here}.items[{i}]");
        file_path(text(file, &["path"]), &format!("{here}.path"), causes);
        downward_file(file, &here, causes);
        mode(file, "mode", &here, causes);
    }
}

fn projected(part: &Value, here: &str, causes: &mut Causes) {
    mode(part, "defaultMode", here, causes);
    for (i, source) in items(part, &["sources"]).iter().enumerate() {
        let here = format!("{here}.sources[{i}]");
        let mut kinds = source.as_object().into_iter().flatten().filter(|(_, part)| !part.is_null());
        let Some((kind, part)) = kinds.next() else {
            required(causes, &here, "must specify at least one projection");
            continue;
        };
        let inside = format!("{here}.{kind}");
        match kind.as_str() {
            "secret" | "configMap" => {
                needs(part, &["name"], &inside, causes);
                files(part, &inside, causes);
            }
            "downwardAPI" => downward(part, &inside, causes),
            "serviceAccountToken" => {
                let seconds = number(part, &["expirationSeconds"]).unwrap_or(3600);
                let field = format!("{inside}.expirationSeconds");
                if seconds < 600 {
                    invalid(causes, &field, &seconds.into(), "may not specify a duration less than 10 minutes");
                }
                if seconds > 1 << 32 {
                    invalid(causes, &field, &seconds.into(), "may not specify a duration larger than 2^32 seconds");
                }
                file_path(text(part, &["path"]), &format!("{inside}.path"), causes);
            }
            "clusterTrustBundle" => file_path(text(part, &["path"]), &format!("{inside}.path"), causes),
            _ => {}
        }
        for (kind, _) in kinds {
            forbidden(causes, &format!("{here}.{kind}"), "may not specify more than 1 volume type");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(volume: Value) -> Vec<String> {
        let mut named = json!({"name":"v"});
        named.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
        let mut causes = Vec::new();
        volumes(&json!({"volumes":[named]}), "s", &mut causes);
        crate::validation::testing::lines(causes)
    }

    #[test]
    fn good_ones() {
        for good in [
            json!({"emptyDir":{"sizeLimit":"1Gi"}}),
            json!({"hostPath":{"path":"/a","type":"DirectoryOrCreate"}}),
            json!({"configMap":{"name":"c","defaultMode":420,"items":[{"key":"k","path":"a/b"}]}}),
            json!({"projected":{"sources":[{"serviceAccountToken":{"path":"token","expirationSeconds":3607}},
                {"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},
                {"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}]}}),
        ] {
            assert_eq!(found(good.clone()), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn bad_ones() {
        for (bad, wanted) in [
            (json!({"configMap":{}}), "s.volumes[0].configMap.name: Required value"),
            (
                json!({"secret":{"secretName":"s","defaultMode":512}}),
                "s.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ),
            (json!({"configMap":{"name":"c"},"emptyDir":{}}), "s.volumes[0].emptyDir: Forbidden: may not specify more than 1 volume type"),
            (json!({"hostPath":{"path":"/a/../b"}}), "s.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"),
            (
                json!({"secret":{"secretName":"s","items":[{"key":"k","path":"/abs"}]}}),
                "s.volumes[0].secret.items[0].path: Invalid value: \"/abs\": must be a relative path",
            ),
            (
                json!({"secret":{"secretName":"s","items":[{"key":"k","path":"..data"}]}}),
                "s.volumes[0].secret.items[0].path: Invalid value: \"..data\": must not start with '..'",
            ),
            (
                json!({"downwardAPI":{"items":[{"path":"a"}]}}),
                "s.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
            ),
            (
                json!({"projected":{"sources":[{}]}}),
                "s.volumes[0].projected.sources[0]: Required value: must specify at least one projection",
            ),
            (
                json!({"projected":{"sources":[{"serviceAccountToken":{"path":"t","expirationSeconds":1}}]}}),
                "s.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            ),
            (json!({"nfs":{"server":"s","path":"rel"}}), "s.volumes[0].nfs.path: Invalid value: \"rel\": must be an absolute path"),
        ] {
            assert_eq!(found(bad), [wanted]);
        }
    }
}
