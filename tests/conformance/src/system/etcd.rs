//! An etcd of its own: one member, or a cluster, with TLS if wanted.

mod cluster;
mod network;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf_core::testing::omit;

pub use self::cluster::EtcdCluster;
pub use self::network::EtcdNetwork;

/// Names another etcd than the one in the path.
pub const ETCD_PROGRAM: &str = "WHARF_ETCD";
/// Largest request that it accepts: Wharf's largest value and something around it.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// How often a watch is told that nothing happened.
const PROGRESS: &str = "100ms";
/// How long it may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between two questions whether it is ready.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// How often it is started with other ports when somebody else has taken one.
const ATTEMPTS: usize = 5;
/// Below the ports that connections are given, or one that tries to reach a stopped etcd may take its place.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Where its data goes if there is room: in memory, so that thousands of commits need not wait for a disk.
const MEMORY: &str = "/dev/shm";
/// What of its log is shown when it fails.
const LOG_SHOWN: usize = 2_000;
/// Largest answer of etcd's that is read here; its metrics are the longest.
const MAX_ANSWER: u64 = 8 << 20;
/// What a single member calls itself to peers that it does not have.
const NO_PEER: &str = "http://127.0.0.1:1";

/// Why there is no etcd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// The program is not there.
    #[error("the program {program:?} is missing: install Debian's etcd-server and etcd-client, or name etcd in {ETCD_PROGRAM}")]
    Missing {
        /// What was looked for.
        program: String,
    },
    /// It ended by itself.
    #[error("etcd ended with {status}; its log ends with:\n{log}")]
    Ended {
        /// How.
        status: String,
        /// Its last lines.
        log: String,
    },
    /// It did not become ready.
    #[error("etcd was not ready within {READY_WITHIN:?}; its log ends with:\n{log}")]
    NotReady {
        /// Its last lines.
        log: String,
    },
    /// No port is free.
    #[error("no port from {} to {} is free on 127.0.0.1", PORTS.start, PORTS.end)]
    NoPort,
    /// A program that goes with it failed.
    #[error("{what} failed: {message}")]
    Failed {
        /// What was tried.
        what: String,
        /// What it said.
        message: String,
    },
    /// A file or process could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What an etcd with TLS needs, in PEM.
#[derive(Debug, Clone)]
pub struct EtcdServerTls {
    /// Its certificate, for 127.0.0.1 or the name that clients expect.
    pub certificate: Vec<u8>,
    /// The key of it.
    pub key: Vec<u8>,
    /// Who signs the certificates that clients must have; `None` asks for none.
    pub client_ca: Option<Vec<u8>>,
}

/// Where a member listens.
#[derive(Debug, Clone)]
struct Place {
    scheme: &'static str,
    host: Ipv4Addr,
    port: u16,
    /// Where its health and its metrics are told without TLS.
    plain: u16,
    namespace: Option<Arc<File>>,
}

impl Place {
    fn loopback(port: u16) -> Self {
        Self { scheme: "http", host: Ipv4Addr::LOCALHOST, port, plain: port, namespace: None }
    }
    fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// How a member is known to the others.
#[derive(Debug, Clone)]
struct Peers {
    name: String,
    /// Where it listens for them.
    listen: String,
    /// What it tells them.
    advertise: String,
    /// All of them, as `name=url,...`.
    cluster: String,
}

impl Peers {
    /// Nobody calls a single member's peer port: any will do, and the name it is known by need not be true.
    fn none() -> Self {
        let (name, advertise) = ("wharf".to_owned(), NO_PEER.to_owned());
        Self { cluster: format!("{name}={advertise}"), listen: "http://127.0.0.1:0".into(), name, advertise }
    }
}

/// An etcd with its own data, on a free port of loopback. Ends when dropped, and its data with it.
///
/// The data is in memory where the machine has `/dev/shm`: it survives [`Etcd::kill`], not the machine.
///
/// ```no_run
/// # async fn f() {
/// use wharf_conformance::system::etcd::Etcd;
/// let Some(etcd) = Etcd::start_or_omit("my_test").await else { return };
/// let endpoint = etcd.endpoint();
/// etcd.kill();
/// etcd.start_again().await.unwrap();
/// # }
/// ```
#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    program: String,
    arguments: Vec<String>,
    place: Place,
    peers: Peers,
    child: Mutex<Option<Child>>,
}

impl Etcd {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdError::Missing`] if there is no such program here.
    pub async fn start() -> Result<Self, EtcdError> {
        Self::start_with(&[]).await
    }

    /// Starts one with more arguments, which win over those that it is given anyway.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub async fn start_with(arguments: &[&str]) -> Result<Self, EtcdError> {
        Self::start_as(arguments, None).await
    }

    /// Starts one that speaks TLS only.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub async fn start_tls(tls: &EtcdServerTls) -> Result<Self, EtcdError> {
        Self::start_as(&[], Some(tls)).await
    }

    async fn start_as(arguments: &[&str], tls: Option<&EtcdServerTls>) -> Result<Self, EtcdError> {
        let (program, common) = program()?;
        let mut attempt = 1;
        let mut in_memory = true;
        loop {
            let mut place = Place::loopback(free_port()?);
            let mut all = common.clone();
            all.extend(arguments.iter().map(|a| (*a).to_owned()));
            let folder = folder(in_memory)?;
            if let Some(tls) = tls {
                place = Place { scheme: "https", plain: free_port()?, ..place };
                all.extend(tls_arguments(folder.path(), place.plain, tls)?);
            }
            let etcd = Self::new(folder, program.clone(), all, place, Peers::none());
            match etcd.start_again().await {
                Ok(()) => return Ok(etcd),
                Err(EtcdError::Ended { log, .. }) if log.contains("address already in use") && attempt < ATTEMPTS => attempt += 1,
                // A container's is often small.
                Err(EtcdError::Ended { log, .. }) if log.contains("no space left") && in_memory => in_memory = false,
                Err(error) => return Err(error),
            }
        }
    }

    fn new(folder: TempDir, program: String, arguments: Vec<String>, place: Place, peers: Peers) -> Self {
        Self { folder, program, arguments, place, peers, child: Mutex::new(None) }
    }

    /// Starts one for a test, or [omits](omit) the test when the program is missing.
    ///
    /// # Panics
    /// When it is there and does not start, and as [`omit`].
    pub async fn start_or_omit(test: &str) -> Option<Self> {
        or_omit(test, Self::start().await)
    }

    /// Its client URL.
    pub fn endpoint(&self) -> String {
        self.place.url()
    }

    /// The port of its client URL.
    pub fn port(&self) -> u16 {
        self.place.port
    }

    /// Ends it as a crash would. Its data stays.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it where it is, with its connections open, until [`Etcd::resume`].
    ///
    /// # Errors
    /// [`EtcdError::Io`] if it does not run.
    pub fn pause(&self) -> Result<(), EtcdError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`EtcdError::Io`] if it does not run.
    pub fn resume(&self) -> Result<(), EtcdError> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), EtcdError> {
        let child = self.child.lock();
        let id = child.as_ref().map(Child::id).and_then(|id| i32::try_from(id).ok());
        let sent = id.map_or(Err(nix::errno::Errno::ESRCH), |id| kill(Pid::from_raw(id), signal));
        sent.map_err(|errno| EtcdError::Io { what: "a signal to it", source: errno.into() })
    }

    /// Starts it on the data and the port that it had, ending it first if it runs, and waits until it answers.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn start_again(&self) -> Result<(), EtcdError> {
        self.spawn()?;
        self.ready().await.inspect_err(|_| self.kill())
    }

    fn spawn(&self) -> Result<(), EtcdError> {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log()).map_err(io("opening its log"))?;
        let copy = log.try_clone().map_err(io("opening its log"))?;
        let (url, peers) = (self.endpoint(), &self.peers);
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--data-dir={}", self.data().display()))
            .args([format!("--name={}", peers.name), format!("--listen-peer-urls={}", peers.listen)])
            .args([format!("--initial-advertise-peer-urls={}", peers.advertise), format!("--initial-cluster={}", peers.cluster)])
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy);
        let child = match &self.place.namespace {
            Some(namespace) => network::inside(namespace, || command.spawn()),
            None => command.spawn(),
        };
        *self.child.lock() = Some(child.map_err(|source| missing_or(&self.program, source))?);
        Ok(())
    }

    /// Saves a snapshot of what it has, as `etcdctl snapshot save` does. It must run, and without TLS.
    ///
    /// # Errors
    /// [`EtcdError::Missing`] without etcdctl, and [`EtcdError::Failed`].
    pub fn save_snapshot(&self, file: &Path) -> Result<(), EtcdError> {
        run("etcdctl", Command::new("etcdctl").arg(format!("--endpoints={}", self.endpoint())).args(["snapshot", "save"]).arg(file))
    }

    /// Ends it and puts a snapshot in the place of its data, as the restore of a backup does. Start it again afterwards.
    ///
    /// # Errors
    /// As [`Etcd::save_snapshot`].
    pub fn restore_snapshot(&self, file: &Path) -> Result<(), EtcdError> {
        self.kill();
        std::fs::remove_dir_all(self.data()).map_err(io("removing its data"))?;
        let restore = |program: &str| {
            let mut command = Command::new(program);
            command.args(["snapshot", "restore"]).arg(file).arg(format!("--data-dir={}", self.data().display()));
            command.args([format!("--name={}", self.peers.name), format!("--initial-cluster={}", self.peers.cluster)]);
            run(program, command.arg(format!("--initial-advertise-peer-urls={}", self.peers.advertise)))
        };
        // 3.5 moved it there.
        match restore("etcdutl") {
            Err(EtcdError::Missing { .. }) => restore("etcdctl"),
            done => done,
        }
    }

    /// Whether it says that it leads its cluster.
    pub async fn is_leader(&self) -> bool {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        metrics.lines().any(|line| line == "etcd_server_is_leader 1")
    }

    /// Asks what it tells over HTTP.
    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((self.place.host, self.place.plain)).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// etcd's own health check.
    async fn is_healthy(&self) -> bool {
        self.get("/health").await.is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn ready(&self) -> Result<(), EtcdError> {
        let asking = async {
            loop {
                let ended = match self.child.lock().as_mut() {
                    Some(child) => child.try_wait().map_err(io("waiting for it"))?.map(|status| status.to_string()),
                    None => Some("a kill".into()),
                };
                if let Some(status) = ended {
                    return Err(EtcdError::Ended { status, log: self.log_end() });
                }
                if self.is_healthy().await {
                    return Ok(());
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        match tokio::time::timeout(READY_WITHIN, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(EtcdError::NotReady { log: self.log_end() }),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The end of what it has logged.
    pub fn log_end(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_SHOWN)..]).into_owned()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn folder(in_memory: bool) -> Result<TempDir, EtcdError> {
    let mut folder = tempfile::Builder::new();
    folder.prefix("wharf-etcd-");
    if in_memory && let Ok(folder) = folder.tempdir_in(MEMORY) {
        return Ok(folder);
    }
    folder.tempdir().map_err(io("making a folder"))
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> EtcdError {
    move |source| EtcdError::Io { what, source }
}

fn missing_or(program: &str, source: std::io::Error) -> EtcdError {
    match source.kind() {
        ErrorKind::NotFound => EtcdError::Missing { program: program.into() },
        _ => EtcdError::Io { what: "starting it", source },
    }
}

/// It lost its first word in 3.6.
fn progress_flag(program: &str) -> Result<&'static str, EtcdError> {
    let output = Command::new(program).arg("--version").output().map_err(|source| missing_or(program, source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().find(|word| word.starts_with("3.")).unwrap_or_default();
    let old = version.starts_with("3.4.") || version.starts_with("3.5.");
    Ok(if old { "--experimental-watch-progress-notify-interval" } else { "--watch-progress-notify-interval" })
}

/// A port that nobody listens on, and that this process has not given out before.
fn free_port() -> Result<u16, EtcdError> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock();
    // Processes begin at different places.
    let offset = (std::process::id() as usize).wrapping_mul(31) % PORTS.len();
    let port = PORTS
        .cycle_from(offset)
        .find(|port| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or(EtcdError::NoPort)?;
    given.insert(port);
    Ok(port)
}

trait CycleFrom {
    fn cycle_from(self, offset: usize) -> impl Iterator<Item = u16>;
}

impl CycleFrom for std::ops::Range<u16> {
    fn cycle_from(self, offset: usize) -> impl Iterator<Item = u16> {
        self.clone().skip(offset).chain(self.take(offset))
    }
}

/// The program, and what every member is given.
fn program() -> Result<(String, Vec<String>), EtcdError> {
    let program = std::env::var(ETCD_PROGRAM).unwrap_or_else(|_| "etcd".into());
    let progress = progress_flag(&program)?;
    Ok((program, vec![format!("--max-request-bytes={MAX_REQUEST_BYTES}"), format!("{progress}={PROGRESS}")]))
}

fn tls_arguments(folder: &Path, plain: u16, tls: &EtcdServerTls) -> Result<Vec<String>, EtcdError> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(io("writing its certificate")).map(|()| path.display().to_string())
    };
    let mut arguments = vec![
        format!("--cert-file={}", write("server.pem", &tls.certificate)?),
        format!("--key-file={}", write("server-key.pem", &tls.key)?),
        format!("--listen-metrics-urls=http://127.0.0.1:{plain}"),
        // It would be a client of its own, with a certificate that is not one of a client.
        "--enable-grpc-gateway=false".into(),
    ];
    if let Some(ca) = &tls.client_ca {
        arguments.extend(["--client-cert-auth".into(), format!("--trusted-ca-file={}", write("client-ca.pem", ca)?)]);
    }
    Ok(arguments)
}

/// Runs a program that goes with etcd.
fn run(program: &str, command: &mut Command) -> Result<(), EtcdError> {
    let output = command.output().map_err(|source| missing_or(program, source))?;
    if output.status.success() {
        return Ok(());
    }
    Err(EtcdError::Failed { what: format!("{command:?}"), message: String::from_utf8_lossy(&output.stderr).into_owned() })
}

/// What was started for a test, unless a program is missing.
fn or_omit<T>(test: &str, started: Result<T, EtcdError>) -> Option<T> {
    match started {
        Ok(started) => Some(started),
        Err(error @ EtcdError::Missing { .. }) => {
            omit(test, &error.to_string());
            None
        }
        Err(error) => panic!("{test}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once() {
        let ports: BTreeSet<u16> = (0..20).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 20);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn a_missing_program_says_what_to_install() {
        let error = progress_flag("/nonexistent/etcd").unwrap_err();
        assert!(matches!(error, EtcdError::Missing { .. }) && error.to_string().contains("etcd-server"), "{error}");
    }

    #[tokio::test]
    async fn a_bad_argument_is_told_with_its_log() {
        match Etcd::start_with(&["--no-such-flag"]).await {
            Err(EtcdError::Missing { .. }) => omit("system.etcd", "etcd is missing"),
            Err(EtcdError::Ended { log, .. }) => assert!(log.contains("no-such-flag"), "{log}"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn it_ends_and_starts_again_where_it_was() {
        let Some(etcd) = Etcd::start_or_omit("system.etcd").await else { return };
        etcd.kill();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, etcd.port())).await.is_err());
        etcd.start_again().await.unwrap();
        assert!(etcd.is_healthy().await && etcd.is_leader().await);
    }
}
