//! Containers held by containerd.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;
use wharf::core::clock::SystemClock;
use wharf::core::runtime::SharedRuntime;
use wharf::runtime_containerd::{ContainerdOptions, ContainerdRuntime};

use crate::Outcome;

/// containerd's namespace for what comes through CRI.
const NAMESPACE: &str = "k8s.io";

/// Whose the pods are: those of a mini-cluster that was killed are taken over by the next.
const OWNER: &str = "mini-cluster";

/// Reaches the runtime, or says why not.
pub async fn connect(endpoint: &str) -> Outcome<SharedRuntime> {
    Ok(Arc::new(ContainerdRuntime::connect(endpoint, ContainerdOptions::new(OWNER), SystemClock::shared()).await?))
}

/// Gives it the images of an OCI layout. CRI can only pull, so this takes containerd's own program.
pub async fn import(endpoint: &str, layout: &Path) -> Outcome {
    let archive = layout.with_extension("tar");
    let (from, to) = (layout.to_owned(), archive.clone());
    tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(std::fs::File::create(to)?);
        tar.sparse(false);
        tar.append_dir_all(".", from)?;
        tar.finish()
    })
    .await??;
    let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let output = Command::new("ctr")
        .args(["--address", socket, "--namespace", NAMESPACE, "images", "import"])
        .arg(&archive)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("cannot run ctr, which puts the demo image into containerd: {e}; it comes with the package containerd"))?;
    tokio::fs::remove_file(&archive).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ctr cannot import the demo image: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// The address by which this machine leaves towards others; loopback when it has no way out. Nothing is sent.
pub fn node_address() -> Outcome<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // 192.0.2.0/24 is for documentation: no one is there.
    let way_out = socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| socket.local_addr());
    Ok(way_out.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip()))
}
