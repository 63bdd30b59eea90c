//! Small requests are served where they arrive.
//!
//! hyper makes a task of every HTTP/2 request. For a get of one object, which waits for nothing, the task and the wake-ups between
//! threads cost more than the get. So a request is begun on the connection's own task, and becomes a task once it waits. What may take
//! long steps aside at once, so that the requests of one connection still use all cores.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::rt::Executor;

use crate::request::RequestInfo;

/// Runs what is ready at once, and spawns the rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eager;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Eager {
    fn execute(&self, future: F) {
        let mut future = Box::pin(future);
        // Nobody is woken by this first step: what is not ready after it is polled again as a task.
        if Pin::as_mut(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(future);
        }
    }
}

/// Whether a request is served where it arrives: the get of an object.
pub(super) fn is_small(info: &RequestInfo) -> bool {
    info.is_resource && info.verb == "get" && info.subresource.is_empty()
}

/// Is not ready the first time.
pub(super) async fn step_aside() {
    let mut ready = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut ready, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::{Notify, oneshot};

    #[tokio::test]
    async fn what_is_ready_is_done_at_once_and_what_waits_goes_on_as_a_task() {
        let (done, mut is_done) = oneshot::channel();
        Eager.execute(async move { done.send(1).unwrap() });
        assert_eq!(is_done.try_recv().unwrap(), 1);

        let (wake, waits, (done, mut is_done)) = (Arc::new(Notify::new()), Arc::new(Notify::new()), oneshot::channel());
        let theirs = (wake.clone(), waits.clone());
        Eager.execute(async move {
            step_aside().await;
            theirs.1.notify_one();
            theirs.0.notified().await;
            done.send(2).unwrap();
        });
        assert!(is_done.try_recv().is_err());
        waits.notified().await;
        wake.notify_one();
        assert_eq!(is_done.await.unwrap(), 2);
    }
}
