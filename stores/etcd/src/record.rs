//! etcd's key-value pairs as records and changes.

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue};
use wharf_core::store::{Change, Key, Record, Revision};

use crate::keys::Keys;

/// mvccpb's `Event.EventType.DELETE`.
const DELETE: i32 = 1;

/// etcd's revisions are signed, and never negative.
pub(crate) fn revision(raw: i64) -> Revision {
    Revision(u64::try_from(raw).unwrap_or_default())
}

pub(crate) fn record(key: Key, kv: PbKeyValue) -> Record {
    Record { key, value: Bytes::from(kv.value), created: revision(kv.create_revision), modified: revision(kv.mod_revision) }
}

/// What was there before a change has been compacted away.
#[derive(Debug, PartialEq)]
pub(crate) struct Forgotten;

/// Turns an event into a change, if its key is one of ours; `like` lends the parts of its key.
pub(crate) fn change(keys: &Keys, event: PbEvent, like: Option<&Key>) -> Result<Option<Change>, Forgotten> {
    let Some(kv) = event.kv else { return Ok(None) };
    let Some(key) = keys.decode(&kv.key, like) else { return Ok(None) };
    let previous = event.prev_kv.map(|previous| record(key.clone(), previous));
    match (event.r#type == DELETE, previous) {
        (true, Some(previous)) => Ok(Some(Change::Delete { previous })),
        (false, None) if kv.create_revision == kv.mod_revision => Ok(Some(Change::Put { record: record(key, kv), previous: None })),
        (false, previous @ Some(_)) => Ok(Some(Change::Put { record: record(key, kv), previous })),
        (_, None) => Err(Forgotten),
    }
}

#[cfg(test)]
mod tests {
    use wharf_core::store::ResourceId;

    use super::*;

    fn event(r#type: i32, created: i64, modified: i64, previous: bool) -> Result<Option<Change>, Forgotten> {
        let keys = Keys::new("").unwrap();
        let key = keys.encode(&Key::new(ResourceId::new("", "pods"), "a", "b"));
        let kv = |modified| PbKeyValue { key: key.clone(), create_revision: created, mod_revision: modified, ..PbKeyValue::default() };
        change(&keys, PbEvent { r#type, kv: Some(kv(modified)), prev_kv: previous.then(|| kv(modified - 1)) }, None)
    }

    #[test]
    fn a_missing_previous_is_told_from_a_creation() {
        assert!(matches!(event(0, 5, 5, false), Ok(Some(Change::Put { previous: None, .. }))));
        assert!(matches!(event(0, 4, 5, true), Ok(Some(Change::Put { previous: Some(_), .. }))));
        assert_eq!(event(0, 4, 5, false), Err(Forgotten));
        assert!(matches!(event(DELETE, 4, 5, true), Ok(Some(Change::Delete { .. }))));
        assert_eq!(event(DELETE, 0, 5, false), Err(Forgotten));
    }
}
