//! Fences: who led once and does not know yet that another has taken over must not write any more.
//!
//! A lease alone cannot promise this: a leader may sleep between its last look at the clock and its write. So each acquisition of a
//! `Lease` also writes a key beside it, in the same transaction, and each write of a leader demands in its own transaction that this key
//! was last changed by the leader's own acquisition. Renewals leave it alone.

use std::fmt;

use super::{Expect, Key, Op, ResourceId, Revision};
use crate::object::ObjectRef;

/// The group of what API servers keep for themselves. Nothing of it is served.
pub const INTERNAL_GROUP: &str = "internal.wharf.dev";
/// Where fences are kept.
const FENCES: &str = "fences";

/// An acquisition of a `Lease`: what its writes demand to be the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The `Lease`.
    pub lease: ObjectRef,
    /// The commit that acquired it: the `resourceVersion` that the `Lease` had then.
    pub revision: Revision,
}

impl Fence {
    /// What the acquisition of a `Lease` at a revision makes.
    pub fn new(lease: ObjectRef, revision: Revision) -> Self {
        Self { lease, revision }
    }

    /// The key beside a `Lease`.
    pub fn key_of(lease: &ObjectRef) -> Key {
        Key::new(ResourceId::new(INTERNAL_GROUP, FENCES), lease.namespace.clone(), lease.name.clone())
    }

    /// The key beside its own `Lease`.
    pub fn key(&self) -> Key {
        Self::key_of(&self.lease)
    }

    /// That nobody has acquired the `Lease` since, nor released or deleted it.
    pub fn check(&self) -> Op {
        Op::Check { key: self.key(), expect: Expect::Revision(self.revision) }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {} as acquired at revision {}", self.lease, self.revision)
    }
}
