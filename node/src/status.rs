//! The pod's status as users read it: a pure function of the same snapshot that decisions are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wharf_core::runtime::{ContainerState, ContainerStatus};

use crate::pod::{self, RestartPolicy};
use crate::snapshot::{PodRuntime, attempt};
use crate::sync::{ProbeResults, is_ready, is_started};

/// Conditions that belong to the agent; all others are left as they are.
const OWN_CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Reason {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a status is made from.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    /// The status last written, or the object's.
    pub(crate) old: &'a PodStatus,
    pub(crate) runtime: &'a PodRuntime,
    pub(crate) probes: &'a ProbeResults,
    pub(crate) probing: bool,
    /// Why containers wait, by name.
    pub(crate) reasons: &'a BTreeMap<String, Reason>,
    /// Termination messages by container id.
    pub(crate) messages: &'a BTreeMap<String, String>,
    pub(crate) runtime_name: &'a str,
    pub(crate) host_ip: IpAddr,
    pub(crate) deadline_exceeded: bool,
    /// The last look at a pod that is going away: what has ended will not be started again.
    pub(crate) last: bool,
    pub(crate) now: Timestamp,
}

/// Makes the status.
pub(crate) fn make(input: &Input<'_>) -> PodStatus {
    let empty = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&empty);
    let init: Vec<ApiStatus> = pod::init_containers(spec).iter().map(|c| container_status(input, spec, c, true)).collect();
    let main: Vec<ApiStatus> = spec.containers.iter().map(|c| container_status(input, spec, c, false)).collect();
    let ephemeral: Vec<ApiStatus> = pod::ephemeral_containers(spec)
        .map(|c| ApiStatus { ready: false, started: None, ..container_status(input, spec, &c, false) })
        .collect();
    let mut status = input.old.clone();
    let sticky = input.old.phase.as_deref().filter(|p| pod::is_terminal_phase(p));
    let phase = match sticky {
        Some(phase) => phase.to_string(),
        None if input.deadline_exceeded => {
            status.reason = Some("DeadlineExceeded".into());
            status.message = Some("Pod was active on the node longer than the specified deadline".into());
            "Failed".into()
        }
        None => phase(spec, &init, &main, input.last).into(),
    };
    let initialized = is_initialized(spec, &init, &main);
    let over = pod::is_terminal_phase(&phase);
    let sandbox_up = input.runtime.sandbox().is_some() && (!input.runtime.ips.is_empty() || spec.host_network == Some(true));
    let unready: Vec<&str> = all_unready(spec, &init, &main);
    let going = pod::is_terminating(input.pod);
    let mut conditions: Vec<PodCondition> =
        input.old.conditions.iter().flatten().filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str())).cloned().collect();
    let mut add = |kind: &str, holds: bool, reason: Option<&str>, message: Option<String>| {
        conditions.push(condition(input, kind, holds, reason.filter(|_| !holds || over), message));
    };
    add("PodReadyToStartContainers", sandbox_up, None, None);
    let incomplete =
        pod::init_containers(spec).iter().zip(&init).filter(|(c, s)| !init_done(c, s)).map(|(c, _)| c.name.as_str()).collect::<Vec<_>>();
    let succeeded = phase == "Succeeded";
    if initialized || succeeded {
        add("Initialized", true, succeeded.then_some("PodCompleted"), None);
    } else {
        add(
            "Initialized",
            false,
            Some("ContainersNotInitialized"),
            Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
        );
    }
    let (ready, reason, message) = match () {
        () if succeeded => (false, Some("PodCompleted"), None),
        () if phase == "Failed" => (false, Some("PodFailed"), None),
        () if !unready.is_empty() => {
            (false, Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" "))))
        }
        () => (true, None, None),
    };
    // Readiness gates: each named condition must hold too.
    let gates: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter(|g| !input.old.conditions.iter().flatten().any(|c| c.type_ == g.condition_type && c.status == "True"))
        .map(|g| format!("corresponding condition of pod readiness gate \"{}\" does not exist.", g.condition_type))
        .collect();
    if ready && !gates.is_empty() {
        add("Ready", false, Some("ReadinessGatesNotReady"), Some(gates.join(", ")));
    } else {
        // A pod that is going away takes no more traffic, whatever its probes say.
        add("Ready", ready && !going, reason, message.clone());
    }
    add("ContainersReady", ready, reason, message);
    conditions.sort_by_key(|c| OWN_CONDITIONS.iter().position(|o| *o == c.type_).unwrap_or(OWN_CONDITIONS.len()));

    let ips: Vec<String> = match spec.host_network {
        Some(true) => vec![input.host_ip.to_string()],
        _ => input.runtime.ips.iter().map(ToString::to_string).collect(),
    };
    if !ips.is_empty() && input.runtime.sandbox().is_some() {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    status.host_ip = Some(input.host_ip.to_string());
    status.host_ips = Some(vec![HostIP { ip: input.host_ip.to_string() }]);
    status.start_time = Some(status.start_time.unwrap_or_else(|| time(input.now)));
    status.qos_class = Some(status.qos_class.unwrap_or_else(|| pod::qos(input.pod).into()));
    status.observed_generation = input.pod.metadata.generation;
    status.phase = Some(phase);
    status.conditions = Some(conditions);
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = Some(main);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

fn time(at: Timestamp) -> Time {
    // Kubernetes keeps whole seconds; a finer time would never compare equal after a round trip.
    Time(Timestamp::new(at.as_second(), 0).unwrap_or(at))
}

fn condition(input: &Input<'_>, kind: &str, holds: bool, reason: Option<&str>, message: Option<String>) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let known = input.old.conditions.iter().flatten().find(|c| c.type_ == kind);
    let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.map(Into::into),
        message,
        last_transition_time: Some(since.unwrap_or_else(|| time(input.now))),
        observed_generation: input.pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn all_unready<'a>(spec: &'a PodSpec, init: &[ApiStatus], main: &[ApiStatus]) -> Vec<&'a str> {
    let sidecars = pod::init_containers(spec).iter().zip(init).filter(|(c, _)| pod::is_sidecar(c));
    let all = sidecars.chain(spec.containers.iter().zip(main));
    all.filter(|(_, s)| !s.ready).map(|(c, _)| c.name.as_str()).collect()
}

fn init_done(container: &Container, status: &ApiStatus) -> bool {
    if pod::is_sidecar(container) {
        return status.started == Some(true);
    }
    let ended = |s: &Option<ApiState>| s.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
    ended(&status.state)
}

fn is_initialized(spec: &PodSpec, init: &[ApiStatus], main: &[ApiStatus]) -> bool {
    let begun = main.iter().any(|s| s.container_id.is_some());
    begun || pod::init_containers(spec).iter().zip(init).all(|(c, s)| init_done(c, s))
}

fn phase(spec: &PodSpec, init: &[ApiStatus], main: &[ApiStatus], last: bool) -> &'static str {
    let policy = pod::pod_policy(spec);
    let exit = |s: &ApiStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    let failed_init = pod::init_containers(spec).iter().zip(init).any(|(c, s)| !pod::is_sidecar(c) && exit(s).is_some_and(|e| e != 0));
    if failed_init && (policy == RestartPolicy::Never || last) {
        return "Failed";
    }
    let (mut running, mut waiting, mut stopped, mut succeeded, mut restarts) = (0, 0, 0, 0, false);
    for (container, status) in spec.containers.iter().zip(main) {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(ended) = state.terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
            restarts |= pod::policy_of(spec, container).restarts_after(ended.exit_code);
        } else if status.last_state.as_ref().is_some_and(|l| l.terminated.is_some()) {
            stopped += 1;
            restarts = true;
        } else {
            waiting += 1;
        }
    }
    if last {
        return if running == 0 && stopped > 0 && succeeded == main.len() { "Succeeded" } else { "Failed" };
    }
    if !is_initialized(spec, init, main) || waiting > 0 {
        return "Pending";
    }
    match () {
        () if running > 0 || restarts => "Running",
        () if stopped == 0 => "Pending",
        () if succeeded == stopped => "Succeeded",
        () => "Failed",
    }
}

fn terminated(input: &Input<'_>, status: &ContainerStatus) -> ContainerStateTerminated {
    let fallback = if status.exit_code == 0 { "Completed" } else { "Error" };
    let message = input.messages.get(&status.container.id).cloned().or_else(|| Some(status.message.clone()).filter(|m| !m.is_empty()));
    ContainerStateTerminated {
        container_id: Some(format!("{}://{}", input.runtime_name, status.container.id)),
        exit_code: status.exit_code,
        signal: (status.signal != 0).then_some(status.signal),
        reason: Some(if status.reason.is_empty() { fallback.into() } else { status.reason.clone() }),
        message,
        started_at: status.started_at.map(time),
        finished_at: status.finished_at.map(time),
    }
}

fn container_status(input: &Input<'_>, spec: &PodSpec, container: &Container, init: bool) -> ApiStatus {
    let latest = input.runtime.latest(&container.name);
    let seen = input.old.init_container_statuses.iter().chain(&input.old.container_statuses).chain(&input.old.ephemeral_container_statuses);
    let old = seen.flatten().find(|s| s.name == container.name);
    let reason = input.reasons.get(&container.name);
    let waiting = |reason: &str, message: Option<String>| ApiState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
        ..ApiState::default()
    };
    let as_terminated = |s: &ContainerStatus| ApiState { terminated: Some(terminated(input, s)), ..ApiState::default() };
    let default_reason =
        if !init && spec.init_containers.as_ref().is_some_and(|i| !i.is_empty()) { "PodInitializing" } else { "ContainerCreating" };
    let previous = input.runtime.previous(&container.name).filter(|p| p.container.state == ContainerState::Exited);
    let mut last_state = previous.map(as_terminated);
    let mut started = false;
    let mut ready = false;
    let state = match latest {
        None => match reason {
            Some(why) => waiting(why.reason, Some(why.message.clone()).filter(|m| !m.is_empty())),
            // The runtime forgot it, but it has been seen to end: keep what was seen.
            None => match old.and_then(|o| o.state.clone()).filter(|s| s.terminated.is_some()) {
                Some(seen) => seen,
                None => waiting(default_reason, None),
            },
        },
        Some(current) => match current.container.state {
            ContainerState::Running => {
                started = is_started(container, current, input.probes, input.probing);
                ready = is_ready(container, current, input.probes, input.probing);
                ApiState { running: Some(ContainerStateRunning { started_at: current.started_at.map(time) }), ..ApiState::default() }
            }
            ContainerState::Created => match reason {
                Some(why) => waiting(why.reason, Some(why.message.clone())),
                None => waiting(default_reason, None),
            },
            ContainerState::Exited | ContainerState::Unknown => {
                // Not for a pod that is over: nothing waits there.
                match reason.filter(|_| !input.last && !pod::is_terminating(input.pod)) {
                    Some(why) => {
                        last_state = Some(as_terminated(current));
                        waiting(why.reason, Some(why.message.clone()))
                    }
                    None => as_terminated(current),
                }
            }
        },
    };
    if init && !pod::is_sidecar(container) {
        ready = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    }
    ApiStatus {
        name: container.name.clone(),
        image: latest
            .map(|c| c.container.image.image.clone())
            .filter(|i| !i.is_empty())
            .or_else(|| container.image.clone())
            .unwrap_or_default(),
        image_id: latest.map(|c| c.container.image_ref.clone()).unwrap_or_default(),
        container_id: latest
            .map(|c| format!("{}://{}", input.runtime_name, c.container.id))
            .or_else(|| old.and_then(|o| o.container_id.clone())),
        restart_count: latest.map_or_else(|| old.map_or(0, |o| o.restart_count), |c| i32::try_from(attempt(c)).unwrap_or(i32::MAX)),
        started: Some(started),
        ready,
        state: Some(state),
        last_state,
        ..ApiStatus::default()
    }
}

/// A merge patch that turns one status into another, without touching what is the same; `None` if nothing differs.
pub(crate) fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<serde_json::Value> {
    if old == new {
        return None;
    }
    let (old, new) = (serde_json::to_value(old).ok()?, serde_json::to_value(new).ok()?);
    let (old, new) = (old.as_object()?, new.as_object()?);
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed: serde_json::Map<_, _> = keys
        .into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| (k.clone(), new.get(k).cloned().unwrap_or(serde_json::Value::Null)))
        .collect();
    (!changed.is_empty()).then(|| serde_json::json!({"metadata": {"uid": uid}, "status": changed}))
}
