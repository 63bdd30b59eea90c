//! A driver that takes one step at a time, so that a case decides what happens between two steps.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::TryRecvError;
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_core::api::{Api, Query};
use wharf_core::clock::Clock;
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::events::EventRecorder;
use wharf_core::informer::{Informer, Informers, ObjectChange};
use wharf_core::object::ObjectRef;
use wharf_core::store::Revision;

use super::faulty::{Fault, Shared};
use super::world::{Objects, World};
use super::{ControllerHarness, Scenario};
use crate::{CaseResult, Stop, fail};

/// Reconciles in a row after which a scenario counts as endless.
const STEPS: usize = 400;
/// Failures of one key in a row after which it counts as stuck.
const FAILURES: usize = 8;
/// Rounds of asked-for later looks without a write after which a controller counts as at rest.
const QUIET_ROUNDS: usize = 3;
/// Most positions at which a fault is tried in one scenario.
const POSITIONS: usize = 48;
/// Longest that a later look is played forward.
const FORWARD: Duration = Duration::from_secs(600);

/// How triggers reach the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    #[default]
    AsTheyCome,
    /// Each three times, also those that are under way.
    Tripled,
    /// The newest first.
    Reversed,
}

/// Events that are hints for people; they count for nothing here.
#[derive(Debug)]
struct Nowhere;

#[async_trait::async_trait]
impl Api for Nowhere {
    async fn get(&self, _: &wharf_core::api::Target) -> Result<Arc<wharf_core::object::Object>, wharf_core::api::ApiError> {
        Err(wharf_core::api::ApiError::status(404, "NotFound", "nowhere"))
    }
    async fn list(&self, _: &kube::core::ApiResource, _: &Query) -> Result<wharf_core::api::ObjectList, wharf_core::api::ApiError> {
        Ok(wharf_core::api::ObjectList { items: Vec::new(), revision: Revision(0) })
    }
    async fn watch(
        &self,
        _: &kube::core::ApiResource,
        _: &Query,
        _: Revision,
    ) -> Result<wharf_core::api::ApiWatch, wharf_core::api::ApiError> {
        Ok(Box::pin(futures::stream::pending()))
    }
    async fn write(&self, _: wharf_core::api::Write) -> Result<Arc<wharf_core::object::Object>, wharf_core::api::ApiError> {
        Err(wharf_core::api::ApiError::status(404, "NotFound", "nowhere"))
    }
}

struct Feed {
    watch: Watch,
    informer: Arc<Informer>,
    changes: tokio::sync::broadcast::Receiver<ObjectChange>,
}

/// One process with one controller in it.
pub(super) struct Play<'a> {
    world: &'a World,
    pub(super) context: Context,
    controller: Arc<dyn Controller>,
    feeds: Vec<Feed>,
    queue: VecDeque<ObjectRef>,
    later: BTreeMap<ObjectRef, Duration>,
    failures: HashMap<ObjectRef, usize>,
    /// Every key that was ever asked for.
    pub(super) known: Vec<ObjectRef>,
    pub(super) order: Order,
    _stop: DropGuard,
}

impl<'a> Play<'a> {
    /// Starts a controller; its informers have synced.
    pub(super) async fn start(harness: &dyn ControllerHarness, world: &'a World) -> CaseResult<Self> {
        let (stop, clock): (_, Arc<dyn Clock>) = (CancellationToken::new(), Arc::new(world.clock.clone()));
        let api: &Arc<Shared> = &world.api;
        let context = Context {
            api: api.controllers(),
            informers: Informers::new(api.informers(), clock.clone(), stop.clone()),
            events: EventRecorder::new(Arc::new(Nowhere), clock.clone(), "conformance", ""),
            clock,
        };
        let controller = harness.controller();
        let mut play = Self {
            world,
            context,
            controller,
            feeds: Vec::new(),
            queue: VecDeque::new(),
            later: BTreeMap::new(),
            failures: HashMap::new(),
            known: Vec::new(),
            order: Order::default(),
            _stop: stop.drop_guard(),
        };
        let watches = play.controller.watches();
        let informers: Vec<_> = watches.iter().map(|w| play.context.informers.informer(w.resource.clone(), Query::default())).collect();
        for informer in &informers {
            informer.synced().await;
        }
        for (watch, informer) in watches.into_iter().zip(informers) {
            let (now, changes) = informer.subscribe();
            for object in now {
                let keys = (watch.map)(&play.context, &ObjectChange { old: None, new: Some(object) });
                play.add(keys);
            }
            play.feeds.push(Feed { watch, informer, changes });
        }
        Ok(play)
    }

    pub(super) fn add(&mut self, keys: impl IntoIterator<Item = ObjectRef>) {
        for key in keys {
            if !self.known.contains(&key) {
                self.known.push(key.clone());
            }
            match self.order {
                Order::Tripled => self.queue.extend([key.clone(), key.clone(), key]),
                _ if self.queue.contains(&key) => {}
                Order::AsTheyCome => self.queue.push_back(key),
                Order::Reversed => self.queue.push_front(key),
            }
        }
    }

    /// Takes what the informers told of.
    pub(super) fn drain(&mut self) -> CaseResult {
        for at in 0..self.feeds.len() {
            loop {
                let feed = &mut self.feeds[at];
                match feed.changes.try_recv() {
                    Ok(change) => {
                        let keys = (feed.watch.map)(&self.context, &change);
                        self.add(keys);
                    }
                    Err(TryRecvError::Lagged(_)) => return fail("the scenario has more changes than the kit can follow"),
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }

    /// Waits until the informers show what the API has.
    async fn catch_up(&self) -> CaseResult {
        let revisions = |all: &[Arc<wharf_core::object::Object>]| -> BTreeMap<ObjectRef, Revision> {
            all.iter().map(|o| (o.object_ref(), o.revision())).collect()
        };
        for feed in &self.feeds {
            loop {
                let list = self.world.api.inner().list(&feed.watch.resource, &Query::default()).await;
                let list = list.map_err(|e| Stop::Fail(format!("the kit's own list failed: {e}")))?;
                if revisions(&list.items) == revisions(&feed.informer.list()) {
                    break;
                }
                // The informer's task needs a moment; that it never comes is caught by the harness's patience.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// One reconcile. False if the call that hangs was reached, so that it was dropped.
    pub(super) async fn step(&mut self, key: &ObjectRef) -> CaseResult<bool> {
        let outcome = {
            let reconcile = self.controller.reconcile(&self.context, key);
            tokio::select! {
                outcome = reconcile => outcome,
                () = self.world.api.hung.notified() => {
                    self.add([key.clone()]);
                    return Ok(false);
                }
            }
        };
        match outcome {
            Ok(Action::Done) => drop(self.failures.remove(key)),
            Ok(Action::RequeueAfter(after)) => {
                self.failures.remove(key);
                self.later.insert(key.clone(), after);
            }
            Err(ReconcileError::Terminal(_)) => {}
            Err(error) => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures += 1;
                if *failures > FAILURES {
                    return fail(format!("{}: {key} fails again and again: {error}", self.world.scenario.name));
                }
                self.add([key.clone()]);
            }
        }
        Ok(true)
    }

    /// Forgets failures.
    pub(super) fn forgive(&mut self) {
        self.failures.clear();
    }

    /// Runs until nothing is left to do. False if the call that hangs was reached.
    pub(super) async fn settle(&mut self) -> CaseResult<bool> {
        let (mut quiet, mut writes) = (0, self.world.api.writes());
        for _ in 0..STEPS {
            self.catch_up().await?;
            self.drain()?;
            if let Some(key) = self.queue.pop_front() {
                if !self.step(&key).await? {
                    return Ok(false);
                }
                continue;
            }
            if self.world.api.writes() != writes {
                (quiet, writes) = (0, self.world.api.writes());
            }
            let Some(after) = self.later.values().min().copied().filter(|d| *d <= FORWARD) else { return Ok(true) };
            if quiet == QUIET_ROUNDS {
                return Ok(true);
            }
            quiet += 1;
            self.world.clock.advance(after);
            let due: Vec<_> = std::mem::take(&mut self.later).into_keys().collect();
            self.add(due);
        }
        fail(format!("{}: no rest after {STEPS} reconciles and {} writes", self.world.scenario.name, self.world.api.writes()))
    }

    /// Lets the informers' tasks run for a moment, without saying how far they get.
    pub(super) async fn breathe() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

/// Plays a scenario to its end.
pub(super) async fn through(harness: &dyn ControllerHarness, world: &World, order: Order, when: &str) -> CaseResult<Objects> {
    let mut play = Play::start(harness, world).await?;
    play.order = order;
    play.settle().await?;
    for change in &world.scenario.changes {
        world.change(change).await?;
        play.settle().await?;
    }
    world.expect_settled(when).await
}

/// Whether a new process takes over where a call hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    SameProcess,
    NewProcess,
}

/// Plays every scenario once for each call that its undisturbed play makes, with this fault at that call, and compares how it ends.
pub(super) async fn at_each_call(
    harness: &dyn ControllerHarness,
    fault: Fault,
    after: After,
    only: impl Fn(&super::faulty::Call) -> bool,
) -> CaseResult {
    for scenario in scenarios(harness)? {
        let world = World::new(harness, &scenario).await?;
        let undisturbed = through(harness, &world, Order::AsTheyCome, "undisturbed").await?;
        let calls = world.api.calls();
        let positions = calls.iter().enumerate().filter(|(_, c)| only(c)).map(|(at, _)| at).take(POSITIONS);
        for at in positions {
            let when = format!("{fault:?} at call {at} ({})", calls[at].key);
            let world = World::new(harness, &scenario).await?;
            world.api.set_fault(at, fault);
            let mut play = Play::start(harness, &world).await?;
            let mut changes = scenario.changes.iter();
            loop {
                if !play.settle().await? {
                    if after == After::NewProcess {
                        drop(play);
                        play = Play::start(harness, &world).await?;
                    }
                    continue;
                }
                match changes.next() {
                    Some(change) => world.change(change).await?,
                    None => break,
                }
            }
            drop(play);
            let primary = wharf_core::object::resource_id(&scenario.primary.0);
            if world.api.deleted().is_some_and(|k| k.resource == primary && k.name == scenario.primary.1.name) {
                // The story lost its hero: that it came to rest is all that can be asked.
                continue;
            }
            let ended = world.expect_settled(&when).await?;
            crate::ensure!(
                ended.counts() == undisturbed.counts() || !world.api.fault_was_hit(),
                "{}, {when}: it ended with {:?} instead of {:?}",
                scenario.name,
                ended.counts(),
                undisturbed.counts()
            );
        }
    }
    Ok(())
}

pub(super) fn scenarios(harness: &dyn ControllerHarness) -> CaseResult<Vec<Scenario>> {
    let scenarios = harness.scenarios();
    if scenarios.is_empty() { fail("the harness has no scenario") } else { Ok(scenarios) }
}
