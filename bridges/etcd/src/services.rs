//! etcd's gRPC services.

mod auth;
mod cluster;
mod kv;
mod lease;
mod maintenance;
mod watch;

pub(crate) use auth::AuthService;
pub(crate) use cluster::ClusterService;
pub(crate) use kv::KvService;
pub(crate) use lease::LeaseService;
pub(crate) use maintenance::MaintenanceService;
pub(crate) use watch::WatchService;

use tonic::Status;

/// What the bridge does not do, and what to do instead.
fn unimplemented(what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: this etcd is a bridge to another store, which has no {what}"))
}
