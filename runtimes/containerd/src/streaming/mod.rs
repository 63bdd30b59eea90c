//! The runtime's streaming endpoint, as the kubelet uses it: an HTTP request that is upgraded to SPDY/3.1.
//!
//! It is SPDY and not WebSocket because only SPDY closes one direction of one stream: over `v4.channel.k8s.io` a command's standard
//! input cannot end before the command does, and runtimes do not serve `v5.channel.k8s.io`.

mod port;
mod session;
mod spdy;
mod upgrade;

pub(crate) use port::port;
pub(crate) use session::{Wanted, session, visible, when_ended};
