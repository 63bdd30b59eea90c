//! Transactions: evaluated on one state of the store, then committed on the condition that what they were about is still as it was.
//!
//! Within the bridge nobody writes meanwhile what a transaction touches (`locks`). Against writers of the store that are not of this
//! bridge, every key that is compared, read or written by name carries an expectation, and so do the keys that were found in ranges as
//! long as one commit holds them all. What is not noticed is such a writer's new key in a range; nobody else is to write there.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_client::proto::{
    PbCompare, PbCompareTarget, PbDeleteRequest, PbDeleteResponse, PbKeyValue, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseHeader, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp,
    PbTxnResponse,
};
use futures::future::BoxFuture;
use prost::Message;
use tonic::Status;
use wharf_core::store::{Expect, MAX_OPS, Op, Revision, StoreError, Transaction};

use crate::entry::{Entry, MAX_KEY_VALUE, PENDING, signed};
use crate::keys::KeyRange;
use crate::locks::Touches;
use crate::snapshot::Snapshot;
use crate::{Shared, check, fault, range};

/// How often a transaction is evaluated again because another writer came between.
const ATTEMPTS: usize = 16;

/// Carries out a transaction.
pub(crate) async fn transact(shared: &Shared, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
    check::txn(request, shared.limits.max_txn_ops)?;
    let about = check::about(request);
    if about.writes && request.encoded_len() > shared.limits.max_request_bytes {
        return Err(fault::too_large());
    }
    // A state of the past does not change under the reader.
    let _held = if about.writes || !shared.history { Some(shared.locks.hold(&about.touches).await) } else { None };
    for _ in 0..ATTEMPTS {
        let mut evaluation = Evaluation::new(shared);
        let mut response = match evaluation.run(request).await {
            Ok(response) => response,
            // Compacted between two reads of what was the newest state.
            Err(status) if fault::is_compacted(&status) && !about.past => continue,
            Err(status) => return Err(status),
        };
        let read = evaluation.snapshot.revision().await?;
        let ops = evaluation.ops()?;
        let revision = if ops.is_empty() {
            read
        } else {
            match shared.store.commit(Transaction::new(ops)).await {
                Ok(revision) => signed(revision),
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(fault::of(error)),
            }
        };
        response.header = Some(shared.header(revision));
        settle(&mut response, revision);
        return Ok(response);
    }
    Err(fault::too_many_requests())
}

/// Carries out one operation as a transaction of its own.
pub(crate) async fn single(shared: &Shared, request: PbTxnOpRequest) -> Result<(Option<PbTxnOpResponse>, i64), Status> {
    let request = PbTxnRequest { success: vec![PbTxnRequestOp { request: Some(request) }], ..Default::default() };
    let response = transact(shared, &request).await?;
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    Ok((response.responses.into_iter().next().and_then(|op| op.response), revision))
}

/// Deletes a range that may have more keys than one commit holds: then by several commits, in order of keys.
pub(crate) async fn delete_range(shared: &Shared, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Status> {
    check::delete(request)?;
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let _held = shared.locks.hold(&Touches::Ranges).await;
    let (mut deleted, mut prev_kvs) = (0, Vec::new());
    let mut attempt = 0;
    loop {
        let mut snapshot = Snapshot::newest(shared);
        let entries = match snapshot.all(&range).await {
            Err(status) if fault::is_compacted(&status) && attempt < ATTEMPTS => {
                attempt += 1;
                continue;
            }
            entries => entries?,
        };
        let mut revision = snapshot.revision().await?;
        let mut overtaken = false;
        for part in entries.chunks(MAX_OPS) {
            let ops = part.iter().map(|entry| Op::Delete { key: shared.layout.key(&entry.key), expect: unchanged(entry) });
            match shared.store.commit(Transaction::new(ops.collect())).await {
                Ok(committed) => revision = signed(committed),
                Err(StoreError::Conflict { .. }) => {
                    overtaken = true;
                    break;
                }
                Err(error) => return Err(fault::of(error)),
            }
            deleted += part.len() as i64;
            if request.prev_kv {
                prev_kvs.extend(part.iter().map(Entry::to_kv));
            }
        }
        if !overtaken {
            return Ok(PbDeleteResponse { header: Some(shared.header(revision)), deleted, prev_kvs });
        }
        attempt += 1;
        if attempt >= ATTEMPTS {
            return Err(fault::too_many_requests());
        }
    }
}

fn unchanged(entry: &Entry) -> Expect {
    Expect::Revision(Revision(entry.modified.unsigned_abs()))
}

fn expect(entry: Option<&Entry>) -> Expect {
    entry.map_or(Expect::Absent, unchanged)
}

/// A transaction under evaluation.
struct Evaluation<'a> {
    shared: &'a Shared,
    snapshot: Snapshot<'a>,
    /// Keys that were read by name, as they are before the transaction.
    before: BTreeMap<Vec<u8>, Option<Entry>>,
    /// Keys that were found in ranges.
    found: BTreeMap<Vec<u8>, Expect>,
    /// Keys that the transaction has written so far; `None` for deleted.
    written: BTreeMap<Vec<u8>, Option<Entry>>,
}

impl<'a> Evaluation<'a> {
    fn new(shared: &'a Shared) -> Self {
        let snapshot = Snapshot::newest(shared);
        Self { shared, snapshot, before: BTreeMap::new(), found: BTreeMap::new(), written: BTreeMap::new() }
    }

    async fn run(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
        // Every comparison is about the state before, those of transactions in transactions too.
        let mut path = Vec::new();
        self.choose(request, &mut path).await?;
        self.check_puts(request, &mut path.iter().copied()).await?;
        self.apply(request, &mut path.iter().copied()).await
    }

    /// A key as it is before the transaction.
    async fn before(&mut self, key: &[u8]) -> Result<Option<Entry>, Status> {
        if let Some(entry) = self.before.get(key) {
            return Ok(entry.clone());
        }
        let entry = self.snapshot.one(key).await?;
        self.before.insert(key.to_vec(), entry.clone());
        Ok(entry)
    }

    /// A key as it is now.
    async fn now(&mut self, key: &[u8]) -> Result<Option<Entry>, Status> {
        match self.written.get(key) {
            Some(entry) => Ok(entry.clone()),
            None => self.before(key).await,
        }
    }

    /// A range as it is before the transaction.
    async fn range_before(&mut self, range: &KeyRange) -> Result<Vec<Entry>, Status> {
        if let KeyRange::One(key) = range {
            return Ok(self.before(key).await?.into_iter().collect());
        }
        let entries = self.snapshot.all(range).await?;
        self.found.extend(entries.iter().map(|entry| (entry.key.clone(), unchanged(entry))));
        Ok(entries)
    }

    /// A range as it is now.
    async fn range_now(&mut self, range: &KeyRange) -> Result<Vec<Entry>, Status> {
        let before = self.range_before(range).await?;
        if self.written.is_empty() {
            return Ok(before);
        }
        let mut now: BTreeMap<Vec<u8>, Entry> = before.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        for (key, entry) in self.written.iter().filter(|(key, _)| range.contains(key)) {
            match entry {
                Some(entry) => now.insert(key.clone(), entry.clone()),
                None => now.remove(key),
            };
        }
        Ok(now.into_values().collect())
    }

    /// Which branches are taken, in the order in which the transactions stand in the request.
    fn choose<'b>(&'b mut self, request: &'b PbTxnRequest, path: &'b mut Vec<bool>) -> BoxFuture<'b, Result<(), Status>> {
        Box::pin(async move {
            let mut succeeded = true;
            for compare in &request.compare {
                let entries = self.range_before(&KeyRange::new(compare.key.clone(), compare.range_end.clone())).await?;
                if !holds(compare, &entries) {
                    succeeded = false;
                    break;
                }
            }
            path.push(succeeded);
            for op in branch(request, succeeded) {
                if let Some(PbTxnOpRequest::RequestTxn(nested)) = &op.request {
                    self.choose(nested, path).await?;
                }
            }
            Ok(())
        })
    }

    /// Refuses puts that presuppose what is not there.
    fn check_puts<'b>(
        &'b mut self,
        request: &'b PbTxnRequest,
        path: &'b mut (dyn Iterator<Item = bool> + Send),
    ) -> BoxFuture<'b, Result<(), Status>> {
        Box::pin(async move {
            for op in branch(request, path.next().unwrap_or_default()) {
                match &op.request {
                    Some(PbTxnOpRequest::RequestTxn(nested)) => self.check_puts(nested, path).await?,
                    Some(PbTxnOpRequest::RequestPut(put)) => {
                        if (put.ignore_value || put.ignore_lease) && self.before(&put.key).await?.is_none() {
                            return Err(fault::key_not_found());
                        }
                        if put.lease != 0 && !self.shared.leases.is_held(put.lease) {
                            return Err(fault::lease_not_found());
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }

    fn apply<'b>(
        &'b mut self,
        request: &'b PbTxnRequest,
        path: &'b mut (dyn Iterator<Item = bool> + Send),
    ) -> BoxFuture<'b, Result<PbTxnResponse, Status>> {
        Box::pin(async move {
            let succeeded = path.next().unwrap_or_default();
            let mut responses = Vec::new();
            for op in branch(request, succeeded) {
                let response = match &op.request {
                    Some(PbTxnOpRequest::RequestRange(range)) => PbTxnOpResponse::ResponseRange(self.range(range).await?),
                    Some(PbTxnOpRequest::RequestPut(put)) => PbTxnOpResponse::ResponsePut(self.put(put).await?),
                    Some(PbTxnOpRequest::RequestDeleteRange(delete)) => PbTxnOpResponse::ResponseDeleteRange(self.delete(delete).await?),
                    Some(PbTxnOpRequest::RequestTxn(nested)) => {
                        let mut response = self.apply(nested, path).await?;
                        response.header = self.header().await?;
                        PbTxnOpResponse::ResponseTxn(response)
                    }
                    None => continue,
                };
                responses.push(PbResponseOp { response: Some(response) });
            }
            Ok(PbTxnResponse { header: None, succeeded, responses })
        })
    }

    /// What an operation tells of the revision: the one to come once something is written.
    async fn header(&mut self) -> Result<Option<PbResponseHeader>, Status> {
        let revision = if self.written.is_empty() { self.snapshot.revision().await? } else { PENDING };
        Ok(Some(PbResponseHeader { revision, ..Default::default() }))
    }

    async fn range(&mut self, request: &PbRangeRequest) -> Result<PbRangeResponse, Status> {
        // Outside of a transaction etcd takes it for the newest.
        if request.revision < 0 && request.revision < self.shared.hub.compacted() {
            return Err(fault::compacted());
        }
        let mut response = if request.revision > 0 {
            if request.revision > self.snapshot.revision().await? {
                return Err(fault::future_revision());
            }
            range::read(&mut Snapshot::at(self.shared, request.revision), request).await?
        } else {
            let read = range::range_of(request);
            let by_name = matches!(read, KeyRange::One(_));
            if by_name || !self.written.is_empty() {
                let entries = self.range_now(&read).await?;
                let count = entries.len() as i64;
                range::show(request, entries, count)
            } else {
                range::read(&mut self.snapshot, request).await?
            }
        };
        response.header = self.header().await?;
        Ok(response)
    }

    async fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Status> {
        let previous = self.now(&request.key).await?;
        // The state before is what the commit is conditional on.
        self.before(&request.key).await?;
        let kept = |keep: bool| previous.as_ref().filter(|_| keep);
        let value = kept(request.ignore_value).map_or_else(|| Bytes::copy_from_slice(&request.value), |previous| previous.value.clone());
        if value.len() > MAX_KEY_VALUE {
            return Err(fault::too_large());
        }
        let entry = Entry {
            key: request.key.clone(),
            value,
            created: previous.as_ref().map_or(PENDING, |previous| previous.created),
            modified: PENDING,
            version: previous.as_ref().map_or(0, |previous| previous.version).saturating_add(1),
            lease: kept(request.ignore_lease).map_or(request.lease, |previous| previous.lease),
        };
        self.written.insert(request.key.clone(), Some(entry));
        let prev_kv = previous.filter(|_| request.prev_kv).map(|previous| previous.to_kv());
        Ok(PbPutResponse { header: self.header().await?, prev_kv })
    }

    async fn delete(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Status> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let entries = self.range_now(&range).await?;
        for entry in &entries {
            if self.written.insert(entry.key.clone(), None).is_some() {
                // etcd would make two events of one revision of it.
                return Err(fault::duplicate_key());
            }
            self.before.entry(entry.key.clone()).or_insert_with(|| Some(entry.clone()));
        }
        let deleted = entries.len() as i64;
        let prev_kvs = if request.prev_kv { entries.iter().map(Entry::to_kv).collect() } else { Vec::new() };
        Ok(PbDeleteResponse { header: self.header().await?, deleted, prev_kvs })
    }

    /// What is to be committed; nothing for a transaction that has written nothing.
    fn ops(&self) -> Result<Vec<Op>, Status> {
        if self.written.is_empty() {
            return Ok(Vec::new());
        }
        let layout = &self.shared.layout;
        let before = |key: &Vec<u8>| expect(self.before.get(key).and_then(Option::as_ref));
        let mut ops: Vec<Op> = Vec::new();
        for (key, entry) in &self.written {
            let (expect, key) = (before(key), layout.key(key));
            ops.push(match entry {
                Some(entry) => Op::Put { key, value: entry.encode(), expect },
                None => Op::Delete { key, expect },
            });
        }
        let by_name = self.before.iter().filter(|(key, _)| !self.written.contains_key(*key));
        ops.extend(by_name.map(|(key, entry)| Op::Check { key: layout.key(key), expect: expect(entry.as_ref()) }));
        if ops.len() > MAX_OPS {
            return Err(fault::too_many_ops());
        }
        let known = |key: &Vec<u8>| self.written.contains_key(key) || self.before.contains_key(key);
        let in_ranges: Vec<_> = self.found.iter().filter(|(key, _)| !known(key)).collect();
        if ops.len() + in_ranges.len() <= MAX_OPS {
            ops.extend(in_ranges.into_iter().map(|(key, expect)| Op::Check { key: layout.key(key), expect: *expect }));
        }
        Ok(ops)
    }
}

fn branch(request: &PbTxnRequest, succeeded: bool) -> &[PbTxnRequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Whether a comparison holds of all these, or of nothing if there are none.
fn holds(compare: &PbCompare, entries: &[Entry]) -> bool {
    if entries.is_empty() {
        // There is no value to compare, not even an empty one.
        return PbCompareTarget::try_from(compare.target) != Ok(PbCompareTarget::Value) && compares(compare, None);
    }
    entries.iter().all(|entry| compares(compare, Some(entry)))
}

fn compares(compare: &PbCompare, entry: Option<&Entry>) -> bool {
    let number = |of: fn(&Entry) -> i64| entry.map_or(0, of);
    let wanted = |of: fn(&PbTargetUnion) -> Option<i64>| compare.target_union.as_ref().and_then(of).unwrap_or(0);
    let order = match PbCompareTarget::try_from(compare.target) {
        Ok(PbCompareTarget::Version) => {
            number(|e| e.version).cmp(&wanted(|u| if let PbTargetUnion::Version(n) = u { Some(*n) } else { None }))
        }
        Ok(PbCompareTarget::Create) => {
            number(|e| e.created).cmp(&wanted(|u| if let PbTargetUnion::CreateRevision(n) = u { Some(*n) } else { None }))
        }
        Ok(PbCompareTarget::Mod) => {
            number(|e| e.modified).cmp(&wanted(|u| if let PbTargetUnion::ModRevision(n) = u { Some(*n) } else { None }))
        }
        Ok(PbCompareTarget::Lease) => number(|e| e.lease).cmp(&wanted(|u| if let PbTargetUnion::Lease(n) = u { Some(*n) } else { None })),
        Ok(PbCompareTarget::Value) => {
            let wanted = match &compare.target_union {
                Some(PbTargetUnion::Value(value)) => value.as_slice(),
                _ => &[],
            };
            entry.map_or(&[] as &[u8], |entry| &entry.value).cmp(wanted)
        }
        Err(_) => Ordering::Equal,
    };
    // EQUAL, GREATER, LESS, NOT_EQUAL; etcd lets any other pass.
    match compare.result {
        0 => order.is_eq(),
        1 => order.is_gt(),
        2 => order.is_lt(),
        3 => order.is_ne(),
        _ => true,
    }
}

/// Writes the revision of the commit wherever it was not known yet.
fn settle(response: &mut PbTxnResponse, revision: i64) {
    let kv = |kv: &mut PbKeyValue| {
        for at in [&mut kv.create_revision, &mut kv.mod_revision] {
            if *at == PENDING {
                *at = revision;
            }
        }
    };
    let header = |header: &mut Option<PbResponseHeader>| {
        if let Some(header) = header.as_mut().filter(|header| header.revision == PENDING) {
            header.revision = revision;
        }
    };
    header(&mut response.header);
    for op in &mut response.responses {
        match &mut op.response {
            Some(PbTxnOpResponse::ResponseRange(range)) => {
                header(&mut range.header);
                range.kvs.iter_mut().for_each(kv);
            }
            Some(PbTxnOpResponse::ResponsePut(put)) => {
                header(&mut put.header);
                put.prev_kv.iter_mut().for_each(kv);
            }
            Some(PbTxnOpResponse::ResponseDeleteRange(delete)) => {
                header(&mut delete.header);
                delete.prev_kvs.iter_mut().for_each(kv);
            }
            Some(PbTxnOpResponse::ResponseTxn(nested)) => settle(nested, revision),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, version: i64, value: &'static str) -> Entry {
        Entry { key: key.into(), value: Bytes::from_static(value.as_bytes()), created: 2, modified: 5, version, lease: 9 }
    }
    fn compare(target: PbCompareTarget, result: i32, union: PbTargetUnion) -> PbCompare {
        PbCompare { target: target.into(), result, key: b"a".to_vec(), range_end: Vec::new(), target_union: Some(union) }
    }

    #[test]
    fn each_target_is_compared_in_each_way() {
        let there = [entry("a", 3, "v")];
        let cases = [
            (PbCompareTarget::Version, PbTargetUnion::Version(3)),
            (PbCompareTarget::Create, PbTargetUnion::CreateRevision(2)),
            (PbCompareTarget::Mod, PbTargetUnion::ModRevision(5)),
            (PbCompareTarget::Lease, PbTargetUnion::Lease(9)),
            (PbCompareTarget::Value, PbTargetUnion::Value(b"v".to_vec())),
        ];
        for (target, union) in cases {
            let held: Vec<bool> = (0..4).map(|result| holds(&compare(target, result, union.clone()), &there)).collect();
            assert_eq!(held, [true, false, false, false], "{target:?}");
        }
        for (result, held) in [(0, false), (1, true), (2, false), (3, true)] {
            assert_eq!(holds(&compare(PbCompareTarget::Version, result, PbTargetUnion::Version(1)), &there), held);
        }
    }

    #[test]
    fn what_is_absent_has_numbers_of_zero_and_no_value() {
        assert!(holds(&compare(PbCompareTarget::Mod, 0, PbTargetUnion::ModRevision(0)), &[]));
        assert!(!holds(&compare(PbCompareTarget::Version, 1, PbTargetUnion::Version(0)), &[]));
        for result in 0..4 {
            assert!(!holds(&compare(PbCompareTarget::Value, result, PbTargetUnion::Value(Vec::new())), &[]));
        }
    }

    #[test]
    fn a_range_must_hold_as_a_whole() {
        let entries = [entry("a", 3, "v"), entry("b", 4, "v")];
        assert!(holds(&compare(PbCompareTarget::Version, 1, PbTargetUnion::Version(2)), &entries));
        assert!(!holds(&compare(PbCompareTarget::Version, 1, PbTargetUnion::Version(3)), &entries));
    }
}
