//! The iptables programs and network namespaces, for whatever writes rules: the service proxy and the pod network.

mod command;
mod netns;

pub use command::{Iptables, Variant};
pub use netns::in_netns;
