//! From JSON to the wire, while the JSON is read: no tree of values in between.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::wire::{begin, end, put_bytes, put_fixed, put_message, put_number};
use crate::{Field, Scalar, Shape, Type, builtin};

/// Appends the message of a JSON object.
pub(super) fn object(out: &mut Vec<u8>, ty: Type, json: &[u8]) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    (&mut reader).deserialize_map(Members { ty, out })?;
    reader.end()
}

/// Writes the fields of a struct.
struct Members<'a> {
    ty: Type,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of {}", self.ty.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Inner messages whose fields JSON has in place, each with its numbers: they are written once all their fields are known.
        let mut inner: Vec<(&'static [u8], Vec<u8>)> = Vec::new();
        while let Some(FieldName(field)) = map.next_key_seed(FieldOf(self.ty))? {
            let Some((field, (number, above))) = field.and_then(|f| Some((f, f.numbers().split_last()?))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if above.is_empty() {
                map.next_value_seed(Put { number: *number, ty: field.of(), out: self.out })?;
                continue;
            }
            let at = inner.iter().position(|(numbers, _)| *numbers == above).unwrap_or_else(|| {
                inner.push((above, Vec::new()));
                inner.len() - 1
            });
            if let Some((_, out)) = inner.get_mut(at) {
                map.next_value_seed(Put { number: *number, ty: field.of(), out })?;
            }
        }
        put_inner(self.out, 0, &inner);
        Ok(())
    }
}

/// Writes inner messages that may be in one another; `level` is how many of their numbers are open.
fn put_inner(out: &mut Vec<u8>, level: usize, inner: &[(&'static [u8], Vec<u8>)]) {
    let mut numbers: Vec<u8> = inner.iter().filter_map(|(numbers, _)| numbers.get(level).copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        put_message(out, number, |out| {
            let here = inner.iter().filter(|(numbers, _)| numbers.get(level) == Some(&number));
            let (done, deeper): (Vec<_>, Vec<_>) = here.cloned().partition(|(numbers, _)| numbers.len() == level + 1);
            done.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
            put_inner(out, level + 1, &deeper);
        });
    }
}

/// The field that a key names.
struct FieldOf(Type);
struct FieldName(Option<Field>);

impl<'de> DeserializeSeed<'de> for FieldOf {
    type Value = FieldName;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FieldName, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldOf {
    type Value = FieldName;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }
    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<FieldName, E> {
        Ok(FieldName(self.0.field(name)))
    }
}

/// Writes a value as a field.
struct Put<'a> {
    number: u8,
    ty: Type,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Put<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if matches!(self.ty.shape(), Shape::Scalar(Scalar::Json | Scalar::RawExtension | Scalar::FieldsV1)) {
            let raw = <Value as serde::Deserialize>::deserialize(deserializer)?;
            if !raw.is_null() {
                put_message(self.out, self.number, |out| put_bytes(out, 1, raw.to_string().as_bytes()));
            }
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

impl Put<'_> {
    fn integer<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        match self.ty.shape() {
            Shape::Scalar(Scalar::Int32 | Scalar::Int64) => put_number(self.out, self.number, value.cast_unsigned()),
            // Kubernetes' integers that are fractions here were small ones there.
            #[allow(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
            Shape::Scalar(Scalar::Double) => put_fixed(self.out, self.number, (value as f64).to_bits()),
            Shape::Scalar(Scalar::Quantity) => {
                put_message(self.out, self.number, |out| put_bytes(out, 1, value.to_string().as_bytes()));
            }
            Shape::Scalar(Scalar::IntOrString) => put_message(self.out, self.number, |out| {
                put_number(out, 1, 0);
                put_number(out, 2, value.cast_unsigned());
                put_bytes(out, 3, b"");
            }),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Signed(value), &self)),
        }
        Ok(())
    }

    fn time<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let at: Timestamp = text.parse().map_err(|_| E::custom("not a time"))?;
        let (seconds, nanos) = (at.as_second(), at.subsec_nanosecond());
        // The wire has nanoseconds that are never negative.
        let (seconds, nanos) = if nanos < 0 { (seconds - 1, nanos + 1_000_000_000) } else { (seconds, nanos) };
        put_message(self.out, self.number, |out| {
            put_number(out, 1, seconds.cast_unsigned());
            put_number(out, 2, i64::from(nanos).cast_unsigned());
        });
        Ok(())
    }
}

impl<'de> Visitor<'de> for Put<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ty.shape() {
            Shape::Scalar(scalar) => write!(f, "{scalar:?}"),
            Shape::Struct => write!(f, "an object of {}", self.ty.name()),
            Shape::Map(_) => f.write_str("an object"),
            Shape::List(..) => f.write_str("a list"),
        }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        match self.ty.shape() {
            Shape::Scalar(Scalar::Bool) => put_number(self.out, self.number, value.into()),
            Shape::Scalar(Scalar::SchemaOrBool) => put_message(self.out, self.number, |out| put_number(out, 1, value.into())),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.integer(i64::try_from(value).map_err(|_| E::custom("a number out of range"))?)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match self.ty.shape() {
            Shape::Scalar(Scalar::Double) => put_fixed(self.out, self.number, value.to_bits()),
            Shape::Scalar(Scalar::Quantity) => {
                put_message(self.out, self.number, |out| put_bytes(out, 1, value.to_string().as_bytes()));
            }
            _ => return Err(E::invalid_type(serde::de::Unexpected::Float(value), &self)),
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let Shape::Scalar(scalar) = self.ty.shape() else {
            return Err(E::invalid_type(serde::de::Unexpected::Str(text), &self));
        };
        match scalar {
            Scalar::String => put_bytes(self.out, self.number, text.as_bytes()),
            Scalar::Bytes => put_bytes(self.out, self.number, &BASE64.decode(text).map_err(E::custom)?),
            Scalar::Quantity => put_message(self.out, self.number, |out| put_bytes(out, 1, text.as_bytes())),
            Scalar::Time | Scalar::MicroTime => return self.time(text),
            Scalar::IntOrString => put_message(self.out, self.number, |out| {
                put_number(out, 1, 1);
                put_number(out, 2, 0);
                put_bytes(out, 3, text.as_bytes());
            }),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        // Lists in place are repeated fields; those of unions are in a message.
        let (item, number, open) = match self.ty.shape() {
            Shape::List(item, _) => (item, self.number, None),
            Shape::Scalar(Scalar::SchemaOrArray) => (schema_type()?, 2, Some(begin(self.out, self.number))),
            Shape::Scalar(Scalar::SchemaOrStrings) => (string_type()?, 2, Some(begin(self.out, self.number))),
            _ => return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
        };
        while seq.next_element_seed(Put { number, ty: item, out: self.out })?.is_some() {}
        if let Some(open) = open {
            end(self.out, open);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.ty.shape() {
            Shape::Struct => {
                let open = begin(self.out, self.number);
                Members { ty: self.ty, out: self.out }.visit_map(map)?;
                end(self.out, open);
            }
            Shape::Map(item) => {
                while let Some(key) = map.next_key::<String>()? {
                    let entry = begin(self.out, self.number);
                    put_bytes(self.out, 1, key.as_bytes());
                    if matches!(item.shape(), Shape::List(..)) {
                        let list = begin(self.out, 2);
                        map.next_value_seed(Put { number: 1, ty: item, out: self.out })?;
                        end(self.out, list);
                    } else {
                        map.next_value_seed(Put { number: 2, ty: item, out: self.out })?;
                    }
                    end(self.out, entry);
                }
            }
            Shape::Scalar(scalar @ (Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStrings)) => {
                let union = begin(self.out, self.number);
                let number = if scalar == Scalar::SchemaOrBool {
                    put_number(self.out, 1, 1);
                    2
                } else {
                    1
                };
                let schema = begin(self.out, number);
                Members { ty: schema_type()?, out: self.out }.visit_map(map)?;
                end(self.out, schema);
                end(self.out, union);
            }
            _ => return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self)),
        }
        Ok(())
    }
}

const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

fn schema_type<E: serde::de::Error>() -> Result<Type, E> {
    builtin().named(SCHEMA).ok_or_else(|| E::custom("no schemas"))
}

/// The type of plain strings, by a field that is one.
fn string_type<E: serde::de::Error>() -> Result<Type, E> {
    schema_type()?.field("pattern").map(Field::of).ok_or_else(|| E::custom("no strings"))
}
