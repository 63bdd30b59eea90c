//! The newest revision, read once for all who ask at about the same time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::fault::EtcdFault;

type Answer = Result<u64, EtcdFault>;

/// One request, and those who wait for its answer.
#[derive(Clone)]
struct Round {
    answer: Shared<BoxFuture<'static, Answer>>,
    /// Whether it may have been sent: its answer is then nothing to who asks afterwards.
    begun: Arc<AtomicBool>,
}

/// One request is under way at a time. Who asks meanwhile shares the next, which is sent once that one is answered.
#[derive(Default)]
pub(crate) struct Newest {
    last: Mutex<Option<Round>>,
}

impl fmt::Debug for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newest").finish_non_exhaustive()
    }
}

impl Newest {
    /// The answer to a request that is sent after this call began.
    ///
    /// # Cancellation
    /// A dropped call stops nothing for the others: any of them drives the request on.
    pub(crate) async fn read<F>(&self, request: impl FnOnce() -> F + Send + 'static) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let answer = self.join(request);
        answer.await
    }

    fn join<F>(&self, request: impl FnOnce() -> F + Send + 'static) -> Shared<BoxFuture<'static, Answer>>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut last = self.last.lock();
        if let Some(round) = last.as_ref().filter(|round| !round.begun.load(Ordering::SeqCst)) {
            return round.answer.clone();
        }
        let before = last.take().map(|round| round.answer);
        let begun = Arc::new(AtomicBool::new(false));
        let begins = begun.clone();
        let answer = async move {
            if let Some(before) = before {
                // Its failure is not ours.
                let _ = before.await;
            }
            begins.store(true, Ordering::SeqCst);
            request().await
        };
        let answer = answer.boxed().shared();
        *last = Some(Round { answer: answer.clone(), begun });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::sync::Semaphore;

    use super::*;

    /// A store whose revision is read as the answer is let go, and how often it was asked.
    struct Source {
        sent: AtomicU64,
        revision: AtomicU64,
        answers: Semaphore,
    }

    fn source() -> Arc<Source> {
        Arc::new(Source { sent: AtomicU64::new(0), revision: AtomicU64::new(1), answers: Semaphore::new(0) })
    }

    fn ask(newest: &Newest, source: &Arc<Source>) -> Shared<BoxFuture<'static, Answer>> {
        let source = source.clone();
        newest.join(move || async move {
            source.sent.fetch_add(1, Ordering::SeqCst);
            let revision = source.revision.load(Ordering::SeqCst);
            source.answers.acquire().await.unwrap().forget();
            Ok(revision)
        })
    }

    #[tokio::test]
    async fn who_asks_after_a_request_was_sent_gets_another_answer() {
        let (newest, source) = (Newest::default(), source());
        let mut first = ask(&newest, &source);
        assert!(futures::poll!(&mut first).is_pending());
        source.revision.store(2, Ordering::SeqCst);
        let (mut second, mut third) = (ask(&newest, &source), ask(&newest, &source));
        assert!(futures::poll!(&mut second).is_pending() && futures::poll!(&mut third).is_pending());
        assert_eq!(source.sent.load(Ordering::SeqCst), 1, "one at a time");
        source.answers.add_permits(2);
        assert_eq!([first.await.unwrap(), second.await.unwrap(), third.await.unwrap()], [1, 2, 2]);
        assert_eq!(source.sent.load(Ordering::SeqCst), 2, "the second is shared");
        source.answers.add_permits(1);
        assert_eq!(ask(&newest, &source).await.unwrap(), 2);
        assert_eq!(source.sent.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn who_goes_away_keeps_nobody_waiting() {
        let (newest, source) = (Newest::default(), source());
        let mut first = ask(&newest, &source);
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        let mut second = ask(&newest, &source);
        assert!(futures::poll!(&mut second).is_pending());
        let third = ask(&newest, &source);
        drop(second);
        source.answers.add_permits(2);
        assert_eq!(third.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_shared_it() {
        let newest = Newest::default();
        let fails = || async { Err(EtcdFault::Malformed { endpoint: String::new(), what: "nothing" }) };
        assert!(newest.read(fails).await.is_err());
        assert_eq!(newest.read(|| async { Ok(3) }).await.unwrap(), 3);
    }
}
