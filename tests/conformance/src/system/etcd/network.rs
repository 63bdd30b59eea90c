//! A network of its own for a cluster, in namespaces that end with it, whose links can be cut.
//!
//! Each member has a namespace with a link for its clients and another for its peers, so that a leader can lose its peers and
//! still hear its clients. Both are ports of bridges in one more namespace, where the clients run.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use wharf_core::testing::omit;

use super::EtcdError;

const CLIENTS: &str = "clients";
const PEERS: &str = "peers";

/// The namespaces. They end when this is dropped and nothing runs in them any more.
#[derive(Debug)]
pub struct EtcdNetwork {
    hub: File,
    members: Vec<Arc<File>>,
}

/// Runs something in a network namespace, on a thread of its own.
pub(super) fn inside<T: Send>(namespace: &File, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            f()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn new_namespace() -> io::Result<File> {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs iproute2 in a namespace.
fn ip(namespace: &File, arguments: &str) -> Result<(), EtcdError> {
    let run = || Command::new("ip").args(arguments.split_whitespace()).output();
    let output = inside(namespace, run).map_err(super::io("running ip in a network namespace"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(EtcdError::Failed { what: format!("ip {arguments}"), message: String::from_utf8_lossy(&output.stderr).into_owned() })
}

impl EtcdNetwork {
    /// Namespaces for so many members, at most 200. Needs root and iproute2.
    ///
    /// # Errors
    /// [`EtcdError::Io`] and [`EtcdError::Failed`].
    pub fn new(count: usize) -> Result<Self, EtcdError> {
        let made = |namespace: io::Result<File>| namespace.map_err(super::io("making a network namespace"));
        let network = Self { hub: made(new_namespace())?, members: Vec::new() };
        ip(&network.hub, "link set lo up")?;
        for (bridge, address) in [(CLIENTS, "10.91.0.1"), (PEERS, "10.91.1.1")] {
            ip(&network.hub, &format!("link add {bridge} type bridge"))?;
            ip(&network.hub, &format!("addr add {address}/24 dev {bridge}"))?;
            ip(&network.hub, &format!("link set {bridge} up"))?;
        }
        let members = (0..count).map(|_| made(new_namespace()).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        for (member, namespace) in members.iter().enumerate() {
            ip(namespace, "link set lo up")?;
            for (bridge, address) in [(CLIENTS, Self::client_address(member)), (PEERS, Self::peer_address(member))] {
                let (port, file) = (format!("{bridge}{member}"), format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
                ip(&network.hub, &format!("link add {port} type veth peer name {bridge} netns {file}"))?;
                ip(&network.hub, &format!("link set {port} master {bridge} up"))?;
                ip(namespace, &format!("addr add {address}/24 dev {bridge}"))?;
                ip(namespace, &format!("link set {bridge} up"))?;
            }
        }
        Ok(Self { members, ..network })
    }

    /// The same for a test, which is [omitted](omit) where that is not allowed.
    ///
    /// # Panics
    /// When it fails for root, and as [`omit`].
    pub fn new_or_omit(test: &str, count: usize) -> Option<Self> {
        match Self::new(count) {
            Ok(network) => Some(network),
            Err(error) if geteuid().is_root() => panic!("{test}: {error}"),
            Err(error) => {
                omit(test, &format!("only root may make network namespaces: {error}"));
                None
            }
        }
    }

    /// How many members it is for.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }
    pub(super) fn namespace(&self, member: usize) -> &Arc<File> {
        &self.members[member]
    }
    pub(super) fn client_address(member: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 91, 0, Self::number(member))
    }
    pub(super) fn peer_address(member: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 91, 1, Self::number(member))
    }
    fn number(member: usize) -> u8 {
        u8::try_from(member).unwrap_or(u8::MAX).saturating_add(10)
    }

    /// Runs clients in it, in a runtime of one thread. It must not move to others: only this thread is in the network.
    ///
    /// # Errors
    /// [`EtcdError::Io`] if it cannot be entered.
    pub fn run<T: Send, F: Future<Output = T>>(&self, clients: impl FnOnce() -> F + Send) -> Result<T, EtcdError> {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(clients()))
        };
        inside(&self.hub, run).map_err(super::io("entering a network namespace"))
    }

    /// Cuts a member off from its peers: what is sent is lost, and nobody is told.
    ///
    /// # Errors
    /// [`EtcdError::Failed`].
    pub fn cut_from_peers(&self, member: usize) -> Result<(), EtcdError> {
        ip(&self.hub, &format!("link set {PEERS}{member} nomaster"))
    }

    /// Cuts a member off from its clients.
    ///
    /// # Errors
    /// [`EtcdError::Failed`].
    pub fn cut_from_clients(&self, member: usize) -> Result<(), EtcdError> {
        ip(&self.hub, &format!("link set {CLIENTS}{member} nomaster"))
    }

    /// Joins a member to its peers and clients again.
    ///
    /// # Errors
    /// [`EtcdError::Failed`].
    pub fn heal(&self, member: usize) -> Result<(), EtcdError> {
        ip(&self.hub, &format!("link set {PEERS}{member} master {PEERS}"))?;
        ip(&self.hub, &format!("link set {CLIENTS}{member} master {CLIENTS}"))
    }
}
