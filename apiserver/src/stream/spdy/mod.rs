//! SPDY/3.1 frames, as far as port-forwarding needs them: no I/O, no flow control (Kubernetes' clients have none).

mod headers;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub(super) use headers::HeaderError;
use headers::{Deflate, Inflate};

/// Largest frame taken, in bytes.
pub(super) const MAX_FRAME: usize = 1 << 20;
const HEAD: usize = 8;
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;
/// Nothing more comes on the stream.
const FIN: u8 = 1;
/// The status of a stream that the server does not want.
pub(super) const REFUSED_STREAM: u32 = 3;

/// Bytes that are no SPDY.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes is larger than {MAX_FRAME}")]
    TooLarge(usize),
    #[error("a frame of type {0} is too short")]
    Short(u16),
    #[error("it is not version 3")]
    Version,
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream, with names in lower case.
    Open { stream: u32, headers: Vec<(String, String)> },
    /// Data on a stream; `last` closes it in this direction.
    Data { stream: u32, data: Bytes, last: bool },
    /// The stream is over.
    Reset { stream: u32 },
    /// To be answered as it is.
    Ping { id: u32 },
    /// The connection is over.
    GoAway,
}

/// One side of a connection.
#[derive(Default)]
pub(super) struct Spdy {
    buffer: BytesMut,
    inflate: Inflate,
    deflate: Deflate,
}

fn word(body: &mut Bytes, kind: u16) -> Result<u32, SpdyError> {
    if body.len() < 4 {
        return Err(SpdyError::Short(kind));
    }
    Ok(body.get_u32())
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + body.len());
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    // Flags are zero; the bodies made here are a few bytes.
    frame.put_u32(body.len() as u32);
    frame.put_slice(body);
    frame.freeze()
}

impl Spdy {
    /// Takes bytes in.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame that matters; `None` until more bytes are fed.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        while let Some(head) = self.buffer.first_chunk::<HEAD>() {
            let [a, b, c, d, flags, x, y, z] = *head;
            let length = u32::from_be_bytes([0, x, y, z]) as usize;
            if length > MAX_FRAME {
                return Err(SpdyError::TooLarge(length));
            }
            if self.buffer.len() < HEAD + length {
                return Ok(None);
            }
            self.buffer.advance(HEAD);
            let body = self.buffer.split_to(length).freeze();
            if a & 0x80 == 0 {
                let stream = u32::from_be_bytes([a, b, c, d]);
                return Ok(Some(Frame::Data { stream, data: body, last: flags & FIN != 0 }));
            }
            if u16::from_be_bytes([a, b]) != CONTROL {
                return Err(SpdyError::Version);
            }
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), body)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    fn control(&mut self, kind: u16, mut body: Bytes) -> Result<Option<Frame>, SpdyError> {
        Ok(match kind {
            SYN_STREAM => {
                let stream = word(&mut body, kind)? & 0x7fff_ffff;
                // The stream that it goes with, its priority and its slot say nothing here.
                word(&mut body, kind)?;
                if body.len() < 2 {
                    return Err(SpdyError::Short(kind));
                }
                body.advance(2);
                Some(Frame::Open { stream, headers: self.inflate.headers(&body)? })
            }
            SYN_REPLY | HEADERS => {
                word(&mut body, kind)?;
                // All headers of a connection are one compressed stream: none may be left out.
                self.inflate.headers(&body)?;
                None
            }
            RST_STREAM => Some(Frame::Reset { stream: word(&mut body, kind)? & 0x7fff_ffff }),
            PING => Some(Frame::Ping { id: word(&mut body, kind)? }),
            GO_AWAY => Some(Frame::GoAway),
            // Settings and window updates.
            _ => None,
        })
    }

    /// Agrees to a stream.
    pub(super) fn reply(&mut self, stream: u32) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u32(stream);
        self.deflate.no_headers(&mut body);
        control(SYN_REPLY, &body)
    }
    /// Refuses or ends a stream.
    pub(super) fn reset(stream: u32, status: u32) -> Bytes {
        control(RST_STREAM, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
    }
    /// Answers a ping.
    pub(super) fn pong(id: u32) -> Bytes {
        control(PING, &id.to_be_bytes())
    }
    /// Data on a stream, at most [`MAX_FRAME`] bytes.
    pub(super) fn data(stream: u32, data: &[u8], last: bool) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEAD + data.len());
        frame.put_u32(stream & 0x7fff_ffff);
        let flags = if last { u32::from(FIN) << 24 } else { 0 };
        frame.put_u32(flags | data.len() as u32);
        frame.put_slice(data);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let bytes =
            [Spdy::data(1, b"abc", false), Spdy::pong(7), Spdy::data(3, b"", true), Spdy::reset(5, 1), control(9, &[0; 8])].concat();
        let mut spdy = Spdy::default();
        let mut frames = Vec::new();
        for byte in bytes {
            spdy.feed(&[byte]);
            while let Some(frame) = spdy.next().unwrap() {
                frames.push(frame);
            }
        }
        let expected = [
            Frame::Data { stream: 1, data: "abc".into(), last: false },
            Frame::Ping { id: 7 },
            Frame::Data { stream: 3, data: Bytes::new(), last: true },
            Frame::Reset { stream: 5 },
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn nonsense_is_an_error() {
        let feed = |bytes: &[u8]| {
            let mut spdy = Spdy::default();
            spdy.feed(bytes);
            spdy.next()
        };
        assert!(matches!(feed(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(SpdyError::TooLarge(_))));
        assert!(matches!(feed(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version)));
        assert!(matches!(feed(&control(SYN_STREAM, &[0; 9])), Err(SpdyError::Short(SYN_STREAM))));
        assert!(matches!(feed(&control(SYN_STREAM, &[0xff; 30])), Err(SpdyError::Headers(_))));
    }
}
