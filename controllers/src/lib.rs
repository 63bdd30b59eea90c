//! The built-in controllers of Kubernetes, one module each, and the set of all.
//!
//! Each separates what to do, a pure function of what was read, from doing it, which may be repeated.

pub mod deployment;
pub mod endpointslice;
pub mod freshness;
pub mod namespace;
pub mod owner;
pub mod pods;
pub mod replicaset;
pub mod resources;
pub mod serviceaccount;
