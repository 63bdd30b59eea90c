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

Then, in another terminal:
  export KUBECONFIG=...                          the path that mini-cluster printed
  kubectl get nodes -o wide
";

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
    /// Where images, containers' state and certificates are kept [default: /var/lib/wharf as root, ~/.local/share/wharf otherwise].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where objects are stored.
    #[arg(long, value_enum, default_value_t = Store::Memory)]
    pub store: Store,
    /// What runs containers [default: youki as root, hollow otherwise].
    #[arg(long, value_enum)]
    pub runtime: Option<Runtime>,
    /// What makes Services reachable [default: iptables with real containers, none otherwise].
    #[arg(long, value_enum)]
    pub proxy: Option<Proxy>,
    /// Hollow nodes, besides the real one [default: 0 with real containers, 3 otherwise].
    #[arg(long, value_name = "N")]
    pub nodes: Option<usize>,
    /// Play a whole story unattended, print a line a step, and exit 0 or 1.
    #[arg(long)]
    pub smoke: bool,
}

/// A choice of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// In memory: gone when the process ends.
    Memory,
}

/// A choice of runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// Real containers; needs root.
    Youki,
    /// Containers that only pretend.
    Hollow,
}

/// A choice of service proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// Packet-filter rules; needs root and the iptables program.
    Iptables,
    /// No rules: Services get addresses that lead nowhere.
    None,
}

/// What runs, and why.
#[derive(Debug)]
pub struct Choice {
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

/// Decides from what was asked for and what the machine offers.
///
/// # Errors
/// When what was asked for cannot be had; says what is missing.
pub fn choose(options: &Options, root: bool, iptables: bool) -> Result<Choice, String> {
    let mut reasons = Vec::new();
    let runtime = match options.runtime {
        Some(Runtime::Youki) if !root => {
            return Err("--runtime youki needs root: run as root, or take --runtime hollow".into());
        }
        Some(asked) => {
            reasons.push(format!("runtime {asked:?}: asked for"));
            asked
        }
        None if root => {
            reasons.push("runtime Youki: running as root, so containers are real".into());
            Runtime::Youki
        }
        None => {
            reasons.push("runtime Hollow: not root, so containers only pretend; real ones need root (namespaces, cgroups, mounts)".into());
            Runtime::Hollow
        }
    };
    let proxy = match options.proxy {
        Some(Proxy::Iptables) if !root => return Err("--proxy iptables needs root: run as root, or take --proxy none".into()),
        Some(Proxy::Iptables) if !iptables => {
            return Err("--proxy iptables needs the iptables program: install the package iptables, or take --proxy none".into());
        }
        Some(asked) => {
            reasons.push(format!("proxy {asked:?}: asked for"));
            asked
        }
        None if runtime == Runtime::Hollow => {
            reasons.push("proxy None: hollow pods have no network".into());
            Proxy::None
        }
        None if iptables => {
            reasons.push("proxy Iptables: the iptables program is here".into());
            Proxy::Iptables
        }
        None => {
            reasons.push("proxy None: the iptables program is missing, so Services lead nowhere; install the package iptables".into());
            Proxy::None
        }
    };
    reasons.insert(0, "store Memory: the only one so far; objects are gone when this process ends".into());
    let data = options.data.clone().unwrap_or_else(|| {
        let home = std::env::var_os("HOME").filter(|_| !root);
        home.map_or_else(|| PathBuf::from("/var/lib/wharf"), |home| PathBuf::from(home).join(".local/share/wharf"))
    });
    let hollow = options.nodes.unwrap_or(if runtime == Runtime::Hollow { 3 } else { 0 });
    if runtime == Runtime::Hollow && hollow == 0 {
        return Err("--nodes 0 with the hollow runtime leaves no node at all: ask for at least 1".into());
    }
    Ok(Choice { runtime, proxy, hollow, data, reasons })
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
    fn what_cannot_be_had_is_refused_with_advice() {
        assert!(choose(&options(&["--runtime", "youki"]), false, true).unwrap_err().contains("needs root"));
        assert!(choose(&options(&["--proxy", "iptables"]), true, false).unwrap_err().contains("install"));
        assert!(choose(&options(&["--runtime", "hollow", "--nodes", "0"]), true, true).unwrap_err().contains("at least 1"));
    }
}
