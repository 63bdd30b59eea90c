//! What a plugin answers when it does not agree.

use std::borrow::Cow;

use wharf_core::runtime::BoxError;

/// Why, in the words that users see.
pub type Reason = Cow<'static, str>;

/// A plugin's refusal.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Not as things are; removing pods from the node might help.
    #[error("{}", .0.join(", "))]
    Unschedulable(Vec<Reason>),
    /// Not as things are; removing pods from the node cannot help.
    #[error("{}", .0.join(", "))]
    UnschedulableAndUnresolvable(Vec<Reason>),
    /// The plugin failed. The pod is not scheduled in this attempt, whatever other plugins say.
    #[error(transparent)]
    Error(BoxError),
}

impl Rejection {
    /// One reason that removing pods might remedy.
    pub fn unschedulable(reason: impl Into<Reason>) -> Self {
        Self::Unschedulable(vec![reason.into()])
    }
    /// One reason that removing pods cannot remedy.
    pub fn unresolvable(reason: impl Into<Reason>) -> Self {
        Self::UnschedulableAndUnresolvable(vec![reason.into()])
    }
    /// A failure of the plugin.
    pub fn error(error: impl Into<BoxError>) -> Self {
        Self::Error(error.into())
    }
}
