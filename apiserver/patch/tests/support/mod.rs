//! Objects with their managedFields in them, as clients have them.

use serde_json::Value;
use wharf_patch::{ApplyError, Shape, Writer, apply};

/// Takes managedFields out of an object, as text.
fn take(object: &mut Value) -> Option<String> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields").map(|m| m.to_string())
}

fn apart(object: Option<&Value>) -> (Option<Value>, String) {
    let mut object = object.cloned();
    let managed = object.as_mut().and_then(take).unwrap_or_default();
    (object, managed)
}

fn put(object: &mut Value, managed: &str) {
    if let (false, Some(meta)) = (managed.is_empty(), object.get_mut("metadata").and_then(Value::as_object_mut)) {
        meta.insert("managedFields".into(), serde_json::from_str(managed).expect("a list"));
    }
}

pub fn update<'a, S: Shape<'a>>(shape: S, live: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let ((live, managed), sent) = (apart(live), take(new));
    let managed = apply::update(shape, live.as_ref(), &managed, new, sent.as_deref(), writer).into_owned();
    put(new, &managed);
}

pub fn apply<'a, S: Shape<'a>>(
    shape: S,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let (live, managed) = apart(live);
    let mut applied = apply::apply(shape, live.as_ref(), &managed, config, writer, force)?;
    put(&mut applied.object, &applied.managed);
    Ok(applied.object)
}
