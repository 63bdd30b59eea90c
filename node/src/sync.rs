//! What to do for a pod next: a pure function of its spec, the runtime's state, probe results, back-off and time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use wharf_core::runtime::{ContainerState, ContainerStatus};

use crate::backoff::{Backoff, BackoffPolicy, elapsed};
use crate::pod::{self, Part, RestartPolicy};
use crate::snapshot::{PodRuntime, attempt, is_running};
use crate::{labels, status};

/// What a probe asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

/// Results by container id. What is missing is not known yet.
pub(crate) type ProbeResults = HashMap<(String, ProbeKind), bool>;

/// Everything a decision depends on.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) runtime: &'a PodRuntime,
    pub(crate) probes: &'a ProbeResults,
    /// Crash back-off by container name.
    pub(crate) backoffs: &'a BTreeMap<String, Backoff>,
    pub(crate) policy: &'a BackoffPolicy,
    /// Probes are run and count.
    pub(crate) probing: bool,
    pub(crate) now: Timestamp,
}

/// One step towards the pod's spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the sandbox, its volumes first.
    CreateSandbox { attempt: u32 },
    /// Stop a sandbox with all that is in it.
    KillSandbox { id: String },
    /// Create and start a container. `after_exit` is when the instance before ended: this start counts as a restart.
    Start { name: String, attempt: u32, after_exit: Option<Timestamp> },
    /// Stop one container; the next decision says whether it is started again.
    Kill { id: String, name: String, message: String, grace: Duration },
    /// Stop everything of the pod.
    KillPod { grace: Duration },
    /// Nothing runs any more and the pod is being deleted: remove what is left, then the object.
    Remove,
}

/// A container that waits for its back-off to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crashing {
    pub(crate) name: String,
    pub(crate) delay: Duration,
}

/// What to do now and when to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) actions: Vec<Action>,
    pub(crate) crashing: Vec<Crashing>,
    pub(crate) wake_after: Option<Duration>,
    pub(crate) deadline_exceeded: bool,
}

impl Decision {
    fn of(action: Action) -> Self {
        Self { actions: vec![action], ..Self::default() }
    }
    fn wake(&mut self, after: Duration) {
        self.wake_after = Some(self.wake_after.map_or(after, |w| w.min(after)));
    }
}

/// Whether a running container counts as started: its startup probe has succeeded, or it has none.
pub(crate) fn is_started(container: &Container, status: &ContainerStatus, probes: &ProbeResults, probing: bool) -> bool {
    is_running(status)
        && (!probing || container.startup_probe.is_none() || probes.get(&(status.container.id.clone(), ProbeKind::Startup)) == Some(&true))
}

/// Whether a running container is ready.
pub(crate) fn is_ready(container: &Container, status: &ContainerStatus, probes: &ProbeResults, probing: bool) -> bool {
    is_started(container, status, probes, probing)
        && (!probing
            || container.readiness_probe.is_none()
            || probes.get(&(status.container.id.clone(), ProbeKind::Readiness)) == Some(&true))
}

/// Decides.
pub(crate) fn decide(input: &Input<'_>) -> Decision {
    let (pod, runtime) = (input.pod, input.runtime);
    let Some(spec) = &pod.spec else { return Decision::default() };
    if pod::is_terminating(pod) {
        return Decision::of(if runtime.is_alive() { Action::KillPod { grace: pod::grace(pod) } } else { Action::Remove });
    }
    let deadline = deadline(pod, spec, input.now);
    let exceeded = deadline == Some(Duration::ZERO);
    let done = pod::is_terminal_phase(pod::phase(pod)) || exceeded || is_finished(spec, runtime);
    if done {
        let mut decision = Decision { deadline_exceeded: exceeded, ..Decision::default() };
        if runtime.is_alive() {
            decision.actions.push(Action::KillPod { grace: pod::grace(pod) });
        }
        return decision;
    }
    let mut decision = Decision { wake_after: deadline, ..Decision::default() };
    let Some(sandbox) = runtime.sandbox() else {
        // What still runs in a broken sandbox goes first, or two instances could meet.
        let stale = runtime.sandboxes.iter().filter(|s| {
            s.state == wharf_core::runtime::PodSandboxState::Ready || runtime.running().any(|c| c.container.pod_sandbox_id == s.id)
        });
        decision.actions.extend(stale.map(|s| Action::KillSandbox { id: s.id.clone() }));
        decision.actions.push(Action::CreateSandbox { attempt: runtime.sandboxes.first().map_or(0, |s| s.metadata.attempt + 1) });
        return decision;
    };
    let older = runtime.sandboxes.iter().skip(1).filter(|s| s.state == wharf_core::runtime::PodSandboxState::Ready);
    decision.actions.extend(older.map(|s| Action::KillSandbox { id: s.id.clone() }));

    // They wait for nothing, run once, and hold nothing up.
    for container in pod::ephemeral_containers(spec) {
        let latest = runtime.latest(&container.name);
        if latest.is_none_or(|c| c.container.state == ContainerState::Created) {
            decision.actions.push(Action::Start { name: container.name, attempt: 0, after_exit: None });
        }
    }
    let initialized = spec.containers.iter().any(|c| runtime.latest_in(&sandbox.id, &c.name).is_some());
    for container in pod::init_containers(spec) {
        let current = runtime.latest_in(&sandbox.id, &container.name);
        if pod::is_sidecar(container) {
            tend(input, spec, &sandbox.id, container, RestartPolicy::Always, &mut decision);
            let up = current.is_some_and(|c| is_started(container, c, input.probes, input.probing));
            if !up && !initialized {
                return decision;
            }
            continue;
        }
        if initialized {
            continue;
        }
        match current {
            Some(c) if c.container.state == ContainerState::Exited && c.exit_code == 0 => {}
            _ => {
                let policy = if pod::pod_policy(spec) == RestartPolicy::Never { RestartPolicy::Never } else { RestartPolicy::OnFailure };
                tend(input, spec, &sandbox.id, container, policy, &mut decision);
                return decision;
            }
        }
    }
    for container in &spec.containers {
        tend(input, spec, &sandbox.id, container, pod::policy_of(spec, container), &mut decision);
    }
    decision
}

/// What is left of activeDeadlineSeconds.
fn deadline(pod: &Pod, spec: &PodSpec, now: Timestamp) -> Option<Duration> {
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    let limit = Duration::from_secs(u64::try_from(spec.active_deadline_seconds?).unwrap_or(0));
    Some(limit.saturating_sub(elapsed(start, now)))
}

/// Whether all has been done that the restart policy asks for.
fn is_finished(spec: &PodSpec, runtime: &PodRuntime) -> bool {
    let exited = |c: &Container| runtime.latest(&c.name).filter(|s| s.container.state == ContainerState::Exited);
    let failed_init = pod::pod_policy(spec) == RestartPolicy::Never
        && pod::init_containers(spec).iter().filter(|c| !pod::is_sidecar(c)).any(|c| exited(c).is_some_and(|s| s.exit_code != 0));
    let finished = |c: &Container| exited(c).is_some_and(|s| !pod::policy_of(spec, c).restarts_after(s.exit_code));
    failed_init || (!spec.containers.is_empty() && spec.containers.iter().all(finished))
}

/// Drives one container of a sandbox that is up.
fn tend(input: &Input<'_>, spec: &PodSpec, sandbox: &str, container: &Container, policy: RestartPolicy, decision: &mut Decision) {
    let name = &container.name;
    let latest = input.runtime.latest(name);
    let next = latest.map_or(0, |c| attempt(c) + 1);
    match input.runtime.latest_in(sandbox, name) {
        Some(current) => match current.container.state {
            ContainerState::Running => {
                if let Some((message, grace)) = why_kill(input, spec, container, current) {
                    decision.actions.push(Action::Kill { id: current.container.id.clone(), name: name.clone(), message, grace });
                }
            }
            // An agent died between create and start.
            ContainerState::Created => {
                decision.actions.push(Action::Start { name: name.clone(), attempt: current.container.metadata.attempt, after_exit: None });
            }
            ContainerState::Exited => {
                if policy.restarts_after(current.exit_code) {
                    restart(input, current, next, decision);
                }
            }
            ContainerState::Unknown => {
                let message = format!("Container {name} is in unknown state, try killing it before restart");
                let id = current.container.id.clone();
                decision.actions.push(Action::Kill { id, name: name.clone(), message, grace: pod::MINIMUM_GRACE });
            }
        },
        // A new sandbox starts over, except for what had ended for good.
        None => match latest {
            Some(old) if old.container.state == ContainerState::Exited => {
                let is_init = pod::find(spec, name).is_some_and(|(_, part)| part == Part::Init);
                if is_init || policy.restarts_after(old.exit_code) {
                    restart(input, old, next, decision);
                }
            }
            _ => decision.actions.push(Action::Start { name: name.clone(), attempt: next, after_exit: None }),
        },
    }
}

fn restart(input: &Input<'_>, old: &ContainerStatus, next: u32, decision: &mut Decision) {
    let name = &old.container.metadata.name;
    let ended = old.finished_at.unwrap_or(old.container.created_at);
    match Backoff::remaining(input.backoffs.get(name), input.policy, ended, input.now) {
        Some((left, delay)) => {
            decision.crashing.push(Crashing { name: name.clone(), delay });
            decision.wake(left);
        }
        None => decision.actions.push(Action::Start { name: name.clone(), attempt: next, after_exit: Some(ended) }),
    }
}

fn why_kill(input: &Input<'_>, spec: &PodSpec, container: &Container, current: &ContainerStatus) -> Option<(String, Duration)> {
    let name = &container.name;
    let id = &current.container.id;
    if current.container.annotations.get(labels::HASH).is_some_and(|h| *h != labels::hash(container)) {
        return Some((format!("Container {name} definition changed, will be restarted"), pod::grace(input.pod)));
    }
    let failed = |kind| input.probing && input.probes.get(&(id.clone(), kind)) == Some(&false);
    let grace = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        let own = probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
        own.map_or_else(|| pod::grace(input.pod), |s| Duration::from_secs(u64::try_from(s).unwrap_or(1).max(1)))
    };
    let tail = if pod::policy_of(spec, container) == RestartPolicy::Never { "" } else { ", will be restarted" };
    if container.liveness_probe.is_some() && failed(ProbeKind::Liveness) {
        return Some((format!("Container {name} failed liveness probe{tail}"), grace(&container.liveness_probe)));
    }
    if container.startup_probe.is_some() && failed(ProbeKind::Startup) {
        return Some((format!("Container {name} failed startup probe{tail}"), grace(&container.startup_probe)));
    }
    None
}

/// The waiting reason of a container in back-off.
pub(crate) fn crash_reason(pod: &Pod, crashing: &Crashing) -> status::Reason {
    let delay = crate::backoff::go_duration(crashing.delay);
    let message = format!("back-off {delay} restarting failed container={} pod={}", crashing.name, pod::full_name(pod));
    status::Reason::new("CrashLoopBackOff", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use wharf_core::runtime as cri;

    const NOW: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).unwrap()
    }
    fn sandbox(attempt: u32, up: bool) -> cri::PodSandbox {
        cri::PodSandbox {
            id: format!("s{attempt}"),
            metadata: cri::PodSandboxMetadata { attempt, ..Default::default() },
            state: if up { cri::PodSandboxState::Ready } else { cri::PodSandboxState::NotReady },
            created_at: at(-100),
            labels: Default::default(),
            annotations: Default::default(),
            runtime_handler: String::new(),
        }
    }
    fn container(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> ContainerStatus {
        ContainerStatus {
            container: cri::Container {
                id: format!("{name}-{attempt}"),
                pod_sandbox_id: "s0".into(),
                metadata: cri::ContainerMetadata { name: name.into(), attempt },
                image: Default::default(),
                image_ref: String::new(),
                state,
                created_at: at(-50),
                labels: Default::default(),
                annotations: Default::default(),
            },
            started_at: Some(at(-50)),
            finished_at: (state == ContainerState::Exited).then(|| at(-1)),
            exit_code,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            log_path: Default::default(),
            mounts: Vec::new(),
            pid: 0,
        }
    }
    fn pod(spec: Value, meta: Value) -> Pod {
        let mut all = json!({"name":"p","namespace":"n","uid":"u"});
        all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata":all,"spec":spec,"status":{"startTime":at(-60).to_string()}})).unwrap()
    }
    fn run(pod: &Pod, sandboxes: Vec<cri::PodSandbox>, containers: Vec<ContainerStatus>, probes: &[(&str, ProbeKind, bool)]) -> Decision {
        let runtime = PodRuntime { sandboxes, containers, ips: Vec::new() };
        let probes = probes.iter().map(|(id, kind, ok)| ((id.to_string(), *kind), *ok)).collect();
        let backoffs = BTreeMap::from([("crashing".to_string(), Backoff::next(None, &BackoffPolicy::default(), at(-2), at(-2)))]);
        let policy = BackoffPolicy::default();
        decide(&Input { pod, runtime: &runtime, probes: &probes, backoffs: &backoffs, policy: &policy, probing: true, now: at(0) })
    }
    fn words(decision: &Decision) -> Vec<String> {
        let word = |a: &Action| match a {
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::KillSandbox { id } => format!("kill sandbox {id}"),
            Action::Start { name, attempt, .. } => format!("start {name} {attempt}"),
            Action::Kill { id, message, .. } => format!("kill {id}: {message}"),
            Action::KillPod { grace } => format!("kill pod {}", grace.as_secs()),
            Action::Remove => "remove".into(),
        };
        decision.actions.iter().map(word).collect()
    }

    /// What, spec, sandboxes, containers, probe results, the actions that must come out.
    type Case<'a> = (&'a str, &'a Value, Vec<cri::PodSandbox>, Vec<ContainerStatus>, Vec<(&'a str, ProbeKind, bool)>, Vec<&'a str>);

    #[test]
    fn decides_by_the_table() {
        use ContainerState::{Created, Exited, Running};
        let c = |name: &str| json!({"name":name,"image":"i"});
        let plain = json!({"containers":[c("a"),c("b")]});
        let never = json!({"restartPolicy":"Never","containers":[c("a")]});
        let on_failure = json!({"restartPolicy":"OnFailure","containers":[c("a")]});
        let init = json!({"initContainers":[c("i1"),c("i2")],"containers":[c("a")]});
        let init_never = json!({"restartPolicy":"Never","initContainers":[c("i1")],"containers":[c("a")]});
        let sidecar = json!({"initContainers":[{"name":"s","image":"i","restartPolicy":"Always","startupProbe":{"tcpSocket":{"port":1}}}],"containers":[c("a")]});
        let live = json!({"containers":[{"name":"a","image":"i","livenessProbe":{"tcpSocket":{"port":1}}}]});
        let deadline = json!({"activeDeadlineSeconds":60,"containers":[c("a")]});
        let debugged = json!({"initContainers":[c("i")],"containers":[c("a")],"ephemeralContainers":[c("d")]});
        let (up, down) = (|| vec![sandbox(0, true)], || vec![sandbox(0, false)]);
        let table: Vec<Case<'_>> = vec![
            ("a new pod", &plain, vec![], vec![], vec![], vec!["sandbox 0"]),
            ("a sandbox alone", &plain, up(), vec![], vec![], vec!["start a 0", "start b 0"]),
            ("all runs", &plain, up(), vec![container("a", 0, Running, 0), container("b", 0, Running, 0)], vec![], vec![]),
            ("one ended", &plain, up(), vec![container("a", 0, Exited, 0), container("b", 0, Running, 0)], vec![], vec!["start a 1"]),
            ("created only", &plain, up(), vec![container("a", 2, Created, 0), container("b", 0, Running, 0)], vec![], vec!["start a 2"]),
            (
                "the sandbox died",
                &plain,
                down(),
                vec![container("a", 0, Exited, 137), container("b", 0, Running, 0)],
                vec![],
                vec!["kill sandbox s0", "sandbox 1"],
            ),
            ("never and failed", &never, up(), vec![container("a", 0, Exited, 1)], vec![], vec!["kill pod 30"]),
            ("never, sandbox down", &never, down(), vec![container("a", 0, Exited, 1)], vec![], vec![]),
            ("on failure and failed", &on_failure, up(), vec![container("a", 0, Exited, 1)], vec![], vec!["start a 1"]),
            ("on failure and done", &on_failure, up(), vec![container("a", 0, Exited, 0)], vec![], vec!["kill pod 30"]),
            ("first init", &init, up(), vec![], vec![], vec!["start i1 0"]),
            ("init runs", &init, up(), vec![container("i1", 0, Running, 0)], vec![], vec![]),
            ("second init", &init, up(), vec![container("i1", 0, Exited, 0)], vec![], vec!["start i2 0"]),
            ("init failed", &init, up(), vec![container("i1", 0, Exited, 1)], vec![], vec!["start i1 1"]),
            ("init done", &init, up(), vec![container("i1", 0, Exited, 0), container("i2", 0, Exited, 0)], vec![], vec!["start a 0"]),
            ("init failed for good", &init_never, up(), vec![container("i1", 0, Exited, 1)], vec![], vec!["kill pod 30"]),
            ("a sidecar not started", &sidecar, up(), vec![container("s", 0, Running, 0)], vec![], vec![]),
            (
                "a sidecar started",
                &sidecar,
                up(),
                vec![container("s", 0, Running, 0)],
                vec![("s-0", ProbeKind::Startup, true)],
                vec!["start a 0"],
            ),
            (
                "a sidecar died later",
                &sidecar,
                up(),
                vec![container("s", 0, Exited, 0), container("a", 0, Running, 0)],
                vec![],
                vec!["start s 1"],
            ),
            (
                "liveness failed",
                &live,
                up(),
                vec![container("a", 0, Running, 0)],
                vec![("a-0", ProbeKind::Liveness, false)],
                vec!["kill a-0: Container a failed liveness probe, will be restarted"],
            ),
            (
                "liveness of an older one",
                &live,
                up(),
                vec![container("a", 1, Running, 0)],
                vec![("a-0", ProbeKind::Liveness, false)],
                vec![],
            ),
            ("one to debug, beside an init container", &debugged, up(), vec![], vec![], vec!["start d 0", "start i 0"]),
            (
                "one to debug that ended",
                &debugged,
                up(),
                vec![container("d", 0, Exited, 1), container("i", 0, Exited, 0), container("a", 0, Running, 0)],
                vec![],
                vec![],
            ),
            ("past the deadline", &deadline, up(), vec![container("a", 0, Running, 0)], vec![], vec!["kill pod 30"]),
        ];
        for (what, spec, sandboxes, containers, probes, want) in table {
            assert_eq!(words(&run(&pod(spec.clone(), json!({})), sandboxes, containers, &probes)), want, "{what}");
        }
    }

    #[test]
    fn a_changed_definition_restarts() {
        let pod = pod(json!({"containers":[{"name":"a","image":"new"}]}), json!({}));
        let mut running = container("a", 0, ContainerState::Running, 0);
        running.container.annotations.insert(labels::HASH.into(), "old".into());
        assert_eq!(
            words(&run(&pod, vec![sandbox(0, true)], vec![running], &[])),
            ["kill a-0: Container a definition changed, will be restarted"]
        );
    }

    #[test]
    fn a_crashing_container_waits_and_says_so() {
        let pod = pod(json!({"containers":[{"name":"crashing","image":"i"}]}), json!({}));
        let decision = run(&pod, vec![sandbox(0, true)], vec![container("crashing", 1, ContainerState::Exited, 1)], &[]);
        assert_eq!((decision.actions.len(), decision.wake_after), (0, Some(Duration::from_secs(9))));
        let reason = crash_reason(&pod, &decision.crashing[0]);
        assert_eq!(
            (reason.reason, reason.message.as_str()),
            ("CrashLoopBackOff", "back-off 10s restarting failed container=crashing pod=p_n(u)")
        );
    }

    #[test]
    fn a_deleted_pod_is_stopped_then_removed() {
        let meta = json!({"deletionTimestamp":at(0).to_string(),"deletionGracePeriodSeconds":5});
        let pod = pod(json!({"containers":[{"name":"a","image":"i"}]}), meta);
        let running = vec![container("a", 0, ContainerState::Running, 0)];
        assert_eq!(words(&run(&pod, vec![sandbox(0, true)], running, &[])), ["kill pod 5"]);
        assert_eq!(words(&run(&pod, vec![sandbox(0, false)], vec![container("a", 0, ContainerState::Exited, 0)], &[])), ["remove"]);
    }
}
