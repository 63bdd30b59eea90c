//! The keys at one revision as etcd's storage engine has them: under their revisions, in that order, and nothing of the time before, as after
//! a compaction at that revision. A store lists keys by name, so they are sorted here: one look at all of them finds out revisions and sizes,
//! others read what belongs to the next part.

use std::ops::{ControlFlow, Range};

use bytes::BufMut;
use prost::Message;
use tonic::Status;
use wharf_core::store::{ListOptions, Revision};

use crate::entry::Entry;
use crate::keys::KeyRange;
use crate::snapshot::Snapshot;
use crate::{RAFT_TERM, Shared, fault};

/// Bytes of keys and values that are read at once, beside the last commit among them.
const PART_BYTES: usize = 64 << 20;
/// The bucket of keys, by whose name hashes begin.
pub(crate) const KEY_BUCKET: &str = "key";
/// The bucket of leases.
pub(crate) const LEASE_BUCKET: &str = "lease";
/// What describes the rest.
pub(crate) const META_BUCKET: &str = "meta";
/// Every bucket, in order.
pub(crate) const BUCKETS: [&str; 10] =
    ["alarm", "auth", "authRoles", "authUsers", "cluster", KEY_BUCKET, LEASE_BUCKET, "members", "members_removed", META_BUCKET];
/// Bytes of a revision as a key.
pub(crate) const REVISION_KEY: usize = 8 + 1 + 8;
/// Bytes of a lease's number as a key.
pub(crate) const LEASE_KEY: usize = 8;

/// A key of the engine, and its value.
pub(crate) type Element = (Vec<u8>, Vec<u8>);

#[derive(Debug, Clone, Copy)]
struct Slot {
    modified: i64,
    size: usize,
}

/// All keys at a revision, by revisions.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) revision: i64,
    slots: Vec<Slot>,
}

impl Backend {
    /// Finds out what there is at a revision.
    pub(crate) async fn at(shared: &Shared, revision: i64) -> Result<Self, Status> {
        let mut slots = Vec::new();
        let mut snapshot = Snapshot::at(shared, revision);
        snapshot
            .each(&KeyRange::From(Vec::new()), |entry| {
                slots.push(Slot { modified: entry.modified, size: value_size(&entry) });
                ControlFlow::Continue(())
            })
            .await?;
        // What was put by one commit stays in order of keys.
        slots.sort_by_key(|slot| slot.modified);
        Ok(Self { revision, slots })
    }

    /// Lengths of the values, in order.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().map(|slot| slot.size)
    }

    /// What can be read at once.
    pub(crate) fn parts(&self) -> Vec<Range<usize>> {
        let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (index, slot) in self.slots.iter().enumerate() {
            let other_commit = index > start && self.slots[index - 1].modified != slot.modified;
            if bytes >= PART_BYTES && other_commit {
                parts.push(start..index);
                (start, bytes) = (index, 0);
            }
            bytes += slot.size;
        }
        if start < self.slots.len() {
            parts.push(start..self.slots.len());
        }
        parts
    }

    /// Reads a part, in order; [`element`] makes elements of it.
    pub(crate) async fn read(&self, shared: &Shared, part: Range<usize>) -> Result<Vec<Entry>, Status> {
        let slots = &self.slots[part];
        let (Some(first), Some(last)) = (slots.first(), slots.last()) else { return Ok(Vec::new()) };
        let mut entries = Vec::with_capacity(slots.len());
        Snapshot::at(shared, self.revision)
            .each(&KeyRange::From(Vec::new()), |entry| {
                if (first.modified..=last.modified).contains(&entry.modified) {
                    entries.push(entry);
                }
                ControlFlow::Continue(())
            })
            .await?;
        entries.sort_by_key(|entry| entry.modified);
        let as_planned = entries.len() == slots.len() && entries.iter().zip(slots).all(|(entry, slot)| value_size(entry) == slot.size);
        if as_planned { Ok(entries) } else { Err(Status::data_loss("etcdserver: the store has changed a state of the past")) }
    }
}

/// The elements of what was read; each commit's are numbered.
pub(crate) fn elements(entries: Vec<Entry>) -> impl Iterator<Item = Element> {
    let mut previous = (0, 0);
    entries.into_iter().map(move |entry| {
        let number = if previous.0 == entry.modified { previous.1 + 1 } else { 0 };
        previous = (entry.modified, number);
        (revision_key(entry.modified, number), entry.to_kv().encode_to_vec())
    })
}

/// How long the value of an element is, without making it.
fn value_size(entry: &Entry) -> usize {
    let without = Entry { value: bytes::Bytes::new(), ..entry.clone() }.to_kv().encoded_len();
    match entry.value.len() {
        0 => without,
        length => without + 1 + prost::length_delimiter_len(length) + length,
    }
}

/// A revision as a key.
fn revision_key(main: i64, sub: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(REVISION_KEY);
    key.put_i64(main);
    key.put_u8(b'_');
    key.put_i64(sub);
    key
}

/// The leases at a revision as elements, in order.
pub(crate) async fn leases(shared: &Shared, revision: i64) -> Result<Vec<Element>, Status> {
    let at = shared.history.then_some(Revision(revision.unsigned_abs()));
    let mut options = ListOptions { at, ..ListOptions::default() };
    let mut elements = Vec::new();
    loop {
        let listing = shared.store.list(&shared.layout.leases(), &options).await.map_err(fault::of)?;
        for record in &listing.records {
            let (id, ttl) = crate::lease::read(shared, record)?;
            let mut value = Vec::new();
            prost::encoding::int64::encode(1, &id, &mut value);
            prost::encoding::int64::encode(2, &ttl, &mut value);
            elements.push((id.to_be_bytes().to_vec(), value));
        }
        match listing.records.last() {
            Some(last) if listing.more => options.after = Some(last.key.clone()),
            _ => return Ok(elements),
        }
    }
}

/// What describes the rest: as after a compaction, so that an etcd that starts from it counts on from the revision.
pub(crate) fn meta(shared: &Shared, revision: i64) -> Vec<Element> {
    let voters = format!(r#"{{"voters":[{}],"auto_leave":false}}"#, shared.member_id());
    vec![
        (b"confState".to_vec(), voters.into_bytes()),
        (CONSISTENT_INDEX.to_vec(), revision.to_be_bytes().to_vec()),
        (b"finishedCompactRev".to_vec(), revision_key(revision, 0)),
        (b"scheduledCompactRev".to_vec(), revision_key(revision, 0)),
        (TERM.to_vec(), RAFT_TERM.to_be_bytes().to_vec()),
    ]
}

const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const TERM: &[u8] = b"term";

/// What etcd's HashKV answers for a revision at which it was compacted: CRC-32C of the bucket's name, and of every key and value of it.
pub(crate) async fn hash_kv(shared: &Shared, revision: i64) -> Result<u32, Status> {
    hash_keys(shared, &Backend::at(shared, revision).await?, 0).await
}

/// What etcd's Hash answers for a snapshot of this revision: CRC-32C of every bucket, but for what tells of consensus.
pub(crate) async fn hash(shared: &Shared, revision: i64) -> Result<u32, Status> {
    let backend = Backend::at(shared, revision).await?;
    let mut crc = 0;
    for bucket in BUCKETS {
        if bucket == KEY_BUCKET {
            crc = hash_keys(shared, &backend, crc).await?;
            continue;
        }
        crc = crc32c::crc32c_append(crc, bucket.as_bytes());
        let elements = match bucket {
            LEASE_BUCKET => leases(shared, revision).await?,
            META_BUCKET => meta(shared, revision),
            _ => Vec::new(),
        };
        let ignored = |key: &[u8]| bucket == META_BUCKET && (key == CONSISTENT_INDEX || key == TERM);
        for (key, value) in elements.iter().filter(|(key, _)| !ignored(key)) {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
        }
    }
    Ok(crc)
}

async fn hash_keys(shared: &Shared, backend: &Backend, crc: u32) -> Result<u32, Status> {
    let mut crc = crc32c::crc32c_append(crc, KEY_BUCKET.as_bytes());
    for part in backend.parts() {
        for (key, value) in elements(backend.read(shared, part).await?) {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &key), &value);
        }
    }
    Ok(crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_without_making_the_value() {
        for length in [0, 1, 127, 128, 20_000] {
            let value = vec![5; length].into();
            let entry = Entry { key: b"a".to_vec(), value, created: 3, modified: 1 << 40, version: 2, lease: -5 };
            assert_eq!(value_size(&entry), entry.to_kv().encoded_len());
        }
    }

    #[test]
    fn a_part_ends_between_two_commits() {
        let slot = |modified, size| Slot { modified, size };
        let slots = vec![slot(2, PART_BYTES), slot(2, 1), slot(2, 1), slot(3, 1), slot(4, PART_BYTES), slot(5, 1)];
        let backend = Backend { revision: 9, slots };
        assert_eq!(backend.parts(), [0..3, 3..5, 5..6]);
    }

    #[test]
    fn what_one_commit_put_is_numbered() {
        let entry = |modified| Entry { key: b"a".to_vec(), value: bytes::Bytes::new(), created: 1, modified, version: 1, lease: 0 };
        let keys: Vec<_> = elements(vec![entry(2), entry(4), entry(4), entry(5)]).map(|(key, _)| key).collect();
        assert_eq!(keys, [revision_key(2, 0), revision_key(4, 0), revision_key(4, 1), revision_key(5, 0)]);
    }
}
