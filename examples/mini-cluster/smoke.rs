//! A whole story, unattended: `--smoke`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf::Cluster;
use wharf::core::runtime::{ContainerFilter, ContainerState, Runtime};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const YAML: &str = include_str!("smoke.yaml");
/// Longer than any machine needs: the story is to fail, not to hang.
const STEP: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(20);

/// What the story is played on.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The node whose agent is killed, with its runtime; `None` where containers only pretend.
    pub real: Option<(String, Arc<dyn Runtime>)>,
    /// How long a server serves on after it was told to end, in seconds.
    pub drain: u16,
}

struct Story<'a> {
    stage: &'a Stage,
    pods: Api<Pod>,
    deployments: Api<Deployment>,
    sets: Api<ReplicaSet>,
    services: Api<Service>,
    client: Client,
}

/// Plays the story; prints one line a step.
pub async fn play(stage: &Stage) -> Outcome {
    let client = stage.cluster.client();
    let story = Story {
        stage,
        pods: Api::namespaced(client.clone(), "default"),
        deployments: Api::namespaced(client.clone(), "default"),
        sets: Api::namespaced(client.clone(), "default"),
        services: Api::namespaced(client.clone(), "default"),
        client,
    };
    let real = stage.real.is_some();
    step("apply", story.apply()).await?;
    step("ready", story.settled(3, "v1")).await?;
    if real {
        step("fetch", story.fetch_all(3)).await?;
    }
    step("scale", story.scale(5)).await?;
    step("roll", story.roll_under_load()).await?;
    step("rollback", story.roll_back()).await?;
    if real {
        step("heal", story.kill_a_container()).await?;
        step("adopt", story.kill_the_agent()).await?;
    }
    step("delete", story.delete_all()).await?;
    Ok(())
}

async fn step(name: &str, work: impl Future<Output = Outcome>) -> Outcome {
    let begin = Instant::now();
    match tokio::time::timeout(STEP, Box::pin(work)).await {
        Ok(Ok(())) => {
            println!("step {name} {}", begin.elapsed().as_millis());
            Ok(())
        }
        Ok(Err(error)) => Err(format!("step {name} failed: {error}").into()),
        Err(_) => Err(format!("step {name} did not end within {} s", STEP.as_secs()).into()),
    }
}

/// Looks until `check` yields something. Its last complaint is shown by the step's time-out in the log.
async fn until<T, F: Future<Output = Outcome<Option<T>>>>(mut check: impl FnMut() -> F) -> Outcome<T> {
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn image(version: &str) -> String {
    crate::image::name(version)
}

async fn fetch(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = tokio::time::timeout(Duration::from_secs(5), talk).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        _ => Err(std::io::Error::other(format!("unexpected answer {text:?}"))),
    }
}

/// What stands behind the Service, and what the pods say of themselves: a line each.
async fn endpoints(pods: &Api<Pod>, slices: &Api<EndpointSlice>) -> String {
    let listed = ListParams::default();
    let (pods, slices) = tokio::join!(pods.list(&listed), slices.list(&listed));
    let mut text = String::new();
    for endpoint in slices.into_iter().flatten().flat_map(|s| s.endpoints.unwrap_or_default()) {
        let conditions = endpoint.conditions.unwrap_or_default();
        let holds = [("ready", conditions.ready), ("serving", conditions.serving), ("terminating", conditions.terminating)];
        let holds: Vec<&str> = holds.iter().filter(|(_, holds)| *holds == Some(true)).map(|(name, _)| *name).collect();
        text += &format!("\n  endpoint {} {}", endpoint.addresses.join(" "), holds.join(" "));
    }
    for pod in pods.into_iter().flatten() {
        let (status, spec) = (pod.status.unwrap_or_default(), pod.spec.unwrap_or_default());
        let container = status.container_statuses.iter().flatten().next();
        let (ready, restarts) = container.map_or((false, 0), |c| (c.ready, c.restart_count));
        let state = container.and_then(|c| c.state.as_ref()).map(|s| json!(s).to_string()).unwrap_or_default();
        let deleted = pod.metadata.deletion_timestamp.map_or(String::new(), |t| format!(" deleted until {}", t.0));
        let image = spec.containers.first().and_then(|c| c.image.clone()).unwrap_or_default();
        let ip = status.pod_ip.unwrap_or_default();
        text +=
            &format!("\n  pod {} {ip} {image} ready {ready} restarts {restarts}{deleted} {state}", pod.metadata.name.unwrap_or_default());
    }
    text
}

impl Story<'_> {
    async fn apply(&self) -> Outcome {
        for text in YAML.split("\n---\n") {
            let mut value: serde_json::Value = serde_yaml_ng::from_str(text)?;
            if let Some(spec) = value.pointer_mut("/spec/template/spec") {
                // What the file says is right for a drain of 1 s.
                spec["terminationGracePeriodSeconds"] = json!(self.stage.drain + 4);
                spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] = json!(self.stage.drain);
            }
            match value["kind"].as_str() {
                Some("ConfigMap") => self.apply_one::<ConfigMap>(value).await?,
                Some("Deployment") => self.apply_one::<Deployment>(value).await?,
                Some("Service") => self.apply_one::<Service>(value).await?,
                other => return Err(format!("smoke.yaml holds an unexpected kind {other:?}").into()),
            }
        }
        Ok(())
    }

    async fn apply_one<K>(&self, value: serde_json::Value) -> Outcome
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.patch(&name, &PatchParams::apply("smoke"), &Patch::Apply(value)).await?;
        Ok(())
    }

    async fn demo_pods(&self) -> Outcome<Vec<Pod>> {
        Ok(self.pods.list(&ListParams::default().labels("app=demo")).await?.items)
    }

    /// Exactly `count` pods, all ready, all of one version, and the Deployment says so.
    async fn settled(&self, count: usize, version: &str) -> Outcome {
        let want = image(version);
        until(|| async {
            let deployment = self.deployments.get("demo").await?;
            let status = deployment.status.unwrap_or_default();
            let observed = status.observed_generation >= deployment.metadata.generation;
            let pods = self.demo_pods().await?;
            let all = pods.iter().all(|p| ready(p) && p.spec.as_ref().is_some_and(|s| s.containers[0].image.as_ref() == Some(&want)));
            let available = usize::try_from(status.available_replicas.unwrap_or(0))?;
            Ok((observed && all && pods.len() == count && available == count).then_some(()))
        })
        .await
    }

    async fn address(&self) -> Outcome<SocketAddr> {
        let service = self.services.get("demo").await?;
        let ip = service.spec.and_then(|s| s.cluster_ip).ok_or("the Service has no ClusterIP")?;
        Ok(SocketAddr::new(ip.parse()?, 80))
    }

    async fn fetch_all(&self, count: usize) -> Outcome {
        let address = self.address().await?;
        let names: BTreeSet<String> = self.demo_pods().await?.into_iter().filter_map(|p| p.metadata.name).collect();
        // The rules may be a moment behind the readiness.
        until(|| async { Ok(fetch(address, "/").await.ok()) }).await?;
        let mut seen = BTreeSet::new();
        while seen.len() < count {
            let name = fetch(address, "/hostname").await?;
            if !names.contains(&name) {
                return Err(format!("an answer came from {name:?}, which is none of {names:?}").into());
            }
            seen.insert(name);
        }
        let message = fetch(address, "/config").await?;
        if message != "Good day from a ConfigMap." {
            return Err(format!("the ConfigMap reads {message:?} in the container").into());
        }
        Ok(())
    }

    async fn scale(&self, count: usize) -> Outcome {
        self.deployments.patch_scale("demo", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": count}}))).await?;
        self.settled(count, "v1").await
    }

    async fn roll_under_load(&self) -> Outcome {
        let stop = Arc::new(AtomicBool::new(false));
        let fetched = Arc::new(AtomicUsize::new(0));
        let load = if self.stage.real.is_some() {
            let (address, stop, fetched) = (self.address().await?, stop.clone(), fetched.clone());
            let (pods, slices) = (self.pods.clone(), Api::namespaced(self.client.clone(), "default"));
            tokio::spawn(async move {
                let begin = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let asked = begin.elapsed();
                    if let Err(error) = fetch(address, "/version").await {
                        let (asked, failed) = (asked.as_millis(), begin.elapsed().as_millis());
                        let then = endpoints(&pods, &slices).await;
                        return Err(format!("{error}; asked {asked} ms after the roll began, failed at {failed} ms, with{then}"));
                    }
                    fetched.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(())
            })
        } else {
            tokio::spawn(async { Ok::<_, String>(()) })
        };
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "demo", "image": image("v2")}]}}}});
        self.deployments.patch("demo", &PatchParams::default(), &Patch::Strategic(patch)).await?;
        self.settled(5, "v2").await?;
        stop.store(true, Ordering::Relaxed);
        let answered = || fetched.load(Ordering::Relaxed);
        load.await?.map_err(|e| format!("a request failed during the roll, after {} good ones: {e}", answered()))?;
        if self.stage.real.is_some() {
            if answered() == 0 {
                return Err("no request was made during the roll".into());
            }
            println!("{} requests were answered during the roll", answered());
        }
        Ok(())
    }

    /// What `kubectl rollout undo` does: the template of the revision before goes back into the Deployment.
    async fn roll_back(&self) -> Outcome {
        let mut sets: BTreeMap<u64, ReplicaSet> = BTreeMap::new();
        for set in self.sets.list(&ListParams::default().labels("app=demo")).await? {
            let revision =
                set.metadata.annotations.as_ref().and_then(|a| a.get("deployment.kubernetes.io/revision")).and_then(|r| r.parse().ok());
            sets.insert(revision.ok_or("a ReplicaSet has no revision")?, set);
        }
        let (_, previous) = sets.iter().rev().nth(1).ok_or("there is no revision to go back to")?;
        let mut template = serde_json::to_value(previous.spec.as_ref().and_then(|s| s.template.as_ref()))?;
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(|l| l.as_object_mut()) {
            labels.remove("pod-template-hash");
        }
        template["$patch"] = "replace".into();
        let patch = json!({"spec": {"template": template}});
        self.deployments.patch("demo", &PatchParams::default(), &Patch::Strategic(patch)).await?;
        self.settled(5, "v1").await
    }

    async fn running(&self) -> Outcome<BTreeMap<String, u32>> {
        let (_, runtime) = self.stage.real.as_ref().ok_or("containers only pretend here")?;
        let mut running = BTreeMap::new();
        for container in
            runtime.list_containers(&ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() }).await?
        {
            running.insert(container.id.clone(), runtime.container_status(&container.id).await?.pid);
        }
        Ok(running)
    }

    fn restarts(pods: &[Pod]) -> i32 {
        pods.iter().flat_map(|p| p.status.iter().flat_map(|s| s.container_statuses.iter().flatten())).map(|c| c.restart_count).sum()
    }

    async fn kill_a_container(&self) -> Outcome {
        let running = self.running().await?;
        let (_, pid) = running.first_key_value().ok_or("no container is running")?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(*pid)?), nix::sys::signal::Signal::SIGKILL)?;
        until(|| async {
            let pods = self.demo_pods().await?;
            Ok((Self::restarts(&pods) == 1 && pods.len() == 5 && pods.iter().all(ready)).then_some(()))
        })
        .await
    }

    async fn kill_the_agent(&self) -> Outcome {
        let (node, _) = self.stage.real.as_ref().ok_or("containers only pretend here")?;
        let before = self.running().await?;
        self.stage.cluster.kill_node(node)?;
        for pid in before.values() {
            if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                return Err(format!("the container with pid {pid} died with the agent").into());
            }
        }
        let address = self.address().await?;
        fetch(address, "/healthz").await?;
        self.stage.cluster.start_node(node)?;
        // An agent that answers for its pods has found them again.
        let pod = self.demo_pods().await?.into_iter().find_map(|p| p.metadata.name).ok_or("no pod is left")?;
        let log = kube::api::LogParams { limit_bytes: Some(64), ..kube::api::LogParams::default() };
        until(|| async { Ok(self.pods.logs(&pod, &log).await.ok()) }).await?;
        let pods = self.demo_pods().await?;
        let after = self.running().await?;
        if before != after {
            return Err(format!("containers were not adopted as they were: {before:?} became {after:?}").into());
        }
        if Self::restarts(&pods) != 1 {
            return Err("a container was restarted by the returning agent".into());
        }
        // The returned agent must be in charge: what is scaled now is started by it.
        self.deployments.patch_scale("demo", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 6}}))).await?;
        until(|| async {
            let pods = self.demo_pods().await?;
            Ok((pods.len() == 6 && pods.iter().all(ready)).then_some(()))
        })
        .await
    }

    async fn delete_all(&self) -> Outcome {
        let params = DeleteParams::default();
        self.deployments.delete("demo", &params).await?;
        self.services.delete("demo", &params).await?;
        Api::<ConfigMap>::namespaced(self.client.clone(), "default").delete("demo", &params).await?;
        until(|| async {
            Ok((self.demo_pods().await?.is_empty() && self.sets.list(&ListParams::default().labels("app=demo")).await?.items.is_empty())
                .then_some(()))
        })
        .await?;
        if let Some((_, runtime)) = &self.stage.real {
            until(|| async { Ok(runtime.list_containers(&ContainerFilter::default()).await?.is_empty().then_some(())) }).await?;
        }
        Ok(())
    }
}
