//! History is forgotten by age.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use wharf_core::clock::Clock;
use wharf_core::store::Revision;
use wharf_store_mvcc::Serving;

use crate::writer::Request;

/// Looks within an age: history may be this fraction older than asked for.
const LOOKS: u32 = 8;

/// Compacts what is older than an age, until the store ends.
pub(crate) async fn forget_after(serving: Serving, requests: mpsc::WeakSender<Request>, age: Duration, clock: Arc<dyn Clock>) {
    let mut seen: VecDeque<(Duration, Revision)> = VecDeque::new();
    while let Ok(revision) = serving.revision() {
        let now = clock.monotonic();
        seen.push_back((now, revision));
        // The newest revision that was there an age ago.
        let mut old = None;
        while seen.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= age) {
            old = seen.pop_front();
        }
        if let Some((_, upto)) = old {
            let Some(requests) = requests.upgrade() else { return };
            let (reply, answer) = oneshot::channel();
            if requests.send(Request::Compact(upto, reply)).await.is_err() {
                return;
            }
            drop(requests);
            // A failure has stopped the store.
            let _ = answer.await;
        }
        clock.sleep(age / LOOKS).await;
    }
}
