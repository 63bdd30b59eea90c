//! What to do about a Deployment: a function of what was read.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use super::limits::{is_recreate, limits, wanted};
use super::status::{self, PAUSED, PROGRESSING};
use super::template::{POD_TEMPLATE_HASH, equal_ignore_hash, hash};
use crate::owner::controller_reference;

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Create the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Replace a ReplicaSet, at the version that was looked at; it had `from` replicas.
    Update {
        /// As it shall be.
        set: Box<ReplicaSet>,
        /// Replicas before.
        from: i32,
    },
    /// Delete a ReplicaSet that is only history.
    Delete(Box<ReplicaSet>),
}

/// Everything to write for one Deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// The Deployment's revision annotation, if there is a current ReplicaSet.
    pub revision: Option<String>,
    /// The status, as far as the ReplicaSets read show it.
    pub status: DeploymentStatus,
    /// When to look again even if nothing changes.
    pub requeue: Option<Duration>,
}

struct Work {
    set: ReplicaSet,
    from: i32,
    changed: bool,
    gone: bool,
}

impl Work {
    fn size(&self) -> i32 {
        size(&self.set)
    }
    fn scale(&mut self, to: i32, deployment: &Deployment) -> bool {
        let changed = self.size() != to;
        if changed && let Some(spec) = &mut self.set.spec {
            spec.replicas = Some(to);
        }
        self.changed |= annotations::set_sizes(&mut self.set, deployment) | changed;
        changed
    }
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1).max(0)
}

/// Available pods that will stay. The status may be older than the size: what is about to be deleted does not count.
fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0).min(size(set))
}

struct Planner<'a> {
    deployment: &'a Deployment,
    /// Oldest first.
    sets: Vec<Work>,
    current: Option<usize>,
    /// In the order of the writes.
    order: Vec<usize>,
    create: Option<ReplicaSet>,
    status: DeploymentStatus,
    now: Timestamp,
}

/// Decides about a Deployment and the ReplicaSets that it controls.
pub fn decide(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let mut sorted: Vec<&Arc<ReplicaSet>> = sets.iter().collect();
    sorted.sort_by(|a, b| (&a.metadata.creation_timestamp, &a.metadata.name).cmp(&(&b.metadata.creation_timestamp, &b.metadata.name)));
    let template = deployment.spec.as_ref().map(|s| &s.template);
    let current = sorted.iter().position(|s| {
        let own = s.spec.as_ref().and_then(|s| s.template.as_ref());
        s.metadata.deletion_timestamp.is_none() && own.zip(template).is_some_and(|(a, b)| equal_ignore_hash(a, b))
    });
    let read: Vec<&ReplicaSet> = sorted.iter().map(|s| &***s).collect();
    let status = status::counts(deployment, &read, current.map(|i| read[i]), now);
    let works = sorted.iter().map(|s| Work { set: (***s).clone(), from: size(s), changed: false, gone: false }).collect();
    let mut planner = Planner { deployment, sets: works, current, order: Vec::new(), create: None, status, now };

    let spec = deployment.spec.as_ref();
    let paused = spec.and_then(|s| s.paused).unwrap_or(false);
    let mut requeue = None;
    if deployment.metadata.deletion_timestamp.is_none() {
        planner.pause_condition(paused);
        planner.refresh_current();
        if paused || planner.is_scaling() {
            planner.scale();
            if paused && spec.is_some() {
                planner.clean_up();
            }
        } else {
            let rolled = if is_recreate(deployment) { planner.recreate() } else { planner.roll() };
            if rolled {
                planner.clean_up();
            }
            let mut status = std::mem::take(&mut planner.status);
            requeue = status::progress(deployment, &mut status, &read, current.map(|i| read[i]), now);
            planner.status = status;
        }
    }
    planner.finish(requeue)
}

impl Planner<'_> {
    fn finish(self, requeue: Option<Duration>) -> Plan {
        let revision_of = |set: &ReplicaSet| set.metadata.annotations.as_ref()?.get(annotations::REVISION).cloned();
        let revision = self.create.as_ref().or(self.current.map(|i| &self.sets[i].set)).and_then(revision_of);
        let mut steps: Vec<Step> = self.create.into_iter().map(|s| Step::Create(Box::new(s))).collect();
        let mut order = self.order;
        order.extend((0..self.sets.len()).filter(|i| self.sets[*i].changed || self.sets[*i].gone).collect::<Vec<_>>());
        let mut done = vec![false; self.sets.len()];
        let mut sets: Vec<Option<Work>> = self.sets.into_iter().map(Some).collect();
        for i in order {
            if std::mem::replace(&mut done[i], true) {
                continue;
            }
            let Some(work) = sets[i].take() else { continue };
            if work.gone {
                steps.push(Step::Delete(Box::new(work.set)));
            } else if work.changed {
                steps.push(Step::Update { set: Box::new(work.set), from: work.from });
            }
        }
        Plan { steps, revision, status: self.status, requeue }
    }

    fn progressing(&mut self, value: &str, reason: &str, message: String) {
        if status::deadline(self.deployment).is_some() {
            status::set_condition(&mut self.status, PROGRESSING, value, reason, message, self.now, false);
        }
    }

    fn pause_condition(&mut self, paused: bool) {
        let known = status::condition(&self.status, PROGRESSING).and_then(|c| c.reason.clone());
        let was = known.as_deref() == Some(PAUSED);
        if known.as_deref() == Some(status::TIMED_OUT) {
            return;
        }
        if paused && !was {
            self.progressing("Unknown", PAUSED, "Deployment is paused".into());
        } else if !paused && was {
            self.progressing("Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
    }

    fn next_revision(&self) -> i64 {
        let others = self.sets.iter().enumerate().filter(|(i, _)| Some(*i) != self.current);
        others.map(|(_, w)| annotations::revision(&w.set)).max().unwrap_or(0) + 1
    }

    /// The ReplicaSet of the current template gets the highest revision: also after a rollback.
    fn refresh_current(&mut self) {
        let Some(current) = self.current else { return };
        let revision = self.next_revision();
        let min_ready = self.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let work = &mut self.sets[current];
        let mut changed = annotations::set_current(&mut work.set, self.deployment, revision);
        if let Some(spec) = &mut work.set.spec
            && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
        {
            spec.min_ready_seconds = min_ready;
            changed = true;
        }
        if changed {
            work.changed = true;
            self.order.push(current);
        }
        if status::condition(&self.status, PROGRESSING).is_none() {
            let name = self.sets[current].set.metadata.name.clone().unwrap_or_default();
            self.progressing("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
        }
    }

    /// Somebody changed the number of replicas since the ReplicaSets were last sized.
    fn is_scaling(&self) -> bool {
        let wanted = i64::from(wanted(self.deployment));
        self.sets.iter().any(|w| {
            let desired = annotations::number(w.set.metadata.annotations.as_ref(), DESIRED_REPLICAS);
            w.size() > 0 && desired.is_some_and(|d| d != wanted)
        })
    }

    fn scale_to(&mut self, index: usize, to: i32) -> bool {
        let changed = self.sets[index].scale(to, self.deployment);
        if self.sets[index].changed {
            self.order.push(index);
        }
        changed
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(Work::size).fold(0, i32::saturating_add)
    }

    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|i| Some(*i) != self.current).collect()
    }

    fn create_current(&mut self) {
        let Some(spec) = &self.deployment.spec else { return };
        let name = self.deployment.metadata.name.clone().unwrap_or_default();
        let hash = hash(&spec.template, self.status.collision_count);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(POD_TEMPLATE_HASH.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.into(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{hash}")),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(self.current_size(0)),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        annotations::set_current(&mut set, self.deployment, self.next_revision());
        annotations::set_sizes(&mut set, self.deployment);
        let name = set.metadata.name.clone().unwrap_or_default();
        self.progressing("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
        self.create = Some(set);
    }

    /// How large the current ReplicaSet, of `now` replicas, may be.
    fn current_size(&self, now: i32) -> i32 {
        let wanted = wanted(self.deployment);
        if is_recreate(self.deployment) {
            return wanted;
        }
        let room = wanted.saturating_add(limits(self.deployment).surge) - self.total();
        if room <= 0 { now } else { now + room.min(wanted - now) }
    }

    /// One step of a rolling update; whether it is over.
    fn roll(&mut self) -> bool {
        let Some(current) = self.current else {
            self.create_current();
            return false;
        };
        let wanted = wanted(self.deployment);
        let now = self.sets[current].size();
        let size = if now > wanted { wanted } else { self.current_size(now) };
        if now != size && self.scale_to(current, size) {
            return false;
        }
        !self.shrink_old(current) && status::is_complete(self.deployment, &self.status)
    }

    /// Takes pods from old ReplicaSets: first those that do not work, then as many as may be missing.
    fn shrink_old(&mut self, current: usize) -> bool {
        let old = self.old();
        if old.iter().all(|i| self.sets[*i].size() == 0) {
            return false;
        }
        let least = wanted(self.deployment) - limits(self.deployment).unavailable;
        let current_missing = (self.sets[current].size() - available(&self.sets[current].set)).max(0);
        let most = self.total() - least - current_missing;
        if most <= 0 {
            return false;
        }
        let mut taken = 0;
        for i in &old {
            let (size, available) = (self.sets[*i].size(), available(&self.sets[*i].set));
            let unhealthy = (size - available).min(most - taken);
            if unhealthy > 0 {
                taken += unhealthy;
                self.scale_to(*i, size - unhealthy);
            }
        }
        let all_available: i32 = self.sets.iter().map(|w| available(&w.set)).sum();
        let mut may_take = all_available - least;
        let mut scaled = taken > 0;
        for i in &old {
            let size = self.sets[*i].size();
            let take = size.min(may_take);
            if take > 0 {
                may_take -= take;
                scaled |= self.scale_to(*i, size - take);
            }
        }
        scaled
    }

    /// Recreate: the old pods have to be gone before the first new one; whether the rollout is over.
    fn recreate(&mut self) -> bool {
        let mut scaled = false;
        for i in self.old() {
            if self.sets[i].size() > 0 {
                scaled |= self.scale_to(i, 0);
            }
        }
        let running = |w: &Work| w.set.status.as_ref().is_some_and(|s| s.replicas > 0 || s.terminating_replicas.unwrap_or(0) > 0);
        // Until it has been observed, the status speaks of another size.
        let unobserved = |w: &Work| w.set.status.as_ref().and_then(|s| s.observed_generation) < w.set.metadata.generation;
        if scaled || self.old().iter().any(|i| running(&self.sets[*i]) || unobserved(&self.sets[*i])) {
            return false;
        }
        let Some(current) = self.current else {
            self.create_current();
            return false;
        };
        let wanted = wanted(self.deployment);
        !(self.sets[current].size() != wanted && self.scale_to(current, wanted)) && status::is_complete(self.deployment, &self.status)
    }

    /// Follows a change of the number of replicas: with one active ReplicaSet it gets it all; during a rollout each gets
    /// its share, so that a bad template does not get more than it had.
    fn scale(&mut self) {
        let wanted = wanted(self.deployment);
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].size() > 0).collect();
        let only = match active[..] {
            [] => self.current.or(self.sets.len().checked_sub(1)),
            [one] => Some(one),
            _ => None,
        };
        if let Some(only) = only {
            self.scale_to(only, wanted);
            return;
        }
        let saturated = self.current.is_some_and(|i| {
            let set = &self.sets[i].set;
            let desired = annotations::number(set.metadata.annotations.as_ref(), DESIRED_REPLICAS);
            size(set) == wanted && desired == Some(wanted.into()) && available(set) == wanted
        });
        if saturated {
            for i in self.old() {
                if self.sets[i].size() > 0 {
                    self.scale_to(i, 0);
                }
            }
        } else if !is_recreate(self.deployment) {
            self.scale_in_proportion(active);
        }
    }

    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let wanted = wanted(self.deployment);
        let allowed = if wanted > 0 { wanted.saturating_add(limits(self.deployment).surge) } else { 0 };
        let to_add = allowed - self.total();
        // Larger ones first; among equals the newer when growing, the older when shrinking.
        active.sort_by_key(|i| {
            let age = i64::try_from(*i).unwrap_or(0);
            (-i64::from(self.sets[*i].size()), if to_add > 0 { -age } else { age })
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for i in &active {
            let share = self.share(*i, allowed, to_add, added);
            added += share;
            sizes.push(self.sets[*i].size() + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first += to_add - added;
        }
        for (i, size) in active.into_iter().zip(sizes) {
            self.scale_to(i, size.max(0));
        }
    }

    fn share(&self, index: usize, allowed: i32, to_add: i32, added: i32) -> i32 {
        let work = &self.sets[index];
        let size = work.size();
        if size == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        if wanted(self.deployment) == 0 {
            return (-size).max(to_add - added);
        }
        let before = annotations::number(work.set.metadata.annotations.as_ref(), MAX_REPLICAS).filter(|n| *n > 0);
        let before = before.unwrap_or_else(|| i64::from(self.status.replicas.unwrap_or(0)).max(1));
        let product = i64::from(size) * i64::from(allowed);
        // Rounded to the nearest, halves up.
        let new = (2 * product + before) / (2 * before);
        let fraction = i32::try_from(new).unwrap_or(i32::MAX).saturating_sub(size);
        if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
    }

    /// Deletes old ReplicaSets beyond the history that is kept.
    fn clean_up(&mut self) {
        let keep = self.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let Ok(keep) = usize::try_from(keep) else { return };
        let mut old = self.old();
        old.retain(|i| self.sets[*i].set.metadata.deletion_timestamp.is_none());
        let Some(excess) = old.len().checked_sub(keep) else { return };
        old.sort_by_key(|i| annotations::revision(&self.sets[*i].set));
        for i in old.into_iter().take(excess) {
            let set = &self.sets[i].set;
            let status = set.status.clone().unwrap_or_default();
            let idle = size(set) == 0 && status.replicas == 0 && status.observed_generation >= set.metadata.generation;
            if idle && !self.sets[i].changed {
                self.sets[i].gone = true;
            }
        }
    }
}
