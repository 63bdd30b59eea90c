//! What can be wrong with keys and with values.

use std::path::PathBuf;

use wharf_core::store::Key;

use crate::key_ring::{KEY_LENGTH, MAX_ID, MAX_KEYS};

/// Why a stored value cannot be read. It is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// No key of this id is in the ring.
    #[error(
        "{key} is encrypted with key {id:?}, which is not in the key file: put that key back into it, or restore the file from its backup"
    )]
    UnknownKey {
        /// The object.
        key: Key,
        /// The key's id.
        id: String,
    },
    /// The ring has another key under this id.
    #[error(
        "{key} is encrypted with another key {id:?} than the key file has: restore the key that had this id, and give the new one another id"
    )]
    WrongKey {
        /// The object.
        key: Key,
        /// The key's id.
        id: String,
    },
    /// The value has been changed, cut, or taken from another object.
    #[error("the encrypted value of {key} is damaged ({problem}): restore it from a backup, or delete the object and create it again")]
    Damaged {
        /// The object.
        key: Key,
        /// What does not fit.
        problem: &'static str,
    },
    /// The value was written by a newer version.
    #[error("the value of {key} is encrypted in format {version:?}, which this version does not know: run the version that wrote it")]
    NewerFormat {
        /// The object.
        key: Key,
        /// The format's name.
        version: String,
    },
    /// The value is not encrypted, and must be.
    #[error(
        "the value of {key} is not encrypted, and plaintext is refused: if it is known to be from before, allow it and rewrite the store"
    )]
    Plaintext {
        /// The object.
        key: Key,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers, so {key} cannot be encrypted; nothing was written")]
    NoRandom {
        /// The object.
        key: Key,
    },
}

/// What is wrong with a line of a key file. It never quotes the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyLineError {
    /// Not three words.
    #[error("a line is an id, the word \"xchacha20poly1305\", and the key in base64, with spaces between")]
    Words,
    /// Not an id.
    #[error("an id has 1 to {MAX_ID} letters, digits, '.', '_' or '-'")]
    Id,
    /// Another algorithm.
    #[error("the algorithm must be \"xchacha20poly1305\"; a file of a newer version needs that version")]
    Algorithm,
    /// Not base64.
    #[error("the key is not base64 (standard alphabet, with padding)")]
    Encoding,
    /// Too short or too long.
    #[error("the key has {0} bytes: {KEY_LENGTH} are needed")]
    Length(usize),
    /// An id that an earlier line has.
    #[error("the id is that of line {0}: each key needs its own")]
    Duplicate(usize),
    /// More keys than a ring holds.
    #[error("there are more than {MAX_KEYS} keys: rewrite the store and remove old ones")]
    TooMany,
}

/// Why keys could not be had. A file is left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file system failed.
    #[error("cannot {op} the key file {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("the key file {} has mode {mode:04o}, so that others may read it: run chmod 600 on it, and rotate its keys", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is a folder, a pipe or a device.
    #[error("the key file {} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A line cannot be read.
    #[error("line {line} of the key file {}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        problem: KeyLineError,
    },
    /// There is no key in it.
    #[error(
        "the key file {} has no key: restore it from its backup; only if nothing has been encrypted yet, remove it to have a new one made",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any key file.
    #[error("the key file {} has more than {most} bytes: is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        most: u64,
    },
    /// A ring given as bytes is not right.
    #[error("key {number}: {problem}")]
    Key {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        problem: KeyLineError,
    },
    /// A ring without a key.
    #[error("a key ring needs at least one key")]
    NoKey,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers, so that no key can be made")]
    NoRandom,
}
