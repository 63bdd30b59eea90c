//! What a connection writes in one turn goes out together.
//!
//! hyper flushes after every HTTP/2 frame of some size. Behind TLS each flush is a record and a call of the system, which cost more
//! than most requests. So writes are gathered and flushes put off until the connection's future has nothing more to do.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are gathered before they are sent.
const MOST: usize = 48 << 10;
/// Writes of this size and more are not copied.
const LARGE: usize = 16 << 10;

/// Buffers that a listener keeps for its connections.
const SPARE: usize = 16;

/// Buffers for what is gathered. Memory that large costs the allocator more than the requests it is for.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_else(|| Vec::with_capacity(MOST))
    }
    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.lock();
        if buffer.capacity() == MOST && spare.len() < SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    spare: Arc<Spare>,
    out: Vec<u8>,
    sent: usize,
    /// Whether somebody calls [`Gathered::end_turn`].
    has_turns: bool,
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        if self.sent > 0 {
            // A connection that is idle holds no memory for this.
            self.spare.give_back(std::mem::take(&mut self.out));
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// A stream that gathers writes. Clones are the same stream.
#[derive(Debug)]
pub(super) struct Gathered<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    /// Gathers until [`end_turn`](Self::end_turn).
    pub(super) fn new(stream: S, spare: Arc<Spare>) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, spare, out: Vec::new(), sent: 0, has_turns: true })))
    }

    /// Sends what was gathered. What does not go out yet goes when the task is woken again.
    pub(super) fn end_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_flush(cx)
    }

    /// From here on a flush is one: whoever has the stream now, as after an upgrade, has no turns.
    pub(super) fn end_turns(&self) {
        self.0.lock().has_turns = false;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        let total = bufs.iter().map(|b| b.len()).sum();
        if total >= LARGE || inner.out.len() + total > MOST {
            ready!(inner.poll_send(cx))?;
        }
        if total >= LARGE {
            return Pin::new(&mut inner.stream).poll_write_vectored(cx, bufs);
        }
        if inner.out.capacity() == 0 {
            inner.out = inner.spare.take();
        }
        for buf in bufs {
            inner.out.extend_from_slice(buf);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.has_turns { Poll::Ready(Ok(())) } else { inner.poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_turn_goes_out_together_and_in_order() {
        let (near, mut far) = tokio::io::duplex(MOST);
        let mut gathered = Gathered::new(near, Arc::default());
        for piece in ["a", "bc", "d"] {
            gathered.write_all(piece.as_bytes()).await.unwrap();
            gathered.flush().await.unwrap();
        }
        let mut heard = [0; 4];
        assert!(futures::FutureExt::now_or_never(far.read(&mut heard)).is_none());
        poll_fn(|cx| gathered.end_turn(cx)).await.unwrap();
        assert_eq!(far.read(&mut heard).await.unwrap(), 4);
        assert_eq!(&heard, b"abcd");
    }

    #[tokio::test]
    async fn more_than_fits_waits_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let mut gathered = Gathered::new(near, Arc::default());
        let all: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
        let want = all.clone();
        let writer = tokio::spawn(async move {
            // Small ones, large ones, and those between.
            let (mut rest, mut size) = (&all[..], 1);
            while !rest.is_empty() {
                let piece;
                (piece, rest) = rest.split_at(size.min(rest.len()));
                gathered.write_all(piece).await.unwrap();
                size = size * 3 % 40_009;
            }
            gathered.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        writer.await.unwrap();
        assert!(heard == want);
    }

    #[tokio::test]
    async fn without_turns_a_flush_sends() {
        let (near, mut far) = tokio::io::duplex(MOST);
        let mut gathered = Gathered::new(near, Arc::default());
        gathered.write_all(b"early").await.unwrap();
        gathered.end_turns();
        gathered.flush().await.unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"early");
    }
}
