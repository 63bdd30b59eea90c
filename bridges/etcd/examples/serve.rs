//! A store in memory behind etcd's protocol, to try etcdctl on: `cargo run -p wharf-bridge-etcd --example serve`, then
//! `ETCDCTL_API=3 etcdctl put a 1`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use wharf_bridge_etcd::{BridgeTls, DEFAULT_MAX_REQUEST_BYTES, EtcdBridge};
use wharf_core::clock::SystemClock;
use wharf_store_memory::MemoryStore;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:2379")]
    listen: SocketAddr,
    /// Certificate to serve with, in PEM. Without one there is no encryption, and anybody who can connect may do everything.
    #[arg(long, requires = "key", requires = "client_ca")]
    certificate: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Who signs clients' certificates, in PEM.
    #[arg(long)]
    client_ca: Option<PathBuf>,
    /// Largest request that writes, in bytes.
    #[arg(long, default_value_t = DEFAULT_MAX_REQUEST_BYTES)]
    max_request_bytes: usize,
    /// Seconds between two notifications of watches that nothing has happened.
    #[arg(long, default_value_t = 600)]
    progress_seconds: u64,
    /// Commits of history to keep.
    #[arg(long, default_value_t = wharf_store_memory::DEFAULT_HISTORY)]
    history: usize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let store = Arc::new(MemoryStore::builder().history(options.history).build());
    let bridge = EtcdBridge::builder(store, SystemClock::shared())
        .max_request_bytes(options.max_request_bytes)
        .progress_interval(Duration::from_secs(options.progress_seconds))
        .build()
        .await?;
    let listener = TcpListener::bind(options.listen).await?;
    println!("etcd v3 at {}; end with Ctrl-C", listener.local_addr()?);
    let shutdown = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    match (options.certificate, options.key, options.client_ca) {
        (Some(certificate), Some(key), Some(client_ca)) => {
            let tls =
                BridgeTls { certificate: std::fs::read(certificate)?, key: std::fs::read(key)?, client_ca: std::fs::read(client_ca)? };
            bridge.serve(listener, tls, shutdown).await?;
        }
        _ => bridge.serve_without_tls(listener, shutdown).await?,
    }
    Ok(())
}
