//! Profiles: which plugins run, in which order, with which weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::plugin::{
    Bind, Filter, Permit, Plugin, PostBind, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore, QueueSort, Reserve, Score,
};

/// The largest weight of a plugin.
pub const MAX_WEIGHT: i64 = 100;

/// The extension points that one plugin takes part in.
#[derive(Clone)]
pub struct Points {
    name: &'static str,
    pre_enqueue: Option<Arc<dyn PreEnqueue>>,
    queue_sort: Option<Arc<dyn QueueSort>>,
    pre_filter: Option<Arc<dyn PreFilter>>,
    filter: Option<Arc<dyn Filter>>,
    post_filter: Option<Arc<dyn PostFilter>>,
    pre_score: Option<Arc<dyn PreScore>>,
    score: Option<Arc<dyn Score>>,
    reserve: Option<Arc<dyn Reserve>>,
    permit: Option<Arc<dyn Permit>>,
    pre_bind: Option<Arc<dyn PreBind>>,
    bind: Option<Arc<dyn Bind>>,
    post_bind: Option<Arc<dyn PostBind>>,
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Points({})", self.name)
    }
}

/// Says which extension points a plugin takes part in: `Registration::new(MyPlugin).filter().score().points()`.
#[derive(Debug)]
pub struct Registration<P> {
    plugin: Arc<P>,
    points: Points,
}

macro_rules! points {
    ($($method:ident: $trait:ident),*) => {
        impl<P: Plugin> Registration<P> {
            /// A plugin that takes part in nothing yet.
            pub fn new(plugin: P) -> Self {
                let points = Points { name: plugin.name(), $($method: None),* };
                Self { plugin: Arc::new(plugin), points }
            }
            $(
                #[doc = concat!("It takes part in ", stringify!($trait), ".")]
                pub fn $method(mut self) -> Self where P: $trait {
                    self.points.$method = Some(self.plugin.clone());
                    self
                }
            )*
            /// For [`Registry::register`].
            pub fn points(self) -> Points {
                self.points
            }
        }
    };
}
points!(
    pre_enqueue: PreEnqueue, queue_sort: QueueSort, pre_filter: PreFilter, filter: Filter, post_filter: PostFilter,
    pre_score: PreScore, score: Score, reserve: Reserve, permit: Permit, pre_bind: PreBind, bind: Bind, post_bind: PostBind
);

/// The plugins that profiles can name.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    plugins: BTreeMap<&'static str, Points>,
}

impl Registry {
    /// Adds a plugin; replaces one of the same name, so that an in-tree plugin can be exchanged.
    pub fn register(mut self, points: Points) -> Self {
        self.plugins.insert(points.name, points);
        self
    }
    /// The names known.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.plugins.keys().copied()
    }
}

/// A profile that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// No plugin of this name is registered.
    #[error("plugin {0:?} does not exist")]
    Unknown(String),
    /// A plugin is named twice.
    #[error("plugin {0:?} already registered")]
    Twice(String),
    /// A weight is not in 1 up to [`MAX_WEIGHT`].
    #[error("score plugin {name:?} is configured with weight {weight}")]
    Weight {
        /// The plugin.
        name: String,
        /// Its weight.
        weight: i64,
    },
    /// Two plugins order the queue.
    #[error("only one queue sort plugin can be enabled: {0:?} and {1:?}")]
    QueueSort(&'static str, &'static str),
}

/// Puts a profile together.
#[derive(Debug, Clone, Default)]
pub struct ProfileBuilder {
    plugins: Vec<(String, i64)>,
}

impl ProfileBuilder {
    /// Adds a plugin with weight 1.
    pub fn plugin(self, name: impl Into<String>) -> Self {
        self.weighted(name, 1)
    }
    /// Adds a plugin whose scores count `weight` times.
    pub fn weighted(mut self, name: impl Into<String>, weight: i64) -> Self {
        self.plugins.push((name.into(), weight));
        self
    }
    /// Leaves a plugin out that was added before.
    pub fn without(mut self, name: &str) -> Self {
        self.plugins.retain(|(n, _)| n != name);
        self
    }
    /// The profile. Plugins run in the order in which they were added.
    ///
    /// # Errors
    /// [`ProfileError`]: nothing is left out silently.
    pub fn build(self, registry: &Registry) -> Result<Profile, ProfileError> {
        let mut profile = Profile::default();
        let mut seen = BTreeSet::new();
        for (name, weight) in self.plugins {
            let Some(points) = registry.plugins.get(name.as_str()) else { return Err(ProfileError::Unknown(name)) };
            if !seen.insert(name.clone()) {
                return Err(ProfileError::Twice(name));
            }
            if !(1..=MAX_WEIGHT).contains(&weight) {
                return Err(ProfileError::Weight { name, weight });
            }
            if let (Some(one), Some(two)) = (&profile.queue_sort, &points.queue_sort) {
                return Err(ProfileError::QueueSort(one.name(), two.name()));
            }
            let points = points.clone();
            profile.pre_enqueue.extend(points.pre_enqueue);
            profile.queue_sort = profile.queue_sort.or(points.queue_sort);
            profile.pre_filter.extend(points.pre_filter);
            profile.filter.extend(points.filter);
            profile.post_filter.extend(points.post_filter);
            profile.pre_score.extend(points.pre_score);
            profile.score.extend(points.score.map(|s| (s, weight)));
            profile.reserve.extend(points.reserve);
            profile.permit.extend(points.permit);
            profile.pre_bind.extend(points.pre_bind);
            profile.bind.extend(points.bind);
            profile.post_bind.extend(points.post_bind);
        }
        Ok(profile)
    }
}

/// The plugins that run, in order. An empty profile accepts every node, and binds through the API.
#[derive(Debug, Default)]
pub struct Profile {
    pub(crate) pre_enqueue: Vec<Arc<dyn PreEnqueue>>,
    pub(crate) queue_sort: Option<Arc<dyn QueueSort>>,
    pub(crate) pre_filter: Vec<Arc<dyn PreFilter>>,
    pub(crate) filter: Vec<Arc<dyn Filter>>,
    pub(crate) post_filter: Vec<Arc<dyn PostFilter>>,
    pub(crate) pre_score: Vec<Arc<dyn PreScore>>,
    pub(crate) score: Vec<(Arc<dyn Score>, i64)>,
    pub(crate) reserve: Vec<Arc<dyn Reserve>>,
    pub(crate) permit: Vec<Arc<dyn Permit>>,
    pub(crate) pre_bind: Vec<Arc<dyn PreBind>>,
    pub(crate) bind: Vec<Arc<dyn Bind>>,
    pub(crate) post_bind: Vec<Arc<dyn PostBind>>,
}

impl Profile {
    /// Starts from no plugins.
    pub fn builder() -> ProfileBuilder {
        ProfileBuilder::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bind::DefaultBinder;

    #[test]
    fn what_cannot_be_built_is_said() {
        let registry = Registry::default().register(Registration::new(DefaultBinder).bind().points());
        let build = |b: ProfileBuilder| b.build(&registry).err();
        assert_eq!(build(Profile::builder().plugin("DefaultBinder")), None);
        assert_eq!(build(Profile::builder().plugin("Nope")), Some(ProfileError::Unknown("Nope".into())));
        let twice = Profile::builder().plugin("DefaultBinder").plugin("DefaultBinder");
        assert_eq!(build(twice), Some(ProfileError::Twice("DefaultBinder".into())));
        assert!(matches!(build(Profile::builder().weighted("DefaultBinder", 0)), Some(ProfileError::Weight { .. })));
    }
}
