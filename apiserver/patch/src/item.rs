//! What the items of lists are called in sets of fields.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use crate::fields::{Kind, Step};
use crate::shape::{Key, Rule, Shape};

/// Names the items of one list.
pub(crate) struct Names<'a> {
    rule: Rule,
    keys: Vec<Key<'a>>,
}

impl<'a> Names<'a> {
    pub(crate) fn of<S: Shape<'a>>(shape: S) -> Self {
        let rule = shape.rule();
        Self { rule, keys: if rule == Rule::Keyed { shape.keys() } else { Vec::new() } }
    }

    /// `k:{"name":"a"}` or `v:"a"`; `None` for an item that lacks its keys.
    pub(crate) fn name(&self, item: &Value) -> Option<Step<'static>> {
        if self.rule == Rule::Set {
            return Some(Step { kind: Kind::Value, text: Cow::Owned(item.to_string()) });
        }
        let mut out = String::from("{");
        for key in &self.keys {
            let Some(value) = item.get(key.name).filter(|v| !v.is_null()).or(key.default.as_ref()) else { continue };
            if out.len() > 1 {
                out.push(',');
            }
            out.push('"');
            out.push_str(key.name);
            out.push_str("\":");
            match value {
                // Most keys are names, in which nothing is escaped.
                Value::String(text) if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./: ".contains(&b)) => {
                    out.push('"');
                    out.push_str(text);
                    out.push('"');
                }
                other => out.push_str(&other.to_string()),
            }
        }
        if out.len() == 1 {
            return None;
        }
        out.push('}');
        Some(Step { kind: Kind::Keys, text: Cow::Owned(out) })
    }

    /// Where each item is; of several of one name the first.
    pub(crate) fn index(&self, list: &[Value]) -> HashMap<Step<'static>, usize> {
        let mut index = HashMap::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            if let Some(name) = self.name(item) {
                index.entry(name).or_insert(at);
            }
        }
        index
    }

    /// The keys' names, as messages tell them.
    pub(crate) fn keys(&self) -> String {
        let names: Vec<String> = self.keys.iter().map(|k| format!("{:?}", k.name)).collect();
        format!("[{}]", names.join(" "))
    }
}
