//! Requests to a cluster: bounded in time, sent to an endpoint that answers, with the answers checked.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::proto::{PbRangeResponse, PbResponseHeader, PbTxnResponse};
use etcd_client::{Client, ConnectOptions, GetOptions, Txn, WatchOptions, WatchRequestSender, WatchResponseStream};
use tokio::sync::{OnceCell, watch};
use wharf_core::clock::Clock;
use wharf_core::runtime::Retry;

use crate::fault::EtcdFault;
use crate::keys::Keys;

/// Largest answer that is read. A page of a list and a part of a watch are kept far below it.
pub(crate) const MAX_RESPONSE: usize = 64 << 20;
/// How often a connection in use is tested; etcd refuses less than 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long that test may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// One member of the cluster. Its connection is made when first used, and made again by itself.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    options: ConnectOptions,
    client: OnceCell<Client>,
}

impl Endpoint {
    pub(crate) fn new(url: String, options: ConnectOptions) -> Self {
        let options = options.with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT).with_keep_alive_while_idle(false);
        // A member cut off from the others says so instead of going silent.
        let options = options.with_require_leader(true).with_auto_token_refresh(true);
        Self { url, options, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<Client, etcd_client::Error> {
        let connect = || Box::pin(Client::connect([&self.url], Some(self.options.clone())));
        self.client.get_or_try_init(connect).await.cloned()
    }
}

/// The members of a cluster, and what they have told.
pub(crate) struct Endpoints {
    members: Vec<Endpoint>,
    /// Where the next request goes: to the one that answered last.
    preferred: AtomicUsize,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// The cluster that answered first; 0 before.
    cluster: AtomicU64,
    /// The newest revision that was told.
    newest: watch::Sender<u64>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|m| &m.url)).finish()
    }
}

/// What is sent again when no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Anything: sent twice is as good as once.
    Always,
    /// Only what was certainly not sent.
    Unsent,
}

/// An open watch of etcd's.
pub(crate) struct Opened {
    pub(crate) requests: WatchRequestSender,
    pub(crate) responses: WatchResponseStream,
    pub(crate) endpoint: String,
    /// Whether progress that is asked for comes after the events before it.
    pub(crate) answers_progress: bool,
}

impl Endpoints {
    pub(crate) fn new(members: Vec<Endpoint>, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self { members, preferred: AtomicUsize::new(0), clock, timeout, cluster: AtomicU64::new(0), newest: watch::Sender::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// How long a request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Prefers an endpoint that is known to answer.
    pub(crate) fn prefer(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
    }

    /// Follows the newest revision that was told.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Checks who answered and where it is. With a floor, the answer was of the newest state, and began after the floor was told.
    pub(crate) fn seen(&self, endpoint: &str, header: Option<&PbResponseHeader>, floor: Option<u64>) -> Result<u64, EtcdFault> {
        let endpoint = || endpoint.to_owned();
        let Some(header) = header else { return Err(EtcdFault::Malformed { endpoint: endpoint(), what: "no header" }) };
        let (is, revision) = (header.cluster_id, u64::try_from(header.revision).unwrap_or_default());
        let first = self.cluster.compare_exchange(0, is, Ordering::Relaxed, Ordering::Relaxed);
        if let Err(expected) = first
            && expected != is
        {
            return Err(EtcdFault::OtherCluster { endpoint: endpoint(), expected, is });
        }
        if let Some(was) = floor
            && revision < was
        {
            return Err(EtcdFault::WentBack { endpoint: endpoint(), was, is: revision });
        }
        self.newest.send_if_modified(|newest| {
            let moves = revision > *newest;
            *newest = revision.max(*newest);
            moves
        });
        Ok(revision)
    }

    fn floor(&self) -> u64 {
        *self.newest.borrow()
    }

    /// One request to one endpoint.
    async fn ask<T, F>(&self, member: &Endpoint, timeout: Duration, request: impl FnOnce(Client) -> F) -> Result<T, EtcdFault>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let client = tokio::select! {
            client = member.client() => client.map_err(|error| match EtcdFault::of(&member.url, &error) {
                // Only the login was under way.
                EtcdFault::Lost { endpoint, cause } => EtcdFault::Unreachable { endpoint, cause },
                fault => fault,
            })?,
            () = self.clock.sleep(timeout) => {
                let cause = format!("no answer to the login within {timeout:?}");
                return Err(EtcdFault::Unreachable { endpoint: member.url.clone(), cause });
            }
        };
        tokio::select! {
            answer = Box::pin(request(client)) => answer.map_err(|error| EtcdFault::of(&member.url, &error)),
            () = self.clock.sleep(timeout) => Err(EtcdFault::Silent { endpoint: member.url.clone(), within: timeout }),
        }
    }

    /// One request to the preferred endpoint, or to the others if it does not answer; and once more to the first, whose
    /// connection may have been lost long ago.
    async fn call<T, F>(&self, again: Again, request: impl Fn(Client) -> F) -> Result<(T, &Endpoint), EtcdFault>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut left = self.members.len();
        loop {
            let index = (first + self.members.len() - left) % self.members.len();
            let member = &self.members[index];
            let fault = match self.ask(member, self.timeout, &request).await {
                Ok(answer) => {
                    self.prefer(index);
                    return Ok((answer, member));
                }
                Err(fault) => fault,
            };
            let other = match &fault {
                EtcdFault::Unreachable { .. } => true,
                EtcdFault::Silent { .. } => again == Again::Always && left > 1,
                fault => again == Again::Always && fault.retry() == Retry::Transient,
            };
            // The next call begins elsewhere.
            if fault.retry() == Retry::Transient {
                self.prefer((index + 1) % self.members.len());
            }
            if !other || left == 0 {
                return Err(fault);
            }
            tracing::debug!("asking another endpoint: {fault}");
            left -= 1;
        }
    }

    /// A look at one endpoint, as a first contact.
    pub(crate) async fn contact(&self, index: usize, keys: &Keys, timeout: Duration) -> Result<(), EtcdFault> {
        let member = &self.members[index];
        let answer = self.ask(member, timeout, |client| probe(client, keys.probe())).await?;
        self.seen(&member.url, answer.header.as_ref(), None).map(|_| ())
    }

    /// The newest revision.
    pub(crate) async fn revision(&self, keys: &Keys) -> Result<u64, EtcdFault> {
        let floor = self.floor();
        let (answer, member) = self.call(Again::Always, |client| probe(client, keys.probe())).await?;
        self.seen(&member.url, answer.header.as_ref(), Some(floor))
    }

    /// Keys in a range, or one key if its end is empty; and the newest revision.
    pub(crate) async fn range(&self, range: &Range<Vec<u8>>, options: GetOptions) -> Result<(PbRangeResponse, u64), EtcdFault> {
        let floor = self.floor();
        let options = if range.end.is_empty() { options } else { options.with_range(range.end.as_slice()) };
        let request = |client: Client| {
            let (key, options) = (range.start.clone(), options.clone());
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE);
                kv.get(key, Some(options)).await.map(|answer| answer.0)
            }
        };
        let (answer, member) = self.call(Again::Always, request).await?;
        let revision = self.seen(&member.url, answer.header.as_ref(), Some(floor))?;
        Ok((answer, revision))
    }

    /// A transaction; and its revision.
    pub(crate) async fn transaction(&self, transaction: Txn) -> Result<(PbTxnResponse, u64), EtcdFault> {
        let floor = self.floor();
        let request = |client: Client| {
            let transaction = transaction.clone();
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_RESPONSE);
                kv.txn(transaction).await.map(|answer| answer.0)
            }
        };
        let (answer, member) = self.call(Again::Unsent, request).await?;
        let revision = self.seen(&member.url, answer.header.as_ref(), Some(floor))?;
        Ok((answer, revision))
    }

    /// A new lease of this many seconds; and how long etcd keeps it, which may be longer. One whose answer is lost ends by itself.
    pub(crate) async fn grant(&self, seconds: i64) -> Result<(i64, Duration), EtcdFault> {
        let request = |client: Client| async move { client.lease_client().grant(seconds, None).await.map(|answer| answer.0) };
        let (answer, member) = self.call(Again::Always, request).await?;
        self.seen(&member.url, answer.header.as_ref(), None)?;
        match u64::try_from(answer.ttl) {
            Ok(granted) if answer.id != 0 && answer.ttl >= seconds => Ok((answer.id, Duration::from_secs(granted))),
            _ => Err(EtcdFault::Malformed { endpoint: member.url.clone(), what: "a lease that is shorter than asked for" }),
        }
    }

    pub(crate) async fn compact(&self, upto: i64) -> Result<(), EtcdFault> {
        let request = |client: Client| async move { client.kv_client().compact(upto, None).await.map(|answer| answer.0) };
        let (answer, member) = self.call(Again::Always, request).await?;
        self.seen(&member.url, answer.header.as_ref(), None).map(|_| ())
    }

    /// Opens a watch of a range from a revision on, inclusive. The newest state is read before, so that a cluster that went
    /// back is noticed instead of waited for.
    pub(crate) async fn watch(&self, keys: &Keys, range: &Range<Vec<u8>>, from: i64) -> Result<Opened, EtcdFault> {
        self.revision(keys).await?;
        let request = |client: Client| {
            let (key, end) = (range.start.clone(), range.end.clone());
            async move {
                let options = WatchOptions::new().with_range(end).with_start_revision(from);
                let options = options.with_prev_key().with_progress_notify().with_fragment();
                let stream = client.watch_client().max_decoding_message_size(MAX_RESPONSE).watch(key, Some(options)).await?;
                let (requests, mut responses) = stream.split();
                let first = responses.message().await?;
                // Not known is not trusted.
                let version = client.maintenance_client().status().await.map(|status| status.0.version).unwrap_or_default();
                Ok((requests, responses, first, version))
            }
        };
        let ((requests, responses, first, version), member) = self.call(Again::Always, request).await?;
        let endpoint = member.url.clone();
        let Some(first) = first.map(|first| first.0).filter(|first| first.created) else {
            return Err(EtcdFault::Malformed { endpoint, what: "something else than a watch" });
        };
        self.seen(&endpoint, first.header.as_ref(), None)?;
        if first.canceled && first.compact_revision == 0 {
            return Err(EtcdFault::Refused { endpoint, code: tonic::Code::PermissionDenied, message: first.cancel_reason });
        }
        Ok(Opened { requests, responses, endpoint, answers_progress: answers_progress(&version) })
    }
}

/// The newest state, of as little as possible.
async fn probe(client: Client, key: Vec<u8>) -> Result<PbRangeResponse, etcd_client::Error> {
    client.kv_client().get(key, Some(GetOptions::new().with_count_only())).await.map(|answer| answer.0)
}

/// Whether progress that is asked for can be trusted: the versions that Kubernetes trusts. Before, it may overtake events.
fn answers_progress(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten()) {
        (Some(3), Some(4), Some(patch)) => patch >= 31,
        (Some(3), Some(5), Some(patch)) => patch >= 13,
        (Some(major), Some(minor), _) => (major, minor) > (3, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use wharf_core::clock::SystemClock;

    use super::*;

    #[test]
    fn progress_is_trusted_where_kubernetes_trusts_it() {
        for version in ["3.4.31", "3.5.13", "3.6.0", "3.6.0-rc.1", "3.10.0", "4.0.0"] {
            assert!(answers_progress(version), "{version}");
        }
        for version in ["3.4.23", "3.4.30", "3.5.12", "3.3.31", "", "master"] {
            assert!(!answers_progress(version), "{version}");
        }
    }

    fn header(cluster_id: u64, revision: i64) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { cluster_id, revision, ..PbResponseHeader::default() })
    }

    #[test]
    fn a_cluster_that_goes_back_or_is_another_is_refused() {
        let etcd = Endpoints::new(Vec::new(), SystemClock::shared(), Duration::ZERO);
        assert_eq!(etcd.seen("a", header(7, 5).as_ref(), Some(0)).unwrap(), 5);
        // A watch may be told by a member that is behind.
        assert!(etcd.seen("a", header(7, 4).as_ref(), None).is_ok());
        assert!(matches!(etcd.seen("a", header(7, 4).as_ref(), Some(5)), Err(EtcdFault::WentBack { was: 5, is: 4, .. })));
        assert!(matches!(etcd.seen("a", header(8, 9).as_ref(), Some(5)), Err(EtcdFault::OtherCluster { expected: 7, is: 8, .. })));
        assert!(matches!(etcd.seen("a", None, None), Err(EtcdFault::Malformed { .. })));
        assert_eq!(*etcd.newest().borrow(), 5);
    }
}
