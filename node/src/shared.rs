//! What every part of one agent works with.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::events::{EventRecorder, EventType, reference};
use wharf_core::informer::Reader;
use wharf_core::object::ObjectRef;

use crate::backoff::BackoffPolicy;
use crate::dns::ClusterDns;
use crate::fieldref::Facts;
use crate::handlers::RuntimeHandlers;
use crate::images::Images;
use crate::machine::Machine;
use crate::pod::{self, Part};
use crate::snapshot::PodRuntime;
use crate::volumes::Tokens;
use crate::worker::Handle;

/// The state of one agent.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) api: SharedApi,
    pub(crate) runtime: Arc<RuntimeHandlers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Recorder,
    pub(crate) root_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) node_ip: IpAddr,
    pub(crate) cluster_dns: Option<ClusterDns>,
    /// Volumes, `/etc/hosts` and log rotation on this machine's disk.
    pub(crate) volumes: bool,
    pub(crate) crash_backoff: BackoffPolicy,
    pub(crate) pull_backoff: BackoffPolicy,
    pub(crate) pids_limit: i64,
    pub(crate) machine: Machine,
    pub(crate) images: Images,
    pub(crate) tokens: Tokens,
    pub(crate) services: OnceCell<Reader<Service>>,
    pub(crate) pods: OnceCell<Reader<Pod>>,
    /// The runtimes' names by handler.
    pub(crate) runtime_names: OnceCell<HashMap<String, String>>,
    /// Workers by pod uid.
    pub(crate) workers: Mutex<HashMap<String, Handle>>,
}

/// Where events go, once the agent runs.
#[derive(Debug, Default)]
pub(crate) struct Recorder(std::sync::OnceLock<EventRecorder>);

impl Recorder {
    pub(crate) fn set_with(&self, make: impl FnOnce() -> EventRecorder) {
        self.0.get_or_init(make);
    }
    /// Tells of something about a pod; before the agent runs nobody listens.
    pub(crate) fn event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        if let Some(events) = self.0.get() {
            events.event(pod, kind, reason, message);
        }
    }
    pub(crate) fn recorder(&self) -> Option<&EventRecorder> {
        self.0.get()
    }
}

impl Shared {
    /// An event about one container.
    pub(crate) fn container_event(&self, pod: &Pod, container: &str, kind: EventType, reason: &str, message: String) {
        let Some(events) = self.events.recorder() else { return };
        let mut object = reference(pod);
        let part = pod.spec.as_ref().and_then(|s| pod::find(s, container)).map_or(Part::Main, |(_, part)| part);
        object.field_path = Some(format!("spec.{}{{{container}}}", part.field()));
        events.event_ref(object, kind, reason, message);
    }

    /// The name of the runtime that a pod runs on.
    pub(crate) fn runtime_name(&self, runtime: &PodRuntime) -> &str {
        self.runtime_names.get().and_then(|names| names.get(runtime.handler())).map_or("wharf", String::as_str)
    }

    /// Whether probes and hooks run: the pod's runtime has real processes.
    pub(crate) fn probing(&self, runtime: &PodRuntime) -> bool {
        self.runtime.capabilities_of(runtime.handler()).processes
    }

    pub(crate) fn facts(&self, pod: &Pod, ips: &[IpAddr]) -> Facts {
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let pod_ips = if host_network { vec![self.node_ip.to_string()] } else { ips.iter().map(ToString::to_string).collect() };
        Facts { pod_ips, host_ip: self.node_ip.to_string(), cpu_milli: self.machine.cpu_milli(), memory: self.machine.memory_bytes() }
    }

    /// The pod as the API server last told.
    pub(crate) fn known_pod(&self, key: &ObjectRef, uid: &str) -> Option<Arc<Pod>> {
        self.pods.get()?.get(key).filter(|p| pod::uid(p) == uid)
    }

    /// `LOG_DIR/NAMESPACE_NAME_UID`.
    pub(crate) fn pod_log_dir(&self, pod: &Pod) -> PathBuf {
        self.log_dir.join(format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod)))
    }
    /// `ROOT/pods/UID`.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }
}
