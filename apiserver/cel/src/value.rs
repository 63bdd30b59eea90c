//! Values of expressions. JSON is read where it stands, beside its schema; nothing is copied until it is looked at.

use std::net::IpAddr;
use std::rc::Rc;

use base64::Engine;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::Shape;

/// A value.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without sign.
    Uint(u64),
    /// A number.
    Double(f64),
    /// A text.
    Text(Rc<str>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A list that the expression made.
    List(Rc<Vec<Val<'a>>>),
    /// A map that the expression made.
    Map(Rc<Vec<(Val<'a>, Val<'a>)>>),
    /// A list or an object of the input.
    Json(&'a Value, Option<&'a dyn Shape>, bool),
    /// A point in time.
    Time(Timestamp),
    /// A length of time.
    Duration(SignedDuration),
    /// A value that may be missing.
    Optional(Option<Rc<Val<'a>>>),
    /// The type of a value.
    Type(&'static str),
    /// An address.
    Ip(IpAddr),
    /// A range of addresses.
    Cidr(IpNet),
    /// A quantity, in thousandths of a thousandth of a thousandth.
    Quantity(i128),
}

impl<'a> Val<'a> {
    /// A text.
    pub fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A value of the input, typed by its schema; `whole` says that it is a whole resource.
    pub fn of(value: &'a Value, shape: Option<&'a dyn Shape>, whole: bool) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => {
                let wants_double = shape.is_some_and(|s| s.type_name() == "number");
                match (n.as_i64(), wants_double) {
                    (Some(int), false) => Self::Int(int),
                    _ => {
                        let double = n.as_f64().unwrap_or(f64::NAN);
                        let wants_int = shape.is_some_and(|s| s.type_name() == "integer" || s.is_int_or_string());
                        if wants_int && double.fract() == 0.0 { Self::Int(double as i64) } else { Self::Double(double) }
                    }
                }
            }
            Value::String(text) => Self::formatted(text, shape.map_or("", |s| s.format())),
            Value::Array(_) | Value::Object(_) => Self::Json(value, shape, whole || shape.is_some_and(|s| s.is_resource())),
        }
    }

    fn formatted(text: &str, format: &str) -> Self {
        let typed = match format {
            "date-time" | "datetime" => text.parse().ok().map(Self::Time),
            "date" => format!("{text}T00:00:00Z").parse().ok().map(Self::Time),
            "duration" => crate::functions::parse_duration(text).map(Self::Duration),
            "byte" => base64::engine::general_purpose::STANDARD.decode(text).ok().map(|b| Self::Bytes(b.into())),
            _ => None,
        };
        typed.unwrap_or_else(|| Self::text(text))
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) | Self::Json(Value::Array(_), ..) => "list",
            Self::Map(_) | Self::Json(..) => "map",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Quantity(_) => "kubernetes.Quantity",
        }
    }

    /// The items of a list; `None` for what is none.
    pub(crate) fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Self::List(items) => Some((**items).clone()),
            Self::Json(Value::Array(items), shape, _) => {
                let below = shape.and_then(|s| s.items());
                Some(items.iter().map(|item| Self::of(item, below, false)).collect())
            }
            _ => None,
        }
    }

    /// Number of items, entries or code points.
    pub(crate) fn size(&self) -> Option<usize> {
        match self {
            Self::Text(text) => Some(text.chars().count()),
            Self::Bytes(bytes) => Some(bytes.len()),
            Self::List(items) => Some(items.len()),
            Self::Map(entries) => Some(entries.len()),
            Self::Json(Value::Array(items), ..) => Some(items.len()),
            Self::Json(Value::Object(map), ..) => Some(map.len()),
            _ => None,
        }
    }

    /// What stands under a name, as the input spells it. Fields that the schema does not name are not seen.
    pub(crate) fn member(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Json(Value::Object(map), shape, whole) => {
                let value = map.get(name)?;
                let Some(shape) = shape else { return Some(Self::of(value, None, false)) };
                if let Some(below) = shape.property(name).or_else(|| shape.values()) {
                    // Metadata has more than its schema says, of which rules see the names alone.
                    return Some(Self::of(value, Some(below).filter(|_| !(*whole && name == "metadata")), false))
                        .filter(|_| !(*whole && name == "metadata"))
                        .or_else(|| Some(Self::metadata(value)));
                }
                match name {
                    "metadata" if *whole => Some(Self::metadata(value)),
                    "apiVersion" | "kind" if *whole => Some(Self::of(value, None, false)),
                    _ if shape.hides_unknown() => None,
                    _ => Some(Self::of(value, None, false)),
                }
            }
            Self::Map(entries) => entries.iter().find(|(k, _)| matches!(k, Val::Text(t) if **t == *name)).map(|(_, v)| v.clone()),
            _ => None,
        }
    }

    fn metadata(value: &'a Value) -> Self {
        let names = ["name", "generateName"].iter().filter_map(|n| Some((Self::text(*n), Self::of(value.get(*n)?, None, false))));
        Self::Map(Rc::new(names.collect()))
    }

    /// The keys of a map.
    pub(crate) fn keys(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Self::Map(entries) => Some(entries.iter().map(|(k, _)| k.clone()).collect()),
            Self::Json(Value::Object(map), ..) => Some(map.keys().map(|k| Self::text(k.as_str())).collect()),
            _ => None,
        }
    }
}
