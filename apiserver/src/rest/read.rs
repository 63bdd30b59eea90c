//! get, list and watch, from the caches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use wharf_core::api::ApiError;
use wharf_core::cache::{Page, Watcher};
use wharf_core::object::{Object, splice_revision};
use wharf_core::store::{Key, ListOptions, Revision, Scope, StoreError};

use super::continuation::Continuation;
use super::select::Selection;
use super::versions::{present, present_all};
use super::{Registry, status};
use crate::resources::Resource;

/// How often a watch that asks for bookmarks gets one; Kubernetes' own.
pub const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Records that are read from the store at once while a filtered page is being filled.
const STORE_PAGE: usize = 500;

/// Which state to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadAt {
    /// The newest.
    #[default]
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(Revision),
    /// Exactly this revision.
    Exact(Revision),
}

/// What to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Which objects.
    pub selection: Selection,
    /// Which state.
    pub at: ReadAt,
    /// Most objects to return.
    pub limit: Option<usize>,
    /// Where the page before ended.
    pub continue_token: String,
}

/// A list.
#[derive(Debug, Clone)]
pub struct ListAnswer {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// The list shows this revision.
    pub revision: Revision,
    /// Where to go on; empty at the end.
    pub continue_token: String,
    /// How many are left, where that is known.
    pub remaining: Option<usize>,
}

fn token(revision: Revision, last: &Key) -> String {
    Continuation { revision: Some(revision), after: last.clone() }.encode()
}

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchRequest {
    /// Which objects.
    pub selection: Selection,
    /// Start after this revision; `None` to start with everything there is.
    pub after: Option<Revision>,
    /// Start with everything there is, then a bookmark that says so.
    pub initial_events: Option<bool>,
    /// Send bookmarks now and then.
    pub bookmarks: bool,
    /// End after this time.
    pub timeout: Option<Duration>,
}

/// What a watch yields.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// New to the selection.
    Added(Arc<Object>),
    /// Changed.
    Modified(Arc<Object>),
    /// Gone, or no longer selected.
    Deleted(Arc<Object>),
    /// Everything up to this revision has been sent; with `initial`, the state at the start has.
    Bookmark {
        /// Up to where.
        revision: Revision,
        /// Whether this ends the initial events.
        initial: bool,
    },
}

impl WatchEvent {
    /// Kubernetes' word for a change, and the object; `None` for a bookmark.
    pub(super) fn change(&self) -> Option<(&'static str, &Arc<Object>)> {
        match self {
            Self::Added(object) => Some(("ADDED", object)),
            Self::Modified(object) => Some(("MODIFIED", object)),
            Self::Deleted(object) => Some(("DELETED", object)),
            Self::Bookmark { .. } => None,
        }
    }
}

/// A watch; ends after an error, its timeout, or the end of the server.
pub type Watch = BoxStream<'static, Result<WatchEvent, ApiError>>;

/// The same object at another revision: only the spliced number changes.
fn at_revision(object: &Object, revision: Revision) -> Object {
    const BEFORE: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";
    if let Some(same) = object.at_revision(revision) {
        return same;
    }
    let bytes = object.bytes();
    let found = bytes.windows(BEFORE.len()).position(|w| w == BEFORE);
    let served = found.and_then(|at| {
        let number = at + BEFORE.len();
        let end = number + bytes[number..].iter().position(|b| *b == b'"')?;
        let rest = if bytes.get(end + 1) == Some(&b',') { end + 2 } else { end + 1 };
        let stored = [&bytes[..at + b"\"metadata\":{".len()], &bytes[rest..]].concat();
        Some(splice_revision(&stored.into(), revision))
    });
    Object::from_served(object.key().clone(), revision, served.unwrap_or_else(|| bytes.clone()))
}

/// Those of some stored objects that match, as they are served.
async fn selected(row: &Resource, selection: &Selection, stored: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, ApiError> {
    let matching = |objects: Vec<Arc<Object>>| objects.into_iter().filter(|o| selection.matches(row, o)).collect::<Vec<_>>();
    if selection.looks_inside(row) { Ok(matching(present_all(row, stored).await?)) } else { present_all(row, matching(stored)).await }
}

impl Registry {
    /// One object.
    ///
    /// # Errors
    /// 404, and what reading the cache fails with.
    pub async fn get(&self, row: &Resource, namespace: &str, name: &str, at: ReadAt) -> Result<Arc<Object>, ApiError> {
        let cache = self.caches.of(&row.storage).await.map_err(status::of_cache)?;
        match at {
            ReadAt::Newest | ReadAt::Exact(_) => cache.consistent().await.map_err(status::of_cache)?,
            ReadAt::Any => {}
            ReadAt::NotOlderThan(revision) => cache.reach(revision).await.map_err(status::of_cache)?,
        }
        let found = cache.get(namespace, name).ok_or_else(|| status::not_found(&row.group, &row.plural, name))?;
        present(row, found).await
    }

    async fn page(&self, row: &Resource, namespace: Option<&str>, at: ReadAt) -> Result<Page, ApiError> {
        let cache = self.caches.of(&row.storage).await.map_err(status::of_cache)?;
        match at {
            ReadAt::Newest => cache.consistent().await.map_err(status::of_cache)?,
            ReadAt::Any => {}
            ReadAt::NotOlderThan(revision) | ReadAt::Exact(revision) => cache.reach(revision).await.map_err(status::of_cache)?,
        }
        Ok(cache.list(namespace))
    }

    /// The objects that match.
    ///
    /// # Errors
    /// 410 when a page is asked for of a state that is forgotten; 400 for a bad token.
    pub async fn list(&self, row: &Resource, request: &ListRequest) -> Result<ListAnswer, ApiError> {
        let selection = &request.selection;
        let mut after = None;
        if !request.continue_token.is_empty() {
            let found = Continuation::decode(&request.continue_token, row, selection.namespace.as_deref())?;
            if let Some(revision) = found.revision {
                return self.list_past(row, selection, revision, Some(found.after), request.limit).await;
            }
            after = Some(found.after);
        }
        let page = self.page(row, selection.namespace.as_deref(), request.at).await?;
        if let ReadAt::Exact(revision) = request.at
            && page.revision != revision
        {
            return self.list_past(row, selection, revision, None, request.limit).await;
        }
        let revision = page.revision;
        let limit = request.limit.unwrap_or(usize::MAX);
        let total = page.items.len();
        let inside = selection.looks_inside(row);
        let stored = if inside { present_all(row, page.items).await? } else { page.items };
        let mut seen = 0;
        let mut items = Vec::new();
        let mut more = false;
        for object in stored {
            seen += 1;
            if after.as_ref().is_some_and(|last| (&object.key().namespace, &object.key().name) <= (&last.namespace, &last.name)) {
                continue;
            }
            if selection.matches(row, &object) {
                if items.len() == limit {
                    more = true;
                    seen -= 1;
                    break;
                }
                items.push(object);
            }
        }
        let items = if inside { items } else { present_all(row, items).await? };
        let continue_token = if more { items.last().map(|o| token(revision, o.key())).unwrap_or_default() } else { String::new() };
        let remaining = (more && selection.is_everything()).then(|| total - seen);
        Ok(ListAnswer { items, revision, continue_token, remaining })
    }

    /// A page of a state of the past, from the store.
    async fn list_past(
        &self,
        row: &Resource,
        selection: &Selection,
        revision: Revision,
        mut after: Option<Key>,
        limit: Option<usize>,
    ) -> Result<ListAnswer, ApiError> {
        let scope = match &selection.namespace {
            Some(namespace) => Scope::Namespace(row.storage.clone(), namespace.clone()),
            None => Scope::Resource(row.storage.clone()),
        };
        let limit = limit.unwrap_or(usize::MAX);
        let mut items: Vec<Arc<Object>> = Vec::new();
        loop {
            let options = ListOptions { limit: Some(STORE_PAGE), after: after.clone(), at: Some(revision) };
            let listing = self.caches.store().list(&scope, &options).await.map_err(|error| match (error, &after) {
                (StoreError::Expired { .. } | StoreError::Unsupported { .. }, None) => {
                    status::expired("The resourceVersion for the provided list is too old.")
                }
                (StoreError::Expired { .. } | StoreError::Unsupported { .. }, Some(after)) => {
                    status::page_expired(Continuation { revision: None, after: after.clone() }.encode())
                }
                (other, _) => status::of_store(other),
            })?;
            let stored = listing.records.iter().map(|record| Arc::new(Object::from_record(record))).collect();
            for object in selected(row, selection, stored).await? {
                if items.len() == limit {
                    let continue_token = items.last().map(|o| token(revision, o.key())).unwrap_or_default();
                    return Ok(ListAnswer { items, revision, continue_token, remaining: None });
                }
                items.push(object);
            }
            after = listing.records.last().map(|r| r.key.clone());
            if !listing.more || after.is_none() {
                return Ok(ListAnswer { items, revision, continue_token: String::new(), remaining: None });
            }
        }
    }

    /// What happens to the objects that match.
    ///
    /// # Errors
    /// 410 when the revision is too old.
    pub async fn watch(&self, row: &Arc<Resource>, request: WatchRequest) -> Result<Watch, ApiError> {
        let cache = self.caches.of(&row.storage).await.map_err(status::of_cache)?;
        let mut queue = VecDeque::new();
        let from_start = request.initial_events.unwrap_or(request.after.is_none());
        let watcher = if from_start {
            match request.after {
                None => cache.consistent().await.map_err(status::of_cache)?,
                Some(revision) => cache.reach(revision).await.map_err(status::of_cache)?,
            }
            let (page, watcher) = cache.list_and_watch(request.selection.namespace.as_deref()).map_err(status::of_cache)?;
            let initial = selected(row, &request.selection, page.items).await?;
            queue.extend(initial.into_iter().map(WatchEvent::Added));
            if request.initial_events == Some(true) && request.bookmarks {
                queue.push_back(WatchEvent::Bookmark { revision: page.revision, initial: true });
            }
            watcher
        } else {
            let after = match request.after {
                Some(revision) => revision,
                None => {
                    cache.consistent().await.map_err(status::of_cache)?;
                    self.caches.applied()
                }
            };
            cache.watch(after).map_err(status::of_cache)?
        };
        let clock = self.clock.clone();
        let state = WatchState {
            queue,
            watcher,
            row: row.clone(),
            selection: request.selection,
            deadline: request.timeout.map(|t| clock.sleep(t)),
            bookmark: request.bookmarks.then(|| clock.sleep(BOOKMARK_EVERY)),
            clock,
            done: false,
        };
        Ok(Box::pin(futures::stream::unfold(state, |mut state| async move { state.next().await.map(|item| (item, state)) })))
    }
}

struct WatchState {
    queue: VecDeque<WatchEvent>,
    watcher: Watcher,
    row: Arc<Resource>,
    selection: Selection,
    deadline: Option<BoxFuture<'static, ()>>,
    bookmark: Option<BoxFuture<'static, ()>>,
    clock: Arc<dyn wharf_core::clock::Clock>,
    done: bool,
}

async fn or_never(timer: &mut Option<BoxFuture<'static, ()>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

impl WatchState {
    async fn next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        if self.done {
            return None;
        }
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(Ok(event));
            }
            tokio::select! {
                biased;
                events = self.watcher.next() => match events {
                    Ok(events) => {
                        for event in events {
                            if let Err(error) = self.translate(&event).await {
                                self.done = true;
                                return Some(Err(error));
                            }
                        }
                    }
                    Err(wharf_core::cache::CacheError::Closed) => return None,
                    Err(error) => {
                        self.done = true;
                        return Some(Err(status::of_cache(error)));
                    }
                },
                () = or_never(&mut self.deadline) => return None,
                () = or_never(&mut self.bookmark) => {
                    self.bookmark = Some(self.clock.sleep(BOOKMARK_EVERY));
                    if let Some(revision) = self.watcher.caught_up() {
                        return Some(Ok(WatchEvent::Bookmark { revision, initial: false }));
                    }
                }
            }
        }
    }

    /// Whether an object matches, and what it looks like then.
    async fn matching(row: &Resource, selection: &Selection, stored: &Arc<Object>) -> Result<Option<Arc<Object>>, ApiError> {
        if selection.looks_inside(row) {
            return Ok(Some(present(row, stored.clone()).await?).filter(|o| selection.matches(row, o)));
        }
        if selection.matches(row, stored) { present(row, stored.clone()).await.map(Some) } else { Ok(None) }
    }

    /// A change as the selection sees it.
    async fn translate(&mut self, event: &wharf_core::cache::CacheEvent) -> Result<(), ApiError> {
        let is = Self::matching(&self.row, &self.selection, &event.object).await?;
        let event = match (&event.previous, is) {
            (None, Some(object)) if !event.deleted => WatchEvent::Added(object),
            (None, _) => return Ok(()),
            // Where everything matches, what it was is not looked at.
            (Some(_), Some(object)) if self.selection.is_everything() && self.selection.namespace.is_none() => match event.deleted {
                true => WatchEvent::Deleted(object),
                false => WatchEvent::Modified(object),
            },
            (Some(previous), is) => match (Self::matching(&self.row, &self.selection, previous).await?, is) {
                (Some(_), Some(object)) if event.deleted => WatchEvent::Deleted(object),
                (Some(_), Some(object)) => WatchEvent::Modified(object),
                (Some(old), None) => WatchEvent::Deleted(Arc::new(at_revision(&old, event.revision))),
                (None, Some(object)) if !event.deleted => WatchEvent::Added(object),
                (None, _) => return Ok(()),
            },
        };
        self.queue.push_back(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::store::ResourceId;

    #[test]
    fn another_revision_changes_only_the_number() {
        let key = Key::new(ResourceId::new("", "pods"), "a", "b");
        for (json, want) in [
            (r#"{"metadata":{"resourceVersion":"5","name":"b"},"x":1}"#, r#"{"metadata":{"resourceVersion":"17","name":"b"},"x":1}"#),
            (r#"{"metadata":{"resourceVersion":"5"}}"#, r#"{"metadata":{"resourceVersion":"17"}}"#),
        ] {
            let object = Object::from_served(key.clone(), Revision(5), json.into());
            assert_eq!(at_revision(&object, Revision(17)).bytes(), want);
        }
    }
}
