//! Chain names: short enough for netfilter, and the same for the same thing in every process.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use wharf_core::proxy::ServicePortId;

/// Longest prefix: netfilter allows 28 characters, of which the kind and the hash take 21.
pub const MAX_PREFIX: usize = 7;
/// How many characters of the hash a name holds: 80 bits.
const HASH: usize = 16;
/// RFC 4648's alphabet.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Kinds of chains that exist many times.
const HASHED: [&str; 5] = ["SVC", "SVL", "SEP", "EXT", "FW"];
/// Kinds of chains that exist once.
const FIXED: [&str; 8] = ["SERVICES", "NODEPORTS", "MARK-MASQ", "OFF-CLUSTER", "POSTROUTING", "GENERATION", "FILTER", "FORWARD"];

/// Makes and recognises chain names that start with one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Names {
    prefix: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { prefix: "WHARF".into() }
    }
}

impl Names {
    /// Names with a prefix of 1 to [`MAX_PREFIX`] ASCII letters and digits; `None` for any other.
    pub fn with_prefix(prefix: &str) -> Option<Self> {
        let fits = !prefix.is_empty() && prefix.len() <= MAX_PREFIX && prefix.bytes().all(|b| b.is_ascii_alphanumeric());
        fits.then(|| Self { prefix: prefix.into() })
    }

    /// What they start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether a chain is one of these names.
    pub fn owns(&self, chain: &str) -> bool {
        let Some(kind) = chain.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('-')) else { return false };
        FIXED.contains(&kind)
            || kind
                .split_once('-')
                .is_some_and(|(kind, hash)| HASHED.contains(&kind) && hash.len() == HASH && hash.bytes().all(|b| BASE32.contains(&b)))
    }

    fn fixed(&self, kind: &str) -> String {
        format!("{}-{kind}", self.prefix)
    }
    fn hashed(&self, kind: &str, id: &ServicePortId, endpoint: Option<SocketAddr>) -> String {
        let mut hash = Sha256::new();
        // Length first, so that no two ids run together to the same bytes.
        for part in [id.namespace.as_str(), id.name.as_str(), id.port_name.as_str(), crate::rule::lower(id.protocol)] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        if let Some(endpoint) = endpoint {
            hash.update(endpoint.to_string().as_bytes());
        }
        let mut name = format!("{}-{kind}-", self.prefix);
        let (mut bits, mut held) = (0u32, 0u32);
        for byte in hash.finalize().iter().take(HASH * 5 / 8) {
            bits = (bits << 8) | u32::from(*byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                name.push(char::from(BASE32[((bits >> held) & 31) as usize]));
            }
        }
        name
    }

    /// Dispatches on Service addresses.
    pub fn services(&self) -> String {
        self.fixed("SERVICES")
    }
    /// Dispatches on node ports.
    pub fn node_ports(&self) -> String {
        self.fixed("NODEPORTS")
    }
    /// Marks for masquerading.
    pub fn mark_masq(&self) -> String {
        self.fixed("MARK-MASQ")
    }
    /// Marks what does not come from a pod.
    pub fn off_cluster(&self) -> String {
        self.fixed("OFF-CLUSTER")
    }
    /// Masquerades what is marked.
    pub fn postrouting(&self) -> String {
        self.fixed("POSTROUTING")
    }
    /// Keeps the generation.
    pub fn generation(&self) -> String {
        self.fixed("GENERATION")
    }
    /// Refuses and drops.
    pub fn filter(&self) -> String {
        self.fixed("FILTER")
    }
    /// Lets forwarded traffic through.
    pub fn forward(&self) -> String {
        self.fixed("FORWARD")
    }
    /// All endpoints of a Service port.
    pub fn service(&self, id: &ServicePortId) -> String {
        self.hashed("SVC", id, None)
    }
    /// This node's endpoints of a Service port.
    pub fn service_local(&self, id: &ServicePortId) -> String {
        self.hashed("SVL", id, None)
    }
    /// A Service port, as reached from outside.
    pub fn external(&self, id: &ServicePortId) -> String {
        self.hashed("EXT", id, None)
    }
    /// The sources allowed to a load balancer address.
    pub fn firewall(&self, id: &ServicePortId) -> String {
        self.hashed("FW", id, None)
    }
    /// One endpoint of a Service port.
    pub fn endpoint(&self, id: &ServicePortId, endpoint: SocketAddr) -> String {
        self.hashed("SEP", id, Some(endpoint))
    }
    /// Whether a chain is for one endpoint.
    pub(crate) fn is_endpoint(&self, chain: &str) -> bool {
        self.owns(chain) && chain[self.prefix.len()..].starts_with("-SEP-")
    }
    /// Whether a chain holds all endpoints of a Service port.
    pub(crate) fn is_service(&self, chain: &str) -> bool {
        self.owns(chain) && chain[self.prefix.len()..].starts_with("-SVC-")
    }
}
