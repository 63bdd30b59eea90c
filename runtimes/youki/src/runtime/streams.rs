//! Exec, attach and port-forward from the agent's side.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use nix::sched::{CloneFlags, setns};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use wharf_core::runtime::{RuntimeError, RuntimeResult, SESSION_CHUNKS, Session, TerminalSize};

use crate::wire::{Hello, Kind, read_frame, write_frame};

/// How long a connection into a sandbox may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on a shim's stream socket that was accepted.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

/// Connects and says hello.
pub(crate) async fn connect(socket: &Path, hello: &Hello) -> io::Result<Connection> {
    let (mut reader, mut writer) = UnixStream::connect(socket).await?.into_split();
    write_frame(&mut writer, Kind::Hello, &serde_json::to_vec(hello)?).await?;
    match read_frame(&mut reader).await? {
        Some((Kind::Ready, _)) => Ok(Connection { reader, writer }),
        Some((Kind::Refused, why)) => Err(io::Error::other(String::from_utf8_lossy(&why).into_owned())),
        _ => Err(io::Error::other("the shim closed the connection")),
    }
}

/// What of a process is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// Turns a connection into a session. `done` runs when the process has ended or the session was dropped.
pub(crate) fn session(connection: Connection, want: Want, done: impl Future<Output = ()> + Send + 'static) -> Session {
    let Connection { mut reader, mut writer } = connection;
    let (stdin_send, mut stdin) = mpsc::channel::<Bytes>(SESSION_CHUNKS);
    let (stdout_send, stdout) = mpsc::channel::<Bytes>(SESSION_CHUNKS);
    let (stderr_send, stderr) = mpsc::channel::<Bytes>(SESSION_CHUNKS);
    let (resize_send, mut resize) = mpsc::channel::<TerminalSize>(SESSION_CHUNKS);
    let (mut exit_send, exit) = oneshot::channel();
    let session = Session {
        stdin: want.stdin.then_some(stdin_send),
        stdout: want.stdout.then_some(stdout),
        stderr: (want.stderr && !want.tty).then_some(stderr),
        resize: want.tty.then_some(resize_send),
        exit,
    };
    tokio::spawn(async move {
        let input = async {
            let mut stdin_open = want.stdin;
            let mut resize_open = want.tty;
            loop {
                let sent = tokio::select! {
                    bytes = stdin.recv(), if stdin_open => match bytes {
                        Some(bytes) => write_frame(&mut writer, Kind::Stdin, &bytes).await,
                        None => { stdin_open = false; write_frame(&mut writer, Kind::CloseStdin, &[]).await }
                    },
                    size = resize.recv(), if resize_open => match size {
                        Some(size) => {
                            let mut payload = size.width.to_le_bytes().to_vec();
                            payload.extend_from_slice(&size.height.to_le_bytes());
                            write_frame(&mut writer, Kind::Resize, &payload).await
                        }
                        None => { resize_open = false; Ok(()) }
                    },
                    else => std::future::pending().await,
                };
                if sent.is_err() {
                    // The reading side tells how it ended.
                    std::future::pending::<()>().await;
                }
            }
        };
        let output = async {
            loop {
                match read_frame(&mut reader).await {
                    Ok(Some((Kind::Stdout, bytes))) => {
                        // Output that nobody reads is dropped; the exit code still counts.
                        let _ = stdout_send.send(bytes).await;
                    }
                    Ok(Some((Kind::Stderr, bytes))) => {
                        let _ = stderr_send.send(bytes).await;
                    }
                    Ok(Some((Kind::Exit, bytes))) => {
                        return bytes.as_ref().try_into().map(i32::from_le_bytes).ok();
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return None,
                }
            }
        };
        let code = tokio::select! {
            code = output => code,
            () = input => None,
            // The session was dropped: closing the connection ends an exec and leaves a container alone.
            () = exit_send.closed() => None,
        };
        drop((stdout_send, stderr_send, reader, writer));
        if let Some(code) = code {
            // The user may not care for it.
            let _ = exit_send.send(Ok(code));
        }
        done.await;
    });
    session
}

/// Connects to a port as a process in the namespace would.
pub(crate) async fn connect_in(netns: Option<PathBuf>, port: u16) -> RuntimeResult<tokio::net::TcpStream> {
    let (send, receive) = oneshot::channel();
    // A thread of its own: it enters the namespace, and must not come back to a pool in it.
    std::thread::Builder::new()
        .name("port-forward".into())
        .spawn(move || {
            let attempt = || -> io::Result<std::net::TcpStream> {
                if let Some(path) = netns {
                    setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
                }
                let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIMEOUT);
                let stream = to(Ipv4Addr::LOCALHOST.into()).or_else(|first| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| first))?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            };
            // The caller may have gone.
            let _ = send.send(attempt());
        })
        .map_err(|e| RuntimeError::transient("port_forward", e))?;
    let stream = receive.await.map_err(|e| RuntimeError::transient("port_forward", e))?;
    let stream =
        stream.map_err(|e| RuntimeError::transient("port_forward", io::Error::new(e.kind(), format!("connect to port {port}: {e}"))))?;
    tokio::net::TcpStream::from_std(stream).map_err(|e| RuntimeError::transient("port_forward", e))
}
