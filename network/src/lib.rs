//! Pod networks.
//!
//! [`BridgeNetwork`] does what the CNI plugins `bridge`, `host-local`, `portmap` and `firewall` do together, without running
//! a program for each pod: a bridge, a veth pair for each sandbox, addresses from one range, host ports, and masquerading
//! of what leaves the cluster.
//!
//! ```no_run
//! # fn example() -> Result<(), wharf_core::runtime::PodNetworkError> {
//! use wharf_network::BridgeNetwork;
//!
//! let range = std::net::Ipv4Addr::new(10, 88, 0, 0);
//! let network = BridgeNetwork::builder(range, 16, "/var/lib/example/network").build()?;
//! # Ok(())
//! # }
//! ```

mod addresses;
mod bridge;
mod netlink;
mod rules;

pub use bridge::{BridgeNetwork, Builder, DEFAULT_BRIDGE};
