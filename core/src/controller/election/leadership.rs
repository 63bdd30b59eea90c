//! What a leader has while it leads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::guard::Guarded;
use crate::api::SharedApi;
use crate::clock::Clock;
use crate::store::Fence;

struct Shared {
    clock: Arc<dyn Clock>,
    fence: Fence,
    /// After this it is not held any more, whether anybody has noticed or not.
    deadline: Mutex<Duration>,
    lost: CancellationToken,
    stop: CancellationToken,
}

/// One term of a leader. Cheap to clone.
#[derive(Clone)]
pub struct Leadership {
    shared: Arc<Shared>,
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leadership({})", self.shared.fence)
    }
}

impl Leadership {
    pub(super) fn new(clock: Arc<dyn Clock>, fence: Fence, deadline: Duration) -> Self {
        let lost = CancellationToken::new();
        let stop = lost.child_token();
        Self { shared: Arc::new(Shared { clock, fence, deadline: Mutex::new(deadline), lost, stop }) }
    }

    pub(super) fn renewed(&self, deadline: Duration) {
        *self.shared.deadline.lock() = deadline;
    }
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.shared.lost
    }

    /// Cancelled when the work is to end: leadership is lost, or a shutdown was asked for. In a shutdown what is under way may still be
    /// finished; after a loss writes through [`Leadership::guard`] are refused.
    pub fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }

    /// Whether it is still held, by this process's clock: a process that was stopped for a while finds out here.
    pub fn is_held(&self) -> bool {
        !self.shared.lost.is_cancelled() && self.shared.clock.monotonic() < *self.shared.deadline.lock()
    }

    /// What each write of this term demands of the store.
    pub fn fence(&self) -> &Fence {
        &self.shared.fence
    }

    /// Leads no more, at once. Who asked for this competes again.
    pub fn resign(&self) {
        self.shared.lost.cancel();
    }

    /// An API that writes only while this is held, and that resigns when a write is refused by the [fence](Self::fence). `api` should be
    /// one that demands the fence of the store, or a write under way at the moment of the loss may still be carried out.
    pub fn guard(&self, api: SharedApi) -> SharedApi {
        Arc::new(Guarded::new(api, self.clone()))
    }
}
