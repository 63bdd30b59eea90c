//! How lists and maps are merged.

/// The members that tell the items of a list apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys(pub(crate) &'static str);

impl Keys {
    /// Their names, in Kubernetes' order.
    pub fn iter(self) -> impl Iterator<Item = &'static str> + Clone {
        self.0.split(',')
    }
}

/// `x-kubernetes-list-type`, by which server-side apply merges a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListRule {
    /// One value, owned as a whole; also where nothing is said.
    Atomic,
    /// Of scalars, each of which is there once.
    Set,
    /// Of objects that some of their members tell apart.
    Map(Keys),
}

/// `x-kubernetes-map-type`, by which server-side apply merges an object or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Field by field.
    Granular,
    /// As one value.
    Atomic,
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`, by which strategic merge patch merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchStrategy {
    /// Nothing is said: lists are replaced, objects merged.
    None,
    /// `replace`: the value is replaced, also an object.
    Replace,
    /// `merge`: a list's items are merged by this member, or are scalars of a set.
    Merge {
        /// The member that tells items apart; `None` for a list of scalars.
        key: Option<&'static str>,
    },
    /// `retainKeys`: of an object, only the members that the patch names stay.
    RetainKeys,
    /// `merge,retainKeys`: a list's items are merged by this member, and each keeps only what the patch names.
    MergeRetainKeys {
        /// The member that tells items apart.
        key: Option<&'static str>,
    },
}
