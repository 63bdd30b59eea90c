//! Reading a log: from the end by blocks, and on as it grows.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::mpsc;
use wharf_core::api::ApiError;
use wharf_core::clock::Clock;
use wharf_core::node::LogOptions;
use wharf_core::runtime::{ContainerState, SharedRuntime};

use super::parse;

/// Read at once.
const BLOCK: usize = 64 * 1024;
/// A longer line is given out in pieces.
const MAX_LINE: usize = 256 * 1024;
/// Chunks that wait for a slow reader.
const CHUNKS: usize = 16;
/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Where a container's log is.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) container_id: String,
    pub(crate) runtime: SharedRuntime,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The offset at which the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut at = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(at);
    }
    let mut block = vec![0; BLOCK];
    let (mut seen, end) = (0, at);
    while at > 0 {
        let size = usize::try_from(at).unwrap_or(BLOCK).min(BLOCK);
        at -= size as u64;
        file.seek(SeekFrom::Start(at)).await?;
        file.read_exact(&mut block[..size]).await?;
        for (index, byte) in block[..size].iter().enumerate().rev() {
            // The newline that ends the file begins no line.
            if *byte == b'\n' && at + index as u64 + 1 != end {
                seen += 1;
                if seen == lines {
                    return Ok(at + index as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

/// The text of the last lines.
pub(super) async fn tail(path: &Path, lines: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path).await?;
    let start = tail_start(&mut file, lines).await?;
    file.seek(SeekFrom::Start(start)).await?;
    let mut raw = Vec::new();
    file.take(MAX_LINE as u64).read_to_end(&mut raw).await?;
    let mut filter = Filter::new(&LogOptions::default(), Timestamp::MIN);
    let mut out = Vec::new();
    filter.feed(&raw, &mut out);
    Ok(out)
}

/// Turns raw log bytes into what was asked for.
#[derive(Debug)]
struct Filter {
    since: Option<Timestamp>,
    stream: Option<Vec<u8>>,
    timestamps: bool,
    left: Option<u64>,
    rest: Vec<u8>,
    /// The last record given out went on in the next.
    within: bool,
}

impl Filter {
    fn new(options: &LogOptions, now: Timestamp) -> Self {
        let ago = options.since_seconds.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok());
        Self {
            since: options.since_time.or(ago),
            stream: options.stream.as_ref().filter(|s| *s != "All").map(|s| s.to_lowercase().into_bytes()),
            timestamps: options.timestamps,
            left: options.limit_bytes,
            rest: Vec::new(),
            within: false,
        }
    }
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }
    fn feed(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        self.rest.extend_from_slice(raw);
        let mut from = 0;
        while let Some(length) = self.rest[from..].iter().position(|b| *b == b'\n') {
            let line = self.rest[from..from + length].to_vec();
            from += length + 1;
            self.line(&line, out);
        }
        self.rest.drain(..from);
        if self.rest.len() > MAX_LINE {
            // No runtime writes such records: it is not a log in this format.
            self.rest.clear();
        }
    }
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = parse::record(line) else { return };
        let old = self.since.is_some_and(|since| record.at().is_some_and(|at| at < since));
        if old || self.stream.as_ref().is_some_and(|s| s != record.stream) {
            return;
        }
        let before = out.len();
        if self.timestamps && !self.within {
            out.extend_from_slice(record.time);
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if !record.partial {
            out.push(b'\n');
        }
        self.within = record.partial;
        if let Some(left) = &mut self.left {
            let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len() - before);
            out.truncate(before + fits);
            *left -= fits as u64;
        }
    }
}

/// A log as a stream, which ends with the log, or, followed, with the container.
///
/// # Errors
/// When the log cannot be opened.
pub(crate) async fn stream(source: Source, options: LogOptions) -> io::Result<BoxStream<'static, Result<Bytes, ApiError>>> {
    let mut file = File::open(&source.path).await?;
    let start = match options.tail_lines {
        Some(lines) => tail_start(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let (send, receive) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        let failed = send.clone();
        tokio::select! {
            done = Box::pin(pump(source, options, file, send)) => {
                if let Err(error) = done {
                    // The reader may have gone.
                    let _ = failed.send(Err(ApiError::status(500, "InternalError", format!("failed to read the log: {error}")))).await;
                }
            }
            () = failed.closed() => {}
        }
    });
    Ok(Box::pin(futures::stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|item| (item, receive)) })))
}

async fn pump(source: Source, options: LogOptions, mut file: File, send: mpsc::Sender<Result<Bytes, ApiError>>) -> io::Result<()> {
    let mut filter = Filter::new(&options, source.clock.now());
    let mut block = vec![0; BLOCK];
    let mut last_look = false;
    loop {
        loop {
            let size = file.read(&mut block).await?;
            if size == 0 {
                break;
            }
            let mut out = Vec::new();
            filter.feed(&block[..size], &mut out);
            if !out.is_empty() && send.send(Ok(out.into())).await.is_err() {
                return Ok(());
            }
            if filter.is_full() {
                return Ok(());
            }
        }
        if !options.follow {
            return Ok(());
        }
        let at = file.metadata().await?;
        let now = tokio::fs::metadata(&source.path).await.ok();
        if now.as_ref().is_some_and(|n| n.ino() != at.ino()) {
            // Rotated: what was written before the runtime opened the new file has been read above.
            file = File::open(&source.path).await?;
            continue;
        }
        if last_look {
            return Ok(());
        }
        let running = match source.runtime.container_status(&source.container_id).await {
            Ok(status) => status.container.state == ContainerState::Running,
            Err(error) if error.is_not_found() => false,
            Err(_) => true,
        };
        // After its end, what it wrote last is read once more.
        last_look = !running;
        if running {
            source.clock.sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: usize) -> Vec<u8> {
        (0..lines)
            .flat_map(|i| {
                format!("2026-01-02T03:04:{:02}Z std{} F line {i}\n", i % 60, if i % 2 == 0 { "out" } else { "err" }).into_bytes()
            })
            .collect()
    }
    fn run(options: LogOptions, raw: &[u8]) -> String {
        let mut filter = Filter::new(&options, "2026-01-02T03:05:00Z".parse().unwrap());
        let mut out = Vec::new();
        // In small pieces: records must not depend on how reads fall.
        raw.chunks(7).for_each(|piece| filter.feed(piece, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn filters_as_asked() {
        let raw = log(4);
        let all = LogOptions::default();
        assert_eq!(run(all.clone(), &raw), "line 0\nline 1\nline 2\nline 3\n");
        assert_eq!(run(LogOptions { stream: Some("Stderr".into()), ..all.clone() }, &raw), "line 1\nline 3\n");
        assert_eq!(run(LogOptions { since_seconds: Some(58), ..all.clone() }, &raw), "line 2\nline 3\n");
        assert_eq!(run(LogOptions { limit_bytes: Some(9), ..all.clone() }, &raw), "line 0\nli");
        let timed =
            run(LogOptions { timestamps: true, ..all.clone() }, b"2026-01-02T03:04:05Z stdout P a\n2026-01-02T03:04:06Z stdout F b\n");
        assert_eq!(timed, "2026-01-02T03:04:05Z ab\n");
        assert_eq!(run(all, b"garbage\n\xff\n"), "");
    }

    #[tokio::test]
    async fn finds_the_tail_across_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, log(5000)).unwrap();
        for lines in [1u64, 3, 2500, 5000, 6000] {
            let mut file = File::open(&path).await.unwrap();
            let start = tail_start(&mut file, lines).await.unwrap();
            let raw = std::fs::read(&path).unwrap();
            let got = raw[usize::try_from(start).unwrap()..].iter().filter(|b| **b == b'\n').count() as u64;
            assert_eq!(got, lines.min(5000));
        }
        assert_eq!(tail(&path, 2).await.unwrap(), b"line 4998\nline 4999\n");
        assert_eq!(tail(&path, 0).await.unwrap(), b"");
    }
}
