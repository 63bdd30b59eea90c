//! What can be chosen, and what is chosen when nothing is said.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  mini-cluster                                   a cluster on https://127.0.0.1:6443, until Ctrl-C
  mini-cluster --smoke                           play a whole story, exit 0 or 1
  mini-cluster --nodes 100                       a hundred hollow nodes besides the real one
  mini-cluster --runtime hollow --nodes 5        no containers at all; needs no root
  mini-cluster --listen 127.0.0.1:0 --kubeconfig /tmp/kc --data /tmp/wharf
  mini-cluster --store memory                    objects are gone when it ends
  mini-cluster --keep-running                    containers go on after Ctrl-C, and the next start adopts them
  mini-cluster --proxy ipvs                      Services through the kernel's virtual servers
  mini-cluster --store etcd --etcd-endpoints http://127.0.0.1:2379
  mini-cluster --store etcd --node-name second --listen 127.0.0.1:0 --data /tmp/second --runtime hollow \\
      --encryption-key-file /var/lib/wharf/encryption-key
                                                 a second process of the same cluster: one of the two leads
  mini-cluster --runtime containerd --runtime-endpoint unix:///run/containerd/containerd.sock

Those with etcd or containerd need a build with the feature of that name, and building those needs protoc:
  cargo run --release --features etcd,containerd --example mini-cluster -- --store etcd

Then, in another terminal:
  export KUBECONFIG=...                          the path that mini-cluster printed
  kubectl get nodes -o wide
";

/// Where containerd listens when nothing else was said to it.
const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";
/// Where etcd listens when nothing else was said to it.
const ETCD: &str = "http://127.0.0.1:2379";

/// A Kubernetes cluster in one process, on this machine.
#[derive(Debug, Parser)]
#[command(name = "mini-cluster", version, after_help = EXAMPLES)]
pub struct Options {
    /// Where the API server listens; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Where to write the kubeconfig [default: kubeconfig in the data folder].
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// Where objects, images, containers' state, keys and certificates are kept [default: /var/lib/wharf as root, ~/.local/share/wharf otherwise].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where objects are stored.
    #[arg(long, value_enum, default_value_t = Store::Redb)]
    pub store: Store,
    /// The keys that Secrets are encrypted with in the store, made if there are none. Processes that share a store need the same
    /// [default: encryption-key in the data folder].
    #[arg(long, value_name = "PATH")]
    pub encryption_key_file: Option<PathBuf>,
    /// Do not encrypt Secrets in the store.
    #[arg(long, conflicts_with = "encryption_key_file")]
    pub secrets_in_plain_text: bool,
    /// On Ctrl-C leave containers, their network and the rules of Services as they are, for the next start to take over.
    #[arg(long, conflicts_with = "smoke")]
    pub keep_running: bool,
    /// etcd's client URLs.
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = ETCD)]
    pub etcd_endpoints: Vec<String>,
    /// What runs containers [default: youki as root, hollow otherwise].
    #[arg(long, value_enum)]
    pub runtime: Option<Runtime>,
    /// The CRI socket of `--runtime containerd`.
    #[arg(long, value_name = "unix://PATH", default_value = CONTAINERD)]
    pub runtime_endpoint: String,
    /// What makes Services reachable [default: iptables with real containers, none otherwise].
    #[arg(long, value_enum)]
    pub proxy: Option<Proxy>,
    /// Where pods' addresses come from [default: 10.244.0.0/16]. With `--runtime containerd` its CNI configuration decides, but the
    /// proxy has to know [default: traffic from pods is not told from other traffic].
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<ipnet::IpNet>,
    /// The bridge that pods are on, with `--runtime youki`. Two processes on one machine need different ones.
    #[arg(long, value_name = "NAME", default_value = wharf::network::DEFAULT_BRIDGE)]
    pub bridge: String,
    /// How this process and its nodes are called among those that share a store [default: the machine's name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Hollow nodes, besides the real one [default: 0 with real containers, 3 otherwise].
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// Play a whole story unattended, print a line a step, and exit 0 or 1.
    #[arg(long)]
    pub smoke: bool,
    /// How long the story's servers serve on after they were told to end. The proxy must hear of it in that time, which a slow
    /// machine may not manage in a second.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub smoke_drain: u16,
}

/// A choice of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// In the data folder, durably.
    Redb,
    /// In memory: gone when the process ends.
    Memory,
    /// In etcd v3.
    Etcd,
}

/// A choice of runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// Real containers; needs root.
    Youki,
    /// Real containers held by containerd or another runtime behind a CRI socket.
    Containerd,
    /// Containers that only pretend.
    Hollow,
}

/// A choice of service proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// Packet-filter rules; needs root and the iptables program.
    Iptables,
    /// The kernel's virtual servers; needs root, a kernel with IPVS and the iptables program.
    Ipvs,
    /// No rules: Services get addresses that lead nowhere.
    None,
}

/// What runs, and why.
#[derive(Debug)]
pub struct Choice {
    /// Where objects are stored.
    pub store: Store,
    /// The pods are gone when the process ends, and so are their volumes and logs.
    pub forgets: bool,
    /// The runtime of the real node; hollow means that there is no real node.
    pub runtime: Runtime,
    /// The service proxy.
    pub proxy: Proxy,
    /// Hollow nodes.
    pub hollow: usize,
    /// The data folder.
    pub data: PathBuf,
    /// Lines that say why.
    pub reasons: Vec<String>,
}

fn feature(built: bool, option: &str, feature: &str) -> Result<(), String> {
    if built {
        return Ok(());
    }
    Err(format!("{option} is not in this build: build with `--features {feature}` (which needs protoc, Debian's protobuf-compiler)"))
}

/// Decides from what was asked for and what the machine offers.
///
/// # Errors
/// When what was asked for cannot be had; says what is missing.
pub fn choose(options: &Options, root: bool, iptables: bool) -> Result<Choice, String> {
    let data = options.data.clone().unwrap_or_else(|| {
        let home = std::env::var_os("HOME").filter(|_| !root);
        home.map_or_else(|| PathBuf::from("/var/lib/wharf"), |home| PathBuf::from(home).join(".local/share/wharf"))
    });
    if options.keep_running && options.store == Store::Memory {
        return Err("--keep-running with --store memory: after the end nobody knows whose containers these are; take another store".into());
    }
    let mut reasons = vec![store_reason(options)?];
    let runtime = choose_runtime(options, root, &mut reasons)?;
    let proxy = choose_proxy(options, runtime, root, iptables, &mut reasons)?;
    let hollow = options.nodes.unwrap_or(if runtime == Runtime::Hollow { 3 } else { 0 });
    if runtime == Runtime::Hollow && hollow == 0 {
        return Err("--nodes 0 with the hollow runtime leaves no node at all: ask for at least 1".into());
    }
    let forgets = options.smoke || options.store == Store::Memory;
    Ok(Choice { store: options.store, forgets, runtime, proxy, hollow, data, reasons })
}

/// What Ctrl-C comes to.
pub fn farewell(options: &Options) -> &'static str {
    match options.store {
        _ if options.keep_running => "\nending: containers go on, and the next start with this data folder takes them over",
        Store::Memory => "\nending: no process, mount, interface or rule stays behind",
        _ => {
            "\nending: no process, mount, interface or rule stays behind; objects stay in the store, and the next start makes their pods run again"
        }
    }
}

fn store_reason(options: &Options) -> Result<String, String> {
    Ok(match options.store {
        Store::Redb if options.smoke => "store Redb: durable, and new for this story".into(),
        Store::Redb => "store Redb: objects are in the data folder and stay there; --store memory forgets them".into(),
        Store::Memory => "store Memory: asked for; objects are gone when this process ends".into(),
        Store::Etcd => {
            feature(cfg!(feature = "etcd"), "--store etcd", "etcd")?;
            format!("store Etcd: asked for, at {}", options.etcd_endpoints.join(", "))
        }
    })
}

fn choose_runtime(options: &Options, root: bool, reasons: &mut Vec<String>) -> Result<Runtime, String> {
    let (runtime, reason) = match options.runtime {
        Some(Runtime::Youki) if !root => {
            return Err("--runtime youki needs root: run as root, or take --runtime hollow".into());
        }
        Some(Runtime::Containerd) => {
            feature(cfg!(feature = "containerd"), "--runtime containerd", "containerd")?;
            if !root {
                return Err("--runtime containerd needs root, for its socket and its containers' files: run as root".into());
            }
            (Runtime::Containerd, format!("runtime Containerd: asked for, at {}", options.runtime_endpoint))
        }
        Some(asked) => (asked, format!("runtime {asked:?}: asked for")),
        None if root => (Runtime::Youki, "runtime Youki: running as root, so containers are real".into()),
        None => (
            Runtime::Hollow,
            "runtime Hollow: not root, so containers only pretend; real ones need root (namespaces, cgroups, mounts)".into(),
        ),
    };
    reasons.push(reason);
    Ok(runtime)
}

fn choose_proxy(options: &Options, runtime: Runtime, root: bool, iptables: bool, reasons: &mut Vec<String>) -> Result<Proxy, String> {
    let (proxy, reason) = match options.proxy {
        Some(Proxy::Ipvs) if !cfg!(feature = "ipvs") => {
            return Err("--proxy ipvs is not in this build: build with `--features ipvs`".into());
        }
        Some(asked @ (Proxy::Iptables | Proxy::Ipvs)) => {
            let name = format!("{asked:?}").to_lowercase();
            if !root {
                return Err(format!("--proxy {name} needs root: run as root, or take --proxy none"));
            }
            if !iptables {
                return Err(format!("--proxy {name} needs the iptables program: install the package iptables, or take --proxy none"));
            }
            (asked, format!("proxy {asked:?}: asked for"))
        }
        Some(Proxy::None) => (Proxy::None, "proxy None: asked for".into()),
        None if runtime == Runtime::Hollow => (Proxy::None, "proxy None: hollow pods have no network".into()),
        None if iptables => (Proxy::Iptables, "proxy Iptables: the iptables program is here".into()),
        None => (Proxy::None, "proxy None: the iptables program is missing, so Services lead nowhere; install the package iptables".into()),
    };
    reasons.push(reason);
    Ok(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        Options::parse_from(["mini-cluster"].iter().chain(args))
    }

    #[test]
    fn the_defaults_follow_the_machine() {
        let choice = choose(&options(&[]), true, true).unwrap();
        assert_eq!((choice.runtime, choice.proxy, choice.hollow), (Runtime::Youki, Proxy::Iptables, 0));
        let choice = choose(&options(&[]), false, true).unwrap();
        assert_eq!((choice.runtime, choice.proxy, choice.hollow), (Runtime::Hollow, Proxy::None, 3));
        let choice = choose(&options(&[]), true, false).unwrap();
        assert!(choice.proxy == Proxy::None && choice.reasons.iter().any(|r| r.contains("install the package iptables")));
    }

    #[test]
    fn objects_are_kept_unless_said_otherwise() {
        assert_eq!(choose(&options(&[]), true, true).unwrap().store, Store::Redb);
        assert!(choose(&options(&["--keep-running", "--store", "memory"]), true, true).unwrap_err().contains("another store"));
        assert!(choose(&options(&["--keep-running"]), true, true).is_ok());
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_advice() {
        assert!(choose(&options(&["--runtime", "youki"]), false, true).unwrap_err().contains("needs root"));
        assert!(choose(&options(&["--proxy", "iptables"]), true, false).unwrap_err().contains("install"));
        assert!(choose(&options(&["--proxy", "ipvs"]), true, false).unwrap_err().contains("install"));
        assert!(choose(&options(&["--runtime", "hollow", "--nodes", "0"]), true, true).unwrap_err().contains("at least 1"));
        for (asked, built) in [(["--store", "etcd"], cfg!(feature = "etcd")), (["--runtime", "containerd"], cfg!(feature = "containerd"))] {
            let chosen = choose(&options(&asked), true, true);
            assert_eq!(chosen.is_ok(), built, "{asked:?}");
            assert!(built || chosen.unwrap_err().contains("--features"));
        }
    }
}
