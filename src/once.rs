//! What a cluster runs once, however many processes it has: controllers and scheduler, each under an election where there may be several.

use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_controllers::serviceaccount::RootCaPublisher;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::controller::election::{ElectionError, ElectionMetrics, ElectionOptions, LeaderElector, Leadership, Timing};
use wharf_core::controller::{Context, Controller, Driver, DriverOptions};
use wharf_core::events::EventRecorder;
use wharf_core::informer::Informers;
use wharf_core::metrics::ControllerMetrics;
use wharf_core::object::ObjectRef;
use wharf_core::scheduler::Scheduler;
use wharf_scheduler_framework::{LoopOptions, Profile, SchedulerLoop};

/// Work that goes on.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the leases are, as in Kubernetes.
const LEASES: &str = "kube-system";

/// One that runs at most once in a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    /// Its lease.
    pub(crate) lease: &'static str,
    /// Who speaks in its events.
    pub(crate) component: &'static str,
    /// Who it is.
    pub(crate) user: User,
}

/// How it is made sure that each role is played once.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) server: ApiServer,
    pub(crate) clock: Arc<dyn Clock>,
    /// `None`: nobody else is there.
    pub(crate) election: Option<Election>,
}

/// Competing with other processes.
#[derive(Debug, Clone)]
pub(crate) struct Election {
    pub(crate) identity: String,
    pub(crate) timing: Timing,
    pub(crate) metrics: ElectionMetrics,
}

fn context(api: SharedApi, clock: &Arc<dyn Clock>, component: &str, stop: CancellationToken) -> Context {
    Context {
        informers: Informers::new(api.clone(), clock.clone(), stop),
        events: EventRecorder::new(api.clone(), clock.clone(), component, ""),
        api,
        clock: clock.clone(),
    }
}

impl Stage {
    /// Plays a role until `stop`: at once and for good, or in terms. Each term has informers of its own, so that it begins with what the
    /// one before has left, whoever's it was; and what it writes is fenced.
    ///
    /// # Errors
    /// When the election's times do not go together.
    pub(crate) fn play<W>(&self, role: Role, stop: CancellationToken, work: W) -> Result<Running, ElectionError>
    where
        W: Fn(Context, CancellationToken) -> Running + Send + Sync + 'static,
    {
        let Self { server, clock, election } = self.clone();
        let Role { lease, component, user } = role;
        let Some(election) = election else {
            let context = context(server.local(user), &clock, component, stop.clone());
            return Ok(work(context, stop));
        };
        // The lease itself is not written under its fence. Whoever runs the cluster may write it.
        let api = server.local(User::master(&*user.name));
        let mut options = ElectionOptions::new(ObjectRef::new(LEASES, lease), election.identity.as_str());
        options.timing = election.timing;
        options.metrics = Some(election.metrics);
        options.events = Some(EventRecorder::new(api.clone(), clock.clone(), component, &election.identity));
        let elector = LeaderElector::new(api, clock.clone(), options)?;
        let lead = move |lead: Leadership| {
            let api = lead.guard(server.fenced(user.clone(), lead.fence().clone()));
            let stop = lead.stop().clone();
            work(context(api, &clock, component, stop.clone()), stop)
        };
        Ok(Box::pin(async move { elector.run(stop, lead).await }))
    }
}

/// All controllers of a cluster.
pub(crate) struct Controllers {
    pub(crate) own: Vec<Arc<dyn Controller>>,
    pub(crate) built_in: bool,
    /// The CA's certificate, to publish.
    pub(crate) ca: Option<String>,
    pub(crate) metrics: ControllerMetrics,
}

impl Controllers {
    /// Runs them until `stop` is cancelled and they have drained.
    pub(crate) fn run(&self, context: Context, stop: CancellationToken) -> Running {
        let mut all = self.own.clone();
        if self.built_in {
            // New ones: what an earlier term remembered is not true any more.
            all.extend(wharf_controllers::all());
            all.extend(self.ca.as_ref().map(|ca| Arc::new(RootCaPublisher::new(ca)) as Arc<dyn Controller>));
        }
        let driver = Driver::new(context, self.metrics.clone(), DriverOptions::default());
        let mut running = JoinSet::new();
        for controller in all {
            let (driver, stop) = (driver.clone(), stop.clone());
            running.spawn(async move { driver.run(controller, stop).await });
        }
        Box::pin(async move { while running.join_next().await.is_some() {} })
    }
}

/// Runs the scheduler.
pub(crate) fn schedule(
    scheduler: Arc<dyn Scheduler>,
    profile: Arc<Profile>,
) -> impl Fn(Context, CancellationToken) -> Running + Send + Sync + 'static {
    move |context, stop| {
        let run = SchedulerLoop::new(context, scheduler.clone(), profile.clone(), LoopOptions::default());
        Box::pin(run.run(stop))
    }
}
