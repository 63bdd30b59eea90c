//! The records of a store while it is being read from where they were kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_core::object::ObjectRef;
use wharf_core::store::{Key, Record, ResourceId, Revision};

use crate::state::name_of;

/// Records in the form in which a [`State`](crate::State) holds them, so that a state takes them over without a copy: what a store
/// needs beside its records while it opens, the allocator tends to keep for good.
///
/// # Panics
/// Never.
#[derive(Debug, Default)]
pub struct Records {
    records: BTreeMap<ResourceId, BTreeMap<ObjectRef, Record>>,
    /// Those that are in use, so that each is in memory once.
    namespaces: BTreeSet<Arc<str>>,
}

impl Records {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The record of a key.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(&key.resource)?.get(&name_of(key))
    }

    /// Puts a record in, in place of the one that has its key.
    pub fn insert(&mut self, mut record: Record) {
        match self.namespaces.get(&record.key.namespace) {
            Some(known) => record.key.namespace = known.clone(),
            None => drop(self.namespaces.insert(record.key.namespace.clone())),
        }
        if let Some((known, _)) = self.records.get_key_value(&record.key.resource) {
            record.key.resource = known.clone();
        }
        let records = self.records.entry(record.key.resource.clone()).or_default();
        records.insert(name_of(&record.key), record);
    }

    /// Takes the record of a key out.
    pub fn remove(&mut self, key: &Key) -> Option<Record> {
        self.records.get_mut(&key.resource)?.remove(&name_of(key))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.values().all(BTreeMap::is_empty)
    }

    /// One that was changed after a revision.
    pub(crate) fn newer_than(&self, revision: Revision) -> Option<&Record> {
        self.records.values().flat_map(BTreeMap::values).find(|record| record.modified > revision)
    }

    /// The records of each resource, in full nodes.
    pub(crate) fn packed(self) -> impl Iterator<Item = (ResourceId, BTreeMap<ObjectRef, Record>)> {
        self.records.into_iter().map(|(resource, records)| (resource, packed(records)))
    }
}

impl FromIterator<Record> for Records {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        let mut all = Self::new();
        records.into_iter().for_each(|record| all.insert(record));
        all
    }
}

/// A map that grew by insertion is little more than half full. Appending builds one of full nodes, and needs no third place.
fn packed(mut records: BTreeMap<ObjectRef, Record>) -> BTreeMap<ObjectRef, Record> {
    let mut full = BTreeMap::new();
    // Appending to an empty map would only swap the two.
    if let Some((name, record)) = records.pop_first() {
        full.insert(name, record);
        full.append(&mut records);
    }
    full
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(resource: &str, namespace: &str, name: String, modified: u64) -> Record {
        let key = Key::new(ResourceId::new("", resource), namespace, name);
        Record { key, value: Bytes::new(), created: Revision(1), modified: Revision(modified) }
    }

    #[test]
    fn it_keeps_the_newest_of_each_key() {
        let mut records = Records::new();
        assert!(records.is_empty());
        for modified in 1..=3 {
            for n in 0..100 {
                records.insert(record("pods", "a", format!("p{n}"), modified));
            }
        }
        records.insert(record("nodes", "", "p1".into(), 9));
        assert_eq!(records.len(), 101);
        let key = record("pods", "a", "p7".into(), 0).key;
        assert_eq!(records.remove(&key).map(|r| r.modified), Some(Revision(3)));
        assert_eq!((records.get(&key), records.len()), (None, 100));
        assert_eq!(records.newer_than(Revision(8)).map(|r| &*r.key.resource.resource), Some("nodes"));
        assert_eq!(records.newer_than(Revision(9)), None);
        let packed: Vec<_> = records.packed().map(|(resource, records)| (resource.resource.to_string(), records.len())).collect();
        assert_eq!(packed, [("nodes".to_owned(), 1), ("pods".to_owned(), 99)]);
    }

    #[test]
    fn names_are_in_memory_once() {
        let records: Records = (0..100).map(|n| record("pods", "a", format!("p{n}"), 1)).collect();
        let (_, pods) = records.packed().next().unwrap();
        let first = pods.values().next().unwrap().key.clone();
        for (name, record) in &pods {
            assert!(Arc::ptr_eq(&name.name, &record.key.name) && Arc::ptr_eq(&name.namespace, &first.namespace));
            assert!(
                Arc::ptr_eq(&record.key.namespace, &first.namespace)
                    && Arc::ptr_eq(&record.key.resource.resource, &first.resource.resource)
            );
        }
    }
}
