//! What the machine is and has.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use wharf_core::quantity::Quantity;

/// Pods that a node takes when nothing else is said; the kubelet's default.
pub const DEFAULT_MAX_PODS: u32 = 110;
const MAX_READ: u64 = 64 * 1024;

/// A machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) capacity: BTreeMap<String, ApiQuantity>,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    pub(crate) system_uuid: String,
}

fn read(path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    // What cannot be read stays empty, as on a machine that does not have it.
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MAX_READ).read_to_string(&mut text);
    }
    text.trim().to_string()
}

/// `PRETTY_NAME` of an os-release file.
fn pretty_name(text: &str) -> Option<String> {
    text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"').to_string())
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()
}

impl Machine {
    /// Reads `/proc`, `/sys` and `/etc`. `capacity` replaces what was found.
    pub(crate) fn read(capacity: BTreeMap<String, ApiQuantity>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = memory_total(&read("/proc/meminfo")).unwrap_or(0);
        let mut all: BTreeMap<String, ApiQuantity> = [
            ("cpu", cores.to_string()),
            ("memory", format!("{memory}Ki")),
            ("pods", DEFAULT_MAX_PODS.to_string()),
            ("ephemeral-storage", storage().unwrap_or_else(|| "0".into())),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_string(), ApiQuantity(v)))
        .collect();
        all.extend(capacity);
        Self {
            capacity: all,
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: pretty_name(&read("/etc/os-release")).unwrap_or_else(|| "Linux".into()),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
        }
    }

    fn amount(&self, name: &str) -> Quantity {
        self.capacity.get(name).and_then(|q| Quantity::try_from(q).ok()).unwrap_or(Quantity::ZERO)
    }
    pub(crate) fn cpu_milli(&self) -> i64 {
        self.amount("cpu").milli()
    }
    pub(crate) fn memory_bytes(&self) -> i64 {
        self.amount("memory").value()
    }
}

fn storage() -> Option<String> {
    let stat = nix::sys::statvfs::statvfs("/").ok()?;
    // The field types differ between platforms.
    let kib = u128::from(stat.blocks()) * u128::from(stat.fragment_size()) / 1024;
    Some(format!("{kib}Ki"))
}

/// The architecture as Kubernetes names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_files_say() {
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n").as_deref(), Some("Debian GNU/Linux 13"));
        assert_eq!(memory_total("MemTotal:        8000000 kB\nMemFree: 1 kB"), Some(8_000_000));
        assert_eq!(memory_total("MemTotal:"), None);
    }
}
