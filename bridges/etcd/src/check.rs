//! What is refused without a look at any key, as etcd refuses it.

use std::collections::{BTreeMap, BTreeSet};

use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};
use tonic::Status;

use crate::keys::KeyRange;
use crate::locks::Touches;
use crate::{fault, range};

pub(crate) fn put(request: &PbPutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(fault::empty_key());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(fault::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(fault::lease_provided());
    }
    Ok(())
}

pub(crate) fn delete(request: &PbDeleteRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(fault::empty_key()) } else { Ok(()) }
}

/// A transaction, and those in it, of at most so many operations a branch on the way down.
pub(crate) fn txn(request: &PbTxnRequest, max_ops: usize) -> Result<(), Status> {
    shape(request, max_ops)?;
    for branch in [&request.success, &request.failure] {
        written_once(branch)?;
    }
    Ok(())
}

fn shape(request: &PbTxnRequest, max_ops: usize) -> Result<(), Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(fault::too_many_ops());
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(fault::empty_key());
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(PbTxnOpRequest::RequestRange(request)) => range::check(request)?,
            Some(PbTxnOpRequest::RequestPut(request)) => put(request)?,
            Some(PbTxnOpRequest::RequestDeleteRange(request)) => delete(request)?,
            Some(PbTxnOpRequest::RequestTxn(request)) => shape(request, max_ops - ops)?,
            // An empty operation.
            None => return Err(fault::key_not_found()),
        }
    }
    Ok(())
}

/// What a branch may write, all of its ways taken together.
#[derive(Default)]
struct Written {
    puts: BTreeSet<Vec<u8>>,
    deletes: Vec<KeyRange>,
}

impl Written {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// Refuses a branch that may write a key twice.
fn written_once(ops: &[PbTxnRequestOp]) -> Result<Written, Status> {
    let mut written = Written::default();
    for op in ops {
        if let Some(PbTxnOpRequest::RequestDeleteRange(delete)) = &op.request {
            written.deletes.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
        }
    }
    // How often each key is put at most, by the operation that does.
    let mut puts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        let Some(PbTxnOpRequest::RequestTxn(nested)) = &op.request else { continue };
        // Only one of the two is taken, so both may write a key.
        let branches = [written_once(&nested.success)?, written_once(&nested.failure)?];
        for key in branches.iter().flat_map(|branch| &branch.puts) {
            if written.deletes(key) || *puts.entry(key.clone()).or_insert(index) != index {
                return Err(fault::duplicate_key());
            }
            written.puts.insert(key.clone());
        }
        written.deletes.extend(branches.into_iter().flat_map(|branch| branch.deletes));
    }
    for op in ops {
        if let Some(PbTxnOpRequest::RequestPut(put)) = &op.request
            && (written.deletes(&put.key) || !written.puts.insert(put.key.clone()))
        {
            return Err(fault::duplicate_key());
        }
    }
    Ok(written)
}

/// What a checked transaction is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) touches: Touches,
    /// Whether it may write.
    pub(crate) writes: bool,
    /// Whether it names a revision to read at.
    pub(crate) past: bool,
}

pub(crate) fn about(request: &PbTxnRequest) -> About {
    let mut about = About { touches: Touches::Keys(BTreeSet::new()), writes: false, past: false };
    collect(request, &mut about);
    about
}

fn collect(request: &PbTxnRequest, about: &mut About) {
    for compare in &request.compare {
        touch(&mut about.touches, &compare.key, &compare.range_end);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(PbTxnOpRequest::RequestRange(range)) => {
                touch(&mut about.touches, &range.key, &range.range_end);
                about.past |= range.revision != 0;
            }
            Some(PbTxnOpRequest::RequestPut(put)) => {
                touch(&mut about.touches, &put.key, &[]);
                about.writes = true;
            }
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) => {
                touch(&mut about.touches, &delete.key, &delete.range_end);
                about.writes = true;
            }
            Some(PbTxnOpRequest::RequestTxn(nested)) => collect(nested, about),
            None => {}
        }
    }
}

fn touch(touches: &mut Touches, key: &[u8], range_end: &[u8]) {
    match touches {
        Touches::Keys(keys) if range_end.is_empty() => {
            keys.insert(key.to_vec());
        }
        _ => *touches = Touches::Ranges,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use etcd_client::proto::{PbCompare, PbRangeRequest};

    use super::*;

    pub(crate) fn op(request: PbTxnOpRequest) -> PbTxnRequestOp {
        PbTxnRequestOp { request: Some(request) }
    }
    pub(crate) fn put_op(key: &str) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestPut(PbPutRequest { key: key.into(), ..Default::default() }))
    }
    pub(crate) fn delete_op(key: &str, end: &str) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestDeleteRange(PbDeleteRequest { key: key.into(), range_end: end.into(), prev_kv: false }))
    }
    pub(crate) fn get_op(key: &str, end: &str) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestRange(PbRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }))
    }
    pub(crate) fn nested(success: Vec<PbTxnRequestOp>, failure: Vec<PbTxnRequestOp>) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestTxn(PbTxnRequest { success, failure, ..Default::default() }))
    }
    fn refused(ops: Vec<PbTxnRequestOp>) -> Option<String> {
        let request = PbTxnRequest { success: ops, ..Default::default() };
        txn(&request, 4).err().map(|status| status.message().to_owned())
    }

    #[test]
    fn a_key_is_written_once() {
        let duplicate = Some("etcdserver: duplicate key given in txn request".to_owned());
        assert_eq!(refused(vec![put_op("a"), put_op("a")]), duplicate);
        assert_eq!(refused(vec![put_op("b"), delete_op("a", "c")]), duplicate);
        assert_eq!(refused(vec![delete_op("a", "c"), nested(vec![put_op("b")], vec![])]), duplicate);
        assert_eq!(refused(vec![put_op("a"), nested(vec![], vec![put_op("a")])]), duplicate);
        assert_eq!(refused(vec![nested(vec![put_op("a")], vec![]), nested(vec![], vec![put_op("a")])]), duplicate);
        assert_eq!(refused(vec![nested(vec![delete_op("a", "c")], vec![]), nested(vec![put_op("b")], vec![])]), duplicate);
        // Either or.
        assert_eq!(refused(vec![nested(vec![delete_op("a", "c")], vec![put_op("b")])]), None);
        assert_eq!(refused(vec![nested(vec![put_op("a")], vec![put_op("a")])]), None);
        assert_eq!(refused(vec![delete_op("a", "c"), delete_op("b", ""), put_op("c"), get_op("a", "z")]), None);
        let branches = PbTxnRequest { success: vec![put_op("a")], failure: vec![put_op("a")], ..Default::default() };
        assert!(txn(&branches, 4).is_ok());
    }

    #[test]
    fn too_many_operations_are_counted_a_branch_and_on_the_way_down() {
        let puts = |range: std::ops::Range<u32>| range.map(|n| put_op(&n.to_string())).collect::<Vec<_>>();
        assert_eq!(refused(puts(0..4)), None);
        let too_many = Some("etcdserver: too many operations in txn request".to_owned());
        assert_eq!(refused(puts(0..5)), too_many);
        assert_eq!(refused(vec![nested(puts(0..3), vec![])]), None);
        assert_eq!(refused(vec![nested(puts(0..4), vec![])]), too_many);
        let compares = PbTxnRequest { compare: vec![PbCompare { key: b"a".to_vec(), ..Default::default() }; 5], ..Default::default() };
        assert!(txn(&compares, 4).is_err());
    }

    #[test]
    fn empty_keys_and_contradictions_are_refused() {
        let empty = Some("etcdserver: key is not provided".to_owned());
        for bad in [put_op(""), delete_op("", "a"), get_op("", "a")] {
            assert_eq!(refused(vec![bad]), empty);
        }
        let request = PbPutRequest { key: b"a".to_vec(), value: b"v".to_vec(), ignore_value: true, ..Default::default() };
        assert_eq!(put(&request).unwrap_err().message(), "etcdserver: value is provided");
        let request = PbPutRequest { key: b"a".to_vec(), lease: 1, ignore_lease: true, ..Default::default() };
        assert_eq!(put(&request).unwrap_err().message(), "etcdserver: lease is provided");
        assert_eq!(refused(vec![PbTxnRequestOp { request: None }]), Some("etcdserver: key not found".into()));
    }

    #[test]
    fn only_ranges_run_alone() {
        let request = |ops| PbTxnRequest { success: ops, ..Default::default() };
        let keys = Touches::Keys(BTreeSet::from([b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(
            about(&request(vec![put_op("a"), nested(vec![], vec![get_op("b", "")])])),
            About { touches: keys, writes: true, past: false }
        );
        let about = about(&request(vec![nested(vec![get_op("b", "c")], vec![])]));
        assert_eq!(about, About { touches: Touches::Ranges, writes: false, past: false });
    }
}
