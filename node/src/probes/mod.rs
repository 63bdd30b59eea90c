//! Probes: one task for each probe of a running container.

pub(crate) mod http;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_core::events::EventType;
use wharf_core::runtime::RuntimeService;

use crate::backoff::elapsed;
use crate::pod;
use crate::shared::Shared;
use crate::snapshot::PodRuntime;
use crate::sync::{ProbeKind, ProbeResults, is_started};

/// Results that the worker and its probes share.
pub(crate) type SharedResults = Arc<Mutex<ProbeResults>>;

/// Most of a probe's output that an event repeats.
const MAX_OUTPUT: usize = 1024;
/// A container that started this lately is probed without jitter.
const FRESH: Duration = Duration::from_secs(10);

/// The probes of one pod. Dropping it ends them.
pub(crate) struct Probers {
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    results: SharedResults,
    running: HashMap<(String, ProbeKind), DropGuard>,
}

impl Probers {
    pub(crate) fn new(shared: Arc<Shared>, wake: Arc<Notify>) -> Self {
        Self { shared, wake, results: SharedResults::default(), running: HashMap::new() }
    }
    pub(crate) fn results(&self) -> &SharedResults {
        &self.results
    }
    /// Ends all probes; their results stay.
    pub(crate) fn stop(&mut self) {
        self.running.clear();
    }

    /// Starts and ends probes so that each running container has its own.
    pub(crate) fn follow(&mut self, pod: &Pod, runtime: &PodRuntime) {
        let Some(spec) = pod.spec.as_ref().filter(|_| self.shared.probing(runtime)) else { return };
        let alive = |id: &str| runtime.running().any(|c| c.container.id == id);
        self.running.retain(|(id, _), _| alive(id));
        self.results.lock().retain(|(id, _), _| alive(id));
        let sidecars = pod::init_containers(spec).iter().filter(|c| pod::is_sidecar(c));
        for container in spec.containers.iter().chain(sidecars) {
            let Some(status) = runtime.latest(&container.name) else { continue };
            let id = &status.container.id;
            if !alive(id) {
                continue;
            }
            let started = is_started(container, status, &self.results.lock(), true);
            let begun = status.started_at.unwrap_or_else(|| self.shared.clock.now());
            let all = [
                (ProbeKind::Startup, &container.startup_probe, !started),
                (ProbeKind::Liveness, &container.liveness_probe, started),
                (ProbeKind::Readiness, &container.readiness_probe, started),
            ];
            for (kind, probe, wanted) in all {
                let key = (id.clone(), kind);
                let Some(probe) = probe.as_ref().filter(|_| wanted) else {
                    self.running.remove(&key);
                    continue;
                };
                if self.running.contains_key(&key) {
                    continue;
                }
                let stop = CancellationToken::new();
                let task = Task {
                    shared: self.shared.clone(),
                    wake: self.wake.clone(),
                    results: self.results.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    id: id.clone(),
                    ip: runtime.ips.first().copied().unwrap_or(self.shared.node_ip),
                    kind,
                    probe: probe.clone(),
                    begun,
                };
                let token = stop.clone();
                tokio::spawn(async move { token.run_until_cancelled(Box::pin(task.run())).await });
                self.running.insert(key, stop.drop_guard());
            }
        }
    }
}

/// Counts results until one is certain.
#[derive(Debug, Default)]
struct Tally {
    last: Option<bool>,
    run: i32,
}

impl Tally {
    /// The result that has now been seen often enough.
    fn count(&mut self, ok: bool, probe: &Probe) -> Option<bool> {
        if self.last == Some(ok) {
            self.run = self.run.saturating_add(1);
        } else {
            (self.last, self.run) = (Some(ok), 1);
        }
        let needed = if ok { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.run >= needed.max(1)).then_some(ok)
    }
}

struct Task {
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    results: SharedResults,
    pod: Pod,
    container: Container,
    id: String,
    ip: IpAddr,
    kind: ProbeKind,
    probe: Probe,
    begun: jiff::Timestamp,
}

fn seconds(given: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(given.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(default))
}

impl Task {
    async fn run(self) {
        let clock = &self.shared.clock;
        let period = seconds(self.probe.period_seconds, 10);
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let age = elapsed(self.begun, clock.now());
        let delay = Duration::from_secs(self.probe.initial_delay_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0));
        // An agent that adopts many containers must not probe them all at once.
        let jitter = if age > FRESH { period.mul_f64(rand::random::<f64>()) } else { Duration::ZERO };
        let first = delay.saturating_sub(age) + jitter;
        if !first.is_zero() {
            clock.sleep(first).await;
        }
        let mut tally = Tally::default();
        loop {
            let outcome = self.once(timeout).await;
            if let Err(output) = &outcome {
                let mut output = output.clone();
                output.truncate((0..=MAX_OUTPUT.min(output.len())).rev().find(|i| output.is_char_boundary(*i)).unwrap_or(0));
                let message = format!("{:?} probe failed: {output}", self.kind);
                self.shared.container_event(&self.pod, &self.container.name, EventType::Warning, "Unhealthy", message);
            }
            if let Some(result) = tally.count(outcome.is_ok(), &self.probe) {
                let before = self.results.lock().insert((self.id.clone(), self.kind), result);
                if before != Some(result) {
                    self.wake.notify_one();
                }
                // The worker acts on it; a container that is killed is probed no more.
                if self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !result) {
                    return;
                }
            }
            clock.sleep(period).await;
        }
    }

    /// One try; an error is what an event says.
    async fn once(&self, timeout: Duration) -> Result<(), String> {
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return match self.shared.runtime.exec_sync(&self.id, &command, timeout).await {
                Ok(result) if result.exit_code == 0 => Ok(()),
                Ok(result) => {
                    let output = [result.stdout, result.stderr].concat();
                    Err(String::from_utf8_lossy(&output[..output.len().min(MAX_OUTPUT)]).into_owned())
                }
                Err(error) => Err(error.to_string()),
            };
        }
        if let Some(get) = &self.probe.http_get {
            let request = http::request(get, &self.container, self.ip).map_err(|e| e.to_string())?;
            return http::probe(&*self.shared.clock, &request, timeout).await.map_err(|e| e.to_string());
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            let port = port_of(&tcp.port, &self.container).ok_or("the probe's port is not one of the container")?;
            let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| self.ip.to_string());
            let at = http::authority(&host, port);
            return tokio::select! {
                connected = tokio::net::TcpStream::connect((host.as_str(), port)) =>
                    connected.map(|_| ()).map_err(|e| format!("dial tcp {at}: connect: {}", http::plain(&e))),
                () = self.shared.clock.sleep(timeout) => Err(format!("dial tcp {at}: i/o timeout")),
            };
        }
        Err("this node does not support probes of this kind (grpc)".into())
    }
}

/// A port by number, or by its name in the container.
pub(crate) fn port_of(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_runs() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut tally = Tally::default();
        let seen: Vec<_> = [true, false, false, true, true, false, false, false].iter().map(|ok| tally.count(*ok, &probe)).collect();
        assert_eq!(seen, [None, None, None, None, Some(true), None, None, Some(false)]);
    }

    #[test]
    fn ports_go_by_name_or_number() {
        let container: Container =
            serde_json::from_value(serde_json::json!({"name":"c","ports":[{"name":"web","containerPort":8080}]})).unwrap();
        assert_eq!(port_of(&IntOrString::String("web".into()), &container), Some(8080));
        assert_eq!(port_of(&IntOrString::Int(81), &container), Some(81));
        for bad in [IntOrString::Int(0), IntOrString::Int(70000), IntOrString::String("nope".into())] {
            assert_eq!(port_of(&bad, &container), None);
        }
    }
}
