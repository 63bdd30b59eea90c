//! The value of an `:authority`, as text or in HPACK's Huffman code (RFC 7541, appendix B).

/// A character's code: its bits, and how many.
type Code = (u32, usize);

const H: Code = (0x27, 6);
const T: Code = (0x09, 5);
const P: Code = (0x2b, 6);
const S: Code = (0x08, 5);
const COLON: Code = (0x5c, 7);
const SLASH: Code = (0x18, 6);
/// What takes a colon's place.
const X: Code = (0x79, 7);
/// What takes a slash's place.
const DASH: Code = (0x16, 6);

const SCHEMES: [(&str, &[Code]); 2] =
    [("http://", &[H, T, T, P, COLON, SLASH, SLASH]), ("https://", &[H, T, T, P, S, COLON, SLASH, SLASH])];

/// How many characters have codes of 5 bits, of 6, and so on. Codes of one length follow each other, those of the next come after them.
const CODES: [u32; 26] = [10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
const SHORTEST: usize = 5;

/// Makes an authority of an URL, of the same length in either form: the scheme's colon becomes an `x`, and every slash a dash. False if it is
/// no URL.
pub(super) fn mend(value: &mut [u8], huffman: bool) -> bool {
    if huffman { mend_coded(value) } else { mend_text(value) }
}

fn mend_text(value: &mut [u8]) -> bool {
    let Some((scheme, _)) = SCHEMES.iter().find(|(scheme, _)| value.starts_with(scheme.as_bytes())) else { return false };
    let colon = scheme.len() - 3;
    for (at, byte) in value.iter_mut().enumerate() {
        if at == colon {
            *byte = b'x';
        } else if *byte == b'/' {
            *byte = b'-';
        }
    }
    true
}

fn mend_coded(value: &mut [u8]) -> bool {
    let codes = decode(value);
    let begins = |scheme: &[Code]| codes.get(..scheme.len()).is_some_and(|begin| begin.iter().map(|(_, code)| code).eq(scheme));
    let Some((_, scheme)) = SCHEMES.iter().find(|(_, scheme)| begins(scheme)) else { return false };
    let colon = scheme.len() - 3;
    for (at, (bit, code)) in codes.iter().enumerate() {
        if at == colon {
            write(value, *bit, X);
        } else if *code == SLASH {
            write(value, *bit, DASH);
        }
    }
    true
}

/// Where each character's code begins, in bits, and the code. What is left at the end is padding.
fn decode(value: &[u8]) -> Vec<(usize, Code)> {
    let mut codes = Vec::new();
    // The bits of a code so far, and the smallest code of that many bits.
    let (mut bits, mut length, mut first) = (0u32, 0usize, 0u32);
    for at in 0..value.len() * 8 {
        bits = bits << 1 | u32::from(value[at / 8] >> (7 - at % 8) & 1);
        length += 1;
        let Some(index) = length.checked_sub(SHORTEST) else { continue };
        let Some(count) = CODES.get(index) else { return codes };
        first = if index == 0 { 0 } else { (first + CODES[index - 1]) << 1 };
        if bits.wrapping_sub(first) < *count {
            codes.push((at + 1 - length, (bits, length)));
            (bits, length) = (0, 0);
        }
    }
    codes
}

fn write(value: &mut [u8], bit: usize, (code, length): Code) {
    for at in 0..length {
        let (byte, mask) = ((bit + at) / 8, 0x80u8 >> ((bit + at) % 8));
        if code >> (length - 1 - at) & 1 == 1 {
            value[byte] |= mask;
        } else {
            value[byte] &= !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn as_text() {
        for (sent, mended) in [
            ("http://127.0.0.1:2379", "httpx--127.0.0.1:2379"),
            ("https://[::1]:2379", "httpsx--[::1]:2379"),
            ("http://etcd.example/v3/", "httpx--etcd.example-v3-"),
            ("http://", "httpx--"),
        ] {
            let mut value = sent.as_bytes().to_vec();
            assert!(mend(&mut value, false));
            assert_eq!(value, mended.as_bytes());
        }
        for fine in ["", "127.0.0.1:2379", "http:2379", "http:/", "httpx//a", "etcd.example"] {
            let mut value = fine.as_bytes().to_vec();
            assert!(!mend(&mut value, false));
            assert_eq!(value, fine.as_bytes());
        }
    }

    /// Characters in the order of their codes, up to those of 13 bits.
    const CHARACTERS: &str = "012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ!\"()?'+|#>\0$@[]~";

    fn text(value: &[u8]) -> String {
        let character = |(bits, length): Code| {
            let mut first = 0;
            let before: u32 = CODES[..length - SHORTEST].iter().sum();
            for count in &CODES[..length - SHORTEST] {
                first = (first + count) << 1;
            }
            CHARACTERS.chars().nth((before + bits - first) as usize).unwrap()
        };
        decode(value).into_iter().map(|(_, code)| character(code)).collect()
    }

    #[test]
    fn in_code() {
        // From RFC 7541's examples, and what etcdctl 3.4 has sent.
        for (sent, was, mended) in [
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com", "httpsx--www.example.com"),
            ("9d29aee30c044eae05c0b86e34d3ad07", "http://127.0.0.1:44741", "httpx--127.0.0.1:44741"),
            ("9d29aee30c044eae05c0b86e34d3ad058f", "http://127.0.0.1:44741/", "httpx--127.0.0.1:44741-"),
        ] {
            let mut value = bytes(sent);
            assert_eq!(text(&value), was);
            assert!(mend(&mut value, true));
            assert_eq!(text(&value), mended);
            assert!(!mend(&mut value, true));
        }
        for fine in ["", "f1e3c2e5f23a6ba0ab90f4ff", "089d5c0b8170dc69a75a0f", "9d29ae", "ffffffffffffffffffffffff", "ffdfff"] {
            let mut value = bytes(fine);
            assert!(!mend(&mut value, true));
            assert_eq!(value, bytes(fine));
        }
        assert_eq!(text(&bytes("f1e3c2e5f23a6ba0ab90f4ff")), "www.example.com");
        assert_eq!(text(&bytes("ffdfff")), "[");
    }
}
