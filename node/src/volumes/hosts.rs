//! The `/etc/hosts` of a pod.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use super::{VolumeError, blocking, io};
use crate::shared::Shared;
use crate::snapshot::PodRuntime;
use crate::{dns, pod};

const HEADER: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
/// Most bytes taken over from the host's file.
const MAX_HOSTS: usize = 1 << 20;

/// The file's text; `host` is the host's own file.
fn text(pod: &Pod, ips: &[String], domain: &str, host: &str) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut out = if spec.host_network == Some(true) { format!("{HOST_HEADER}{host}") } else { HEADER.to_string() };
    if spec.host_network != Some(true) {
        let names = match dns::fqdn(pod, domain) {
            Some(fqdn) => format!("{fqdn}\t{}", dns::hostname(pod)),
            None => dns::hostname(pod),
        };
        for ip in ips {
            out.push_str(&format!("{ip}\t{names}\n"));
        }
    }
    if let Some(aliases) = spec.host_aliases.filter(|a| !a.is_empty()) {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
        }
    }
    out
}

/// Writes the file; every start of a container writes it anew, so that nothing a container added grows without end.
pub(super) async fn write(shared: &Shared, pod: &Pod, path: PathBuf) -> Result<PathBuf, VolumeError> {
    let fault = |_| VolumeError::Interrupted { volume: "etc-hosts".into() };
    let runtime = PodRuntime::read(&*shared.runtime, &shared.name, pod::uid(pod)).await.map_err(fault)?;
    let ips: Vec<String> = runtime.ips.iter().map(ToString::to_string).collect();
    let domain = shared.cluster_dns.as_ref().map_or("cluster.local", |d| d.domain.as_str()).to_string();
    let pod = pod.clone();
    blocking("etc-hosts", move || {
        let host = std::fs::read("/etc/hosts").unwrap_or_default();
        let host = String::from_utf8_lossy(&host[..host.len().min(MAX_HOSTS)]).into_owned();
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io("etc-hosts", dir))?;
        }
        // In place: other containers of the pod have this very file mounted.
        std::fs::write(&path, text(&pod, &ips, &domain, &host)).map_err(io("etc-hosts", &path))?;
        Ok(path)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_the_pod_and_its_aliases() {
        let spec = json!({"containers":[],"subdomain":"db","hostAliases":[{"ip":"1.2.3.4","hostnames":["x","y"]}]});
        let pod: Pod = serde_json::from_value(json!({"metadata":{"name":"p","namespace":"n"},"spec":spec})).unwrap();
        let made = text(&pod, &["10.0.0.7".into()], "cluster.local", "");
        assert!(made.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(made.contains("10.0.0.7\tp.db.n.svc.cluster.local\tp\n"));
        assert!(made.ends_with("1.2.3.4\tx\ty\n"));
    }
}
