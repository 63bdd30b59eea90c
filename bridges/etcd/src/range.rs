//! Range: what is shown of the keys in a range, and in which order. Where etcd's ways are odd, they are kept.

use etcd_client::proto::{PbRangeRequest, PbRangeResponse};
use tonic::Status;

use crate::entry::Entry;
use crate::fault;
use crate::keys::KeyRange;
use crate::snapshot::Snapshot;

/// Refuses what etcd refuses without a look at any key.
pub(crate) fn check(request: &PbRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(fault::empty_key());
    }
    if Order::of(request.sort_order).is_none() || Target::of(request.sort_target).is_none() {
        return Err(fault::invalid_sort());
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    None,
    Ascend,
    Descend,
}

impl Order {
    fn of(number: i32) -> Option<Self> {
        [Self::None, Self::Ascend, Self::Descend].get(usize::try_from(number).ok()?).copied()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Key,
    Version,
    Created,
    Modified,
    Value,
}

impl Target {
    fn of(number: i32) -> Option<Self> {
        [Self::Key, Self::Version, Self::Created, Self::Modified, Self::Value].get(usize::try_from(number).ok()?).copied()
    }
}

/// The range that a request is about.
pub(crate) fn range_of(request: &PbRangeRequest) -> KeyRange {
    KeyRange::new(request.key.clone(), request.range_end.clone())
}

/// Whether keys must be looked at that are not shown.
fn looks_at_all(request: &PbRangeRequest) -> bool {
    let bounds = [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    request.sort_order != 0 || request.limit <= 0 || bounds.iter().any(|bound| *bound != 0)
}

/// Reads of a snapshot what a request asks for.
pub(crate) async fn read(snapshot: &mut Snapshot<'_>, request: &PbRangeRequest) -> Result<PbRangeResponse, Status> {
    let range = range_of(request);
    if request.count_only {
        let (_, count) = snapshot.some(&range, 0).await?;
        return Ok(PbRangeResponse { count, ..Default::default() });
    }
    if looks_at_all(request) {
        let entries = snapshot.all(&range).await?;
        let count = entries.len() as i64;
        return Ok(show(request, entries, count));
    }
    // One more than asked for tells whether there are more.
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_add(1);
    let (entries, count) = snapshot.some(&range, limit).await?;
    Ok(show(request, entries, count))
}

/// Shows what a request asks for of the keys in its range, given all of them, or one more than its limit.
pub(crate) fn show(request: &PbRangeRequest, mut entries: Vec<Entry>, count: i64) -> PbRangeResponse {
    if request.count_only {
        return PbRangeResponse { count, ..Default::default() };
    }
    if !looks_at_all(request) {
        // What is sorted below is what etcd sorts: one key more than is shown.
        entries.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_add(1));
    }
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    entries.retain(|entry| {
        within(entry.modified, request.min_mod_revision, request.max_mod_revision)
            && within(entry.created, request.min_create_revision, request.max_create_revision)
    });
    let target = Target::of(request.sort_target).unwrap_or(Target::Key);
    let order = match Order::of(request.sort_order).unwrap_or(Order::None) {
        Order::None if target != Target::Key => Order::Ascend,
        order => order,
    };
    if order != Order::None {
        match target {
            Target::Key => entries.sort_by(|a, b| a.key.cmp(&b.key)),
            Target::Version => entries.sort_by_key(|entry| entry.version),
            Target::Created => entries.sort_by_key(|entry| entry.created),
            Target::Modified => entries.sort_by_key(|entry| entry.modified),
            Target::Value => entries.sort_by(|a, b| a.value.cmp(&b.value)),
        }
    }
    if order == Order::Descend {
        entries.reverse();
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let shown = entries.iter().map(|entry| {
        let mut kv = entry.to_kv();
        if request.keys_only {
            kv.value = Vec::new();
        }
        kv
    });
    PbRangeResponse { kvs: shown.collect(), more, count, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |key: &str, value: &'static str, created, modified, version| Entry {
            key: key.into(),
            value: Bytes::from_static(value.as_bytes()),
            created,
            modified,
            version,
            lease: 0,
        };
        vec![entry("a", "3", 2, 9, 3), entry("b", "1", 5, 5, 1), entry("c", "2", 3, 4, 2)]
    }
    fn shown(request: PbRangeRequest) -> (String, bool, i64) {
        let response = show(&request, entries(), 3);
        (response.kvs.iter().map(|kv| String::from_utf8(kv.key.clone()).unwrap()).collect(), response.more, response.count)
    }

    #[test]
    fn sorted_by_each_target() {
        for (target, expected) in [(0, "abc"), (1, "bca"), (2, "acb"), (3, "cba"), (4, "bca")] {
            let request = PbRangeRequest { sort_order: 1, sort_target: target, ..Default::default() };
            assert_eq!(shown(request.clone()), (expected.into(), false, 3));
            let down = PbRangeRequest { sort_order: 2, ..request };
            assert_eq!(shown(down).0, expected.chars().rev().collect::<String>());
        }
    }

    #[test]
    fn limits_are_applied_after_the_order_and_the_bounds() {
        let newest = PbRangeRequest { sort_order: 2, sort_target: 3, limit: 1, ..Default::default() };
        assert_eq!(shown(newest), ("a".into(), true, 3));
        let bounded = PbRangeRequest { min_mod_revision: 5, max_create_revision: 4, ..Default::default() };
        assert_eq!(shown(bounded), ("a".into(), false, 3));
        // Without an order etcd sorts only what it has fetched.
        let odd = PbRangeRequest { sort_target: 4, limit: 1, ..Default::default() };
        assert_eq!(shown(odd), ("b".into(), true, 3));
    }

    #[test]
    fn counts_and_keys_come_without_values() {
        assert_eq!(shown(PbRangeRequest { count_only: true, ..Default::default() }), (String::new(), false, 3));
        let response = show(&PbRangeRequest { keys_only: true, ..Default::default() }, entries(), 3);
        assert!(response.kvs.iter().all(|kv| kv.value.is_empty() && kv.version > 0));
    }

    #[test]
    fn what_etcd_refuses_is_refused() {
        assert_eq!(check(&PbRangeRequest::default()).unwrap_err().message(), "etcdserver: key is not provided");
        let sorted = |sort_order, sort_target| PbRangeRequest { key: b"a".to_vec(), sort_order, sort_target, ..Default::default() };
        assert!(check(&sorted(2, 4)).is_ok());
        assert!(check(&sorted(3, 0)).is_err() && check(&sorted(-1, 0)).is_err() && check(&sorted(0, 5)).is_err());
    }
}
