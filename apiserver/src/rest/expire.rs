//! Events are kept for an hour, so that they do not fill the store.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use wharf_core::api::ApiError;
use wharf_core::store::{ResourceId, StoreError, Transaction};

use super::{Registry, parse_stored, status};
use crate::resources::value::text;

/// How long an event is kept after it was last seen; Kubernetes' default.
pub const EVENT_LIFE: Duration = Duration::from_secs(3600);
/// How often old events are looked for.
const EVERY: Duration = Duration::from_secs(300);

fn last_seen(event: &Value) -> Option<Timestamp> {
    let times = [&["series", "lastObservedTime"][..], &["lastTimestamp"], &["eventTime"], &["metadata", "creationTimestamp"]];
    times.into_iter().filter_map(|path| text(event, path).parse().ok()).max()
}

impl Registry {
    /// Deletes the events that nobody has seen for an hour; answers how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn expire_events(&self) -> Result<usize, ApiError> {
        let cache = self.caches.of(&ResourceId::new("", "events")).await.map_err(status::of_cache)?;
        let oldest = self.clock.now().checked_sub(EVENT_LIFE).unwrap_or(Timestamp::MIN);
        let mut gone = 0;
        for object in cache.list(None).items {
            if last_seen(&parse_stored(object.bytes())?).is_none_or(|seen| seen >= oldest) {
                continue;
            }
            match self.store().commit(Transaction::delete(object.key().clone(), object.revision())).await {
                Ok(_) => gone += 1,
                // It has been seen again, or is gone.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(status::of_store(error)),
            }
        }
        Ok(gone)
    }

    /// Deletes old events now and then, until `stop` is cancelled. Over a store that lets them expire itself there is nothing to do;
    /// over one that others share, each server may try and one succeeds.
    pub async fn expire(self: Arc<Self>, stop: CancellationToken) {
        if self.store().capabilities().expiry {
            return;
        }
        while stop.run_until_cancelled(self.clock.sleep(EVERY)).await.is_some() {
            if let Err(error) = self.expire_events().await {
                tracing::warn!("old events stay: {error}");
            }
        }
    }
}
