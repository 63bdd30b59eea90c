//! Whether the kernel has IPVS, and what to do if not.

use std::process::{Command, Stdio};

use wharf_core::proxy::{ProxyError, ProxyResult};

use crate::netlink::Ipvs;
use crate::plan::Scheduler;

/// Makes sure that the kernel can do IPVS, loading modules if they are there.
pub(crate) fn ensure(scheduler: Scheduler) -> ProxyResult<()> {
    if is_there()? {
        return Ok(());
    }
    // Fails without the privilege or the module; the question after it is what counts.
    let name = format!("ip_vs_{}", scheduler.name());
    let _ = Command::new("modprobe").args(["-a", "ip_vs", &name, "nf_conntrack"]).stdin(Stdio::null()).output();
    if is_there()? {
        return Ok(());
    }
    Err(ProxyError::Missing {
        missing: "IPVS in the kernel".into(),
        advice: "load it (`modprobe ip_vs` as root), use a kernel with CONFIG_IP_VS, or use the proxy over iptables".into(),
    })
}

fn is_there() -> ProxyResult<bool> {
    Ok(Ipvs::open().map_err(|e| ProxyError::permanent("asking the kernel for IPVS", e))?.is_some())
}
