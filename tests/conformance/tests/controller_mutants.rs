//! The controller kit over a small controller that is right, and over variants of it that each break one promise: a named case
//! must notice. The world is an API server over a store in memory.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_conformance::controller::{Change, ControllerHarness, Scenario, cases};
use wharf_conformance::{Harness, Outcome, controller_suite, run_case};
use wharf_core::api::{ApiExt, DeleteParams, PatchKind, SharedApi, ref_of};
use wharf_core::clock::Clock;
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::object::{ObjectRef, resource_of};
use wharf_store_memory::MemoryStore;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Writes at every look.
    Restless,
    /// Says the same several times.
    Verbose,
    IgnoresShrinking,
    FailsOnUnknown,
    /// Makes a child although the owner is not there.
    MakesForTheGone,
    MakesForTheGoing,
    /// Names are made up, and what was made is looked for in the cache only.
    GeneratesNames,
    /// Notes that it is done before it is.
    NotesFirst,
    /// The same, in memory.
    RemembersFirst,
    /// A failure is taken for final.
    GivesUp,
    /// That a child is gone already is taken for final.
    GoneIsFinal,
    OwnsNothing,
    IsNoController,
    OwnsByAnotherUid,
    /// Counts everything with its labels.
    TakesForeign,
    WatchesNoChildren,
    /// Takes every trigger for a wish.
    OneMoreEachTime,
    /// Looks at changes between, not at what is there.
    SkipsWhatItMissed,
}

const CAUGHT_BY: &[(Fault, &str)] = &[
    (Fault::Restless, "controller.settle.rests"),
    (Fault::Restless, "controller.restart.at_rest"),
    (Fault::Verbose, "controller.settle.bounded_writes"),
    (Fault::IgnoresShrinking, "controller.settle.converges"),
    (Fault::FailsOnUnknown, "controller.key.unknown"),
    (Fault::MakesForTheGone, "controller.key.gone_while_away"),
    (Fault::MakesForTheGoing, "controller.owner.deletion_is_respected"),
    (Fault::GeneratesNames, "controller.cache.stands_still"),
    (Fault::GeneratesNames, "controller.cache.lags"),
    (Fault::NotesFirst, "controller.restart.after_each_write"),
    (Fault::NotesFirst, "controller.cancel.after_each_call"),
    (Fault::RemembersFirst, "controller.cancel.before_each_call"),
    (Fault::RemembersFirst, "controller.fault.refused"),
    (Fault::GivesUp, "controller.fault.refused"),
    (Fault::GivesUp, "controller.fault.conflict"),
    (Fault::GoneIsFinal, "controller.fault.deleted_meanwhile"),
    (Fault::OwnsNothing, "controller.owner.references"),
    (Fault::IsNoController, "controller.owner.references"),
    (Fault::OwnsByAnotherUid, "controller.owner.references"),
    (Fault::TakesForeign, "controller.owner.foreign_untouched"),
    (Fault::WatchesNoChildren, "controller.watch.declares_what_it_reads"),
    (Fault::WatchesNoChildren, "controller.watch.child_removed"),
    (Fault::WatchesNoChildren, "controller.watch.child_released"),
    (Fault::OneMoreEachTime, "controller.trigger.duplicated"),
    (Fault::OneMoreEachTime, "controller.trigger.unrelated"),
    (Fault::SkipsWhatItMissed, "controller.settle.converges_from_the_end"),
];

const ROLE: &str = "role";
const DONE: &str = "sets.example.com/done";

/// For each ConfigMap with `data.count` keeps as many Secrets, `NAME-0` and on.
#[derive(Debug)]
struct Sets {
    fault: Fault,
    looks: AtomicUsize,
    done: Mutex<HashSet<(ObjectRef, usize)>>,
}

impl Sets {
    fn child(&self, set: &ConfigMap, name: String) -> Secret {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: set.metadata.name.clone().unwrap(),
            uid: if self.fault == Fault::OwnsByAnotherUid { "another".into() } else { set.metadata.uid.clone().unwrap() },
            controller: (self.fault != Fault::IsNoController).then_some(true),
            block_owner_deletion: None,
        };
        let generated = self.fault == Fault::GeneratesNames;
        let metadata = ObjectMeta {
            generate_name: generated.then(|| "set-".into()),
            name: (!generated).then_some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some([(ROLE.to_owned(), "child".to_owned())].into()),
            owner_references: (self.fault != Fault::OwnsNothing).then(|| vec![owner]),
            ..ObjectMeta::default()
        };
        Secret { metadata, ..Secret::default() }
    }

    /// A Secret of this name is there, which the cache does not show as ours.
    async fn adopt(&self, ctx: &Context, child: &Secret) -> Result<(), ReconcileError> {
        let Some(live) = ctx.api.get_opt::<Secret>(&ref_of(child)).await? else {
            return Err(ReconcileError::Retry("it went away meanwhile".into()));
        };
        if live.metadata.owner_references.as_ref().is_some_and(|o| o.iter().any(|o| o.controller == Some(true))) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": live.metadata.uid,
            "resourceVersion": live.metadata.resource_version,
            "ownerReferences": child.metadata.owner_references,
        }});
        ctx.api.patch::<Secret>(&ref_of(child), "", PatchKind::Merge, &patch).await?;
        Ok(())
    }

    async fn mark(&self, ctx: &Context, key: &ObjectRef, done: &str) -> Result<(), ReconcileError> {
        let patch = json!({"metadata": {"annotations": {DONE: done}}});
        ctx.api.patch::<ConfigMap>(key, "", PatchKind::Merge, &patch).await?;
        Ok(())
    }

    async fn work(&self, ctx: &Context, key: &ObjectRef) -> Result<(), ReconcileError> {
        let Some(set) = ctx.informers.of::<ConfigMap>().get(key) else {
            match self.fault {
                Fault::FailsOnUnknown => return Err(ReconcileError::Retry("it is not there".into())),
                Fault::MakesForTheGone => {
                    let metadata =
                        ObjectMeta { namespace: Some(key.namespace.to_string()), name: Some("gone".into()), ..ObjectMeta::default() };
                    ctx.api.create(&Secret { metadata, ..Secret::default() }).await?;
                }
                _ => {}
            }
            return Ok(());
        };
        let Some(count) = set.data.as_ref().and_then(|d| d.get("count")?.parse::<usize>().ok()) else { return Ok(()) };
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        if self.fault == Fault::GoneIsFinal && self.done.lock().contains(&(key.clone(), usize::MAX)) {
            return Ok(());
        }
        if set.metadata.deletion_timestamp.is_some() && self.fault != Fault::MakesForTheGoing {
            return Ok(());
        }
        let count = match self.fault {
            Fault::OneMoreEachTime => count + look,
            Fault::SkipsWhatItMissed if look == 0 && count != 3 => return Ok(()),
            _ => count,
        };
        let marked = set.metadata.annotations.as_ref().and_then(|a| a.get(DONE)).map(String::as_str);
        let done = count.to_string();
        if self.fault == Fault::NotesFirst {
            if marked == Some(&done) {
                return Ok(());
            }
            self.mark(ctx, key, &done).await?;
        }
        if self.fault == Fault::RemembersFirst && !self.done.lock().insert((key.clone(), count)) {
            return Ok(());
        }
        let secrets = ctx.informers.of::<Secret>();
        let mut children = secrets.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        if self.fault == Fault::TakesForeign {
            children = secrets.list_in(&key.namespace);
            children.retain(|c| c.metadata.labels.as_ref().is_some_and(|l| l.contains_key(ROLE)));
        }
        if self.fault == Fault::GeneratesNames {
            for _ in children.len()..count {
                ctx.api.create(&self.child(&set, String::new())).await?;
            }
            for child in children.iter().skip(count) {
                ctx.api.delete::<Secret>(&ref_of(&**child), DeleteParams::default()).await?;
            }
            return Ok(());
        }
        let wanted: Vec<String> = (0..count).map(|i| format!("{}-{i}", key.name)).collect();
        let name = |c: &Secret| c.metadata.name.clone().unwrap_or_default();
        for missing in wanted.iter().filter(|w| !children.iter().any(|c| name(c) == **w)) {
            let child = self.child(&set, missing.clone());
            match ctx.api.create(&child).await {
                Ok(_) => {}
                Err(error) if error.is_already_exists() => self.adopt(ctx, &child).await?,
                Err(error) => return Err(error.into()),
            }
        }
        for surplus in children.iter().filter(|c| !wanted.contains(&name(c)) && self.fault != Fault::IgnoresShrinking) {
            let params = DeleteParams { uid: surplus.metadata.uid.clone(), ..DeleteParams::default() };
            let target = wharf_core::api::Target::of::<Secret>(ref_of(&**surplus));
            let write = wharf_core::api::Write { target, verb: wharf_core::api::Verb::Delete(params), field_manager: String::new() };
            match ctx.api.write(write).await {
                Err(error) if error.is_not_found() && self.fault != Fault::GoneIsFinal => {}
                Err(error) if error.is_not_found() => {
                    self.done.lock().insert((key.clone(), usize::MAX));
                    return Err(ReconcileError::Terminal(Box::new(error)));
                }
                other => drop(other?),
            }
        }
        match self.fault {
            Fault::Restless => self.mark(ctx, key, &look.to_string()).await,
            Fault::Verbose if marked != Some(&done) => {
                for i in 0..30 {
                    self.mark(ctx, key, &i.to_string()).await?;
                }
                self.mark(ctx, key, &done).await
            }
            _ if marked != Some(&done) => self.mark(ctx, key, &done).await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Controller for Sets {
    fn name(&self) -> &'static str {
        "sets"
    }
    fn watches(&self) -> Vec<Watch> {
        let mut watches = vec![Watch::primary::<ConfigMap>()];
        if self.fault != Fault::WatchesNoChildren {
            watches.push(Watch::owned::<Secret, ConfigMap>());
        }
        watches
    }
    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        match self.work(ctx, key).await {
            Err(ReconcileError::Retry(error)) if self.fault == Fault::GivesUp => Err(ReconcileError::Terminal(error)),
            other => other.map(|()| Action::Done),
        }
    }
}

struct Mutants {
    fault: Fault,
    servers: Mutex<Vec<ApiServer>>,
}

fn mutants(fault: Fault) -> Mutants {
    Mutants { fault, servers: Mutex::default() }
}

impl Harness for Mutants {}

fn in_kit(kind: &str, name: &str, more: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": "kit", "name": name}});
    for (field, value) in more.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| field == "metadata") {
            Some(metadata) => metadata.iter().for_each(|(f, v)| object["metadata"][f] = v.clone()),
            None => object[field] = value.clone(),
        }
    }
    object
}

#[async_trait]
impl ControllerHarness for Mutants {
    async fn api(&self, clock: Arc<dyn Clock>) -> SharedApi {
        let server = ApiServer::builder(Arc::new(MemoryStore::new()), clock).build().await.unwrap();
        let api = server.local(User::master("conformance"));
        self.servers.lock().push(server);
        api
    }
    fn controller(&self) -> Arc<dyn Controller> {
        Arc::new(Sets { fault: self.fault, looks: AtomicUsize::new(0), done: Mutex::default() })
    }
    fn scenarios(&self) -> Vec<Scenario> {
        let (sets, secrets) = (resource_of::<ConfigMap>(), resource_of::<Secret>());
        let set = ObjectRef::new("kit", "set");
        let count =
            |n: usize| Change::Merge(resource_of::<ConfigMap>(), ObjectRef::new("kit", "set"), json!({"data": {"count": n.to_string()}}));
        let stranger =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "uid-of:ConfigMap/other", "controller": true}]);
        vec![Scenario {
            name: "a set grows and shrinks",
            resources: vec![resource_of::<Namespace>(), sets.clone(), secrets.clone()],
            primary: (sets, set),
            initial: vec![
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kit"}}),
                in_kit("ConfigMap", "other", json!({})),
                in_kit("ConfigMap", "set", json!({"data": {"count": "3"}})),
            ],
            changes: vec![count(4), count(2)],
            settled: Arc::new(|objects| {
                let children = objects.of("Secret").iter().filter(|s| s["metadata"]["ownerReferences"][0]["name"] == "set");
                match children.count() {
                    2 => Ok(()),
                    n => Err(format!("{n} Secrets instead of 2")),
                }
            }),
            owned: vec![secrets],
            foreign: vec![in_kit("Secret", "stranger", json!({"metadata": {"labels": {ROLE: "child"}, "ownerReferences": stranger}}))],
            max_writes: 10,
        }]
    }
}

controller_suite!(mutants(Fault::None));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_caught_by_its_case() {
    let cases = cases();
    let mut missed = Vec::new();
    for (fault, id) in CAUGHT_BY {
        let case = cases.iter().find(|c| c.id == *id).unwrap_or_else(|| panic!("no case {id}"));
        let outcome = run_case(case, &mutants(*fault) as &dyn ControllerHarness).await;
        if !matches!(outcome, Outcome::Failed(_)) {
            missed.push(format!("{id} must catch {fault:?}, but: {outcome}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
