//! Whether an object is what reading it as its type would make of it, by the table of types.
//!
//! Nearly every object that is written has the form in which its type is written: then it need not be taken apart into the type and put
//! together again. What is not, or not surely so, is left to [`super::normalize`], which also finds the words for what is wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use wharf_schema::{Scalar, Shape, Type};

/// Whether a whole object is of its type's form. What is null and may be absent is taken away.
pub(super) fn is_normal(of: Type, value: &mut Value) -> bool {
    // Every object has metadata, which is written even where there is nothing in it.
    value.get("metadata").is_some_and(Value::is_object) && fits(of, value, true)
}

fn fits(of: Type, value: &mut Value, whole: bool) -> bool {
    match (of.shape(), value) {
        (Shape::Struct, Value::Object(map)) => {
            // Objects within objects are of their own kind, which is written as well.
            if !whole && ["apiVersion", "kind", "metadata"].iter().all(|name| of.field(name).is_some()) {
                return false;
            }
            let mut required = of.fields().filter(|field| field.is_required()).count();
            let mut nulls = false;
            for (name, value) in map.iter_mut() {
                let Some(field) = of.field(name) else { return false };
                required -= usize::from(field.is_required());
                if value.is_null() && !field.is_required() {
                    nulls = true;
                } else if !fits(field.of(), value, false) {
                    return false;
                }
            }
            if nulls {
                map.retain(|_, value| !value.is_null());
            }
            required == 0
        }
        (Shape::Map(item), Value::Object(map)) => map.values_mut().all(|value| fits(item, value, false)),
        (Shape::List(item, _), Value::Array(list)) => list.iter_mut().all(|value| fits(item, value, false)),
        (Shape::Scalar(scalar), value) => is_written_so(scalar, value),
        _ => false,
    }
}

/// Whether a value is written as it is read.
fn is_written_so(scalar: Scalar, value: &Value) -> bool {
    let int32 = |value: &Value| value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
    match (scalar, value) {
        (Scalar::String | Scalar::Quantity | Scalar::IntOrString, Value::String(_)) | (Scalar::Bool, Value::Bool(_)) => true,
        (Scalar::Bytes, Value::String(text)) => STANDARD.decode(text).is_ok(),
        (Scalar::Int32 | Scalar::IntOrString, Value::Number(_)) => int32(value),
        (Scalar::Int64, Value::Number(number)) => number.is_i64(),
        (Scalar::Double, Value::Number(number)) => number.is_f64(),
        (Scalar::Time, Value::String(text)) => is_time(text),
        _ => false,
    }
}

/// `2026-01-02T03:04:05Z`, and nothing else.
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let formed = text.len() == FORM.len()
        && text.bytes().zip(FORM).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form });
    // A leap second would be written as the one before.
    formed && !text.ends_with("60Z") && text.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Resource, ResourceTable};
    use serde_json::json;

    /// The same numbers at every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % sides
        }
    }

    fn any(dice: &mut Dice) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(7),
            json!(-3_000_000_000_i64),
            json!(u64::MAX),
            json!(1.5),
            json!(2.0),
            json!("x"),
            json!(""),
            json!("QUI="),
            json!("QUJ="),
            json!("2026-02-30T00:00:00Z"),
            json!("2026-01-02T03:04:60Z"),
            json!("2026-01-02T03:04:05+01:00"),
            json!("2026-01-02T03:04:05.123456Z"),
            json!([]),
            json!({}),
            json!([null]),
            json!({"a": null}),
            json!({"x": {"y": 1}}),
        ];
        values[dice.roll(values.len())].clone()
    }

    /// A value of a type, with something wrong now and then.
    fn made(of: Type, dice: &mut Dice, depth: usize, wrong: usize) -> Value {
        if dice.roll(wrong) == 0 {
            return any(dice);
        }
        match of.shape() {
            Shape::Struct => {
                let mut map = serde_json::Map::new();
                for field in of.fields() {
                    let there = if field.is_required() { dice.roll(wrong) > 0 } else { depth > 0 && dice.roll(3) == 0 };
                    if there {
                        map.insert(field.name().into(), made(field.of(), dice, depth.saturating_sub(1), wrong));
                    }
                }
                if dice.roll(wrong) == 0 {
                    map.insert("unheardOf".into(), any(dice));
                }
                map.into()
            }
            Shape::Map(item) => {
                ["a", "b.c"].iter().take(dice.roll(3)).map(|name| ((*name).to_owned(), made(item, dice, depth, wrong))).collect()
            }
            Shape::List(item, _) => (0..dice.roll(3)).map(|_| made(item, dice, depth.saturating_sub(1), wrong)).collect(),
            Shape::Scalar(scalar) => match scalar {
                Scalar::String => "text".into(),
                Scalar::Bytes => "QUI=".into(),
                Scalar::Int32 | Scalar::Int64 => 5.into(),
                Scalar::Double => 0.5.into(),
                Scalar::Bool => true.into(),
                Scalar::Quantity => "100m".into(),
                Scalar::Time => "2026-01-02T03:04:05Z".into(),
                Scalar::MicroTime => "2026-01-02T03:04:05.123456Z".into(),
                Scalar::IntOrString => [json!("25%"), json!(80)][dice.roll(2)].clone(),
                _ => any(dice),
            },
        }
    }

    fn rows() -> Vec<Resource> {
        ResourceTable::builtin().iter().map(|row| (**row).clone()).filter(|row| row.custom.is_none()).collect()
    }

    #[test]
    fn what_is_normal_is_what_the_type_makes_of_it() {
        let mut dice = Dice(1);
        let (mut normal, mut all) = (0, 0);
        for row in rows() {
            let of = wharf_schema::builtin().kind(&row.group, &row.version, &row.kind).unwrap_or_else(|| panic!("{row:?}"));
            for round in 0..150 {
                let mut value = made(of, &mut dice, 4, if round % 3 == 0 { usize::MAX } else { 120 });
                let Some(map) = value.as_object_mut() else { continue };
                map.insert("apiVersion".into(), row.api_version().into());
                map.insert("kind".into(), row.kind.as_ref().into());
                if round % 5 > 0 {
                    map.entry("metadata").or_insert_with(|| json!({"name": "x", "labels": null}));
                }
                let (mut by_table, mut by_type) = (Vec::new(), Vec::new());
                let read = row.read(value.clone(), &mut |path| by_table.push(path));
                let want = (row.normalize)(value.clone(), &mut |path| by_type.push(path));
                assert_eq!((&read, &by_table), (&want, &by_type), "{row:?}: {value}");
                all += 1;
                normal += usize::from(is_normal(of, &mut value));
            }
        }
        assert!(normal * 4 > all, "{normal} of {all} alone were of their type's form");
    }

    #[test]
    fn times_have_one_form() {
        assert!(is_time("2026-01-02T03:04:05Z"));
        for other in
            ["2026-01-02t03:04:05Z", "2026-01-02 03:04:05Z", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05.0Z", "+026-01-02T03:04:05Z"]
        {
            assert!(!is_time(other), "{other}");
        }
    }
}
