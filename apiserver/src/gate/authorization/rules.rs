//! What a PolicyRule allows, and whether rules cover other rules.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::request::RequestInfo;

/// Most single permissions that a role may break down into when it is checked for escalation.
pub const MAX_PERMISSIONS: usize = 100_000;
const ALL: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

fn has_in(list: Option<&Vec<String>>, wanted: &str) -> bool {
    list.is_some_and(|list| has(list, wanted))
}

/// `combined` is `resource` or `resource/subresource`.
fn resource_matches(rule: &str, combined: &str) -> bool {
    let any_with = |sub: &str| combined.split_once('/').is_some_and(|(_, asked)| asked == sub);
    rule == ALL || rule == combined || rule.strip_prefix("*/").is_some_and(any_with)
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == ALL || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// Whether a rule allows a request.
pub fn allows(rule: &PolicyRule, request: &RequestInfo) -> bool {
    if !has(&rule.verbs, &request.verb) {
        return false;
    }
    if !request.is_resource {
        return rule.non_resource_urls.iter().flatten().any(|url| url_matches(url, &request.path));
    }
    let combined;
    let resource = if request.subresource.is_empty() {
        &request.resource
    } else {
        combined = format!("{}/{}", request.resource, request.subresource);
        &combined
    };
    let names = rule.resource_names.as_deref().unwrap_or_default();
    has_in(rule.api_groups.as_ref(), &request.group)
        && rule.resources.iter().flatten().any(|r| resource_matches(r, resource))
        && (names.is_empty() || names.contains(&request.name))
}

/// One permission.
struct Permission<'a> {
    verb: &'a str,
    on: On<'a>,
}

enum On<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
    Url(&'a str),
}

fn permits(rule: &PolicyRule, wanted: &Permission<'_>) -> bool {
    has(&rule.verbs, wanted.verb)
        && match &wanted.on {
            On::Url(url) => {
                let covers = |owned: &String| owned == url || url_matches(owned, url);
                rule.non_resource_urls.iter().flatten().any(covers)
            }
            On::Resource { group, resource, name } => {
                let names = rule.resource_names.as_deref().unwrap_or_default();
                has_in(rule.api_groups.as_ref(), group)
                    && rule.resources.iter().flatten().any(|r| resource_matches(r, resource))
                    && (names.is_empty() || name.is_some_and(|name| names.iter().any(|n| n == name)))
            }
        }
}

/// The first of `wanted` that `owned` does not cover, in words; `None` when all are covered. Rules too large to check
/// are not covered.
pub fn uncovered(owned: &[&PolicyRule], wanted: &[PolicyRule]) -> Option<String> {
    let mut budget = MAX_PERMISSIONS;
    for rule in wanted {
        let none: [Option<&str>; 1] = [None];
        let names: Vec<Option<&str>> = rule.resource_names.iter().flatten().map(|n| Some(n.as_str())).collect();
        let names: &[Option<&str>] = if names.is_empty() { &none } else { &names };
        let groups = rule.api_groups.iter().flatten();
        let mut permissions = Vec::new();
        for verb in &rule.verbs {
            for group in groups.clone() {
                for resource in rule.resources.iter().flatten() {
                    permissions.extend(names.iter().map(|name| Permission { verb, on: On::Resource { group, resource, name: *name } }));
                    if permissions.len() > budget {
                        return Some("the rules are too many to check".into());
                    }
                }
            }
            permissions.extend(rule.non_resource_urls.iter().flatten().map(|url| Permission { verb, on: On::Url(url) }));
        }
        budget = budget.saturating_sub(permissions.len());
        if permissions.iter().any(|p| !owned.iter().any(|rule| permits(rule, p))) {
            return Some(describe(rule));
        }
    }
    None
}

/// A rule as Kubernetes prints it in refusals.
fn describe(rule: &PolicyRule) -> String {
    let list = |items: &[String]| items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(" ");
    let mut parts = Vec::new();
    for (name, items) in [
        ("APIGroups", rule.api_groups.as_deref()),
        ("Resources", rule.resources.as_deref()),
        ("ResourceNames", rule.resource_names.as_deref()),
        ("NonResourceURLs", rule.non_resource_urls.as_deref()),
        ("Verbs", Some(rule.verbs.as_slice())),
    ] {
        if let Some(items) = items.filter(|i| !i.is_empty()) {
            parts.push(format!("{name}:[{}]", list(items)));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            verbs: own(verbs),
            api_groups: Some(own(groups)),
            resources: Some(own(resources)),
            resource_names: Some(own(names)),
            non_resource_urls: None,
        }
    }
    fn request(verb: &str, group: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn decisions() {
        let cases = [
            (rule(&["get"], &[""], &["pods"], &[]), request("get", "", "pods", "", "p"), true),
            (rule(&["get"], &[""], &["pods"], &[]), request("list", "", "pods", "", ""), false),
            (rule(&["get"], &[""], &["pods"], &[]), request("get", "", "pods", "log", "p"), false),
            (rule(&["get"], &[""], &["pods/log"], &[]), request("get", "", "pods", "log", "p"), true),
            (rule(&["get"], &[""], &["*/log"], &[]), request("get", "", "pods", "log", "p"), true),
            (rule(&["get"], &[""], &["*/log"], &[]), request("get", "", "pods", "exec", "p"), false),
            (rule(&["*"], &["*"], &["*"], &[]), request("create", "apps", "deployments", "scale", "d"), true),
            (rule(&["get"], &["apps"], &["pods"], &[]), request("get", "", "pods", "", "p"), false),
            (rule(&["get"], &[""], &["pods"], &["p"]), request("get", "", "pods", "", "p"), true),
            (rule(&["get"], &[""], &["pods"], &["p"]), request("get", "", "pods", "", "q"), false),
            (rule(&["create"], &[""], &["pods"], &["p"]), request("create", "", "pods", "", ""), false),
        ];
        for (rule, request, expected) in cases {
            assert_eq!(allows(&rule, &request), expected, "{rule:?} {request:?}");
        }
    }

    #[test]
    fn paths() {
        let mut rule = rule(&["get"], &["*"], &["*"], &[]);
        let get = |path: &str| RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() };
        assert!(!allows(&rule, &get("/metrics")), "resources are not paths");
        rule.non_resource_urls = Some(vec!["/api/*".into(), "/metrics".into()]);
        assert!(allows(&rule, &get("/metrics")) && allows(&rule, &get("/api/v1")));
        assert!(!allows(&rule, &get("/api")) && !allows(&rule, &get("/metricsx")));
    }

    #[test]
    fn covering() {
        let owner = [rule(&["get", "list"], &[""], &["pods"], &[]), rule(&["*"], &["apps"], &["*"], &["d"])];
        let owned: Vec<&PolicyRule> = owner.iter().collect();
        assert_eq!(uncovered(&owned, &[rule(&["get"], &[""], &["pods"], &["p"])]), None);
        assert_eq!(uncovered(&owned, &[rule(&["delete"], &["apps"], &["deployments/scale"], &["d"])]), None);
        assert!(uncovered(&owned, &[rule(&["delete"], &["apps"], &["deployments"], &[])]).is_some());
        assert!(uncovered(&owned, &[rule(&["get"], &[""], &["secrets"], &[])]).is_some());
        assert!(uncovered(&owned, &[rule(&["*"], &[""], &["pods"], &[])]).is_some());
    }
}
