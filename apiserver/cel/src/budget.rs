//! What evaluation may cost.

use crate::{CALL_LIMIT, EvalError, OBJECT_LIMIT};

/// Steps that are left: for one evaluation, and for all over one object. A step is about what Kubernetes counts as a cost of 1.
#[derive(Debug, Clone)]
pub struct Budget {
    object: u64,
    call: u64,
}

impl Budget {
    /// Kubernetes' budget for the rules of one object.
    pub fn object() -> Self {
        Self { object: OBJECT_LIMIT, call: 0 }
    }
    /// One of another size.
    pub fn of(steps: u64) -> Self {
        Self { object: steps, call: 0 }
    }
    /// Whether nothing is left for further evaluations.
    pub fn is_used_up(&self) -> bool {
        self.object == 0
    }
    /// Begins an evaluation.
    pub(crate) fn begin(&mut self) {
        self.call = CALL_LIMIT;
    }
    /// Pays for steps.
    pub(crate) fn pay(&mut self, steps: u64) -> Result<(), EvalError> {
        self.object = self.object.saturating_sub(steps);
        self.call = self.call.saturating_sub(steps);
        if self.object == 0 {
            Err(EvalError::OutOfBudget)
        } else if self.call == 0 {
            Err(EvalError::CallLimit)
        } else {
            Ok(())
        }
    }
    /// Pays for walking a text or a list: a tenth of a step for each part.
    pub(crate) fn walk(&mut self, parts: usize) -> Result<(), EvalError> {
        self.pay(1 + parts as u64 / 10)
    }
}
