//! CEL as Kubernetes speaks it: `x-kubernetes-validations`, and expressions over named variables.
//!
//! The crate `cel` parses; evaluation is done here, over JSON beside its schema, because every step has to be paid for: a rule that was
//! written to hold a thread ends with an error when its [`Budget`] is used up.
//!
//! ```
//! use serde_json::json;
//! use wharf_cel::{Budget, Rule, Untyped, Verdict};
//!
//! let rule = Rule::read(&json!({"rule": "self.min <= self.max", "message": "min must not exceed max"}));
//! let mut budget = Budget::object();
//! let refused = rule.evaluate(&Untyped, true, &json!({"min": 3, "max": 2}), None, &mut budget);
//! assert_eq!(refused, Verdict::Fails { message: "min must not exceed max".to_owned() });
//! ```

mod budget;
mod compare;
mod eval;
mod expression;
mod functions;
mod rule;
mod shape;
mod strings;
mod value;

pub use self::budget::Budget;
pub use self::eval::{EvalError, is_identifier};
pub use self::expression::{CompileError, Compiled, Variables};
pub use self::rule::{Rule, Verdict};
pub use self::shape::{Shape, Untyped};
pub use self::value::Val;

/// Most steps of one evaluation; Kubernetes' per-call limit.
pub const CALL_LIMIT: u64 = 1_000_000;
/// Most steps of all evaluations over one object; Kubernetes' budget.
pub const OBJECT_LIMIT: u64 = 10_000_000;
/// Longest expression, in bytes.
pub const MAX_EXPRESSION: usize = 16 << 10;
/// How deep an expression may be nested.
pub const MAX_DEPTH: u16 = 64;
/// Longest text that an expression may make, in bytes, and most items of a list.
pub const MAX_MADE: usize = 1 << 20;
