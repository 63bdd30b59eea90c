//! From JSON to a type and back: drops what the type lacks and finds values of a wrong type.
//!
//! The deserializer here is one type for all kinds, and reads values that are in memory. General ones (serde_ignored over
//! serde_json) are instantiated in many layers for each of some hundred types; those made up a third of this crate's code.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value, map};
use wharf_core::api::Kind;

/// Most unknown fields that are reported.
const MAX_UNKNOWN: usize = 64;

/// Reads a value as `K` and writes it back.
///
/// # Errors
/// A value of a wrong type, with its place: `spec.containers[0].name: invalid type: integer `1`, expected a string`.
pub(super) fn through<K: Kind>(value: Value, unknown: &mut dyn FnMut(String)) -> Result<Value, String> {
    let place = Place::new(unknown);
    let typed = K::deserialize(Reader { value, place: &place }).map_err(|e| place.blame(&e))?;
    serde_json::to_value(&typed).map_err(|e| e.to_string())
}

/// Where the reader is, and what it has noticed.
struct Place<'a> {
    /// `spec.containers[0]`.
    path: RefCell<String>,
    /// The path of the innermost value that did not read.
    failed: RefCell<Option<String>>,
    unknown: RefCell<&'a mut dyn FnMut(String)>,
    count: Cell<usize>,
}

impl<'a> Place<'a> {
    fn new(unknown: &'a mut dyn FnMut(String)) -> Self {
        Self { path: RefCell::default(), failed: RefCell::default(), unknown: RefCell::new(unknown), count: Cell::new(0) }
    }

    /// Goes to a field; answers what to give to [`Place::leave`].
    fn enter_field(&self, field: &str) -> usize {
        let mut path = self.path.borrow_mut();
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(field);
        length
    }

    fn enter_item(&self, index: usize) -> usize {
        let mut path = self.path.borrow_mut();
        let length = path.len();
        // Writing to a string cannot fail.
        let _ = write!(path, "[{index}]");
        length
    }

    fn leave(&self, length: usize, well: bool) {
        let mut path = self.path.borrow_mut();
        if !well {
            self.failed.borrow_mut().get_or_insert_with(|| path.clone());
        }
        path.truncate(length);
    }

    /// The value here is one that the type lacks.
    fn ignore(&self) {
        self.count.set(self.count.get() + 1);
        if self.count.get() <= MAX_UNKNOWN {
            (self.unknown.borrow_mut())(self.path.borrow().clone());
        }
    }

    fn blame(&self, error: &Error) -> String {
        match &*self.failed.borrow() {
            Some(path) => format!("{path}: {error}"),
            None => error.to_string(),
        }
    }
}

struct Reader<'a, 'b> {
    value: Value,
    place: &'a Place<'b>,
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(value) => match (value.as_u64(), value.as_i64(), value.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i64(value),
                (None, None, Some(value)) => visitor.visit_f64(value),
                (None, None, None) => Err(Error::custom("a number out of range")),
            },
            Value::String(value) => visitor.visit_string(value),
            Value::Array(items) => visitor.visit_seq(Items { items: items.into_iter(), index: 0, place: self.place }),
            Value::Object(fields) => {
                visitor.visit_map(Fields { fields: fields.into_iter(), value: Value::Null, length: 0, place: self.place })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.place.ignore();
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
    }
}

struct Items<'a, 'b> {
    items: std::vec::IntoIter<Value>,
    index: usize,
    place: &'a Place<'b>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let length = self.place.enter_item(self.index);
        self.index += 1;
        let read = seed.deserialize(Reader { value, place: self.place });
        self.place.leave(length, read.is_ok());
        read.map(Some)
    }
}

struct Fields<'a, 'b> {
    fields: map::IntoIter,
    /// Of the field whose name was read last.
    value: Value,
    length: usize,
    place: &'a Place<'b>,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.fields.next() else { return Ok(None) };
        self.length = self.place.enter_field(&name);
        self.value = value;
        seed.deserialize(Name(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (value, length) = (self.value.take(), self.length);
        let read = seed.deserialize(Reader { value, place: self.place });
        self.place.leave(length, read.is_ok());
        read
    }
}

/// A field's name, or the key of a map.
struct Name(String);

impl<'de> Deserializer<'de> for Name {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Value::String(self.0).deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn finds_unknown_fields_by_kubernetes_path() {
        let pod =
            json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","x":1},"spec":{"foo":1,"containers":[{"name":"a","bar":2}]}});
        let mut unknown = Vec::new();
        let value = through::<Pod>(pod, &mut |p| unknown.push(p)).unwrap();
        unknown.sort();
        assert_eq!(unknown, ["metadata.x", "spec.containers[0].bar", "spec.foo"]);
        assert!(value["spec"].get("foo").is_none());
        assert_eq!(value["kind"], "Pod");
    }

    #[test]
    fn refuses_wrong_types() {
        let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":1}});
        let refused = through::<Pod>(pod, &mut |_| {}).unwrap_err();
        assert_eq!(refused, "metadata.name: invalid type: integer `1`, expected a string");
        let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"containers":[{"name":"a"},{"name":"b","ports":[{"containerPort":"x"}]}]}});
        let refused = through::<Pod>(pod, &mut |_| {}).unwrap_err();
        assert!(refused.starts_with("spec.containers[1].ports[0].containerPort: invalid type: string"), "{refused}");
        assert!(through::<Pod>(json!({"apiVersion":"v1","kind":"Node"}), &mut |_| {}).is_err());
        assert!(through::<Pod>(json!([]), &mut |_| {}).is_err());
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","creationTimestamp":"2026-01-02T03:04:05Z","generation":-3},
            "binaryData":{"b":"AAE="},"data":{"c.d":"e"},"immutable":true});
        let mut unknown = Vec::new();
        assert_eq!(through::<k8s_openapi::api::core::v1::ConfigMap>(map.clone(), &mut |p| unknown.push(p)).unwrap(), map);
        let scaler = json!({"apiVersion":"v1","kind":"Service","metadata":{},"spec":{"ports":[{"port":80,"targetPort":"web"},{"port":81,"targetPort":8080}]},
            "status":null});
        let value = through::<k8s_openapi::api::core::v1::Service>(scaler, &mut |p| unknown.push(p)).unwrap();
        assert_eq!((&value["spec"]["ports"][0]["targetPort"], &value["spec"]["ports"][1]["targetPort"]), (&json!("web"), &json!(8080)));
        assert_eq!(unknown, Vec::<String>::new());
    }

    #[test]
    fn unknown_fields_are_bounded() {
        let mut map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{}});
        for index in 0..100 {
            map[format!("x{index}")] = json!({"deep": [1, {"er": 2}]});
        }
        let mut unknown = Vec::new();
        through::<k8s_openapi::api::core::v1::ConfigMap>(map, &mut |p| unknown.push(p)).unwrap();
        assert_eq!(unknown.len(), MAX_UNKNOWN);
    }
}
