//! One entry of `x-kubernetes-validations`.

use std::rc::Rc;
use std::sync::OnceLock;

use serde_json::Value;

use crate::{Budget, CompileError, Compiled, EvalError, Shape, Val};

/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 << 10;
const VARIABLES: &[&str] = &["self", "oldSelf"];

/// What came of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The value is as it should be.
    Holds,
    /// It is a rule about a transition, and there is none.
    Skipped,
    /// The value is refused.
    Fails {
        /// What is told.
        message: String,
    },
    /// The rule has no value here.
    Error {
        /// What is told.
        message: String,
    },
    /// The budget is used up; no further rule is to be run.
    Exhausted {
        /// What is told.
        message: String,
    },
}

/// A rule as it stands in a schema.
#[derive(Debug, Default)]
pub struct Rule {
    source: String,
    message: String,
    message_source: String,
    reason: String,
    field_path: Option<String>,
    optional_old_self: bool,
    compiled: OnceLock<Result<Compiled, CompileError>>,
    compiled_message: OnceLock<Option<Compiled>>,
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
            ..Self::default()
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
    /// The expression that makes the message; empty for none.
    pub fn message_expression(&self) -> &str {
        &self.message_source
    }

    /// The rule's expression, compiled when it is first needed.
    ///
    /// # Errors
    /// What is malformed.
    pub fn compiled(&self) -> Result<&Compiled, &CompileError> {
        self.compiled.get_or_init(|| Compiled::new(&self.source, VARIABLES)).as_ref()
    }

    /// The message's expression, compiled to see whether that can be done.
    ///
    /// # Errors
    /// What is malformed.
    pub fn check_message(&self) -> Result<(), CompileError> {
        if self.message_source.is_empty() { Ok(()) } else { Compiled::new(&self.message_source, VARIABLES).map(|_| ()) }
    }

    /// Whether it compares a value with what it was.
    pub fn is_transition(&self) -> bool {
        self.compiled().is_ok_and(|c| c.uses("oldSelf"))
    }

    fn told(&self) -> &str {
        if self.message.is_empty() { &self.source } else { &self.message }
    }

    /// Holds a value against the rule; `whole` says that it is a whole resource.
    pub fn evaluate(&self, shape: &dyn Shape, whole: bool, new: &Value, old: Option<&Value>, budget: &mut Budget) -> Verdict {
        if self.source.is_empty() {
            return Verdict::Holds;
        }
        let compiled = match self.compiled() {
            Ok(compiled) => compiled,
            Err(error) => return Verdict::Error { message: format!("rule compile error: {error}") },
        };
        if compiled.uses("oldSelf") && old.is_none() && !self.optional_old_self {
            return Verdict::Skipped;
        }
        let out_of_budget = || Verdict::Exhausted {
            message: "validation failed due to running out of cost budget, no further validation rules will be run".to_owned(),
        };
        if budget.is_used_up() {
            return out_of_budget();
        }
        let variables = || {
            let mut variables = vec![("self".to_owned(), Val::of(new, Some(shape), whole))];
            let before = old.map(|old| Val::of(old, Some(shape), whole));
            if self.optional_old_self {
                variables.push(("oldSelf".to_owned(), Val::Optional(before.map(Rc::new))));
            } else {
                variables.extend(before.map(|old| ("oldSelf".to_owned(), old)));
            }
            variables
        };
        match compiled.evaluate(variables(), budget) {
            Ok(Val::Bool(true)) => Verdict::Holds,
            Ok(_) => {
                let made = self.made_message(variables(), budget);
                let message = made.unwrap_or_else(|| match self.message.as_str() {
                    "" => format!("failed rule: {}", self.source),
                    message => message.to_owned(),
                });
                Verdict::Fails { message }
            }
            Err(EvalError::OutOfBudget) => out_of_budget(),
            Err(error @ EvalError::CallLimit) => Verdict::Exhausted {
                message: format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    self.told()
                ),
            },
            Err(error @ EvalError::NoOverload) => Verdict::Error {
                message: format!(
                    "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    self.told()
                ),
            },
            Err(error) => Verdict::Error { message: format!("{error} evaluating rule: {}", self.told()) },
        }
    }

    /// The message that an expression makes; none that is empty, too long or of several lines.
    fn made_message(&self, variables: crate::Variables<'_>, budget: &mut Budget) -> Option<String> {
        if self.message_source.is_empty() {
            return None;
        }
        let compiled = self.compiled_message.get_or_init(|| Compiled::new(&self.message_source, VARIABLES).ok()).as_ref()?;
        let Ok(Val::Text(text)) = compiled.evaluate(variables, budget) else { return None };
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Untyped;

    #[test]
    fn transitions_and_messages() {
        let rule = Rule::read(&json!({"rule": "self == oldSelf", "message": "is immutable"}));
        let mut budget = Budget::object();
        assert!(rule.is_transition());
        assert_eq!(rule.evaluate(&Untyped, false, &json!(1), None, &mut budget), Verdict::Skipped);
        assert_eq!(rule.evaluate(&Untyped, false, &json!(1), Some(&json!(1)), &mut budget), Verdict::Holds);
        let fails = Verdict::Fails { message: "is immutable".into() };
        assert_eq!(rule.evaluate(&Untyped, false, &json!(1), Some(&json!(2)), &mut budget), fails);

        let rule = Rule::read(&json!({"rule": "!oldSelf.hasValue() || oldSelf.value() < self", "optionalOldSelf": true,
            "messageExpression": "'must grow beyond ' + string(self)"}));
        assert_eq!(rule.evaluate(&Untyped, false, &json!(1), None, &mut budget), Verdict::Holds);
        let fails = Verdict::Fails { message: "must grow beyond 1".into() };
        assert_eq!(rule.evaluate(&Untyped, false, &json!(1), Some(&json!(2)), &mut budget), fails);

        let rule = Rule::read(&json!({"rule": "self.a.b > 1"}));
        let error = Verdict::Error { message: "no such key: a evaluating rule: self.a.b > 1".into() };
        assert_eq!(rule.evaluate(&Untyped, false, &json!({}), None, &mut budget), error);
    }

    #[test]
    fn a_budget_is_shared_by_rules() {
        let rule = Rule::read(&json!({"rule": "self.all(x, x >= 0)"}));
        let list = json!((0..1000).collect::<Vec<u32>>());
        let mut budget = Budget::of(20_000);
        let verdicts: Vec<Verdict> = (0..20).map(|_| rule.evaluate(&Untyped, false, &list, None, &mut budget)).collect();
        assert_eq!(verdicts[0], Verdict::Holds);
        assert!(matches!(&verdicts[19], Verdict::Exhausted { message } if message.contains("running out of cost budget")));
    }
}
