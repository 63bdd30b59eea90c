//! One record of CRI's log format: `TIME STREAM TAGS TEXT`.

use jiff::Timestamp;

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The time as written.
    pub(super) time: &'a [u8],
    /// `stdout` or `stderr`.
    pub(super) stream: &'a [u8],
    /// The line goes on in the next record.
    pub(super) partial: bool,
    /// Without the newline.
    pub(super) text: &'a [u8],
}

/// Reads a record, given without its newline; `None` if it is none.
pub(super) fn record(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    let partial = match tags.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Record { time, stream, partial, text })
}

impl Record<'_> {
    pub(super) fn at(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_records_and_refuses_others() {
        let full = record(b"2026-01-02T03:04:05.000000001Z stdout F a b ").unwrap();
        assert_eq!((full.text, full.partial, full.stream), (&b"a b "[..], false, &b"stdout"[..]));
        assert_eq!(full.at().unwrap().subsec_nanosecond(), 1);
        assert!(record(b"2026-01-02T03:04:05+01:00 stderr P ").unwrap().partial);
        assert_eq!(record(b"2026-01-02T03:04:05Z stderr F").unwrap().text, b"");
        for bad in [&b""[..], b"x", b"t stdin F x", b"t stdout X x", b"t stdout", b"\xff\xff\xff"] {
            assert!(record(bad).is_none());
        }
    }
}
