//! Builds what was chosen, and takes it away again.

#[cfg(feature = "containerd")]
mod containerd;
#[cfg(feature = "etcd")]
mod etcd;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf::core::clock::SystemClock;
use wharf::core::proxy::SharedProxy;
use wharf::core::runtime::{PodNetwork, PodSandboxFilter, SharedRuntime};
use wharf::core::store::SharedStore;
use wharf::network::BridgeNetwork;
use wharf::proxy_iptables::IptablesProxy;
use wharf::runtime_hollow::HollowRuntime;
use wharf::runtime_youki::YoukiRuntime;
use wharf::store_memory::MemoryStore;
use wharf::store_redb::{RedbOptions, RedbStore};
use wharf::{Cluster, NodeSpec};

use crate::Outcome;
use crate::image;
use crate::options::{Choice, Options, Proxy, Runtime, Store};

/// Where pods' addresses come from.
const POD_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);

/// The objects of a smoke story, which begins with none.
const STORY: &str = "smoke-store";
const KUBELET: &str = "kubelet";
const LOGS: &str = "logs";

/// The objects of a smoke story: durable, but its own, so that it begins with none and leaves none.
pub struct Story {
    store: RedbStore,
    folder: PathBuf,
}

impl Story {
    async fn begin(choice: &Choice) -> Outcome<Self> {
        let folder = choice.data.join(STORY);
        remove(&folder)?;
        let store = RedbStore::open(&folder, RedbOptions::default(), SystemClock::shared()).await?;
        Ok(Self { store, folder })
    }

    /// Closes and removes them.
    pub async fn end(self) -> Outcome {
        self.store.close().await?;
        Ok(remove(&self.folder)?)
    }
}

/// Unmounts whatever is mounted in a folder of ours.
fn unmount_in(folder: &Path) -> std::io::Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let inside = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| Path::new(path).starts_with(&folder));
    // The last mounted goes first.
    for path in inside.collect::<Vec<_>>().into_iter().rev() {
        nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Removes a folder of ours.
fn remove(folder: &Path) -> std::io::Result<()> {
    unmount_in(folder)?;
    if folder.exists() { std::fs::remove_dir_all(folder) } else { Ok(()) }
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
    runtime: SharedRuntime,
    /// Ours to take away when the runtime is youki; behind a CRI socket it is the runtime's own.
    youki: Option<(Arc<YoukiRuntime>, Arc<BridgeNetwork>)>,
}

/// The story's objects, if a story is played on the durable store.
pub async fn story(options: &Options, choice: &Choice) -> Outcome<Option<Story>> {
    if options.smoke && choice.store == Store::Redb { Ok(Some(Story::begin(choice).await?)) } else { Ok(None) }
}

/// The store that was chosen; `None` leaves the cluster that of its data folder.
pub async fn store(options: &Options, choice: &Choice, story: Option<&Story>) -> Outcome<Option<SharedStore>> {
    if let Some(story) = story {
        return Ok(Some(Arc::new(story.store.clone())));
    }
    match choice.store {
        Store::Redb => Ok(None),
        Store::Memory => Ok(Some(Arc::new(MemoryStore::new()))),
        #[cfg(feature = "etcd")]
        Store::Etcd => Ok(Some(etcd::connect(&options.etcd_endpoints).await?)),
        #[cfg(not(feature = "etcd"))]
        Store::Etcd => Err(format!("this build cannot reach {}", options.etcd_endpoints.join(", ")).into()),
    }
}

impl Parts {
    /// Adds the chosen nodes to a cluster.
    pub async fn add(&mut self, cluster: &Cluster, options: &Options, choice: &Choice) -> Outcome {
        match choice.runtime {
            Runtime::Youki => self.add_youki(cluster, options, choice).await?,
            #[cfg(feature = "containerd")]
            Runtime::Containerd => self.add_containerd(cluster, options, choice).await?,
            #[cfg(not(feature = "containerd"))]
            Runtime::Containerd => return Err(format!("this build cannot reach {}", options.runtime_endpoint).into()),
            Runtime::Hollow => {}
        }
        for index in 0..choice.hollow {
            let runtime: SharedRuntime = Arc::new(HollowRuntime::new());
            let name = match &options.node_name {
                Some(name) => format!("{name}-hollow-{index}"),
                None => format!("hollow-{index}"),
            };
            cluster.add_node(NodeSpec::hollow(name, runtime)).await?;
        }
        Ok(())
    }

    async fn add_youki(&mut self, cluster: &Cluster, options: &Options, choice: &Choice) -> Outcome {
        let (address, prefix) = match options.pod_cidr {
            None => POD_RANGE,
            Some(ipnet::IpNet::V4(range)) => (range.network(), range.prefix_len()),
            Some(range) => return Err(format!("--pod-cidr {range}: the pod network has IPv4 addresses only").into()),
        };
        let network = BridgeNetwork::builder(address, prefix, choice.data.join("network")).bridge(&options.bridge).build()?;
        let network = Arc::new(network);
        let runtime = YoukiRuntime::builder(choice.data.join("runtime")).network(network.clone()).build().await?;
        let runtime = Arc::new(runtime);
        self.real = Some(Real { node: node_name(options), runtime: runtime.clone(), youki: Some((runtime.clone(), network.clone())) });

        let layout = demo_image(choice).await?;
        runtime.images().import_oci_layout(&layout, None).await?;
        tokio::fs::remove_dir_all(&layout).await?;
        self.add_node(cluster, choice, IpAddr::V4(network.gateway()), Some(network.range().into())).await
    }

    #[cfg(feature = "containerd")]
    async fn add_containerd(&mut self, cluster: &Cluster, options: &Options, choice: &Choice) -> Outcome {
        let runtime = containerd::connect(&options.runtime_endpoint).await?;
        self.real = Some(Real { node: node_name(options), runtime, youki: None });
        let layout = demo_image(choice).await?;
        containerd::import(&options.runtime_endpoint, &layout).await?;
        tokio::fs::remove_dir_all(&layout).await?;
        self.add_node(cluster, choice, containerd::node_address()?, options.pod_cidr).await
    }

    /// Adds the node of the real runtime, with the chosen proxy.
    async fn add_node(&mut self, cluster: &Cluster, choice: &Choice, address: IpAddr, pods: Option<ipnet::IpNet>) -> Outcome {
        let Some(real) = &self.real else { return Ok(()) };
        let (volumes, logs) = (choice.data.join(KUBELET), choice.data.join(LOGS));
        let mut node = NodeSpec::new(real.node.clone(), real.runtime.clone(), volumes, logs).addresses([address]).pod_cidrs(pods);
        let proxy: Option<SharedProxy> = match choice.proxy {
            Proxy::Iptables => Some(Arc::new(IptablesProxy::detect()?)),
            #[cfg(feature = "ipvs")]
            Proxy::Ipvs => Some(Arc::new(wharf::proxy_ipvs::IpvsProxy::detect()?)),
            #[cfg(not(feature = "ipvs"))]
            Proxy::Ipvs => return Err("this build has no IPVS proxy".into()),
            Proxy::None => None,
        };
        if let Some(proxy) = proxy {
            self.proxy = Some(proxy.clone());
            node = node.proxy(proxy);
        }
        cluster.add_node(node).await?;
        Ok(())
    }

    /// The node with real containers.
    pub fn real(&self) -> Option<(String, SharedRuntime)> {
        self.real.as_ref().map(|real| (real.node.clone(), real.runtime.clone()))
    }

    /// Takes everything away: containers, shims, mounts, interfaces, rules. What is kept is worth keeping: images and keys.
    /// So are the pods' volumes and logs while the pods are: they are in the store.
    pub async fn remove(self, choice: &Choice) -> Outcome {
        let mut failed = Vec::new();
        if let Some(real) = self.real {
            if let Err(error) = remove_sandboxes(&real.runtime).await {
                failed.push(format!("containers: {error}"));
            }
            if let Some((youki, network)) = real.youki {
                if let Err(error) = youki.remove_all().await {
                    failed.push(format!("runtime: {error}"));
                }
                if let Err(error) = network.shutdown().await {
                    failed.push(format!("network: {error}"));
                }
            }
            for folder in [KUBELET, LOGS] {
                let path = choice.data.join(folder);
                let done = if choice.forgets { remove(&path) } else { unmount_in(&path) };
                if let Err(error) = done {
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

/// Through the trait alone, so that it is right for every runtime.
async fn remove_sandboxes(runtime: &SharedRuntime) -> Outcome {
    for sandbox in runtime.list_pod_sandbox(&PodSandboxFilter::default()).await? {
        runtime.stop_pod_sandbox(&sandbox.id).await?;
        runtime.remove_pod_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Writes the demo image as an OCI layout.
async fn demo_image(choice: &Choice) -> Outcome<PathBuf> {
    let layout = choice.data.join("demo-image");
    let made = layout.clone();
    tokio::task::spawn_blocking(move || image::write_layout(&made)).await??;
    Ok(layout)
}

fn node_name(options: &Options) -> String {
    if let Some(name) = &options.node_name {
        return name.clone();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    // A node's name is a DNS name.
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    if good { name } else { "node".into() }
}
