//! Builds what was chosen, and takes it away again.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use wharf::core::proxy::SharedProxy;
use wharf::core::runtime::{PodNetwork, Runtime as RuntimeTrait, SharedRuntime};
use wharf::network::BridgeNetwork;
use wharf::proxy_iptables::IptablesProxy;
use wharf::runtime_hollow::HollowRuntime;
use wharf::runtime_youki::YoukiRuntime;
use wharf::{Cluster, NodeSpec};

use crate::Outcome;
use crate::image;
use crate::options::{Choice, Proxy, Runtime};

/// Where pods' addresses come from.
const POD_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);

const KUBELET: &str = "kubelet";
const LOGS: &str = "logs";

/// Removes a folder of ours and whatever is mounted in it.
fn remove_mounted(folder: &Path) -> std::io::Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let inside = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| Path::new(path).starts_with(&folder));
    // The last mounted goes first.
    for path in inside.collect::<Vec<_>>().into_iter().rev() {
        nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH)?;
    }
    std::fs::remove_dir_all(folder)
}

/// Whether the iptables program is on this machine.
pub fn has_iptables() -> bool {
    let folders = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    folders.iter().any(|folder| Path::new(folder).join("iptables-restore").exists())
}

/// What outlives the cluster's own tasks and has to be taken away.
#[derive(Default)]
pub struct Parts {
    real: Option<Real>,
    proxy: Option<SharedProxy>,
}

struct Real {
    node: String,
    runtime: Arc<YoukiRuntime>,
    network: Arc<BridgeNetwork>,
}

impl Parts {
    /// Adds the chosen nodes to a cluster.
    pub async fn add(&mut self, cluster: &Cluster, choice: &Choice) -> Outcome {
        if choice.runtime == Runtime::Youki {
            self.add_real(cluster, choice).await?;
        }
        for index in 0..choice.hollow {
            let runtime: SharedRuntime = Arc::new(HollowRuntime::new());
            cluster.add_node(NodeSpec::hollow(format!("hollow-{index}"), runtime)).await?;
        }
        Ok(())
    }

    async fn add_real(&mut self, cluster: &Cluster, choice: &Choice) -> Outcome {
        let (address, prefix) = POD_RANGE;
        let network = Arc::new(BridgeNetwork::builder(address, prefix, choice.data.join("network")).build()?);
        let gateway = IpAddr::V4(network.gateway());
        let runtime = YoukiRuntime::builder(choice.data.join("runtime")).network(network.clone()).build().await?;
        let runtime = Arc::new(runtime);
        let name = hostname();
        self.real = Some(Real { node: name.clone(), runtime: runtime.clone(), network: network.clone() });

        let layout = choice.data.join("demo-image");
        let made = layout.clone();
        tokio::task::spawn_blocking(move || image::write_layout(&made)).await??;
        runtime.images().import_oci_layout(&layout, None).await?;
        tokio::fs::remove_dir_all(&layout).await?;

        let mut node = NodeSpec::new(name, runtime, choice.data.join(KUBELET), choice.data.join(LOGS))
            .addresses([gateway])
            .pod_cidrs([network.range().into()]);
        if choice.proxy == Proxy::Iptables {
            let proxy: SharedProxy = Arc::new(IptablesProxy::detect()?);
            self.proxy = Some(proxy.clone());
            node = node.proxy(proxy);
        }
        cluster.add_node(node).await?;
        Ok(())
    }

    /// The node with real containers.
    pub fn real(&self) -> Option<(String, Arc<dyn RuntimeTrait>)> {
        self.real.as_ref().map(|real| (real.node.clone(), real.runtime.clone() as Arc<dyn RuntimeTrait>))
    }

    /// Takes everything away: containers, shims, mounts, interfaces, rules. What is kept is worth keeping: images and keys.
    pub async fn remove(self, data: &Path) -> Outcome {
        let mut failed = Vec::new();
        if let Some(real) = self.real {
            if let Err(error) = real.runtime.remove_all().await {
                failed.push(format!("containers: {error}"));
            }
            if let Err(error) = real.network.shutdown().await {
                failed.push(format!("network: {error}"));
            }
            // The pods are gone with the store, and so are their volumes and logs.
            for folder in [KUBELET, LOGS] {
                if let Err(error) = remove_mounted(&data.join(folder)) {
                    failed.push(format!("{folder}: {error}"));
                }
            }
        }
        if let Some(proxy) = self.proxy
            && let Err(error) = proxy.teardown().await
        {
            failed.push(format!("service rules: {error}"));
        }
        if failed.is_empty() { Ok(()) } else { Err(format!("something stayed behind: {}", failed.join("; ")).into()) }
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    // A node's name is a DNS name.
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    if good { name } else { "node".into() }
}
