//! One list and watch per kind and scope, shared by everyone in the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::ApiResource;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, ApiEvent, Kind, Query, SharedApi};
use crate::clock::Clock;
use crate::object::{Object, ObjectRef, resource_of};
use crate::store::Revision;

/// How many changes a subscriber may fall behind before it has to look at everything again.
pub const CHANGE_BUFFER: usize = 512;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// A watch that lived this long worked, so that its end is no failure. As long as the longest wait: whatever a server does, it is asked
/// at most about once in this time for long.
const WATCH_LIVED: Duration = RETRY_MOST;

/// A change that an informer saw. Without `old` the object is new, without `new` it is gone.
#[derive(Debug, Clone)]
pub struct ObjectChange {
    /// The state before.
    pub old: Option<Arc<Object>>,
    /// The state now.
    pub new: Option<Arc<Object>>,
}

impl ObjectChange {
    /// The newest state known, also of a deleted object.
    pub fn latest(&self) -> &Arc<Object> {
        // At least one side is always there: changes are only made by `Informer`.
        self.new.as_ref().or(self.old.as_ref()).expect("a change has a side")
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    /// Controlling owner's uid to its objects.
    owned: HashMap<String, BTreeSet<ObjectRef>>,
}

impl State {
    fn set(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let key = object.object_ref();
        let owner = object.controller_uid().map(str::to_owned);
        let old = self.objects.insert(key.clone(), object);
        self.unown(old.as_ref(), &key);
        if let Some(uid) = owner {
            self.owned.entry(uid).or_default().insert(key);
        }
        old
    }
    fn unset(&mut self, key: &ObjectRef) -> Option<Arc<Object>> {
        let old = self.objects.remove(key);
        self.unown(old.as_ref(), key);
        old
    }
    fn unown(&mut self, old: Option<&Arc<Object>>, key: &ObjectRef) {
        if let Some(uid) = old.and_then(|o| o.controller_uid())
            && let Some(set) = self.owned.get_mut(uid)
        {
            set.remove(key);
            if set.is_empty() {
                self.owned.remove(uid);
            }
        }
    }
}

/// The objects of one resource that match one query, kept up to date.
#[derive(Debug)]
pub struct Informer {
    resource: ApiResource,
    query: Query,
    state: RwLock<State>,
    synced: watch::Sender<bool>,
    changes: broadcast::Sender<ObjectChange>,
}

impl Informer {
    fn new(resource: ApiResource, query: Query) -> Self {
        Self {
            resource,
            query,
            state: RwLock::default(),
            synced: watch::Sender::new(false),
            changes: broadcast::Sender::new(CHANGE_BUFFER),
        }
    }

    /// One object.
    pub fn get(&self, key: &ObjectRef) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }
    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.state.read().objects.values().cloned().collect()
    }
    /// The objects of a namespace, in key order.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<Object>> {
        let first = ObjectRef::new(namespace, "");
        self.state.read().objects.range(first..).take_while(|(key, _)| &*key.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }
    /// The objects whose controlling owner has this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<Object>> {
        let state = self.state.read();
        let keys = state.owned.get(uid);
        keys.into_iter().flatten().filter_map(|key| state.objects.get(key).cloned()).collect()
    }
    /// Every key now and every change from now on, without a gap between the two.
    pub fn subscribe(&self) -> (Vec<Arc<Object>>, broadcast::Receiver<ObjectChange>) {
        let state = self.state.read();
        (state.objects.values().cloned().collect(), self.changes.subscribe())
    }
    /// Waits until the first list has been read.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self, so that this cannot fail.
        let _ = synced.wait_for(|done| *done).await;
    }
    /// Whether the first list has been read.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    fn replace(&self, items: Vec<Arc<Object>>) {
        let mut state = self.state.write();
        let fresh: BTreeSet<ObjectRef> = items.iter().map(|o| o.object_ref()).collect();
        let gone: Vec<ObjectRef> = state.objects.keys().filter(|key| !fresh.contains(*key)).cloned().collect();
        for key in gone {
            // A relist must tell of deletes that the broken watch never told of.
            let old = state.unset(&key);
            self.tell(old, None);
        }
        for object in items {
            let known = state.objects.get(&object.object_ref()).is_some_and(|o| o.revision() == object.revision());
            if !known {
                let old = state.set(object.clone());
                self.tell(old, Some(object));
            }
        }
    }

    fn apply(&self, event: ApiEvent) -> Option<Revision> {
        let mut state = self.state.write();
        match event {
            ApiEvent::Added(object) | ApiEvent::Modified(object) => {
                let revision = object.revision();
                let old = state.set(object.clone());
                self.tell(old, Some(object));
                Some(revision)
            }
            ApiEvent::Deleted(object) => {
                let old = state.unset(&object.object_ref());
                // The last state is the event's: it may carry a deletionTimestamp that was never seen.
                if old.is_some() {
                    self.tell(Some(object.clone()), None);
                }
                Some(object.revision())
            }
            ApiEvent::Bookmark(revision) => Some(revision),
        }
    }

    fn tell(&self, old: Option<Arc<Object>>, new: Option<Arc<Object>>) {
        // Nobody may be listening.
        let _ = self.changes.send(ObjectChange { old, new });
    }

    async fn run(&self, api: &SharedApi, clock: &Arc<dyn Clock>) {
        let mut delay = RETRY_FIRST;
        loop {
            match self.list_and_watch(api, clock, &mut delay).await {
                Ok(()) => {}
                Err(error) if error.is_expired() => tracing::debug!(resource = %self.resource.plural, "relisting: {error}"),
                Err(error) => tracing::warn!(resource = %self.resource.plural, "list and watch failed, trying again: {error}"),
            }
            back_off(clock, &mut delay).await;
        }
    }

    async fn list_and_watch(&self, api: &SharedApi, clock: &Arc<dyn Clock>, delay: &mut Duration) -> Result<(), ApiError> {
        let list = api.list(&self.resource, &self.query).await?;
        let mut revision = list.revision;
        self.replace(list.items);
        self.synced.send_replace(true);
        loop {
            // A watch that ends in good order goes on where it was.
            let mut events = api.watch(&self.resource, &self.query, revision).await?;
            let begin = clock.monotonic();
            let mut any = false;
            let end = loop {
                match events.next().await {
                    Some(Ok(event)) => {
                        any = true;
                        if let Some(at) = self.apply(event) {
                            revision = revision.max(at);
                        }
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                }
            };
            let lived = clock.monotonic().saturating_sub(begin) >= WATCH_LIVED;
            if lived {
                *delay = RETRY_FIRST;
            }
            end?;
            match (lived, any) {
                (true, _) => {}
                (false, true) => back_off(clock, delay).await,
                // It gave nothing and ended at once: perhaps its revision is at fault, so that the next begins with a list.
                (false, false) => return Ok(()),
            }
        }
    }
}

/// Waits, and makes the next wait longer.
async fn back_off(clock: &Arc<dyn Clock>, delay: &mut Duration) {
    let jitter = delay.mul_f64(rand::random::<f64>() * 0.5);
    clock.sleep(*delay + jitter).await;
    *delay = (*delay * 2).min(RETRY_MOST);
}

#[derive(Debug)]
struct Shared {
    api: SharedApi,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    informers: Mutex<HashMap<String, Running>>,
}

#[derive(Debug)]
struct Running {
    informer: Arc<Informer>,
    stop: CancellationToken,
}

fn name_of(resource: &ApiResource, query: &Query) -> String {
    format!("{}/{}/{query:?}", resource.api_version, resource.plural)
}

/// The informers of a process. Cheap to clone.
///
/// An informer starts when it is first asked for, and must be asked for inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

impl Informers {
    /// No informers yet. All end when `stop` is cancelled.
    pub fn new(api: SharedApi, clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        Self { shared: Arc::new(Shared { api, clock, stop, informers: Mutex::default() }) }
    }

    /// All objects of a type.
    pub fn of<K: Kind>(&self) -> Reader<K> {
        self.scoped(Query::default())
    }

    /// The objects of a type that match a query.
    pub fn scoped<K: Kind>(&self, query: Query) -> Reader<K> {
        Reader { informer: self.informer(resource_of::<K>(), query), kind: PhantomData }
    }

    /// The informer of a resource and query.
    pub fn informer(&self, resource: ApiResource, query: Query) -> Arc<Informer> {
        let name = name_of(&resource, &query);
        let mut informers = self.shared.informers.lock();
        if let Some(known) = informers.get(&name) {
            return known.informer.clone();
        }
        let (informer, stop) = (Arc::new(Informer::new(resource, query)), self.shared.stop.child_token());
        informers.insert(name, Running { informer: informer.clone(), stop: stop.clone() });
        drop(informers);
        let (task, api, clock) = (informer.clone(), self.shared.api.clone(), self.shared.clock.clone());
        tokio::spawn(async move { stop.run_until_cancelled(task.run(&api, &clock)).await });
        informer
    }

    /// The informer of all objects of a resource, if there is one.
    pub fn known(&self, resource: &ApiResource) -> Option<Arc<Informer>> {
        self.shared.informers.lock().get(&name_of(resource, &Query::default())).map(|running| running.informer.clone())
    }

    /// Ends an informer, whose resource is no longer served. What it has read stays in it; whoever asks for the resource again gets
    /// another.
    pub fn release(&self, informer: &Arc<Informer>) {
        let name = name_of(&informer.resource, &informer.query);
        let mut informers = self.shared.informers.lock();
        // Another user may have released it before, and a third have asked anew.
        if informers.get(&name).is_some_and(|running| Arc::ptr_eq(&running.informer, informer))
            && let Some(ended) = informers.remove(&name)
        {
            ended.stop.cancel();
        }
    }
}

/// A typed view of an informer. Cheap to clone.
#[derive(Debug)]
pub struct Reader<K> {
    informer: Arc<Informer>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Reader<K> {
    fn clone(&self) -> Self {
        Self { informer: self.informer.clone(), kind: PhantomData }
    }
}

fn decode_all<K: Kind>(objects: Vec<Arc<Object>>) -> Vec<Arc<K>> {
    objects.into_iter().filter_map(|o| decode(&o)).collect()
}

fn decode<K: Kind>(object: &Object) -> Option<Arc<K>> {
    object.decode().inspect_err(|error| tracing::error!("left out: {error}")).ok()
}

impl<K: Kind> Reader<K> {
    /// One object.
    pub fn get(&self, key: &ObjectRef) -> Option<Arc<K>> {
        self.informer.get(key).and_then(|o| decode(&o))
    }
    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        decode_all(self.informer.list())
    }
    /// The objects of a namespace, in key order.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        decode_all(self.informer.list_in(namespace))
    }
    /// The objects whose controlling owner has this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        decode_all(self.informer.owned_by(uid))
    }
    /// Waits until the first list has been read.
    pub async fn synced(&self) {
        self.informer.synced().await;
    }
    /// The untyped informer, to subscribe to changes.
    pub fn informer(&self) -> &Arc<Informer> {
        &self.informer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Api, ApiWatch, ObjectList, Target, Write};
    use crate::clock::ManualClock;
    use crate::store::{Key, ResourceId};
    use k8s_openapi::api::core::v1::ConfigMap;
    use tokio::sync::mpsc;

    fn object(name: &str, revision: u64, owner: Option<&str>) -> Arc<Object> {
        let owners = owner.map(|uid| serde_json::json!([{"uid": uid, "controller": true, "kind": "X", "apiVersion": "v1", "name": "x"}]));
        let body =
            serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"namespace":"ns","ownerReferences":owners}});
        let key = Key::new(ResourceId::new("", "configmaps"), "ns", name);
        Arc::new(Object::from_served(key, Revision(revision), serde_json::to_vec(&body).unwrap().into()))
    }

    #[test]
    fn a_relist_tells_of_missed_deletes_and_not_of_the_unchanged() {
        let informer = Informer::new(resource_of::<ConfigMap>(), Query::default());
        informer.replace(vec![object("a", 1, None), object("b", 2, Some("u1"))]);
        let (now, mut changes) = informer.subscribe();
        assert_eq!(now.len(), 2);
        informer.replace(vec![object("a", 1, None), object("c", 4, None)]);
        let gone = changes.try_recv().unwrap();
        assert!(gone.new.is_none() && gone.old.unwrap().key().name.as_ref() == "b");
        let new = changes.try_recv().unwrap();
        assert!(new.old.is_none() && new.new.unwrap().key().name.as_ref() == "c");
        assert!(changes.try_recv().is_err());
        assert!(informer.owned_by("u1").is_empty());
    }

    #[test]
    fn the_owner_index_follows_a_change_of_owner() {
        let informer = Informer::new(resource_of::<ConfigMap>(), Query::default());
        informer.apply(ApiEvent::Added(object("a", 1, Some("u1"))));
        informer.apply(ApiEvent::Modified(object("a", 2, Some("u2"))));
        assert!(informer.owned_by("u1").is_empty());
        assert_eq!(informer.owned_by("u2").len(), 1);
        assert_eq!(informer.list_in("ns").len(), 1);
        assert!(informer.list_in("n").is_empty());
    }

    /// Hands each watch to the test, which says what happens in it.
    #[derive(Debug)]
    struct Told {
        lists: Mutex<usize>,
        watches: mpsc::UnboundedSender<(Revision, mpsc::UnboundedSender<Result<ApiEvent, ApiError>>)>,
    }

    #[async_trait::async_trait]
    impl Api for Told {
        async fn get(&self, _: &Target) -> Result<Arc<Object>, ApiError> {
            Err(ApiError::status(404, "NotFound", ""))
        }
        async fn list(&self, _: &ApiResource, _: &Query) -> Result<ObjectList, ApiError> {
            *self.lists.lock() += 1;
            Ok(ObjectList { items: Vec::new(), revision: Revision(1) })
        }
        async fn watch(&self, _: &ApiResource, _: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
            let (send, receive) = mpsc::unbounded_channel();
            let _ = self.watches.send((after, send));
            Ok(futures::stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) }).boxed())
        }
        async fn write(&self, _: Write) -> Result<Arc<Object>, ApiError> {
            Err(ApiError::status(405, "MethodNotAllowed", ""))
        }
    }

    /// Lets every task go on until all wait.
    async fn settle() {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn watches_that_are_cut_at_once_do_not_spin() {
        let (send, mut watches) = mpsc::unbounded_channel();
        let api = Arc::new(Told { lists: Mutex::default(), watches: send });
        let clock = ManualClock::default();
        let stop = CancellationToken::new();
        let informers = Informers::new(api.clone(), Arc::new(clock.clone()), stop.clone());
        let reader = informers.of::<ConfigMap>();
        // One bookmark, then the end in good order: for a minute.
        let mut count = 0;
        for _ in 0..600 {
            settle().await;
            while let Ok((after, events)) = watches.try_recv() {
                count += 1;
                // 50 ms, doubled until 10 s: 8 in the first 13 s, then 5 at most.
                assert!(count <= 13, "more watches in a minute than back-off allows");
                assert_eq!(after, Revision(count), "what was seen is not asked for again");
                events.send(Ok(ApiEvent::Bookmark(Revision(count + 1)))).unwrap();
                drop(events);
                settle().await;
            }
            clock.advance(Duration::from_millis(100));
        }
        assert!(count >= 6, "{count} watches in a minute");
        assert_eq!(*api.lists.lock(), 1, "a watch that ends in good order is continued");

        // One that lives for a while is continued at once, and makes the next wait short again.
        clock.advance(RETRY_MOST * 2);
        settle().await;
        let (_, events) = watches.try_recv().unwrap();
        clock.advance(WATCH_LIVED);
        drop(events);
        settle().await;
        let (_, events) = watches.try_recv().unwrap();
        events.send(Ok(ApiEvent::Bookmark(Revision(count + 2)))).unwrap();
        drop(events);
        settle().await;
        assert!(watches.try_recv().is_err());
        clock.advance(RETRY_FIRST * 2);
        settle().await;
        let (after, _events) = watches.try_recv().unwrap();
        assert_eq!((after, *api.lists.lock()), (Revision(count + 2), 1));
        assert!(reader.list().is_empty());
        stop.cancel();
    }
}
