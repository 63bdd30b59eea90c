//! Which streams watch a key. A commit wakes these and no others.

use std::collections::{BTreeMap, HashMap};

use crate::keys::KeyRange;

/// A stream of watches.
pub(crate) type StreamId = u64;

/// How often each stream watches something.
type Watchers = HashMap<StreamId, usize>;

/// Watched ranges. Keys and prefixes are found by hash, whatever else by looking at each.
#[derive(Debug, Default)]
pub(crate) struct Index {
    keys: HashMap<Vec<u8>, Watchers>,
    prefixes: HashMap<Vec<u8>, Watchers>,
    /// How many prefixes have a length.
    lengths: BTreeMap<usize, usize>,
    others: HashMap<KeyRange, Watchers>,
}

impl Index {
    pub(crate) fn add(&mut self, range: &KeyRange, stream: StreamId) {
        let watchers = if let KeyRange::One(key) = range {
            self.keys.entry(key.clone()).or_default()
        } else if let Some(prefix) = range.prefix() {
            let watchers = self.prefixes.entry(prefix.to_vec()).or_default();
            if watchers.is_empty() {
                *self.lengths.entry(prefix.len()).or_default() += 1;
            }
            watchers
        } else {
            self.others.entry(range.clone()).or_default()
        };
        *watchers.entry(stream).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, range: &KeyRange, stream: StreamId) {
        if let KeyRange::One(key) = range {
            if self.keys.get_mut(key).is_some_and(|watchers| leave(watchers, stream)) {
                self.keys.remove(key);
            }
        } else if let Some(prefix) = range.prefix() {
            if self.prefixes.get_mut(prefix).is_some_and(|watchers| leave(watchers, stream)) {
                self.prefixes.remove(prefix);
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
        } else if self.others.get_mut(range).is_some_and(|watchers| leave(watchers, stream)) {
            self.others.remove(range);
        }
    }

    /// Tells each stream that watches a key, perhaps more than once.
    pub(crate) fn watching(&self, key: &[u8], mut tell: impl FnMut(StreamId)) {
        let by_prefix = self.lengths.keys().filter_map(|length| self.prefixes.get(key.get(..*length)?));
        let others = self.others.iter().filter(|(range, _)| range.contains(key)).map(|(_, watchers)| watchers);
        for watchers in self.keys.get(key).into_iter().chain(by_prefix).chain(others) {
            watchers.keys().copied().for_each(&mut tell);
        }
    }
}

/// True when nobody is left.
fn leave(watchers: &mut Watchers, stream: StreamId) -> bool {
    if let Some(count) = watchers.get_mut(&stream) {
        *count -= 1;
        if *count == 0 {
            watchers.remove(&stream);
        }
    }
    watchers.is_empty()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn range(key: &str, end: &str) -> KeyRange {
        KeyRange::new(key.into(), end.into())
    }
    fn watching(index: &Index, key: &str) -> Vec<StreamId> {
        let mut streams = BTreeSet::new();
        index.watching(key.as_bytes(), |stream| {
            streams.insert(stream);
        });
        streams.into_iter().collect()
    }

    #[test]
    fn only_those_who_watch_a_key_are_told() {
        let mut index = Index::default();
        let ranges = [range("/pods/a", ""), range("/pods/", "/pods0"), range("/", "0"), range("/pods/b", "/pods/x"), range("/q", "\0")];
        for (stream, range) in ranges.iter().enumerate() {
            index.add(range, stream as StreamId);
        }
        assert_eq!(watching(&index, "/pods/a"), [0, 1, 2]);
        assert_eq!(watching(&index, "/pods/c"), [1, 2, 3]);
        assert_eq!(watching(&index, "/nodes/a"), [2]);
        assert_eq!(watching(&index, "zz"), [4]);
        assert_eq!(watching(&index, "!"), [] as [StreamId; 0]);
        for (stream, range) in ranges.iter().enumerate() {
            index.remove(range, stream as StreamId);
        }
        assert_eq!(watching(&index, "/pods/a"), [] as [StreamId; 0]);
        assert!(index.keys.is_empty() && index.prefixes.is_empty() && index.lengths.is_empty() && index.others.is_empty());
    }

    #[test]
    fn a_stream_that_watches_twice_is_told_until_it_has_left_twice() {
        let mut index = Index::default();
        index.add(&range("a", ""), 1);
        index.add(&range("a", ""), 1);
        index.remove(&range("a", ""), 1);
        assert_eq!(watching(&index, "a"), [1]);
        index.remove(&range("a", ""), 1);
        assert_eq!(watching(&index, "a"), [] as [StreamId; 0]);
    }
}
