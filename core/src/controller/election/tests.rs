//! Decisions as a table; elections among candidates with one fake API and clocks that are moved by hand.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ApiResource;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::{Api, ApiError, ApiEvent, ApiWatch, ObjectList, Query, SharedApi, Target, Verb, Write};
use crate::clock::ManualClock;
use crate::metrics::Metrics;
use crate::object::Object;
use crate::store::{Key, ResourceId, Revision};

fn record(holder: &str, transitions: i32) -> LeaseRecord {
    let spec = LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    LeaseRecord::of(&Lease { spec: Some(spec), metadata: ObjectMeta::default() })
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_candidate_takes_what_is_free_and_waits_for_what_is_held() {
    let decide = |record: Option<LeaseRecord>, now, jitter| {
        let seen = record.map(|record| Seen { record, at: s(100) });
        decide("me", seen.as_ref(), None, now, &Timing::default(), jitter)
    };
    assert_eq!(decide(None, s(0), 0.5), Step::Acquire);
    assert_eq!(decide(Some(record("", 3)), s(100), 0.5), Step::Acquire, "released");
    assert_eq!(decide(Some(record("me", 3)), s(100), 0.5), Step::Acquire, "left from a try whose outcome was never told");
    assert_eq!(decide(Some(record("other", 3)), s(100), 0.0), Step::Wait(s(2)));
    assert_eq!(decide(Some(record("other", 3)), s(100), 1.0), Step::Wait(Duration::from_millis(4400)));
    assert_eq!(decide(Some(record("other", 3)), s(114), 1.0), Step::Wait(s(1)), "no longer than until it is free");
    assert_eq!(decide(Some(record("other", 3)), s(115), 0.0), Step::Acquire);
}

#[test]
fn a_leader_renews_until_it_could_not_or_another_leads() {
    let decide = |record: Option<LeaseRecord>, now| {
        let seen = record.map(|record| Seen { record, at: now });
        decide("me", seen.as_ref(), Some(&Term { transitions: 3, renewed: s(100) }), now, &Timing::default(), 0.0)
    };
    assert_eq!(decide(Some(record("me", 3)), s(109)), Step::Renew);
    assert_eq!(decide(Some(record("me", 3)), s(110)), Step::Lost(Lost::Deadline));
    assert_eq!(decide(Some(record("me", 4)), s(101)), Step::Lost(Lost::Taken), "a later term of the same process is not this one");
    assert_eq!(decide(Some(record("other", 4)), s(101)), Step::Lost(Lost::Taken));
    assert_eq!(decide(None, s(101)), Step::Lost(Lost::Taken));
}

#[test]
fn a_lease_counts_from_when_a_change_was_seen_here() {
    let first = Seen::next(None, Some(record("other", 1)), s(10));
    let same = Seen::next(first.clone(), Some(record("other", 1)), s(20));
    assert_eq!(same, first);
    assert_eq!(Seen::next(same.clone(), Some(record("other", 2)), s(30)).unwrap().at, s(30));
    assert_eq!(Seen::next(same, None, s(30)), None);
}

#[test]
fn times_that_do_not_go_together_are_refused() {
    let good = Timing::default();
    for timing in [
        Timing { retry_period: s(0), ..good },
        Timing { renew_deadline: s(2), ..good },
        Timing { lease_duration: s(10), ..good },
        Timing { lease_duration: Duration::from_millis(15_500), ..good },
    ] {
        assert!(matches!(timing.validate(), Err(ElectionError::Timing { .. })), "{timing:?}");
    }
    assert_eq!(good.validate(), Ok(()));
}

#[derive(Debug, Default)]
struct State {
    lease: Option<Lease>,
    revision: u64,
    /// Nothing is answered.
    hangs: bool,
    writes: usize,
}

/// An API that has room for one `Lease`, and counts other writes.
#[derive(Debug)]
struct OneLease {
    state: Mutex<State>,
    changes: broadcast::Sender<Arc<Object>>,
}

fn refused(code: i32, reason: &str) -> ApiError {
    ApiError::status(code, reason, reason)
}

impl OneLease {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changes: broadcast::Sender::new(64) })
    }
    fn object(lease: &Lease) -> Arc<Object> {
        let key = Key::new(ResourceId::new("coordination.k8s.io", "leases"), "kube-system", "it");
        let revision = lease.metadata.resource_version.as_deref().unwrap().parse().unwrap();
        Arc::new(Object::from_served(key, Revision(revision), serde_json::to_vec(lease).unwrap().into()))
    }
    fn holder(&self) -> String {
        self.state.lock().lease.as_ref().map(|l| LeaseRecord::of(l).holder().to_owned()).unwrap_or_default()
    }
    fn transitions(&self) -> i32 {
        self.state.lock().lease.as_ref().map(|l| LeaseRecord::of(l).transitions()).unwrap_or(-1)
    }
    fn hang(&self, hangs: bool) {
        self.state.lock().hangs = hangs;
    }
    async fn answers(&self) {
        if self.state.lock().hangs {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Api for OneLease {
    async fn get(&self, _: &Target) -> Result<Arc<Object>, ApiError> {
        self.answers().await;
        self.state.lock().lease.as_ref().map(Self::object).ok_or_else(|| refused(404, "NotFound"))
    }
    async fn list(&self, _: &ApiResource, _: &Query) -> Result<ObjectList, ApiError> {
        Err(refused(405, "MethodNotAllowed"))
    }
    async fn watch(&self, _: &ApiResource, _: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        let changes = self.changes.subscribe();
        if self.state.lock().revision > after.0 {
            return Err(refused(410, "Expired"));
        }
        let next = |mut changes: broadcast::Receiver<Arc<Object>>| async move {
            let object = changes.recv().await.ok()?;
            Some((Ok(ApiEvent::Modified(object)), changes))
        };
        Ok(futures::stream::unfold(changes, next).boxed())
    }
    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        self.answers().await;
        let mut state = self.state.lock();
        let (Verb::Create(body) | Verb::Update(body)) = &write.verb else { return Err(refused(405, "MethodNotAllowed")) };
        if write.target.resource.kind != "Lease" {
            state.writes += 1;
            return Err(refused(412, "Fenced"));
        }
        let mut lease: Lease = serde_json::from_slice(body).unwrap();
        match (&write.verb, &state.lease) {
            (Verb::Create(_), Some(_)) => return Err(refused(409, "AlreadyExists")),
            (Verb::Update(_), None) => return Err(refused(404, "NotFound")),
            (Verb::Update(_), Some(old)) if old.metadata.resource_version != lease.metadata.resource_version => {
                return Err(refused(409, "Conflict"));
            }
            _ => {}
        }
        state.revision += 1;
        lease.metadata.resource_version = Some(state.revision.to_string());
        let object = Self::object(&lease);
        state.lease = Some(lease);
        drop(state);
        let _ = self.changes.send(object.clone());
        Ok(object)
    }
}

/// A candidate, its clock and its terms so far.
struct Candidate {
    clock: ManualClock,
    stop: CancellationToken,
    terms: Arc<Mutex<Vec<Leadership>>>,
    /// Terms whose work was told to end, and did.
    drained: Arc<Mutex<usize>>,
    metrics: Metrics,
    task: tokio::task::JoinHandle<()>,
}

impl Candidate {
    fn start(api: &Arc<OneLease>, clock: ManualClock, identity: &str) -> Self {
        let (stop, terms, drained, metrics) =
            (CancellationToken::new(), Arc::<Mutex<Vec<Leadership>>>::default(), Arc::<Mutex<usize>>::default(), Metrics::default());
        let mut options = ElectionOptions::new(ObjectRef::new("kube-system", "it"), identity);
        options.random = Arc::new(|| 0.0);
        options.metrics = Some(ElectionMetrics::new(&metrics));
        let elector = LeaderElector::new(api.clone(), Arc::new(clock.clone()), options).unwrap();
        let (ended, began, done) = (stop.clone(), terms.clone(), Arc::clone(&drained));
        let task = tokio::spawn(async move {
            let lead = |lead: Leadership| {
                began.lock().push(lead.clone());
                let done = Arc::clone(&done);
                async move {
                    lead.stop().cancelled().await;
                    *done.lock() += 1;
                }
            };
            elector.run(ended, lead).await;
        });
        Self { clock, stop, terms, drained, metrics, task }
    }
    fn leads(&self) -> bool {
        self.terms.lock().last().is_some_and(Leadership::is_held)
    }
    fn terms(&self) -> usize {
        self.terms.lock().len()
    }
}

/// Lets every task go on until all wait.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn pass(candidates: &[&Candidate], seconds: u64) {
    for _ in 0..seconds * 2 {
        for candidate in candidates {
            candidate.clock.advance(Duration::from_millis(500));
        }
        settle().await;
    }
}

#[tokio::test]
async fn one_leads_and_keeps_leading() {
    let api = OneLease::new();
    let clock = ManualClock::default();
    let a = Candidate::start(&api, clock.clone(), "a");
    settle().await;
    let b = Candidate::start(&api, clock.clone(), "b");
    pass(&[&a], 60).await;
    assert!(a.leads() && !b.leads());
    assert_eq!((a.terms(), b.terms(), api.holder().as_str(), api.transitions()), (1, 0, "a", 0));
    assert!(a.metrics.encode().contains("leader_election_master_status{name=\"it\"} 1"), "{}", a.metrics.encode());
    assert!(b.metrics.encode().contains("leader_election_master_status{name=\"it\"} 0"));
}

#[tokio::test]
async fn a_shutdown_lets_the_work_end_and_another_take_over_at_once() {
    let api = OneLease::new();
    let clock = ManualClock::default();
    let a = Candidate::start(&api, clock.clone(), "a");
    settle().await;
    let b = Candidate::start(&api, clock.clone(), "b");
    pass(&[&a], 5).await;
    a.stop.cancel();
    settle().await;
    assert!(a.task.is_finished() && *a.drained.lock() == 1);
    // The released lease is seen as it changes: no time has to pass.
    assert!(b.leads());
    assert_eq!((api.holder().as_str(), api.transitions()), ("b", 1));
    let (old, new) = (a.terms.lock()[0].fence().clone(), b.terms.lock()[0].fence().clone());
    assert!(new.revision > old.revision);
}

#[tokio::test]
async fn a_leader_that_is_gone_is_replaced_once_its_lease_has_run_out() {
    let api = OneLease::new();
    let clock = ManualClock::default();
    let a = Candidate::start(&api, clock.clone(), "a");
    settle().await;
    let b = Candidate::start(&api, clock.clone(), "b");
    pass(&[&a], 5).await;
    a.task.abort();
    pass(&[&b], 13).await;
    assert!(!b.leads(), "its last renewal holds for 15 s");
    pass(&[&b], 3).await;
    assert!(b.leads());
    assert_eq!(api.transitions(), 1);
}

#[tokio::test]
async fn a_leader_whose_api_hangs_ends_its_work_before_the_lease_can_be_taken() {
    let api = OneLease::new();
    let clock = ManualClock::default();
    let a = Candidate::start(&api, clock.clone(), "a");
    settle().await;
    assert!(a.leads());
    api.hang(true);
    pass(&[&a], 9).await;
    assert!(a.leads(), "within the renew deadline it goes on");
    pass(&[&a], 2).await;
    let first = a.terms.lock()[0].clone();
    assert!(!first.is_held() && first.stop().is_cancelled());
    assert!(a.metrics.encode().contains("leader_election_master_status{name=\"it\"} 0"));
    // It competes again, and what it left behind is a term of its own.
    api.hang(false);
    pass(&[&a], 10).await;
    assert!(a.leads());
    assert_eq!((a.terms(), api.transitions()), (2, 1));
    assert!(a.terms.lock()[1].fence().revision > first.fence().revision);
}

#[tokio::test]
async fn a_leader_that_slept_finds_out_before_it_writes() {
    let api = OneLease::new();
    let (asleep, awake) = (ManualClock::default(), ManualClock::default());
    let a = Candidate::start(&api, asleep.clone(), "a");
    settle().await;
    let b = Candidate::start(&api, awake.clone(), "b");
    pass(&[&b], 16).await;
    assert!(b.leads() && a.leads(), "it believes what it knew when it fell asleep");
    let lead = a.terms.lock()[0].clone();
    let guarded = lead.guard(api.clone() as SharedApi);
    let config = k8s_openapi::api::core::v1::ConfigMap::default();
    // All of the time passes at once, and before anything else has run it writes.
    asleep.advance(s(16));
    let error = crate::api::ApiExt::create(&*guarded, &config).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(api.state.lock().writes, 0, "it did not get as far as the API");
    settle().await;
    assert!(lead.stop().is_cancelled() && api.holder() == "b");
}

#[tokio::test]
async fn a_write_refused_by_the_fence_ends_the_term() {
    let api = OneLease::new();
    let a = Candidate::start(&api, ManualClock::default(), "a");
    settle().await;
    let lead = a.terms.lock()[0].clone();
    let guarded = lead.guard(api.clone() as SharedApi);
    let config = k8s_openapi::api::core::v1::ConfigMap::default();
    assert!(crate::api::ApiExt::create(&*guarded, &config).await.unwrap_err().is_fenced());
    assert_eq!(api.state.lock().writes, 1);
    assert!(!lead.is_held() && lead.stop().is_cancelled());
    // It competes again, as a new term.
    pass(&[&a], 3).await;
    assert_eq!((a.terms(), a.leads()), (2, true));
}

#[tokio::test]
async fn a_deleted_lease_ends_the_term() {
    let api = OneLease::new();
    let a = Candidate::start(&api, ManualClock::default(), "a");
    settle().await;
    api.state.lock().lease = None;
    pass(&[&a], 3).await;
    assert!(!a.terms.lock()[0].is_held());
    pass(&[&a], 3).await;
    assert_eq!((a.terms(), a.leads()), (2, true));
}
