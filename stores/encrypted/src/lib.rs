//! Encryption at rest: [`EncryptedStore`] over any [`ObjectStore`](wharf_core::store::ObjectStore).
//!
//! Values of named resources (Secrets, unless others are named) reach the store below encrypted, and come back as they were written;
//! keys of objects, revisions and all other resources are left alone. Whoever reads the disk, a backup or etcd learns how many Secrets
//! there are, their names and sizes, and when they changed; not what they hold.
//!
//! # The cipher
//! XChaCha20-Poly1305. Its nonce has 24 bytes, so that it can be drawn at random for each write: at 2^64 values under one key a repeat is
//! still as good as impossible. AES-GCM's 12 bytes would need a counter that survives restarts and restored backups, or a new key
//! after 2^32 writes, and a repeated nonce gives its key away. It needs no AES instructions to be fast and free of timing leaks.
//!
//! The object's key is part of what is authenticated, so a value that is copied to another object does not open. An older value of the
//! same object does: a store that is set back as a whole cannot be told from one that never went on.
//!
//! # What is stored
//! ```text
//! wharf:enc:v1:ID:  check (8 bytes)  nonce (24 bytes)  ciphertext and tag (length of the value + 16 bytes)
//! ```
//! ID names the key in the [`KeyRing`]; the check tells a wrong key of that name from a damaged value. At most
//! [`MAX_OVERHEAD`] bytes are added, which every store allows over [`MAX_VALUE`](wharf_core::store::MAX_VALUE).
//!
//! # Values from before
//! A value without the prefix was stored before encryption was on, and is read as it is. Everything that is written now is encrypted, also
//! a value that begins with the prefix: so what begins with it *below* was written by this crate, or is damaged. It is never guessed
//! to be text: what does not open is an error, also of a resource that is no longer named. (JSON and Kubernetes' protobuf begin otherwise, so there is no such
//! value from before.) [`EncryptedStore::rewrite`] encrypts what is left; [`EncryptedStore::refuse_plaintext`] then accepts nothing else, so
//! that who can write to the disk cannot plant a Secret.
//!
//! # What cannot be read
//! [`EncryptionError`], as the source of a permanent [`Backend`](wharf_core::store::StoreError::Backend) error, tells an unknown key, a wrong key, a
//! newer format and a damaged value apart, names the object, and says what to do. The value stays as it is. As in Kubernetes, one such
//! object fails a get, and every list that contains it: a list that leaves it out would look like its deletion. A watch fails with the
//! same error if the object is still so; if it has been overwritten or deleted since, the watch is
//! [`Expired`](wharf_core::store::StoreError::Expired), so that a new list and watch get past it. Writing and deleting need not read: a commit
//! that expects nothing of the value removes it.
//!
//! # Rotation
//! The first key of the ring encrypts, all decrypt. [`KeyRing::rotate`] puts a new one first into the file;
//! [`EncryptedStore::rewrite`] then brings every value under it, after which the old line may go. Where several servers share a store, add
//! the new key as the second line, restart them all, and only then make it the first: none meets a key that it does not have.

mod envelope;
mod error;
mod key_file;
mod key_ring;
mod rewrite;
mod store;

pub use envelope::{MAX_OVERHEAD, PREFIX};
pub use error::{EncryptionError, KeyError, KeyLineError};
pub use key_ring::{KEY_LENGTH, KeyRing, MAX_ID, MAX_KEYS};
pub use rewrite::{MAX_NAMED, Rewritten};
pub use store::{EncryptedStore, secrets};
