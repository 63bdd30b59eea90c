//! Which writes a webhook or a policy is about.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_core::selector::Selector;

use crate::resources::Resource;
use crate::resources::value::{at, items, text};
use crate::rest::Registry;
use crate::rest::admission::{AdmissionRequest, Operation};
use crate::rest::read::ReadAt;

/// What a write of one of these is never held up by: or nobody could mend a mistake.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether a write is one that nothing configured may hold up.
pub(super) fn is_exempt(request: &AdmissionRequest) -> bool {
    request.group == "admissionregistration.k8s.io" && EXEMPT.contains(&request.resource.as_str())
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<(String, String)>,
    names: Vec<String>,
    scope: String,
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    items(value, &[name]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// As reviews name it.
pub(super) fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let split = |resource: String| match resource.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (resource, String::new()),
        };
        Self {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources").into_iter().map(split).collect(),
            names: texts(rule, "resourceNames"),
            scope: text(rule, &["scope"]).to_owned(),
        }
    }

    /// Whether it is about a request, had that been made in some group and version.
    fn matches(&self, request: &AdmissionRequest, group: &str, version: &str) -> bool {
        let of = |(resource, sub): &(String, String)| {
            (resource == "*" || *resource == request.resource) && (sub == "*" || *sub == request.subresource)
        };
        let is_namespace = request.group.is_empty() && request.resource == "namespaces";
        let in_scope = match self.scope.as_str() {
            "Namespaced" => !is_namespace && !request.namespace.is_empty(),
            "Cluster" => is_namespace || request.namespace.is_empty(),
            _ => true,
        };
        in_scope
            && has(&self.operations, operation(request.operation))
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.resources.iter().any(of)
            && (self.names.is_empty() || self.names.contains(&request.name))
    }
}

/// Which writes something is about.
#[derive(Debug)]
pub(super) struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: Option<Selector>,
    objects: Option<Selector>,
}

/// How a write that matches is shown: in another version than it was made in, where only that one matches.
#[derive(Debug, Clone)]
pub(super) struct Matched {
    /// The resource in that version.
    pub(super) row: Option<Arc<Resource>>,
}

/// Nothing, where it does not parse.
fn selector(value: &Value, name: &str) -> Option<Selector> {
    let Some(found) = at(value, &[name]) else { return Some(Selector::default()) };
    serde_json::from_value::<LabelSelector>(found.clone()).ok().and_then(|s| Selector::from_object(&s).ok())
}

impl Matching {
    /// Reads a webhook, whose rules are called so, or the constraints of a policy.
    pub(super) fn read(value: &Value) -> Self {
        let rules = |name: &str| items(value, &[name]).iter().map(Rule::read);
        Self {
            rules: rules("rules").chain(rules("resourceRules")).collect(),
            excluded: rules("excludeResourceRules").collect(),
            equivalent: text(value, &["matchPolicy"]) != "Exact",
            namespaces: selector(value, "namespaceSelector"),
            objects: selector(value, "objectSelector"),
        }
    }

    fn by_rules(&self, registry: &Registry, request: &AdmissionRequest) -> Option<Matched> {
        let direct = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(request, &request.group, &request.version));
        if direct(&self.excluded) {
            return None;
        }
        if direct(&self.rules) {
            return Some(Matched { row: None });
        }
        let row = request.row.as_ref().filter(|_| self.equivalent)?;
        let table = registry.table();
        let same = |other: &&Arc<Resource>| other.storage == row.storage && (other.group != row.group || other.version != row.version);
        let found = table.iter().filter(same).find(|other| {
            let about = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(request, &other.group, &other.version));
            about(&self.rules) && !about(&self.excluded)
        })?;
        Some(Matched { row: Some(found.clone()) })
    }

    async fn by_namespace(&self, registry: &Registry, request: &AdmissionRequest, object: &Value) -> Result<bool, ApiError> {
        let Some(selector) = &self.namespaces else { return Ok(false) };
        let is_namespace = request.group.is_empty() && request.resource == "namespaces";
        if selector.is_everything() || (request.namespace.is_empty() && !is_namespace) {
            return Ok(true);
        }
        if is_namespace && request.subresource.is_empty() && matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(selects(selector, object));
        }
        let name = if is_namespace { &request.name } else { &request.namespace };
        let found = namespace(registry, name).await?;
        Ok(selector.matches_opt(found.meta().labels.as_ref()))
    }

    /// Whether a write is one that this is about, and how it is to be shown. Of a deletion `object` is null.
    ///
    /// # Errors
    /// That the namespace does not exist.
    pub(super) async fn of(&self, registry: &Registry, request: &AdmissionRequest, object: &Value) -> Result<Option<Matched>, ApiError> {
        let Some(matched) = self.by_rules(registry, request) else { return Ok(None) };
        let Some(objects) = &self.objects else { return Ok(None) };
        let old = request.old.as_deref().unwrap_or(&Value::Null);
        if !objects.is_everything() && !selects(objects, object) && !selects(objects, old) {
            return Ok(None);
        }
        Ok(self.by_namespace(registry, request, object).await?.then_some(matched))
    }
}

/// The namespace of a write.
async fn namespace(registry: &Registry, name: &str) -> Result<Arc<wharf_core::object::Object>, ApiError> {
    let row = registry.row("", "v1", "namespaces").ok_or_else(crate::rest::status::no_such_path)?;
    match registry.get(&row, "", name, ReadAt::Any).await {
        Err(error) if error.is_not_found() => registry.get(&row, "", name, ReadAt::Newest).await,
        other => other,
    }
}

/// Whether a selector selects an object by its labels; what is no object is never selected.
fn selects(selector: &Selector, object: &Value) -> bool {
    if !object.is_object() {
        return false;
    }
    let labels = at(object, &["metadata", "labels"]).and_then(|labels| serde_json::from_value(labels.clone()).ok());
    selector.matches_opt(labels.as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::User;

    fn request(group: &str, resource: &str, sub: &str, namespace: &str, operation: Operation) -> AdmissionRequest {
        AdmissionRequest {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: namespace.into(),
            name: "a".into(),
            ..AdmissionRequest::new(Arc::new(User::master("a")), operation)
        }
    }

    #[test]
    fn rules() {
        let rule = |resources: Value, scope: &str| {
            Rule::read(&json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"], "resources": resources, "scope": scope}))
        };
        let matches = |rule: &Rule, request: &AdmissionRequest| rule.matches(request, &request.group, &request.version);
        let pod = request("", "pods", "", "n", Operation::Create);
        let status = request("", "pods", "status", "n", Operation::Create);
        for (resources, of_pod, of_status) in [
            (json!(["pods"]), true, false),
            (json!(["*"]), true, false),
            (json!(["pods/*"]), true, true),
            (json!(["*/*"]), true, true),
            (json!(["pods/status"]), false, true),
            (json!(["*/status"]), false, true),
            (json!(["services"]), false, false),
        ] {
            let rule = rule(resources.clone(), "*");
            assert_eq!((matches(&rule, &pod), matches(&rule, &status)), (of_pod, of_status), "{resources}");
        }
        assert!(!matches(&rule(json!(["*"]), "*"), &request("apps", "pods", "", "n", Operation::Create)));
        assert!(!matches(&rule(json!(["*"]), "*"), &request("", "pods", "", "n", Operation::Update)));
        let (namespace, node) = (request("", "namespaces", "", "n", Operation::Create), request("", "nodes", "", "", Operation::Create));
        for (scope, wanted) in [("*", [true, true, true]), ("Namespaced", [true, false, false]), ("Cluster", [false, true, true])] {
            let rule = rule(json!(["*"]), scope);
            assert_eq!([&pod, &namespace, &node].map(|request| matches(&rule, request)), wanted, "{scope}");
        }
        let named = Rule::read(
            &json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["*"], "resourceNames": ["a", "b"]}),
        );
        assert!(matches(&named, &pod) && !matches(&named, &AdmissionRequest { name: "c".into(), ..pod.clone() }));
    }
}
