//! Sandboxes.

use k8s_cri::v1;
use wharf_core::runtime::{
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxState, PodSandboxStatus, Protocol, RuntimeResult,
};

use super::{namespace_options, time};
use crate::owner::{self, Owner};

/// A sandbox's configuration, marked as ours. `privileged` says whether a privileged container may be in it.
pub(crate) fn sandbox_config(config: &PodSandboxConfig, owner: &Owner, privileged: bool) -> RuntimeResult<v1::PodSandboxConfig> {
    let port = |mapping: &wharf_core::runtime::PortMapping| v1::PortMapping {
        protocol: match mapping.protocol {
            Protocol::Tcp => v1::Protocol::Tcp.into(),
            Protocol::Udp => v1::Protocol::Udp.into(),
            Protocol::Sctp => v1::Protocol::Sctp.into(),
        },
        container_port: mapping.container_port.into(),
        host_port: mapping.host_port.into(),
        host_ip: mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: config.metadata.name.clone(),
            uid: config.metadata.uid.clone(),
            namespace: config.metadata.namespace.clone(),
            attempt: config.metadata.attempt,
        }),
        hostname: config.hostname.clone(),
        log_directory: config.log_directory.to_string_lossy().into_owned(),
        dns_config: config.dns_config.as_ref().map(|dns| v1::DnsConfig {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        port_mappings: config.port_mappings.iter().map(port).collect(),
        labels: owner.labels(&config.labels, &config.metadata.uid)?,
        annotations: owner::sandbox_annotations(config)?,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespace_options(&config.namespace_options)),
                privileged,
                ..Default::default()
            }),
            sysctls: config.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        windows: None,
    })
}

pub(crate) fn sandbox_filter(filter: &PodSandboxFilter, owner: &Owner) -> Option<v1::PodSandboxFilter> {
    let state = |state: PodSandboxState| match state {
        PodSandboxState::Ready => v1::PodSandboxState::SandboxReady.into(),
        PodSandboxState::NotReady => v1::PodSandboxState::SandboxNotready.into(),
    };
    Some(v1::PodSandboxFilter {
        id: filter.id.clone().unwrap_or_default(),
        state: filter.state.map(|s| v1::PodSandboxStateValue { state: state(s) }),
        label_selector: owner.selector(&filter.label_selector)?,
    })
}

fn state(state: i32) -> PodSandboxState {
    if state == i32::from(v1::PodSandboxState::SandboxReady) { PodSandboxState::Ready } else { PodSandboxState::NotReady }
}

fn metadata(metadata: Option<v1::PodSandboxMetadata>) -> PodSandboxMetadata {
    let metadata = metadata.unwrap_or_default();
    PodSandboxMetadata { name: metadata.name, uid: metadata.uid, namespace: metadata.namespace, attempt: metadata.attempt }
}

pub(crate) fn sandbox(item: v1::PodSandbox) -> PodSandbox {
    PodSandbox {
        id: item.id,
        metadata: metadata(item.metadata),
        state: state(item.state),
        created_at: time(item.created_at).unwrap_or_default(),
        labels: owner::visible_labels(item.labels),
        annotations: owner::visible_annotations(item.annotations),
        runtime_handler: item.runtime_handler,
    }
}

pub(crate) fn sandbox_status(status: v1::PodSandboxStatus) -> PodSandboxStatus {
    let config = owner::sandbox_config(&status.annotations);
    let network = status.network.unwrap_or_default();
    let addresses = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    let sandbox = PodSandbox {
        id: status.id,
        metadata: metadata(status.metadata),
        state: state(status.state),
        created_at: time(status.created_at).unwrap_or_default(),
        labels: owner::visible_labels(status.labels),
        annotations: owner::visible_annotations(status.annotations),
        runtime_handler: status.runtime_handler,
    };
    let mut config = config.unwrap_or_else(|| PodSandboxConfig { metadata: sandbox.metadata.clone(), ..PodSandboxConfig::default() });
    config.labels = sandbox.labels.clone();
    config.annotations = sandbox.annotations.clone();
    PodSandboxStatus { sandbox, ips: addresses.filter_map(|ip| ip.parse().ok()).collect(), config }
}

#[cfg(test)]
mod tests {
    use wharf_core::runtime::{NamespaceMode, PortMapping};

    use super::*;

    #[test]
    fn a_configuration_arrives_and_comes_back() {
        let owner = Owner::new("me").unwrap();
        let mut config = PodSandboxConfig { hostname: "h".into(), cgroup_parent: "/p".into(), ..PodSandboxConfig::default() };
        config.metadata = PodSandboxMetadata { name: "n".into(), uid: "u".into(), namespace: "ns".into(), attempt: 2 };
        config.namespace_options.network = NamespaceMode::Node;
        config.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
        config.labels.insert("a".into(), "b".into());
        config.port_mappings.push(PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: "127.0.0.1".parse().ok(),
        });
        let sent = sandbox_config(&config, &owner, true).unwrap();
        let linux = sent.linux.clone().unwrap();
        assert_eq!(linux.cgroup_parent, "/p");
        assert_eq!(linux.sysctls["net.ipv4.ip_forward"], "1");
        let security = linux.security_context.unwrap();
        assert!(security.privileged);
        assert_eq!(security.namespace_options.unwrap().network, i32::from(v1::NamespaceMode::Node));
        assert_eq!((sent.port_mappings[0].protocol, sent.port_mappings[0].host_ip.as_str()), (1, "127.0.0.1"));
        let status = sandbox_status(v1::PodSandboxStatus {
            id: "x".into(),
            metadata: sent.metadata,
            labels: sent.labels,
            annotations: sent.annotations,
            network: Some(v1::PodSandboxNetworkStatus { ip: "10.0.0.1".into(), additional_ips: vec![v1::PodIp { ip: "fd00::1".into() }] }),
            ..Default::default()
        });
        assert_eq!(status.config, config);
        assert_eq!(status.sandbox.labels, config.labels);
        assert_eq!(status.ips.len(), 2);
    }
}
