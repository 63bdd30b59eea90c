//! Transactions: each a transaction of etcd's, judged and carried out there.

use etcd_client::proto::{PbKeyValue, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use wharf_core::store::{Expect, Key, Op, Revision, StoreError, StoreResult, Transaction};

use crate::fault::EtcdFault;
use crate::lease;
use crate::list;
use crate::record::record;
use crate::{CAPABILITIES, Shared};

/// What a key's `mod_revision` never is, whether it exists or not.
const NEVER: i64 = -1;

/// A revision that a key can have been changed at. 0 is etcd's for a key that does not exist, ours for no commit.
fn modified_at(expected: Revision) -> i64 {
    i64::try_from(expected.0).ok().filter(|r| *r > 0).unwrap_or(NEVER)
}

fn compare(raw: Vec<u8>, expect: Expect) -> Option<Compare> {
    match expect {
        Expect::Any => None,
        Expect::Absent => Some(Compare::version(raw, CompareOp::Equal, 0)),
        Expect::Present => Some(Compare::version(raw, CompareOp::Greater, 0)),
        Expect::Revision(expected) => Some(Compare::mod_revision(raw, CompareOp::Equal, modified_at(expected))),
    }
}

fn holds(expect: Expect, current: Option<&PbKeyValue>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Present => current.is_some(),
        Expect::Revision(expected) => current.is_some_and(|kv| kv.mod_revision == modified_at(expected)),
    }
}

pub(crate) async fn commit(shared: &Shared, transaction: Transaction) -> StoreResult<Revision> {
    transaction.validate(&CAPABILITIES)?;
    let puts = transaction.ops.iter().filter(|op| matches!(op, Op::Put { .. })).count();
    let Some(ttl) = transaction.ttl.filter(|_| puts > 0) else { return attempt(shared, transaction, None).await };
    let failed = |fault: EtcdFault| fault.failed("commit");
    let lease = lease::lease(shared, ttl, puts).await.map_err(failed)?;
    match attempt(shared, transaction.clone(), Some(lease)).await {
        Err(StoreError::Backend { source, .. }) if source.downcast_ref().is_some_and(EtcdFault::is_lease_gone) => {
            // Revoked, or this machine slept longer than its clock knows.
            lease::forget(shared, lease).await;
            let lease = lease::lease(shared, ttl, puts).await.map_err(failed)?;
            attempt(shared, transaction, Some(lease)).await
        }
        done => done,
    }
}

/// What a put is attached to. Without a lease it is taken off the one that it had.
fn put_options(lease: Option<i64>) -> Option<PutOptions> {
    lease.map(|id| PutOptions::new().with_lease(id))
}

async fn attempt(shared: &Shared, transaction: Transaction, lease: Option<i64>) -> StoreResult<Revision> {
    let guards: Vec<(Key, Expect)> =
        transaction.ops.iter().filter(|op| op.expect() != Expect::Any).map(|op| (op.key().clone(), op.expect())).collect();
    let mut compares = Vec::with_capacity(guards.len());
    let mut steps = Vec::with_capacity(transaction.ops.len());
    for op in transaction.ops {
        let (raw, expect) = (shared.keys.encode(op.key()), op.expect());
        match op {
            Op::Put { value, .. } => steps.push(TxnOp::put(raw.clone(), value, put_options(lease))),
            Op::Delete { .. } => steps.push(TxnOp::delete(raw.clone(), None)),
            Op::Check { .. } => {}
        }
        compares.extend(compare(raw, expect));
    }
    if steps.is_empty() && compares.is_empty() {
        return shared.etcd.revision(&shared.keys).await.map(Revision).map_err(|fault| fault.failed("commit"));
    }
    // A refusal tells what is there as of the same moment. Of several keys only one value is wanted, and it is not known yet which.
    let several = guards.len() > 1;
    let look = if several { GetOptions::new().with_keys_only() } else { GetOptions::new() };
    let looks: Vec<_> = guards.iter().map(|(key, _)| TxnOp::get(shared.keys.encode(key), Some(look.clone()))).collect();
    let request = Txn::new().when(compares).and_then(steps).or_else(looks);
    let (answer, committed) = shared.etcd.transaction(request).await.map_err(EtcdFault::failed_commit)?;
    if answer.succeeded {
        return Ok(Revision(committed));
    }
    let found = answer.responses.into_iter().map(|response| match response.response {
        Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    for ((key, expect), current) in guards.into_iter().zip(found) {
        if holds(expect, current.as_ref()) {
            continue;
        }
        let current = match current {
            Some(_) if several => list::get_at(shared, &key, committed).await?,
            Some(kv) => Some(record(key.clone(), kv)),
            None => None,
        };
        return Err(StoreError::Conflict { key, expect, current: current.map(Box::new) });
    }
    let fault = EtcdFault::Malformed { endpoint: format!("{:?}", shared.etcd), what: "a refusal of preconditions that hold" };
    Err(fault.failed("commit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_commit_is_never_the_last_of_a_key() {
        let kv = PbKeyValue { mod_revision: 5, ..PbKeyValue::default() };
        for (expected, held) in [(0, false), (5, true), (6, false), (u64::MAX, false)] {
            assert_eq!(holds(Expect::Revision(Revision(expected)), Some(&kv)), held);
            assert!(!holds(Expect::Revision(Revision(expected)), None));
        }
        assert_eq!((modified_at(Revision(0)), modified_at(Revision(5))), (NEVER, 5));
    }
}
