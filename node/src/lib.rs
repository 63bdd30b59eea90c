//! The node agent: the kubelet's job over any [`Runtime`](wharf_core::runtime::Runtime).
//!
//! [`NodeAgent`] registers a node and drives its pods; [`AgentConnector`] gives the API server logs, exec, attach and
//! port-forward of agents in the same process. What to do for a pod is decided in one pure function, from a snapshot
//! of spec, runtime, probe results, back-off and time; everything else carries out or reports.

mod agent;
mod backoff;
mod config;
mod connector;
mod dns;
mod env;
mod fieldref;
mod handlers;
mod hooks;
mod images;
mod labels;
mod logs;
mod machine;
mod messages;
mod pod;
mod probes;
mod registration;
mod runtime_class;
mod security;
mod shared;
mod snapshot;
mod status;
mod sync;
mod volumes;
mod worker;

pub use agent::{NodeAgent, NodeAgentBuilder};
pub use backoff::BackoffPolicy;
pub use connector::{AgentConnector, AgentHandle};
pub use dns::ClusterDns;
pub use handlers::RuntimeHandlers;
pub use logs::rotate::{MAX_LOG_FILES, MAX_LOG_SIZE};
pub use machine::DEFAULT_MAX_PODS;
pub use registration::{KUBELET_VERSION, LEASE_SECONDS, STATUS_REPORT_PERIOD, STATUS_UPDATE_PERIOD};
