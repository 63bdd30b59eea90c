//! An etcd of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf_core::testing::omit;

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

/// Why there is no etcd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// The program is not there.
    #[error("the program {program:?} is missing: install Debian's etcd-server, or name one in {ETCD_PROGRAM}")]
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
    /// A file or process could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// An etcd with its own data, on a free port of loopback, without TLS. Ends when dropped, and its data with it.
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
    port: u16,
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
        let program = std::env::var(ETCD_PROGRAM).unwrap_or_else(|_| "etcd".into());
        let progress = progress_flag(&program)?;
        let mut attempt = 1;
        let mut in_memory = true;
        loop {
            let folder = folder(in_memory)?;
            let port = free_port()?;
            let mut all = vec![format!("--max-request-bytes={MAX_REQUEST_BYTES}"), format!("{progress}={PROGRESS}")];
            all.extend(arguments.iter().map(|a| (*a).to_owned()));
            let etcd = Self { folder, program: program.clone(), arguments: all, port, child: Mutex::new(None) };
            match etcd.start_again().await {
                Ok(()) => return Ok(etcd),
                Err(EtcdError::Ended { log, .. }) if log.contains("address already in use") && attempt < ATTEMPTS => attempt += 1,
                // A container's is often small.
                Err(EtcdError::Ended { log, .. }) if log.contains("no space left") && in_memory => in_memory = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts one for a test, or [omits](omit) the test when the program is missing.
    ///
    /// # Panics
    /// When it is there and does not start, and as [`omit`].
    pub async fn start_or_omit(test: &str) -> Option<Self> {
        match Self::start().await {
            Ok(etcd) => Some(etcd),
            Err(error @ EtcdError::Missing { .. }) => {
                omit(test, &error.to_string());
                None
            }
            Err(error) => panic!("{test}: {error}"),
        }
    }

    /// Its client URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of its client URL, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as a crash would. Its data stays.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it on the data and the port that it had, ending it first if it runs, and waits until it answers.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn start_again(&self) -> Result<(), EtcdError> {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log()).map_err(io("opening its log"))?;
        let copy = log.try_clone().map_err(io("opening its log"))?;
        let url = self.endpoint();
        // Nobody calls a single member's peer port: any will do, and the name it is known by need not be true.
        let peer = "http://127.0.0.1:1";
        let child = Command::new(&self.program)
            .arg(format!("--data-dir={}", self.folder.path().join("data").display()))
            .args(["--name=wharf", "--listen-peer-urls=http://127.0.0.1:0"])
            .args([format!("--initial-advertise-peer-urls={peer}"), format!("--initial-cluster=wharf={peer}")])
            .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .map_err(|source| missing_or(&self.program, source))?;
        *self.child.lock() = Some(child);
        self.ready().await.inspect_err(|_| self.kill())
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
                if is_healthy(self.port).await {
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

/// Asks etcd's own health check.
async fn is_healthy(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(LOG_SHOWN as u64).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    ask.await.is_ok_and(|answer| String::from_utf8_lossy(&answer).contains(r#""health":"true""#))
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
        assert!(is_healthy(etcd.port()).await);
    }
}
