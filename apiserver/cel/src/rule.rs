//! One entry of `x-kubernetes-validations`.

use serde_json::Value;

/// A rule as it stands in a schema.
#[derive(Debug, Default)]
pub struct Rule {
    source: String,
    message: String,
    message_source: String,
    reason: String,
    field_path: Option<String>,
    optional_old_self: bool,
}

impl Rule {
    /// Reads a rule; members of wrong types are taken as left out.
    pub fn read(rule: &Value) -> Self {
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        Self {
            source: text("rule"),
            message: text("message"),
            message_source: text("messageExpression"),
            reason: text("reason"),
            field_path: Some(text("fieldPath")).filter(|p| !p.is_empty()),
            optional_old_self: rule.get("optionalOldSelf") == Some(&Value::Bool(true)),
        }
    }
    /// The reason of a refusal; empty for `FieldValueInvalid`.
    pub fn reason(&self) -> &str {
        &self.reason
    }
    /// The field below that a refusal tells of.
    pub fn field_path(&self) -> Option<&str> {
        self.field_path.as_deref()
    }
    /// The expression.
    pub fn source(&self) -> &str {
        &self.source
    }
    /// What a refusal says; empty where the expression speaks for itself.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// The expression that makes the message; empty for none.
    pub fn message_expression(&self) -> &str {
        &self.message_source
    }
    /// Whether `oldSelf` is optional.
    pub fn has_optional_old_self(&self) -> bool {
        self.optional_old_self
    }
}
