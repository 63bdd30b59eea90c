//! HTTP/1.1 as a load generator needs it: one request at a time on a connection that stays.

use std::io::Write;

use crate::Outcome;
use crate::client::{Ask, Part};

/// Longest head of a response, in bytes.
const MAX_HEAD: usize = 64 << 10;

#[derive(Default)]
enum At {
    #[default]
    Head,
    /// So many bytes of a body of known length.
    Body(usize),
    ChunkSize,
    /// So many bytes of a chunk, line end included.
    Chunk(usize),
    Trailer,
}

/// Reads responses.
#[derive(Default)]
pub struct Http1 {
    at: At,
    /// A head or a line that has not come whole.
    line: Vec<u8>,
}

/// Writes a request.
pub fn write(out: &mut Vec<u8>, authority: &str, token: Option<&str>, ask: &Ask<'_>) {
    let _ =
        write!(out, "{} {} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: wharf-bench\r\naccept: application/json\r\n", ask.method, ask.path);
    if let Some(token) = token {
        let _ = write!(out, "authorization: {token}\r\n");
    }
    if ask.body.is_empty() {
        out.extend_from_slice(b"\r\n");
    } else {
        let _ = write!(out, "content-type: {}\r\ncontent-length: {}\r\n\r\n", ask.content_type, ask.body.len());
        out.extend_from_slice(ask.body);
    }
}

impl Http1 {
    /// Reads bytes of the connection.
    pub fn receive(&mut self, mut data: &[u8], parts: &mut dyn FnMut(u32, Part<'_>) -> Outcome<()>) -> Outcome<()> {
        while !data.is_empty() {
            match self.at {
                At::Head => {
                    let Some(head) = self.until(b"\r\n\r\n", &mut data)? else { return Ok(()) };
                    self.head(&head, parts)?;
                }
                At::Body(left) => {
                    let taken = left.min(data.len());
                    parts(0, Part::Data(&data[..taken]))?;
                    data = &data[taken..];
                    self.at = At::Body(left - taken);
                    if left == taken {
                        self.at = At::Head;
                        parts(0, Part::End)?;
                    }
                }
                At::ChunkSize => {
                    let Some(line) = self.until(b"\r\n", &mut data)? else { return Ok(()) };
                    let digits = line.split(|b| matches!(b, b'\r' | b';')).next().and_then(|d| std::str::from_utf8(d).ok());
                    let size = digits.and_then(|d| usize::from_str_radix(d.trim(), 16).ok()).ok_or("a chunk without a size")?;
                    self.at = if size == 0 { At::Trailer } else { At::Chunk(size + 2) };
                }
                At::Chunk(left) => {
                    let taken = left.min(data.len());
                    // The last two bytes end the line.
                    let content = taken.min(left.saturating_sub(2));
                    if content > 0 {
                        parts(0, Part::Data(&data[..content]))?;
                    }
                    data = &data[taken..];
                    self.at = if left == taken { At::ChunkSize } else { At::Chunk(left - taken) };
                }
                At::Trailer => {
                    let Some(line) = self.until(b"\r\n", &mut data)? else { return Ok(()) };
                    if line.len() == 2 {
                        self.at = At::Head;
                        parts(0, Part::End)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything up to and with `end`, once it has come.
    fn until(&mut self, end: &[u8], data: &mut &[u8]) -> Outcome<Option<Vec<u8>>> {
        let from = self.line.len().saturating_sub(end.len() - 1);
        let known = self.line.len();
        self.line.extend_from_slice(&data[..data.len().min(MAX_HEAD)]);
        let Some(found) = self.line[from..].windows(end.len()).position(|w| w == end) else {
            if self.line.len() > MAX_HEAD {
                return Err("a head that does not end".into());
            }
            *data = &[];
            return Ok(None);
        };
        let length = from + found + end.len();
        *data = &data[length - known..];
        self.line.truncate(length);
        Ok(Some(std::mem::take(&mut self.line)))
    }

    fn head(&mut self, head: &[u8], parts: &mut dyn FnMut(u32, Part<'_>) -> Outcome<()>) -> Outcome<()> {
        let status =
            head.get(9..12).and_then(|s| std::str::from_utf8(s).ok()).and_then(|s| s.parse().ok()).ok_or("a head without a status")?;
        parts(0, Part::Status(status))?;
        let header = |name: &str| {
            head.split(|b| *b == b'\n').skip(1).find_map(|line| {
                let (found, value) = line.split_at_checked(name.len())?;
                (found.eq_ignore_ascii_case(name.as_bytes()) && value.first() == Some(&b':'))
                    .then(|| String::from_utf8_lossy(&value[1..]).trim().to_ascii_lowercase())
            })
        };
        if header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            self.at = At::ChunkSize;
            return Ok(());
        }
        match header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0) {
            0 => parts(0, Part::End),
            length => {
                self.at = At::Body(length);
                Ok(())
            }
        }
    }
}
