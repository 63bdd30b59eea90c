//! Runs `x-kubernetes-validations` over an object.

use serde_json::Value;
use wharf_cel::{Budget, Rule, Shape, Verdict};

use crate::{FieldError, ListType, MAX_DEPTH, MAX_ERRORS, MapType, Reason, Schema};

/// What running the rules of an object came to.
#[derive(Debug, Default)]
pub struct RuleOutcome {
    /// What refuses the object.
    pub errors: Vec<FieldError>,
    /// What would have, had the values not been there before: told as warnings.
    pub warnings: Vec<String>,
}

impl Shape for Schema {
    fn property(&self, name: &str) -> Option<&dyn Shape> {
        self.properties.get(name).map(|s| s as &dyn Shape)
    }
    fn values(&self) -> Option<&dyn Shape> {
        Schema::values(self).map(|s| s as &dyn Shape)
    }
    fn items(&self) -> Option<&dyn Shape> {
        self.items.as_deref().map(|s| s as &dyn Shape)
    }
    fn type_name(&self) -> &str {
        self.kind.map_or("", |k| k.name())
    }
    fn format(&self) -> &str {
        self.checks.as_ref().and_then(|c| c.format.as_deref()).unwrap_or_default()
    }
    fn is_int_or_string(&self) -> bool {
        self.int_or_string
    }
    fn hides_unknown(&self) -> bool {
        self.kind == Some(crate::Type::Object) && Schema::values(self).is_none()
    }
    fn is_resource(&self) -> bool {
        self.embedded
    }
    fn is_set(&self) -> bool {
        self.list_type == ListType::Set
    }
    fn map_keys(&self) -> &[Box<str>] {
        if self.list_type == ListType::Map { &self.list_map_keys } else { &[] }
    }
    fn max_length(&self) -> Option<u64> {
        self.checks.as_ref().and_then(|c| c.max_length)
    }
    fn max_items(&self) -> Option<u64> {
        self.checks.as_ref().and_then(|c| c.max_items)
    }
    fn max_properties(&self) -> Option<u64> {
        self.checks.as_ref().and_then(|c| c.max_properties)
    }
}

struct Run<'a> {
    budget: Budget,
    outcome: RuleOutcome,
    root: &'a Schema,
}

/// A value beside what it was; `None` for what is new or cannot be told to be the same one.
#[derive(Clone, Copy)]
struct Pair<'a> {
    new: &'a Value,
    old: Option<&'a Value>,
    /// Whether the nearest part that can be compared is as it was.
    unchanged: bool,
}

impl<'a> Pair<'a> {
    fn below(self, new: &'a Value, old: Option<&'a Value>, comparable: bool) -> Self {
        let unchanged = if comparable && old.is_some() { old == Some(new) } else { self.unchanged };
        Self { new, old: old.filter(|_| comparable), unchanged }
    }
}

impl Schema {
    /// Runs all rules over an object, and over what it replaces where there is such. Rules that refuse a part that is as it was are
    /// warnings alone, unless they compare with it.
    pub fn run_rules(&self, new: &Value, old: Option<&Value>) -> RuleOutcome {
        let mut run = Run { budget: Budget::object(), outcome: RuleOutcome::default(), root: self };
        if self.has_rules {
            let pair = Pair { new, old, unchanged: old == Some(new) };
            run.walk(self, pair, "", 0);
        }
        run.outcome
    }
}

impl Run<'_> {
    /// Answers whether to go on.
    fn walk(&mut self, schema: &Schema, pair: Pair<'_>, path: &str, depth: usize) -> bool {
        if !schema.has_rules || pair.new.is_null() || depth > MAX_DEPTH || self.outcome.errors.len() >= MAX_ERRORS {
            return true;
        }
        for rule in &schema.rules {
            if !self.one(rule, schema, pair, path) {
                return false;
            }
        }
        match pair.new {
            Value::Object(map) => {
                let comparable = schema.map_type == MapType::Granular;
                for (name, child) in map {
                    let (below, path) = if let Some(below) = schema.properties.get(name.as_str()) {
                        (below, if path.is_empty() { name.clone() } else { format!("{path}.{name}") })
                    } else if let Some(below) = schema.values() {
                        (below, format!("{path}[{name}]"))
                    } else {
                        continue;
                    };
                    let old = pair.old.and_then(|o| o.get(name));
                    if !self.walk(below, pair.below(child, old, comparable), &path, depth + 1) {
                        return false;
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &schema.items else { return true };
                for (i, item) in items.iter().enumerate() {
                    let is_map = schema.list_type == ListType::Map;
                    let same_keys = |o: &&Value| schema.list_map_keys.iter().all(|key| o.get(&**key) == item.get(&**key));
                    let old = pair.old.and_then(Value::as_array).filter(|_| is_map).and_then(|old| old.iter().find(same_keys));
                    if !self.walk(below, pair.below(item, old, is_map), &format!("{path}[{i}]"), depth + 1) {
                        return false;
                    }
                }
            }
            _ => {}
        }
        true
    }

    fn one(&mut self, rule: &Rule, schema: &Schema, pair: Pair<'_>, path: &str) -> bool {
        let whole = std::ptr::eq(schema, self.root) || schema.embedded;
        let kind = schema.kind.map_or("", |k| k.name());
        let (detail, go_on, located) = match rule.evaluate(schema, whole, pair.new, pair.old, &mut self.budget) {
            Verdict::Holds | Verdict::Skipped => return true,
            Verdict::Fails { message } => (message, true, true),
            Verdict::Error { message } => (message, true, false),
            Verdict::Exhausted { message } => (message, false, false),
        };
        let at = match rule.field_path() {
            Some(field) if located => format!("{path}{field}").trim_start_matches('.').to_owned(),
            _ => path.to_owned(),
        };
        let error = match rule.reason() {
            "FieldValueForbidden" if located => FieldError::forbidden(&at, &detail),
            "FieldValueRequired" if located => FieldError::required(&at, &detail),
            "FieldValueDuplicate" if located => FieldError::about(Reason::Duplicate, &at, &kind.into(), ""),
            _ => FieldError::invalid(&at, &kind.into(), &detail),
        };
        if located && pair.unchanged && !rule.is_transition() {
            self.outcome.warnings.push(error.to_string());
        } else {
            self.outcome.errors.push(error);
        }
        go_on
    }
}

impl Schema {
    /// Finds rules that do not compile; `path` is that of the schema. What a rule costs is limited where it runs.
    pub fn check_rules(&self, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check(self, path, 0, &mut errors);
        errors.truncate(MAX_ERRORS);
        errors
    }
}

fn check(schema: &Schema, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if !schema.has_rules || depth > MAX_DEPTH || errors.len() > MAX_ERRORS {
        return;
    }
    for (i, rule) in schema.rules.iter().enumerate() {
        let path = format!("{path}.x-kubernetes-validations[{i}]");
        if rule.source().is_empty() {
            errors.push(FieldError::required(&format!("{path}.rule"), "rule is not specified"));
            continue;
        }
        if let Err(error) = rule.compiled() {
            errors.push(FieldError::invalid(&format!("{path}.rule"), &rule.source().into(), &error.to_string()));
        }
        if let Err(error) = rule.check_message() {
            errors.push(FieldError::invalid(&format!("{path}.messageExpression"), &rule.message_expression().into(), &error.to_string()));
        }
    }
    for (name, below) in &schema.properties {
        check(below, &format!("{path}.properties[{name}]"), depth + 1, errors);
    }
    if let Some(below) = schema.values() {
        check(below, &format!("{path}.additionalProperties"), depth + 1, errors);
    }
    if let Some(below) = &schema.items {
        check(below, &format!("{path}.items"), depth + 1, errors);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_at_their_places() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min above max", "fieldPath": ".min"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"},
                "class": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]}}}}}))
        .unwrap();
        assert_eq!(schema.check_rules("s"), []);
        let told = |new: Value, old: Option<Value>| -> Vec<String> {
            schema.run_rules(&new, old.as_ref()).errors.iter().map(ToString::to_string).collect()
        };
        let good = json!({"spec": {"min": 1, "max": 2, "class": "a"}});
        let bad = json!({"spec": {"min": 3, "max": 2, "class": "b"}});
        assert_eq!(told(good.clone(), None), Vec::<String>::new());
        let refused = "spec.min: Invalid value: \"object\": min above max";
        assert_eq!(told(bad.clone(), None), [refused]);
        assert_eq!(told(bad.clone(), Some(good)), [refused, "spec.class: Invalid value: \"string\": immutable"]);
        // What was wrong before, and is untouched, is a warning alone.
        let outcome = schema.run_rules(&bad, Some(&bad));
        assert_eq!((outcome.errors.len(), outcome.warnings), (0, vec![refused.to_owned()]));
    }

    #[test]
    fn malformed_rules_are_told_with_their_place() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"a": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self =="}, {"rule": "other == 1"}]}}}))
        .unwrap();
        let errors = schema.check_rules("s");
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["s.properties[a].x-kubernetes-validations[0].rule", "s.properties[a].x-kubernetes-validations[1].rule"]);
        assert!(errors[1].message.contains("undeclared reference to 'other'"), "{}", errors[1]);
    }
}
