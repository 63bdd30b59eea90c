//! Holds a value against a schema.

use serde_json::Value;

use crate::error::FieldError;
use crate::{Additional, Checks, MAX_DEPTH, MAX_ERRORS, Reason, Schema, Type, formats};

impl Schema {
    /// Finds what is wrong with a value, types and value validation; not lists' keys and not rules.
    pub fn validate(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check(self, value, "", 0, &mut errors);
        errors.truncate(MAX_ERRORS);
        errors
    }
}

/// The name of a value's type, as messages tell it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_none_or(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(kind: Type, value: &Value) -> bool {
    match (kind, type_of(value)) {
        (Type::Number, "integer") => true,
        (kind, name) => kind.name() == name,
    }
}

fn mismatch(path: &str, wanted: &str, value: &Value) -> FieldError {
    let found = type_of(value);
    FieldError::about(Reason::TypeInvalid, path, &found.into(), &format!("{path} in body must be of type {wanted}: {found:?}"))
}

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check(schema: &Schema, value: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if errors.len() >= MAX_ERRORS {
        return;
    }
    if depth > MAX_DEPTH {
        errors.push(FieldError::invalid(path, &Value::Null, "is nested too deeply"));
        return;
    }
    if value.is_null() {
        if let Some(kind) = schema.kind
            && !schema.nullable
        {
            errors.push(mismatch(path, kind.name(), value));
        } else if schema.int_or_string && !schema.nullable {
            errors.push(mismatch(path, "integer,string", value));
        }
        return;
    }
    if schema.int_or_string {
        if !matches!(type_of(value), "integer" | "string") {
            errors.push(mismatch(path, "integer,string", value));
        }
    } else if let Some(kind) = schema.kind
        && !is_of(kind, value)
    {
        errors.push(mismatch(path, kind.name(), value));
    }
    if let Some(checks) = &schema.checks {
        junctions(checks, value, path, depth, errors);
        match value {
            Value::String(text) => check_text(checks, text, value, path, errors),
            Value::Number(number) => check_number(checks, number, value, path, errors),
            Value::Array(items) => check_items(checks, items, value, path, errors),
            _ => {}
        }
        if !checks.enumeration.is_empty() && !checks.enumeration.iter().any(|e| same(e, value)) {
            let names: Vec<String> = checks.enumeration.iter().map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned)).collect();
            errors.push(FieldError::not_supported(path, value, &names));
        }
    }
    match value {
        Value::Array(items) => {
            if let Some(below) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    check(below, item, &format!("{path}[{i}]"), depth + 1, errors);
                }
            }
        }
        Value::Object(map) => {
            if let Some(checks) = &schema.checks {
                if let Some(least) = checks.min_properties.filter(|least| (map.len() as u64) < *least) {
                    let detail = format!("{path} in body should have at least {least} properties");
                    errors.push(FieldError::invalid(path, &least.into(), &detail));
                }
                if let Some(most) = checks.max_properties.filter(|most| map.len() as u64 > *most) {
                    errors.push(FieldError::too_many(path, map.len(), most));
                }
                for name in checks.required.iter().filter(|name| !map.contains_key(&***name)) {
                    errors.push(FieldError::required(&child(path, name), ""));
                }
            }
            for (name, value) in map {
                if let Some(below) = schema.properties.get(name.as_str()) {
                    check(below, value, &child(path, name), depth + 1, errors);
                    continue;
                }
                match &schema.additional {
                    Some(Additional::Of(below)) => check(below, value, &child(path, name), depth + 1, errors),
                    Some(Additional::Any(false)) => {
                        let detail = format!("{path}.{name} in body is a forbidden property");
                        errors.push(FieldError::invalid(path, &name.as_str().into(), &detail));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Whether two values are equal; numbers by what they are worth.
fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64())
}

fn matches(schema: &Schema, value: &Value, path: &str, depth: usize) -> Result<(), Vec<FieldError>> {
    let mut errors = Vec::new();
    check(schema, value, path, depth + 1, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// allOf, anyOf, oneOf and not. The errors of the best alternative are told, as the one that is most likely meant.
fn junctions(checks: &Checks, value: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    let whole = |detail: String| FieldError::invalid("", &"".into(), &detail);
    if !checks.any_of.is_empty() {
        let mut best: Option<Vec<FieldError>> = None;
        let mut any = false;
        for schema in &checks.any_of {
            match matches(schema, value, path, depth) {
                Ok(()) => {
                    any = true;
                    break;
                }
                Err(found) => best = best.filter(|b| b.len() <= found.len()).or(Some(found)),
            }
        }
        if !any {
            errors.push(whole(format!("{path:?} must validate at least one schema (anyOf)")));
            errors.extend(best.unwrap_or_default());
        }
    }
    if !checks.one_of.is_empty() {
        let mut best: Option<Vec<FieldError>> = None;
        let mut valid = 0_usize;
        for schema in &checks.one_of {
            match matches(schema, value, path, depth) {
                Ok(()) => valid += 1,
                Err(found) => best = best.filter(|b| b.len() <= found.len()).or(Some(found)),
            }
        }
        if valid != 1 {
            let found = if valid == 0 { "Found none valid".to_owned() } else { format!("Found {valid} valid alternatives") };
            errors.push(whole(format!("{path:?} must validate one and only one schema (oneOf). {found}")));
            if valid == 0 {
                errors.extend(best.unwrap_or_default());
            }
        }
    }
    if !checks.all_of.is_empty() {
        let mut valid = 0_usize;
        let mut found = Vec::new();
        for schema in &checks.all_of {
            match matches(schema, value, path, depth) {
                Ok(()) => valid += 1,
                Err(more) => found.extend(more),
            }
        }
        if valid < checks.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            errors.push(whole(format!("{path:?} must validate all the schemas (allOf){none}")));
            errors.extend(found);
        }
    }
    if let Some(not) = &checks.not
        && matches(not, value, path, depth).is_ok()
    {
        errors.push(whole(format!("{path:?} must not validate the schema (not)")));
    }
}

fn check_text(checks: &Checks, text: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let length = || text.chars().count() as u64;
    if let Some(most) = checks.max_length.filter(|most| text.len() as u64 > *most && length() > *most) {
        errors.push(FieldError::too_long(path, most));
    }
    if let Some(least) = checks.min_length.filter(|least| length() < *least) {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be at least {least} chars long")));
    }
    if let Some(pattern) = checks.pattern.as_ref().filter(|p| !p.matches(text)) {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should match '{}'", pattern.text)));
    }
    if let Some(format) = checks.format.as_ref().filter(|f| !formats::matches(f, text)) {
        let detail = format!("{path} in body must be of type {format}: {text:?}");
        errors.push(FieldError::about(Reason::TypeInvalid, path, value, &detail));
    }
}

fn check_number(checks: &Checks, number: &serde_json::Number, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(is) = number.as_f64() else { return };
    if let Some(factor) = checks.multiple_of.filter(|factor| *factor > 0.0) {
        let quotient = is / factor;
        if (quotient - quotient.round()).abs() > f64::EPSILON * quotient.abs().max(1.0) {
            errors.push(FieldError::invalid(path, value, &format!("{path} in body should be a multiple of {factor}")));
        }
    }
    if let Some(most) = checks.maximum
        && (is > most || (checks.exclusive_maximum && is >= most))
    {
        let bound = if checks.exclusive_maximum { "less than" } else { "less than or equal to" };
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be {bound} {most}")));
    }
    if let Some(least) = checks.minimum
        && (is < least || (checks.exclusive_minimum && is <= least))
    {
        let bound = if checks.exclusive_minimum { "greater than" } else { "greater than or equal to" };
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be {bound} {least}")));
    }
}

fn check_items(checks: &Checks, items: &[Value], value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let count = items.len() as u64;
    if let Some(least) = checks.min_items.filter(|least| count < *least) {
        errors.push(FieldError::invalid(path, &count.into(), &format!("{path} in body should have at least {least} items")));
    }
    if let Some(most) = checks.max_items.filter(|most| count > *most) {
        errors.push(FieldError::too_many(path, items.len(), most));
    }
    if checks.unique_items {
        let mut seen = std::collections::HashSet::new();
        if !items.iter().all(|item| seen.insert(item.to_string())) {
            errors.push(FieldError::invalid(path, value, &format!("{path} in body shouldn't contain duplicates")));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(schema: Value, value: Value) -> Vec<String> {
        Schema::compile(&schema).unwrap().validate(&value).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn kubernetes_texts() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["image"], "properties": {
            "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)$", "maxLength": 5},
            "image": {"type": "string"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "port": {"x-kubernetes-int-or-string": true},
            "tags": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            "when": {"type": "string", "format": "date-time"},
            "half": {"type": "number", "multipleOf": 0.5, "minimum": 0, "exclusiveMinimum": true},
        }}}});
        let value =
            json!({"spec": {"cronSpec": "* *", "replicas": 15, "mode": "c", "port": true, "tags": ["a", 1], "when": "now", "half": 0}});
        let mut all = told(schema.clone(), value);
        all.sort();
        assert_eq!(
            all,
            [
                "spec.cronSpec: Invalid value: \"* *\": spec.cronSpec in body should match '^(\\d+|\\*)$'",
                "spec.half: Invalid value: 0: spec.half in body should be greater than 0",
                "spec.image: Required value",
                "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
                "spec.replicas: Invalid value: 15: spec.replicas in body should be less than or equal to 10",
                "spec.tags: Too many: 2: must have at most 1 items",
                "spec.tags[1]: Invalid value: \"integer\": spec.tags[1] in body must be of type string: \"integer\"",
                "spec.when: Invalid value: \"now\": spec.when in body must be of type date-time: \"now\"",
            ]
        );
        let value = json!({"spec": {"image": "x", "replicas": 2.0, "port": "http", "half": 1.5, "cronSpec": "*"}});
        assert_eq!(told(schema.clone(), value), Vec::<String>::new());
        assert_eq!(
            told(schema, json!({"spec": {"image": "x", "replicas": "15"}})),
            ["spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""]
        );
    }

    #[test]
    fn junctions_of_schemas() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}}}});
        assert_eq!(told(schema.clone(), json!({"spec": {"a": "x"}})), Vec::<String>::new());
        let none = told(schema.clone(), json!({"spec": {}}));
        assert_eq!(none[0], "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid");
        let both = told(schema.clone(), json!({"spec": {"a": "x", "b": "y"}}));
        assert_eq!(
            both,
            ["<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives"]
        );
        let not = told(schema, json!({"spec": {"a": "x", "c": "y"}}));
        assert_eq!(not, ["<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)"]);
    }

    #[test]
    fn lengths_count_code_points() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 3, "minLength": 2}}});
        assert_eq!(told(schema.clone(), json!({"a": "äöü"})), Vec::<String>::new());
        assert_eq!(told(schema.clone(), json!({"a": "ä"})), ["a: Invalid value: \"ä\": a in body should be at least 2 chars long"]);
        assert_eq!(told(schema, json!({"a": "abcd"})), ["a: Too long: may not be more than 3 bytes"]);
    }
}
