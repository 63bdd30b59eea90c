//! Security contexts of pods and containers.

use std::collections::HashSet;

use serde_json::Value;

use super::volume::relative;
use super::{Causes, duplicate, invalid, one_of, required, too_long, unsupported};
use crate::resources::value::{at, items, number, text};

const MAX_ID: i64 = i32::MAX as i64;
/// Longest name of an AppArmor profile, in bytes.
const MAX_APP_ARMOR: usize = 4095;
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL: &str =
    "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9]$";

fn id(context: &Value, name: &str, here: &str, causes: &mut Causes) {
    if let Some(id) = number(context, &[name]) {
        in_range(id, &format!("{here}.{name}"), causes);
    }
}

fn in_range(id: i64, field: &str, causes: &mut Causes) {
    if !(0..=MAX_ID).contains(&id) {
        invalid(causes, field, &id.into(), "must be between 0 and 2147483647, inclusive");
    }
}

/// A profile of seccomp or AppArmor. What `local` finds wrong with the name of one on the node's disk is its own.
fn profile(context: &Value, kind: &str, called: &str, here: &str, causes: &mut Causes, local: fn(&str, &str, &mut Causes)) {
    let Some(profile) = at(context, &[kind]) else { return };
    let (named, path, here) = (text(profile, &["type"]), text(profile, &["localhostProfile"]), format!("{here}.{kind}"));
    let field = format!("{here}.localhostProfile");
    match named {
        "" => return required(causes, &format!("{here}.type"), &format!("type is required when {kind} is set")),
        "Localhost" if path.is_empty() => required(causes, &field, &format!("must be set when {called} type is Localhost")),
        "Localhost" => local(path, &field, causes),
        _ if !PROFILES.contains(&named) => unsupported(causes, &format!("{here}.type"), &named.into(), PROFILES),
        _ => {}
    }
    if named != "Localhost" && !path.is_empty() {
        invalid(causes, &field, &path.into(), &format!("can only be set when {called} type is Localhost"));
    }
}

fn profiles(context: &Value, here: &str, causes: &mut Causes) {
    profile(context, "seccompProfile", "seccomp", here, causes, relative);
    profile(context, "appArmorProfile", "AppArmor", here, causes, |name, field, causes| {
        if name.trim() != name {
            invalid(causes, field, &name.into(), "must not be padded with whitespace");
        }
        if name.len() > MAX_APP_ARMOR {
            too_long(causes, field, MAX_APP_ARMOR);
        }
    });
}

/// The security context of a pod.
pub(super) fn of_pod(spec: &Value, field: &str, causes: &mut Causes) {
    let is = |path: &[&str]| at(spec, path) == Some(&Value::Bool(true));
    if is(&["hostPID"]) && is(&["shareProcessNamespace"]) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        invalid(causes, &format!("{field}.securityContext.shareProcessNamespace"), &true.into(), why);
    }
    let Some(context) = at(spec, &["securityContext"]) else { return };
    let here = format!("{field}.securityContext");
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, name, &here, causes);
    }
    for (i, group) in items(context, &["supplementalGroups"]).iter().enumerate() {
        in_range(group.as_i64().unwrap_or(-1), &format!("{here}.supplementalGroups[{i}]"), causes);
    }
    one_of(causes, &format!("{here}.fsGroupChangePolicy"), at(context, &["fsGroupChangePolicy"]), &["Always", "OnRootMismatch"]);
    one_of(causes, &format!("{here}.supplementalGroupsPolicy"), at(context, &["supplementalGroupsPolicy"]), &["Merge", "Strict"]);
    profiles(context, &here, causes);
    let mut seen = HashSet::new();
    for (i, sysctl) in items(context, &["sysctls"]).iter().enumerate() {
        let (name, at_name) = (text(sysctl, &["name"]), format!("{here}.sysctls[{i}].name"));
        if name.is_empty() {
            required(causes, &at_name, "");
        } else if !is_sysctl(name) {
            invalid(causes, &at_name, &name.into(), SYSCTL);
        } else if !seen.insert(name) {
            duplicate(causes, &at_name, &name.into());
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().last())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

/// The security context of a container.
pub(super) fn of_container(container: &Value, field: &str, causes: &mut Causes) {
    let Some(context) = at(container, &["securityContext"]) else { return };
    let here = format!("{field}.securityContext");
    for name in ["runAsUser", "runAsGroup"] {
        id(context, name, &here, causes);
    }
    one_of(causes, &format!("{here}.procMount"), at(context, &["procMount"]), &["Default", "Unmasked"]);
    profiles(context, &here, causes);
    if at(context, &["allowPrivilegeEscalation"]) == Some(&Value::Bool(false)) {
        if at(context, &["privileged"]) == Some(&Value::Bool(true)) {
            invalid(causes, &here, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if items(context, &["capabilities", "add"]).iter().any(|c| c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            invalid(causes, &here, context, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(rule: fn(&Value, &str, &mut Causes), context: Value) -> Vec<String> {
        let mut causes = Vec::new();
        rule(&json!({"securityContext":context}), "x", &mut causes);
        crate::validation::testing::lines(causes)
    }

    #[test]
    fn pods() {
        let good = json!({"runAsUser":1000,"supplementalGroups":[1],"fsGroupChangePolicy":"Always","seccompProfile":{"type":"RuntimeDefault"},
            "sysctls":[{"name":"net.ipv4.ip_unprivileged_port_start","value":"0"},{"name":"net/core/somaxconn","value":"1"}]});
        assert_eq!(found(of_pod, good), Vec::<String>::new());
        for (context, wanted) in [
            (json!({"fsGroup":-1}), "fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive"),
            (json!({"seccompProfile":{}}), "seccompProfile.type: Required value: type is required when seccompProfile is set"),
            (
                json!({"seccompProfile":{"type":"Localhost"}}),
                "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                json!({"seccompProfile":{"type":"Unconfined","localhostProfile":"a"}}),
                "seccompProfile.localhostProfile: Invalid value: \"a\": can only be set when seccomp type is Localhost",
            ),
            (
                json!({"seccompProfile":{"type":"Localhost","localhostProfile":"a/../b"}}),
                "seccompProfile.localhostProfile: Invalid value: \"a/../b\": must not contain '..'",
            ),
            (json!({"sysctls":[{"name":"a.b"},{"name":"a/b"},{"name":"a.b"}]}), "sysctls[2].name: Duplicate value: \"a.b\""),
            (
                json!({"appArmorProfile":{"type":"Localhost","localhostProfile":" a"}}),
                "appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded with whitespace",
            ),
        ] {
            assert_eq!(found(of_pod, context), [format!("x.securityContext.{wanted}")]);
        }
        assert!(found(of_pod, json!({"sysctls":[{"name":"A"}]}))[0].contains(SYSCTL));
        let mut causes = Vec::new();
        of_pod(&json!({"hostPID":true,"shareProcessNamespace":true}), "x", &mut causes);
        assert_eq!(causes[0].field.as_deref(), Some("x.securityContext.shareProcessNamespace"));
    }

    #[test]
    fn containers() {
        assert_eq!(found(of_container, json!({"privileged":true,"procMount":"Default"})), Vec::<String>::new());
        let all = found(of_container, json!({"privileged":true,"allowPrivilegeEscalation":false,"capabilities":{"add":["CAP_SYS_ADMIN"]}}));
        assert_eq!(all.len(), 2);
        assert!(all[0].ends_with("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        assert!(found(of_container, json!({"procMount":"x"}))[0].contains("Unsupported value: \"x\""));
    }
}
