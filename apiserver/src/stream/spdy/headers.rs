//! Header blocks: names and values, compressed by zlib with SPDY's dictionary, one stream for the whole connection.

use bytes::{BufMut, BytesMut};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, TINFL_LZ_DICT_SIZE, decompress};

/// Largest header block, in bytes, once it is inflated.
const MAX_BLOCK: usize = 16 << 10;
/// Most headers of a block.
const MAX_HEADERS: u32 = 64;
/// The Adler-32 of the dictionary, which names it.
const DICTIONARY_ID: [u8; 4] = 0xe3c6_a7c2_u32.to_be_bytes();
/// The flag in zlib's second byte that says that a dictionary's name follows.
const HAS_DICTIONARY: u8 = 0x20;

/// The dictionary's words; each comes with its length before it.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
    last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200+OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// What follows the words.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found\
    500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
    text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::new();
    for word in WORDS.split_whitespace() {
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.replace('+', " ").as_bytes());
    }
    out.extend_from_slice(REST.as_bytes());
    out
}

/// A header block that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::stream) enum HeaderError {
    #[error("the headers do not inflate")]
    Corrupt,
    #[error("the headers are larger than {MAX_BLOCK} bytes")]
    TooLarge,
}

/// Reads header blocks.
pub(super) struct Inflate {
    state: Box<DecompressorOxide>,
    /// What was inflated last, which begins as the dictionary.
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl Default for Inflate {
    fn default() -> Self {
        let mut window = dictionary();
        let at = window.len();
        window.resize(TINFL_LZ_DICT_SIZE, 0);
        Self { state: Box::default(), window, at, begun: false }
    }
}

impl Inflate {
    /// The headers of the next block, names in lower case.
    pub(super) fn headers(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, HeaderError> {
        if !self.begun {
            let (head, rest) = block.split_first_chunk::<2>().ok_or(HeaderError::Corrupt)?;
            block = rest;
            if head[0] & 0x0f != 8 {
                return Err(HeaderError::Corrupt);
            }
            if head[1] & HAS_DICTIONARY != 0 {
                block = block.strip_prefix(&DICTIONARY_ID).ok_or(HeaderError::Corrupt)?;
            }
            self.begun = true;
        }
        let mut out = Vec::new();
        loop {
            let (status, read, written) = decompress(&mut self.state, block, &mut self.window, self.at, TINFL_FLAG_HAS_MORE_INPUT);
            block = block.get(read..).unwrap_or_default();
            out.extend_from_slice(self.window.get(self.at..self.at + written).unwrap_or_default());
            self.at = (self.at + written) % TINFL_LZ_DICT_SIZE;
            if out.len() > MAX_BLOCK {
                return Err(HeaderError::TooLarge);
            }
            match status {
                TINFLStatus::NeedsMoreInput => break,
                TINFLStatus::HasMoreOutput => {}
                _ => return Err(HeaderError::Corrupt),
            }
        }
        parse(&out).ok_or(HeaderError::Corrupt)
    }
}

fn parse(mut block: &[u8]) -> Option<Vec<(String, String)>> {
    let number = |block: &mut &[u8]| -> Option<u32> {
        let (head, rest) = block.split_first_chunk::<4>()?;
        *block = rest;
        Some(u32::from_be_bytes(*head))
    };
    let count = number(&mut block).filter(|count| *count <= MAX_HEADERS)?;
    let text = |block: &mut &[u8]| -> Option<String> {
        let length = usize::try_from(number(block)?).ok()?;
        let (taken, rest) = block.split_at_checked(length)?;
        *block = rest;
        String::from_utf8(taken.to_vec()).ok()
    };
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?));
    }
    Some(headers)
}

/// Writes header blocks, without compressing them: the few that a server sends are empty.
#[derive(Debug, Default)]
pub(super) struct Deflate {
    begun: bool,
}

impl Deflate {
    /// A block of no headers.
    pub(super) fn no_headers(&mut self, out: &mut BytesMut) {
        const NONE: [u8; 4] = 0_u32.to_be_bytes();
        if !std::mem::replace(&mut self.begun, true) {
            out.put_slice(&[0x78, 0x01]);
        }
        // A stored block: not the last, its length and its complement.
        out.put_u8(0);
        out.put_u16_le(NONE.len() as u16);
        out.put_u16_le(!(NONE.len() as u16));
        out.put_slice(&NONE);
        // An empty stored block: readers in Go hand out what they have when they come to it, and else wait for more.
        out.put_slice(&[0, 0, 0, 0xff, 0xff]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one() {
        let dictionary = dictionary();
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16 | a).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn blocks_of_one_stream_follow_each_other() {
        // Stored blocks, as any deflate may choose to write them.
        let stored = |text: &[u8]| {
            let length = u16::try_from(text.len()).unwrap();
            [&[0][..], &length.to_le_bytes(), &(!length).to_le_bytes(), text].concat()
        };
        let header = |name: &str, value: &str| {
            let part = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
            [1_u32.to_be_bytes().to_vec(), part(name), part(value)].concat()
        };
        let mut inflate = Inflate::default();
        let first = [&[0x78, 0xbb][..], &DICTIONARY_ID, &stored(&header("Port", "80"))].concat();
        assert_eq!(inflate.headers(&first).unwrap(), [("port".to_owned(), "80".to_owned())]);
        assert_eq!(inflate.headers(&stored(&header("a", "b"))).unwrap(), [("a".to_owned(), "b".to_owned())]);
        assert!(inflate.headers(&stored(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])).is_err());
        // A few bytes that are 64 KiB.
        let bomb = [&[0x78, 0x9c][..], &miniz_oxide::deflate::compress_to_vec(&[0; 64 << 10], 6)].concat();
        assert!(matches!(Inflate::default().headers(&bomb), Err(HeaderError::TooLarge)));
    }
}
