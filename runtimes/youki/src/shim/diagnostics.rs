//! What libcontainer says when it fails, kept in the sandbox's `shim.log`.
//!
//! Its errors name the step only; the cause is in its log events, some of which come from processes that are inside
//! of a container already. A descriptor opened before reaches the file from there too.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes error events to a file.
struct ErrorLog {
    file: File,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" { write!(self.0, "{value:?} ") } else { write!(self.0, "{}={value:?} ", field.name()) };
    }
}

impl Subscriber for ErrorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::ERROR
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::from("libcontainer: "));
        event.record(&mut line);
        line.0.push('\n');
        // Diagnosis must not be a fault of its own.
        let _ = (&self.file).write_all(line.0.as_bytes());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Sends this process's error events to a file.
pub(super) fn install(path: &Path) {
    if let Ok(file) = OpenOptions::new().create(true).append(true).open(path) {
        // A helper sets it once, before anything else could.
        let _ = tracing::subscriber::set_global_default(ErrorLog { file });
    }
}
