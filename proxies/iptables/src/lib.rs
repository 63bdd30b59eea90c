//! A [`NetworkProxy`](wharf_core::proxy::NetworkProxy) over iptables.
//!
//! ```no_run
//! # async fn example(state: wharf_core::proxy::ProxyState) -> Result<(), wharf_core::proxy::ProxyError> {
//! use wharf_core::proxy::NetworkProxy;
//! use wharf_proxy_iptables::IptablesProxy;
//!
//! let proxy = IptablesProxy::detect()?;
//! proxy.apply(&state).await?;
//! proxy.teardown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every call reads the rules with iptables-save, lets `wharf-proxy-plan` name what differs, and hands that to one
//! iptables-restore. The rules are the only memory: a new process finds generation and Services in them.
//!
//! # What the machine must bring
//! - iptables 1.8 or newer, in either variant (`nft` or `legacy`), and the privilege `CAP_NET_ADMIN`.
//! - `net.ipv4.ip_forward`, where traffic is forwarded to pods. It is the pod network's to set.
//! - A route for cluster addresses, where this machine itself connects to them (a default route will do): without one, the
//!   kernel says "network unreachable" before any rule is asked.
//! - For pods on one bridge that reach each other through a Service: `br_netfilter`, or masquerading of such traffic. It is
//!   the pod network's to see to; `wharf-network` does.
//!
//! # Limits
//! Client affinity holds for IPv4 and for as many clients of one endpoint as `xt_recent` remembers (100 unless its module
//! parameter `ip_list_tot` says otherwise). Health check node ports are not served.

mod conntrack;
mod proxy;

pub use proxy::{Builder, IptablesProxy};
pub use wharf_netfilter::{Iptables, Variant, in_netns};
