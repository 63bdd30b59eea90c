//! Debian's etcd, and the bridge to redb, under the same load of etcd's clients.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use wharf_bridge_etcd::EtcdBridge;
use wharf_conformance::system::etcd::{Etcd, EtcdError};
use wharf_core::clock::SystemClock;
use wharf_store_redb::{RedbOptions, RedbStore};

use crate::{KEYS, Outcome, value};

/// Puts a second of an etcd of its own with so many clients, each with a connection; nothing if etcd is not installed.
pub fn puts(runtime: &Runtime, folder: &Path, clients: usize, time: Duration) -> Outcome<Option<f64>> {
    let data = format!("--data-dir={}", folder.display());
    let etcd = match runtime.block_on(Etcd::start_with(&[&data])) {
        Ok(etcd) => etcd,
        Err(EtcdError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let measured = runtime.block_on(load(&etcd.endpoint(), clients, time))?;
    drop(etcd);
    std::fs::remove_dir_all(folder)?;
    Ok(Some(measured))
}

/// The same of a bridge to a store on the disk, which runs in the process of its clients.
pub fn bridged_puts(runtime: &Runtime, folder: &Path, clients: usize, time: Duration) -> Outcome<Option<f64>> {
    let measured = runtime.block_on(async {
        let store = RedbStore::open(folder, RedbOptions::default(), SystemClock::shared()).await?;
        let bridge = EtcdBridge::builder(Arc::new(store.clone()), SystemClock::shared()).build().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let measured = tokio::select! {
            measured = load(&endpoint, clients, time) => measured,
            ended = bridge.serve_without_tls(listener, std::future::pending()) => Err(ended.err().map_or_else(|| "the bridge ended".into(), Into::into)),
        };
        drop(bridge);
        store.close().await?;
        measured
    })?;
    std::fs::remove_dir_all(folder)?;
    Ok(Some(measured))
}

async fn load(endpoint: &str, clients: usize, time: Duration) -> Outcome<f64> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        let mut client = Client::connect([endpoint], None).await?;
        // The connection is made by the first request.
        client.get("warm", None).await?;
        connected.push(client);
    }
    let begin = Instant::now();
    let writing: Vec<_> = connected
        .into_iter()
        .enumerate()
        .map(|(writer, mut client)| {
            tokio::spawn(async move {
                let mut written = 0;
                while begin.elapsed() < time {
                    let key = format!("/wharf!!pods!namespace!object-{:06}", (written * clients + writer) % KEYS);
                    client.put(key, value(written), None).await?;
                    written += 1;
                }
                Outcome::Ok(written)
            })
        })
        .collect();
    let mut written = 0;
    for writer in writing {
        written += writer.await??;
    }
    Ok(written as f64 / begin.elapsed().as_secs_f64())
}
