//! Keys in memory: the first encrypts, all decrypt.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{KeyError, KeyLineError};
use crate::key_file;

/// Bytes of a key.
pub const KEY_LENGTH: usize = 32;
/// Most letters in the id of a key.
pub const MAX_ID: usize = 32;
/// Most keys in a ring.
pub const MAX_KEYS: usize = 64;
/// What the check of a key is made of, beside the key.
const CHECK: &[u8] = b"wharf:enc:v1 key check";

/// One key, ready to use. The cipher wipes it when it is dropped.
pub(crate) struct RingKey {
    pub(crate) id: Arc<str>,
    /// Tells it from another of its id, and nothing else of it.
    pub(crate) check: [u8; 8],
    pub(crate) cipher: XChaCha20Poly1305,
}

impl RingKey {
    pub(crate) fn new(id: &str, key: &[u8]) -> Result<Self, KeyLineError> {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(letter) {
            return Err(KeyLineError::Id);
        }
        let cipher = XChaCha20Poly1305::new_from_slice(key).map_err(|_| KeyLineError::Length(key.len()))?;
        let hash = Sha256::new().chain_update(CHECK).chain_update(key).finalize();
        let mut check = [0; 8];
        check.copy_from_slice(&hash[..8]);
        Ok(Self { id: id.into(), check, cipher })
    }
}

/// Keys by id. Cheap to clone; wiped when the last clone is dropped. Printing it shows ids only.
#[derive(Clone)]
pub struct KeyRing {
    keys: Arc<[RingKey]>,
}

impl KeyRing {
    /// A ring of these ids and keys of [`KEY_LENGTH`] bytes. The first encrypts.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, KeyError> {
        let mut ring = Vec::new();
        for (n, (id, key)) in keys.into_iter().enumerate() {
            let of = |problem| KeyError::Key { number: n + 1, problem };
            let key = RingKey::new(id, key).map_err(of)?;
            if let Some(same) = ring.iter().position(|k: &RingKey| k.id == key.id) {
                return Err(of(KeyLineError::Duplicate(same + 1)));
            }
            if n == MAX_KEYS {
                return Err(of(KeyLineError::TooMany));
            }
            ring.push(key);
        }
        Self::of(ring).ok_or(KeyError::NoKey)
    }

    /// A ring of one new key that is kept nowhere: what is encrypted with it is lost with it. For tests.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        getrandom::fill(key.as_mut()).map_err(|_| KeyError::NoRandom)?;
        Self::new([("generated", key.as_slice())])
    }

    /// Reads a key file.
    ///
    /// ```text
    /// # Comments and empty lines are skipped. The first key encrypts, all decrypt.
    /// ID xchacha20poly1305 BASE64-OF-32-BYTES
    /// ```
    ///
    /// Blocks for a small file's time.
    ///
    /// # Errors
    /// [`KeyError`]: of a file that others may read, that has no key, or a line that is wrong.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        key_file::load(path.as_ref())
    }

    /// Reads a key file, or makes one with a new key: of mode 0600, whole or not at all, and on disk before this returns. If several
    /// processes do so at once, one makes it and all read it.
    ///
    /// The file is as precious as what it encrypts: keep a copy of it, elsewhere than the backups of the store.
    ///
    /// # Errors
    /// As [`KeyRing::load`]. A file that is there is never replaced.
    pub fn load_or_generate(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        key_file::load_or_generate(path.as_ref())
    }

    /// Adds a new key as the first of a key file, and reads it. The other lines stay as they are. Not for two processes at once.
    ///
    /// # Errors
    /// As [`KeyRing::load`]; the file is as before then, or has the new key.
    pub fn rotate(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        key_file::rotate(path.as_ref())
    }

    /// The ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| &*key.id)
    }

    pub(crate) fn of(keys: Vec<RingKey>) -> Option<Self> {
        (!keys.is_empty()).then(|| Self { keys: keys.into() })
    }
    pub(crate) fn newest(&self) -> &RingKey {
        // `of` makes no empty ring.
        &self.keys[0]
    }
    pub(crate) fn find(&self, id: &str) -> Option<&RingKey> {
        self.keys.iter().find(|key| &*key.id == id)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("ids", &self.ids().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_says_what_is_wrong_with_it() {
        let key: &[u8] = &[7; KEY_LENGTH];
        let problem = |keys: &[(&str, &[u8])]| match KeyRing::new(keys.iter().copied()) {
            Err(KeyError::Key { number, problem }) => (number, problem),
            other => panic!("{other:?}"),
        };
        assert_eq!(problem(&[("a", key), ("b", &[1; 31])]), (2, KeyLineError::Length(31)));
        assert_eq!(problem(&[("a", key), ("b", key), ("a", key)]), (3, KeyLineError::Duplicate(1)));
        assert_eq!(problem(&[("a:b", key)]), (1, KeyLineError::Id));
        assert_eq!(problem(&[("", key)]), (1, KeyLineError::Id));
        assert!(matches!(KeyRing::new([]), Err(KeyError::NoKey)));
    }

    #[test]
    fn printing_shows_no_key() {
        let key = *b"0123456789abcdef0123456789abcdef";
        let ring = KeyRing::new([("one", key.as_slice())]).unwrap();
        assert_eq!(format!("{ring:?}"), r#"KeyRing { ids: ["one"], .. }"#);
    }
}
