use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::annotations::{REVISION, REVISION_HISTORY};
use super::{Plan, Step, decide, status};

/// A Deployment and its ReplicaSets, as the API server and the replicaset controller would keep them.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
    log: Vec<String>,
}

fn short(name: &str) -> &str {
    name.split('-').next_back().unwrap_or(name)
}

impl World {
    fn new(replicas: i32, strategy: serde_json::Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata":{"name":"web","namespace":"ns","uid":"d","generation":1},
            "spec":{"replicas":replicas,"selector":{"matchLabels":{"app":"web"}},"strategy":strategy,"progressDeadlineSeconds":60,
                "revisionHistoryLimit":2,
                "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"v1"}]}}}}))
        .unwrap();
        Self { deployment, sets: Vec::new(), now: "2026-01-01T00:00:00Z".parse().unwrap(), log: Vec::new() }
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn image_of(set: &ReplicaSet) -> String {
        set.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone().unwrap()
    }

    fn step(&mut self) -> Plan {
        self.now = self.now.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
        let plan = decide(&self.deployment, &self.sets, self.now);
        for step in &plan.steps {
            match step {
                Step::Create(set) => {
                    let mut set = (**set).clone();
                    set.metadata.creation_timestamp = Some(Time(self.now));
                    set.metadata.generation = Some(1);
                    self.log.push(format!("{}: 0 to {}", Self::image_of(&set), set.spec.as_ref().unwrap().replicas.unwrap()));
                    self.sets.push(Arc::new(set));
                }
                Step::Update { set, from } => {
                    let at = self.sets.iter().position(|s| s.metadata.name == set.metadata.name).unwrap();
                    let to = set.spec.as_ref().unwrap().replicas.unwrap();
                    if *from != to {
                        self.log.push(format!("{}: {from} to {to}", Self::image_of(set)));
                    }
                    let mut set = (**set).clone();
                    *set.metadata.generation.get_or_insert(1) += 1;
                    self.sets[at] = Arc::new(set);
                }
                Step::Delete(set) => self.sets.retain(|s| s.metadata.name != set.metadata.name),
            }
        }
        if let Some(revision) = &plan.revision {
            self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.clone());
        }
        self.deployment.status = Some(plan.status.clone());
        plan
    }

    /// Pods come and go at once; those of an image in `broken` never become available.
    fn pods(&mut self, broken: &str) {
        for set in &mut self.sets {
            let mut changed = (**set).clone();
            let n = changed.spec.as_ref().unwrap().replicas.unwrap();
            let good = if Self::image_of(&changed) == broken { 0 } else { n };
            changed.status = Some(ReplicaSetStatus {
                replicas: n,
                ready_replicas: Some(good),
                available_replicas: Some(good),
                observed_generation: changed.metadata.generation,
                ..ReplicaSetStatus::default()
            });
            *set = Arc::new(changed);
        }
    }

    fn settle(&mut self, broken: &str) -> Plan {
        for _ in 0..50 {
            let plan = self.step();
            self.pods(broken);
            if plan.steps.is_empty() && self.step().steps.is_empty() {
                return self.step();
            }
        }
        panic!("it never settles: {:?}", self.log);
    }

    fn sizes(&self) -> Vec<(String, i32)> {
        let mut sizes: Vec<_> = self.sets.iter().map(|s| (Self::image_of(s), s.spec.as_ref().unwrap().replicas.unwrap())).collect();
        sizes.sort();
        sizes
    }

    fn reason(&self, name: &str) -> String {
        status::condition(self.deployment.status.as_ref().unwrap(), name).and_then(|c| c.reason.clone()).unwrap_or_default()
    }

    fn set_of(&self, image: &str) -> &ReplicaSet {
        self.sets.iter().find(|s| Self::image_of(s) == image).unwrap()
    }

    fn revision_of(&self, image: &str) -> String {
        self.set_of(image).metadata.annotations.as_ref().unwrap()[REVISION].clone()
    }
}

fn rolling(surge: &str, unavailable: &str) -> serde_json::Value {
    json!({"type":"RollingUpdate","rollingUpdate":{"maxSurge":surge,"maxUnavailable":unavailable}})
}

#[test]
fn rolls_out_rolls_on_and_rolls_back() {
    let mut world = World::new(3, rolling("25%", "25%"));
    let first = world.step();
    assert!(matches!(&first.steps[..], [Step::Create(_)]));
    assert_eq!(world.reason("Progressing"), "NewReplicaSetCreated");
    let plan = world.settle("");
    assert_eq!(plan.status.available_replicas, Some(3));
    assert_eq!(
        (world.reason("Progressing"), world.reason("Available")),
        ("NewReplicaSetAvailable".into(), "MinimumReplicasAvailable".into())
    );
    world.log.clear();
    world.image("v2");
    let plan = world.settle("");
    // One more at a time, never one too few.
    assert_eq!(world.log, ["v2: 0 to 1", "v1: 3 to 2", "v2: 1 to 2", "v1: 2 to 1", "v2: 2 to 3", "v1: 1 to 0"]);
    assert_eq!(plan.status.observed_generation, Some(2));
    assert_eq!(plan.revision.as_deref(), Some("2"));
    let (old, current) = (world.set_of("v1").clone(), world.set_of("v2").clone());
    assert_ne!(short(old.metadata.name.as_ref().unwrap()), short(current.metadata.name.as_ref().unwrap()));
    world.image("v1");
    world.settle("");
    assert_eq!(world.sets.len(), 2, "the old set is used again");
    assert_eq!(world.revision_of("v1"), "3");
    assert_eq!(world.set_of("v1").metadata.annotations.as_ref().unwrap()[REVISION_HISTORY], "1");
    assert_eq!(world.sizes(), [("v1".into(), 3), ("v2".into(), 0)]);
}

#[test]
fn a_broken_template_stops_and_times_out() {
    let mut world = World::new(4, json!({"type":"RollingUpdate","rollingUpdate":{"maxSurge":1,"maxUnavailable":1}}));
    world.settle("");
    world.image("bad");
    world.settle("bad");
    assert_eq!(world.sizes(), [("bad".into(), 2), ("v1".into(), 3)]);
    let plan = world.step();
    assert!(plan.requeue.is_some());
    world.now = world.now.checked_add(jiff::SignedDuration::from_secs(120)).unwrap();
    world.step();
    assert_eq!(world.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(world.reason("Available"), "MinimumReplicasAvailable");
    // Scaled meanwhile: each gets its share.
    world.deployment.spec.as_mut().unwrap().replicas = Some(9);
    world.step();
    assert_eq!(world.sizes(), [("bad".into(), 4), ("v1".into(), 6)]);
}

#[test]
fn scales_without_a_rollout() {
    let mut world = World::new(3, rolling("25%", "25%"));
    world.settle("");
    world.deployment.spec.as_mut().unwrap().replicas = Some(5);
    let plan = world.settle("");
    assert_eq!(world.sizes(), [("v1".into(), 5)]);
    assert_eq!(plan.status.available_replicas, Some(5));
    world.deployment.spec.as_mut().unwrap().replicas = Some(0);
    world.settle("");
    assert_eq!(world.sizes(), [("v1".into(), 0)]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(2, json!({"type":"Recreate"}));
    world.settle("");
    world.log.clear();
    world.image("v2");
    world.step();
    assert_eq!(world.log, ["v1: 2 to 0"]);
    assert!(world.step().steps.is_empty(), "not yet observed");
    world.pods("");
    let mut dying = world.set_of("v1").clone();
    dying.status.as_mut().unwrap().terminating_replicas = Some(1);
    world.sets = vec![Arc::new(dying)];
    assert!(world.step().steps.is_empty(), "a pod still ends");
    world.settle("");
    assert_eq!(world.log, ["v1: 2 to 0", "v2: 0 to 2"]);
}

#[test]
fn paused_makes_no_new_set_but_scales() {
    let mut world = World::new(2, rolling("25%", "25%"));
    world.settle("");
    let spec = world.deployment.spec.as_mut().unwrap();
    spec.paused = Some(true);
    spec.replicas = Some(4);
    world.image("v2");
    world.settle("");
    assert_eq!(world.sizes(), [("v1".into(), 4)]);
    assert_eq!(world.reason("Progressing"), "DeploymentPaused");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle("");
    assert_eq!(world.sizes(), [("v1".into(), 0), ("v2".into(), 4)]);
}

#[test]
fn history_is_bounded() {
    let mut world = World::new(1, rolling("25%", "25%"));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.image(image);
        world.settle("");
    }
    assert_eq!(world.sizes(), [("v3".into(), 0), ("v4".into(), 0), ("v5".into(), 1)]);
    assert_eq!(world.revision_of("v5"), "5");
}

#[test]
fn a_status_older_than_the_size_is_not_trusted() {
    let mut world = World::new(5, rolling("0%", "20%"));
    world.settle("");
    world.image("v2");
    for _ in 0..3 {
        world.step();
        world.pods("");
    }
    assert_eq!(world.sizes(), [("v1".into(), 4), ("v2".into(), 1)]);
    // The old set was scaled down to 4, and its status does not show that yet.
    let mut stale = world.set_of("v1").clone();
    stale.status.as_mut().unwrap().available_replicas = Some(5);
    world.sets[0] = Arc::new(stale);
    world.step();
    assert_eq!(world.sizes(), [("v1".into(), 3), ("v2".into(), 1)], "one may be missing, not two");
}

#[test]
fn two_templates_with_one_hash_get_two_names() {
    let mut world = World::new(1, rolling("25%", "25%"));
    let Step::Create(first) = decide(&world.deployment, &[], world.now).steps.remove(0) else { panic!() };
    world.deployment.status = Some(serde_json::from_value(json!({"collisionCount":1})).unwrap());
    let Step::Create(second) = decide(&world.deployment, &[], world.now).steps.remove(0) else { panic!() };
    assert_ne!(first.metadata.name, second.metadata.name);
}
