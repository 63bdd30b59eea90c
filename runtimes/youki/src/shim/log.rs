//! Container logs in CRI format: `RFC3339Nano stream tag text`, tag `F` for a whole line and `P` for a part.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::wire::Kind;

/// The longest text of one record; a longer line is split.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// The log file of a container.
#[derive(Debug)]
pub(crate) struct CriLog {
    path: PathBuf,
    file: File,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl CriLog {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), file: open(path)?, stdout: Vec::new(), stderr: Vec::new() })
    }

    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Takes output as it comes and writes the lines that it completes.
    pub(crate) fn write(&mut self, stream: Kind, chunk: &[u8], now: Timestamp) -> io::Result<()> {
        let (pending, name) = match stream {
            Kind::Stderr => (&mut self.stderr, "stderr"),
            _ => (&mut self.stdout, "stdout"),
        };
        let mut records = Vec::new();
        frame(pending, chunk, name, now, &mut records);
        if records.is_empty() { Ok(()) } else { self.file.write_all(&records) }
    }

    /// Writes what is left of a stream that ended without a newline.
    pub(crate) fn finish(&mut self, stream: Kind, now: Timestamp) -> io::Result<()> {
        let (pending, name) = match stream {
            Kind::Stderr => (&mut self.stderr, "stderr"),
            _ => (&mut self.stdout, "stdout"),
        };
        if pending.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        record(&mut out, now, name, 'P', pending);
        pending.clear();
        self.file.write_all(&out)
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

fn record(out: &mut Vec<u8>, now: Timestamp, stream: &str, tag: char, text: &[u8]) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{now:.9} {stream} {tag} ");
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Splits output into records, keeping the unfinished line in `pending`.
fn frame(pending: &mut Vec<u8>, mut chunk: &[u8], stream: &str, now: Timestamp, out: &mut Vec<u8>) {
    while !chunk.is_empty() {
        let room = MAX_LINE - pending.len();
        match chunk.iter().take(room + 1).position(|b| *b == b'\n') {
            Some(end) => {
                pending.extend_from_slice(&chunk[..end]);
                record(out, now, stream, 'F', pending);
                pending.clear();
                chunk = &chunk[end + 1..];
            }
            None if chunk.len() > room => {
                pending.extend_from_slice(&chunk[..room]);
                record(out, now, stream, 'P', pending);
                pending.clear();
                chunk = &chunk[room..];
            }
            None => {
                pending.extend_from_slice(chunk);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(chunks: &[&[u8]]) -> (String, Vec<u8>) {
        let (mut pending, mut out) = (Vec::new(), Vec::new());
        for chunk in chunks {
            frame(&mut pending, chunk, "stdout", Timestamp::UNIX_EPOCH, &mut out);
        }
        (String::from_utf8(out).unwrap(), pending)
    }

    #[test]
    fn a_line_in_pieces_is_one_full_record() {
        let (out, pending) = framed(&[b"hel", b"lo\nwor"]);
        assert_eq!(out, "1970-01-01T00:00:00.000000000Z stdout F hello\n");
        assert_eq!(pending, b"wor");
    }

    #[test]
    fn an_empty_line_is_a_record() {
        assert_eq!(framed(&[b"\n"]).0, "1970-01-01T00:00:00.000000000Z stdout F \n");
    }

    #[test]
    fn a_long_line_is_split_into_parts() {
        let mut long = vec![b'x'; MAX_LINE + 5];
        long.push(b'\n');
        let (out, pending) = framed(&[&long]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(" stdout P ") && lines[1].ends_with(" stdout F xxxxx"));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_line_of_just_the_bound_is_whole() {
        let mut line = vec![b'x'; MAX_LINE];
        line.push(b'\n');
        let (out, _) = framed(&[&line]);
        assert_eq!(out.lines().count(), 1);
        assert!(out.contains(" stdout F "));
    }
}
