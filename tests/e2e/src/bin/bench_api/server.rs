//! A server of our own to measure: the API server over the durable store, in a process of its own, with nothing beside it.

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tokio::net::TcpListener;
use wharf_apiserver::ApiServer;
use wharf_apiserver::pki::{self, Credential, Pki};
use wharf_apiserver::request::User;
use wharf_apiserver::server::TlsOptions;
use wharf_core::clock::SystemClock;
use wharf_store_redb::{RedbOptions, RedbStore};

use crate::Outcome;

/// A server that runs until this is dropped.
pub struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts this program again as a server, with its data under `folder`, and waits until it serves.
    pub fn start(folder: Option<&Path>, under: Option<&str>) -> Outcome<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("wharf-bench-");
        let folder = folder.map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent))?;
        let mut words = under.into_iter().flat_map(str::split_whitespace);
        let mut command = match words.next() {
            Some(program) => Command::new(program),
            None => Command::new(std::env::current_exe()?),
        };
        if under.is_some() {
            command.args(words).arg(std::env::current_exe()?);
        }
        let mut child = command.arg("--serve").arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("the server has no output")?).read_line(&mut line)?;
        let server = Self { child, folder };
        if line.trim() == "ready" { Ok(server) } else { Err("the server did not start".into()) }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Serves until standard input ends.
pub fn serve(folder: &Path) -> Outcome<()> {
    // As the mini-cluster has it: without a subscriber every span asks whether some log wants it.
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let clock = SystemClock::shared();
        let store = RedbStore::open(folder.join("store"), RedbOptions::default(), clock.clone()).await?;
        let keys = Arc::new(Pki::generate(&*clock)?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let admin = User::master("kubernetes-admin");
        let server =
            Box::pin(ApiServer::builder(Arc::new(store), clock).pki(keys.clone()).token(keys.admin_token(), admin).build()).await?;
        let options =
            TlsOptions { identity: keys.serving(&[], &[IpAddr::V4(Ipv4Addr::LOCALHOST)])?, client_ca: keys.ca_certificate().to_owned() };
        let contexts = [("wharf", Credential::Certificate(keys.admin()?))];
        std::fs::write(
            folder.join("kubeconfig"),
            pki::kubeconfig("wharf", &format!("https://{address}"), keys.ca_certificate(), &contexts),
        )?;
        let service = server.service().clone();
        let serving = tokio::spawn(async move { service.serve(listener, &options).await });
        println!("ready");
        let parent_ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            ended = serving => ended??,
            _ = parent_ended => {}
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    })?;
    // What is in flight is nobody's any more.
    runtime.shutdown_background();
    Ok(())
}
