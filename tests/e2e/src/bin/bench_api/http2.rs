//! HTTP/2 as a load generator needs it: many requests at once on a connection, written and read without a copy to spare.

use std::collections::VecDeque;

use crate::Outcome;
use crate::client::{Ask, Part};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// What we let the server send, in bytes; client-go lets it send 4 MiB a stream and 1 GiB a connection.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Largest frame that we take, in bytes; client-go's.
const MAX_FRAME: u32 = 1 << 20;
/// The window of a connection before anything was said.
const FIRST_WINDOW: i64 = 65_535;
const FRAME_HEAD: usize = 9;

/// One connection.
pub struct Http2 {
    next: u32,
    /// The head that every request has in common stands in the server's table from the first one on.
    told: bool,
    /// What we may still send.
    window: i64,
    waiting: VecDeque<Vec<u8>>,
    /// What we have taken and not given back.
    taken: u32,
    /// What goes out beside requests: acknowledgements, windows.
    pub answers: Vec<u8>,
    head: [u8; FRAME_HEAD],
    have: usize,
    left: usize,
    frame: Vec<u8>,
    /// A head that continues in the next frame.
    block: Vec<u8>,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn integer(out: &mut Vec<u8>, pattern: u8, bits: u8, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

fn string(out: &mut Vec<u8>, text: &str) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Names in HPACK's static table.
const AUTHORITY: usize = 1;
const METHOD: usize = 2;
const PATH: usize = 4;
const ACCEPT: usize = 19;
const AUTHORIZATION: usize = 23;
const CONTENT_TYPE: usize = 31;
const USER_AGENT: usize = 58;
/// The first place of the dynamic table.
const DYNAMIC: usize = 62;

impl Http2 {
    /// A connection, whose preface is in `answers`.
    pub fn new() -> Self {
        let mut answers = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = Vec::new();
        // No table of heads towards us, so that a head reads by itself; no push.
        for (name, value) in [(1_u16, 0), (2, 0), (4, STREAM_WINDOW), (5, MAX_FRAME)] {
            settings.extend_from_slice(&name.to_be_bytes());
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        frame(&mut answers, SETTINGS, 0, 0, &settings);
        frame(&mut answers, WINDOW_UPDATE, 0, 0, &CONNECTION_WINDOW.to_be_bytes());
        Self {
            next: 1,
            told: false,
            window: FIRST_WINDOW,
            waiting: VecDeque::new(),
            taken: 0,
            answers,
            head: [0; FRAME_HEAD],
            have: 0,
            left: 0,
            frame: Vec::new(),
            block: Vec::new(),
        }
    }

    /// Writes a request; answers its stream.
    pub fn write(&mut self, out: &mut Vec<u8>, authority: &str, token: Option<&str>, ask: &Ask<'_>) -> u32 {
        let stream = self.next;
        self.next += 2;
        let from = out.len();
        out.extend_from_slice(&[0, 0, 0, HEADERS, END_HEADERS | if ask.body.is_empty() { END_STREAM } else { 0 }]);
        out.extend_from_slice(&stream.to_be_bytes());
        match ask.method {
            "GET" => out.push(0x82),
            "POST" => out.push(0x83),
            method => {
                integer(out, 0, 4, METHOD);
                string(out, method);
            }
        }
        // https
        out.push(0x87);
        let common =
            [(AUTHORITY, Some(authority)), (USER_AGENT, Some("wharf-bench")), (ACCEPT, Some("application/json")), (AUTHORIZATION, token)];
        let count = common.iter().filter(|(_, value)| value.is_some()).count();
        integer(out, 0, 4, PATH);
        string(out, ask.path);
        for (place, (name, value)) in common.iter().filter_map(|(name, value)| Some((name, (*value)?))).enumerate() {
            if self.told {
                integer(out, 0x80, 7, DYNAMIC + count - 1 - place);
            } else {
                integer(out, 0x40, 6, *name);
                string(out, value);
            }
        }
        self.told = true;
        if !ask.body.is_empty() {
            integer(out, 0, 4, CONTENT_TYPE);
            string(out, ask.content_type);
        }
        let length = (out.len() - from - FRAME_HEAD) as u32;
        out[from..from + 3].copy_from_slice(&length.to_be_bytes()[1..]);
        if !ask.body.is_empty() {
            let size = ask.body.len() as i64;
            if self.waiting.is_empty() && self.window >= size {
                self.window -= size;
                frame(out, DATA, END_STREAM, stream, ask.body);
            } else {
                let mut later = Vec::with_capacity(ask.body.len() + FRAME_HEAD);
                frame(&mut later, DATA, END_STREAM, stream, ask.body);
                self.waiting.push_back(later);
            }
        }
        stream
    }

    /// Reads bytes of the connection.
    pub fn receive(&mut self, mut data: &[u8], parts: &mut dyn FnMut(u32, Part<'_>) -> Outcome<()>) -> Outcome<()> {
        while !data.is_empty() || (self.have == FRAME_HEAD && self.left == 0) {
            if self.have < FRAME_HEAD {
                let taken = (FRAME_HEAD - self.have).min(data.len());
                self.head[self.have..self.have + taken].copy_from_slice(&data[..taken]);
                self.have += taken;
                data = &data[taken..];
                if self.have == FRAME_HEAD {
                    self.left = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
                }
                continue;
            }
            let (kind, flags) = (self.head[3], self.head[4]);
            let stream = u32::from_be_bytes([self.head[5], self.head[6], self.head[7], self.head[8]]) & 0x7fff_ffff;
            let taken = self.left.min(data.len());
            let (piece, rest) = data.split_at(taken);
            data = rest;
            self.left -= taken;
            let whole = self.left == 0;
            if kind == DATA && flags & PADDED == 0 {
                self.took(taken);
                if taken > 0 {
                    parts(stream, Part::Data(piece))?;
                }
                if whole && flags & END_STREAM != 0 {
                    parts(stream, Part::End)?;
                }
            } else if whole && self.frame.is_empty() {
                self.control(kind, flags, stream, piece, parts)?;
            } else {
                self.frame.extend_from_slice(piece);
                if whole {
                    let frame = std::mem::take(&mut self.frame);
                    self.control(kind, flags, stream, &frame, parts)?;
                }
            }
            if whole {
                self.have = 0;
            }
        }
        Ok(())
    }

    /// Gives back what was taken of the connection's window, seldom. A stream's is larger than any answer asked for.
    fn took(&mut self, bytes: usize) {
        self.taken += bytes as u32;
        if self.taken >= CONNECTION_WINDOW / 4 {
            frame(&mut self.answers, WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes());
            self.taken = 0;
        }
    }

    fn control(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        parts: &mut dyn FnMut(u32, Part<'_>) -> Outcome<()>,
    ) -> Outcome<()> {
        match kind {
            HEADERS | CONTINUATION => {
                let skip = if kind == HEADERS { usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 } } else { 0 };
                self.block.extend_from_slice(payload.get(skip..).ok_or("a short head")?);
                if flags & END_HEADERS != 0 {
                    if let Some(status) = status(&self.block) {
                        parts(stream, Part::Status(status))?;
                    }
                    self.block.clear();
                }
                if flags & END_STREAM != 0 {
                    parts(stream, Part::End)?;
                }
            }
            DATA => {
                self.took(payload.len());
                let padding = usize::from(*payload.first().unwrap_or(&0));
                parts(stream, Part::Data(payload.get(1..payload.len().saturating_sub(padding)).unwrap_or_default()))?;
                if flags & END_STREAM != 0 {
                    parts(stream, Part::End)?;
                }
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.answers, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.answers, PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                self.window += payload.first_chunk().map_or(0, |n| i64::from(u32::from_be_bytes(*n)));
                while let Some(size) = self.waiting.front().map(|f| (f.len() - FRAME_HEAD) as i64).filter(|size| *size <= self.window) {
                    self.window -= size;
                    self.answers.extend(self.waiting.pop_front().into_iter().flatten());
                }
            }
            RST_STREAM => return Err(format!("the server reset a stream, code {:?}", payload.last()).into()),
            GOAWAY => {
                return Err(format!("the server says goodbye: {}", String::from_utf8_lossy(payload.get(8..).unwrap_or_default())).into());
            }
            _ => {}
        }
        Ok(())
    }
}

/// The status that a head begins with; `None` for trailers. Without a dynamic table it is one of HPACK's own or a literal.
fn status(block: &[u8]) -> Option<u16> {
    let mut at = 0;
    // Changes of the table's size come first.
    while block.get(at)? & 0xe0 == 0x20 {
        at += 1;
        if block[at - 1] & 0x1f == 0x1f {
            while block.get(at)? & 0x80 != 0 {
                at += 1;
            }
            at += 1;
        }
    }
    const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match *block.get(at)? {
        indexed @ 0x88..=0x8e => KNOWN.get(usize::from(indexed - 0x88)).copied(),
        0x08..=0x0e | 0x18..=0x1e | 0x48..=0x4e => {
            let length = *block.get(at + 1)?;
            let text = block.get(at + 2..at + 2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 { std::str::from_utf8(text).ok()?.parse().ok() } else { huffman_digits(text) }
        }
        _ => None,
    }
}

/// Three digits in HPACK's code: those below 3 have five bits, the others six.
fn huffman_digits(text: &[u8]) -> Option<u16> {
    let bits = text.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)).collect::<Vec<_>>();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let read = |n: usize| bits.get(at..at + n).map(|b| b.iter().fold(0_u16, |sum, bit| sum << 1 | u16::from(*bit)));
        match (read(5)?, read(6)) {
            (digit @ 0..=2, _) => {
                number = number * 10 + digit;
                at += 5;
            }
            (_, Some(code @ 0x19..=0x1f)) => {
                number = number * 10 + code - 0x19 + 3;
                at += 6;
            }
            _ => return None,
        }
    }
    Some(number)
}
