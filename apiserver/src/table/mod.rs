//! Tables, as kubectl prints them, and objects reduced to their metadata.

pub(crate) mod age;
mod component_status;
mod extensions;
mod infrastructure;
mod pod;
mod printers;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::Object;

use crate::resources::Resource;
use crate::resources::value::at;
use crate::rest::status;

pub(crate) use component_status::COMPONENT_STATUSES;
pub(crate) use extensions::*;
pub(crate) use infrastructure::*;
pub(crate) use printers::*;

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the column of names.
    pub format: &'static str,
    /// 0 for what is always shown, 1 for `-o wide`.
    pub priority: i32,
}

/// A column of text.
pub const fn col(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}
/// A column of text that is shown when it is asked for.
pub const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}
/// A column of numbers.
pub const fn int(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}
/// A column of `true` and `false`.
pub const fn flag(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0 }
}
/// The column of names.
pub const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
/// The column of ages.
pub const AGE: Column = col("Age");

/// What the column of a custom resource's names says of itself.
const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a \
     client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and \
     configuration definition. Cannot be updated. More info: \
     https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

/// How a kind is printed.
#[derive(Debug)]
pub struct Columns {
    /// Headings.
    pub columns: &'static [Column],
    /// The cells of one object, one for each heading.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// What a row carries beside its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Metadata.
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// Reads `includeObject`.
    ///
    /// # Errors
    /// 400 for an unknown word.
    pub fn parse(word: &str) -> Result<Self, ApiError> {
        match word {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(status::bad_request(format!("unrecognized includeObject value: \"{other}\""))),
        }
    }
}

fn partial_of(value: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": at(value, &["metadata"]).cloned().unwrap_or_default()})
}

/// An object's metadata alone.
pub fn partial(object: &Object) -> Value {
    partial_of(&serde_json::from_slice(object.bytes()).unwrap_or_default())
}

/// Objects as a table.
pub fn render(row: &Resource, objects: &[Arc<Object>], include: Include, meta: Value, now: Timestamp) -> Value {
    let definitions: Vec<Value> = match &row.custom {
        None => row
            .columns
            .columns
            .iter()
            .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": "", "priority": c.priority}))
            .collect(),
        Some(custom) => {
            std::iter::once(json!({"name": "Name", "type": "string", "format": "name", "description": NAME_DESCRIPTION, "priority": 0}))
                .chain(custom.columns().iter().map(
                    |c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}),
                ))
                .collect()
        }
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let value: Value = serde_json::from_slice(object.bytes()).unwrap_or_default();
            let cells = match &row.custom {
                None => (row.columns.cells)(&value, now),
                Some(custom) => custom.cells(&value, now),
            };
            match include {
                Include::None => json!({"cells": cells}),
                Include::Metadata => json!({"cells": cells, "object": partial_of(&value)}),
                Include::Object => json!({"cells": cells, "object": value}),
            }
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": definitions, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ResourceTable;

    #[test]
    fn every_kind_has_a_cell_for_each_column_even_when_empty() {
        for row in ResourceTable::builtin().iter() {
            for value in [json!({}), json!({"metadata":{"name":"a"},"spec":{},"status":{}}), json!({"spec":[],"status":"x"})] {
                assert_eq!((row.columns.cells)(&value, Timestamp::UNIX_EPOCH).len(), row.columns.columns.len(), "{row:?}");
            }
        }
    }
}
