//! Errors at a field, in Kubernetes' own words.

use std::fmt;

use serde_json::Value;

/// What is wrong, as `StatusCause.reason` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `FieldValueInvalid`.
    Invalid,
    /// `FieldValueRequired`.
    Required,
    /// `FieldValueDuplicate`.
    Duplicate,
    /// `FieldValueNotSupported`.
    NotSupported,
    /// `FieldValueForbidden`.
    Forbidden,
    /// `FieldValueTooLong`.
    TooLong,
    /// `FieldValueTooMany`.
    TooMany,
    /// `FieldValueTypeInvalid`.
    TypeInvalid,
}

impl Reason {
    /// The name in a `StatusCause`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// Whether rules are not run for an object with such an error, because they rely on it.
    pub const fn blocks_rules(self) -> bool {
        matches!(self, Self::Required | Self::NotSupported | Self::TooLong | Self::TooMany | Self::TypeInvalid)
    }
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub reason: Reason,
    /// Where; `<nil>` for the object as a whole.
    pub field: String,
    /// The sentence, without the path.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A value as it stands in a message.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "\"null\"".to_owned(),
        other => other.to_string(),
    }
}

fn with_detail(head: String, detail: &str) -> String {
    if detail.is_empty() { head } else { format!("{head}: {detail}") }
}

fn path(field: &str) -> String {
    if field.is_empty() { "<nil>".to_owned() } else { field.to_owned() }
}

impl FieldError {
    /// An error of a reason whose message names the value.
    pub fn about(reason: Reason, field: &str, value: &Value, detail: &str) -> Self {
        let head = match reason {
            Reason::Duplicate => "Duplicate value",
            Reason::TooMany => "Too many",
            Reason::NotSupported => "Unsupported value",
            _ => "Invalid value",
        };
        Self { reason, field: path(field), message: with_detail(format!("{head}: {}", shown(value)), detail) }
    }
    /// A value that may not be.
    pub fn invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self::about(Reason::Invalid, field, value, detail)
    }
    /// A value that is missing.
    pub fn required(field: &str, detail: &str) -> Self {
        Self { reason: Reason::Required, field: path(field), message: with_detail("Required value".to_owned(), detail) }
    }
    /// A field that may not be set.
    pub fn forbidden(field: &str, detail: &str) -> Self {
        Self { reason: Reason::Forbidden, field: path(field), message: with_detail("Forbidden".to_owned(), detail) }
    }
    /// A value that is there twice.
    pub fn duplicate(field: &str, value: &Value) -> Self {
        Self::about(Reason::Duplicate, field, value, "")
    }
    /// Another value than those listed.
    pub fn not_supported(field: &str, value: &Value, supported: &[String]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::about(Reason::NotSupported, field, value, &detail)
    }
    /// A text with too many characters.
    pub fn too_long(field: &str, most: u64) -> Self {
        Self { reason: Reason::TooLong, field: path(field), message: format!("Too long: may not be more than {most} bytes") }
    }
    /// Too many items.
    pub fn too_many(field: &str, actual: usize, most: u64) -> Self {
        Self::about(Reason::TooMany, field, &actual.into(), &format!("must have at most {most} items"))
    }
}
