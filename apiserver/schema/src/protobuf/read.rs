//! From the wire to JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{Fields, Wire};
use super::{MAX_DEPTH, Malformed};
use crate::{Field, Scalar, Shape, Type, builtin};

/// The message of a type.
pub(super) fn object(ty: Type, bytes: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let mut out = Map::new();
    fields(ty, &[], bytes, 0, &mut out)?;
    Ok(out)
}

/// Reads the fields below the numbers that have led here: JSON has those of some inner messages in place.
fn fields(ty: Type, above: &[u8], bytes: &[u8], depth: usize, out: &mut Map<String, Value>) -> Result<(), Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed::Deep);
    }
    let mut left = Fields::new(bytes);
    while let Some((number, wire)) = left.next()? {
        let Ok(number) = u8::try_from(number) else { continue };
        let below = |field: Field| field.numbers().strip_prefix(above).filter(|rest| rest.first() == Some(&number)).map(<[u8]>::len);
        match ty.fields().find_map(|field| Some((field, below(field)?))) {
            Some((field, 1)) => member(field, wire, depth, out)?,
            Some((field, _)) => {
                let above = &field.numbers()[..=above.len()];
                fields(ty, above, wire.bytes()?, depth + 1, out)?;
            }
            // A field that is newer than the table is dropped, as an older Kubernetes drops it.
            None => {}
        }
    }
    Ok(())
}

fn member(field: Field, wire: Wire<'_>, depth: usize, out: &mut Map<String, Value>) -> Result<(), Malformed> {
    match field.of().shape() {
        Shape::List(item, _) => {
            let list = out.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            if let (Shape::Scalar(Scalar::Int32 | Scalar::Int64), Wire::Bytes(packed)) = (item.shape(), wire) {
                let mut numbers = Fields::new(packed);
                while !numbers.is_empty() {
                    list.push(value(item, Wire::Number(numbers.varint()?), depth)?.unwrap_or_default());
                }
                return Ok(());
            }
            list.extend(value(item, wire, depth)?);
        }
        Shape::Map(item) => {
            let [key, entry] = Fields::new(wire.bytes()?).first()?;
            let map = out.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
            // An entry without a value has the empty one.
            let nothing = if is_number(item) { Wire::Number(0) } else { Wire::Bytes(&[]) };
            let entry = value(item, entry.unwrap_or(nothing), depth)?;
            if let (Value::Object(map), Some(entry)) = (map, entry) {
                map.insert(key.map(Wire::text).transpose()?.unwrap_or_default().to_owned(), entry);
            }
        }
        Shape::Struct | Shape::Scalar(_) => {
            if let Some(value) = value(field.of(), wire, depth)?
                && (field.is_required() || field.is_pointer() || !is_plain(field.of()) || !is_zero(&value))
            {
                out.insert(field.name().to_owned(), value);
            }
        }
    }
    Ok(())
}

fn is_number(ty: Type) -> bool {
    matches!(ty.shape(), Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::Bool))
}

/// Of Go's plain types, which have zeros; others are pointers wherever they are optional.
fn is_plain(ty: Type) -> bool {
    let unions = [Scalar::Json, Scalar::SchemaOrBool, Scalar::SchemaOrArray, Scalar::SchemaOrStrings];
    matches!(ty.shape(), Shape::Scalar(scalar) if !unions.contains(&scalar))
}

/// Zeros that Kubernetes leaves out of JSON.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// A value as JSON; `None` for one that JSON leaves out.
fn value(ty: Type, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, Malformed> {
    let scalar = match ty.shape() {
        Shape::Scalar(scalar) => scalar,
        Shape::Struct => {
            let mut out = Map::new();
            fields(ty, &[], wire.bytes()?, depth + 1, &mut out)?;
            return Ok(Some(out.into()));
        }
        // As values of maps: a message of items.
        Shape::List(item, _) | Shape::Map(item) => {
            let (mut left, mut list) = (Fields::new(wire.bytes()?), Vec::new());
            while let Some((number, wire)) = left.next()? {
                if number == 1 {
                    list.extend(value(item, wire, depth + 1)?);
                }
            }
            return Ok(Some(list.into()));
        }
    };
    Ok(Some(match scalar {
        Scalar::String => wire.text()?.into(),
        Scalar::Bytes => BASE64.encode(wire.bytes()?).into(),
        Scalar::Bool => (wire.number()? != 0).into(),
        Scalar::Int32 | Scalar::Int64 => wire.number()?.cast_signed().into(),
        Scalar::Double => Number::from_f64(f64::from_bits(wire.number()?)).map_or(Value::Null, Value::Number),
        Scalar::Quantity => {
            let [text] = Fields::new(wire.bytes()?).first()?;
            text.map(Wire::text).transpose()?.unwrap_or_default().into()
        }
        Scalar::IntOrString => {
            let [kind, number, text] = Fields::new(wire.bytes()?).first()?;
            if number_of(kind)? == 0 { number_of(number)?.into() } else { text.map(Wire::text).transpose()?.unwrap_or_default().into() }
        }
        Scalar::Time => return time(wire, "%Y-%m-%dT%H:%M:%SZ"),
        Scalar::MicroTime => return time(wire, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        Scalar::Json | Scalar::RawExtension | Scalar::FieldsV1 => {
            let [raw] = Fields::new(wire.bytes()?).first()?;
            let raw = raw.map(Wire::bytes).transpose()?.unwrap_or_default();
            if raw.is_empty() {
                return Ok(None);
            }
            if raw.starts_with(super::MAGIC) {
                return super::to_json(raw);
            }
            serde_json::from_slice(raw).map_err(|_| Malformed::Type)?
        }
        Scalar::SchemaOrBool => match Fields::new(wire.bytes()?).first()? {
            [_, Some(schema)] => return value(schema_type()?, schema, depth),
            [allows, None] => (number_of(allows)? != 0).into(),
        },
        Scalar::SchemaOrArray | Scalar::SchemaOrStrings => {
            let item = if scalar == Scalar::SchemaOrArray { Some(schema_type()?) } else { None };
            let (mut left, mut list, mut one) = (Fields::new(wire.bytes()?), Vec::new(), None);
            while let Some((number, wire)) = left.next()? {
                match (number, item) {
                    (1, _) => one = value(schema_type()?, wire, depth + 1)?,
                    (2, Some(item)) => list.extend(value(item, wire, depth + 1)?),
                    (2, None) => list.push(wire.text()?.into()),
                    _ => {}
                }
            }
            one.unwrap_or(Value::Array(list))
        }
    }))
}

fn schema_type() -> Result<Type, Malformed> {
    builtin().named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").ok_or(Malformed::Type)
}

fn number_of(wire: Option<Wire<'_>>) -> Result<i64, Malformed> {
    Ok(wire.map(Wire::number).transpose()?.unwrap_or_default().cast_signed())
}

/// The zero of Go's time is an empty message, which JSON has as null.
fn time(wire: Wire<'_>, format: &str) -> Result<Option<Value>, Malformed> {
    let [seconds, nanos] = Fields::new(wire.bytes()?).first()?;
    let (seconds, nanos) = (number_of(seconds)?, number_of(nanos)?);
    if (seconds, nanos) == (0, 0) {
        return Ok(None);
    }
    let at = i32::try_from(nanos).ok().and_then(|nanos| Timestamp::new(seconds, nanos).ok()).ok_or(Malformed::Type)?;
    Ok(Some(at.strftime(format).to_string().into()))
}
