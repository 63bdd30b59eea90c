//! The Node object and its Lease.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeRuntimeHandler, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use wharf_core::api::{ApiError, ApiExt, PatchKind};
use wharf_core::object::ObjectRef;
use wharf_core::runtime::RuntimeService;

use crate::machine;
use crate::shared::Shared;

/// What the node says it runs.
pub const KUBELET_VERSION: &str = "v1.36.0-wharf";
/// How often the lease is renewed and the status looked at.
pub const STATUS_UPDATE_PERIOD: Duration = Duration::from_secs(10);
/// How often the status is written when nothing changed.
pub const STATUS_REPORT_PERIOD: Duration = Duration::from_secs(300);
/// How long a lease holds without renewal.
pub const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node's own view of itself.
#[derive(Debug, Default)]
pub(crate) struct Registration {
    written: Option<(NodeStatus, Timestamp)>,
    uid: Option<String>,
}

impl Registration {
    /// Registers, or brings the node up to date.
    pub(crate) async fn register(&mut self, shared: &Shared, labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
        let status = status(shared, None).await;
        let node = Node {
            metadata: ObjectMeta { name: Some(shared.name.to_string()), labels: Some(labels.clone()), ..ObjectMeta::default() },
            status: Some(status.clone()),
            ..Node::default()
        };
        let made = match shared.api.create(&node).await {
            Ok(made) => made,
            Err(error) if error.is_already_exists() => {
                let key = ObjectRef::new("", &*shared.name);
                let patch = serde_json::json!({"metadata": {"labels": labels}});
                shared.api.patch::<Node>(&key, "", PatchKind::Merge, &patch).await?
            }
            Err(error) => return Err(error),
        };
        self.uid = made.metadata.uid.clone();
        self.written = made.status.clone().map(|s| (s, Timestamp::UNIX_EPOCH));
        self.report(shared).await
    }

    /// Writes the status if it changed, or if that was long ago.
    pub(crate) async fn report(&mut self, shared: &Shared) -> Result<(), ApiError> {
        let now = shared.clock.now();
        let fresh = status(shared, self.written.as_ref().map(|(s, _)| s)).await;
        if let Some((old, at)) = &self.written
            && same(old, &fresh)
            && crate::backoff::elapsed(*at, now) < STATUS_REPORT_PERIOD
        {
            return Ok(());
        }
        let key = ObjectRef::new("", &*shared.name);
        let patch = serde_json::json!({"status": {
            "capacity": fresh.capacity, "allocatable": fresh.allocatable, "addresses": fresh.addresses,
            "conditions": fresh.conditions, "nodeInfo": fresh.node_info, "runtimeHandlers": fresh.runtime_handlers,
        }});
        // Strategic, so that conditions which others own stay.
        shared.api.patch::<Node>(&key, "status", PatchKind::Strategic, &patch).await?;
        self.written = Some((fresh, now));
        Ok(())
    }

    /// Renews the lease, creating it at first.
    pub(crate) async fn renew(&self, shared: &Shared) -> Result<(), ApiError> {
        let now = MicroTime(shared.clock.now());
        let key = ObjectRef::new(LEASE_NAMESPACE, &*shared.name);
        let patch = serde_json::json!({"spec": {"renewTime": now, "holderIdentity": &*shared.name, "leaseDurationSeconds": LEASE_SECONDS}});
        match shared.api.patch::<Lease>(&key, "", PatchKind::Merge, &patch).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let owner = self.uid.clone().map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: shared.name.to_string(),
            uid,
            ..OwnerReference::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(shared.name.to_string()),
                namespace: Some(LEASE_NAMESPACE.into()),
                owner_references: owner.map(|o| vec![o]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(shared.name.to_string()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        shared.api.create(&lease).await.map(|_| ())
    }
}

/// The node's labels: the well-known ones under those that were given.
pub(crate) fn labels(name: &str, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine::architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine::architecture()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .collect();
    all.extend(given.clone());
    all
}

async fn status(shared: &Shared, old: Option<&NodeStatus>) -> NodeStatus {
    let now = shared.clock.now();
    let (version, trouble) = match (shared.runtime.version().await, shared.runtime.status().await) {
        (Ok(version), Ok(status)) => {
            let faults: Vec<String> =
                status.conditions.iter().filter(|c| !c.status).map(|c| format!("{}: {} {}", c.r#type, c.reason, c.message)).collect();
            (format!("{}://{}", version.runtime_name, version.runtime_version), (!faults.is_empty()).then(|| faults.join("; ")))
        }
        (Err(error), _) | (_, Err(error)) => (String::new(), Some(format!("container runtime is down: {error}"))),
    };
    let ready = match trouble {
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_string()),
        Some(trouble) => ("Ready", false, "KubeletNotReady", trouble),
    };
    let wanted = [
        ("MemoryPressure", false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available".to_string()),
        ("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_string()),
        ("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_string()),
        ready,
    ];
    let conditions = wanted
        .into_iter()
        .map(|(kind, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let known = old.and_then(|o| o.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == kind));
            let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since.unwrap_or(Time(now))),
            }
        })
        .collect();
    let machine = &shared.machine;
    let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
    let handler = |name: &str| NodeRuntimeHandler { name: Some(name.to_owned()), features: None };
    let handlers: Vec<NodeRuntimeHandler> = shared.runtime.names().map(handler).collect();
    NodeStatus {
        // The default alone goes without saying.
        runtime_handlers: (handlers.len() > 1).then_some(handlers),
        capacity: Some(machine.capacity.clone()),
        allocatable: Some(machine.capacity.clone()),
        addresses: Some(vec![address("InternalIP", shared.node_ip.to_string()), address("Hostname", shared.name.to_string())]),
        conditions: Some(conditions),
        node_info: Some(NodeSystemInfo {
            architecture: machine::architecture().into(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: version,
            kernel_version: machine.kernel.clone(),
            kubelet_version: KUBELET_VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// Whether two statuses say the same, whenever they were said.
fn same(old: &NodeStatus, new: &NodeStatus) -> bool {
    let said = |s: &NodeStatus| {
        let all = s.conditions.iter().flatten();
        all.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone())).collect::<Vec<_>>()
    };
    let known = said(old);
    said(new).iter().all(|c| known.contains(c))
        && old.capacity == new.capacity
        && old.allocatable == new.allocatable
        && old.addresses == new.addresses
        && old.node_info == new.node_info
        && old.runtime_handlers == new.runtime_handlers
}
