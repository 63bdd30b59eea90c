//! `metadata.managedFields`: who owns what.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use crate::fields::Fields;
use crate::fields::text::{Text, write_string};

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
pub(crate) struct Entry<'t> {
    pub operation: Operation,
    pub time: Cow<'t, str>,
    pub manager: Cow<'t, str>,
    pub api_version: Cow<'t, str>,
    pub subresource: Cow<'t, str>,
    pub fields: Fields<'t>,
}

/// An entry as its text has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read<'t> {
    #[serde(borrow, default)]
    operation: Option<Text<'t>>,
    #[serde(borrow, default)]
    time: Option<Text<'t>>,
    #[serde(borrow, default)]
    manager: Option<Text<'t>>,
    #[serde(borrow, default)]
    api_version: Option<Text<'t>>,
    #[serde(borrow, default)]
    subresource: Option<Text<'t>>,
    #[serde(borrow, default)]
    fields_type: Option<Text<'t>>,
    #[serde(borrow, default, rename = "fieldsV1")]
    fields: Option<Fields<'t>>,
}

impl<'t> Entry<'t> {
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

    fn of(read: Read<'t>) -> Result<Self, &'static str> {
        let text = |text: Option<Text<'t>>| text.unwrap_or_default().0;
        let operation = match &*text(read.operation) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`"),
        };
        if text(read.fields_type) != "FieldsV1" {
            return Err("fieldsType must be `FieldsV1`");
        }
        let api_version = text(read.api_version);
        if api_version.is_empty() {
            return Err("apiVersion must not be empty");
        }
        Ok(Self {
            operation,
            time: text(read.time),
            manager: text(read.manager),
            api_version,
            subresource: text(read.subresource),
            fields: read.fields.unwrap_or_default(),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let put = |name: &str, value: &str, out: &mut Vec<u8>| {
            if value.is_empty() {
                return;
            }
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            write_string(b"", name, out);
            out.push(b':');
            write_string(b"", value, out);
        };
        put("apiVersion", &self.api_version, out);
        put("fieldsType", "FieldsV1", out);
        out.extend_from_slice(b",\"fieldsV1\":");
        self.fields.write(out);
        put("manager", &self.manager, out);
        put("operation", self.operation.name(), out);
        put("subresource", &self.subresource, out);
        put("time", &self.time, out);
        out.push(b'}');
    }
}

/// Whether a client sent a list that says: nobody owns anything.
pub(crate) fn is_reset(sent: &str) -> bool {
    let sent = || sent.bytes().filter(|b| !b.is_ascii_whitespace());
    sent().eq(*b"[]") || sent().eq(*b"[{}]")
}

/// Reads a list of entries from the text of one, which is empty where there is none.
pub(crate) fn read(text: &str) -> Result<Vec<Entry<'_>>, &'static str> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<Read<'_>> = serde_json::from_str(text).map_err(|_| "a list of entries, each with a set of fields, is expected")?;
    if list.len() > MAX_ENTRIES {
        return Err("there are too many entries");
    }
    list.into_iter().map(Entry::of).collect()
}

/// The same of what a client sent, whose steps are looked at as well.
pub(crate) fn read_sent(text: &str) -> Option<Vec<Entry<'_>>> {
    read(text).ok().filter(|entries| entries.iter().all(|entry| entry.fields.is_valid()))
}

/// Writes a list of entries in Kubernetes' order; nothing, where there are none.
pub(crate) fn write(mut entries: Vec<Entry<'_>>) -> String {
    fn order<'a>(e: &'a Entry<'_>) -> (Operation, &'a str, &'a str, &'a str, &'a str) {
        (e.operation, &e.time, &e.manager, &e.api_version, &e.subresource)
    }
    if entries.is_empty() {
        return String::new();
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut out = Vec::with_capacity(FIRST_ROOM);
    out.push(b'[');
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        entry.write(&mut out);
    }
    out.push(b']');
    // All of it is text to begin with.
    String::from_utf8(out).unwrap_or_default()
}

/// Room for what is being written, in bytes, before it grows.
const FIRST_ROOM: usize = 512;

/// Merges the oldest updates of a version until few enough are left.
pub(crate) fn cap(entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    let updates = entries.iter().filter(|e| e.operation == Operation::Update).count();
    let mut over = updates.saturating_sub(MAX_UPDATE_MANAGERS);
    if over == 0 {
        return entries;
    }
    let (mut updates, mut out): (Vec<Entry<'_>>, Vec<Entry<'_>>) = entries.into_iter().partition(|e| e.operation == Operation::Update);
    updates.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut buckets: HashMap<String, usize> = HashMap::new();
    for entry in updates {
        match buckets.get(&*entry.api_version) {
            Some(at) if over > 0 => {
                let bucket: &mut Entry<'_> = &mut out[*at];
                bucket.fields.add(entry.fields);
                bucket.manager = Cow::Borrowed(ANCIENT);
                bucket.subresource = Cow::Borrowed("");
                bucket.time = entry.time;
                over -= 1;
            }
            _ => {
                buckets.entry(entry.api_version.to_string()).or_insert(out.len());
                out.push(entry);
            }
        }
    }
    out
}
