//! `metadata.managedFields`: who owns what.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::fields::{self, Fields};

/// Most entries of updates; the oldest beyond them become one.
const MAX_UPDATE_MANAGERS: usize = 10;
/// What the merged entries are named.
const ANCIENT: &str = "ancient-changes";
/// Most entries that are read. Kubernetes has no such bound but that of a request's bytes.
const MAX_ENTRIES: usize = 1_024;

/// How a manager wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub operation: Operation,
    pub time: String,
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
    pub fields: Fields,
}

impl Entry {
    /// Whether both are the same manager's: an applier keeps its entry when it applies another version.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As messages name its manager.
    pub(crate) fn told(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn read(value: Value) -> Result<Self, &'static str> {
        let Value::Object(mut map) = value else { return Err("an entry must be an object") };
        let operation = match map.get("operation").and_then(Value::as_str) {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`"),
        };
        if map.get("fieldsType").and_then(Value::as_str) != Some("FieldsV1") {
            return Err("fieldsType must be `FieldsV1`");
        }
        let fields = match map.remove("fieldsV1") {
            None | Some(Value::Null) => Fields::new(),
            Some(fields) if !fields::is_valid(&fields) => return Err("fieldsV1 must be a set of fields"),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err("fieldsV1 must be an object"),
        };
        let mut text = |name: &str| match map.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty");
        }
        Ok(Self { operation, time: text("time"), manager: text("manager"), api_version, subresource: text("subresource"), fields })
    }

    fn write(self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: String| {
            if !value.is_empty() {
                out.insert(name.into(), value.into());
            }
        };
        put("apiVersion", self.api_version);
        put("fieldsType", "FieldsV1".into());
        put("manager", self.manager);
        put("operation", self.operation.name().into());
        put("subresource", self.subresource);
        put("time", self.time);
        out.insert("fieldsV1".into(), Value::Object(self.fields));
        Value::Object(out)
    }
}

/// Whether a client sent a list that says: nobody owns anything.
pub(crate) fn is_reset(sent: &Value) -> bool {
    match sent {
        Value::Array(list) => match list.as_slice() {
            [] => true,
            [one] => one.as_object().is_some_and(Map::is_empty),
            _ => false,
        },
        _ => false,
    }
}

/// Reads a list of entries.
pub(crate) fn read(list: Value) -> Result<Vec<Entry>, &'static str> {
    match list {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) if list.len() > MAX_ENTRIES => Err("there are too many entries"),
        Value::Array(list) => list.into_iter().map(Entry::read).collect(),
        _ => Err("a list is expected"),
    }
}

/// Writes a list of entries in Kubernetes' order.
pub(crate) fn write(mut entries: Vec<Entry>) -> Value {
    fn order(e: &Entry) -> (Operation, &str, &str, &str, &str) {
        (e.operation, &e.time, &e.manager, &e.api_version, &e.subresource)
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    Value::Array(entries.into_iter().map(Entry::write).collect())
}

/// Merges the oldest updates of a version until few enough are left.
pub(crate) fn cap(entries: Vec<Entry>) -> Vec<Entry> {
    let (mut updates, mut out): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.operation == Operation::Update);
    let mut over = updates.len().saturating_sub(MAX_UPDATE_MANAGERS);
    if over == 0 {
        out.extend(updates);
        return out;
    }
    updates.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut buckets: HashMap<String, usize> = HashMap::new();
    for entry in updates {
        match buckets.get(&entry.api_version) {
            Some(at) if over > 0 => {
                let bucket: &mut Entry = &mut out[*at];
                bucket.fields = fields::union(std::mem::take(&mut bucket.fields), &entry.fields);
                ANCIENT.clone_into(&mut bucket.manager);
                bucket.subresource.clear();
                bucket.time = entry.time;
                over -= 1;
            }
            _ => {
                buckets.entry(entry.api_version.clone()).or_insert(out.len());
                out.push(entry);
            }
        }
    }
    out
}
