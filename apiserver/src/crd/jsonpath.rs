//! As much JSONPath as columns of definitions use: members, indexes, wildcards and filters by equality.

use serde_json::Value;

/// Longest path that is read, in bytes.
const MAX_PATH: usize = 1024;
/// Most values that a path yields.
const MAX_FOUND: usize = 64;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    All,
    Filter { path: JsonPath, equal: bool, value: Value },
}

/// A path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads `.spec.ports[0].name`, `.status.conditions[?(@.type=="Ready")].status` and the like.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_PATH {
            return None;
        }
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (step, after) = bracket(after)?;
                steps.push(step);
                rest = after;
                continue;
            }
            let after = rest.strip_prefix('.').or_else(|| steps.is_empty().then_some(rest))?;
            if after.is_empty() {
                return steps.is_empty().then_some(Self(steps));
            }
            let (mut name, mut end, mut escaped) = (String::new(), after.len(), false);
            for (i, c) in after.char_indices() {
                match c {
                    '\\' if !escaped => escaped = true,
                    '.' | '[' if !escaped => {
                        end = i;
                        break;
                    }
                    c => {
                        name.push(c);
                        escaped = false;
                    }
                }
            }
            if name.is_empty() {
                return None;
            }
            steps.push(if name == "*" { Step::All } else { Step::Member(name) });
            rest = after.get(end..)?;
        }
        Some(Self(steps))
    }

    /// The members of a path that has nothing else, as scales and selectable fields want it.
    pub(super) fn members(text: &str) -> Option<Vec<String>> {
        text.strip_prefix('.')?;
        let steps = Self::parse(text)?.0.into_iter();
        let names: Option<Vec<String>> = steps.map(|step| if let Step::Member(name) = step { Some(name) } else { None }).collect();
        names.filter(|n| !n.is_empty())
    }

    /// What stands at the path.
    pub(super) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                match (step, value) {
                    (Step::Member(name), Value::Object(map)) => next.extend(map.get(name)),
                    (Step::Index(i), Value::Array(items)) => {
                        let at = if *i < 0 { items.len() as i64 + i } else { *i };
                        next.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
                    }
                    (Step::All, Value::Array(items)) => next.extend(items),
                    (Step::All, Value::Object(map)) => next.extend(map.values()),
                    (Step::Filter { path, equal, value }, Value::Array(items)) => {
                        next.extend(items.iter().filter(|item| path.find(item).contains(&value) == *equal));
                    }
                    _ => {}
                }
                if next.len() > MAX_FOUND {
                    next.truncate(MAX_FOUND);
                    break;
                }
            }
            found = next;
        }
        found
    }
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    if let Some(filter) = text.strip_prefix("?(") {
        let (inside, rest) = filter.split_once(")]")?;
        let (path, equal, value) = if let Some((path, value)) = inside.split_once("==") {
            (path, true, value)
        } else {
            let (path, value) = inside.split_once("!=")?;
            (path, false, value)
        };
        let path = JsonPath::parse(path.trim().strip_prefix('@')?)?;
        let value = value.trim();
        let quoted = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
        let value = match quoted('"').or_else(|| quoted('\'')) {
            Some(text) => text.into(),
            None => serde_json::from_str(value).ok()?,
        };
        return Some((Step::Filter { path, equal, value }, rest));
    }
    for quote in ['\'', '"'] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let (name, rest) = quoted.split_once(&format!("{quote}]"))?;
            return Some((Step::Member(name.to_owned()), rest));
        }
    }
    let (inside, rest) = text.split_once(']')?;
    let step = if inside == "*" { Step::All } else { Step::Index(inside.parse().ok()?) };
    Some((step, rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let value = json!({"spec": {"a.b": {"c": 1}, "list": [{"n": "x"}, {"n": "y"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        let find = |path: &str| -> Vec<Value> { JsonPath::parse(path).unwrap().find(&value).into_iter().cloned().collect() };
        assert_eq!(find(".spec.a\\.b.c"), [json!(1)]);
        assert_eq!(find(".spec['a.b'].c"), [json!(1)]);
        assert_eq!(find(".spec.list[*].n"), [json!("x"), json!("y")]);
        assert_eq!(find(".spec.list[-1].n"), [json!("y")]);
        assert_eq!(find(".status.conditions[?(@.type==\"Ready\")].status"), [json!("True")]);
        assert_eq!(find(".status.conditions[?(@.type=='None')].status"), Vec::<Value>::new());
        assert!(JsonPath::parse(".spec.list[").is_none() && JsonPath::parse(".spec..x").is_none());
        assert_eq!(JsonPath::members(".spec.replicas").unwrap(), ["spec", "replicas"]);
        assert!(JsonPath::members("spec.replicas").is_none() && JsonPath::members(".spec.list[0]").is_none());
    }
}
