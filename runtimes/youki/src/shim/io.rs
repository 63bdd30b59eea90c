//! Standard streams of one process in the shim: pipes or a terminal, the log, and those who listen.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use jiff::Timestamp;
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::log::CriLog;
use crate::sys;
use crate::wire::Kind;

/// How much is read from a stream at once.
const CHUNK: usize = 16 * 1024;

/// One who listens to a process's output.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    pub(crate) send: mpsc::Sender<(Kind, Bytes)>,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// An exec waits for its listener; a container does not, and drops one that is too slow.
    pub(crate) lossless: bool,
}

/// Where output goes.
#[derive(Debug, Default)]
pub(crate) struct Sinks {
    log: Mutex<Option<CriLog>>,
    taps: Mutex<Vec<Tap>>,
}

impl Sinks {
    pub(crate) fn new(log: Option<CriLog>) -> Arc<Self> {
        Arc::new(Self { log: Mutex::new(log), taps: Mutex::new(Vec::new()) })
    }
    pub(crate) fn add(&self, tap: Tap) {
        self.taps.lock().push(tap);
    }
    /// Ends all listening; called once the output has ended.
    pub(crate) fn close(&self) {
        self.taps.lock().clear();
    }
    pub(crate) fn reopen(&self) -> io::Result<()> {
        self.log.lock().as_mut().map_or(Ok(()), CriLog::reopen)
    }
    async fn output(&self, kind: Kind, chunk: Bytes) {
        if let Some(log) = self.log.lock().as_mut()
            && let Err(error) = log.write(kind, &chunk, Timestamp::now())
        {
            // A full disk must not stop the container.
            eprintln!("log: {error}");
        }
        let taps: Vec<Tap> = self.taps.lock().clone();
        let mut gone = false;
        for tap in taps {
            if (kind == Kind::Stdout && !tap.stdout) || (kind == Kind::Stderr && !tap.stderr) {
                continue;
            }
            if tap.lossless {
                gone |= tap.send.send((kind, chunk.clone())).await.is_err();
            } else if tap.send.try_send((kind, chunk.clone())).is_err() {
                gone = true;
                self.taps.lock().retain(|t| !t.send.same_channel(&tap.send));
            }
        }
        if gone {
            self.taps.lock().retain(|t| !t.send.is_closed());
        }
    }
    fn ended(&self, kind: Kind) {
        if let Some(log) = self.log.lock().as_mut()
            && let Err(error) = log.finish(kind, Timestamp::now())
        {
            eprintln!("log: {error}");
        }
    }
}

/// The process's ends of its streams, for the helper.
#[derive(Debug)]
pub(crate) struct ChildEnds {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

impl ChildEnds {
    pub(crate) fn null() -> Self {
        Self { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }
    }
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// The shim's ends.
pub(crate) struct Streams {
    pub(crate) stdin: Option<Writer>,
    readers: Vec<(Kind, Reader)>,
    pub(crate) terminal: Option<Arc<Pty>>,
}

impl Streams {
    /// Pipes for a process without a terminal.
    pub(crate) fn pipes(with_stdin: bool) -> io::Result<(Self, ChildEnds)> {
        let (out_read, out_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (err_read, err_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stdin, child_stdin): (Option<Writer>, Stdio) = if with_stdin {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            (Some(Box::pin(pipe::Sender::from_owned_fd(write)?)), read.into())
        } else {
            (None, Stdio::null())
        };
        let readers: Vec<(Kind, Reader)> = vec![
            (Kind::Stdout, Box::pin(pipe::Receiver::from_owned_fd(out_read)?)),
            (Kind::Stderr, Box::pin(pipe::Receiver::from_owned_fd(err_read)?)),
        ];
        Ok((Self { stdin, readers, terminal: None }, ChildEnds { stdin: child_stdin, stdout: out_write.into(), stderr: err_write.into() }))
    }

    /// A terminal, by its master side.
    pub(crate) fn terminal(master: OwnedFd) -> io::Result<Self> {
        let pty = Arc::new(Pty::new(master)?);
        Ok(Self {
            stdin: Some(Box::pin(PtyEnd(pty.clone()))),
            readers: vec![(Kind::Stdout, Box::pin(PtyEnd(pty.clone())))],
            terminal: Some(pty),
        })
    }

    /// Moves output to the sinks until it ends; the tracker tells when it has.
    pub(crate) fn pump(&mut self, sinks: &Arc<Sinks>) -> TaskTracker {
        let tracker = TaskTracker::new();
        for (kind, mut reader) in self.readers.drain(..) {
            let sinks = sinks.clone();
            tracker.spawn(async move {
                let mut buffer = vec![0u8; CHUNK];
                loop {
                    match reader.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(n) => sinks.output(kind, Bytes::copy_from_slice(&buffer[..n])).await,
                    }
                }
                sinks.ended(kind);
            });
        }
        tracker.close();
        tracker
    }
}

/// Writes to a process's standard input.
pub(crate) async fn write_stdin(stdin: &tokio::sync::Mutex<Option<Writer>>, bytes: &[u8]) {
    let mut stdin = stdin.lock().await;
    if let Some(writer) = stdin.as_mut()
        && writer.write_all(bytes).await.is_err()
    {
        // The process closed it.
        *stdin = None;
    }
}

/// The master side of a terminal.
#[derive(Debug)]
pub(crate) struct Pty {
    fd: AsyncFd<OwnedFd>,
}

impl Pty {
    fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_GETFL)?);
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { fd: sys::register(master)? })
    }
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        sys::set_window_size(self.fd.get_ref(), columns, rows)
    }
}

struct PtyEnd(Arc<Pty>);

impl AsyncRead for PtyEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.fd.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|fd| nix::unistd::read(fd.get_ref(), unfilled).map_err(io::Error::from)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The last holder of the slave side is gone.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for PtyEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(io::Error::from)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The socket on which libcontainer hands over a terminal's master side.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: std::os::unix::net::UnixListener,
    directory: tempfile::TempDir,
}

impl ConsoleSocket {
    /// Listens in a directory of its own under the temporary directory, for the sake of a short path.
    pub(crate) fn new() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("wharf-tty-").tempdir()?;
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("s"))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, directory })
    }
    pub(crate) fn path(&self) -> std::path::PathBuf {
        Path::new(self.directory.path()).join("s")
    }
    /// Takes the master, which libcontainer has sent before it reported success.
    pub(crate) fn receive(self) -> io::Result<OwnedFd> {
        use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
        let (connection, _) = self.listener.accept()?;
        connection.set_nonblocking(true)?;
        let mut byte = [0u8; 256];
        let mut slices = [io::IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let message = recvmsg::<()>(connection.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                let mut owned = descriptors.into_iter().map(sys::own);
                if let Some(master) = owned.next() {
                    return Ok(master);
                }
            }
        }
        Err(io::Error::other("no terminal was handed over"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_of_a_container_is_dropped_and_the_container_goes_on() {
        let sinks = Sinks::new(None);
        let (send, receive) = mpsc::channel(1);
        sinks.add(Tap { send, stdout: true, stderr: true, lossless: false });
        sinks.output(Kind::Stdout, Bytes::from_static(b"a")).await;
        sinks.output(Kind::Stdout, Bytes::from_static(b"b")).await;
        assert!(sinks.taps.lock().is_empty());
        drop(receive);
    }

    #[tokio::test]
    async fn output_of_pipes_reaches_log_and_listeners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let sinks = Sinks::new(Some(CriLog::open(&path).unwrap()));
        let (send, mut receive) = mpsc::channel(4);
        sinks.add(Tap { send, stdout: true, stderr: false, lossless: true });
        let (mut streams, child) = Streams::pipes(false).unwrap();
        let pumps = streams.pump(&sinks);
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "echo out; echo err >&2"]).stdin(child.stdin).stdout(child.stdout).stderr(child.stderr);
        command.status().unwrap();
        drop(command);
        pumps.wait().await;
        assert_eq!(receive.recv().await.unwrap().1, "out\n");
        let log = std::fs::read_to_string(path).unwrap();
        assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    }
}
