//! Events of watches as they are sent: encoded once, however many watch.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use wharf_core::object::Object;

/// Frames that are kept: watchers that are told of a change at the same time ask for few.
const SLOTS: usize = 64;
/// Largest object whose frame is kept, in bytes.
const MAX_KEPT: usize = 64 << 10;

struct Slot {
    kind: &'static str,
    object: Arc<Object>,
    frame: Bytes,
}

/// The newest frames.
pub(super) struct Frames([Mutex<Option<Slot>>; SLOTS]);

impl Default for Frames {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frames")
    }
}

/// Appends an event of an object as JSON.
pub(super) fn put(out: &mut BytesMut, kind: &str, object: &Object) {
    out.reserve(object.len_hint() + kind.len() + 32);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    object.write_to(out);
    out.put_slice(b"}\n");
}

fn encode(kind: &str, object: &Object) -> Bytes {
    let mut out = BytesMut::new();
    put(&mut out, kind, object);
    out.freeze()
}

impl Frames {
    /// An event of an object as JSON, shared by all who ask for it at about the same time.
    pub(super) fn of(&self, kind: &'static str, object: &Arc<Object>) -> Bytes {
        if object.len_hint() > MAX_KEPT {
            return encode(kind, object);
        }
        // Commits that follow each other have slots beside each other. The first letter tells the kinds of events apart.
        let index = (object.revision().0 as usize).wrapping_add(usize::from(kind.as_bytes().first().copied().unwrap_or_default())) % SLOTS;
        let mut slot = self.0[index].lock();
        if let Some(known) = slot.as_ref().filter(|known| known.kind == kind && Arc::ptr_eq(&known.object, object)) {
            return known.frame.clone();
        }
        let frame = encode(kind, object);
        *slot = Some(Slot { kind, object: object.clone(), frame: frame.clone() });
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::store::{Key, ResourceId, Revision};

    fn object(revision: u64) -> Arc<Object> {
        let json = format!(r#"{{"metadata":{{"resourceVersion":"{revision}"}}}}"#);
        Arc::new(Object::from_served(Key::new(ResourceId::new("", "pods"), "a", "b"), Revision(revision), json.into()))
    }

    #[test]
    fn watchers_share_a_frame_and_kinds_do_not() {
        let (frames, first) = (Frames::default(), object(7));
        let (one, other) = (frames.of("ADDED", &first), frames.of("ADDED", &first));
        assert_eq!(one.as_ptr(), other.as_ptr());
        assert_eq!(one, "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"resourceVersion\":\"7\"}}}\n");
        assert!(frames.of("MODIFIED", &first).starts_with(b"{\"type\":\"MODIFIED\""));
        // The same slot, another object.
        let later = object(7 + SLOTS as u64);
        assert!(frames.of("ADDED", &later).windows(4).any(|w| w == b"\"71\""));
        assert!(frames.of("ADDED", &first).windows(3).any(|w| w == b"\"7\""));
    }
}
