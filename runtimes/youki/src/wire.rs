//! The stream socket between agent and shim: frames of a kind, a length and bytes.
//!
//! The task API carries no bytes of standard streams; this does, in one connection per exec or attach.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest payload of a frame.
pub(crate) const MAX_FRAME: usize = 64 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A [`Hello`], first from the client.
    Hello = 0,
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
    /// Two little-endian u16: columns and rows.
    Resize = 4,
    CloseStdin = 5,
    /// Little-endian i32: the exit code. The last frame.
    Exit = 6,
    /// The hello was accepted.
    Ready = 7,
    /// The hello was refused, with the reason.
    Refused = 8,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Hello,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::Resize,
            5 => Self::CloseStdin,
            6 => Self::Exit,
            7 => Self::Ready,
            8 => Self::Refused,
            _ => return None,
        })
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// The streams of a container, or of an exec in it that has not begun.
    Attach { container: String, exec: Option<String>, stdin: bool, stdout: bool, stderr: bool },
    /// Opens the log file again, after rotation.
    ReopenLog { container: String },
}

/// Reads a frame; `None` at the end.
pub(crate) async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Kind, Bytes)>> {
    let mut head = [0u8; 5];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let kind = Kind::from_u8(head[0]).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown frame"))?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut payload = BytesMut::zeroed(length);
    reader.read_exact(&mut payload).await?;
    Ok(Some((kind, payload.freeze())))
}

/// Writes bytes as one or more frames.
pub(crate) async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    let mut rest = payload;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_FRAME));
        let mut frame = BytesMut::with_capacity(5 + now.len());
        frame.put_u8(kind as u8);
        frame.put_u32_le(now.len() as u32);
        frame.put_slice(now);
        writer.write_all(&frame).await?;
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_sent() {
        let (mut a, mut b) = tokio::io::duplex(1 << 20);
        let long = vec![7u8; MAX_FRAME + 1];
        write_frame(&mut a, Kind::Stdout, &long).await.unwrap();
        write_frame(&mut a, Kind::Exit, &3i32.to_le_bytes()).await.unwrap();
        drop(a);
        assert_eq!(read_frame(&mut b).await.unwrap().unwrap().1.len(), MAX_FRAME);
        assert_eq!(read_frame(&mut b).await.unwrap().unwrap(), (Kind::Stdout, Bytes::from_static(&[7])));
        assert_eq!(read_frame(&mut b).await.unwrap().unwrap().0, Kind::Exit);
        assert!(read_frame(&mut b).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_frame_beyond_the_bound_is_refused() {
        let mut bytes: &[u8] = &[2, 0xff, 0xff, 0xff, 0xff];
        assert!(read_frame(&mut bytes).await.is_err());
    }
}
