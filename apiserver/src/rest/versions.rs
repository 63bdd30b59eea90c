//! From what is stored to what is served and back: kinds that share a storage, and the versions of custom resources.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_core::object::{Object, encode_managed, encode_stored, splice_revision, split_managed};

use super::{parse_stored, status};
use crate::resources::Resource;
use crate::resources::custom::CustomKind;
use crate::resources::value::text;
use crate::resources::views::View;
use crate::server::body::status_of;

/// A value as it is stored, in bytes; its managedFields are apart from it.
///
/// # Errors
/// What a conversion fails with.
pub(super) async fn encode(row: &Resource, value: &Value, managed: &str) -> Result<Bytes, ApiError> {
    let encoded = match (row.stored_as, &row.custom) {
        (Some(shape), _) => encode_managed(&(shape.store)(value.clone()), managed),
        (None, Some(custom)) => encode_managed(&store(&**custom, value.clone()).await?, managed),
        (None, None) => encode_managed(value, managed),
    };
    encoded.map_err(status::internal)
}

/// Reads what [`encode`] made: the object, and the text of its managedFields, which is empty if it has none. Most writes only move them.
///
/// # Errors
/// What a conversion fails with.
pub(super) async fn decode<'r>(row: &Resource, bytes: &'r [u8]) -> Result<(Value, Cow<'r, str>), ApiError> {
    let (value, managed) = match split_managed(bytes) {
        Some((object, managed)) => (parse_stored(&object)?, managed),
        None => {
            let mut value = parse_stored(bytes)?;
            let managed = take_managed(&mut value).unwrap_or_default();
            (value, Cow::Owned(managed))
        }
    };
    Ok((served(row, value).await?, managed))
}

/// Takes managedFields out of an object, as text.
pub(super) fn take_managed(value: &mut Value) -> Option<String> {
    value.get_mut("metadata")?.as_object_mut()?.remove("managedFields").map(|managed| managed.to_string())
}

async fn store(custom: &dyn CustomKind, written: Value) -> Result<Value, ApiError> {
    let mut written = written;
    if let Some(converter) = custom.converter().filter(|_| text(&written, &["apiVersion"]) != custom.stored_version()) {
        written = converter.convert(vec![written], custom.stored_version()).await?.pop().unwrap_or_default();
    }
    Ok(custom.store(written))
}

/// Stored objects as they are served, and whether that is something else than what is stored.
async fn serve_all(custom: &dyn CustomKind, mut values: Vec<Value>) -> Result<Vec<(Value, bool)>, ApiError> {
    let wanted = custom.served_version();
    let mut other = vec![false; values.len()];
    if let Some(converter) = custom.converter() {
        let places: Vec<usize> = (0..values.len()).filter(|i| values.get(*i).is_some_and(|v| text(v, &["apiVersion"]) != wanted)).collect();
        if !places.is_empty() {
            let asked = places.iter().filter_map(|i| values.get_mut(*i).map(Value::take)).collect();
            for (place, converted) in places.into_iter().zip(converter.convert(asked, wanted).await?) {
                if let (Some(value), Some(other)) = (values.get_mut(place), other.get_mut(place)) {
                    *value = converted;
                    *other = true;
                }
            }
        }
    }
    let served = values.into_iter().zip(other).map(|(mut value, other)| {
        let changed = custom.serve(&mut value);
        (value, changed || other)
    });
    Ok(served.collect())
}

/// An object of one version in another of the same resource; null stays null.
///
/// # Errors
/// What a conversion fails with.
pub(crate) async fn between(from: &Resource, to: &Resource, value: &Value) -> Result<Value, ApiError> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let stored = match (from.stored_as, &from.custom) {
        (Some(shape), _) => (shape.store)(value.clone()),
        // Straight from one to the other, and not by way of a third.
        (None, Some(custom)) => match custom.converter() {
            Some(_) => value.clone(),
            None => custom.store(value.clone()),
        },
        (None, None) => value.clone(),
    };
    served(to, stored).await
}

async fn served(row: &Resource, stored: Value) -> Result<Value, ApiError> {
    Ok(match (row.stored_as, &row.custom) {
        (Some(shape), _) => (shape.serve)(stored),
        (None, Some(custom)) => serve_all(&**custom, vec![stored]).await?.pop().map(|(value, _)| value).unwrap_or_default(),
        (None, None) => stored,
    })
}

fn object_of(stored: &Object, served: &Value) -> Object {
    let bytes = encode_stored(served).map(|b| splice_revision(&b, stored.revision()));
    Object::from_served(stored.key().clone(), stored.revision(), bytes.unwrap_or_else(|_| stored.bytes().clone()))
}

/// Finds out what some stored objects look like.
async fn look(custom: &dyn CustomKind, stored: &[Arc<Object>]) -> Result<Vec<Arc<Object>>, ApiError> {
    let values = stored.iter().map(|object| parse_stored(&object.to_bytes())).collect::<Result<Vec<_>, _>>()?;
    let served = serve_all(custom, values).await?;
    let seen = stored.iter().zip(served).map(|(stored, (value, other))| match other {
        true => Arc::new(object_of(stored, &value)),
        false => stored.clone(),
    });
    Ok(seen.collect())
}

fn keep(custom: &dyn CustomKind, stored: &Arc<Object>, seen: &Arc<Object>) {
    let view = if Arc::ptr_eq(stored, seen) { View::Same } else { View::Other(seen.clone()) };
    custom.views().keep(stored, view);
}

fn known(custom: &dyn CustomKind, stored: &Arc<Object>) -> Option<Arc<Object>> {
    match custom.views().get(stored)? {
        View::Same => Some(stored.clone()),
        View::Other(seen) => Some(seen),
    }
}

fn reshaped(row: &Resource, stored: &Arc<Object>) -> Arc<Object> {
    match row.stored_as {
        Some(shape) => match parse_stored(&stored.to_bytes()) {
            Ok(value) => Arc::new(object_of(stored, &(shape.serve)(value))),
            Err(_) => stored.clone(),
        },
        None => stored.clone(),
    }
}

/// An object that [`encode`] made just now, whether it was stored or not, as it is served.
///
/// # Errors
/// What a conversion fails with.
pub(super) async fn present_written(row: &Resource, stored: Object) -> Result<Arc<Object>, ApiError> {
    let stored = Arc::new(stored);
    match &row.custom {
        // It was brought into the form of this very version before.
        Some(custom) if custom.served_version() == custom.stored_version() => Ok(stored),
        Some(custom) => Ok(look(&**custom, std::slice::from_ref(&stored)).await?.pop().unwrap_or(stored)),
        None => Ok(reshaped(row, &stored)),
    }
}

/// A stored object as it is served. Where it is stored as it is served, which is nearly always, it stays the same.
///
/// # Errors
/// What a conversion fails with.
pub(super) async fn present(row: &Resource, stored: Arc<Object>) -> Result<Arc<Object>, ApiError> {
    let Some(custom) = &row.custom else { return Ok(reshaped(row, &stored)) };
    if let Some(seen) = known(&**custom, &stored) {
        return Ok(seen);
    }
    if custom.converter().is_none() {
        return present_one(&**custom, &stored).await;
    }
    // A change is told to all who watch at the same time: one call of the webhook does for them.
    let (found_by, object) = (custom.clone(), stored.clone());
    let finding = custom
        .views()
        .finding(&stored, || Box::pin(async move { present_one(&*found_by, &object).await.map_err(|e| Arc::new(status_of(e))) }.boxed()));
    finding.await.map_err(|status| ApiError::Status(Box::new((*status).clone())))
}

async fn present_one(custom: &dyn CustomKind, stored: &Arc<Object>) -> Result<Arc<Object>, ApiError> {
    let seen = look(custom, std::slice::from_ref(stored)).await?.pop().unwrap_or_else(|| stored.clone());
    keep(custom, stored, &seen);
    Ok(seen)
}

/// Stored objects as they are served; those that have to be converted are so together.
///
/// # Errors
/// What a conversion fails with.
pub(super) async fn present_all(row: &Resource, stored: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, ApiError> {
    let Some(custom) = &row.custom else {
        if row.stored_as.is_none() {
            return Ok(stored);
        }
        return Ok(stored.iter().map(|object| reshaped(row, object)).collect());
    };
    let mut seen: Vec<Option<Arc<Object>>> = stored.iter().map(|object| known(&**custom, object)).collect();
    let unknown: Vec<Arc<Object>> = stored.iter().zip(&seen).filter(|(_, s)| s.is_none()).map(|(o, _)| o.clone()).collect();
    if !unknown.is_empty() {
        let found = look(&**custom, &unknown).await?;
        unknown.iter().zip(&found).for_each(|(stored, seen)| keep(&**custom, stored, seen));
        let mut found = found.into_iter();
        seen.iter_mut().filter(|s| s.is_none()).for_each(|s| *s = found.next());
    }
    Ok(seen.into_iter().zip(stored).map(|(seen, stored)| seen.unwrap_or(stored)).collect())
}
