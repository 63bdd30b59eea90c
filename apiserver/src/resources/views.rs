//! What stored custom objects look like in one of their versions: found out once for each object, and kept while there is room.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use parking_lot::Mutex;
use wharf_core::object::Object;
use wharf_core::store::{Key, Revision};

/// Most objects of one version of which it is remembered what they look like.
pub const MAX_OBJECTS: usize = 1 << 16;
/// Most bytes of one version's objects that look different from what is stored.
pub const MAX_BYTES: usize = 32 << 20;

/// What an object looks like.
#[derive(Debug, Clone)]
pub enum View {
    /// As it is stored.
    Same,
    /// Like this.
    Other(Arc<Object>),
}

/// What comes of finding out.
pub(crate) type Found = Result<Arc<Object>, Arc<Status>>;
/// Somebody finds out; whoever else wants to know waits for the same.
pub(crate) type Finding = Shared<BoxFuture<'static, Found>>;
type Running = WeakShared<BoxFuture<'static, Found>>;

#[derive(Default)]
struct Known {
    views: HashMap<Key, (Revision, View)>,
    bytes: usize,
    running: HashMap<(Key, Revision), Running>,
}

/// The views of one version's objects.
#[derive(Default)]
pub struct Views(Mutex<Known>);

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Views({})", self.0.lock().views.len())
    }
}

fn weight(view: &View) -> usize {
    match view {
        View::Same => 0,
        View::Other(object) => object.len_hint(),
    }
}

impl Views {
    /// What a stored object looks like, if that is known.
    pub fn get(&self, stored: &Object) -> Option<View> {
        let known = self.0.lock();
        known.views.get(stored.key()).filter(|(revision, _)| *revision == stored.revision()).map(|(_, view)| view.clone())
    }

    /// Remembers what a stored object looks like. Where there is no room left, everything is forgotten.
    pub fn keep(&self, stored: &Object, view: View) {
        let mut known = self.0.lock();
        if known.views.len() >= MAX_OBJECTS || known.bytes + weight(&view) > MAX_BYTES {
            known.views.clear();
            known.bytes = 0;
        }
        known.bytes += weight(&view);
        if let Some((_, before)) = known.views.insert(stored.key().clone(), (stored.revision(), view)) {
            known.bytes = known.bytes.saturating_sub(weight(&before));
        }
    }

    /// Lets one find out for all who want to know at the same time.
    pub(crate) fn finding(&self, stored: &Object, find: impl FnOnce() -> BoxFuture<'static, Found>) -> Finding {
        let mut known = self.0.lock();
        known.running.retain(|_, running| running.upgrade().is_some_and(|running| running.peek().is_none()));
        let place = (stored.key().clone(), stored.revision());
        if let Some(running) = known.running.get(&place).and_then(WeakShared::upgrade) {
            return running;
        }
        let finding = find().shared();
        if let Some(running) = finding.downgrade() {
            known.running.insert(place, running);
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use wharf_core::store::ResourceId;

    use super::*;

    fn object(name: &str, revision: u64, size: usize) -> Arc<Object> {
        let key = Key::new(ResourceId::new("g", "r"), "n", name);
        Arc::new(Object::from_served(key, Revision(revision), vec![b' '; size].into()))
    }

    #[test]
    fn views_are_of_one_revision_and_bounded() {
        let views = Views::default();
        let (first, second) = (object("a", 1, 1), object("a", 2, 1));
        views.keep(&first, View::Same);
        assert!(matches!(views.get(&first), Some(View::Same)) && views.get(&second).is_none());
        views.keep(&second, View::Other(object("a", 2, MAX_BYTES)));
        assert!(matches!(views.get(&second), Some(View::Other(_))) && views.get(&first).is_none());
        let third = object("b", 3, 1);
        views.keep(&third, View::Other(object("b", 3, 1)));
        assert!(views.get(&second).is_none() && views.get(&third).is_some());
    }

    #[tokio::test]
    async fn one_finds_out_for_all() {
        let (views, stored) = (Views::default(), object("a", 1, 1));
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let found = stored.clone();
        let first = views.finding(&stored, || {
            Box::pin(async move {
                let _ = told.await;
                Ok(found)
            })
        });
        let second = views.finding(&stored, || unreachable!("somebody finds out already"));
        tell.send(()).unwrap();
        assert!(Arc::ptr_eq(&first.await.unwrap(), &second.await.unwrap()));
        // That is over: who comes later finds out again.
        let later = object("later", 1, 1);
        let third = views.finding(&stored, || Box::pin(async move { Ok(later) }));
        assert_eq!(&*third.await.unwrap().key().name, "later");
    }
}
