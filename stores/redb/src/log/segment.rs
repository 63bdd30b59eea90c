//! One file of the log.
//!
//! ```text
//! header (64 bytes)  magic, format, capacity, store, number, crc32c
//! frame              magic, length, number, sequence, crc32c of the payload, crc32c of this; payload; zeros up to 8 bytes
//! frame ...
//! ```
//! A file is written in full before it is used, so that fdatasync has only data to write. It may hold what an older segment left in it:
//! a frame counts only if it carries this segment's number and its checksums hold, which begin with the store's id.
//!
//! A frame that does not hold may be half of a write that nobody was told of, or damage to one that was acknowledged. So when a
//! synced frame is to stay the last for a while, a frame without a payload is put behind it, the mark, where the next frame will
//! be: what is before a mark was acknowledged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::error::{RedbOpenError, open_io};
use crate::log::record::Input;

/// The log's format.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const HEADER: u64 = 64;
pub(crate) const FRAME_HEADER: usize = 32;
const FILE_MAGIC: &[u8; 8] = b"WHARFLOG";
const FRAME_MAGIC: u32 = 0x4d52_4657;
const ALIGN: u64 = 8;
/// Read at once.
const WINDOW: usize = 256 << 10;
const PREFIX: &str = "log-";

/// The name of a segment's file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:016}")
}

/// The number of a segment, from its file's name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok().filter(|number| file_name(*number) == name)
}

/// A segment that can be written to and read.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) store: u64,
    pub(crate) number: u64,
    pub(crate) capacity: u64,
}

impl Segment {
    /// The header's bytes.
    pub(crate) fn header(&self) -> [u8; HEADER as usize] {
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(FILE_MAGIC);
        header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        header[16..24].copy_from_slice(&self.capacity.to_le_bytes());
        header[24..32].copy_from_slice(&self.store.to_le_bytes());
        header[32..40].copy_from_slice(&self.number.to_le_bytes());
        let crc = crc32c::crc32c(&header[..40]);
        header[40..44].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Reads a segment's header.
    pub(crate) fn open(path: &Path, file: Arc<dyn DiskFile>, store: u64, number: u64) -> Result<Self, RedbOpenError> {
        let corrupt = |offset, detail: String| Err(RedbOpenError::Corrupt { file: path.to_owned(), offset: Some(offset), detail });
        let size = file.size().map_err(open_io("read", path))?;
        if size < HEADER {
            return Err(RedbOpenError::Truncated { file: path.to_owned(), size, expected: HEADER });
        }
        let mut header = [0; HEADER as usize];
        file.read_at(0, &mut header).map_err(open_io("read", path))?;
        let mut input = Input(&header);
        if input.take(8) != Some(FILE_MAGIC) {
            return corrupt(0, "it does not begin as a segment of a log does".into());
        }
        let format = input.u32().unwrap_or_default();
        if format > FORMAT {
            return Err(RedbOpenError::NewerFormat { file: path.to_owned(), found: format.into(), supported: FORMAT.into() });
        }
        let fields = (input.u32(), input.u64(), input.u64(), input.u64(), input.u32());
        let (Some(_), Some(capacity), Some(owner), Some(named), Some(crc)) = fields else {
            return corrupt(0, "its header is too short".into());
        };
        if crc != crc32c::crc32c(&header[..40]) {
            return corrupt(0, "its header's checksum does not hold".into());
        }
        if owner != store || named != number {
            return corrupt(24, format!("it is segment {named} of store {owner:016x}, not segment {number} of store {store:016x}"));
        }
        if size < capacity {
            return Err(RedbOpenError::Truncated { file: path.to_owned(), size, expected: capacity });
        }
        Ok(Self { path: path.to_owned(), file, store, number, capacity })
    }

    /// Where the next frame begins when this one, header included, has `len` bytes.
    pub(crate) fn after(offset: u64, len: usize) -> u64 {
        (offset + len as u64).next_multiple_of(ALIGN)
    }

    /// Fills in the header of a frame whose payload follows [`FRAME_HEADER`] bytes of room.
    pub(crate) fn seal(&self, frame: &mut [u8], sequence: u64) {
        let (header, payload) = frame.split_at_mut(FRAME_HEADER);
        header[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&sequence.to_le_bytes());
        header[24..28].copy_from_slice(&self.crc(payload).to_le_bytes());
        let crc = self.crc(&header[..28]);
        header[28..32].copy_from_slice(&crc.to_le_bytes());
    }

    /// Says that all before `end` is synced. The next frame is written over it.
    pub(crate) fn mark(&self, end: u64, sequence: u64) -> io::Result<()> {
        if end + FRAME_HEADER as u64 > self.capacity {
            return Ok(());
        }
        let mut mark = [0; FRAME_HEADER];
        self.seal(&mut mark, sequence);
        self.file.write_at(end, &mark)
    }

    fn crc(&self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.store.to_le_bytes()), bytes)
    }
}

/// Reads a segment's frames in order.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    segment: &'a Segment,
    /// Where the next frame begins.
    pub(crate) offset: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// A frame's place and payload.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    pub(crate) payload: &'a [u8],
}

struct FrameHeader {
    len: usize,
    sequence: u64,
    crc: u32,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(segment: &'a Segment) -> Self {
        Self { segment, offset: HEADER, window: Vec::new(), window_at: 0 }
    }

    /// The next frame; `None` where no valid one follows.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        let offset = self.offset;
        let Some(header) = self.frame_at(offset)? else { return Ok(None) };
        self.offset = Segment::after(offset, FRAME_HEADER + header.len);
        let payload = self.bytes(offset + FRAME_HEADER as u64, header.len)?;
        Ok(Some(Frame { offset, sequence: header.sequence, payload }))
    }

    /// The first place at or after this reader's at which a valid frame begins.
    pub(crate) fn find_later(&mut self) -> io::Result<Option<u64>> {
        let mut offset = self.offset;
        while offset + FRAME_HEADER as u64 <= self.segment.capacity {
            if self.frame_at(offset)?.is_some() {
                return Ok(Some(offset));
            }
            offset += ALIGN;
        }
        Ok(None)
    }

    fn frame_at(&mut self, offset: u64) -> io::Result<Option<FrameHeader>> {
        let (number, capacity, segment) = (self.segment.number, self.segment.capacity, self.segment);
        if offset + FRAME_HEADER as u64 > capacity {
            return Ok(None);
        }
        let bytes = self.bytes(offset, FRAME_HEADER)?;
        let mut input = Input(bytes);
        if input.u32() != Some(FRAME_MAGIC) {
            return Ok(None);
        }
        let fields = (input.u32(), input.u64(), input.u64(), input.u32(), input.u32());
        let (Some(len), Some(named), Some(sequence), Some(crc), Some(header_crc)) = fields else { return Ok(None) };
        if named != number || header_crc != segment.crc(&bytes[..28]) {
            return Ok(None);
        }
        let header = FrameHeader { len: len as usize, sequence, crc };
        if offset + FRAME_HEADER as u64 + u64::from(len) > capacity {
            return Ok(None);
        }
        let payload = self.bytes(offset + FRAME_HEADER as u64, header.len)?;
        Ok((segment.crc(payload) == header.crc).then_some(header))
    }

    /// Bytes of the file, which are within its capacity.
    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset + len as u64;
        if offset < self.window_at || end > self.window_at + self.window.len() as u64 {
            let wanted = (len.max(WINDOW) as u64).min(self.segment.capacity - offset);
            self.window.resize(usize::try_from(wanted).map_err(io::Error::other)?, 0);
            self.window_at = offset;
            if let Err(e) = self.segment.file.read_at(offset, &mut self.window) {
                self.window.clear();
                return Err(e);
            }
        }
        let start = usize::try_from(offset - self.window_at).map_err(io::Error::other)?;
        Ok(&self.window[start..start + len])
    }
}
