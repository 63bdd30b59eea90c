//! flowcontrol.apiserver.k8s.io: which requests wait for which.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::metadata::{label_1123, subdomain};
use super::{Causes, duplicate, forbidden, invalid, one_of, required, star_alone, unsupported};
use crate::resources::value::{at, items, number, text};

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of a flow's hash that queues can be dealt from.
const MAX_HASH_BITS: u32 = 60;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// Sorts of subjects, and where each is described.
const SUBJECTS: &[(&str, &str)] = &[("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
const NAMESPACES: &str = "each member of this list must be '*' or a DNS-1123 label; ";
const NOT_NEGATIVE: &str = "must be a non-negative integer";

/// Flow schemas.
pub(crate) fn flow_schema(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let name = text(new, &["metadata", "name"]);
    precedence(number(new, &["spec", "matchingPrecedence"]).unwrap_or(0), name, causes);
    if let Some(method) = at(new, &["spec", "distinguisherMethod"]) {
        let kind = text(method, &["type"]).into();
        one_of(causes, "spec.distinguisherMethod.type", Some(&kind), &["ByNamespace", "ByUser"]);
    }
    let level = text(new, &["spec", "priorityLevelConfiguration", "name"]);
    if level.is_empty() {
        required(causes, "spec.priorityLevelConfiguration.name", "must reference a priority level");
    } else if let Some(why) = subdomain(level) {
        invalid(causes, "spec.priorityLevelConfiguration.name", &level.into(), why);
    }
    for (i, rule) in items(new, &["spec", "rules"]).iter().enumerate() {
        policy_rule(rule, &format!("spec.rules[{i}]"), causes);
    }
    let spec = at(new, &["spec"]).unwrap_or(&Value::Null);
    if mandatory_schema(name).is_some_and(|wanted| bare(spec) != wanted) {
        invalid(causes, "spec", spec, &format!("spec of '{name}' must equal the fixed value"));
    }
    conditions(new, causes);
}

/// What was found about a flow schema.
pub(crate) fn flow_schema_status(new: &Value, _old: &Value, causes: &mut Causes) {
    conditions(new, causes);
}

/// Which schema comes first.
fn precedence(found: i64, name: &str, causes: &mut Causes) {
    let mut wrong = |why: &str| invalid(causes, "spec.matchingPrecedence", &found.into(), why);
    if found <= 0 {
        wrong("must be a positive value");
    }
    if found > MAX_PRECEDENCE {
        wrong(&format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if found == 1 && name != EXEMPT {
        wrong("only the schema named 'exempt' may have matchingPrecedence 1");
    }
}

/// The specification of a schema that there must be.
fn mandatory_schema(name: &str) -> Option<Value> {
    let of = |groups: &[&str]| {
        let subjects: Vec<Value> = groups.iter().map(|group| json!({"kind":"Group","group":{"name":group}})).collect();
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"clusterScope":true,"namespaces":["*"]}],
            "nonResourceRules": [{"verbs":["*"],"nonResourceURLs":["*"]}],
        }])
    };
    match name {
        EXEMPT => Some(json!({
            "priorityLevelConfiguration": {"name": EXEMPT},
            "matchingPrecedence": 1,
            "rules": of(&["system:masters"]),
        })),
        CATCH_ALL => Some(json!({
            "priorityLevelConfiguration": {"name": CATCH_ALL},
            "matchingPrecedence": MAX_PRECEDENCE,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": of(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

/// A value without members that say nothing.
fn bare(value: &Value) -> Value {
    let says_nothing = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
    match value {
        Value::Object(map) => map.iter().filter(|(_, v)| !says_nothing(v)).map(|(name, v)| (name.clone(), bare(v))).collect(),
        Value::Array(list) => list.iter().map(bare).collect(),
        other => other.clone(),
    }
}

fn policy_rule(rule: &Value, here: &str, causes: &mut Causes) {
    let subjects = items(rule, &["subjects"]);
    if subjects.is_empty() {
        required(causes, &format!("{here}.subjects"), "subjects must contain at least one value");
    }
    for (i, found) in subjects.iter().enumerate() {
        subject(found, &format!("{here}.subjects[{i}]"), causes);
    }
    let (resources, others) = (items(rule, &["resourceRules"]), items(rule, &["nonResourceRules"]));
    if resources.is_empty() && others.is_empty() {
        required(causes, here, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(rule, &format!("{here}.resourceRules[{i}]"), causes);
    }
    for (i, rule) in others.iter().enumerate() {
        non_resource_rule(rule, &format!("{here}.nonResourceRules[{i}]"), causes);
    }
}

/// Who a rule is about.
fn subject(subject: &Value, here: &str, causes: &mut Causes) {
    let kind = text(subject, &["kind"]);
    if !SUBJECTS.iter().any(|(known, _)| *known == kind) {
        let known: Vec<&str> = SUBJECTS.iter().map(|(known, _)| *known).collect();
        return unsupported(causes, &format!("{here}.kind"), &kind.into(), &known);
    }
    for (other, part) in SUBJECTS {
        let (found, field) = (at(subject, &[part]), format!("{here}.{part}"));
        match found {
            None if *other == kind => required(causes, &field, &format!("{part} is required when subject kind is '{kind}'")),
            Some(found) if *other == kind => subject_name(found, kind, &field, causes),
            Some(_) => forbidden(causes, &field, &format!("{part} is forbidden when subject kind is not '{other}'")),
            None => {}
        }
    }
}

fn subject_name(subject: &Value, kind: &str, here: &str, causes: &mut Causes) {
    let name = text(subject, &["name"]);
    if name.is_empty() {
        required(causes, &format!("{here}.name"), "");
    }
    if kind != "ServiceAccount" {
        return;
    }
    if let Some(why) = subdomain(name).filter(|_| !name.is_empty() && name != "*") {
        invalid(causes, &format!("{here}.name"), &name.into(), why);
    }
    let namespace = text(subject, &["namespace"]);
    if namespace.is_empty() {
        required(causes, &format!("{here}.namespace"), "must specify namespace for service account");
    } else if let Some(why) = label_1123(namespace) {
        invalid(causes, &format!("{here}.namespace"), &namespace.into(), why);
    }
}

fn has_star(list: &[Value]) -> bool {
    list.iter().any(|v| v == "*")
}

fn verbs(rule: &Value, here: &str, causes: &mut Causes) {
    let (list, field) = (items(rule, &["verbs"]), format!("{here}.verbs"));
    star_alone(list, &field, "verbs must contain at least one value", "verbs", causes);
    if !has_star(list) && !list.iter().all(|v| v.as_str().is_some_and(|v| VERBS.contains(&v))) {
        unsupported(causes, &field, &list.into(), VERBS);
    }
}

fn resource_rule(rule: &Value, here: &str, causes: &mut Causes) {
    verbs(rule, here, causes);
    for (part, what) in [("apiGroups", "api group"), ("resources", "resource")] {
        let missing = format!("resource rules must supply at least one {what}");
        star_alone(items(rule, &[part]), &format!("{here}.{part}"), &missing, &format!("{what}s"), causes);
    }
    let (list, field) = (items(rule, &["namespaces"]), format!("{here}.namespaces"));
    let cluster = at(rule, &["clusterScope"]).and_then(Value::as_bool).unwrap_or(false);
    if !list.is_empty() || !cluster {
        let missing = "resource rules that are not cluster scoped must supply at least one namespace";
        star_alone(list, &field, missing, "namespaces", causes);
    }
    for (i, namespace) in list.iter().enumerate().filter(|_| !has_star(list)) {
        if let Some(why) = label_1123(namespace.as_str().unwrap_or_default()) {
            invalid(causes, &format!("{field}[{i}]"), namespace, &format!("{NAMESPACES}{why}"));
        }
    }
}

fn non_resource_rule(rule: &Value, here: &str, causes: &mut Causes) {
    verbs(rule, here, causes);
    let (list, field) = (items(rule, &["nonResourceURLs"]), format!("{here}.nonResourceURLs"));
    star_alone(list, &field, "nonResourceURLs must contain at least one value", "non-resource URLs", causes);
    for (i, path) in list.iter().enumerate().filter(|_| !has_star(list)) {
        if let Some(why) = url_path(path.as_str().unwrap_or_default()) {
            invalid(causes, &format!("{field}[{i}]"), path, why);
        }
    }
}

/// What is wrong with a path that is no resource's.
fn url_path(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        path if !path.starts_with('/') => Some("must start with slash"),
        path if path.contains(' ') => Some("must not contain white-space"),
        path if path.contains("//") => Some("must not contain double slash"),
        path if path.strip_suffix("/*").unwrap_or(path).contains('*') => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

/// Conditions, of which there is one of each type.
fn conditions(new: &Value, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, condition) in items(new, &["status", "conditions"]).iter().enumerate() {
        let (kind, field) = (text(condition, &["type"]), format!("status.conditions[{i}].type"));
        if !seen.insert(kind) {
            duplicate(causes, &field, &kind.into());
        }
        if kind.is_empty() {
            required(causes, &field, "must not be empty");
        }
    }
}

/// Priority levels.
pub(crate) fn priority_level(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let (name, kind) = (text(new, &["metadata", "name"]), text(new, &["spec", "type"]));
    if (name == EXEMPT) != (kind == "Exempt") {
        invalid(causes, "spec.type", &kind.into(), "type must be 'Exempt' if and only if name is 'exempt'");
    }
    let (free, bounded) = (at(new, &["spec", "exempt"]), at(new, &["spec", "limited"]));
    match kind {
        "Exempt" => {
            if bounded.is_some() {
                forbidden(causes, "spec.limited", "must be nil if the type is not Limited");
            }
            if let Some(free) = free {
                shares(free, "spec.exempt", causes);
            }
        }
        "Limited" => {
            if free.is_some() {
                forbidden(causes, "spec.exempt", "must be nil if the type is Limited");
            }
            match bounded {
                None => required(causes, "spec.limited", "must not be empty when type is Limited"),
                Some(bounded) => limited(bounded, "spec.limited", causes),
            }
        }
        _ => unsupported(causes, "spec.type", &kind.into(), &["Exempt", "Limited"]),
    }
    mandatory_level(name, at(new, &["spec"]).unwrap_or(&Value::Null), causes);
    conditions(new, causes);
}

/// What was found about a priority level.
pub(crate) fn priority_level_status(new: &Value, _old: &Value, causes: &mut Causes) {
    conditions(new, causes);
}

/// Levels that there must be; how much the exempt one lends may be chosen.
fn mandatory_level(name: &str, spec: &Value, causes: &mut Causes) {
    let mut found = bare(spec);
    let (wanted, except) = match name {
        EXEMPT => {
            if let Some(map) = found.as_object_mut() {
                map.remove("exempt");
            }
            (json!({"type": "Exempt"}), " except the 'spec.exempt' field")
        }
        CATCH_ALL => {
            let limited = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
            (json!({"type": "Limited", "limited": limited}), "")
        }
        _ => return,
    };
    if found != wanted {
        invalid(causes, "spec", spec, &format!("spec of '{name}'{except} must equal the fixed value"));
    }
}

/// How much a level gets, and lends.
fn shares(level: &Value, here: &str, causes: &mut Causes) {
    if let Some(shares) = number(level, &["nominalConcurrencyShares"]).filter(|n| *n < 0) {
        invalid(causes, &format!("{here}.nominalConcurrencyShares"), &shares.into(), NOT_NEGATIVE);
    }
    if let Some(percent) = number(level, &["lendablePercent"]).filter(|n| !(0..=100).contains(n)) {
        invalid(causes, &format!("{here}.lendablePercent"), &percent.into(), "must be between 0 and 100, inclusive");
    }
}

fn limited(level: &Value, here: &str, causes: &mut Causes) {
    shares(level, here, causes);
    if let Some(percent) = number(level, &["borrowingLimitPercent"]).filter(|n| *n < 0) {
        let why = format!("if specified, {NOT_NEGATIVE}");
        invalid(causes, &format!("{here}.borrowingLimitPercent"), &percent.into(), &why);
    }
    let here = format!("{here}.limitResponse");
    let (kind, found) = (text(level, &["limitResponse", "type"]), at(level, &["limitResponse", "queuing"]));
    let field = format!("{here}.queuing");
    match (kind, found) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => forbidden(causes, &field, "must be nil if limited.limitResponse.type is not Limited"),
        ("Queue", None) => required(causes, &field, "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", Some(found)) => queuing(found, &field, causes),
        _ => unsupported(causes, &format!("{here}.type"), &kind.into(), &["Queue", "Reject"]),
    }
}

/// How requests wait.
fn queuing(queuing: &Value, here: &str, causes: &mut Causes) {
    let part = |name: &str| number(queuing, &[name]).unwrap_or(0);
    let mut wrong = |name: &str, why: &str| invalid(causes, &format!("{here}.{name}"), &part(name).into(), why);
    let (queues, hand) = (part("queues"), part("handSize"));
    if part("queueLengthLimit") <= 0 {
        wrong("queueLengthLimit", "must be positive");
    }
    if queues <= 0 {
        wrong("queues", "must be positive");
    } else if queues > MAX_QUEUES {
        wrong("queues", &format!("must not be greater than {MAX_QUEUES}"));
    }
    if hand <= 0 {
        wrong("handSize", "must be positive");
    } else if hand > queues {
        wrong("handSize", &format!("should not be greater than queues ({queues})"));
    } else if too_much_entropy(queues, hand) {
        let what = format!("required entropy bits of deckSize {queues} and handSize {hand}");
        wrong("handSize", &format!("{what} should not be greater than {MAX_HASH_BITS}"));
    }
}

/// Whether a hand of queues needs more bits than a hash has.
fn too_much_entropy(queues: i64, hand: i64) -> bool {
    match (u32::try_from(queues), u32::try_from(hand)) {
        (Ok(queues), Ok(hand)) => f64::from(queues).log2() * f64::from(hand) > f64::from(MAX_HASH_BITS),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::testing::{found, lines};

    const NONE: [String; 0] = [];

    fn schema(spec: &[(&str, Value)]) -> Vec<String> {
        let mut object = json!({"metadata":{"name":"a"},"spec":{
            "matchingPrecedence": 50,
            "distinguisherMethod": {"type": "ByUser"},
            "priorityLevelConfiguration": {"name": "b"},
        }});
        for (name, value) in spec {
            object["spec"][*name] = value.clone();
        }
        found(flow_schema, &object, None)
    }

    #[test]
    fn schemas() {
        assert_eq!(schema(&[]), NONE);
        for (part, value, wanted) in [
            ("matchingPrecedence", json!(0), "matchingPrecedence: Invalid value: 0: must be a positive value"),
            ("matchingPrecedence", json!(10_001), "matchingPrecedence: Invalid value: 10001: must not be greater than 10000"),
            (
                "matchingPrecedence",
                json!(1),
                "matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            ),
            (
                "distinguisherMethod",
                json!({"type":"x"}),
                "distinguisherMethod.type: Unsupported value: \"x\": supported values: \"ByNamespace\", \"ByUser\"",
            ),
            ("priorityLevelConfiguration", json!({}), "priorityLevelConfiguration.name: Required value: must reference a priority level"),
        ] {
            assert_eq!(schema(&[(part, value)]), [format!("spec.{wanted}")]);
        }
        assert!(schema(&[("priorityLevelConfiguration", json!({"name":"A"}))])[0].contains("a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn subjects() {
        let others = json!([{"verbs":["get"],"nonResourceURLs":["/a"]}]);
        let check = |subjects: Value| schema(&[("rules", json!([{"subjects":subjects,"nonResourceRules":others}]))]);
        for good in [
            json!({"kind":"User","user":{"name":"*"}}),
            json!({"kind":"Group","group":{"name":"a"}}),
            json!({"kind":"ServiceAccount","serviceAccount":{"name":"*","namespace":"a"}}),
        ] {
            assert_eq!(check(json!([good])), NONE, "{good}");
        }
        for (subject, wanted) in [
            (json!({"kind":"x"}), "kind: Unsupported value: \"x\": supported values: \"Group\", \"ServiceAccount\", \"User\""),
            (json!({"kind":"User"}), "user: Required value: user is required when subject kind is 'User'"),
            (json!({"kind":"User","user":{}}), "user.name: Required value"),
            (
                json!({"kind":"User","user":{"name":"a"},"group":{"name":"a"}}),
                "group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ),
            (
                json!({"kind":"ServiceAccount","serviceAccount":{"name":"a"}}),
                "serviceAccount.namespace: Required value: must specify namespace for service account",
            ),
        ] {
            assert_eq!(check(json!([subject])), [format!("spec.rules[0].subjects[0].{wanted}")]);
        }
        assert_eq!(check(json!([])), ["spec.rules[0].subjects: Required value: subjects must contain at least one value"]);
        assert_eq!(
            schema(&[("rules", json!([{"subjects":[{"kind":"User","user":{"name":"a"}}]}]))]),
            ["spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"]
        );
    }

    #[test]
    fn rules() {
        let of = |part: &str, rule: &Value| {
            let mut entry = json!({"subjects":[{"kind":"User","user":{"name":"a"}}]});
            entry[part] = json!([rule]);
            schema(&[("rules", json!([entry]))])
        };
        let mut plain = json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"],"namespaces":["a"]});
        assert_eq!(of("resourceRules", &plain), NONE);
        for (part, value, wanted) in [
            ("verbs", json!([]), "verbs: Required value: verbs must contain at least one value"),
            ("verbs", json!(["*", "get"]), "verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs"),
            ("apiGroups", json!([]), "apiGroups: Required value: resource rules must supply at least one api group"),
            (
                "resources",
                json!(["*", "a"]),
                "resources: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other resources",
            ),
            (
                "namespaces",
                json!([]),
                "namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ),
        ] {
            let mut rule = plain.clone();
            rule[part] = value;
            assert_eq!(of("resourceRules", &rule), [format!("spec.rules[0].resourceRules[0].{wanted}")]);
        }
        plain["verbs"] = json!(["escalate"]);
        plain["namespaces"] = json!(["A"]);
        let both = of("resourceRules", &plain);
        assert!(both[0].contains("Unsupported value: [\"escalate\"]") && both[1].contains("\"A\": each member of this list must be '*'"));
        let path = |path: &str| of("nonResourceRules", &json!({"verbs":["get"],"nonResourceURLs":[path]}));
        for good in ["*", "/", "/a", "/a/*", "/*"] {
            assert_eq!(path(good), NONE, "{good}");
        }
        for (bad, wanted) in [
            ("", "must not be empty"),
            ("a", "must start with slash"),
            ("/a b", "must not contain white-space"),
            ("/a//b", "must not contain double slash"),
            ("/a*", "wildcard can only do suffix matching"),
            ("/*/*", "wildcard can only do suffix matching"),
        ] {
            let field = "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]";
            assert_eq!(path(bad), [format!("{field}: Invalid value: \"{bad}\": {wanted}")]);
        }
    }

    #[test]
    fn mandatory_schemas() {
        for name in [EXEMPT, CATCH_ALL] {
            let mut object = json!({"metadata":{"name":name},"spec":mandatory_schema(name)});
            assert_eq!(found(flow_schema, &object, None), NONE);
            object["spec"]["rules"] = json!([]);
            let wrong = found(flow_schema, &object, None);
            assert!(wrong[0].ends_with(&format!("spec of '{name}' must equal the fixed value")), "{wrong:?}");
        }
    }

    fn level(queuing: &Value) -> Value {
        let response = json!({"type":"Queue","queuing":queuing});
        json!({"metadata":{"name":"a"},"spec":{"type":"Limited","limited":{"nominalConcurrencyShares":30,"limitResponse":response}}})
    }

    #[test]
    fn queues() {
        let check = |queues: i64, hand: i64, length: i64| {
            found(priority_level, &level(&json!({"queues":queues,"handSize":hand,"queueLengthLimit":length})), None)
        };
        for (queues, hand) in [(64, 8), (1024, 6), (512, 4), (1, 1), (10_000_000, 2)] {
            assert_eq!(check(queues, hand, 50), NONE, "{queues} {hand}");
        }
        for (queues, hand, length, wanted) in [
            (64, 8, 0, "queueLengthLimit: Invalid value: 0: must be positive"),
            (10_000_001, 1, 1, "queues: Invalid value: 10000001: must not be greater than 10000000"),
            (64, 0, 1, "handSize: Invalid value: 0: must be positive"),
            (8, 9, 1, "handSize: Invalid value: 9: should not be greater than queues (8)"),
            (512, 8, 1, "handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"),
        ] {
            assert_eq!(check(queues, hand, length), [format!("spec.limited.limitResponse.queuing.{wanted}")]);
        }
        assert_eq!(check(0, 1, 1).len(), 2);
        assert_eq!(check(i64::MAX, i64::MAX, i64::MAX).len(), 2);
    }

    #[test]
    fn levels() {
        let reject = json!({"type":"Reject"});
        let check = |spec: Value| found(priority_level, &json!({"metadata":{"name":"a"},"spec":spec}), None);
        assert_eq!(check(json!({"type":"Limited","limited":{"nominalConcurrencyShares":0,"limitResponse":reject}})), NONE);
        for (spec, wanted) in [
            (json!({"type":"x"}), "type: Unsupported value: \"x\": supported values: \"Exempt\", \"Limited\""),
            (json!({"type":"Exempt"}), "type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"),
            (json!({"type":"Limited"}), "limited: Required value: must not be empty when type is Limited"),
            (
                json!({"type":"Limited","limited":{"limitResponse":reject},"exempt":{}}),
                "exempt: Forbidden: must be nil if the type is Limited",
            ),
            (
                json!({"type":"Limited","limited":{"nominalConcurrencyShares":-1,"limitResponse":reject}}),
                "limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
            ),
            (
                json!({"type":"Limited","limited":{"lendablePercent":101,"limitResponse":reject}}),
                "limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ),
            (
                json!({"type":"Limited","limited":{"borrowingLimitPercent":-1,"limitResponse":reject}}),
                "limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
            ),
            (
                json!({"type":"Limited","limited":{"limitResponse":{"type":"x"}}}),
                "limited.limitResponse.type: Unsupported value: \"x\": supported values: \"Queue\", \"Reject\"",
            ),
            (
                json!({"type":"Limited","limited":{"limitResponse":{"type":"Queue"}}}),
                "limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
            ),
            (
                json!({"type":"Limited","limited":{"limitResponse":{"type":"Reject","queuing":{}}}}),
                "limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
            ),
        ] {
            assert_eq!(check(spec), [format!("spec.{wanted}")]);
        }
    }

    #[test]
    fn mandatory_levels() {
        let check = |name: &str, spec: &Value| found(priority_level, &json!({"metadata":{"name":name},"spec":spec}), None);
        let exempt = json!({"type":"Exempt","exempt":{"nominalConcurrencyShares":10,"lendablePercent":50}});
        assert_eq!(check(EXEMPT, &exempt), NONE);
        let limited = json!({"type":"Limited","limited":{"limitResponse":{"type":"Reject"}}});
        let wrong = check(EXEMPT, &limited);
        assert!(wrong[1].ends_with("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"), "{wrong:?}");
        let response = json!({"type":"Reject"});
        let mut last = json!({"type":"Limited","limited":{"nominalConcurrencyShares":5,"lendablePercent":0,"limitResponse":response}});
        assert_eq!(check(CATCH_ALL, &last), NONE);
        last["limited"]["lendablePercent"] = json!(1);
        assert!(check(CATCH_ALL, &last)[0].ends_with("spec of 'catch-all' must equal the fixed value"));
    }

    #[test]
    fn statuses() {
        let object = json!({"status":{"conditions":[{"type":"a"},{"type":"a"},{"status":"True"}]}});
        for rule in [flow_schema_status, priority_level_status] {
            let mut causes = Vec::new();
            rule(&object, &object, &mut causes);
            assert_eq!(
                lines(causes),
                ["status.conditions[1].type: Duplicate value: \"a\"", "status.conditions[2].type: Required value: must not be empty"]
            );
        }
        for odd in [json!(null), json!([]), json!({"spec":{"rules":[null],"limited":[],"type":"Limited"}})] {
            assert!(!found(flow_schema, &odd, None).is_empty() && !found(priority_level, &odd, None).is_empty());
        }
    }
}
