//! Container logs as CRI has them: `RFC3339Nano stream tag text`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::clock::Clock;

/// The longest text of one record, in bytes. A longer line is split: its parts carry the tag `P`, its end `F`.
pub const MAX_LOG_LINE: u64 = 16 * 1024;

/// A container's log file that is being written, for runtimes that write it themselves.
///
/// Each record is one `write` of a few kilobytes at most, done in place.
#[derive(Debug)]
pub struct CriLog {
    path: PathBuf,
    file: Mutex<File>,
    clock: Arc<dyn Clock>,
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl CriLog {
    /// Opens a log, and makes it and its folder if need be; what is in it stays.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Ok(Self { path: path.into(), file: Mutex::new(open(path)?), clock })
    }

    /// Goes on in a new file of the same name, after the old one was set aside.
    ///
    /// # Errors
    /// The file system's; then the old file is written on.
    pub fn reopen(&self) -> io::Result<()> {
        let fresh = open(&self.path)?;
        *self.file.lock() = fresh;
        Ok(())
    }

    /// Copies `stdout` or `stderr` from where it is read, until it ends. What is left without a newline at the end has the tag `P`.
    ///
    /// # Cancellation
    /// Loses at most the line that was not complete.
    ///
    /// # Errors
    /// The stream's or the file system's.
    pub async fn copy(&self, stream: &str, from: impl AsyncRead + Unpin) -> io::Result<()> {
        let (mut from, mut line) = (BufReader::new(from), Vec::new());
        while (&mut from).take(MAX_LOG_LINE).read_until(b'\n', &mut line).await? > 0 {
            match line.strip_suffix(b"\n") {
                Some(text) => self.record(stream, "F", text)?,
                None => self.record(stream, "P", &line)?,
            }
            line.clear();
        }
        Ok(())
    }

    fn record(&self, stream: &str, tag: &str, text: &[u8]) -> io::Result<()> {
        // The time is taken under the lock: records of two streams do not go back in time.
        let mut file = self.file.lock();
        let head = format!("{:.9} {stream} {tag} ", self.clock.now());
        file.write_all(&[head.as_bytes(), text, b"\n"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn lines_become_records_and_go_on_in_a_new_file() {
        let dir = std::env::temp_dir().join(format!("wharf-cri-log-{}", uuid::Uuid::new_v4()));
        let path = dir.join("c/0.log");
        let log = CriLog::open(&path, Arc::new(ManualClock::default())).unwrap();
        let long = "x".repeat(usize::try_from(MAX_LOG_LINE).unwrap());
        log.copy("stdout", format!("a b\n\n{long}yz\nend").as_bytes()).await.unwrap();
        log.copy("stderr", &b"bad\n"[..]).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(records, ["stdout F a b", "stdout F ", &format!("stdout P {long}"), "stdout F yz", "stdout P end", "stderr F bad"]);
        assert!(text.split(' ').next().unwrap().parse::<jiff::Timestamp>().is_ok());

        std::fs::rename(&path, dir.join("aside")).unwrap();
        log.reopen().unwrap();
        log.copy("stdout", &b"new\n"[..]).await.unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with(" stdout F new\n"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
