//! Which sandbox has which address, kept on disk.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use wharf_core::runtime::{PodNetworkError, PortMapping};

/// What a sandbox holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    /// Its address.
    pub(crate) ip: Ipv4Addr,
    /// Its host ports.
    #[serde(default)]
    pub(crate) ports: Vec<HostPort>,
}

/// A host port, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostPort {
    pub(crate) protocol: wharf_core::runtime::Protocol,
    pub(crate) container_port: u16,
    pub(crate) host_port: u16,
    pub(crate) host_ip: Option<Ipv4Addr>,
}

impl HostPort {
    /// The mapping in IPv4; `None` if it has no host port or is for IPv6 only.
    pub(crate) fn new(mapping: &PortMapping) -> Option<Self> {
        let host_ip = match mapping.host_ip {
            Some(std::net::IpAddr::V6(_)) => return None,
            Some(std::net::IpAddr::V4(ip)) => Some(ip).filter(|ip| !ip.is_unspecified()),
            None => None,
        };
        (mapping.host_port != 0).then_some(Self {
            protocol: mapping.protocol,
            container_port: mapping.container_port,
            host_port: mapping.host_port,
            host_ip,
        })
    }
}

/// Everything that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// By sandbox id.
    pub(crate) sandboxes: BTreeMap<String, Allocation>,
    /// The address given last: the next search begins after it, so that an address rests before it is used again.
    pub(crate) last: Option<Ipv4Addr>,
    /// Whether IPv4 forwarding was off before and has to be turned off again.
    #[serde(default)]
    pub(crate) forwarding_was_off: bool,
}

/// The allocations of one range. Every change is on disk before it is used.
///
/// Files are replaced whole by rename and not synced: after a crash of the process they are right, and after a crash of the
/// machine no sandbox is left that could hold an address.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Ipv4Net,
    file: PathBuf,
    kept: Kept,
}

impl Addresses {
    /// Reads what is kept in `file`; nothing if it does not exist.
    pub(crate) fn open(range: Ipv4Net, file: PathBuf) -> io::Result<Self> {
        let kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| io::Error::other(format!("{}: {e}", file.display())))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(e) => return Err(e),
        };
        Ok(Self { range, file, kept })
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The bridge's own address: the first of the range.
    pub(crate) fn gateway(range: Ipv4Net) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(range.network()).saturating_add(1))
    }

    /// The address of a sandbox, which it keeps until [`Addresses::release`].
    pub(crate) fn allocate(&mut self, sandbox: &str, ports: Vec<HostPort>) -> Result<Ipv4Addr, PodNetworkError> {
        if let Some(known) = self.kept.sandboxes.get(sandbox) {
            let ip = known.ip;
            if known.ports != ports {
                let mut next = self.kept.clone();
                next.sandboxes.insert(sandbox.to_owned(), Allocation { ip, ports });
                self.keep(next)?;
            }
            return Ok(ip);
        }
        // The network's, the bridge's and the broadcast address are not given away.
        let first = u32::from(Self::gateway(self.range)) + 1;
        let last = u32::from(self.range.broadcast()) - 1;
        let used: std::collections::BTreeSet<u32> = self.kept.sandboxes.values().map(|a| u32::from(a.ip)).collect();
        let start = self.kept.last.map(|ip| u32::from(ip).saturating_add(1)).filter(|ip| (first..=last).contains(ip)).unwrap_or(first);
        let free = (start..=last).chain(first..start).find(|ip| !used.contains(ip));
        let Some(ip) = free.map(Ipv4Addr::from) else {
            return Err(PodNetworkError::Exhausted { range: self.range.to_string(), used: used.len() });
        };
        let mut next = self.kept.clone();
        next.last = Some(ip);
        next.sandboxes.insert(sandbox.to_owned(), Allocation { ip, ports });
        self.keep(next)?;
        Ok(ip)
    }

    /// Gives an address back; returns what the sandbox held.
    pub(crate) fn release(&mut self, sandbox: &str) -> Result<Option<Allocation>, PodNetworkError> {
        if !self.kept.sandboxes.contains_key(sandbox) {
            return Ok(None);
        }
        let mut next = self.kept.clone();
        let held = next.sandboxes.remove(sandbox);
        self.keep(next)?;
        Ok(held)
    }

    /// Notes that forwarding was turned on here.
    pub(crate) fn note_forwarding(&mut self) -> Result<(), PodNetworkError> {
        let next = Kept { forwarding_was_off: true, ..self.kept.clone() };
        self.keep(next)
    }

    /// Forgets everything, on disk too.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.kept = Kept::default();
        match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, next: Kept) -> Result<(), PodNetworkError> {
        write(&self.file, &next).map_err(|e| PodNetworkError::Backend { op: "keeping address allocations", source: e.into() })?;
        self.kept = next;
        Ok(())
    }
}

fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = file.with_extension("tmp");
    std::fs::write(&fresh, serde_json::to_vec(kept)?)?;
    std::fs::rename(fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir, range: &str) -> Addresses {
        Addresses::open(range.parse().unwrap(), folder.path().join("sub/a.json")).unwrap()
    }

    #[test]
    fn a_sandbox_keeps_its_address_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let ip = open(&folder, "10.1.0.0/24").allocate("a", vec![]).unwrap();
        assert_eq!(ip, Ipv4Addr::new(10, 1, 0, 2));
        let mut again = open(&folder, "10.1.0.0/24");
        assert_eq!(again.allocate("a", vec![]).unwrap(), ip);
        assert_ne!(again.allocate("b", vec![]).unwrap(), ip);
    }

    #[test]
    fn a_released_address_rests_before_it_is_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = open(&folder, "10.1.0.0/29");
        let given: Vec<u8> = (0..5).map(|n| addresses.allocate(&n.to_string(), vec![]).unwrap().octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(matches!(addresses.allocate("x", vec![]), Err(PodNetworkError::Exhausted { used: 5, .. })));
        addresses.release("3").unwrap();
        addresses.release("0").unwrap();
        assert_eq!(addresses.allocate("x", vec![]).unwrap().octets()[3], 2, "round again from the start");
        assert_eq!(addresses.release("unknown").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_kept_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = open(&folder, "10.1.0.0/24");
        std::fs::write(folder.path().join("sub"), "a file where the folder should be").unwrap();
        assert!(addresses.allocate("a", vec![]).is_err());
        assert!(addresses.kept().sandboxes.is_empty());
    }

    #[test]
    fn damage_is_reported_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        std::fs::write(&file, "{torn").unwrap();
        assert!(Addresses::open("10.1.0.0/24".parse().unwrap(), file).is_err());
    }
}
