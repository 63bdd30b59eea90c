//! An etcd for etcdctl and others: `cargo run -p wharf-bridge-etcd --example serve -- --data ./etcd`, then
//! `ETCDCTL_API=3 etcdctl put a 1`. Without `--data` it is in memory, and gone at the end.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use tokio::net::TcpListener;
use wharf_bridge_etcd::{BridgeTls, DEFAULT_MAX_REQUEST_BYTES, EtcdBridge, Maintenance};
use wharf_core::clock::SystemClock;
use wharf_core::runtime::Retry;
use wharf_core::store::{StoreError, StoreResult};
use wharf_store_memory::MemoryStore;
use wharf_store_redb::{RedbOpenError, RedbOptions, RedbStore};

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:2379")]
    listen: SocketAddr,
    /// Folder to keep everything in, which is made if need be.
    #[arg(long)]
    data: Option<PathBuf>,
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

/// What `etcdctl defrag` and `endpoint status` ask of the folder.
#[derive(Debug)]
struct Files(RedbStore);

#[async_trait]
impl Maintenance for Files {
    async fn defragment(&self) -> StoreResult<()> {
        self.0.defragment().await.map(drop).map_err(|e| failed("defragment", e))
    }

    async fn size(&self) -> StoreResult<u64> {
        self.0.size().await.map_err(|e| failed("size", e))
    }
}

fn failed(op: &'static str, error: RedbOpenError) -> StoreError {
    StoreError::Backend { op, retry: Retry::Permanent, source: Box::new(error) }
}

/// Serves until Ctrl-C. A test runs it too.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let durable = match &options.data {
        Some(folder) => {
            let options = RedbOptions::default().history(options.history).history_age(None);
            Some(RedbStore::open(folder, options, SystemClock::shared()).await?)
        }
        None => None,
    };
    let bridge = match &durable {
        Some(store) => EtcdBridge::builder(Arc::new(store.clone()), SystemClock::shared()).maintenance(Arc::new(Files(store.clone()))),
        None => EtcdBridge::builder(Arc::new(MemoryStore::builder().history(options.history).build()), SystemClock::shared()),
    };
    let bridge = bridge
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
    if let Some(store) = durable {
        store.close().await?;
    }
    Ok(())
}
