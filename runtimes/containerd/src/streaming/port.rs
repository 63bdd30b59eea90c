//! Port forwarding: one port a connection, over a pair of SPDY streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use wharf_core::runtime::{RuntimeError, RuntimeResult};

use super::spdy::{Frame, MAX_DATA, Reader, Writer};
use super::upgrade::{Stream, upgrade};
use crate::client::Cri;
use crate::error::CriError;

const PROTOCOL: &str = "portforward.k8s.io";
const ERROR: u32 = 1;
const DATA: u32 = 3;
/// What waits between a user and the connection, in bytes each way.
const BUFFER: usize = 64 << 10;
/// Longest word on why a port is not reached, in bytes.
const MAX_MESSAGE: usize = 4 << 10;

/// A connection to a port in a sandbox. The runtime connects after it has agreed, so a port that nobody listens on is an error of
/// the first read.
#[derive(Debug)]
pub(crate) struct Port {
    stream: DuplexStream,
    failure: Arc<Mutex<Option<String>>>,
}

impl AsyncRead for Port {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let ended = buffer.filled().len() == before && buffer.remaining() > 0;
        let failure = if ended { self.failure.lock().take() } else { None };
        Poll::Ready(failure.map_or(Ok(()), |message| Err(io::Error::new(io::ErrorKind::ConnectionRefused, message))))
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Asks for a port.
pub(crate) async fn port(cri: &Cri, op: &'static str, url: &str, port: u16) -> RuntimeResult<Port> {
    let mut connection = upgrade(cri, op, url, PROTOCOL).await?;
    let mut writer = Writer::default();
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
    let mut opening = writer.open(ERROR, &headers("error")).to_vec();
    opening.extend_from_slice(&Writer::close(ERROR));
    opening.extend_from_slice(&writer.open(DATA, &headers("data")));
    let lost = |e: io::Error| RuntimeError::transient(op, CriError::Streaming(e.to_string()));
    connection.write_all(&opening).await.map_err(lost)?;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let failure = Arc::new(Mutex::new(None));
    tokio::spawn(serve(connection, theirs, Arc::clone(&failure)));
    Ok(Port { stream: ours, failure })
}

/// Copies both ways until the port has closed, or its user has gone.
async fn serve(connection: Stream, user: DuplexStream, failure: Arc<Mutex<Option<String>>>) {
    let (mut reading, mut writing) = tokio::io::split(connection);
    let (mut from_user, mut to_user) = tokio::io::split(user);
    // Pings go unanswered: this server sends none that wait for an answer.
    let up = async {
        let mut buffer = BytesMut::with_capacity(MAX_DATA);
        loop {
            buffer.clear();
            let frame = match (&mut from_user).take(MAX_DATA as u64).read_buf(&mut buffer).await {
                Ok(0) | Err(_) => Writer::close(DATA),
                Ok(_) => Writer::data(DATA, &buffer),
            };
            if writing.write_all(&frame).await.is_err() || buffer.is_empty() {
                return;
            }
        }
    };
    let down = async {
        let mut reader = Reader::default();
        let mut message = Vec::new();
        let (mut errors, mut data) = (true, true);
        while errors || data {
            match reader.next() {
                Ok(Some(Frame::Data { stream: ERROR, data: text, last })) => {
                    let room = MAX_MESSAGE.saturating_sub(message.len());
                    message.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
                    errors &= !last;
                }
                Ok(Some(Frame::Data { stream: DATA, data: bytes, last })) => {
                    if to_user.write_all(&bytes).await.is_err() {
                        return;
                    }
                    data &= !last;
                }
                Ok(Some(Frame::Reset { stream })) => {
                    errors &= stream != ERROR;
                    data &= stream != DATA;
                }
                Ok(Some(Frame::GoAway)) | Err(_) => break,
                Ok(Some(_)) => {}
                Ok(None) => match reading.read_buf(&mut reader.buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                },
            }
        }
        if !message.is_empty() {
            *failure.lock() = Some(String::from_utf8_lossy(&message).into_owned());
        }
        let _ = to_user.shutdown().await;
    };
    let up = async {
        up.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = down => {}
        () = up => {}
    }
}
