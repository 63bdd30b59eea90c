//! Measures the whole cluster and prints a table. `cargo xtask bench` builds what it needs and runs it.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wharf_e2e::{MiniCluster, Unchecked, executable, is_root};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Measures the whole cluster.
#[derive(Debug, Parser)]
struct Options {
    /// How often each figure is taken.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long a clean release build took, if it was timed.
    #[arg(long)]
    build_seconds: Option<u64>,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    at_most: f64,
    taken: Vec<f64>,
}

impl Row {
    fn print(mut self) {
        if self.taken.is_empty() {
            println!("{:<58} {:>10} {:>10} {:>10} {:>7}", self.name, "omitted", "", format!("{} {}", self.at_most, self.unit), "");
            return;
        }
        self.taken.sort_by(f64::total_cmp);
        let (median, most) = (self.taken[self.taken.len() / 2], self.taken[self.taken.len() - 1]);
        let show = |value: f64| format!("{value:.1} {}", self.unit);
        let verdict = if median <= self.at_most { "met" } else { "MISSED" };
        println!(
            "{:<58} {:>10} {:>10} {:>10} {verdict:>7}",
            self.name,
            show(median),
            show(most),
            format!("{} {}", self.at_most, self.unit)
        );
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let options = Options::parse();
    let executable = executable().ok_or("WHARF_MINI_CLUSTER must name the mini-cluster: run `cargo xtask bench`")?;
    let mut rows = Vec::new();
    let mut row = |name, unit, at_most, taken| rows.push(Row { name, unit, at_most, taken });

    let mut taken = Vec::new();
    for _ in 0..options.runs {
        taken.push(boot(&executable).await?);
    }
    row("mini-cluster: process start to /readyz", "ms", 50.0, taken);

    let mut taken = Vec::new();
    for _ in 0..options.runs {
        taken.push(embedded().await?);
    }
    row("embedded, memory store: start to first served request", "ms", 5.0, taken);

    if is_root() {
        let (memory, pods) = {
            let cluster = MiniCluster::start(&executable, &[])?;
            let client = client(&cluster.kubeconfig()).await?;
            let pods = pods(&client, options.runs).await?;
            drop(client);
            // Idle: long enough for every start-up task and the deleted pods to be done with.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let memory = resident(cluster.pid())?;
            cluster.stop()?;
            (memory, pods)
        };
        let cluster = MiniCluster::start(&executable, &[])?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let fresh = resident(cluster.pid())?;
        cluster.stop()?;
        row("memory of the whole idle process", "MB", 40.0, vec![fresh]);
        row("the same after pods came and went", "MB", 40.0, vec![memory]);
        row("pod created to its container running, image present", "ms", 300.0, pods);
        let mut taken = Vec::new();
        for _ in 0..options.runs {
            taken.push(smoke(&executable)?);
        }
        row("the smoke story", "s", 30.0, taken);
    } else {
        println!("omitted: real containers need root");
    }
    row("clean release build of mini-cluster", "min", 6.0, options.build_seconds.map(|s| s as f64 / 60.0).into_iter().collect());

    println!("\n{:<58} {:>10} {:>10} {:>10} {:>7}", "FIGURE", "MEDIAN", "WORST", "AT MOST", "");
    rows.into_iter().for_each(Row::print);
    Ok(())
}

struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(i32::MAX)), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// From spawning the process to the first 200 of `/readyz`, over TLS, on a data folder that is new.
async fn boot(executable: &Path) -> Outcome<f64> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let folder = tempfile::tempdir()?;
    let begin = Instant::now();
    let child =
        Command::new(executable).args(["--listen", &address.to_string(), "--data"]).arg(folder.path()).stdout(Stdio::null()).spawn()?;
    let child = Killed(child);
    loop {
        if readyz(address).await.unwrap_or(false) {
            break;
        }
        if begin.elapsed() > Duration::from_secs(30) {
            return Err("mini-cluster was not ready within 30 s".into());
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let took = begin.elapsed().as_secs_f64() * 1e3;
    drop(child);
    Ok(took)
}

async fn readyz(address: SocketAddr) -> Outcome<bool> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(&answer == b"HTTP/1.1 200")
}

async fn embedded() -> Outcome<f64> {
    let begin = Instant::now();
    let cluster = wharf::Cluster::builder().start().await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    namespaces.get("default").await?;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    cluster.shutdown().await;
    Ok(took)
}

async fn client(kubeconfig: &Path) -> Outcome<Client> {
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn resident(pid: u32) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024.0)
}

/// From the create call to the watch event that shows the container running.
async fn pods(client: &Client, runs: usize) -> Outcome<Vec<f64>> {
    use futures::StreamExt;
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut taken = Vec::new();
    // The first pod may wait for the image to be imported and is not counted.
    for run in 0..=runs {
        let name = format!("bench-{run}");
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "demo", "image": "wharf.local/demo:v1"}]},
        }))?;
        let revision = api.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let watch = WatchParams::default().fields(&format!("metadata.name={name}"));
        let mut events = api.watch(&watch, &revision).await?.boxed();
        let begin = Instant::now();
        api.create(&PostParams::default(), &pod).await?;
        while let Some(event) = events.next().await {
            if let WatchEvent::Modified(pod) | WatchEvent::Added(pod) = event?
                && pod
                    .status
                    .and_then(|s| s.container_statuses)
                    .is_some_and(|c| c.iter().any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some())))
            {
                break;
            }
        }
        if run > 0 {
            taken.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        api.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(taken)
}

fn smoke(executable: &Path) -> Outcome<f64> {
    let folder = tempfile::tempdir()?;
    let begin = Instant::now();
    let output = Command::new(executable).args(["--smoke", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path()).output()?;
    if !output.status.success() {
        return Err(format!(
            "the smoke story failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(begin.elapsed().as_secs_f64())
}
