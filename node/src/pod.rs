//! Questions about a pod's spec that many parts ask.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// Grace of a pod that names none.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// What a container is given after its preStop hook has used up the grace.
pub(crate) const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// What to do when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn parse(text: &str) -> Self {
        match text {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }
    pub(crate) fn restarts_after(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

pub(crate) fn pod_policy(spec: &PodSpec) -> RestartPolicy {
    RestartPolicy::parse(spec.restart_policy.as_deref().unwrap_or("Always"))
}

/// The policy of a container: its own, or the pod's.
pub(crate) fn policy_of(spec: &PodSpec, container: &Container) -> RestartPolicy {
    container.restart_policy.as_deref().map_or_else(|| pod_policy(spec), RestartPolicy::parse)
}

/// An init container that keeps running beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The containers that came later, to look into the pod: like others, but that they lack most fields.
pub(crate) fn ephemeral_containers(spec: &PodSpec) -> impl Iterator<Item = Container> + '_ {
    spec.ephemeral_containers.iter().flatten().map(as_container)
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let c = ephemeral.clone();
    Container {
        name: c.name,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        command: c.command,
        args: c.args,
        working_dir: c.working_dir,
        env: c.env,
        env_from: c.env_from,
        volume_mounts: c.volume_mounts,
        volume_devices: c.volume_devices,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        ..Container::default()
    }
}

/// Which list of its pod a container is in, by the name of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Init,
    Ephemeral,
}

impl Part {
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Main => "containers",
            Self::Init => "initContainers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// A container of the pod by name, and where it is.
pub(crate) fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<(Cow<'a, Container>, Part)> {
    let in_list = |list: &'a [Container], part| list.iter().find(|c| c.name == name).map(|c| (Cow::Borrowed(c), part));
    in_list(&spec.containers, Part::Main)
        .or_else(|| in_list(init_containers(spec), Part::Init))
        .or_else(|| ephemeral_containers(spec).find(|c| c.name == name).map(|c| (Cow::Owned(c), Part::Ephemeral)))
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}
/// `name_namespace(uid)`, as the kubelet names pods in messages.
pub(crate) fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}
pub(crate) fn is_terminal_phase(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// How long its containers have to stop.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let asked = pod.metadata.deletion_grace_period_seconds.filter(|_| is_terminating(pod));
    let seconds = asked.or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds));
    seconds.map_or(DEFAULT_GRACE, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0).max(1)))
}

/// The pod's quality of service.
pub(crate) fn qos(pod: &Pod) -> &'static str {
    use wharf_core::quantity::Quantity;
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.containers.iter().chain(init_containers(spec)) {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
        for resource in ["cpu", "memory"] {
            let amount = |map: &std::collections::BTreeMap<String, _>| {
                map.get(resource).and_then(|q| Quantity::try_from(q).ok()).filter(|q| !q.is_zero())
            };
            let (limit, request) = (amount(&limits), amount(&requests));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
