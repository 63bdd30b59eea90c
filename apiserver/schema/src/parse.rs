//! Reads `table.txt`.
//!
//! A type is `DEFINITION KIND FLAGS`, its kind as `GROUP/VERSION/KIND` or `-`, its flags `atomic` or `scalar`. A field is
//! `NAME NUMBER TYPE FLAGS`: its number on the wire or `-`, or several where JSON has the fields of an inner message in place; its type as Go
//! writes it; its flags `required`, `pointer`, `list=TYPE:KEYS`, `map=TYPE`, `patch=STRATEGY:KEY` and `default=JSON`.

use std::collections::HashMap;

use crate::table::{Base, Expression, FieldRow, Kind, Layer, ListSaid, Rows, Scalar, TypeRow};
use crate::{Granularity, Keys, PatchStrategy};

/// The rows of a text; what is malformed is left out, which a test would tell.
pub(crate) fn rows(text: &'static str) -> Rows {
    let mut rows = Rows::default();
    let names: HashMap<&str, u16> = text.lines().filter(|l| !l.starts_with('\t')).map(short_name).zip(0..).collect();
    rows.fields.reserve(text.lines().count() - names.len());
    for line in text.lines() {
        match line.strip_prefix('\t') {
            None => {
                if let Some(kind) = type_line(line, &mut rows) {
                    rows.kinds.push(kind);
                }
            }
            Some(line) => {
                if let (Some(field), Some(ty)) = (field_line(line, &names), rows.types.last_mut()) {
                    rows.fields.push(field);
                    ty.end += 1;
                }
            }
        }
    }
    rows.kinds.sort_unstable_by_key(Kind::key);
    rows
}

/// `core.v1.Pod` of a type's line.
fn short_name(line: &'static str) -> &'static str {
    let name = line.split(' ').next().unwrap_or_default();
    name.rmatch_indices('.').nth(2).and_then(|(at, _)| name.get(at + 1..)).unwrap_or(name)
}

fn type_line(line: &'static str, rows: &mut Rows) -> Option<Kind> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let kind = words.next()?;
    let flags = words.next().unwrap_or_default();
    let first = u16::try_from(rows.fields.len()).ok()?;
    let index = u16::try_from(rows.types.len()).ok()?;
    let scalar = if flags == "scalar" { scalar_of(name) } else { None };
    rows.types.push(TypeRow { name, first, end: first, scalar, atomic: flags == "atomic" });
    let (api_version, kind) = kind.rsplit_once('/')?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Some(Kind { group, version, kind, index })
}

fn scalar_of(definition: &str) -> Option<Scalar> {
    Some(match definition.rsplit('.').next()? {
        "JSONSchemaPropsOrArray" => Scalar::SchemaOrArray,
        "JSONSchemaPropsOrBool" => Scalar::SchemaOrBool,
        "JSONSchemaPropsOrStringArray" => Scalar::SchemaOrStrings,
        word => scalar(word)?,
    })
}

fn scalar(word: &str) -> Option<Scalar> {
    Some(match word {
        "string" => Scalar::String,
        "byte" => Scalar::Bytes,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "double" => Scalar::Double,
        "boolean" => Scalar::Bool,
        "Quantity" => Scalar::Quantity,
        "Time" => Scalar::Time,
        "MicroTime" => Scalar::MicroTime,
        "IntOrString" => Scalar::IntOrString,
        "JSON" => Scalar::Json,
        "RawExtension" => Scalar::RawExtension,
        "FieldsV1" => Scalar::FieldsV1,
        "SchemaOrArray" => Scalar::SchemaOrArray,
        "SchemaOrBool" => Scalar::SchemaOrBool,
        "SchemaOrStrings" => Scalar::SchemaOrStrings,
        _ => return None,
    })
}

fn expression(mut text: &'static str, names: &HashMap<&str, u16>) -> Option<Expression> {
    let mut layers = [Layer::None; 2];
    for layer in &mut layers {
        (*layer, text) = match (text.strip_prefix("[]"), text.strip_prefix("map[string]")) {
            (Some(inner), _) => (Layer::List, inner),
            (_, Some(inner)) => (Layer::Map, inner),
            _ => break,
        };
    }
    let base = match scalar(text) {
        Some(scalar) => Base::Scalar(scalar),
        None => Base::Type(*names.get(text)?),
    };
    Some(Expression { layers, base })
}

fn field_line(line: &'static str, names: &HashMap<&str, u16>) -> Option<FieldRow> {
    let mut words = line.splitn(4, ' ');
    let name = words.next()?;
    let mut path = [0; 3];
    for (slot, number) in path.iter_mut().zip(words.next()?.split('.').filter(|n| *n != "-")) {
        *slot = number.parse().ok()?;
    }
    let of = expression(words.next()?, names)?;
    let flags = words.next().unwrap_or_default();
    let required = flag(flags, "required").is_some();
    let pointer = flag(flags, "pointer").is_some();
    Some(FieldRow { name, path, of, required, pointer, list: list_said(flags), map: granularity(flags), flags })
}

/// The text of a flag after `=`.
fn flag(flags: &'static str, name: &str) -> Option<&'static str> {
    flags.split(' ').find_map(|word| {
        let rest = word.strip_prefix(name)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
    })
}

fn list_said(flags: &'static str) -> ListSaid {
    match flag(flags, "list").map(|text| text.split(':').next().unwrap_or_default()) {
        None => ListSaid::Nothing,
        Some("set") => ListSaid::Set,
        Some("map") => ListSaid::Map,
        Some(_) => ListSaid::Atomic,
    }
}

pub(crate) fn list_keys(flags: &'static str) -> Keys {
    Keys(flag(flags, "list").and_then(|text| text.split_once(':')).map_or("", |(_, keys)| keys))
}

fn granularity(flags: &'static str) -> Option<Granularity> {
    Some(if flag(flags, "map")? == "atomic" { Granularity::Atomic } else { Granularity::Granular })
}

pub(crate) fn patch_strategy(flags: &'static str) -> PatchStrategy {
    let text = flag(flags, "patch").unwrap_or_default();
    let (strategy, key) = text.split_once(':').map_or((text, None), |(strategy, key)| (strategy, Some(key)));
    match strategy {
        "merge" => PatchStrategy::Merge { key },
        "merge+retainKeys" => PatchStrategy::MergeRetainKeys { key },
        "retainKeys" => PatchStrategy::RetainKeys,
        "replace" => PatchStrategy::Replace,
        _ => PatchStrategy::None,
    }
}

pub(crate) fn default(flags: &'static str) -> Option<&'static str> {
    flag(flags, "default")
}
