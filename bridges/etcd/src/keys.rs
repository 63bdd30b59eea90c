//! etcd's keys, which are any bytes, and the store's, which are text: byte b is the character U+00b, and UTF-8 keeps their order.

use wharf_core::store::{Key, ResourceId, Scope};

/// The resource that everything of the bridge is kept under, unless the builder says otherwise.
pub const DEFAULT_RESOURCE: &str = "keys";
/// Its group.
pub const GROUP: &str = "etcd.bridge.wharf";
/// Namespace of etcd's keys.
const KEYS: &str = "kv";
/// Namespace of leases.
const LEASES: &str = "lease";
/// Sorts after every character that a byte becomes.
const LAST: char = '\u{10FFFF}';

/// Where things are kept in the store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    resource: ResourceId,
}

impl Layout {
    pub(crate) fn new(resource: &str) -> Self {
        Self { resource: ResourceId::new(GROUP, resource) }
    }

    /// Everything of the bridge.
    pub(crate) fn everything(&self) -> Scope {
        Scope::Resource(self.resource.clone())
    }

    /// etcd's keys.
    pub(crate) fn keys(&self) -> Scope {
        Scope::Namespace(self.resource.clone(), KEYS.into())
    }

    /// Leases.
    pub(crate) fn leases(&self) -> Scope {
        Scope::Namespace(self.resource.clone(), LEASES.into())
    }

    /// Where a key is kept.
    pub(crate) fn key(&self, raw: &[u8]) -> Key {
        Key::new(self.resource.clone(), KEYS, text(raw))
    }

    /// Where to list from to begin with a key, given that lists begin after what they are told.
    pub(crate) fn before(&self, raw: &[u8]) -> Key {
        let name = match raw.split_last() {
            None => String::new(),
            Some((0, rest)) => text(rest),
            Some((last, rest)) => {
                let mut name = text(rest);
                name.push(char::from(last - 1));
                name.push(LAST);
                name
            }
        };
        Key::new(self.resource.clone(), KEYS, name)
    }

    /// The bytes of a key's name; `None` if it is not one of the bridge's keys.
    pub(crate) fn raw(&self, key: &Key) -> Option<Vec<u8>> {
        if *key.namespace != *KEYS || key.resource != self.resource {
            return None;
        }
        key.name.chars().map(|c| u8::try_from(c).ok()).collect()
    }

    /// Where a lease is kept.
    pub(crate) fn lease(&self, id: i64) -> Key {
        Key::new(self.resource.clone(), LEASES, format!("{id:016x}"))
    }

    /// Which lease is kept there.
    pub(crate) fn lease_id(&self, key: &Key) -> Option<i64> {
        if *key.namespace != *LEASES || key.resource != self.resource {
            return None;
        }
        u64::from_str_radix(&key.name, 16).ok().map(u64::cast_signed)
    }
}

fn text(raw: &[u8]) -> String {
    raw.iter().copied().map(char::from).collect()
}

/// The keys that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum KeyRange {
    /// One key.
    One(Vec<u8>),
    /// From a key up to another, exclusive.
    Between(Vec<u8>, Vec<u8>),
    /// From a key on.
    From(Vec<u8>),
}

impl KeyRange {
    /// As etcd reads `key` and `range_end`.
    pub(crate) fn new(key: Vec<u8>, range_end: Vec<u8>) -> Self {
        match range_end.as_slice() {
            [] => Self::One(key),
            [0] => Self::From(key),
            _ => Self::Between(key, range_end),
        }
    }

    pub(crate) fn start(&self) -> &[u8] {
        match self {
            Self::One(key) | Self::From(key) | Self::Between(key, _) => key,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Between(start, end) if start >= end)
    }

    /// Whether a key lies beyond it.
    pub(crate) fn ends_before(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key > one.as_slice(),
            Self::Between(_, end) => key >= end.as_slice(),
            Self::From(_) => false,
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= self.start() && !self.ends_before(key)
    }

    /// The prefix that all its keys and no others have, if there is one.
    pub(crate) fn prefix(&self) -> Option<&[u8]> {
        let Self::Between(start, end) = self else { return None };
        // The end of a prefix is the prefix plus one, without the 0xff that had no successor.
        let kept = start.len() - start.iter().rev().take_while(|b| **b == 0xff).count();
        let (last, head) = start.get(..kept)?.split_last()?;
        let is_prefix = end.split_last().is_some_and(|(end_last, end_head)| end_head == head && *end_last == last + 1);
        is_prefix.then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(DEFAULT_RESOURCE)
    }

    #[test]
    fn any_bytes_come_back_and_keep_their_order() {
        let layout = layout();
        let mut all: Vec<Vec<u8>> = (0..=255u8).flat_map(|a| [vec![a], vec![a, 0], vec![a, 127], vec![a, 128], vec![a, 255, a]]).collect();
        all.sort();
        let stored: Vec<Key> = all.iter().map(|raw| layout.key(raw)).collect();
        assert!(stored.is_sorted());
        for (raw, key) in all.iter().zip(&stored) {
            assert_eq!(layout.raw(key).as_ref(), Some(raw));
        }
    }

    #[test]
    fn a_list_from_before_a_key_begins_with_it() {
        let layout = layout();
        let mut all: Vec<Vec<u8>> =
            (0..=255u8).flat_map(|a| [vec![a], vec![a, 0], vec![a, 0, 0], vec![a, 1], vec![a, 255], vec![a, 255, 255]]).collect();
        all.sort();
        for pair in all.windows(2) {
            let before = layout.before(&pair[1]);
            assert!(layout.key(&pair[0]) <= before && before < layout.key(&pair[1]), "{pair:?}");
        }
        assert!(layout.before(&[0]) < layout.key(&[0]));
    }

    #[test]
    fn what_is_not_of_the_bridge_is_no_key() {
        let layout = layout();
        assert_eq!(layout.raw(&Layout::new("other").key(b"a")), None);
        assert_eq!(layout.raw(&layout.lease(1)), None);
        assert_eq!(layout.lease_id(&layout.key(b"1")), None);
        for id in [1, i64::MAX, -1] {
            assert_eq!(layout.lease_id(&layout.lease(id)), Some(id));
        }
    }

    #[test]
    fn ranges_are_read_as_etcd_does() {
        let range = |key: &[u8], end: &[u8]| KeyRange::new(key.to_vec(), end.to_vec());
        assert!(range(b"a", b"").contains(b"a") && !range(b"a", b"").contains(b"a\0"));
        assert!(range(b"b", b"\0").contains(b"\xff\xff") && !range(b"b", b"\0").contains(b"a"));
        assert!(range(b"a", b"b").contains(b"a\xff") && !range(b"a", b"b").contains(b"b"));
        assert!(range(b"b", b"a").is_empty() && !range(b"b", b"a").contains(b"b"));
        assert!(range(b"\0", b"\0").contains(b"\0"));
    }

    #[test]
    fn prefixes_are_known() {
        let range = |key: &[u8], end: &[u8]| KeyRange::new(key.to_vec(), end.to_vec());
        assert_eq!(range(b"/pods/", b"/pods0").prefix(), Some(b"/pods/".as_slice()));
        assert_eq!(range(b"a\xff", b"b").prefix(), Some(b"a\xff".as_slice()));
        assert_eq!(range(b"a", b"c").prefix(), None);
        assert_eq!(range(b"a1", b"b").prefix(), None);
        assert_eq!(range(b"a", b"\0").prefix(), None);
        assert_eq!(range(b"a", b"").prefix(), None);
    }
}
