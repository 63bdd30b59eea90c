//! The dummy interface that carries the Services' addresses, over rtnetlink. Blocking.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::{Handle, LinkDummy, LinkUnspec};
use tokio::runtime::Runtime;

/// A netlink socket of the calling thread's network namespace.
pub(crate) struct Device {
    runtime: Runtime,
    handle: Handle,
    name: String,
}

/// The addresses of the namespace.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// The dummy interface, if it is there.
    pub(crate) index: Option<u32>,
    /// On the dummy interface.
    pub(crate) own: BTreeSet<IpAddr>,
    /// On all others.
    pub(crate) machine: BTreeSet<IpAddr>,
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn tolerate(result: io::Result<()>, code: i32) -> io::Result<()> {
    result.or_else(|e| if e.raw_os_error() == Some(code) { Ok(()) } else { Err(e) })
}

impl Device {
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle, name: name.to_owned() })
    }

    fn run<T>(&self, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
        self.runtime.block_on(request).map_err(io_error)
    }

    fn index(&self) -> io::Result<Option<u32>> {
        let links = self.run(self.handle.link().get().match_name(&self.name).execute().try_collect::<Vec<_>>());
        let links = match links {
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(None),
            other => other?,
        };
        let Some(link) = links.into_iter().next() else { return Ok(None) };
        let dummy = link
            .attributes
            .iter()
            .any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Dummy)))));
        if dummy {
            return Ok(Some(link.header.index));
        }
        let message = format!("the interface {} is there, but no dummy: choose another prefix", self.name);
        Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
    }

    /// What is there.
    pub(crate) fn addresses(&self) -> io::Result<Addresses> {
        let mut out = Addresses { index: self.index()?, ..Addresses::default() };
        for message in self.run(self.handle.address().get().execute().try_collect::<Vec<_>>())? {
            let mut found = None;
            for attribute in &message.attributes {
                match attribute {
                    // The machine's own; ADDRESS is the other end's on point-to-point links.
                    AddressAttribute::Local(ip) => found = Some(*ip),
                    AddressAttribute::Address(ip) => {
                        found.get_or_insert(*ip);
                    }
                    _ => {}
                }
            }
            let Some(ip) = found else { continue };
            let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if link_local {
                continue;
            }
            let ours = out.index == Some(message.header.index);
            if ours { &mut out.own } else { &mut out.machine }.insert(ip);
        }
        Ok(out)
    }

    /// Makes the interface, up.
    pub(crate) fn create(&self) -> io::Result<u32> {
        tolerate(self.run(self.handle.link().add(LinkDummy::new(&self.name).up().build()).execute()), nix::libc::EEXIST)?;
        let index = self.index()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.run(self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute())?;
        Ok(index)
    }

    pub(crate) fn bind(&self, index: u32, ip: IpAddr) -> io::Result<()> {
        tolerate(self.run(self.handle.address().add(index, ip, prefix(ip)).execute()), nix::libc::EEXIST)
    }

    pub(crate) fn unbind(&self, index: u32, ip: IpAddr) -> io::Result<()> {
        // The same message as `bind` made, to delete.
        let message = self.handle.address().add(index, ip, prefix(ip)).message_mut().clone();
        tolerate(self.run(self.handle.address().del(message).execute()), nix::libc::EADDRNOTAVAIL)
    }

    /// Removes the interface with its addresses; succeeds when it is gone.
    pub(crate) fn delete(&self) -> io::Result<()> {
        let Some(index) = self.index()? else { return Ok(()) };
        tolerate(self.run(self.handle.link().del(index).execute()), nix::libc::ENODEV)
    }
}
