//! SPDY/3.1 frames from a client's side: no I/O, no flow control (Kubernetes' servers have none), no server's headers read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest frame taken, in bytes.
const MAX_FRAME: usize = 1 << 20;
/// Most bytes of data put into one frame.
pub(super) const MAX_DATA: usize = 32 << 10;
const HEAD: usize = 8;
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
/// Nothing more comes on the stream in this direction.
const FIN: u32 = 1 << 24;
/// The bits of a stream's number.
const STREAM: u32 = 0x7fff_ffff;

/// Bytes that are no SPDY.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes is larger than {MAX_FRAME}")]
    TooLarge(usize),
    #[error("a frame of type {0} is too short")]
    Short(u16),
    #[error("the server speaks another version of SPDY")]
    Version,
}

/// What a server sent, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Data on a stream; `last` closes it in this direction.
    Data { stream: u32, data: Bytes, last: bool },
    /// The stream is over in both directions.
    Reset { stream: u32 },
    /// To be answered as it is.
    Ping { id: u32 },
    /// The connection is over.
    GoAway,
}

/// The frames of a byte stream.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// What has come and is not yet a frame.
    pub(super) buffer: BytesMut,
}

impl Reader {
    /// The next whole frame that matters; `None` until there are more bytes.
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
            let mut body = self.buffer.split_to(length).freeze();
            if a & 0x80 == 0 {
                let last = u32::from(flags) << 24 & FIN != 0;
                return Ok(Some(Frame::Data { stream: u32::from_be_bytes([a, b, c, d]), data: body, last }));
            }
            if u16::from_be_bytes([a, b]) != CONTROL {
                return Err(SpdyError::Version);
            }
            let kind = u16::from_be_bytes([c, d]);
            let mut word = || if body.len() < 4 { Err(SpdyError::Short(kind)) } else { Ok(body.get_u32()) };
            match kind {
                RST_STREAM => return Ok(Some(Frame::Reset { stream: word()? & STREAM })),
                PING => return Ok(Some(Frame::Ping { id: word()? })),
                GO_AWAY => return Ok(Some(Frame::GoAway)),
                // Replies, whose headers say nothing; settings and window updates.
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Writes frames. Header blocks are stored, not compressed, in the one zlib stream that they are of a connection.
#[derive(Debug, Default)]
pub(super) struct Writer {
    begun: bool,
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + body.len());
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    // Flags are zero; the bodies made here are some hundred bytes.
    frame.put_u32(body.len() as u32);
    frame.put_slice(body);
    frame.freeze()
}

impl Writer {
    /// Opens a stream, with an odd number greater than that of the one before. Names are in lower case.
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.put_slice(text.as_bytes());
        }
        let mut body = BytesMut::new();
        body.put_u32(stream);
        // It goes with no other stream, has no priority and no slot.
        body.put_slice(&[0; 6]);
        if !std::mem::replace(&mut self.begun, true) {
            body.put_slice(&[0x78, 0x01]);
        }
        // A stored block: not the last, its length and its complement.
        body.put_u8(0);
        body.put_u16_le(block.len() as u16);
        body.put_u16_le(!(block.len() as u16));
        body.put_slice(&block);
        // An empty one: readers in Go hand out what they have when they come to it, and else wait for more.
        body.put_slice(&[0, 0, 0, 0xff, 0xff]);
        control(SYN_STREAM, &body)
    }

    /// Data on a stream, at most [`MAX_DATA`] bytes.
    pub(super) fn data(stream: u32, data: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEAD + data.len());
        frame.put_u32(stream & STREAM);
        frame.put_u32(data.len() as u32);
        frame.put_slice(data);
        frame.freeze()
    }

    /// Closes our direction of a stream.
    pub(super) fn close(stream: u32) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEAD);
        frame.put_u32(stream & STREAM);
        frame.put_u32(FIN);
        frame.freeze()
    }

    /// Answers a ping.
    pub(super) fn pong(id: u32) -> Bytes {
        control(PING, &id.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let bytes = [
            Writer::data(1, b"abc"),
            control(2, &[0; 9]),
            Writer::pong(7),
            Writer::close(3),
            control(RST_STREAM, &[0, 0, 0, 5, 0, 0, 0, 1]),
            control(GO_AWAY, &[0; 8]),
        ]
        .concat();
        let mut reader = Reader::default();
        let mut frames = Vec::new();
        for byte in bytes {
            reader.buffer.put_u8(byte);
            while let Some(frame) = reader.next().unwrap() {
                frames.push(frame);
            }
        }
        let expected = [
            Frame::Data { stream: 1, data: "abc".into(), last: false },
            Frame::Ping { id: 7 },
            Frame::Data { stream: 3, data: Bytes::new(), last: true },
            Frame::Reset { stream: 5 },
            Frame::GoAway,
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn nonsense_is_an_error() {
        let feed = |bytes: &[u8]| Reader { buffer: bytes.into() }.next();
        assert_eq!(feed(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(SpdyError::TooLarge(0xff_ffff)));
        assert_eq!(feed(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version));
        assert_eq!(feed(&control(RST_STREAM, &[0; 3])), Err(SpdyError::Short(RST_STREAM)));
    }

    #[test]
    fn a_stream_is_opened_with_a_stored_header_block() {
        let mut writer = Writer::default();
        let frame = writer.open(1, &[("a", "bc")]);
        let block = [0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 2, b'b', b'c'];
        let expected = [&[0x78, 0x01, 0, 15, 0, !15, 0xff][..], &block, &[0, 0, 0, 0xff, 0xff]].concat();
        assert_eq!(frame[HEAD + 10..], expected);
        // The zlib stream has one beginning.
        assert_eq!(writer.open(3, &[("a", "bc")])[HEAD + 10..], expected[2..]);
    }
}
