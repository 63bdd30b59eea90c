//! The compiled tree.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;
use wharf_cel::Rule;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A map or a struct.
    Object,
    /// A list.
    Array,
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
}

impl Type {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }
    /// Its name in a schema.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Of scalars, each one once.
    Set,
    /// Of objects, told apart by the list map keys.
    Map,
}

/// `x-kubernetes-map-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MapType {
    /// Each entry has its own owner.
    #[default]
    Granular,
    /// Replaced as a whole.
    Atomic,
}

/// `additionalProperties`.
#[derive(Debug)]
pub enum Additional {
    /// Anything, or nothing.
    Any(bool),
    /// Values of this schema.
    Of(Box<Schema>),
}

/// A pattern, compiled when it is first needed.
#[derive(Debug)]
pub struct Pattern {
    pub(crate) text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

/// Most memory of a compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Compiles a pattern within bounds.
pub(crate) fn compile_pattern(text: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN).build()
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }
    /// One that does not compile was refused with its definition; nothing matches it.
    pub(crate) fn matches(&self, value: &str) -> bool {
        self.compiled.get_or_init(|| compile_pattern(&self.text).ok()).as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

/// What a value is held against beyond its type.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the names are those of JSON schema")]
pub struct Checks {
    pub format: Option<Box<str>>,
    pub enumeration: Vec<Value>,
    pub pattern: Option<Pattern>,
    pub maximum: Option<f64>,
    pub minimum: Option<f64>,
    pub exclusive_maximum: bool,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub unique_items: bool,
    pub required: Vec<Box<str>>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

/// A schema, or a part of one.
#[derive(Debug, Default)]
pub struct Schema {
    /// The type; none for int-or-string, for what is preserved unseen, and inside of allOf, anyOf, oneOf and not.
    pub kind: Option<Type>,
    /// Whether null is a value.
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// What a missing value becomes.
    pub default: Option<Value>,
    /// The fields of a struct.
    pub properties: BTreeMap<Box<str>, Schema>,
    /// The values of a map.
    pub additional: Option<Additional>,
    /// The items of a list.
    pub items: Option<Box<Schema>>,
    /// How a list merges.
    pub list_type: ListType,
    /// What tells the items of a map-like list apart.
    pub list_map_keys: Vec<Box<str>>,
    /// How a map merges.
    pub map_type: MapType,
    /// Value validation, where there is any.
    pub checks: Option<Box<Checks>>,
    /// `x-kubernetes-validations` of this node.
    pub rules: Vec<Rule>,
    /// Whether this node or one below has a default.
    pub(crate) has_defaults: bool,
    /// Whether this node or one below has rules.
    pub(crate) has_rules: bool,
    /// Whether this node or one below is a set or a map-like list.
    pub(crate) has_keyed_lists: bool,
}

impl Schema {
    /// The schema of a field, be it of a struct or of a map.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or_else(|| self.values())
    }
    /// The schema of the values of a map.
    pub fn values(&self) -> Option<&Schema> {
        match &self.additional {
            Some(Additional::Of(schema)) => Some(schema),
            _ => None,
        }
    }
    /// Whether anything is filled in anywhere.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }
    /// Whether there are rules anywhere.
    pub fn has_rules(&self) -> bool {
        self.has_rules
    }
}
