//! Commits as bytes: in the log, and one change at a time in the checkpoint.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use wharf_core::store::{Change, Key, Record, ResourceId, Revision};
use wharf_store_mvcc::Commit;

const COMMIT: u8 = 1;
const COMPACT: u8 = 2;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a log holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Commit(StoredCommit),
    /// History up to here was forgotten on demand.
    Compact(Revision),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredCommit {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<StoredChange>,
}

/// A change whose previous record is named by its revision: a value is stored once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredChange {
    pub(crate) key: Key,
    /// The commit that wrote what this replaces.
    pub(crate) previous: Option<Revision>,
    /// When it was created, and what was put; `None` for a delete.
    pub(crate) put: Option<(Revision, Bytes)>,
}

impl StoredChange {
    #[cfg(test)]
    pub(crate) fn of(change: &Change) -> Self {
        match change {
            Change::Put { record, previous } => Self {
                key: record.key.clone(),
                previous: previous.as_ref().map(|p| p.modified),
                put: Some((record.created, record.value.clone())),
            },
            Change::Delete { previous } => Self { key: previous.key.clone(), previous: Some(previous.modified), put: None },
        }
    }

    /// The change, once what was there before is known. `None` if that is not what the change replaced.
    pub(crate) fn resolve(self, revision: Revision, previous: Option<Record>) -> Option<Change> {
        if previous.as_ref().map(|p| p.modified) != self.previous {
            return None;
        }
        match (self.put, previous) {
            (Some((created, value)), previous) => {
                Some(Change::Put { record: Record { key: self.key, value, created, modified: revision }, previous })
            }
            (None, Some(previous)) => Some(Change::Delete { previous }),
            (None, None) => None,
        }
    }
}

/// Parts of keys that many keys share, so that they are in memory once.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

/// Names remembered; beyond, each key has its own.
const MAX_NAMES: usize = 16_384;

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(name) {
            return shared.clone();
        }
        let shared: Arc<str> = name.into();
        if self.0.len() < MAX_NAMES {
            self.0.insert(shared.clone());
        }
        shared
    }
}

pub(crate) fn put_commit(out: &mut Vec<u8>, commit: &Commit) {
    out.push(COMMIT);
    put_u64(out, commit.revision.0);
    put_u32(out, commit.changes.len());
    for change in commit.changes.iter() {
        put_key(out, change.key());
        put_body(out, change);
    }
}

pub(crate) fn put_compact(out: &mut Vec<u8>, upto: Revision) {
    out.push(COMPACT);
    put_u64(out, upto.0);
}

/// A key so that two different keys are different bytes.
pub(crate) fn put_key(out: &mut Vec<u8>, key: &Key) {
    for part in [&key.resource.group, &key.resource.resource, &key.namespace, &key.name] {
        put_u32(out, part.len());
        out.extend_from_slice(part.as_bytes());
    }
}

fn put_body(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Put { record, previous } => {
            let previous = previous.as_ref().map(|p| p.modified);
            put_stored_body(out, previous, Some((record.created, &record.value)));
        }
        Change::Delete { previous } => put_stored_body(out, Some(previous.modified), None),
    }
}

/// All of a change but its key. Revision 0 is no commit's.
pub(crate) fn put_stored_body(out: &mut Vec<u8>, previous: Option<Revision>, put: Option<(Revision, &Bytes)>) {
    out.push(if put.is_some() { PUT } else { DELETE });
    put_u64(out, previous.map_or(0, |p| p.0));
    if let Some((created, value)) = put {
        put_u64(out, created.0);
        put_u32(out, value.len());
        out.extend_from_slice(value);
    }
}

fn put_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// Lengths: a frame is far below 4 GiB, as a transaction is bounded.
fn put_u32(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
}

/// Bytes that are read from the front. `None` wherever they are not what was written.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }
    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).ok()
    }
    pub(crate) fn key(&mut self, names: &mut Names) -> Option<Key> {
        let (group, resource) = (names.shared(self.text()?), names.shared(self.text()?));
        let namespace = names.shared(self.text()?);
        Some(Key { resource: ResourceId { group, resource }, namespace, name: self.text()?.into() })
    }
    /// The rest of a change whose key is known.
    pub(crate) fn body(&mut self, key: Key) -> Option<StoredChange> {
        let kind = self.byte()?;
        let previous = Some(self.u64()?).filter(|r| *r != 0).map(Revision);
        let put = match kind {
            PUT => {
                let created = Revision(self.u64()?);
                let len = self.u32()? as usize;
                Some((created, Bytes::copy_from_slice(self.take(len)?)))
            }
            DELETE => None,
            _ => return None,
        };
        Some(StoredChange { key, previous, put })
    }
    pub(crate) fn entry(&mut self, names: &mut Names) -> Option<Entry> {
        match self.byte()? {
            COMMIT => {
                let revision = Revision(self.u64()?);
                let count = self.u32()?;
                let mut changes = Vec::new();
                for _ in 0..count {
                    let key = self.key(names)?;
                    changes.push(self.body(key)?);
                }
                Some(Entry::Commit(StoredCommit { revision, changes }))
            }
            COMPACT => Some(Entry::Compact(Revision(self.u64()?))),
            _ => None,
        }
    }
}

/// What a frame's payload says. `None` if it is not what a store writes.
pub(crate) fn entries(payload: &[u8], names: &mut Names) -> Option<Vec<Entry>> {
    let mut input = Input(payload);
    let mut entries = Vec::new();
    while !input.is_empty() {
        entries.push(input.entry(names)?);
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, value: &'static [u8], created: u64, modified: u64) -> Record {
        let key = Key::new(ResourceId::new("apps", "deployments"), "default", name);
        Record { key, value: Bytes::from_static(value), created: Revision(created), modified: Revision(modified) }
    }

    fn commit() -> Commit {
        let changes = vec![
            Change::Put { record: record("a", b"new", 9, 9), previous: None },
            Change::Put { record: record("b", b"", 3, 9), previous: Some(record("b", b"old", 3, 5)) },
            Change::Delete { previous: record("c", b"gone", 7, 8) },
        ];
        Commit { revision: Revision(9), changes: changes.into() }
    }

    #[test]
    fn entries_read_back() {
        let mut payload = Vec::new();
        put_commit(&mut payload, &commit());
        put_compact(&mut payload, Revision(4));
        let read = entries(&payload, &mut Names::default()).unwrap();
        let changes = commit().changes.iter().map(StoredChange::of).collect();
        assert_eq!(read, [Entry::Commit(StoredCommit { revision: Revision(9), changes }), Entry::Compact(Revision(4))]);
    }

    #[test]
    fn a_cut_payload_is_refused_wherever_it_is_cut() {
        let mut payload = Vec::new();
        put_commit(&mut payload, &commit());
        for end in 1..payload.len() {
            assert_eq!(entries(&payload[..end], &mut Names::default()), None, "cut at {end}");
        }
    }

    #[test]
    fn a_change_resolves_only_on_what_it_replaced() {
        for change in commit().changes.iter() {
            let previous = match change {
                Change::Put { previous, .. } => previous.clone(),
                Change::Delete { previous } => Some(previous.clone()),
            };
            assert_eq!(StoredChange::of(change).resolve(Revision(9), previous).as_ref(), Some(change));
            let other = Some(record(&change.key().name, b"old", 3, 6));
            assert_eq!(StoredChange::of(change).resolve(Revision(9), other), None);
        }
    }

    #[test]
    fn keys_share_what_they_have_in_common() {
        let mut bytes = Vec::new();
        put_key(&mut bytes, &record("a", b"", 1, 1).key);
        let mut names = Names::default();
        let one = Input(&bytes).key(&mut names).unwrap();
        let two = Input(&bytes).key(&mut names).unwrap();
        assert!(Arc::ptr_eq(&one.namespace, &two.namespace) && Arc::ptr_eq(&one.resource.resource, &two.resource.resource));
    }
}
