//! What every write's transaction has beyond the write itself: the fence of one who leads, and the time that events live.

use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::ObjectRef;
use wharf_core::store::{Expect, Fence, Key, Op, Revision, StoreError, Transaction};

use super::expire::EVENT_LIFE;
use super::{Registry, WriteContext};
use crate::resources::Resource;
use crate::resources::value::{number, text};

/// Nodes renew their leases here, and nobody leads by one.
const NODE_LEASES: &str = "kube-node-lease";

/// Whether two names are those of leases that somebody may lead by.
fn is_election(row: &Resource, key: &Key) -> bool {
    row.group == "coordination.k8s.io" && row.plural == "leases" && &*key.namespace != NODE_LEASES
}

/// What a write of a `Lease` does to the fence beside it: an acquisition and a release move it, a renewal does not.
pub(super) fn acquisition(row: &Resource, key: &Key, old: Option<&Value>, new: Option<&Value>) -> Option<Op> {
    if !is_election(row, key) {
        return None;
    }
    let fence = Fence::key_of(&ObjectRef { namespace: key.namespace.clone(), name: key.name.clone() });
    let Some(new) = new else { return Some(Op::Delete { key: fence, expect: Expect::Any }) };
    let term =
        |lease: &Value| (text(lease, &["spec", "holderIdentity"]).to_owned(), number(lease, &["spec", "leaseTransitions"]).unwrap_or(0));
    let (holder, transitions) = term(new);
    if old.map(term).unwrap_or_default() == (holder.clone(), transitions) {
        return None;
    }
    // For people who look: what counts is its revision.
    let value = json!({"holderIdentity": holder, "leaseTransitions": transitions}).to_string().into();
    Some(Op::Put { key: fence, value, expect: Expect::Any })
}

/// Adds what a leader's write demands. One that writes its own lease has a step on that key already.
fn fence(transaction: &mut Transaction, fence: &Fence) {
    let key = fence.key();
    match transaction.ops.iter_mut().find(|op| *op.key() == key) {
        Some(Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. }) => *expect = Expect::Revision(fence.revision),
        // First, so that it is what is told of when other preconditions fail as well.
        None => transaction.ops.insert(0, fence.check()),
    }
}

impl Registry {
    /// Commits the transaction of a write.
    ///
    /// # Errors
    /// That the writer leads no more; what the store answers stands inside.
    pub(super) async fn commit(&self, ctx: &WriteContext, mut transaction: Transaction) -> Result<Result<Revision, StoreError>, ApiError> {
        let event = |key: &Key| key.resource.group.is_empty() && &*key.resource.resource == "events";
        if self.store().capabilities().expiry && transaction.ops.iter().any(|op| matches!(op, Op::Put { key, .. } if event(key))) {
            transaction = transaction.with_ttl(EVENT_LIFE);
        }
        let Some(wanted) = &ctx.fence else { return Ok(self.store().commit(transaction).await) };
        fence(&mut transaction, wanted);
        match self.store().commit(transaction).await {
            Err(StoreError::Conflict { key, .. }) if key == wanted.key() => {
                Err(ApiError::fenced(format!("leadership was lost: {wanted} is not the newest acquisition")))
            }
            answer => Ok(answer),
        }
    }
}
