//! A [`NetworkProxy`](wharf_core::proxy::NetworkProxy) over IPVS, the kernel's own load balancer.
//!
//! ```no_run
//! # async fn example(state: wharf_core::proxy::ProxyState) -> Result<(), wharf_core::proxy::ProxyError> {
//! use wharf_core::proxy::NetworkProxy;
//! use wharf_proxy_ipvs::IpvsProxy;
//!
//! let proxy = IpvsProxy::detect()?;
//! proxy.apply(&state).await?;
//! proxy.teardown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | virtual and real servers | spread connections over endpoints, found by hash |
//! | a dummy interface, `wharf-ipvs0` | carries the Services' addresses, so that their packets come to IPVS |
//! | ipsets | say which addresses are Services', and of what kind |
//! | iptables | masquerade, refuse and drop; as many rules for 10,000 Services as for one, but for Services without endpoints or with source ranges |
//!
//! # Whose is it
//! A virtual server is ours if its address is in one of our ipsets, whose comments name the Service. An entry is made before
//! its virtual server and removed after it, so that a process that dies leaves nothing behind that the next does not know.
//! Virtual servers of others are left alone, unless a Service wants the very same address, protocol and port. The generation,
//! and what sysctls were before, stand in comments of a chain that no packet visits.
//!
//! # Endpoints that leave
//! They get weight 0: open connections go on, new ones go elsewhere. A later `apply` removes them when their connections
//! have ended, or when [`Builder::drain`] has passed. Over UDP, and with a Service that is removed, they go at once.
//!
//! # What the machine must bring
//! - A kernel with IPVS, ipset and dummy interfaces; modules are loaded with `modprobe` if they are there.
//! - iptables 1.8 or newer, `ipset`, and the privilege `CAP_NET_ADMIN`.
//! - `net.ipv4.ip_forward`. It is the pod network's to set.
//!
//! # Limits
//! - The node itself counts as an allowed source of load balancer addresses; under `externalTrafficPolicy: Local` it
//!   reaches this node's endpoints only.
//! - Health check node ports are not served.

mod device;
mod kernel;
mod netlink;
mod plan;
mod proxy;
mod sets;
mod sysctl;
mod wanted;

pub use plan::Scheduler;
pub use proxy::{Builder, DEFAULT_DRAIN, IpvsProxy};
