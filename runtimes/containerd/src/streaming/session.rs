//! Exec and attach: the streams of `v4.channel.k8s.io`, each a SPDY stream.

use std::future::Future;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use wharf_core::runtime::{RuntimeError, RuntimeResult, SESSION_CHUNKS, Session, TerminalSize};

use super::spdy::{Frame, MAX_DATA, Reader, Writer};
use super::upgrade::{Stream, upgrade};
use crate::client::Cri;
use crate::error::CriError;

const PROTOCOL: &str = "v4.channel.k8s.io";
const STREAM_TYPE: &str = "streamtype";
/// Largest status of an ended command, in bytes.
const MAX_STATUS: usize = 64 << 10;
/// What is read from the connection at once, in bytes.
const READ: usize = 32 << 10;

/// The streams to ask for, as CRI allows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

impl Wanted {
    /// CRI refuses a session without any stream, and one with a terminal and standard error.
    pub(crate) fn new(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Self {
        let stderr = stderr && !tty;
        Self { stdin, stdout: stdout || !(stdin || stderr), stderr, tty }
    }
}

/// How a session ended: the command's exit code, or why there is none. Nothing where the connection was lost.
pub(crate) type End = oneshot::Receiver<Result<i32, String>>;

/// The streams of a session whose exit code is still to be told.
#[derive(Debug)]
pub(crate) struct Streams {
    stdin: Option<mpsc::Sender<Bytes>>,
    stdout: Option<mpsc::Receiver<Bytes>>,
    stderr: Option<mpsc::Receiver<Bytes>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
}

/// A stream of output: where it goes, until it ends.
#[derive(Debug)]
struct Output {
    stream: u32,
    sender: Option<mpsc::Sender<Bytes>>,
}

/// Opens the streams and starts to serve them.
pub(crate) async fn session(cri: &Cri, op: &'static str, url: &str, wanted: Wanted) -> RuntimeResult<(Streams, End)> {
    let mut connection = upgrade(cri, op, url, PROTOCOL).await?;
    let mut writer = Writer::default();
    let mut opening = Vec::new();
    let mut next = 1;
    let mut open = |kind: &str| {
        let stream = next;
        next += 2;
        opening.extend_from_slice(&writer.open(stream, &[(STREAM_TYPE, kind)]));
        stream
    };
    // The order is that of Kubernetes' clients. Nothing is ever sent on the stream of errors.
    let error = open("error");
    let stdin = wanted.stdin.then(|| open("stdin"));
    let stdout = wanted.stdout.then(|| open("stdout"));
    let stderr = wanted.stderr.then(|| open("stderr"));
    let resize = wanted.tty.then(|| open("resize"));
    opening.extend_from_slice(&Writer::close(error));
    let lost = |e: std::io::Error| RuntimeError::transient(op, CriError::Streaming(e.to_string()));
    connection.write_all(&opening).await.map_err(lost)?;

    let (frames, to_send) = mpsc::channel(SESSION_CHUNKS);
    let stdin = stdin.map(|stream| {
        let (sender, receiver) = mpsc::channel(SESSION_CHUNKS);
        tokio::spawn(send_input(stream, receiver, frames.clone()));
        sender
    });
    let resize = resize.map(|stream| {
        let (sender, receiver) = mpsc::channel(SESSION_CHUNKS);
        tokio::spawn(send_sizes(stream, receiver, frames.clone()));
        sender
    });
    let output = |stream: Option<u32>| match stream {
        Some(stream) => {
            let (sender, receiver) = mpsc::channel(SESSION_CHUNKS);
            (Some(Output { stream, sender: Some(sender) }), Some(receiver))
        }
        None => (None, None),
    };
    let ((out, stdout), (err, stderr)) = (output(stdout), output(stderr));
    let (ended, end) = oneshot::channel();
    let outputs = [out, err].into_iter().flatten().collect();
    tokio::spawn(serve(connection, error, outputs, frames, to_send, ended));
    Ok((Streams { stdin, stdout, stderr, resize }, end))
}

/// Tells the exit code once the session has ended, made by `exit` of how it did; nothing if that is `None`.
pub(crate) fn when_ended<F, Exit>(end: End, mut exited: oneshot::Sender<RuntimeResult<i32>>, exit: F)
where
    F: FnOnce(Result<i32, String>) -> Exit + Send + 'static,
    Exit: Future<Output = Option<RuntimeResult<i32>>> + Send,
{
    tokio::spawn(async move {
        // Whoever drops the exit drops the end as well, which is how the connection learns of it.
        let end = tokio::select! {
            end = end => end,
            () = exited.closed() => return,
        };
        let Ok(end) = end else { return };
        if let Some(exit) = exit(end).await {
            // Nobody may be waiting.
            let _ = exited.send(exit);
        }
    });
}

/// The session as its user sees it. Standard output may have been asked for only because CRI wants one stream at least.
pub(crate) fn visible(streams: Streams, exit: oneshot::Receiver<RuntimeResult<i32>>, stdout: bool) -> Session {
    let stdout = streams.stdout.filter(|_| stdout);
    Session { stdin: streams.stdin, stdout, stderr: streams.stderr, resize: streams.resize, exit }
}

async fn send_input(stream: u32, mut input: mpsc::Receiver<Bytes>, frames: mpsc::Sender<Bytes>) {
    while let Some(bytes) = input.recv().await {
        for chunk in bytes.chunks(MAX_DATA) {
            if frames.send(Writer::data(stream, chunk)).await.is_err() {
                return;
            }
        }
    }
    let _ = frames.send(Writer::close(stream)).await;
}

async fn send_sizes(stream: u32, mut sizes: mpsc::Receiver<TerminalSize>, frames: mpsc::Sender<Bytes>) {
    while let Some(size) = sizes.recv().await {
        let text = format!("{{\"Width\":{},\"Height\":{}}}", size.width, size.height);
        if frames.send(Writer::data(stream, text.as_bytes())).await.is_err() {
            return;
        }
    }
}

/// Reads and writes until the session is over, or nobody is interested in it any more.
async fn serve(
    connection: Stream,
    error: u32,
    mut outputs: Vec<Output>,
    frames: mpsc::Sender<Bytes>,
    mut to_send: mpsc::Receiver<Bytes>,
    mut ended: oneshot::Sender<Result<i32, String>>,
) {
    let (mut reading, mut writing) = tokio::io::split(connection);
    let write = async {
        while let Some(frame) = to_send.recv().await {
            if writing.write_all(&frame).await.is_err() {
                break;
            }
        }
        // What has arrived is still to be read, also when nothing can be sent any more.
        std::future::pending::<()>().await;
    };
    let watched: Vec<_> = outputs.iter().filter_map(|output| output.sender.clone()).collect();
    let abandoned = async {
        ended.closed().await;
        for output in &watched {
            output.closed().await;
        }
    };
    let read = async {
        let mut reader = Reader::default();
        let mut status = Vec::new();
        let mut status_open = true;
        while status_open || outputs.iter().any(|output| output.sender.is_some()) {
            match reader.next() {
                Ok(Some(Frame::Data { stream, data, last })) => {
                    if stream == error {
                        let room = MAX_STATUS.saturating_sub(status.len());
                        status.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
                        status_open &= !last;
                    } else if let Some(output) = outputs.iter_mut().find(|output| output.stream == stream) {
                        // Output that nobody takes any more is thrown away, so that the command goes on.
                        if let (Some(sender), false) = (&output.sender, data.is_empty()) {
                            let _ = sender.send(data).await;
                        }
                        if last {
                            output.sender = None;
                        }
                    }
                }
                Ok(Some(Frame::Reset { stream })) => {
                    status_open &= stream != error;
                    outputs.iter_mut().filter(|output| output.stream == stream).for_each(|output| output.sender = None);
                }
                // A writer that is behind is alive all the same.
                Ok(Some(Frame::Ping { id })) => drop(frames.try_send(Writer::pong(id))),
                Ok(Some(Frame::GoAway)) => break,
                Ok(None) => {
                    reader.buffer.reserve(READ);
                    match reading.read_buf(&mut reader.buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(_) => {}
                    }
                }
                Err(error) => return Some(Err(error.to_string())),
            }
        }
        outputs.clear();
        exit_of(&status)
    };
    let end = tokio::select! {
        end = read => end,
        () = write => None,
        () = abandoned => None,
    };
    drop(watched);
    if let Some(end) = end {
        // Nobody may be waiting.
        let _ = ended.send(end);
    }
}

/// The part of Kubernetes' `Status` that says how a command ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    reason: String,
    message: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

/// Reads the stream of errors; `None` when it ended before it said anything.
fn exit_of(status: &[u8]) -> Option<Result<i32, String>> {
    if status.is_empty() {
        return None;
    }
    let Ok(status) = serde_json::from_slice::<Status>(status) else {
        return Some(Err(String::from_utf8_lossy(status).into_owned()));
    };
    if status.status == "Success" {
        return Some(Ok(0));
    }
    let causes = status.details.unwrap_or_default().causes;
    let code = causes.iter().find(|cause| cause.reason == "ExitCode").and_then(|cause| cause.message.parse().ok());
    Some(match code {
        Some(code) if status.reason == "NonZeroExitCode" => Ok(code),
        _ => Err(status.message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_exec() {
        assert_eq!(exit_of(b""), None);
        assert_eq!(exit_of(br#"{"metadata":{},"status":"Success"}"#), Some(Ok(0)));
        let failed =
            br#"{"status":"Failure","message":"m","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(exit_of(failed), Some(Ok(7)));
        assert_eq!(exit_of(br#"{"status":"Failure","message":"no","reason":"InternalError"}"#), Some(Err("no".into())));
        assert_eq!(exit_of(b"plain"), Some(Err("plain".into())));
    }

    #[test]
    fn cri_is_asked_for_what_it_allows() {
        let wanted = Wanted::new(false, false, false, false);
        assert!(wanted.stdout && !wanted.stderr);
        let wanted = Wanted::new(true, true, true, true);
        assert!(wanted.stdin && wanted.stdout && !wanted.stderr);
        assert!(!Wanted::new(true, false, false, false).stdout);
    }
}
