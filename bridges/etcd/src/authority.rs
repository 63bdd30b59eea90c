//! Clients of etcd 3.4 send the URL of an endpoint as `:authority` of some calls (status, snapshots, hashes), which HTTP libraries but
//! Go's refuse. It is turned into an authority on the way in.
//!
//! `http://127.0.0.1:2379` becomes `httpx--127.0.0.1:2379`, which nobody looks at, and which has as many bytes, in Huffman's code too: frames
//! and header blocks keep their lengths, both sides' header tables their sizes, and nothing needs to be decoded or kept but the value itself.
//! What is not understood passes as it is, for the HTTP library to judge.

mod value;

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// Longest value that is looked at, in bytes as sent.
const MAX_VALUE: u64 = 512;
/// Where static header tables have `:authority`; encoders name it by this.
const AUTHORITY: u64 = 1;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Reads along what a client sends, and mends its authorities.
#[derive(Debug)]
pub(crate) struct Mender {
    place: Place,
    head: [u8; HEAD],
    frame: Frame,
    field: Field,
    /// The value of an authority so far, which is not passed on until it is there as a whole.
    held: Vec<u8>,
    /// The next frame continues a header block.
    in_block: bool,
    /// Something was mended, so there may be more.
    mended: bool,
}

/// What comes next on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The preface, after so many bytes.
    Preface(usize),
    /// A frame's head, after so many bytes.
    Head(usize),
    /// So many bytes before a part of a header block.
    Prologue(usize),
    /// So many bytes of a header block.
    Block(usize),
    /// So many bytes that are of no interest.
    Rest(usize),
    /// Whatever it is, it passes.
    Passing,
}

/// The frame that is being read, if it has a part of a header block.
#[derive(Debug, Default)]
struct Frame {
    length: usize,
    prologue: usize,
    padding: usize,
    padded: bool,
    ends_block: bool,
}

/// What comes next in a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Start,
    /// More of a number.
    Number {
        value: u64,
        shift: u32,
        of: Number,
    },
    /// How long a string is.
    Length(Text),
    /// So many bytes of a string that is not looked at.
    Skip(u64, Text),
    /// So many bytes of an authority.
    Authority {
        left: u64,
        huffman: bool,
    },
}

/// What a number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// A field that is in a table, or the size of a table.
    Whole,
    /// Where a field's name is in a table; 0 for nowhere.
    Name,
    Length {
        of: Text,
        huffman: bool,
    },
}

/// What a string is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Name,
    Value { authority: bool },
}

impl Mender {
    pub(crate) fn new() -> Self {
        Self {
            place: Place::Preface(0),
            head: [0; HEAD],
            frame: Frame::default(),
            field: Field::Start,
            held: Vec::new(),
            in_block: false,
            mended: false,
        }
    }

    /// Whether all that comes passes as it is.
    pub(crate) fn is_done(&self) -> bool {
        self.place == Place::Passing
    }

    /// Takes what came, and appends what is to be passed on.
    pub(crate) fn push(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while let Some((byte, rest)) = input.split_first() {
            if let Place::Rest(left) = self.place {
                let (now, later) = input.split_at(left.min(input.len()));
                output.extend_from_slice(now);
                input = later;
                self.rest(left - now.len());
                continue;
            }
            if self.place == Place::Passing {
                output.extend_from_slice(input);
                return;
            }
            if let Place::Block(left) = self.place {
                self.block(*byte, left, output);
            } else {
                output.push(*byte);
                self.outside(*byte);
            }
            input = rest;
        }
    }

    /// Nothing more comes: what is left to be passed on.
    pub(crate) fn finish(&mut self, output: &mut Vec<u8>) {
        output.append(&mut self.held);
        self.place = Place::Passing;
    }

    /// A byte before, or between, header blocks.
    fn outside(&mut self, byte: u8) {
        self.place = match self.place {
            Place::Preface(at) if PREFACE.get(at) != Some(&byte) => Place::Passing,
            Place::Preface(at) if at + 1 < PREFACE.len() => Place::Preface(at + 1),
            Place::Preface(_) => Place::Head(0),
            Place::Head(at) => {
                if let Some(there) = self.head.get_mut(at) {
                    *there = byte;
                }
                if at + 1 < HEAD {
                    self.place = Place::Head(at + 1);
                } else {
                    self.begin_frame();
                }
                return;
            }
            Place::Prologue(left) => {
                // The length of the padding is the first.
                if self.frame.padded && left == self.frame.prologue {
                    self.frame.padding = byte.into();
                }
                self.prologue(left - 1);
                return;
            }
            place => place,
        };
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_block = if self.in_block { kind == CONTINUATION } else { kind == HEADERS };
        if !is_block {
            // Within a block nothing else may come.
            let lost = self.in_block || kind == CONTINUATION;
            return if lost { self.place = Place::Passing } else { self.rest(length) };
        }
        let has = |flag: u8| kind == HEADERS && flags & flag != 0;
        let prologue = usize::from(has(PADDED)) + if has(PRIORITY) { 5 } else { 0 };
        self.in_block = true;
        self.frame = Frame { length, prologue, padding: 0, padded: has(PADDED), ends_block: flags & END_HEADERS != 0 };
        if prologue > length { self.place = Place::Passing } else { self.prologue(prologue) }
    }

    fn prologue(&mut self, left: usize) {
        if left > 0 {
            self.place = Place::Prologue(left);
            return;
        }
        match self.frame.length.checked_sub(self.frame.prologue + self.frame.padding) {
            None => self.place = Place::Passing,
            Some(0) => self.end_fragment(),
            Some(length) => self.place = Place::Block(length),
        }
    }

    fn rest(&mut self, left: usize) {
        self.place = if left == 0 { Place::Head(0) } else { Place::Rest(left) };
    }

    /// A byte of a header block, of so many in this frame.
    fn block(&mut self, byte: u8, left: usize, output: &mut Vec<u8>) {
        let field = if let Field::Authority { left, huffman } = self.field {
            self.held.push(byte);
            if left == 1 {
                self.mended |= value::mend(&mut self.held, huffman);
                output.append(&mut self.held);
                Some(Field::Start)
            } else {
                Some(Field::Authority { left: left - 1, huffman })
            }
        } else {
            output.push(byte);
            self.field.after(byte)
        };
        let Some(field) = field else {
            self.place = Place::Passing;
            return;
        };
        self.field = field;
        self.place = Place::Block(left - 1);
        if left == 1 {
            if let Field::Authority { left, .. } = self.field {
                // The frame's end comes within it: no client sends so little of a block in a frame.
                output.append(&mut self.held);
                self.field = Field::Skip(left, Text::Value { authority: false });
            }
            self.end_fragment();
        }
    }

    fn end_fragment(&mut self) {
        self.rest(self.frame.padding);
        if self.frame.ends_block {
            self.in_block = false;
            // Who gets the first one right gets all of them right.
            if self.field != Field::Start || !self.mended {
                self.place = Place::Passing;
            }
        }
    }
}

impl Field {
    /// What comes after a byte; `None` if it makes no sense.
    fn after(self, byte: u8) -> Option<Self> {
        match self {
            Self::Start => match byte {
                0x80.. => Self::number(byte, 7, Number::Whole),
                0x40.. => Self::number(byte, 6, Number::Name),
                0x20.. => Self::number(byte, 5, Number::Whole),
                _ => Self::number(byte, 4, Number::Name),
            },
            Self::Number { value, shift, of } => {
                let value = value + (u64::from(byte & 0x7f) << shift);
                match byte {
                    0x80.. if shift >= 28 => None,
                    0x80.. => Some(Self::Number { value, shift: shift + 7, of }),
                    _ => Some(of.read(value)),
                }
            }
            Self::Length(of) => Self::number(byte, 7, Number::Length { of, huffman: byte & 0x80 != 0 }),
            Self::Skip(1, text) => Some(text.ended()),
            Self::Skip(left, text) => Some(Self::Skip(left.checked_sub(1)?, text)),
            Self::Authority { .. } => None,
        }
    }

    /// The beginning of a number, in the low bits of a byte.
    fn number(byte: u8, bits: u32, of: Number) -> Option<Self> {
        let most = (1 << bits) - 1;
        let value = u64::from(byte) & most;
        Some(if value < most { of.read(value) } else { Self::Number { value, shift: 0, of } })
    }
}

impl Number {
    fn read(self, value: u64) -> Field {
        match self {
            Self::Whole => Field::Start,
            Self::Name if value == 0 => Field::Length(Text::Name),
            Self::Name => Field::Length(Text::Value { authority: value == AUTHORITY }),
            Self::Length { of, .. } if value == 0 => of.ended(),
            Self::Length { of: Text::Value { authority: true }, huffman } if value <= MAX_VALUE => {
                Field::Authority { left: value, huffman }
            }
            Self::Length { of, .. } => Field::Skip(value, of),
        }
    }
}

impl Text {
    fn ended(self) -> Field {
        match self {
            Self::Name => Field::Length(Self::Value { authority: false }),
            Self::Value { .. } => Field::Start,
        }
    }
}

#[cfg(test)]
mod tests;
