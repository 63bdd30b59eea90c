//! Which of the names that definitions ask for they get, and what their status says of it: pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::crd::validation::is_protected;
use crate::resources::value::{as_map, at, items, object, text};

/// The names that definitions of a group hold.
#[derive(Debug, Default)]
pub(super) struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds the names that a definition has been given.
    pub(super) fn add(&mut self, definition: &Value) {
        let accepted = |name: &str| text(definition, &["status", "acceptedNames", name]).to_owned();
        self.resources.extend([accepted("plural"), accepted("singular")]);
        self.kinds.extend([accepted("kind"), accepted("listKind")]);
        let short = items(definition, &["status", "acceptedNames", "shortNames"]);
        self.resources.extend(short.iter().filter_map(Value::as_str).map(str::to_owned));
        self.resources.remove("");
        self.kinds.remove("");
    }
}

/// Whether a condition of a definition is true.
pub(super) fn is_true(definition: &Value, kind: &str) -> bool {
    items(definition, &["status", "conditions"]).iter().any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
}

/// Sets a condition; the time moves when the status does.
pub(super) fn set_condition(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let mut conditions = items(definition, &["status", "conditions"]).to_vec();
    let old = conditions.iter().find(|c| text(c, &["type"]) == kind && text(c, &["status"]) == status);
    let since = old.map_or(now, |c| text(c, &["lastTransitionTime"])).to_owned();
    let condition = json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message});
    match conditions.iter_mut().find(|c| text(c, &["type"]) == kind) {
        Some(found) => *found = condition,
        None => conditions.push(condition),
    }
    object(definition, &["status"]).insert("conditions".into(), conditions.into());
}

fn claim(wanted: &str, had: &str, used: &BTreeSet<String>) -> Result<(), String> {
    if wanted == had || !used.contains(wanted) { Ok(()) } else { Err(format!("{wanted:?} is already in use")) }
}

/// The definition with the status that it ought to have, given the names that others of its group hold.
pub(super) fn accept(definition: &Value, others: &Taken, now: &str) -> Value {
    let mut new = definition.clone();
    let empty = json!({});
    let wanted = at(definition, &["spec", "names"]).unwrap_or(&empty);
    let had = at(definition, &["status", "acceptedNames"]).unwrap_or(&empty);
    let mut given = had.as_object().cloned().unwrap_or_default();
    let mut refused: Option<(&str, String)> = None;
    for (name, reason, used) in [
        ("plural", "PluralConflict", &others.resources),
        ("singular", "SingularConflict", &others.resources),
        ("kind", "KindConflict", &others.kinds),
        ("listKind", "ListKindConflict", &others.kinds),
    ] {
        match claim(text(wanted, &[name]), text(had, &[name]), used) {
            Ok(()) => {
                given.insert(name.into(), text(wanted, &[name]).into());
            }
            Err(why) => refused = Some((reason, why)),
        }
    }
    let short = items(wanted, &["shortNames"]);
    let errors: Vec<String> = short.iter().filter_map(|s| claim(s.as_str()?, "", &others.resources).err()).collect();
    if errors.is_empty() {
        keep_list(&mut given, "shortNames", short);
    } else {
        let message = if errors.len() == 1 { errors.concat() } else { format!("[{}]", errors.join(", ")) };
        refused = Some(("ShortNamesConflict", message));
    }
    keep_list(&mut given, "categories", items(wanted, &["categories"]));
    as_map(object(&mut new, &["status"]).entry("acceptedNames").or_insert_with(|| json!({}))).clone_from(&given);
    let group = text(definition, &["spec", "group"]).to_owned();
    if is_protected(&group) {
        let approval = text(definition, &["metadata", "annotations", "api-approved.kubernetes.io"]).to_owned();
        if approval.starts_with("unapproved") {
            let message = format!("not approved: {approval:?}");
            set_condition(&mut new, "KubernetesAPIApprovalPolicyConformant", "False", "UnapprovedAnnotation", &message, now);
        } else {
            let message = format!("approved in {approval}");
            set_condition(&mut new, "KubernetesAPIApprovalPolicyConformant", "True", "ApprovedAnnotation", &message, now);
        }
    }
    match refused {
        Some((reason, message)) => {
            set_condition(&mut new, "NamesAccepted", "False", reason, &message, now);
            if !is_true(&new, "Established") {
                set_condition(&mut new, "Established", "False", "NotAccepted", "not all names are accepted", now);
            }
        }
        None => {
            set_condition(&mut new, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now);
            if !is_true(&new, "Established") {
                set_condition(&mut new, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now);
            }
        }
    }
    new
}

fn keep_list(given: &mut Map<String, Value>, name: &str, list: &[Value]) {
    if list.is_empty() {
        given.remove(name);
    } else {
        given.insert(name.into(), list.to_vec().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"spec": {"group": "a.example", "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
            "listKind": format!("{kind}List"), "shortNames": short}}})
    }

    #[test]
    fn who_comes_first_keeps_the_names() {
        let first = accept(&definition("crontabs", "CronTab", &["ct"]), &Taken::default(), "t0");
        assert!(is_true(&first, "Established") && is_true(&first, "NamesAccepted"));
        let mut taken = Taken::default();
        taken.add(&first);
        let second = accept(&definition("cats", "Cat", &["ct"]), &taken, "t1");
        assert!(!is_true(&second, "Established"));
        let named = items(&second, &["status", "conditions"]).iter().find(|c| c["type"] == "NamesAccepted").cloned().unwrap();
        assert_eq!((named["reason"].as_str(), named["message"].as_str()), (Some("ShortNamesConflict"), Some("\"ct\" is already in use")));
        // Names that became free are given, and times of what did not change stay.
        let later = accept(&second, &Taken::default(), "t2");
        assert!(is_true(&later, "Established"));
        assert_eq!(accept(&first, &Taken::default(), "t3"), first);
    }
}
