//! How keys are written in etcd: `PREFIX!GROUP!RESOURCE!NAMESPACE!NAME`.
//!
//! The separator sorts before everything that a name commonly has, so that etcd's order of bytes is the order of [`Key`].
//! What is not above it is escaped, in a way that keeps the order too.

use std::ops::Range;
use std::sync::Arc;

use wharf_core::store::{Key, ResourceId, Scope};

const SEPARATOR: u8 = b'!';
/// Sorts after the separator and before all that is not escaped.
const ESCAPE: u8 = b'"';
/// What is added to an escaped byte to make it printable.
const SHIFT: u8 = 0x40;

/// The keys under a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// With the separator after it.
    root: Vec<u8>,
}

impl Keys {
    /// `None` if the prefix has a character that is not allowed in one.
    pub(crate) fn new(prefix: &str) -> Option<Self> {
        let allowed = prefix.bytes().all(|b| b > ESCAPE && b.is_ascii_graphic());
        allowed.then(|| Self { root: [prefix.as_bytes(), &[SEPARATOR]].concat() })
    }

    /// A key that is in the range of this store, and is never written.
    pub(crate) fn probe(&self) -> Vec<u8> {
        self.root.clone()
    }

    fn resource(&self, resource: &ResourceId) -> Vec<u8> {
        let mut raw = self.root.clone();
        for part in [&resource.group, &resource.resource] {
            escape(&mut raw, part);
            raw.push(SEPARATOR);
        }
        raw
    }

    pub(crate) fn encode(&self, key: &Key) -> Vec<u8> {
        let mut raw = self.resource(&key.resource);
        escape(&mut raw, &key.namespace);
        raw.push(SEPARATOR);
        escape(&mut raw, &key.name);
        raw
    }

    /// The first that sorts after a raw key.
    pub(crate) fn after(mut raw: Vec<u8>) -> Vec<u8> {
        raw.push(0);
        raw
    }

    /// Everything in scope, end exclusive.
    pub(crate) fn range(&self, scope: &Scope) -> Range<Vec<u8>> {
        let start = match scope {
            Scope::Resource(resource) => self.resource(resource),
            Scope::Namespace(resource, namespace) => {
                let mut raw = self.resource(resource);
                escape(&mut raw, namespace);
                raw.push(SEPARATOR);
                raw
            }
            // Everything; a scope to come is narrowed by whoever decodes.
            _ => self.root.clone(),
        };
        let mut end = start.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        start..end
    }

    /// What a raw key says; `None` if it is not one of ours. Parts that `like` has too are shared with it.
    pub(crate) fn decode(&self, raw: &[u8], like: Option<&Key>) -> Option<Key> {
        let mut parts = raw.strip_prefix(self.root.as_slice())?.split(|b| *b == SEPARATOR);
        let mut next = || unescape(parts.next()?);
        let (group, resource, namespace, name) = (next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return None;
        }
        let shared = |part: String, like: Option<&Arc<str>>| match like {
            Some(like) if **like == *part => like.clone(),
            _ => Arc::from(part),
        };
        let resource = ResourceId {
            group: shared(group, like.map(|k| &k.resource.group)),
            resource: shared(resource, like.map(|k| &k.resource.resource)),
        };
        Some(Key { resource, namespace: shared(namespace, like.map(|k| &k.namespace)), name: Arc::from(name) })
    }
}

fn escape(raw: &mut Vec<u8>, part: &str) {
    for byte in part.bytes() {
        if byte <= ESCAPE {
            raw.extend([ESCAPE, byte + SHIFT]);
        } else {
            raw.push(byte);
        }
    }
}

fn unescape(part: &[u8]) -> Option<String> {
    let mut plain = Vec::with_capacity(part.len());
    let mut bytes = part.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            ESCAPE => bytes.next()?.checked_sub(SHIFT).filter(|b| *b <= ESCAPE)?,
            byte if byte < ESCAPE => return None,
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("/registry").unwrap()
    }

    fn all() -> Vec<Key> {
        let parts = ["", "a", "a-b", "a.b", "ab", "a/b", "a!b", "a\"b", "a b", "\u{0}", "!", "\"", "ü", "system:a", "A", "~"];
        let mut all = Vec::new();
        for group in parts {
            for namespace in parts {
                for name in parts {
                    all.push(Key::new(ResourceId::new(group, "pods"), namespace, name));
                }
            }
        }
        all.sort();
        all
    }

    #[test]
    fn bytes_sort_as_keys_do() {
        let raw: Vec<_> = all().iter().map(|k| keys().encode(k)).collect();
        assert!(raw.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn a_key_comes_back_as_it_was() {
        let mut last = None;
        for key in all() {
            assert_eq!(keys().decode(&keys().encode(&key), last.as_ref()), Some(key.clone()));
            last = Some(key);
        }
    }

    #[test]
    fn a_range_has_what_its_scope_has() {
        let pods = ResourceId::new("a", "pods");
        for scope in
            [Scope::All, Scope::Resource(pods.clone()), Scope::Namespace(pods.clone(), "a".into()), Scope::Namespace(pods, "".into())]
        {
            let range = keys().range(&scope);
            for key in all() {
                assert_eq!(range.contains(&keys().encode(&key)), scope.contains(&key), "{key:?} in {scope:?}");
            }
        }
    }

    #[test]
    fn keys_are_readable() {
        let key = Key::new(ResourceId::new("apps", "deployments"), "default", "web-1");
        assert_eq!(keys().encode(&key), b"/registry!apps!deployments!default!web-1");
    }

    #[test]
    fn what_is_not_ours_is_no_key() {
        for raw in
            ["/registry/pods", "/registry!a!b!c", "/registry!a!b!c!d!e", "/registry!a!b!c!d e", "/registry!a!b!c!\"", "/registry!a!b!c!\"x"]
        {
            assert_eq!(keys().decode(raw.as_bytes(), None), None, "{raw}");
        }
        assert_eq!(keys().decode(b"/registry!a!b!c!\xff", None), None);
        assert_eq!(keys().decode(&keys().probe(), None), None);
    }

    #[test]
    fn prefixes_do_not_mix() {
        let inner = Keys::new("/registry/a").unwrap();
        let raw = inner.encode(&Key::new(ResourceId::new("", "pods"), "a", "b"));
        assert!(!keys().range(&Scope::All).contains(&raw));
        for prefix in ["a!b", "a b", "a\"b", "ä", "\n"] {
            assert!(Keys::new(prefix).is_none(), "{prefix:?}");
        }
    }
}
