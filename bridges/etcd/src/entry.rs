//! A key with its value as etcd shows it, and how it is kept in the store: a small header, then the value.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use etcd_client::proto::PbKeyValue;
use wharf_core::store::{MAX_VALUE, Record, Revision};

use crate::keys::Layout;

/// The first byte of what is kept; others are for formats to come.
const FORMAT: u8 = 1;
/// Format, version and lease.
pub(crate) const HEADER: usize = 1 + 8 + 8;
/// Largest value of a key, in bytes: the store's largest, without the header that is kept with it.
pub const MAX_KEY_VALUE: usize = MAX_VALUE - HEADER;

/// The revision of a change that is not committed yet.
pub(crate) const PENDING: i64 = i64::MAX;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
    pub(crate) created: i64,
    pub(crate) modified: i64,
    /// Puts since it was created.
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

/// A revision as etcd counts.
pub(crate) fn signed(revision: Revision) -> i64 {
    // No store comes to more than this.
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

impl Entry {
    /// What a record says; `None` if the bridge has not written it.
    pub(crate) fn of(layout: &Layout, record: &Record) -> Option<Self> {
        let key = layout.raw(&record.key)?;
        let (version, lease, value) = decode(&record.value)?;
        Some(Self { key, value, created: signed(record.created), modified: signed(record.modified), version, lease })
    }

    /// As it is kept.
    pub(crate) fn encode(&self) -> Bytes {
        let mut kept = BytesMut::with_capacity(HEADER + self.value.len());
        kept.put_u8(FORMAT);
        kept.put_i64(self.version);
        kept.put_i64(self.lease);
        kept.put_slice(&self.value);
        kept.freeze()
    }

    /// As etcd shows it.
    pub(crate) fn to_kv(&self) -> PbKeyValue {
        PbKeyValue {
            key: self.key.clone(),
            create_revision: self.created,
            mod_revision: self.modified,
            version: self.version,
            value: self.value.to_vec(),
            lease: self.lease,
        }
    }

    /// What it takes in a message, near enough.
    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

fn decode(kept: &Bytes) -> Option<(i64, i64, Bytes)> {
    if kept.len() < HEADER {
        return None;
    }
    let mut rest = kept.clone();
    let format = rest.get_u8();
    let (version, lease) = (rest.get_i64(), rest.get_i64());
    (format == FORMAT && version > 0).then_some((version, lease, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_comes_back_and_the_value_is_not_copied() {
        let layout = Layout::new("keys");
        let entry = Entry { key: vec![0, 255], value: Bytes::from_static(b"v"), created: 3, modified: 7, version: 2, lease: -5 };
        let record = Record { key: layout.key(&entry.key), value: entry.encode(), created: Revision(3), modified: Revision(7) };
        assert_eq!(Entry::of(&layout, &record), Some(entry));
        assert_eq!(record.value.len(), HEADER + 1);
    }

    #[test]
    fn what_the_bridge_has_not_written_is_not_taken_for_a_key() {
        let layout = Layout::new("keys");
        let record = |value: &'static [u8]| Record {
            key: layout.key(b"a"),
            value: Bytes::from_static(value),
            created: Revision(1),
            modified: Revision(1),
        };
        for value in [b"".as_slice(), b"{\"kind\":\"Pod\",\"a\":1}", &[1; 16], &[2; 17], &[0; 17], &[255; 30]] {
            assert_eq!(Entry::of(&layout, &record(value)), None, "{value:?}");
        }
    }
}
