//! What an encrypted value looks like below.

use bytes::Bytes;
use chacha20poly1305::XNonce;
use chacha20poly1305::aead::{Aead, Payload};
use wharf_core::store::{Key, MAX_VALUE_OVERHEAD};

use crate::error::EncryptionError;
use crate::key_ring::{KeyRing, MAX_ID};

/// What every encrypted value begins with.
pub const PREFIX: &str = "wharf:enc:";
const VERSION: &str = "v1";
const CHECK: usize = 8;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Most bytes that encryption adds to a value.
pub const MAX_OVERHEAD: usize = PREFIX.len() + VERSION.len() + 1 + MAX_ID + 1 + CHECK + NONCE + TAG;

const _: () = assert!(MAX_OVERHEAD <= MAX_VALUE_OVERHEAD, "a store must accept the largest value encrypted");

/// What a stored value is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// Not of this crate.
    Plain,
    /// Encrypted, under the key of this id.
    Under(&'a str),
    /// Begins as ours do, and then does not go on so.
    Unclear,
}

/// The id of a value's key, the header before the check, and the rest.
type Parts<'a> = (&'a str, &'a [u8], &'a [u8]);

/// `None` of what does not begin as ours do; an error of what then goes on otherwise, with the version if it has a newer one.
fn split(value: &[u8]) -> Option<Result<Parts<'_>, Option<&str>>> {
    let rest = value.strip_prefix(PREFIX.as_bytes())?;
    let word = |bytes: &'_ [u8]| bytes.iter().take(MAX_ID + 1).position(|b| *b == b':');
    let parse = || {
        let end = word(rest).ok_or(None)?;
        let version = std::str::from_utf8(&rest[..end]).map_err(|_| None)?;
        if version != VERSION {
            // A damaged word is not a version.
            let newer = version.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            return Err(newer.then_some(version));
        }
        let after = &rest[end + 1..];
        let end = word(after).ok_or(None)?;
        let id = std::str::from_utf8(&after[..end]).map_err(|_| None)?;
        let header = PREFIX.len() + VERSION.len() + 1 + end + 1;
        Ok((id, &value[..header], &value[header..]))
    };
    Some(parse())
}

pub(crate) fn kind(value: &[u8]) -> Kind<'_> {
    match split(value) {
        None => Kind::Plain,
        Some(Ok((id, _, _))) => Kind::Under(id),
        Some(Err(_)) => Kind::Unclear,
    }
}

/// What is authenticated beside the value: the header, and the object's key so that no two keys give the same bytes.
fn associated(header: &[u8], key: &Key) -> Vec<u8> {
    let parts = [header, key.resource.group.as_bytes(), key.resource.resource.as_bytes(), key.namespace.as_bytes(), key.name.as_bytes()];
    let mut data = Vec::with_capacity(parts.iter().map(|p| p.len() + 8).sum());
    for part in parts {
        data.extend_from_slice(&(part.len() as u64).to_le_bytes());
        data.extend_from_slice(part);
    }
    data
}

/// Encrypts a value under the newest key.
pub(crate) fn seal(keys: &KeyRing, key: &Key, value: &[u8]) -> Result<Bytes, EncryptionError> {
    let newest = keys.newest();
    let no_random = || EncryptionError::NoRandom { key: key.clone() };
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| no_random())?;
    let mut sealed = format!("{PREFIX}{VERSION}:{}:", newest.id).into_bytes();
    let aad = associated(&sealed, key);
    // It refuses only what is longer than 256 GiB.
    let payload = Payload { msg: value, aad: &aad };
    let ciphertext = newest.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| no_random())?;
    sealed.reserve_exact(CHECK + NONCE + ciphertext.len());
    sealed.extend_from_slice(&newest.check);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed.into())
}

/// The value as it was written; `None` for one that is not encrypted.
pub(crate) fn open(keys: &KeyRing, key: &Key, stored: &[u8]) -> Result<Option<Bytes>, EncryptionError> {
    let damaged = |problem| EncryptionError::Damaged { key: key.clone(), problem };
    let (id, header, rest) = match split(stored) {
        None => return Ok(None),
        Some(Ok(parts)) => parts,
        Some(Err(Some(version))) => return Err(EncryptionError::NewerFormat { key: key.clone(), version: version.into() }),
        Some(Err(None)) => return Err(damaged("its header is cut or changed")),
    };
    let Some(ring_key) = keys.find(id) else {
        return Err(EncryptionError::UnknownKey { key: key.clone(), id: id.into() });
    };
    if rest.len() < CHECK + NONCE + TAG {
        return Err(damaged("it is cut short"));
    }
    let (check, rest) = rest.split_at(CHECK);
    let (nonce, ciphertext) = rest.split_at(NONCE);
    if check != ring_key.check {
        return Err(EncryptionError::WrongKey { key: key.clone(), id: id.into() });
    }
    let nonce = <[u8; NONCE]>::try_from(nonce).map_err(|_| damaged("it is cut short"))?;
    let aad = associated(header, key);
    let value = ring_key.cipher.decrypt(&XNonce::from(nonce), Payload { msg: ciphertext, aad: &aad });
    value.map(|value| Some(value.into())).map_err(|_| damaged("it has been changed, or belongs to another object"))
}

#[cfg(test)]
mod tests {
    use wharf_core::store::ResourceId;

    use super::*;
    use crate::key_ring::KEY_LENGTH;

    fn secret(name: &str) -> Key {
        Key::new(ResourceId::new("", "secrets"), "default", name)
    }
    fn ring(keys: &[(&str, u8)]) -> KeyRing {
        let keys: Vec<(&str, [u8; KEY_LENGTH])> = keys.iter().map(|(id, byte)| (*id, [*byte; KEY_LENGTH])).collect();
        KeyRing::new(keys.iter().map(|(id, key)| (*id, key.as_slice()))).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_shows_nothing() {
        let ring = ring(&[("a", 1)]);
        for value in [&b""[..], b"x", b"the secret", PREFIX.as_bytes(), b"wharf:enc:v1:a:"] {
            let sealed = seal(&ring, &secret("s"), value).unwrap();
            assert_eq!(open(&ring, &secret("s"), &sealed).unwrap().unwrap(), value);
            assert_eq!(kind(&sealed), Kind::Under("a"));
            assert!(sealed.len() <= value.len() + MAX_OVERHEAD);
            assert!(value.len() < 4 || !sealed[15..].windows(value.len()).any(|w| w == value));
            assert_ne!(seal(&ring, &secret("s"), value).unwrap(), sealed, "a nonce for each");
        }
        assert_eq!(open(&ring, &secret("s"), b"{\"kind\":\"Secret\"}").unwrap(), None);
    }

    #[test]
    fn another_objects_value_does_not_open() {
        let ring = ring(&[("a", 1)]);
        let sealed = seal(&ring, &secret("s"), b"value").unwrap();
        let same_letters = Key::new(ResourceId::new("", "secret"), "sdefault", "s");
        for key in [secret("t"), Key::new(ResourceId::new("", "secrets"), "other", "s"), same_letters] {
            assert!(matches!(open(&ring, &key, &sealed), Err(EncryptionError::Damaged { .. })), "{key}");
        }
    }

    #[test]
    fn each_changed_byte_and_each_cut_is_noticed() {
        let ring = ring(&[("a", 1)]);
        let sealed = seal(&ring, &secret("s"), b"value").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            // Without its prefix it is taken for what was there before; everything after it is an error.
            let expected_plain = at < PREFIX.len();
            assert_eq!(open(&ring, &secret("s"), &changed).ok().map(|v| v.is_none()), expected_plain.then_some(true), "byte {at}");
            let cut = open(&ring, &secret("s"), &sealed[..at]);
            assert_eq!(cut.ok().map(|v| v.is_none()), expected_plain.then_some(true), "cut at {at}");
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_told_apart() {
        let sealed = seal(&ring(&[("a", 1)]), &secret("s"), b"value").unwrap();
        let error = |keys: &[(&str, u8)]| open(&ring(keys), &secret("s"), &sealed).unwrap_err();
        assert_eq!(error(&[("b", 1)]), EncryptionError::UnknownKey { key: secret("s"), id: "a".into() });
        assert_eq!(error(&[("a", 2)]), EncryptionError::WrongKey { key: secret("s"), id: "a".into() });
        assert_eq!(open(&ring(&[("b", 2), ("a", 1)]), &secret("s"), &sealed).unwrap().unwrap(), "value");
        let newer = open(&ring(&[("a", 1)]), &secret("s"), b"wharf:enc:v2:a:xyz").unwrap_err();
        assert_eq!(newer, EncryptionError::NewerFormat { key: secret("s"), version: "v2".into() });
        assert_eq!(kind(b"wharf:enc:v2:a:xyz"), Kind::Unclear);
    }
}
