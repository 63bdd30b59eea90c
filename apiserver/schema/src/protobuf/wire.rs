//! The wire format: tags, variable-length numbers, lengths.

use super::Malformed;

/// A value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed::Type) }
    }
    pub fn number(self) -> Result<u64, Malformed> {
        if let Self::Number(number) = self { Ok(number) } else { Err(Malformed::Type) }
    }
    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }
}

/// The fields of a message, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed::Truncated)
    }
    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
    /// The next field and its number.
    pub fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(little(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(little(self.take(4)?)),
            _ => return Err(Malformed::Type),
        };
        Ok(Some((tag >> 3, wire)))
    }
    /// The last value of each of the first fields, numbered from 1: what small well-known messages are made of.
    pub fn first<const N: usize>(mut self) -> Result<[Option<Wire<'a>>; N], Malformed> {
        let mut found = [None; N];
        while let Some((number, wire)) = self.next()? {
            let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
            if let Some(slot) = at.and_then(|at| found.get_mut(at)) {
                *slot = Some(wire);
            }
        }
        Ok(found)
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_number(out: &mut Vec<u8>, number: u8, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

pub(super) fn put_fixed(out: &mut Vec<u8>, number: u8, value: u64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// What stands before so many bytes.
pub(super) fn put_length(out: &mut Vec<u8>, number: u8, length: usize) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, length as u64);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    put_length(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

/// An inner message, written in place: its length is put before it when it is known.
pub(super) fn put_message(out: &mut Vec<u8>, number: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let open = begin(out, number);
    write(out);
    end(out, open);
}

/// Begins an inner message; answers what [`end`] wants.
pub(super) fn begin(out: &mut Vec<u8>, number: u8) -> usize {
    put_varint(out, u64::from(number) << 3 | 2);
    // Most lengths are one byte.
    out.push(0);
    out.len()
}

pub(super) fn end(out: &mut Vec<u8>, open: usize) {
    let length = out.len() - open;
    if let Ok(short @ 0..0x80) = u8::try_from(length) {
        out[open - 1] = short;
        return;
    }
    let mut bytes = Vec::with_capacity(10);
    put_varint(&mut bytes, length as u64);
    out.splice(open - 1..open, bytes);
}
