//! The keys of a cache's objects, which can be looked up by borrowed text: a read makes no key.

use std::borrow::Borrow;
use std::cmp::Ordering;

use crate::object::ObjectRef;

/// An object's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) ObjectRef);

/// Namespace and name, borrowed.
pub(super) trait Names {
    fn names(&self) -> (&str, &str);
}

impl Names for Name {
    fn names(&self) -> (&str, &str) {
        (&self.0.namespace, &self.0.name)
    }
}

impl Names for (&str, &str) {
    fn names(&self) -> (&str, &str) {
        *self
    }
}

impl PartialEq for dyn Names + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for dyn Names + '_ {}

impl PartialOrd for dyn Names + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Names + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
    }
}

impl<'a> Borrow<dyn Names + 'a> for Name {
    fn borrow(&self) -> &(dyn Names + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrowed_and_owned_names_have_one_order() {
        let all = [("", "a"), ("", "b"), ("a", ""), ("a", "b"), ("ab", "a"), ("b", "a")];
        for one in all {
            for other in all {
                let owned = |(namespace, name): (&str, &str)| Name(ObjectRef::new(namespace, name));
                assert_eq!((&one as &dyn Names).cmp(&other as &dyn Names), owned(one).cmp(&owned(other)), "{one:?} {other:?}");
            }
        }
    }
}
